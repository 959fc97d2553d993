"""What people send never reaches the log: every route is asked with marked values, good and bad, at debug level."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route

from gateway.app import make_app, opened
from gateway.settings import load
from tests.server import GatewayServer, Site

MARK = "q7canary7q"
ADDRESS = "203.0.113.77"
EMAIL = f"{MARK}@x.io"
RAW_PATHS = [f"/v1/user/{MARK}", f"/v1/user/{MARK}/merge/", "/v1/bulk/user/", "/event/", "/v2/event/"]
SETTINGS = {
    "GATEWAY_LOG_LEVEL": "debug",
    "GATEWAY_LOG_REQUESTS": "all",
    "GATEWAY_RATE_ADDRESS": "0",
    "GATEWAY_RATE_SITE": "0",
    "GATEWAY_RATE_DEVICE": "0",
}
BODIES = [
    {},
    {"identity": EMAIL, "url": f"https://www.shop.example/?{MARK}", "target": EMAIL, "source": MARK, "new": EMAIL,
     "old": MARK, "identities": [EMAIL], "merges": [{"target": EMAIL, "source": MARK}], "reason": MARK, "op_id": MARK},
    {"id": EMAIL, "email": EMAIL, "event_name": MARK, "event": MARK, "distinct_id": EMAIL, "data": {"name": MARK},
     "properties": {"phone": MARK}, "changes": {"name": MARK}, "new_id": MARK, "d": [{"identity": EMAIL,
     "type": "profile", "profileData": {"Email": EMAIL}}, {"identity": MARK, "type": "event", "evtName": MARK}]},
]  # fmt: skip


def paths(routes: list[BaseRoute], before: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every declared path with its methods."""
    for route in routes:
        if isinstance(route, Mount):
            yield from paths(list(route.routes), before + route.path)
        elif isinstance(route, Route):
            yield before + route.path, set(route.methods or ())


async def declared(folder: Path) -> list[tuple[str, set[str]]]:
    """The routes of the application."""
    async with opened(load({}, database=f"sqlite:///{folder / 'other.db'}")) as gateway:
        found = list(paths(list(make_app(gateway).routed.routes)))
    plain = [(path, methods) for path, methods in found if not re.search(r"[\[\]^()?*]", path)]
    return plain + [(path, {"GET", "POST", "PATCH", "DELETE"}) for path in RAW_PATHS]


def ask_every_route(client: httpx.Client, site: Site, found: list[tuple[str, set[str]]]) -> set[int]:
    """Asks each route as a server, a stranger and a page; returns the statuses seen."""
    server = {
        "Authorization": f"Bearer {site['secret_key']}",
        "X-CleverTap-Account-Id": site["api_key"],
        "X-CleverTap-Passcode": site["secret_key"],
    }
    stranger = {"Authorization": f"Bearer {MARK}", "Cookie": f"vq_dev={MARK}; {MARK}", "X-CleverTap-Passcode": MARK}
    client.headers.update({"User-Agent": MARK, "Referer": f"https://x.io/?{MARK}", "X-Forwarded-For": ADDRESS})
    client.headers.update({"Content-Type": "application/json", f"X-{MARK}": MARK})
    statuses = set()
    for n, (path, methods) in enumerate(found):
        url = re.sub(r"\{[^}]*\}", MARK, path) + f"?q={MARK}&identity={EMAIL}&email={EMAIL}&token={MARK}"
        good = json.dumps(BODIES[n % 3] | {"auth_token": site["auth_token"]})
        for method in sorted(methods - {"HEAD"} | {"POST"}):
            replies = [
                client.request(method, url, content=good, headers=server),
                client.request(method, f"{url}&limit={MARK}", content=f"{{{MARK}", headers=stranger),
            ]
            statuses |= {reply.status_code for reply in replies}
            assert not statuses & {500, 502}, f"{method} {url}: {replies}"
    return statuses


def push(client: httpx.Client, site: Site, **headers: str) -> httpx.Response:
    """A page's request with every command there is, and some that are none."""
    commands: list[Any] = [["user", {"id": EMAIL, "phone": MARK}], ["track", MARK, {"card": MARK}], ["link", MARK]]
    commands += [
        [MARK],
        ["verify", f"{MARK}.{MARK}.{MARK}"],
        ["reidentify", MARK, EMAIL],
        ["unsubscribe", EMAIL],
        ["track"],
    ]
    at = time.time() * 1000
    page = {"url": f"https://www.shop.example/?{MARK}", "referrer": f"https://x.example/{MARK}", "title": MARK}
    entries = [{"id": f"{MARK}{n}", "at": at + n, "command": c, "page": page} for n, c in enumerate(commands)]
    body = json.dumps({"key": site["api_key"], "sent_at": at, "device": MARK, "commands": [*entries, MARK]})
    return client.post(f"/v1/commands?{MARK}", content=body, headers={"X-Forwarded-For": ADDRESS, **headers})


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[str]]:
    """(the log of a gateway that was asked everything, its folder, further values that must not be in the log)."""
    folder = tmp_path_factory.mktemp("canaries")
    found = asyncio.run(declared(folder))
    with GatewayServer(folder, environment=SETTINGS) as server:
        site = server.site(origin="https://www.shop.example")
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
            statuses = ask_every_route(client, site, found)
            assert {200, 400, 401, 403, 404} <= statuses
            token = push(client, site).json()["device"]
            asked = {"identity": EMAIL, "url": "https://www.shop.example/"}
            link = server.api(site).post("/v1/links", json=asked).json()
            client.get(link["redirect"].removeprefix(server.url))
            client.get(f"/r/{link['token']}x")
            push(client, site, Cookie=f"vq_dev={token}")
            push(client, site, Origin=f"https://{MARK}.example")
            push(client, site, Authorization=f"Bearer {site['secret_key']}", Origin=f"https://{MARK}.example")
            client.post("/v1/commands", content=f"{{{MARK}".encode() * 10)
            client.post("/v1/commands", content=MARK.encode() * 100_000)
            client.post("/privacy", content=f"choice={MARK}", headers={"Sec-Fetch-Site": "same-origin"})
            client.get(f"/{MARK}?{MARK}")
    log = server.log.read_text()  # whole once the gateway has ended: a request's line follows its answer
    signatures = [token.rpartition(".")[2], link["token"].rpartition(".")[2]]
    return log, folder, [site["api_key"], site["secret_key"], site["auth_token"], *signatures]


def test_nothing_that_was_sent_is_in_the_log(driven: tuple[str, Path, list[str]]) -> None:
    log, _, secrets = driven
    assert "POST /v1/commands 202" in log and "GET /r/{token} 302" in log, "it does log requests"
    assert "came from a browser: rotate it" in log
    lines = [line for line in log.splitlines() if MARK.casefold() in line.casefold()]
    assert lines == []
    for secret in (*secrets, ADDRESS):
        assert secret not in log


def test_no_address_of_a_visitor_is_kept(driven: tuple[str, Path, list[str]]) -> None:
    _, folder, _ = driven
    kept = b"".join(file.read_bytes() for file in folder.glob("gateway.db*"))
    assert MARK.encode() in kept, "what was sent is there"
    connection = sqlite3.connect(folder / "gateway.db")
    dump = "\n".join(connection.iterdump())
    connection.close()
    for address in (ADDRESS, "127.0.0.1", "::1"):
        assert address.encode() not in kept
        assert address not in dump
