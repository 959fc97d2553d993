"""POST /v1/commands: the reply, the cookie, the origin, and everything that may be wrong with a request."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.app import make_app, opened
from gateway.cookies import COOKIE, DEV_COOKIE, PENDING_LINK
from gateway.settings import load
from tests.driver import Driver

TRACK = {"id": "0193-a", "at": 0, "command": ["track", "Purchased", {"total": 12}]}


@pytest.fixture
async def driver(database: str) -> AsyncIterator[Driver]:
    async with opened(load({}, database=database)) as gateway:
        site = await gateway.sites.create("shop", gateway.new_id(), origins=["https://www.shop.example"])
        transport = httpx.ASGITransport(app=make_app(gateway), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway.test") as client:
            yield Driver(gateway, client, site)


async def send(driver: Driver, *commands: Any, **more: Any) -> httpx.Response:
    """One request of a page."""
    headers = more.pop("headers", {})
    entries = [
        c if isinstance(c, dict) else {"id": f"m{n}", "at": time.time() * 1000, "command": c}
        for n, c in enumerate(commands)
    ]
    body = {"key": driver.site.api_key, "sent_at": time.time() * 1000, "commands": entries, **more}
    return await driver.client.post("/v1/commands", content=json.dumps(body), headers=headers)


async def test_first_visit_gets_the_cookie_and_a_token_to_fall_back_on(driver: Driver) -> None:
    response = await send(driver, ["track", "Landed"])
    assert (response.status_code, response.json()["status"]) == (202, "ok")
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}={response.json()['device']}; Path=/; Max-Age=34560000")
    assert {"Secure", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))


async def test_a_browser_that_shows_the_cookie_gets_no_token_and_no_new_cookie(driver: Driver) -> None:
    await send(driver, ["track", "Landed"])
    again = await send(driver, {"id": "b", "at": 1, "command": ["track", "Browsed"]})
    assert again.json() == {"status": "ok"}
    assert "set-cookie" not in again.headers


async def test_a_browser_that_refuses_the_cookie_is_known_by_its_token(driver: Driver) -> None:
    token = (await send(driver, ["track", "Landed"])).json()["device"]
    driver.client.cookies.clear()
    again = await send(driver, {"id": "b", "at": 1, "command": ["track", "Browsed"]}, device=token)
    assert again.json()["device"].split(".")[0] == token.split(".")[0]
    assert len(await driver.profiles()) == 1


async def test_on_plain_http_the_cookie_is_for_localhost_only(driver: Driver) -> None:
    body = {"key": driver.site.api_key, "commands": [TRACK]}
    local = await driver.client.post("http://localhost:8000/v1/commands", json=body)
    assert local.headers["set-cookie"].startswith(f"{DEV_COOKIE}=")
    assert "Secure" not in local.headers["set-cookie"]
    public = await driver.client.post("http://www.shop.example/v1/commands", json=body)
    assert "set-cookie" not in public.headers
    assert "device" in public.json()


async def test_the_reply_is_the_same_whatever_exists(driver: Driver) -> None:
    await driver.server_push("alice", ["track", "Imported"], "s1", time.time())
    known = await send(driver, ["user", {"id": "alice"}], ["reidentify", "bob", "alice"])
    unknown = await send(driver, ["user", {"id": "nobody"}], ["reidentify", "x", "y"])
    assert known.status_code == unknown.status_code == 202
    assert known.json()["status"] == unknown.json()["status"] == "ok"


async def test_a_resend_before_the_cookie_came_back_is_the_same_browser(driver: Driver) -> None:
    first = await send(driver, ["track", "Landed"])
    driver.client.cookies.clear()
    second = await send(driver, ["track", "Landed"], {"id": "z", "at": 5, "command": ["track", "More"]})
    assert first.json()["device"].split(".")[0] == second.json()["device"].split(".")[0]
    (profile,) = await driver.profiles()
    assert profile["events"] == 2


async def test_requests_of_a_first_visit_that_cross_are_one_browser_and_nothing_is_doubled(driver: Driver) -> None:
    context = {"id": "m1", "at": 1, "command": ["context", {"language": "en"}]}
    login = {"id": "m2", "at": 2, "command": ["user", {"id": "42"}]}
    words = {"id": "m3", "at": 3, "command": ["track", "Last words"]}
    await send(driver, context)
    first = dict(driver.client.cookies)
    driver.client.cookies.clear()
    await send(driver, login, words)  # the beacon left before the first answer came
    driver.client.cookies.clear()
    driver.client.cookies.update(first)
    await send(driver, login, words, {"id": "m4", "at": 4, "command": ["track", "Next page"]})
    assert await driver.events("u:42") == ["Last words", "Next page"]
    assert len(await driver.profiles()) == 1


async def test_two_tokens_in_one_request_are_one_browser(driver: Driver) -> None:
    mine = (await send(driver, {"id": "a", "at": 1, "command": ["track", "Tab one"]})).json()["device"]
    driver.client.cookies.clear()
    await send(driver, {"id": "b", "at": 2, "command": ["track", "Tab two"]})
    assert len(await driver.profiles()) == 2
    await send(driver, {"id": "c", "at": 3, "command": ["track", "Later"]}, device=mine)
    (profile,) = await driver.profiles()
    assert profile["events"] == 3


async def test_malformed_entries_are_skipped_and_the_others_kept(driver: Driver) -> None:
    bad: list[Any] = [{"id": "1"}, {"command": ["track", "x"]}, {"id": "", "command": ["track", "x"]}, 7, None, "x"]
    bad += [{"id": f"b{n}", "command": c} for n, c in enumerate([[], [1], ["nope"], ["track"], ["track", {}], "track"])]
    bad += [{"id": "n", "command": ["track", "x", {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}]}]
    bad += [{"id": "0", "command": ["track", "a\0b"]}, {"id": "i", "command": ["track", "x", {"n": float("inf")}]}]
    body = {"key": driver.site.api_key, "commands": [*bad, TRACK]}
    response = await driver.client.post("/v1/commands", content=json.dumps(body).encode())
    assert response.status_code == 202, response.text
    assert int(response.headers["x-gateway-skipped"].split(";")[0]) == len(bad)
    (profile,) = await driver.profiles()
    assert profile["events"] == 1


async def test_half_a_character_costs_nothing_but_itself(driver: Driver) -> None:
    await send(driver, ["track", "Searched", {"for": "caf\u00e9 \ud83d"}], ["track", "Bought"])
    (profile,) = await driver.profiles()
    page = (await driver.api("GET", f"/v1/profiles/{profile['profile_id']}/events")).json()
    assert {e["name"]: e["data"] for e in page["events"]} == {"Searched": {"for": "caf\u00e9 ?"}, "Bought": {}}


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"commands": 3}', b'{"key": 1}', b"{" * 100_000, b"[" * 100_000]
    + [b'{"key":"x","commands":[' + b"{}," * 600 + b"{}]}"],
)
async def test_a_body_that_is_no_batch_is_a_clear_400(driver: Driver, raw: bytes) -> None:
    response = await driver.client.post("/v1/commands", content=raw)
    assert response.status_code == 400
    assert response.json()["error"]["hint"]


async def test_an_unknown_key_and_an_unknown_origin_are_refused(driver: Driver) -> None:
    response = await driver.client.post("/v1/commands", json={"key": "nope", "commands": [TRACK]})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "unknown_key")
    response = await send(driver, TRACK, headers={"Origin": "https://evil.example"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "unknown_origin")
    assert "gateway site set" in response.json()["error"]["hint"]


async def test_pages_of_the_site_may_read_the_reply(driver: Driver) -> None:
    headers = {"Origin": "https://www.shop.example"}
    response = await send(driver, TRACK, headers=headers)
    assert response.headers["access-control-allow-origin"] == "https://www.shop.example"
    assert response.headers["access-control-allow-credentials"] == "true"
    preflight = await driver.client.options("/v1/commands", headers=headers)
    assert preflight.status_code == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]


async def test_more_than_the_limit_is_refused_before_it_is_read(driver: Driver) -> None:
    response = await driver.client.post("/v1/commands", content=b"x" * (512 * 1024 + 1))
    assert response.status_code == 413
    body = json.dumps(
        {"key": driver.site.api_key, "commands": [{"id": "x", "command": ["track", "x", {"v": "y" * 40_000}]}]}
    )
    response = await driver.client.post("/v1/commands", content=body)
    assert response.headers["x-gateway-skipped"].startswith("1; larger than 32 KiB")


def forged(token: str) -> list[str]:
    """Every single-character change of a token, a cut one and a longer one."""
    edits = [token[:n] + ("A" if c != "A" else "B") + token[n + 1 :] for n, c in enumerate(token)]
    return [*edits, token[:-1], token[1:], token + "A", token[: len(token) // 2], "", "x", "a.b.c"]


async def test_a_changed_token_is_no_token(driver: Driver) -> None:
    token = (await send(driver, ["track", "Landed"])).json()["device"]
    device = driver.gateway.device_id(driver.site, token)
    driver.client.cookies.clear()
    for n, other in enumerate(forged(token)):
        response = await send(driver, {"id": f"f{n}", "at": n + 1, "command": ["track", "Forged"]}, device=other)
        assert driver.gateway.device_id(driver.site, response.json()["device"]) != device
        driver.client.cookies.clear()


async def test_a_token_of_another_site_is_no_token(driver: Driver) -> None:
    token = (await send(driver, ["track", "Landed"])).json()["device"]
    driver.client.cookies.clear()
    other = await driver.gateway.sites.create("other", driver.gateway.new_id(), origins=[])
    body = {"key": other.api_key, "device": token, "commands": [{"id": "o", "at": 1, "command": ["track", "There"]}]}
    response = await driver.client.post("/v1/commands", json=body)
    assert response.json()["device"].split(".")[0] != token.split(".")[0]
    assert (await driver.profiles())[0]["events"] == 1


async def test_a_changed_link_identifies_nobody(driver: Driver) -> None:
    link = (await driver.api("POST", "/v1/links", {"identity": "jo@x.io", "url": "https://www.shop.example/"})).json()
    for n, token in enumerate(forged(link["token"])[:-6]):
        await send(driver, {"id": f"l{n}", "at": n + 1, "command": ["link", token]})
    assert all(not p["identities"] for p in await driver.profiles())


async def test_the_secret_key_from_a_browser_is_refused_as_leaked(driver: Driver) -> None:
    headers = {"Authorization": f"Bearer {driver.site.secret_keys[-1]}"}
    for leak in ({"Origin": "https://www.shop.example"}, {"Sec-Fetch-Site": "same-origin"}):
        response = await driver.client.post("/v1/commands", json={"commands": [TRACK]}, headers=headers | leak)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "leaked_secret_key")


async def test_a_browser_cannot_make_the_gateways_own_events(driver: Driver) -> None:
    await send(driver, ["track", "Identity Set", {"by": "me"}])
    assert "spoofed_system_event" in await driver.errors()
    assert all(p["events"] == 0 for p in await driver.profiles())


async def test_a_wrong_clock_is_corrected_and_the_order_kept(driver: Driver) -> None:
    day_ahead = (time.time() + 86400) * 1000
    body = {"key": driver.site.api_key, "sent_at": day_ahead}
    for n, command in enumerate(
        (["track", "one"], ["user", {"id": "bob"}], ["track", "two"], ["user", {"id": "adam"}])
    ):
        entries = [{"id": f"c{n}", "at": day_ahead + n, "command": command}]
        await driver.client.post("/v1/commands", json=body | {"commands": entries, "sent_at": day_ahead + 40 - 9 * n})
    await driver.client.post(
        "/v1/commands", json=body | {"commands": [{"id": "c9", "at": day_ahead + 9, "command": ["track", "three"]}]}
    )
    assert await driver.events("u:bob") == ["one", "two"]
    assert await driver.events("u:adam") == ["three"]
    event = (await driver.api("GET", f"/v1/profiles/{(await driver.find('u:adam'))['profile_id']}/events")).json()[
        "events"
    ][0]
    assert event["occurred_at"][:10] == time.strftime("%Y-%m-%d", time.gmtime())


async def test_times_far_off_are_clamped_and_marked(driver: Driver) -> None:
    await send(driver, {"id": "old", "at": 1, "command": ["track", "Ancient"]})
    (profile,) = await driver.profiles()
    (event,) = (await driver.api("GET", f"/v1/profiles/{profile['profile_id']}/events")).json()["events"]
    assert event["clamped"] is True


async def test_the_redirect_leads_on_and_the_page_confirms_it(driver: Driver) -> None:
    made = (
        await driver.api("POST", "/v1/links", {"identity": "jo@x.io", "url": "https://www.shop.example/sale?a=1#top"})
    ).json()
    response = await driver.client.get(made["redirect"])
    assert (response.status_code, response.headers["location"]) == (302, "https://www.shop.example/sale?a=1#top")
    assert response.headers["cache-control"] == "no-store"
    assert PENDING_LINK in driver.client.cookies
    assert await driver.find("u:jo@x.io") is None
    await send(driver, ["track", "Landed"])
    profile = await driver.find("u:jo@x.io")
    assert profile is not None and profile["tentative"] is True
    assert PENDING_LINK not in driver.client.cookies


async def test_a_look_at_the_redirect_leaves_nothing(driver: Driver) -> None:
    made = (await driver.api("POST", "/v1/links", {"identity": "jo@x.io", "url": "https://www.shop.example/"})).json()
    assert (await driver.client.head(made["redirect"])).status_code == 302
    await driver.client.get(made["redirect"], headers={"Sec-Purpose": "prefetch;prerender"})
    assert PENDING_LINK not in driver.client.cookies
    for token in forged(made["token"])[:40]:
        assert (await driver.client.get(f"/r/{token}")).status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/commands", "/v1/profiles", "/v1/merges", "/r/x", "/veroq.js", "/nowhere", "/%00", "/api/v2/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_any_method_on_any_path_is_never_a_500(driver: Driver, method: str, path: str) -> None:
    for body in (b"", b"{}", b"\x00\xff", b'{"key": "x"}'):
        response = await driver.client.request(method, path, content=body)
        assert response.status_code < 500, response.text


async def test_sites_on_one_host_each_know_the_browser_by_one_cookie(driver: Driver) -> None:
    others = [await driver.gateway.sites.create(f"site {n}", driver.gateway.new_id(), origins=[]) for n in range(9)]
    tokens = {}

    async def visit(site: Any, op_id: str) -> dict[str, Any]:
        body = {"key": site.api_key, "commands": [{"id": op_id, "at": 1, "command": ["track", "Seen"]}]}
        return dict((await driver.client.post("/v1/commands", json=body)).json())

    for site in (driver.site, *others[:3]):
        tokens[site.name] = (await visit(site, "a"))["device"]
    for site in (driver.site, *others[:3]):
        assert await visit(site, "b") == {"status": "ok"}, "it is known by its cookie"
    assert sorted(driver.client.cookies[COOKIE].split("~")) == sorted(tokens.values())
    (profile,) = await driver.profiles()
    assert profile["events"] == 2
    for n, site in enumerate(others[3:]):
        await visit(site, f"c{n}")
    assert len(driver.client.cookies[COOKIE].split("~")) == 8
    assert len(driver.client.cookies[COOKIE]) < 1000, "far from what a cookie may hold"


async def test_what_is_no_token_does_not_stay_in_the_cookie(driver: Driver) -> None:
    token = (await send(driver, ["track", "Landed"])).json()["device"]
    driver.client.cookies.clear()
    other = await driver.gateway.sites.create("other", driver.gateway.new_id(), origins=[])
    body = {"key": other.api_key, "commands": [TRACK]}
    cookie = {"Cookie": f"{COOKIE}=junk~{token[:-1]}x~{token}~{token}"}
    response = await driver.client.post("/v1/commands", json=body, headers=cookie)
    value = response.headers["set-cookie"].partition("=")[2].partition(";")[0]
    assert value == f"{response.json()['device']}~{token}"
