"""What a visitor's wishes and protection mean in real browsers: consent, logout, Global Privacy Control, scanners."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Playwright

from tests.browser.conftest import firefox_options, installed
from tests.browser.edge import Edge
from tests.browser.pages import Page
from tests.browser.town import MakeTown, Town, cookie_of
from tests.browser.visitors import PlaywrightTab, Visitor
from tests.server import wait_for

# Everything that a page can see of the browser's memory, and the script's own objects.
MEMORY = """JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, _veroq, __vero, Semblance,
  location.href, history.state, document.referrer,
  Object.keys(window).filter(name => /ver|vq/i.test(name)).map(name => String(window[name]))])"""


@pytest.mark.parametrize("word", ["logout", "reset"])
def test_nothing_of_the_person_stays_behind(make_town: MakeTown, visitor: Visitor, word: str) -> None:
    town = make_town("path" if word == "logout" else "third_party")
    tab = visitor.tab()
    page = town.page("/", "_veroq.push(['user', {id: 'bob-77', email: 'bob@canary.test', plan: 'canary-plan'}])")
    link = town.link_to("bob-77", page)
    town.open(tab, link + "&vero_conv=canary-conv")
    town.push(tab, ["track", "Bought", {"card": "canary-card"}])
    town.expect_events("bob-77", "Bought")
    town.push(tab, [word])
    town.wait_until_sent(tab)
    wait_for(lambda: town.requests()[-1].body.find(word.encode()) > 0, message="the logout to be sent")
    town.wait_until_sent(tab)
    memory = tab.run(MEMORY)
    cookies = json.dumps([cookie_of(visit) for visit in town.requests()] + list(tab.cookies().values()), default=str)
    token = link.partition("vero_id=")[2]
    for canary in ("bob", "canary", token):
        assert canary not in memory
        assert canary not in cookies
    # and whoever comes next is nobody
    tab.open(town.plain("/away", ""))
    town.open(tab, town.page("/next", "_veroq.push(['track', 'Next'])"))
    assert town.wait_for_events("Bought", "Next") == [["Bought"], ["Next"]]
    assert b"canary" not in town.requests()[-1].body


def test_nothing_at_all_happens_before_consent(town: Town, visitor: Visitor) -> None:
    tab = visitor.tab()
    url = town.page("/", "_veroq.push(['user', {id: '42'}], ['track', 'Held'])", options="consent: 'required'")
    town.open(tab, town.link_to("42", url) + "&vero_conv=c1")
    tab.run("new Promise(done => setTimeout(done, 150))")
    assert town.requests() == []
    assert town.stored(tab) == []
    assert tab.cookies() == {}
    town.push(tab, ["consent", "granted"])
    town.expect_events("42", "Held")
    wait_for(lambda: "__Host-Http-vq" in tab.cookies(), message="the cookie")
    town.push(tab, ["consent", "denied"], ["track", "Never"])
    town.wait_until_sent(tab)
    wait_for(lambda: tab.cookies() == {}, message="the cookie to go")
    before = len(town.requests())
    town.push(tab, ["track", "Never"])
    tab.run("new Promise(done => setTimeout(done, 150))")
    assert town.stored(tab) == []
    assert len(town.requests()) == before
    assert town.events("42") == ["Held"]


def test_scanners_and_prefetch_identify_nobody(town: Town, visitor: Visitor) -> None:
    """Mail scanners ask for every link, browsers for what may come next; only a page that is seen binds a link."""
    landing = town.page("/landing", "_veroq.push(['track', 'Landed'])")
    link = town.link_to("jo", landing)
    token = link.partition("vero_id=")[2]
    redirect = f"{town.gateway_url}/r/{token}"
    with httpx.Client(transport=at(town.edge), follow_redirects=True) as scanner:
        for method in ("HEAD", "GET", "GET"):
            for url in (link, redirect):
                assert scanner.request(method, url).status_code == 200
    tab = visitor.tab()
    prefetch = f"<link rel=prefetch href='{link}'><link rel=prefetch href='{redirect}'>"
    tab.open(town.plain("/inbox", prefetch))
    if visitor.engine == "webkit":  # does not prefetch
        tab.run("new Promise(done => setTimeout(done, 100))")
    else:
        wait_for(
            lambda: {"/landing", redirect.removeprefix(town.shop)} <= ahead(town), message="both to be fetched ahead"
        )
    assert town.people() == [person for person in town.people() if not person["identities"]]
    assert town.person("jo") is None
    tab.open(redirect)
    town.expect_events("jo", "Landed")
    assert tab.run("location.href") == landing, "a clean address, before any script has run"
    wait_for(lambda: "vq_link" not in tab.cookies(), message="the link's cookie to go")


def ahead(town: Town) -> set[str]:
    """The paths that browsers asked for before anybody did."""
    return {visit.path for visit in town.edge.visits if "prefetch" in visit.headers.get("sec-purpose", "")}


def at(edge: Edge) -> httpx.HTTPTransport:
    """Any name is the edge, whose certificate must be right."""

    class Transport(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            request.extensions["sni_hostname"] = request.url.host
            request.url = request.url.copy_with(host="127.0.0.1", port=edge.tls_port)
            return super().handle_request(request)

    return Transport(verify=edge.trust())


# --- careful people -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def strict_firefox(playwright: Playwright, running_edge: Edge) -> Iterator[Browser]:
    """Firefox as careful people set it: strict protection, no parameters of mailers, GPC, and uBlock Origin."""
    extension = Path(installed("ublock")["extension"])
    assert extension.exists() and extension.name.startswith("uBlock0@")
    listed = "listed.test"
    options = firefox_options(running_edge)
    options["firefox_user_prefs"] |= {
        "browser.contentblocking.category": "strict",
        "privacy.trackingprotection.enabled": True,
        "privacy.query_stripping.enabled": True,
        # Mozilla's list, which names vero_id, comes over a network that tests do not have.
        "privacy.query_stripping.strip_list": "vero_id mc_eid",
        "privacy.globalprivacycontrol.enabled": True,
        "privacy.globalprivacycontrol.functionality.enabled": True,
        "urlclassifier.trackingTable.testEntries": listed,
        "urlclassifier.trackingAnnotationTable.testEntries": listed,
        "extensions.enabledScopes": 15,
        "extensions.autoDisableScopes": 0,
    }
    browser = playwright.firefox.launch(**installed("firefox"), **options)
    wait_until_blocking(browser, running_edge)
    yield browser
    browser.close()


def wait_until_blocking(browser: Browser, edge: Edge) -> None:
    """Until the extension has loaded its lists, which takes it some seconds after the browser's start."""
    page = browser.new_page(ignore_https_errors=True)
    host = edge.host("early")
    edge.pages[host + "/"] = "<!doctype html><title>Early</title><script src='/matomo.js'></script>"
    edge.pages[host + "/matomo.js"] = Page("", headers={"Cache-Control": "no-store"})

    def blocked() -> bool:
        edge.visits.clear()
        page.goto(f"https://{host}/")
        return [visit.path for visit in edge.visits] == ["/"]

    wait_for(blocked, 60, "uBlock Origin to block what is on its lists")
    page.close()


@pytest.fixture
def careful(strict_firefox: Browser) -> Iterator[PlaywrightTab]:
    """A tab of a careful person."""
    context = strict_firefox.new_context(ignore_https_errors=True)
    context.set_default_timeout(10_000)
    yield PlaywrightTab(context.new_page())
    context.close()


@pytest.mark.parametrize("gpc", ["respect", "ignore"])
def test_a_stripped_parameter_the_redirect_link_and_global_privacy_control(
    make_town: MakeTown, careful: PlaywrightTab, gpc: str
) -> None:
    """The redirect link survives; by default a careful person is not identified by it, and a login works as ever."""
    town = make_town("path", gpc=gpc)
    landing = town.page("/landing", "_veroq.push(['track', 'Landed'])")
    link = town.link_to("jo", landing)
    careful.open(town.plain("/inbox", f"<a href='{link}'>open</a>", town.other))
    careful.run("void document.querySelector('a').click()")
    careful.wait("window._veroq && _veroq.ready")
    town.wait_for_events("Landed")
    (visit,) = (one for one in town.edge.visits if one.path == "/landing")
    assert visit.query == ""
    assert visit.headers["sec-gpc"] == "1"
    assert town.person("jo") is None
    town.wait_until_sent(careful)
    careful.open(f"{town.gateway_url}/r/{link.partition('vero_id=')[2]}")
    careful.wait("window._veroq && _veroq.ready")
    town.wait_for_events("Landed", "Landed")
    assert (town.person("jo") is not None) is (gpc == "ignore")
    town.push(careful, ["user", {"id": "42"}])
    town.expect_events("42", "Landed", "Landed")
    assert len(town.devices()) == 1


def test_a_listed_tracker_is_blocked_and_the_same_on_ones_own_host_is_not(
    make_town: MakeTown, careful: PlaywrightTab
) -> None:
    town = make_town("listed")
    careful.open(town.page("/", "var n = _veroq.push(['track', 'Unheard'])", "<script src='/matomo.js'></script>"))
    assert careful.run("[typeof __vero, n, _veroq.push(['track', 'Unheard'])]") == ["undefined", 2, 3]
    assert town.requests() == []
    assert [visit for visit in town.edge.visits if visit.path == "/matomo.js"] == [], "uBlock Origin blocks it"
    own = make_town("path")
    own.open(careful, own.page("/own", "_veroq.push(['track', 'Heard'])"))
    own.wait_for_events("Heard")


def test_strict_firefox_keeps_the_cookie_of_a_third_party_that_is_on_no_list(
    make_town: MakeTown, careful: PlaywrightTab
) -> None:
    town = make_town("third_party")
    for path in ("/1", "/2"):
        town.open(careful, town.page(path, f"_veroq.push(['track', 'Saw {path}'])"))
        town.wait_until_sent(careful)
    assert town.wait_for_events("Saw /1", "Saw /2") == [["Saw /1", "Saw /2"]]
    assert [bool(cookie_of(visit)) for visit in town.requests()] == [False, True]


@pytest.mark.slow
def test_a_private_window_is_one_visitor(playwright: Playwright, running_edge: Edge, town: Town) -> None:
    """Firefox; a context of Playwright's Chromium is a private window anyway, and so is WebKit under automation."""
    options = firefox_options(running_edge)
    options["firefox_user_prefs"] |= {"browser.privatebrowsing.autostart": True}
    browser = playwright.firefox.launch(**installed("firefox"), **options)
    tab = PlaywrightTab(browser.new_context(ignore_https_errors=True).new_page())
    for path in ("/1", "/2"):
        town.open(tab, town.page(path, f"_veroq.push(['track', 'Saw {path}'])"))
        town.wait_until_sent(tab)
    assert town.wait_for_events("Saw /1", "Saw /2") == [["Saw /1", "Saw /2"]]
    browser.close()
