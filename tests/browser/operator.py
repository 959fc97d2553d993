"""Somebody at the console, in a browser; and what happened on the site before they came."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.server import ROOT, GatewayServer, Site, api_answer

SOON = 15_000
"""Milliseconds within which a page is there, also on a machine that is busy."""
NAME, PASSWORD = "ann@x.io", "seven quiet otters"
AXE = ROOT / "tests" / "dialects" / "clients" / "node_modules" / "axe-core" / "axe.min.js"


class Past:
    """Browsers that pushed commands to a site earlier, by name, and its server."""

    def __init__(self, server: GatewayServer, site: Site) -> None:
        self.server, self.site = server, site
        self.api = server.api(site)
        self.tokens: dict[str, str] = {}
        self.at = time.time()

    def push(self, device: str, *commands: list[Any], page: dict[str, str] | None = None) -> None:
        """Commands of one browser on one page, in order."""
        self.send(device, [{"command": command} | ({"page": page} if page else {}) for command in commands])

    def send(self, device: str, entries: list[dict[str, Any]]) -> None:
        """Commands of one browser, each with its page."""
        for entry in entries:
            self.at = max(self.at + 0.002, time.time())
            entry |= {"id": str(uuid.uuid4()), "at": self.at * 1000}
        body: dict[str, Any] = {"key": self.site["api_key"], "commands": entries}
        if device in self.tokens:
            body["device"] = self.tokens[device]
        answer = api_answer(httpx.post(f"{self.server.url}/v1/commands", json=body, timeout=20, trust_env=False))
        self.tokens.setdefault(device, answer.get("device", ""))

    def profile(self, identity: str) -> dict[str, Any]:
        """Who an identity names."""
        found: dict[str, Any] = api_answer(self.api.get("/v1/profiles", params={"identity": identity}))
        return found

    def same(self, *identities: str) -> bool:
        """Whether they all name one person."""
        return len({self.profile(i)["profile_id"] for i in identities}) == 1


class Operator:
    """A person in front of the console."""

    def __init__(self, page: Page, server: GatewayServer) -> None:
        self.page, self.server = page, server

    def open(self, path: str = "/console/") -> None:
        self.page.goto(self.server.url + path)

    def log_in(self, name: str = NAME, password: str = PASSWORD) -> None:
        self.open("/console/login")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.press("Log in")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def follow(self, name: str) -> None:
        self.page.get_by_role("link", name=name, exact=True).first.click()

    def find(self, text: str, name: str = "") -> None:
        """Searches for somebody and opens their page."""
        self.follow("People")
        self.page.get_by_role("searchbox").fill(text)
        self.press("Find")
        self.page.get_by_role("main").get_by_role("link", name=name or text, exact=True).first.click()

    def reads(self, text: str | re.Pattern[str]) -> None:
        expect(self.main).to_contain_text(text, timeout=SOON)

    def heading(self, text: str) -> None:
        expect(self.page.get_by_role("heading", level=1)).to_have_text(text, timeout=SOON)

    @property
    def main(self) -> Locator:
        return self.page.get_by_role("main")


@contextmanager
def serving(folder: Path, database: str = "", name: str = "shop") -> Iterator[tuple[GatewayServer, Site]]:
    """A gateway with one site and the admin `NAME`."""
    environment = {"GATEWAY_DATABASE": database} if database else {}
    with GatewayServer(folder, environment=environment) as server:
        yield server, server.site(name)
        server.command("check")


def make_admin(server: GatewayServer, page: Page) -> Operator:
    """Makes the first admin as a person would, by the link in the log."""
    link = re.search(r"http://localhost\S+/console/setup\?token=\S+", server.log.read_text())
    assert link is not None, server.log_tail()
    page.goto(link[0])
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Make the admin and log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("People", timeout=SOON)
    return Operator(page, server)


def axe(page: Page) -> list[str]:
    """What axe-core finds serious or critical on a page, and in the dark; its context must bypass the policy."""
    page.emulate_media(color_scheme="light")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    page.emulate_media(color_scheme="dark")
    found += page.evaluate("axe.run(document, {runOnly: ['color-contrast'], resultTypes: ['violations']})")[
        "violations"
    ]
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    return [f"{page.url}: {v['id']}: {v['help']}: {[n['html'][:200] for n in v['nodes'][:3]]}" for v in grave]


def logged_in_again(context: BrowserContext, state: Any) -> Page:
    """A page of another context that has the cookies of one."""
    context.add_cookies(state["cookies"])
    return context.new_page()
