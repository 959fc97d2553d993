"""What happens to pages between load and end, in every engine, over HTTPS, with the real gateway behind."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from datetime import datetime

import pytest

from tests.browser.town import MakeTown, Town, cookie_of
from tests.browser.visitors import BLOCKED, Tab, Visitor, WebKit
from tests.server import wait_for

SHOWS = "var shows = []; addEventListener('pageshow', event => shows.push(event.persisted));"


def moment(tab: Tab, milliseconds: int = 150) -> None:
    """Time for a page to do what it must not do."""
    tab.run(f"new Promise(done => setTimeout(done, {milliseconds}))")


def back(tab: Tab, path: str) -> None:
    """As the button does. Drivers wait for a load, which a page from the back-forward cache does not have."""
    tab.run("void setTimeout(() => history.back(), 0)")
    tab.wait(f"location.pathname == '{path}'")


def test_a_page_from_the_back_forward_cache_goes_on_as_whoever_is_there_now(town: Town, visitor: Visitor) -> None:
    first = town.page("/1", SHOWS + "_veroq.push(['user', {id: 'bob'}], ['track', 'One'])")
    second = town.page("/2", "_veroq.push(['logout'], ['track', 'Two'])")
    tab = visitor.tab()
    town.open(tab, first + "?vero_conv=c1")
    town.wait_for_events("One")
    town.wait_until_sent(tab)
    town.open(tab, second)
    town.wait_for_events("One", "Two")
    town.wait_until_sent(tab)
    back(tab, "/1")
    tab.wait("window.shows && shows.length > 1")
    assert tab.run("shows") == [False, True]
    town.push(tab, ["track", "Three"])
    assert town.wait_for_events("One", "Two", "Three") == [["One"], ["Two", "Three"]]
    assert len(town.devices()) == 1
    sent = {entry["id"]: entry["command"] for visit in town.requests() for entry in json.loads(visit.body)["commands"]}
    assert [command[0] for command in sent.values()].count("context") == 2, "one for each page that was loaded"
    three = next(command for command in sent.values() if command[1:2] == ["Three"])
    assert three == ["track", "Three"], "Bob's campaign went with him"
    town.wait_until_sent(tab)
    assert tab.run("localStorage.length") == 0


def test_going_back_to_a_landing_page_follows_its_link_once(town: Town, visitor: Visitor) -> None:
    landing = town.page("/landing", "onunload = () => 1")  # a page that no cache may keep
    tab = visitor.tab()
    town.open(tab, town.link_to("jo", landing))
    assert tab.run("location.href") == landing
    wait_for(lambda: town.person("jo"), message="the link to be bound")
    town.open(tab, town.page("/next"))
    back(tab, "/landing")
    tab.wait("window._veroq && _veroq.ready")
    assert tab.run("location.href") == landing
    town.push(tab, ["track", "Back"])
    town.wait_for_events("Back")
    assert [fact["kind"] for fact in town.facts()] == ["link"]


def test_a_single_page_app_is_one_page_with_many_addresses(town: Town, visitor: Visitor) -> None:
    tab = visitor.tab()
    town.open(tab, town.page("/app"))
    go = "history.pushState(0, '', '/app/basket'); _veroq.push(['trackPageview']); location.hash = 'pay';"
    tab.run(f"(() => {{ {go} _veroq.push(['trackPageview']); history.go(-2) }})()")
    tab.wait("location.pathname == '/app'")
    town.push(tab, ["trackPageview"])
    town.wait_for_events(*["Viewed page"] * 3)
    (person,) = (one for one in town.people() if one["events"])
    events = town.backend.get(f"/v1/profiles/{person['profile_id']}/events").json()["events"]
    paths = [event["page"]["url"].removeprefix(town.shop) for event in reversed(events)]
    assert paths == ["/app/basket", "/app/basket#pay", "/app"]


def test_frames_and_a_second_snippet_share_one_visitor(town: Town, visitor: Visitor) -> None:
    town.page("/frame", "_veroq.push(['track', 'In the frame'])")
    again = f"<script src='{town.gateway_url}/m.js'></script><iframe src='/frame'></iframe>"
    tab = visitor.tab()
    town.open(tab, town.page("/", "_veroq.push(['track', 'On top'])", again))
    town.wait_for_events("In the frame", "On top")
    town.wait_until_sent(tab)
    town.push(tab, ["user", {"id": "42"}], ["track", "Bought"])
    assert len(town.wait_for_events("In the frame", "On top", "Bought")) == 1
    # Both asked before either had a cookie: two tokens of one browser are one person, and the cookie is one device.
    town.wait_until_sent(tab)
    assert len(town.people()) == 1
    assert len({cookie_of(visit) for visit in town.requests()[-1:]}) == 1


def test_a_script_that_is_written_late_takes_all_that_was_pushed_before(town: Town, visitor: Visitor) -> None:
    url = town.page("/", "for (let n = 0; n < 400; n++) _veroq.push(['track', 'n', {n}]);")
    page = town.source("/")
    loader = f"<script async src='{town.gateway_url}/veroq.js'></script>"
    written = f"<script src='{town.gateway_url}/veroq.js'><\\/script>"
    page.html = page.html.replace(loader, f'<script>document.write("{written}")</script>')
    tab = visitor.tab()
    town.open(tab, url)
    town.wait_for_events(*["n"] * 400)
    (person,) = (one for one in town.people() if one["events"])
    events = town.backend.get(f"/v1/profiles/{person['profile_id']}/events", params={"limit": 500}).json()["events"]
    assert [event["data"]["n"] for event in reversed(events)] == list(range(400))


@pytest.mark.parametrize("policy", ["hash and host", "nonce and strict-dynamic"])
def test_strict_policies_and_trusted_types(make_town: MakeTown, visitor: Visitor, policy: str) -> None:
    town = make_town("subdomain")
    gateway = town.gateway_url
    url = town.page("/", "_veroq.push(['track', 'Kept'])")
    page = town.source("/")
    inline = page.html.partition("<script>")[2].partition("</script>")[0]
    if policy == "hash and host":
        allowed = f"'sha256-{sha256(inline)}' {gateway}"
    else:
        allowed = "'nonce-abc' 'strict-dynamic'"
        page.html = page.html.replace("<script", "<script nonce=abc")
    page.headers["content-security-policy"] = (
        f"default-src 'none'; script-src {allowed}; connect-src {gateway}; base-uri 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
    tab = visitor.tab()
    town.open(tab, url)
    town.wait_for_events("Kept")
    assert tab.run("document.title") == "A page"


def test_a_page_without_the_script_works_as_before(make_town: MakeTown, visitor: Visitor) -> None:
    town = make_town("blocked")
    url = town.page("/", "var n = _veroq.push(['track', 'Nobody hears']);", "<button onclick='buy()'>Buy</button>")
    shop = "<script>function buy() { _veroq.push(['track', 'Bought']); bought = true }</script>"
    town.source("/").html += shop
    tab = visitor.tab()
    tab.open(url)
    tab.wait("document.readyState == 'complete'")
    tab.run("void document.querySelector('button').click()")
    assert tab.run("[bought, _veroq.length, typeof __vero, localStorage.length]") == [True, 3, "undefined", 0]
    assert town.requests() == []


def test_a_blocked_endpoint_keeps_the_page_and_its_commands(town: Town, visitor: Visitor) -> None:
    """A blocker that knows the address of the endpoint and not of the script."""
    blocked = f"endpoint: 'https://{BLOCKED}'"
    tab = visitor.tab()
    tab.open(town.page("/", "var failed = []; onerror = onunhandledrejection = e => failed.push(e)", options=blocked))
    tab.wait("window._veroq && _veroq.ready")
    town.push(tab, ["user", {"id": "42"}], ["track", "Kept"])
    moment(tab)
    assert tab.run("failed") == []
    assert town.requests() == []
    # another page, on which nothing is blocked any more
    town.open(tab, town.page("/next"))
    town.expect_events("42", "Kept")
    town.wait_until_sent(tab)


def test_an_hour_in_a_tunnel_is_delivered_with_its_own_times(town: Town, visitor: Visitor) -> None:
    """The page is closed offline, the clock is a day wrong, and the next page comes an hour later."""
    day, hour = 24 * 3600_000, 3600_000
    clock = "var real = Date.now, shift = {shift}; Date.now = () => real() + shift;"
    blocked = f"endpoint: 'https://{BLOCKED}'"
    tab = visitor.tab()
    tab.open(town.page("/", clock.format(shift=day - hour) + "_veroq.push(['track', 'Before'])", options=blocked))
    tab.wait("window._veroq && _veroq.ready")
    moment(tab)
    town.open(tab, town.page("/next", clock.format(shift=day) + "_veroq.push(['track', 'After'])"))
    assert town.wait_for_events("Before", "After") == [["Before", "After"]]
    (person,) = (one for one in town.people() if one["events"])
    events = town.backend.get(f"/v1/profiles/{person['profile_id']}/events").json()["events"]
    after, before = (seconds(event["occurred_at"]) for event in events)
    assert abs(after - time.time()) < 60, "the page's clock is a day ahead, and the gateway's counts"
    assert 3600 <= after - before < 3660


def test_a_full_storage_costs_nothing_but_the_memory_of_the_page(town: Town, visitor: Visitor) -> None:
    fill = """(() => { for (const store of [localStorage, sessionStorage])
      for (let text = 'x'.repeat(1 << 20), n = 0; text; n++)
        try { store['filler' + n] = text } catch { text = text.slice(text.length / 2 + 1) } })()"""
    tab = visitor.tab()
    tab.open(town.plain("/empty", ""))
    tab.run(fill)
    town.open(tab, town.page("/", "_veroq.push(['track', 'One'])") + "?vero_conv=c")
    town.push(tab, ["track", "Two"])
    assert town.wait_for_events("One", "Two") == [["One", "Two"]]
    tab.run("(localStorage.clear(), sessionStorage.clear())")


@pytest.mark.engines("webkit")  # the others: test_snippet_transport.py
@pytest.mark.parametrize("leaving", ["closed", "left"])
def test_last_words_are_sent_as_a_beacon(town: Town, visitor: Visitor, leaving: str) -> None:
    tab = visitor.tab()
    town.open(tab, town.page("/", "_veroq.push(['user', {id: '42'}])"))
    town.expect(lambda: town.person("42"))
    town.wait_until_sent(tab)
    if leaving == "closed":
        town.push(tab, ["track", "Last words"])
        tab.close()
    else:
        tab.run(f"(_veroq.push(['track', 'Last words']), void (location.href = '{town.plain('/away', '')}'))")
    town.expect_events("42", "Last words")
    assert len(town.devices()) == 1


@pytest.mark.engines("webkit")  # Playwright's browsers show every tab
def test_a_tab_in_the_background_says_nothing_until_it_is_seen(town: Town, visitor: Visitor) -> None:
    assert isinstance(visitor, WebKit)
    tab = visitor.hidden_tab()
    tab.open(town.link_to("jo", town.page("/", "_veroq.push(['track', 'Opened'])")))
    tab.wait("window._veroq && _veroq.ready")
    moment(tab)
    assert town.requests() == []
    assert town.person("jo") is None
    assert tab.run("localStorage.length") == 0


def sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
