"""The opt-out page in real browsers."""

from __future__ import annotations

from playwright.sync_api import BrowserContext
from playwright.sync_api import Error as PlaywrightError
from selenium.common.exceptions import WebDriverException

from tests.browser.conftest import NewContext
from tests.browser.town import MakeTown, Town
from tests.browser.visitors import PlaywrightTab, Tab, Visitor
from tests.server import wait_for

BUTTON = "void document.querySelector('button').click()"


def says(tab: Tab, text: str) -> None:
    """Waits for the page's words. Its policy forbids what Playwright waits with in Firefox."""

    def shown() -> bool:
        try:
            return text in (tab.run("document.querySelector('[role=status]')?.textContent") or "")
        except (PlaywrightError, WebDriverException):  # between two pages
            return False

    wait_for(shown, 10, text)


def track(town: Town, tab: Tab, name: str) -> None:
    """Opens a page that tracks something, and waits until the gateway has answered."""
    town.open(tab, town.page("/shop", f"_veroq.push(['track', '{name}'])"))
    town.wait_until_sent(tab)


def test_who_opts_out_is_kept_nothing_of_until_they_take_part_again(town: Town, visitor: Visitor) -> None:
    tab = visitor.tab()
    track(town, tab, "Before")
    tab.open(f"{town.gateway_url}/privacy")
    says(tab, "is known here")
    tab.run(BUTTON)
    says(tab, "has opted out")
    assert set(tab.cookies()) == {"vq_optout"}
    track(town, tab, "Secret")
    assert town.stored(tab) == []
    assert town.events_of_people() == [["Before"]]
    tab.open(f"{town.gateway_url}/privacy")
    tab.run(BUTTON)
    says(tab, "is not known here")
    track(town, tab, "After")
    assert town.wait_for_events("Before", "After") == [["After"], ["Before"]]


def test_the_form_works_without_scripts(town: Town, new_context: NewContext) -> None:
    page = new_context(java_script_enabled=False).new_page()
    page.goto(f"{town.gateway_url}/privacy")
    page.get_by_role("button", name="Opt out").click()
    page.get_by_text("has opted out").wait_for()
    page.get_by_role("button", name="Take part again").click()
    page.get_by_text("is not known here").wait_for()


def test_a_third_partys_page_in_a_frame_opts_out_of_this_site(make_town: MakeTown, context: BrowserContext) -> None:
    town = make_town("third_party")
    page = context.new_page()
    page.goto(town.plain("/about", f"<iframe src='{town.gateway_url}/privacy'></iframe>"))
    frame = next(frame for frame in page.frames if frame.parent_frame)
    frame.evaluate(BUTTON)  # a click is not seen in Firefox, as Playwright drives it, in another site's frame
    frame.get_by_text("has opted out").wait_for()
    track(town, PlaywrightTab(page), "Secret")
    assert town.events_of_people() == []
