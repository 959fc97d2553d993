"""Who the gateway thinks a real browser is, after what real pages push: real browser, real page, real gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.backend import Backend
from tests.browser.pages import SiteHost, snippet_page
from tests.server import GatewayServer, api_answer


class Shop(Backend):
    """A site with one page that embeds the snippet, and its backend with the secret key."""

    def __init__(self, gateway: GatewayServer, host: SiteHost) -> None:
        super().__init__(gateway)
        self.host = host
        self.url = host.url("/shop")
        self.serve("/shop")
        self.serve("/next")

    def serve(self, path: str, script: str = "", body: str = "") -> None:
        """Puts a page with the snippet and a script of its own at `path`."""
        self.host.pages[path] = snippet_page(self.gateway.url, self.site["api_key"], script=script, body=body)

    def open(self, page: Page, path: str = "/shop", query: str = "") -> Page:
        page.goto(self.host.url(path) + query)
        page.wait_for_function("() => window._veroq && window._veroq.ready")
        return page

    def push(self, page: Page, *commands: list[Any]) -> None:
        """What a page's own code would do, all in one turn of the event loop."""
        page.evaluate("commands => { for (const c of commands) _veroq.push(c) }", list(commands))

    def link(self, identity: str, path: str = "/shop") -> str:
        return self.link_to(identity, self.host.url(path))


@pytest.fixture
def shop(gateway_server: GatewayServer, site_host: SiteHost) -> Shop:
    return Shop(gateway_server, site_host)


def test_subscribe_with_an_email_then_log_in_and_reidentify(shop: Shop, page: Page) -> None:
    shop.open(page)
    shop.push(page, ["track", "Read article"], ["user", {"email": "jo@x.io"}], ["track", "Subscribed"])
    shop.expect_events("jo@x.io", "Read article", "Subscribed")
    shop.push(page, ["user", {"id": 42, "email": "jo@x.io"}], ["reidentify", "42", "jo@x.io"], ["track", "Bought"])
    shop.expect_events("42", "Read article", "Subscribed", "Bought")
    person = shop.person("42")
    assert person and person == shop.person("jo@x.io")
    assert person["primary"] == "42"
    assert len(shop.people()) == 1


def test_imported_email_as_id_then_the_welcome_mails_link_then_login(shop: Shop, page: Page) -> None:
    shop.server("jo@x.io", ["track", "Imported"])
    page.goto(shop.link("jo@x.io"))
    page.wait_for_function("() => window._veroq && window._veroq.ready")
    assert "vero_id" not in page.url
    shop.push(page, ["track", "Landed"])
    shop.expect_events("jo@x.io", "Imported", "Landed")
    person = shop.person("jo@x.io")
    assert person and person["tentative"] is True
    shop.push(page, ["user", {"id": "42"}], ["reidentify", "42", "jo@x.io"])
    shop.expect_events("42", "Imported", "Landed")
    assert [e["code"] for e in api_answer(shop.backend.get("/v1/identity-errors"))["identity_errors"]] == []


def test_a_pages_own_random_id_then_the_database_id(shop: Shop, page: Page) -> None:
    shop.open(page)
    shop.push(page, ["user", {"id": "anon-7f3a91", "email": "anon@shop.example"}], ["track", "Browsed"])
    shop.push(page, ["user", {"id": "42"}], ["reidentify", "42", "anon-7f3a91"], ["track", "Bought"])
    shop.expect_events("42", "Browsed", "Bought")
    assert len(shop.people()) == 1


def test_reidentify_with_one_argument_means_the_current_person(shop: Shop, page: Page) -> None:
    shop.open(page)
    shop.push(page, ["user", {"email": "jo@x.io"}], ["track", "Browsed"], ["reidentify", 1285], ["track", "Bought"])
    shop.expect_events("1285", "Browsed", "Bought")
    assert shop.person("1285") == shop.person("jo@x.io")


def test_reidentify_on_every_page_view_is_a_no_op(shop: Shop, page: Page) -> None:
    shop.serve("/shop", "_veroq.push(['user', {id: '42'}]); _veroq.push(['reidentify', '42', 'jo@x.io'])")
    for n in range(4):
        shop.open(page)
        shop.push(page, ["track", f"View {n}"])
        shop.expect_events("42", *(f"View {seen}" for seen in range(n + 1)))
    assert [f["kind"] for f in shop.facts()] == ["login", "reidentify"]


def test_a_shared_laptop_keeps_people_apart(shop: Shop, page: Page) -> None:
    shop.open(page)
    for person, event in (("bob", "b1"), ("adam", "a1"), ("bob", "b2")):
        shop.push(page, ["user", {"id": person}], ["track", event])
    shop.expect_events("bob", "b1", "b2")
    shop.expect_events("adam", "a1")
    shop.push(page, ["logout"], ["track", "nobody's"])
    shop.expect(lambda: len(shop.people()) == 3)
    assert shop.events("bob") == ["b1", "b2"]


def test_a_forwarded_link_heals_itself(shop: Shop, page: Page) -> None:
    shop.server("alice", ["track", "Mailed"])
    page.goto(shop.link("alice"))
    page.wait_for_function("() => window._veroq && window._veroq.ready")
    shop.push(page, ["track", "Looked around"])
    shop.expect_events("alice", "Mailed", "Looked around")
    shop.push(page, ["user", {"id": "bob"}], ["track", "Bought"])
    shop.expect_events("bob", "Looked around", "Bought")
    assert shop.events("alice") == ["Mailed"]
    errors = api_answer(shop.backend.get("/v1/identity-errors"))["identity_errors"]
    assert [e["code"] for e in errors] == ["link_contradicted"]


def test_the_redirect_link_works_where_the_parameter_would_be_stripped(shop: Shop, page: Page) -> None:
    made = api_answer(shop.backend.post("/v1/links", json={"identity": "jo@x.io", "url": shop.url}))
    page.goto(made["redirect"])
    page.wait_for_function("() => window._veroq && window._veroq.ready")
    assert page.url == shop.url
    shop.push(page, ["track", "Landed"])
    shop.expect_events("jo@x.io", "Landed")


def test_a_first_visit_in_two_tabs_at_once_is_one_profile(shop: Shop, context: BrowserContext) -> None:
    shop.serve("/shop", "_veroq.push(['track', 'Landed'])")
    tabs = [context.new_page() for _ in range(2)]
    for tab in tabs:
        tab.evaluate("url => void setTimeout(() => { location.href = url })", shop.url)
    for tab in tabs:
        tab.wait_for_function("() => window._veroq && window._veroq.ready")
    for n, tab in enumerate(tabs):
        shop.push(tab, ["track", f"Tab {n}"])
    shop.expect(lambda: sum(p["events"] for p in shop.people()) == 4, "four events")
    for tab in tabs:
        shop.push(tab, ["user", {"id": "42"}])
    shop.expect(lambda: sorted(shop.events("42")) == ["Landed", "Landed", "Tab 0", "Tab 1"], "one profile")
    assert len(shop.people()) == 1


def test_offline_then_online_loses_nothing(shop: Shop, page: Page, context: BrowserContext) -> None:
    shop.open(page)
    shop.push(page, ["user", {"id": "42"}], ["track", "Before"])
    shop.expect_events("42", "Before")
    context.set_offline(True)
    shop.push(page, ["track", "In the tunnel"])
    context.set_offline(False)
    page.evaluate("() => dispatchEvent(new Event('online'))")
    shop.push(page, ["track", "After"])
    shop.expect_events("42", "Before", "In the tunnel", "After")


def test_leaving_right_after_a_push_loses_and_doubles_nothing(shop: Shop, page: Page) -> None:
    shop.open(page)
    page.evaluate(
        "url => { _veroq.push(['user', {id: '42'}]); _veroq.push(['track', 'Last words']); location.href = url }",
        shop.host.url("/next"),
    )
    page.wait_for_url("**/next")
    page.wait_for_function("() => window._veroq && window._veroq.ready")
    shop.push(page, ["track", "Next page"])
    shop.expect_events("42", "Last words", "Next page")
    assert len(shop.people()) == 1


def test_closing_the_tab_right_after_a_push_still_delivers(shop: Shop, context: BrowserContext) -> None:
    tab = shop.open(context.new_page())
    shop.push(tab, ["user", {"id": "42"}])
    shop.expect(lambda: shop.person("42"))
    shop.push(tab, ["track", "Last words"])
    tab.close()
    shop.expect_events("42", "Last words")


def test_properties_tags_and_subscription(shop: Shop, page: Page) -> None:
    shop.open(page)
    shop.push(page, ["user", {"id": "42", "email": "jo@x.io", "plan": "free"}], ["tags", {"add": ["vip", "beta"]}])
    shop.push(page, ["user", {"plan": "pro"}], ["tags", {"id": "42", "remove": ["beta"]}], ["unsubscribe", "42"])

    def as_expected() -> bool:
        person = shop.person("42")
        assert person
        assert person["properties"] == {"email": "jo@x.io", "plan": "pro"}
        assert (person["tags"], person["subscribed"]) == (["vip"], False)
        return True

    shop.expect(as_expected)
    shop.push(page, ["resubscribe", "42"])
    shop.expect(lambda: (shop.person("42") or {}).get("subscribed") is True)


def test_a_single_page_app_navigates_and_is_followed(shop: Shop, page: Page) -> None:
    shop.open(page)
    shop.push(page, ["user", {"id": "42"}], ["trackPageview"])
    page.evaluate("() => { history.pushState({}, '', '/basket?step=1'); _veroq.push(['trackPageview']) }")
    shop.expect_events("42", "Viewed page", "Viewed page")
    person = shop.person("42") or {}
    events = api_answer(shop.backend.get(f"/v1/profiles/{person['profile_id']}/events"))["events"]
    assert [e["data"]["url"] for e in events] == [shop.host.url("/basket?step=1"), shop.url]
    assert events[0]["page"]["url"] == shop.host.url("/basket?step=1")


def test_callbacks_come_once_the_gateway_took_the_command(shop: Shop, page: Page) -> None:
    script = "window.called = []; _veroq.push(['track', 'Signed up', {}, (vero, ok) => called.push(ok)])"
    shop.serve("/shop", script)
    shop.open(page)
    page.wait_for_function("() => called.length === 1 && called[0] === true")


def test_a_merge_cannot_be_forged_by_a_page(shop: Shop, page: Page) -> None:
    shop.server("victim", ["track", "Ordered"])
    shop.open(page)
    shop.push(page, ["user", {"id": "mallory"}], ["reidentify", "mallory", "victim"], ["track", "Tried"])
    shop.expect_events("mallory", "Tried")
    assert shop.events("victim") == ["Ordered"]
    (held,) = api_answer(shop.backend.get("/v1/held"))["held"]
    assert json.dumps(held["identities"]) == json.dumps(
        [{"kind": "id", "value": "mallory"}, {"kind": "id", "value": "victim"}]
    )
