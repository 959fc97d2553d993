"""Whatever people put into the fields that a page, an API or an operator can set, nothing of it runs in the console."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from playwright.sync_api import Page

from tests.browser.conftest import NewContext
from tests.browser.operator import NAME, PASSWORD, Past, serving
from tests.browser.pages import SiteHost
from tests.browser.payloads import PAYLOADS
from tests.server import GatewayServer, api_answer

PER_PERSON = 40
WATCH = """
window.ran = [];
for (const name of ['alert', 'confirm', 'prompt', 'print']) window[name] = () => window.ran.push(name);
document.addEventListener('securitypolicyviolation', (e) =>
  window.ran.push(`${e.violatedDirective} ${e.sample || e.blockedURI}`));
"""
# What would be there if a payload had become markup, whether it ran or not.
FOREIGN = """
const found = [];
const odd = /^[^a-z/?#]*(javascript|vbscript|data:text|blob|view)|evil[.]test/i;
for (const e of document.querySelectorAll('*'))
  for (const a of e.attributes)
    if (/^on|^style$|^srcdoc$/.test(a.name) || (/^(href|src|(form)?action|data)$/.test(a.name) && odd.test(a.value)))
      found.push(e.outerHTML.slice(0, 200));
const own = 'script:not([src*="/static/console.js"])';
const never = 'style, iframe, object, embed, base, img, math, video, audio, marquee, b b, xss, template, portal';
for (const e of document.querySelectorAll(`${own}, ${never}`)) found.push(e.outerHTML.slice(0, 200));
found;
"""


@dataclass(frozen=True)
class Stage:
    """A site whose every field holds payloads, the people that show them, and an admin's cookies."""

    server: GatewayServer
    people: list[str]
    cookies: list[Any]


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with serving(tmp_path_factory.mktemp("xss"), name=PAYLOADS[0]) as (server, site):
        server.site(PAYLOADS[-1])
        token = server.command("console-token").stdout.strip().partition("=")[2]
        form = {"token": token, "name": NAME, "password": PASSWORD, "again": PASSWORD}
        headers = {"Sec-Fetch-Site": "same-origin"}
        made = httpx.post(f"{server.url}/console/setup", data=form, headers=headers, timeout=20, trust_env=False)
        cookies = [{"name": k, "value": v, "url": server.url} for k, v in made.cookies.items()]
        yield Stage(server, fill(Past(server, site), PAYLOADS), cookies)


def fill(past: Past, payloads: list[str]) -> list[str]:
    """Puts every payload into every field; returns the profile ids of people made of them."""
    groups = [payloads[n : n + PER_PERSON] for n in range(0, len(payloads), PER_PERSON)]
    people = [person(past, n, group) for n, group in enumerate(groups)]
    for n, payload in enumerate(payloads[:12]):
        past.push(f"same-{n}", ["user", {"id": f"same-{n}", "email": f"{n // 2}{payload.replace(' ', '')}@x.io"}])
        past.push(f"held-{n}", ["reidentify", f"claim {payload}", people[n % len(people)]["primary"]])
        past.push(f"blocked-{n}", ["user", {"id": "{{" + payload + "}}"}])
        past.push(f"skipped-{n}", [payload, payload])
    pair = {"target": {"profile_id": people[0]["profile_id"]}, "source": {"profile_id": people[1]["profile_id"]}}
    for op_id, reason in (("first", "".join(payloads)[:500]), ("second", payloads[1])):
        api_answer(past.api.post("/v1/merges", json=pair | {"op_id": op_id, "reason": reason, "force": True}))
        api_answer(past.api.post(f"/v1/operations/{op_id}/undo", json={"op_id": payloads[2] + op_id, "reason": reason}))
    return [p["profile_id"] for p in people]


def person(past: Past, n: int, payloads: list[str]) -> dict[str, Any]:
    """Somebody whose names, properties, tags, events, pages and device are payloads."""
    device, names = f"device-{n}", [f"{n} {p}"[:255] for p in payloads]
    hints = {"platform": payloads[0], "brands": [{"brand": p} for p in payloads[:3]]}
    about = {"ua": hints, "screen": payloads[1], "timezone": payloads[2], "language": payloads[3]}
    past.push(device, ["context", about], ["user", {"id": names[0], "name": payloads[-1], "email": payloads[-2]}])
    properties = {p[:200]: p for p in payloads} | {f"key {m}": {p[:100]: [p]} for m, p in enumerate(payloads)}
    pairs = list(properties.items())
    past.push(device, ["user", dict(pairs[: len(pairs) // 2])], ["user", dict(pairs[len(pairs) // 2 :])])
    past.push(device, ["user", dict.fromkeys(list(properties)[:10], "replaces")], ["tags", {"add": payloads}])
    entries: list[dict[str, Any]] = []
    for p in payloads:
        command = ["track", p[:200], {p[:200]: p, "url": p}, {"source": p}]
        entries.append({"command": command, "page": {"url": p, "referrer": p, "title": p}})
    past.send(device, entries)
    for first in range(1, len(names), 10):
        now = int(time.time())
        claims = {"sub": names[0], "aliases": names[first : first + 10], "iat": now, "exp": now + 600}
        past.push(device, ["verify", jwt.encode(claims, past.site["secret_key"], algorithm="HS256")])
    past.push(f"{device}-link", ["link", names[0]])
    found = past.profile(names[0])
    assert len(found["identities"]) > 30 or len(payloads) < PER_PERSON, found["identities"]
    return found


@dataclass
class Watched:
    """A page under watch."""

    page: Page
    server: GatewayServer
    dialogs: list[str] = field(default_factory=list)

    def look(self, path: str) -> list[str]:
        """What ran or became markup at a path."""
        answer = self.page.goto(self.server.url + path)
        assert answer is not None and answer.status in (200, 400, 404), (path, answer and answer.status)
        self.page.evaluate("for (const d of document.querySelectorAll('details:not(.menu)')) d.open = true")
        found = [*self.page.evaluate("window.ran"), *self.page.evaluate(FOREIGN), *self.dialogs]
        return [f"{path}: {what}" for what in found]


@pytest.fixture
def watched(stage: Stage, new_context: NewContext) -> Watched:
    context = new_context()
    context.add_cookies(stage.cookies)
    watched = Watched(context.new_page(), stage.server)
    watched.page.add_init_script(WATCH)
    watched.page.on("dialog", lambda dialog: (watched.dialogs.append(dialog.message), dialog.dismiss()))
    return watched


def test_nothing_runs_on_any_page(stage: Stage, watched: Watched) -> None:
    watched.page.goto(stage.server.url + "/console/")
    watched.page.locator("summary").first.click()
    watched.page.get_by_role("link", name=PAYLOADS[0], exact=True).click()
    tabs = watched.page.locator("nav.tabs a").evaluate_all("found => found.map(a => a.getAttribute('href'))")
    site = next(link for link in tabs if link.endswith("/people")).removesuffix("/people")
    people = [f"{site}/people/{profile_id}" for profile_id in stage.people]
    typed = quote('"><svg/onload=alert(1)>', safe="")
    paths = [f"{people[0]}/{more}" for more in ("merge", "reset", "delete", f"merge?with={stage.people[1]}")]
    paths += [
        "/console/audit",
        "/console/users",
        "/console/sites",
        "/console/account",
        f"/console/{typed}",
        f"/console/login?next={typed}",
    ]
    paths += [
        f"{site}/{more}" for more in (f"people?q={typed}", "people?list=all", "undo?op=first", f"undo?op={typed}")
    ]
    found = [line for path in [*tabs, *people, *paths] for line in watched.look(path)]
    assert found == []
    shown = watched.page.goto(stage.server.url + people[0])
    assert shown is not None and "&lt;script&gt;alert(1)&lt;/script&gt;" in shown.text()


@pytest.mark.page_errors_expected
def test_the_watch_sees_what_runs(site_host: SiteHost, new_context: NewContext) -> None:
    """Of the same payloads in a page without defences many run, and all that do are seen."""
    body = "".join(f"<div title='{p}'>{p}</div>" for p in PAYLOADS if "evil" not in p and "<!--" not in p)
    site_host.pages["/"] = f"<!doctype html><meta charset=utf-8>{body}"
    page = new_context().new_page()
    page.add_init_script(WATCH)
    page.goto(site_host.url("/"))
    page.wait_for_function("window.ran.length > 20")
    assert len(page.evaluate(FOREIGN)) > 50
