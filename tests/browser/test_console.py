"""The console's tasks, as a person does them: the real server, a real browser, both databases."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import NewContext
from tests.browser.operator import NAME, PASSWORD, Operator, Past, axe, logged_in_again, make_admin, serving
from tests.postgres import Cluster
from tests.server import GatewayServer

pytestmark = pytest.mark.engines("chromium")


both = pytest.mark.parametrize("server", ["sqlite", "postgres"], indirect=True)
both_slowly = pytest.mark.parametrize(
    "server", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture(scope="module", params=["sqlite"])
def server(
    request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    """A gateway with an admin, whom each browser makes once; a test marked `both` has one on each database."""
    database = ""
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("postgres")
        database = cluster.new_database()
    with serving(tmp_path_factory.mktemp("console"), database) as (server, _):
        yield server


@pytest.fixture(scope="module")
def state(server: GatewayServer, browser: Browser) -> object:
    """The cookies of the admin, made by the link in the log."""
    context = browser.new_context()
    page = context.new_page()
    operator = make_admin(server, page)
    operator.open("/console/login")
    operator.heading("People")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def past(server: GatewayServer) -> Past:
    """A site of its own: alice and bob show one address; carl is on a tablet, and was a guest of bob's phone."""
    past = Past(server, server.site())
    page = {"url": "https://shop.example/lamp", "title": "A lamp", "referrer": ""}
    past.push("laptop", ["track", "Landed"], ["user", {"id": "alice", "email": "jo@x.io", "plan": "pro"}], page=page)
    past.push("laptop", ["track", "Purchased", {"total": 12}], page=page)
    past.push("phone", ["user", {"id": "bob", "email": "jo@x.io", "plan": "free"}], ["track", "Looked"])
    past.push("tablet", ["user", {"id": "carl"}])
    past.push("phone", ["user", {"id": "carl"}], ["track", "Played"])
    return past


@pytest.fixture
def operator(server: GatewayServer, state: object, past: Past, context: BrowserContext) -> Operator:
    """The admin, at the people of that site."""
    return at_the_site(server, state, past, context)


def at_the_site(server: GatewayServer, state: object, past: Past, context: BrowserContext) -> Operator:
    operator = Operator(logged_in_again(context, state), server)
    operator.open()
    operator.page.locator("summary", has_text=re.compile("shop|Choose")).first.click()
    operator.follow(past.site["site"])
    operator.heading("People")
    return operator


def add_viewer(operator: Operator, past: Past) -> str:
    """Adds a user who may look at the site, and says their name."""
    name = f"{past.site['site']}@x.io"
    operator.page.locator("summary", has_text=NAME).click()
    operator.follow("Users")
    operator.page.get_by_label("Name").fill(name)
    operator.page.get_by_label("Role").select_option("viewer")
    operator.page.get_by_label(past.site["site"], exact=True).check()
    operator.page.get_by_label("Password").fill(PASSWORD)
    operator.page.get_by_label("The same again").fill(PASSWORD)
    operator.press("Add the user")
    operator.reads(f"{name} can log in now.")
    return name


@both_slowly
def test_a_colleague_is_added_and_sees_their_site_only(operator: Operator, past: Past, new_context: NewContext) -> None:
    name = add_viewer(operator, past)
    colleague = Operator(new_context().new_page(), operator.server)
    colleague.log_in(name, "wrong password")
    colleague.reads("The name or the password is wrong.")
    colleague.log_in(name)
    colleague.reads("alice")
    expect(colleague.page.locator(".bar .site")).to_have_text(past.site["site"])
    colleague.find("alice")
    expect(colleague.page.get_by_role("link", name="Merge with…")).to_have_count(0)
    colleague.page.locator("summary", has_text=name).click()
    colleague.press("Log out")
    colleague.heading("Log in")

    operator.open("/console/audit")
    operator.reads(re.compile(rf"{re.escape(name)}\s*looked at\s*profile"))


@pytest.mark.engines("chromium", "firefox")
@both_slowly
def test_a_person_is_found_and_understood(operator: Operator) -> None:
    operator.find("jo@x.io", "bob")
    operator.heading("bob")
    operator.reads("Device A logged in as bob. All that this visitor did before became theirs.")
    operator.page.get_by_text("2 visitors").click()
    expect(operator.page.get_by_role("link", name="carl")).to_be_visible()
    operator.find("alice")
    operator.page.get_by_text("total: 12").click()
    operator.reads("https://shop.example/lamp")


@both
def test_two_people_are_merged_and_that_is_undone(operator: Operator, past: Past) -> None:
    operator.find("alice")
    operator.follow("Merge with…")
    operator.page.get_by_role("link", name="Preview merging with bob").click()
    operator.reads("1 visitor and 1 identity come along")
    row = operator.page.get_by_role("row", name=re.compile("^plan"))
    expect(row.get_by_role("cell")).to_have_text(["plan", "pro", "free", "free"])
    operator.page.get_by_label("Why").fill("they called")
    operator.press("Merge")
    operator.reads("They are one person now.")
    assert past.same("alice", "bob")

    operator.follow("Undo…")
    operator.reads("merged bob into alice")
    operator.press("Undo")
    operator.reads("Undone, as if it had never happened.")
    assert not past.same("alice", "bob")


@both_slowly
def test_a_device_is_taken_off(operator: Operator, past: Past) -> None:
    operator.find("carl")
    operator.page.locator(".lane", has_text="Device B").locator("summary").click()
    operator.follow("Take Device B off this person…")
    operator.heading("Take Device B off carl?")
    operator.press("Take Device B off")
    operator.reads("The device is a stranger of its own now.")
    assert len({v["device_id"] for v in past.profile("carl")["visitors"]}) == 1


@both_slowly
def test_identities_are_reset_and_that_is_undone(operator: Operator, past: Past) -> None:
    operator.find("carl")
    operator.follow("Reset identities…")
    operator.heading("Reset 1 identity of carl?")
    operator.reads("2 devices will each become a stranger")
    operator.press("Reset 1 identity")
    operator.heading("Identities were reset")
    assert past.api.get("/v1/profiles", params={"identity": "carl"}).status_code == 404
    operator.follow("Undo…")
    operator.press("Undo")
    operator.reads("Undone, as if it had never happened.")
    assert past.profile("carl")["primary"] == "carl"


@both_slowly
def test_a_person_is_exported_and_deleted(operator: Operator, past: Past) -> None:
    operator.find("alice")
    operator.follow("Delete…")
    with operator.page.expect_download() as download:
        operator.follow("First export everything that is held")
    held = json.loads(Path(download.value.path()).read_text())
    assert {e["name"] for e in held["events"]} == {"Landed", "Purchased"}
    operator.page.get_by_label("Type alice to delete").fill("alicia")
    operator.press("Delete for good")
    operator.reads("What you typed is something else. Nothing was deleted.")
    operator.page.get_by_label("Type alice to delete").fill("alice")
    operator.press("Delete for good")
    operator.reads("alice was deleted")
    assert past.api.get("/v1/profiles", params={"identity": "alice"}).status_code == 404


@both_slowly
def test_held_merges_are_decided(operator: Operator, past: Past) -> None:
    operator.follow("Held merges")
    operator.reads("Nothing waits.")
    past.push("kiosk", ["reidentify", "dora", "alice"])
    past.push("kiosk", ["reidentify", "dora", "carl"])
    operator.follow("Held merges")
    alices = operator.page.get_by_role("article").filter(has_text="this is also alice")
    alices.get_by_role("button", name="Approve").click()
    operator.reads("They are one person now.")
    assert past.same("alice", "dora")
    operator.press("Reject: two people")
    operator.reads("Rejected. The two stay apart.")
    operator.reads("Nothing waits.")
    assert not past.same("carl", "dora")


@both
def test_duplicates_are_merged_with_progress_and_all_taken_back(operator: Operator, past: Past) -> None:
    for n in range(12):
        for side in "ab":
            past.push(f"{side}{n}", ["user", {"id": f"{side}{n}", "email": f"p{n}@x.io"}])
    operator.follow("Duplicates")
    for box in operator.page.get_by_role("checkbox").all():
        box.check()
    operator.press("Merge what is ticked")
    expect(operator.page.get_by_role("progressbar")).to_have_attribute("max", "13")
    operator.heading("Done")
    operator.reads("13 of 13 merges carried out, 13 still stand.")
    assert past.same("a7", "b7") and past.same("alice", "bob")
    operator.press("Undo the whole batch")
    operator.heading("Undone")
    assert not past.same("a7", "b7")


@both_slowly
def test_blocked_values_are_told(operator: Operator, past: Past) -> None:
    past.push("kiosk", ["user", {"id": "undefined"}])
    operator.follow("Blocked")
    operator.reads("'undefined' is a placeholder, not somebody's id")


@both
def test_a_site_is_made_its_snippet_pasted_and_seen_alive(operator: Operator, past: Past) -> None:
    name = f"blog of {past.site['site']}"
    operator.page.locator("summary", has_text=NAME).click()
    operator.follow("Sites")
    operator.page.get_by_label("Name").fill(name)
    operator.page.get_by_label("Origins").fill("https://blog.example")
    operator.press("Make the site")
    operator.heading(f"{name} is ready")
    secret = operator.page.get_by_label("Secret key").inner_text()
    operator.follow("Go on to the snippet")
    operator.reads("No page has sent an event for a week.")
    key = re.search(r"api_key: '(\w+)'", operator.page.get_by_label("The snippet to paste").inner_text())
    assert key is not None
    Past(operator.server, past.site | {"api_key": key[1]}).push("first", ["track", "Landed"])
    operator.reads("It works:")

    operator.page.get_by_label("Devices a person may have").fill("many")
    operator.press("Save the settings")
    operator.reads("'many' is not a number of devices")
    operator.page.get_by_label("Devices a person may have").fill("8")
    operator.press("Save the settings")
    operator.reads("The site was changed.")
    operator.press("Make a new secret key")
    operator.heading("A new secret key")
    assert operator.page.get_by_label("Secret key").inner_text() != secret
    operator.follow("I have copied it")
    operator.press("Stop the one before")
    operator.reads("The older secret key does not work any more.")


@both
def test_a_link_is_made_and_seen_opened(operator: Operator, past: Past) -> None:
    operator.follow("Links")
    operator.reads("No link was opened yet.")
    operator.page.get_by_label("For whom").fill("alice")
    operator.page.get_by_label("Page").fill("https://shop.example/lamp")
    operator.press("Make the link")
    url = operator.page.get_by_label("The link", exact=True).inner_text()
    past.push("kiosk", ["link", url.partition("vero_id=")[2]])
    operator.follow("Links")
    row = operator.page.get_by_role("row", name=re.compile("alice"))
    expect(row.get_by_role("cell").nth(1)).to_have_text("1")


@both
def test_marketing_looks_how_many_are_known(operator: Operator) -> None:
    operator.follow("Overview")
    operator.reads("4 events, 100 % of somebody known")
    expect(operator.page.get_by_role("img", name="Events per hour", exact=True)).to_be_visible()
    operator.page.get_by_text("The numbers", exact=True).click()
    expect(operator.page.get_by_role("row", name=re.compile(r"\b4\s+4\s+100 %"))).to_be_visible()
    operator.follow("30 days")
    expect(operator.page.get_by_role("img", name="Events per day", exact=True)).to_be_visible()
    operator.reads("Purchased")


@both
def test_a_developer_watches_what_arrives(operator: Operator, past: Past) -> None:
    operator.follow("Live")
    operator.reads(re.compile(r"Purchased\s+kept"))
    past.push("phone", ["track", "Just now"], ["trak", "Mistyped"])
    operator.reads("Just now")
    operator.reads("Did you mean _veroq.push(['track'")
    operator.follow("Stand still")
    past.push("phone", ["track", "Later"])
    operator.follow("Only trouble")
    operator.reads("trak")
    expect(operator.main).not_to_contain_text("Later")
    operator.follow("Everything")
    expect(operator.page.locator("td time").first).to_have_text(re.compile(r"\d:\d\d:\d\d"))
    operator.page.get_by_role("row", name=re.compile("Later")).get_by_role("link", name="carl").click()
    operator.heading("carl")


def test_times_are_in_the_readers_zone(
    server: GatewayServer, state: object, past: Past, new_context: NewContext
) -> None:
    here = at_the_site(server, state, past, new_context(timezone_id="Asia/Tokyo", locale="en-GB"))
    time = here.page.locator("td time").first
    expect(time).to_have_attribute("title", re.compile(r"GMT\+9"))
    expect(time).not_to_contain_text("UTC")


def test_everything_works_without_javascript(
    server: GatewayServer, state: object, past: Past, new_context: NewContext
) -> None:
    operator = at_the_site(server, state, past, new_context(java_script_enabled=False))
    expect(operator.page.locator("td time").first).to_contain_text("UTC")
    operator.follow("Duplicates")
    operator.page.get_by_role("checkbox").check()
    operator.press("Merge what is ticked")
    operator.heading("Done")
    assert past.same("alice", "bob")
    operator.find("bob", "alice")
    operator.follow("Undo…")
    operator.press("Undo")
    operator.reads("Undone, as if it had never happened.")


def addresses(operator: Operator, past: Past) -> list[str]:
    """Every page there is, for a site with something on each."""
    past.push("kiosk", ["reidentify", "dora", "alice"], ["user", {"id": "null"}])
    site = operator.page.url.partition("/people")[0].removeprefix(operator.server.url)
    tabs = [a.get_attribute("href") or "" for a in operator.page.locator("nav.tabs a").all()]
    alice, bob = (past.profile(who)["profile_id"] for who in ("alice", "bob"))
    device = past.profile("alice")["visitors"][0]["device_id"]
    person = f"{site}/people/{alice}"
    operator.open(f"{person}/merge?with={bob}")
    operator.press("Merge")
    undo = operator.page.get_by_role("link", name="Undo…").first.get_attribute("href") or ""
    more = ["", "/merge", "/merge?q=carl", "/reset", "/delete"]
    carl = past.profile("carl")["profile_id"]
    return [*tabs, f"{site}/people?q=alice", f"{site}/people?q=nobody", *(person + m for m in more), undo,
            "/console/sites",
            f"{person}/merge?with={carl}", f"{site}/devices/{device}/unlink", "/console/users", "/console/audit",
            "/console/account", "/console/nowhere"]  # fmt: skip


def test_pages_can_be_read_by_everybody(
    server: GatewayServer, state: object, past: Past, new_context: NewContext
) -> None:
    """axe-core finds nothing serious in light and dark, and nothing is wider than a phone."""
    options = {"bypass_csp": True, "viewport": {"width": 390, "height": 800}}
    operator = at_the_site(server, state, past, new_context(**options))
    found: list[str] = []
    for path in addresses(operator, past):
        operator.open(path)
        found += axe(operator.page)
        width = operator.page.evaluate("document.documentElement.scrollWidth")
        found += [f"{path}: {width} wide"] if width > 390 else []
    login = Operator(new_context(**options).new_page(), server)
    login.open("/console/login")
    assert found + axe(login.page) == []


LONG = "somebody-with-a-very-long-name-" * 8
BROKEN = """() => {
  const broken = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walk.nextNode());) {
    if (node.parentElement.closest('.unseen, .skip, pre, details:not([open]) > :not(summary)')) continue;
    for (const word of node.textContent.matchAll(/[^\\s-]{2,16}(?![^\\s])/g)) {
      if (word.index && !/\\s/.test(node.textContent[word.index - 1])) continue;
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) broken.push(word[0]);
    }
  }
  return broken;
}"""
"""Short words that stand on two lines."""


def ill_fitting(page: Page, path: str) -> list[str]:
    """What of a page is wider than the window, and which short words are torn."""
    window, width = page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
    wide = [f"{path}: {width} wide in {window}"] if width > window else []
    return wide + [f"{path}: {word!r} is torn in {window}" for word in page.evaluate(BROKEN)]


@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_fit_and_short_words_stay_whole(
    server: GatewayServer, state: object, past: Past, new_context: NewContext, width: int
) -> None:
    past.push(
        "desk", ["track", LONG], ["user", {"id": LONG, "email": f"{LONG[:60]}@x.io", "name": LONG.replace("-", "")}]
    )
    past.push("desk", ["tags", {"add": [LONG.replace("-", "")[:120]]}])
    past.push("sofa", ["user", {"id": "eve", "email": f"{LONG[:60]}@x.io"}])
    operator = at_the_site(server, state, past, new_context(viewport={"width": width, "height": 800}))
    site = operator.page.url.partition("/people")[0].removeprefix(server.url)
    long, eve = (past.profile(who)["profile_id"] for who in (LONG, "eve"))
    found: list[str] = []
    paths = ["", "/merge", f"/merge?with={eve}", "/reset", "/delete"]
    paths = [f"{site}/people/{long}{path}" for path in paths] + [f"{site}/{tab}" for tab in ("people", "live", "site")]
    for path in [*paths, "/console/audit", "/console/sites", "/docs", "/privacy", "/console/users"]:
        operator.open(path)
        found += ill_fitting(operator.page, path)
    name = add_viewer(operator, past)
    viewer = Operator(new_context(viewport={"width": width, "height": 800}).new_page(), server)
    viewer.log_in(name)
    viewer.heading("People")
    viewer.open(f"{site}/duplicates")
    viewer.heading("Duplicates")
    assert found + ill_fitting(viewer.page, "duplicates") == []


def test_a_merge_is_done_with_the_keyboard_alone(operator: Operator, past: Past) -> None:
    page = operator.page
    operator.find("alice")

    def tab_to(name: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.textContent.trim()")
            if focused.startswith(name):
                return
        raise AssertionError(f"{name} cannot be reached with Tab")

    for name, then in (("Merge with…", "with whom?"), ("Preview", "Merge these two?"), ("Merge", "one person now.")):
        tab_to(name)
        page.keyboard.press("Enter")
        operator.reads(then)
    assert past.same("alice", "bob")
