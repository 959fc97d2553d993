"""How browsers reach the gateway: cookies per mode, settings that cannot work together, a path prefix, a proxy."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import make_app, opened, warn_of_other_sites
from gateway.cookies import COOKIE, DEV_COOKIE, PENDING_LINK
from gateway.errors import SettingError
from gateway.settings import load
from tests.driver import Driver
from tests.server import GatewayServer

THIRD_PARTY = {"GATEWAY_COOKIE_MODE": "third_party"}


@asynccontextmanager
async def deployed(folder: Path, base_url: str, **environment: str) -> Any:
    """A driver whose browsers find the gateway at `base_url`."""
    settings = load(
        {f"GATEWAY_{k.upper()}": v for k, v in environment.items()}, database=f"sqlite:///{folder / 'g.db'}"
    )
    async with opened(settings) as gateway:
        site = await gateway.sites.create("shop", gateway.new_id(), origins=["https://www.shop.example"])
        transport = httpx.ASGITransport(app=make_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
            yield Driver(gateway, client, site)


async def visit(driver: Driver, path: str = "/v1/commands", **more: Any) -> httpx.Response:
    """A page's first request."""
    entry = {"id": "m1", "at": 1, "command": ["track", "Landed"]}
    body = json.dumps({"key": driver.site.api_key, "commands": [entry], **more})
    return await driver.client.post(path, content=body, headers={"Origin": "https://www.shop.example"})


@pytest.mark.parametrize(
    ("base_url", "environment", "name", "attributes"),
    [
        ("https://www.shop.example/vq", {}, COOKIE, "Secure; HttpOnly; SameSite=Lax"),
        ("https://t.shop.example", {}, COOKIE, "Secure; HttpOnly; SameSite=Lax"),
        (
            "https://tracker.example",
            {"cookie_mode": "third_party", "public_url": "https://tracker.example"},
            COOKIE,
            "Secure; HttpOnly; SameSite=None; Partitioned",
        ),
        ("http://localhost:8000", {}, DEV_COOKIE, "HttpOnly; SameSite=Lax"),
        ("http://t.shop.localhost:8000", {}, DEV_COOKIE, "HttpOnly; SameSite=Lax"),
    ],
)
async def test_the_cookie_of_each_mode(
    tmp_path: Path, base_url: str, environment: dict[str, str], name: str, attributes: str
) -> None:
    public = {"public_url": base_url} if "/vq" in base_url else {}
    async with deployed(tmp_path, base_url, **environment, **public) as driver:
        response = await visit(driver, f"{base_url}/v1/commands")
        value, _, rest = response.headers["set-cookie"].partition("; ")
        assert value == f"{name}={response.json()['device']}"
        assert rest == f"Path=/; Max-Age=34560000; {attributes}"
        again = await visit(driver, f"{base_url}/v1/commands")
        assert again.json() == {"status": "ok"}, "the cookie works: no token is needed"


async def test_a_third_party_whose_cookie_is_refused_knows_the_browser_by_its_token(tmp_path: Path) -> None:
    environment = {"cookie_mode": "third_party", "public_url": "https://tracker.example"}
    async with deployed(tmp_path, "https://tracker.example", **environment) as driver:
        token = (await visit(driver)).json()["device"]
        driver.client.cookies.clear()
        again = await visit(driver, device=token)
        assert again.json()["device"].split(".")[0] == token.split(".")[0]


@pytest.mark.parametrize(
    ("environment", "says", "hint"),
    [
        (THIRD_PARTY, "no GATEWAY_PUBLIC_URL", "GATEWAY_PUBLIC_URL=https://"),
        (THIRD_PARTY | {"GATEWAY_PUBLIC_URL": "http://tracker.example"}, "https only", "TLS"),
        ({"GATEWAY_PUBLIC_URL": "http://t.shop.example"}, "https only", "TLS"),
        ({"GATEWAY_PUBLIC_URL": "http://10.0.0.7:8000"}, "https only", "TLS"),
        ({"GATEWAY_PUBLIC_URL": "t.shop.example"}, "https://t.shop.example", ""),
        ({"GATEWAY_PUBLIC_URL": "https://me@t.shop.example"}, "https://t.shop.example", ""),
        ({"GATEWAY_PUBLIC_URL": "https://t.shop.example/?a"}, "https://t.shop.example", ""),
        ({"GATEWAY_PUBLIC_URL": "https:///vq"}, "https://t.shop.example", ""),
        ({"GATEWAY_COOKIE_MODE": "both"}, "first_party", ""),
        ({"GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8, proxy"}, "'proxy'", ""),
    ],
)
def test_a_mode_whose_cookie_cannot_work_does_not_start(environment: dict[str, str], says: str, hint: str) -> None:
    with pytest.raises(SettingError) as refused:
        load(environment)
    assert says in refused.value.message
    assert hint in refused.value.hint
    assert "GATEWAY_" in refused.value.message


@pytest.mark.parametrize(
    "environment",
    [
        {"GATEWAY_PUBLIC_URL": "http://localhost:8000"},
        {"GATEWAY_PUBLIC_URL": "http://t.shop.localhost:8000/vq/"},
        {"GATEWAY_PUBLIC_URL": "http://[::1]:8000"},
        {"GATEWAY_PUBLIC_URL": "https://www.shop.example/vq"},
        THIRD_PARTY | {"GATEWAY_PUBLIC_URL": "https://tracker.example"},
        {"GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8, ::1, 127.0.0.1"},
        {"GATEWAY_TRUSTED_PROXIES": ""},
    ],
)
def test_what_can_work_starts(environment: dict[str, str]) -> None:
    load(environment)


def test_the_command_line_says_what_to_change(tmp_path: Path) -> None:
    server = GatewayServer(tmp_path, environment=THIRD_PARTY)
    done = server.command("serve", "--port", "0", check=False)
    assert done.returncode == 1
    assert "GATEWAY_COOKIE_MODE" in done.stderr and "GATEWAY_PUBLIC_URL=https://" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("stripped", [True, False], ids=["proxy strips /vq", "proxy leaves /vq"])
async def test_everything_works_below_a_path(tmp_path: Path, stripped: bool) -> None:
    public = "https://www.shop.example/vq"
    at = "" if stripped else "/vq"
    async with deployed(tmp_path, "https://www.shop.example", public_url=f"{public}/") as driver:
        assert (await visit(driver, f"{at}/v1/commands")).status_code == 202
        assert (await driver.client.get(f"{at}/veroq.js")).status_code == 200
        assert (await driver.client.get(f"{at}/ready")).status_code == 200
        moved = await driver.client.get(f"{at}/veroq.0123456789.js")
        assert moved.headers["location"] == "veroq.js"
        assert (await driver.client.get(f"{at}/privacy")).status_code == 200
        assert 'href="openapi.json"' in (await driver.client.get(f"{at}/docs")).text
        body = {"identity": "jo@x.io", "url": "https://www.shop.example/sale"}
        headers = {"Authorization": f"Bearer {driver.site.secret_keys[-1]}"}
        made = (await driver.client.post(f"{at}/v1/links", json=body, headers=headers)).json()
        assert made["redirect"].startswith(f"{public}/r/")
        followed = await driver.client.get(made["redirect"].replace(public, f"https://www.shop.example{at}"))
        assert followed.headers["location"] == "https://www.shop.example/sale"
        assert PENDING_LINK in driver.client.cookies
        event = {"event": "Seen", "distinct_id": "8", "properties": {}}
        suprsend = await driver.client.post(f"{at}/v2/event/", json=event, headers=headers)
        assert suprsend.status_code == 202, "a route that matches the path as it was sent"


async def test_a_path_that_only_begins_like_the_prefix_is_another(tmp_path: Path) -> None:
    async with deployed(tmp_path, "https://www.shop.example", public_url="https://www.shop.example/vq") as driver:
        assert (await driver.client.get("/vqueue/ready")).status_code == 404
        assert (await driver.client.get("/vq")).status_code == 404


async def test_a_third_party_leads_links_on_with_their_parameter(tmp_path: Path) -> None:
    environment = {"cookie_mode": "third_party", "public_url": "https://tracker.example"}
    async with deployed(tmp_path, "https://tracker.example", **environment) as driver:
        body = {"identity": "jo@x.io", "url": "https://www.shop.example/sale?a=1#top"}
        made = (await driver.api("POST", "/v1/links", body)).json()
        response = await driver.client.get(made["redirect"])
        assert response.headers["location"] == made["url"]
        assert "set-cookie" not in response.headers
        for headers in ({"Sec-Purpose": "prefetch"}, {"Sec-GPC": "1"}):
            look = await driver.client.get(made["redirect"], headers=headers)
            assert look.headers["location"] == "https://www.shop.example/sale?a=1#top"


async def test_the_probe_says_how_a_request_arrived_and_keeps_nothing(tmp_path: Path) -> None:
    async with deployed(tmp_path, "https://t.shop.example") as driver:
        headers = {"Origin": "https://www.shop.example", "Sec-GPC": "1", "X-Forwarded-For": "203.0.113.7"}
        first = await driver.client.get("/v1/probe?value=abc", headers=headers)
        assert first.headers["set-cookie"] == (
            "__Host-Http-vq-probe=abc; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax"
        )
        seen = first.json()
        assert (seen["scheme"], seen["host"], seen["origin"]) == ("https", "t.shop.example", "https://www.shop.example")
        assert (seen["gpc"], seen["forwarded"], seen["echoed"], seen["cookie"]) == (True, True, None, COOKIE)
        assert (await driver.client.get("/v1/probe")).json()["echoed"] == "abc"
        odd = await driver.client.get("/v1/probe?value=a%3B%20Domain=shop.example")
        assert "set-cookie" not in odd.headers
        assert await driver.profiles() == []


def test_x_forwarded_headers_count_from_trusted_proxies_only(tmp_path: Path) -> None:
    headers = {"Host": "t.shop.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}
    seen = {}
    with GatewayServer(tmp_path, environment={"GATEWAY_TRUSTED_PROXIES": "127.0.0.1,::1"}) as server:
        for address in ("127.0.0.1", "127.0.0.2"):
            transport = httpx.HTTPTransport(local_address=address)
            with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{server.port}") as client:
                seen[address] = client.get("/v1/probe", headers=headers).json()
    told = {a: (s["scheme"], s["cookie"], s["client"]) for a, s in seen.items()}
    assert told == {"127.0.0.1": ("https", COOKIE, "203.0.113.7"), "127.0.0.2": ("http", None, "127.0.0.2")}


@pytest.mark.parametrize(
    ("origins", "public_url", "mode", "warned"),
    [
        (["https://www.shop.example"], "https://tracker.example", "first_party", True),
        (["https://www.shop.example"], "https://tracker.example", "third_party", False),
        (["https://www.shop.example"], "https://t.shop.example", "first_party", False),
        (["https://www.other.example", "https://shop.example"], "https://t.shop.example", "first_party", False),
        ([], "https://t.shop.example", "first_party", False),
        (["https://www.shop.example"], "", "first_party", False),
    ],
)
async def test_a_site_whose_pages_cannot_send_the_cookie_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, origins: list[str], public_url: str, mode: str, warned: bool
) -> None:
    environment = {"GATEWAY_PUBLIC_URL": public_url, "GATEWAY_COOKIE_MODE": mode}
    async with opened(load(environment, database=f"sqlite:///{tmp_path / 'gateway.db'}")) as gateway:
        await gateway.sites.create("shop", gateway.new_id(), origins=origins)
        await warn_of_other_sites(gateway)
    assert ("GATEWAY_COOKIE_MODE=third_party" in caplog.text) is warned
    assert ("shop: its pages are" in caplog.text) is warned
