"""Vero's SDK in the page, from another origin, with the public key; only its base URL points at the gateway."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.pages import SiteHost
from tests.server import GatewayServer, Site

SDK = Path(__file__).parents[1] / "dialects" / "clients" / "node_modules" / "@getvero" / "tracking" / "dist"


class Shop:
    """A page of a shop that loads the SDK, and what the gateway knows of its visitors."""

    def __init__(self, server: GatewayServer, host: SiteHost, page: Page) -> None:
        self.server, self.host, self.page = server, host, page
        self.site: Site = server.site(origin=[host.origin("shop.localhost")])
        self.api = server.api(self.site)

    def open(self, key: str, query: str = "", host: str = "shop.localhost") -> None:
        script = SDK / "index.window.js"
        if not script.exists():
            pytest.fail("the vendors' clients are not installed; run `make test` once, which sees to it", pytrace=False)
        options = json.dumps({"trackingApiKey": key, "trackingApiBaseUrl": self.server.url})
        html = f"<!doctype html><title>Shop</title><script>{script.read_text()}</script>"
        self.host.pages["/"] = f"{html}<script>vero.tracker.init({options})</script>"
        self.page.goto(self.host.url(f"/{query}", host))

    def call(self, method: str, argument: Any = None) -> str | None:
        """Awaits a call of the SDK; what it threw, None for nothing."""
        group, name = method.split(".")
        script = "([g, n, a]) => vero.tracker[g][n](a).then(() => null, error => error.message)"
        thrown: str | None = self.page.evaluate(script, [group, name, argument])
        return thrown

    def profile(self, identity: str) -> dict[str, Any] | None:
        response = self.api.get("/v1/profiles", params={"identity": identity})
        return response.json() if response.status_code == 200 else None

    def events(self, identity: str) -> list[dict[str, Any]]:
        profile = self.profile(identity)
        assert profile is not None, f"nobody is {identity}"
        return list(reversed(self.api.get(f"/v1/profiles/{profile['profile_id']}/events").json()["events"]))


@pytest.fixture
def shop(gateway_server: GatewayServer, site_host: SiteHost, page: Page) -> Shop:
    return Shop(gateway_server, site_host, page)


def test_identify_and_track(shop: Shop) -> None:
    shop.open(shop.site["api_key"], "?vero_conv=c0nv")
    jane = {"id": "42", "email": "jane@example.com", "data": {"first_name": "Jane"}}
    assert shop.call("user.identify", jane) is None
    assert shop.call("event.track", {"eventName": "Bought", "data": {"sku": "A1"}}) is None
    assert shop.call("tag.edit", {"add": ["blue"]}) is None
    assert shop.call("user.unsubscribe") is None

    profile = shop.profile("42")
    assert profile is not None
    assert profile["identities"][0]["proof"] == "claimed"
    properties = profile["properties"]
    assert (properties["first_name"], properties["email"]) == ("Jane", "jane@example.com")
    assert "Mozilla" in properties["userAgent"]
    assert "channels" not in properties
    assert (profile["tags"], profile["subscribed"]) == (["blue"], False)
    visited, bought = shop.events("42")
    assert (visited["name"], bought["name"], bought["data"]["sku"]) == ("Visited site", "Bought", "A1")
    assert bought["extras"]["vero_conv"] == "c0nv"
    assert bought["extras"]["source"] == "shop.localhost"

    shop.open(shop.site["api_key"])
    assert shop.call("user.resubscribe") is None
    profile = shop.profile("42")
    assert profile is not None
    assert profile["subscribed"] is True


def test_an_alias_that_nobody_proved_waits_for_an_operator(shop: Shop) -> None:
    shop.open(shop.site["api_key"])
    assert shop.call("user.identify", {"id": "anon-1", "email": "jane@example.com"}) is None
    assert shop.call("user.alias", {"newId": "42"}) is None
    assert shop.call("event.track", {"eventName": "Bought"}) is None
    [held] = shop.api.get("/v1/held").json()["held"]
    assert shop.api.post(f"/v1/held/{held['op_id']}/approve", json={}).json()["outcome"] == "merged"
    assert shop.profile("anon-1") == shop.profile("42")
    assert shop.events("42")[0]["name"] == "Visited site"


def test_the_public_key_deletes_nobody(shop: Shop) -> None:
    shop.open(shop.site["api_key"])
    assert shop.call("user.identify", {"id": "42", "email": "jane@example.com"}) is None
    assert shop.call("user.delete") == "Unable to make the request - server returned Unauthorized 401, expected 2xx"
    assert shop.profile("42") is not None


def test_a_secret_in_a_page_is_refused_as_leaked(shop: Shop) -> None:
    shop.open(shop.site["auth_token"])
    thrown = shop.call("user.identify", {"id": "42", "email": "jane@example.com"})
    assert thrown == "Unable to make the request - server returned Forbidden 403, expected 2xx"
    assert shop.profile("42") is None
    assert "rotate" in shop.server.log_tail()


def test_a_page_of_another_site_is_refused(shop: Shop) -> None:
    shop.open(shop.site["api_key"], host="evil.localhost")
    thrown = shop.call("user.identify", {"id": "42", "email": "jane@example.com"})
    assert thrown == "Unable to make the request - server returned Forbidden 403, expected 2xx"
    assert shop.profile("42") is None
