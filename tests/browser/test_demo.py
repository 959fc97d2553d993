"""The demo shop, walked through as a person would: type, click, and watch what the gateway makes of it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.test_demo import DemoServer

SOON = 10_000
"""Milliseconds within which the panel shows what a click did; on a quiet machine it takes one second."""


class Visit:
    """Somebody in front of one browser."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.open("/")

    @property
    def panel(self) -> Locator:
        return self.page.get_by_label("What the gateway knows")

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def choose(self, story: str) -> None:
        self.page.get_by_role("group", name="Try a story").get_by_role("button", name=story).click()

    def do_step(self, name: str) -> None:
        """Follow the step that is on."""
        step = self.page.locator("[data-steps] li[aria-current=step]")
        expect(step).to_contain_text(name, timeout=SOON)
        step.locator("a, button").click()

    def subscribe(self) -> None:
        self.page.get_by_role("button", name="Subscribe", exact=True).click()

    def log_in(self) -> None:
        """Submit the login form as the story filled it in."""
        self.page.get_by_role("main").get_by_role("button", name="Log in", exact=True).click()

    def log_in_as(self, number: str, name: str = "", email: str = "") -> None:
        self.open("/login")
        for label, text in (("Customer number", number), ("Name", name), ("Email of the account", email)):
            # Not `fill`: in Firefox that adds to what an email field holds.
            self.page.get_by_label(label).press("ControlOrMeta+a")
            self.page.keyboard.press("Delete")
            self.page.keyboard.insert_text(text)
        self.log_in()

    def add_to_basket(self) -> None:
        self.page.get_by_role("button", name="Add to basket").first.click()
        expect(self.page.get_by_role("button", name="Added ✓")).to_be_visible(timeout=SOON)

    def import_csv(self) -> None:
        self.page.get_by_role("button", name="Import CSV").click()

    def open_mail(self, to: str) -> None:
        self.page.get_by_role("link", name=to).first.click()

    def sees(self, title: str, line: str = "") -> None:
        expect(self.panel.get_by_role("heading", level=2)).to_have_text(title, timeout=SOON)
        if line:
            expect(self.panel).to_contain_text(line, timeout=SOON)

    def reads(self, sentence: str) -> None:
        """A sentence of the ledger's story, or of a note above it."""
        expect(self.panel).to_contain_text(sentence, timeout=SOON)

    def names(self, *values: str) -> None:
        """The identities of the profile, in any order."""
        names = self.panel.locator(".identities b")
        expect(names).to_have_count(len(values), timeout=SOON)
        assert set(names.all_inner_texts()) == set(values)

    def events(self) -> list[str]:
        return [event["name"] for event in self.told()["events"]]

    def told(self) -> dict[str, Any]:
        """What the panel was told last."""
        answer = self.page.request.get(self.url + "/demo/panel.json")
        assert answer.ok
        told: dict[str, Any] = answer.json()
        return told

    def is_at_the_end(self) -> None:
        expect(self.page.locator("[data-ending]")).to_be_visible(timeout=SOON)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[DemoServer]:
    """A demo in which nobody is known."""
    with DemoServer(tmp_path) as server:
        yield server
        server.command("check")


@pytest.fixture
def visit(demo: DemoServer, page: Page) -> Iterator[Visit]:
    visit = Visit(page, demo.url)
    yield visit
    assert visit.complaints == []


def test_a_subscriber_who_logs_in_is_one_person(visit: Visit) -> None:
    visit.sees("a stranger")
    visit.do_step("Subscribe as jo@x.io")
    visit.subscribe()
    visit.sees("jo@x.io")
    visit.reads("Logged in as jo@x.io. All that this visitor did before is theirs now.")
    visit.do_step("Put something in the basket")
    visit.add_to_basket()
    visit.do_step("Log in as customer 42")
    visit.log_in()

    visit.sees("Jo42", "One person, 2 names.")
    visit.names("42", "jo@x.io")
    expect(visit.panel).to_contain_text("_veroq.push(['reidentify', '42', 'jo@x.io']);")
    visit.reads("jo@x.io is called 42 from now on.")
    visit.is_at_the_end()
    assert visit.told()["profile"]["counts"][0] == {"number": 1, "noun": "browser"}
    assert {"Viewed page", "Subscribed", "Viewed product", "Added to basket"} <= set(visit.events())


def test_an_imported_person_who_follows_the_mail_and_logs_in_is_one_person(visit: Visit) -> None:
    visit.choose("CSV import")
    visit.do_step("Start over as a new browser")
    visit.do_step("Import Mia")
    visit.import_csv()
    visit.sees("a stranger")
    visit.open_mail("mia@x.io")
    visit.page.get_by_role("link", name="See the dusk lamp").click()
    expect(visit.page).to_have_url(re.compile(r"/products/dusk-lamp\?utm_source=inbox&utm_medium=email$"))
    visit.sees("Miamia@x.io", "Only a guess, from a mail link")
    visit.reads("Opened a mail link for mia@x.io.")
    visit.do_step("Look around")
    visit.add_to_basket()
    visit.do_step("Log in as customer 57")
    visit.log_in()

    visit.sees("Mia57", "One person, 2 names.")
    visit.names("57", "mia@x.io")
    visit.reads("mia@x.io is called 57 from now on.")
    visit.is_at_the_end()
    assert visit.told()["profile"]["server_side"]
    assert {"Imported", "Added to basket"} <= set(visit.events())
    assert visit.told()["notes"] == []


def test_a_raw_link_is_a_hint_and_proves_nothing(visit: Visit) -> None:
    visit.open("/inbox")
    visit.page.get_by_label("CSV file").fill("id,first_name\nrae@x.io,Rae")
    visit.import_csv()
    visit.open_mail("rae@x.io")
    visit.page.get_by_role("link", name="Raw parameter").click()
    visit.sees("Raerae@x.io", "Only a guess, from a mail link")
    expect(visit.page).not_to_have_url(re.compile("vero_id"))
    visit.log_in_as("58", "Rae", "rae@x.io")

    visit.sees("Rae58", "Known by one name.")
    visit.reads("Held merge")


def test_a_forwarded_link_belongs_to_who_logs_in(visit: Visit) -> None:
    visit.choose("Forwarded mail")
    visit.do_step("Start over as a new browser")
    visit.do_step("Import Lea")
    visit.import_csv()
    visit.open_mail("lea@x.io")
    visit.page.get_by_role("link", name="Signed parameter").click()
    visit.sees("Lealea@x.io", "Only a guess, from a mail link")
    visit.do_step("Put something in the basket")
    visit.add_to_basket()
    visit.do_step("Log in as Tom, 62")
    visit.log_in()

    visit.sees("Tom62")
    visit.names("62", "tom@x.io")
    visit.reads("The mail link was wrong")
    visit.is_at_the_end()
    assert "Added to basket" in visit.events()
    assert "Imported" not in visit.events()


def test_a_shared_laptop_keeps_two_people_apart(visit: Visit) -> None:
    visit.choose("Shared laptop")
    visit.do_step("Start over as a new browser")
    visit.do_step("Log in as Bob, 71")
    visit.log_in()
    visit.sees("Bob71")
    visit.do_step("Put something in the basket")
    visit.add_to_basket()
    visit.do_step("Log in as Adam")
    visit.log_in()
    visit.sees("Adam72")
    visit.names("72", "adam@x.io")
    assert "Added to basket" not in visit.events()
    visit.do_step("Bob is back")
    visit.log_in()

    visit.sees("Bob71")
    visit.names("71", "bob@x.io")
    visit.is_at_the_end()
    turns = visit.panel.locator("[data-turns] b")
    expect(turns).to_have_text(["Bob", "Adam", "Bob"], timeout=SOON)
    assert "Added to basket" in visit.events()


def test_a_false_claim_moves_nothing(visit: Visit) -> None:
    visit.choose("False claim")
    visit.do_step("Start over as a new browser")
    visit.do_step("Import Nora")
    visit.import_csv()
    visit.do_step("As Max, log in with Nora's address")
    visit.log_in()

    visit.sees("Max82", "Known by one name.")
    visit.names("82")
    visit.reads("Held merge")
    visit.reads("A claim without proof")
    visit.is_at_the_end()
    assert "Imported" not in visit.events()


def test_a_new_browser_is_a_stranger_and_keeps_its_place_in_the_story(visit: Visit) -> None:
    somebody_new = visit.page.get_by_label("Letters from the workshop").input_value()
    visit.subscribe()
    visit.sees(somebody_new)
    visit.panel.get_by_role("button", name="New browser").click()
    visit.sees("a stranger")
    visit.reads("No claims yet.")
    expect(visit.page.locator("[data-steps] li[aria-current=step]")).to_contain_text("Put something in the basket")


def test_after_a_logout_the_next_visitor_is_a_stranger(visit: Visit) -> None:
    visit.log_in_as("6", "Eve")
    visit.sees("Eve6")
    visit.page.get_by_role("button", name="Log out").click()
    visit.sees("a stranger")


def test_buying_is_tracked_and_confirmed_with_a_signed_link(visit: Visit) -> None:
    visit.log_in_as("7", "Eve", "eve@x.io")
    visit.sees("Eve7")
    visit.open("/products/tide-teapot")
    visit.page.get_by_role("button", name="Buy now").click()
    expect(visit.page.get_by_role("heading", name="Thank you.")).to_be_visible()
    expect(visit.panel.locator("[data-events]")).to_contain_text("Purchased", timeout=SOON)
    visit.open("/inbox")
    visit.open_mail("Eve")
    expect(visit.page.get_by_role("link", name="Raw parameter")).to_have_attribute("href", re.compile("vero_id=7$"))


def test_a_name_is_never_markup(visit: Visit) -> None:
    name = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    visit.page.on("dialog", lambda dialog: pytest.fail("the name ran as a script"))
    visit.log_in_as('"><b>7', name)
    visit.sees(f'{name}"><b>7')
    visit.open("/login")
    visit.sees(f'{name}"><b>7')


def test_pages_fit_a_phone(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/", "/products/dusk-lamp", "/login", "/basket", "/inbox"):
        visit.open(path)
        visit.sees("a stranger")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390, path
