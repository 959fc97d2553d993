"""A shop on names of its own over HTTPS, and a gateway in one of the places where people put it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.browser.backend import Backend
from tests.browser.edge import Edge
from tests.browser.pages import Page, Visit
from tests.browser.visitors import BLOCKED, Tab
from tests.server import GatewayServer, wait_for

# Where the gateway answers, by deployment mode; `{shop}` and the like are the names of the test's own town.
PLACES = {
    "path": "{shop}/t",
    "subdomain": "{t.shop}",
    "third_party": "{tracker}",
    "blocked": BLOCKED,
    "listed": "listed.test",
}


class Town(Backend):
    """Pages of the shop, and what the gateway gets of them. Mode `local` is http on localhost, without a proxy."""

    def __init__(self, gateway: GatewayServer, edge: Edge, mode: str, **settings: str) -> None:
        super().__init__(gateway, **settings)
        self.edge = edge
        self.shop = f"https://{edge.host('shop')}"
        self.other = f"https://{edge.host('other')}"
        if mode == "local":
            self.shop, self.gateway_url = edge.origin("localhost"), gateway.url
        else:
            names = {name: edge.host(name) for name in ("shop", "t.shop", "tracker")}
            place = PLACES[mode]
            for name, host in names.items():
                place = place.replace(f"{{{name}}}", host)
            edge.gateways[place] = gateway.url
            self.gateway_url = f"https://{place}"

    # the shop

    def page(
        self, path: str = "/", script: str = "", body: str = "", *, origin: str = "", options: str = "", **headers: str
    ) -> str:
        """Puts a page with the snippet at `path`; its script runs right after `init`. Says the page's URL."""
        init = f"_veroq.push(['init', {{api_key: '{self.site['api_key']}', {options}}}]);"
        loader = f"<script async src='{self.gateway_url}/veroq.js'></script>"
        inline = f"<script>var _veroq = _veroq || []; {init} {script}</script>"
        return self.plain(path, inline + loader + body, origin, headers)

    def plain(self, path: str, html: str, origin: str = "", headers: dict[str, str] | None = None) -> str:
        """Puts any page at `path` and says its URL."""
        named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        url = (origin or self.shop) + path
        text = f"<!doctype html><html lang=en><meta charset=utf-8><title>A page</title>{html}"
        self.edge.pages[url.partition("//")[2].replace(f":{self.edge.port}", "")] = Page(text, 200, named)
        return url

    def source(self, path: str) -> Page:
        """What the shop serves at `path`."""
        page = self.edge.pages[self.shop.partition("//")[2].replace(f":{self.edge.port}", "") + path]
        assert isinstance(page, Page)
        return page

    # the visitor

    def open(self, tab: Tab, url: str) -> None:
        tab.open(url)
        tab.wait("window._veroq && _veroq.ready")

    def push(self, tab: Tab, *commands: list[Any]) -> None:
        tab.run(f"void _veroq.push(...{json.dumps(commands)})")

    def stored(self, tab: Tab) -> list[str]:
        """Names of what the page's origin keeps for the snippet."""
        names: list[str] = tab.run("[...Object.keys(localStorage), ...Object.keys(sessionStorage)].sort()")
        return names

    def wait_until_sent(self, tab: Tab) -> None:
        """Until no command waits in the browser any more."""
        entry = f"'vq.{self.site['api_key']}.'"
        tab.wait(f"!Object.keys(localStorage).some(name => name.startsWith({entry}))")

    # the gateway

    def requests(self) -> list[Visit]:
        """What came in for the gateway with commands of this site."""
        return [visit for visit in self.edge.commands() if self.site["api_key"].encode() in visit.body]

    def wait_for_events(self, *names: str) -> list[list[str]]:
        """The events of each person, sorted, once all the named ones are there."""

        def arrived() -> list[list[str]]:
            found = self.events_of_people()
            assert sorted(name for events in found for name in events) == sorted(names), found
            return found

        return wait_for(arrived, 15, f"the events {names}")

    def events_of_people(self) -> list[list[str]]:
        """The events of each person, in order of time; people without any are left out."""
        found = []
        for person in self.people():
            path = f"/v1/profiles/{person['profile_id']}/events"
            events = self.backend.get(path, params={"limit": 500}).json()["events"]
            if events:
                found.append([event["name"] for event in reversed(events)])
        return sorted(found)

    def devices(self) -> set[str]:
        """The browsers that the gateway has seen."""
        visitors = [visitor for person in self.people() for visitor in person["visitors"]]
        return {visitor["device_id"] for visitor in visitors if visitor["device_id"]}


MakeTown = Callable[..., Town]


def cookie_of(visit: Visit) -> str:
    """The value of the gateway's cookie that a request carried, or nothing."""
    pairs = dict(part.strip().split("=", 1) for part in visit.headers.get("cookie", "").split(";") if "=" in part)
    return pairs.get("__Host-Http-vq") or pairs.get("vq_dev") or ""


def token_of(visit: Visit) -> str:
    """The device token that a request carried in its body, or nothing."""
    return str(json.loads(visit.body).get("device") or "")
