"""What a visitor asked not to be done: Global Privacy Control on pages, links and the dialects."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import make_app, opened
from gateway.cookies import COOKIE, PENDING_LINK
from gateway.identity.engine import Request
from gateway.identity.requests import Batch
from gateway.record import Replay, read_lines, recording
from gateway.settings import load
from tests.driver import Driver, driving

GPC = {"Sec-GPC": "1"}


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    async with driving(tmp_path) as driver:
        driver.client.base_url = httpx.URL("https://t.shop.example")
        yield driver


async def send(driver: Driver, *commands: Any, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
    """One request of a page."""
    at = time.time() * 1000
    entries = [{"id": f"m{at}-{n}", "at": at, "command": c} for n, c in enumerate(commands)]
    body = {"key": driver.site.api_key, "sent_at": at, "commands": entries, **more}
    response = await driver.client.post("/v1/commands", content=json.dumps(body), headers=headers or {})
    assert response.status_code == 202, response.text
    return response


async def link_for(driver: Driver, person: str) -> Any:
    body = {"identity": person, "url": "https://www.shop.example/"}
    return (await driver.api("POST", "/v1/links", body)).json()


async def set_gpc(driver: Driver, value: str) -> None:
    driver.site.settings["gpc"] = value
    await driver.gateway.sites.save(driver.site)


def committed(driver: Driver) -> list[Request]:
    """What the writer commits from now on."""
    requests: list[Request] = []
    driver.gateway.writer.listeners.append(lambda request, reply: requests.append(request))
    return requests


async def test_by_default_gpc_keeps_links_from_identifying_and_says_so_in_the_ledger(database: str) -> None:
    async with driving(database) as driver:
        link = await link_for(driver, "jo@x.io")
        requests = committed(driver)
        await send(driver, ["track", "Landed"], ["link", link["token"]], ["link", "raw@x.io"], headers=GPC)
        facts = (await driver.api("GET", "/v1/ledger?kind=link&outcome=noop")).json()["facts"]
        assert [(f["outcome"], f["identities"]) for f in facts] == [("noop", []), ("noop", [])]
        assert {f["reason"] for f in facts} == {"this browser sends Global Privacy Control"}
        (profile,) = await driver.profiles()
        assert (profile["identities"], profile["events"]) == ([], 1)
        assert [r.private for r in requests] == [True]
        await driver.check_refold()


async def test_a_login_still_works_with_gpc(driver: Driver) -> None:
    await send(driver, ["track", "Landed"], ["user", {"id": "42", "email": "jo@x.io"}], headers=GPC)
    assert await driver.events("u:42") == ["Landed"]


async def test_a_link_followed_without_gpc_is_not_private(driver: Driver) -> None:
    link = await link_for(driver, "jo@x.io")
    requests = committed(driver)
    await send(driver, ["link", link["token"]], headers={"Sec-GPC": "0"})
    assert await driver.find("u:jo@x.io") is not None
    assert [r.private for r in requests] == [False]


async def test_the_redirect_leaves_no_link_with_a_browser_that_sends_gpc(driver: Driver) -> None:
    link = await link_for(driver, "jo@x.io")
    response = await driver.client.get(link["redirect"], headers=GPC)
    assert response.status_code == 302
    assert "set-cookie" not in response.headers
    await driver.client.get(link["redirect"])
    assert PENDING_LINK in driver.client.cookies
    await send(driver, ["track", "Landed"], headers=GPC)
    assert await driver.find("u:jo@x.io") is None, "the header came later than the link"
    assert PENDING_LINK not in driver.client.cookies


async def test_strict_keeps_nothing_of_a_browser_that_sends_gpc(driver: Driver) -> None:
    token = (await send(driver, ["track", "Before"])).json()["device"]
    await set_gpc(driver, "strict")
    before = await everything(driver)
    response = await send(driver, ["user", {"id": "42"}], ["track", "Secret"], headers=GPC, device=token)
    assert response.json() == {"status": "ok"}
    assert response.headers["x-gateway-skipped"] == "2; this browser asked that nothing be kept"
    assert COOKIE not in driver.client.cookies, "it forgets what it was given before"
    assert await everything(driver) == before
    await send(driver, ["track", "Without"])
    assert (await everything(driver))["events"] > before["events"]


async def test_ignore_is_as_if_nothing_was_sent(driver: Driver) -> None:
    await set_gpc(driver, "ignore")
    link = await link_for(driver, "jo@x.io")
    requests = committed(driver)
    await send(driver, ["link", link["token"]], headers=GPC)
    assert await driver.find("u:jo@x.io") is not None
    assert [r.private for r in requests] == [False]


@pytest.mark.parametrize(("gpc", "kept"), [("respect", [True]), ("strict", []), ("ignore", [False])])
async def test_pages_that_call_a_dialect_with_the_public_key(driver: Driver, gpc: str, kept: list[bool]) -> None:
    await set_gpc(driver, gpc)
    key, requests = driver.site.api_key, committed(driver)
    event = {"identity": {"id": "7"}, "event_name": "Seen"}
    vero = await driver.client.post(f"/api/v2/events/track?tracking_api_key={key}", json=event, headers=GPC)
    assert (vero.status_code, vero.json()["message"]) == (200, "Success.")
    suprsend = {"event": "Seen", "distinct_id": "8", "properties": {}}
    other = await driver.client.post("/v2/event/", json=suprsend, headers=GPC | {"Authorization": f"Bearer {key}"})
    assert other.status_code == 202, other.text
    assert [r.private for r in requests] == kept * 2


async def test_a_servers_word_is_not_private_whatever_it_sends(driver: Driver) -> None:
    await set_gpc(driver, "strict")
    requests = committed(driver)
    headers = {"Authorization": f"Bearer {driver.site.secret_keys[-1]}", **GPC}
    entry = {"id": "s1", "command": ["track", "Ordered"], "identity": "42"}
    await driver.client.post("/v1/commands", json={"commands": [entry]}, headers=headers)
    assert await driver.events("u:42") == ["Ordered"]
    assert [r.private for r in requests] == [False]


async def test_a_recording_plays_what_was_private_as_private(driver: Driver, tmp_path: Path) -> None:
    link = await link_for(driver, "jo@x.io")
    async with recording(driver.gateway, tmp_path / "lines"):
        await send(driver, ["link", link["token"]], headers=GPC)
        await set_gpc(driver, "strict")
        await send(driver, ["track", "Secret"], headers=GPC)
    assert "Secret" not in (tmp_path / "lines").read_text()
    other = await driver.gateway.sites.create("other", driver.gateway.new_id(), origins=[])
    requests = committed(driver)
    done = await Replay(driver.gateway, other).play(read_lines(tmp_path / "lines"))
    assert (done.requests, done.other_outcomes) == (1, [])
    (request,) = requests
    assert isinstance(request, Batch) and request.private


async def everything(driver: Driver) -> dict[str, int]:
    """How many rows each table has."""
    tables = ("events", "devices", "visitors", "identities", "profiles", "properties", "ledger", "births")
    counts = {}
    for table in tables:
        (row,) = await driver.gateway.store.read(f"/* test.count */ select count(*) as n from {table}")
        counts[table] = row["n"]
    return counts


# --- the opt-out page -----------------------------------------------------------------------------------------------

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}


async def choose(driver: Driver, choice: str, **headers: str) -> httpx.Response:
    return await driver.client.post("/privacy", content=f"choice={choice}", headers=FORM | headers)


async def test_the_opt_out_page_tells_what_is_known_and_takes_it_away(driver: Driver) -> None:
    assert "is not known here" in (await driver.client.get("/privacy")).text
    await send(driver, ["track", "Before"])
    assert "is known here by a random number" in (await driver.client.get("/privacy")).text
    link = await link_for(driver, "jo@x.io")
    await driver.client.get(link["redirect"])
    response = await choose(driver, "out")
    assert (response.status_code, response.headers["location"]) == (303, "privacy")
    assert set(driver.client.cookies) == {"vq_optout"}
    assert "has opted out" in (await driver.client.get("/privacy")).text
    before = await everything(driver)
    kept = await send(driver, ["user", {"id": "42"}], ["track", "Secret"])
    assert (kept.json(), "set-cookie" in kept.headers) == ({"status": "ok"}, False)
    assert "set-cookie" not in (await driver.client.get(link["redirect"])).headers
    assert await everything(driver) == before


async def test_who_opts_in_again_is_somebody_new(driver: Driver) -> None:
    await send(driver, ["track", "Before"])
    await choose(driver, "out")
    await choose(driver, "in")
    assert not driver.client.cookies
    await send(driver, ["track", "After"])
    assert sorted(p["events"] for p in await driver.profiles()) == [1, 1]


async def test_a_token_left_in_storage_does_not_bring_back_who_opted_out(driver: Driver) -> None:
    token = (await send(driver, ["track", "Before"])).json()["device"]
    await choose(driver, "out")
    before = await everything(driver)
    response = await send(driver, ["track", "Secret"], device=token)
    assert "device" not in response.json(), "the snippet drops its token"
    assert await everything(driver) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "", "Origin": "null"},
        {"Sec-Fetch-Site": ""},
    ],
)
async def test_no_other_page_decides_for_its_visitors(driver: Driver, headers: dict[str, str]) -> None:
    response = await choose(driver, "out", **headers)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "other_page")
    assert not driver.client.cookies


async def test_a_browser_without_fetch_metadata_may_choose_too(driver: Driver) -> None:
    await choose(driver, "out", **{"Sec-Fetch-Site": "", "Origin": "https://t.shop.example"})
    assert driver.client.cookies["vq_optout"] == "1"


async def test_the_opt_out_page_is_plain_private_and_only_framed_by_the_site(driver: Driver) -> None:
    driver.site.settings["origins"] = ["https://www.shop.example"]
    await driver.gateway.sites.save(driver.site)
    response = await driver.client.get("/privacy")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'self' https://www.shop.example" in policy
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "same-origin", "so that browsers say where the form came from"
    assert "<script" not in response.text
    assert (await choose(driver, "maybe")).status_code == 400


async def test_the_opt_out_cookie_reaches_a_third_party_from_inside_a_page(tmp_path: Path) -> None:
    settings = load(
        {"GATEWAY_COOKIE_MODE": "third_party", "GATEWAY_PUBLIC_URL": "https://tracker.example"},
        database=f"sqlite:///{tmp_path / 'third.db'}",
    )
    async with opened(settings) as gateway:
        transport = httpx.ASGITransport(app=make_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="https://tracker.example") as client:
            response = await client.post("/privacy", content="choice=out", headers=FORM)
    cookies = response.headers.get_list("set-cookie")
    assert cookies[0] == "vq_optout=1; Path=/; Max-Age=34560000; Secure; HttpOnly; SameSite=None; Partitioned"
    assert cookies[1].startswith(f"{COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=None; Partitioned")


async def test_feeds_leave_out_who_sends_gpc(driver: Driver) -> None:
    await send(driver, ["track", "Open"])
    driver.client.cookies.clear()
    await send(driver, ["user", {"id": "42"}], ["track", "Private"], headers=GPC)
    told = (await driver.api("GET", "/v1/feed")).json()["entries"]
    assert [entry["event"]["name"] for entry in told if entry["type"] == "event"] == ["Open"]
    assert [entry for entry in told if entry["type"] == "identity"] == []
