"""GET /r/<token>: leads to the site's own pages and nowhere else, and identifies nobody by itself."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import make_app, opened
from gateway.cookies import COOKIE, PENDING_LINK
from gateway.errors import BadRequest
from gateway.links import check_target
from gateway.model import Site
from gateway.settings import load
from gateway.signing import LinkPayload, link_token
from gateway.sites import check_link_param
from tests.driver import Driver
from tests.programs import required

ORIGINS = ["https://www.shop.example", "http://shop.localhost:8080", "https://xn--mnchen-3ya.example"]
SHOP = "https://www.shop.example"

BYPASSES = [
    *("", "/", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "evil.example", "?u=//evil"),
    *(
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "javascript://www.shop.example/%0aalert(1)",
        "java\tscript:alert(1)",
    ),
    *("data:text/html,<script>alert(1)</script>", "vbscript:x", "file:///etc/passwd", "ftp://www.shop.example/"),
    *("blob:https://www.shop.example/1", "view-source:https://www.shop.example/", "about:blank", "filesystem:x"),
    *(
        "https:evil.example",
        "https:/evil.example",
        "https:///evil.example",
        "https:\\\\evil.example",
        "http:evil.example",
    ),
    *("https://evil.example", "HTTPS://EVIL.EXAMPLE", "https://evil.example/https://www.shop.example/"),
    *("https://www.shop.example.evil.example", "https://evil-www.shop.example", "https://wwwXshop.example"),
    *("https://shop.example", "https://x.www.shop.example", "https://www.shop.example.", "https://www.shop.example./a"),
    *("https://www.shop.example@evil.example", "https://www.shop.example:x@evil.example", "https://@evil.example"),
    *("https://a:b@www.shop.example/", "https://@www.shop.example/", "https://www.shop.example%40evil.example/"),
    *("https://evil.example#@www.shop.example", "https://evil.example?@www.shop.example", "https://evil.example;.x"),
    *("https://evil.example\\@www.shop.example", "https://www.shop.example\\.evil.example", "https://evil.example\\.x"),
    *("https://www.shop.example\\@evil.example/", "https://www.shop.example/\\evil.example", "https:/\\evil.example"),
    *("https://www.shop.example\t.evil.example", "https://www.shop.example\n.evil.example", "\thttps://evil.example"),
    *(
        "https://www.shop.example/\r\nSet-Cookie: a=b",
        "https://www.shop.example/\r\n\r\n<html>",
        "\x00https://evil.example",
    ),
    *(
        "https://www.shop.example/a b",
        " https://www.shop.example/",
        "https://www.shop.example /",
        "https://evil .example",
    ),
    *("https://www.shop.example%2eevil.example", "https://www.shop.example%00.evil.example", "https://%65vil.example"),
    *(
        "https://www.shop.example%2f@evil.example",
        "https://www.shop.example%5c@evil.example",
        "https://www%2eshop.example",
    ),
    *(
        "https://www。shop。example/",
        "https://www.shop.example。evil.example",
        "https://www.shop.example．evil.example",
    ),
    *("https://www.shop.example｡evil.example", "https://ｗｗｗ.shop.example/", "https://www.ſhop.example/"),
    *(
        "https://www.shop.example／evil",
        "https://evil.example／.www.shop.example",
        "https://evil.example℀.shop.example",
    ),
    *("https://xn--wwwshop-example.evil.example", "https://münchen.example/", "https://www.shop.examplе/"),
    *(
        "https://www.shop.example:444/",
        "https://www.shop.example:8080",
        "https://www.shop.example:0/",
        "http://www.shop.example",
    ),
    *(
        "https://www.shop.example:80",
        "http://www.shop.example:443",
        "https://www.shop.example:443:80",
        "https://www.shop.example:x",
    ),
    *(
        "https://www.shop.example:4 43",
        "https://www.shop.example:٤٤٣/",
        "https://www.shop.example:65979",
        "https://:443/",
    ),
    *("https://www.shop.example:-443", "https://www.shop.example:+443", "https://www.shop.example:443@evil.example"),
    *("https://www.shop.example:99999", "https://www.shop.example:000443/", "https://www.shop.example:00/"),
    *(
        "https://[www.shop.example]/",
        "https://[::1]/",
        "https://[::ffff:1.2.3.4%25eth0]",
        "https://2130706433",
        "https://0x7f.1",
    ),
    *(
        "https://www.shop.example\u202e/evil",
        "https://www.shop.example/\u200b",
        "https://www.shop.example\u00ad.evil.example",
    ),
    *("http://shop.localhost", "http://shop.localhost:8081", "https://shop.localhost:8080", f"{SHOP}/{'a' * 2048}"),
]
GOOD = {
    SHOP: SHOP,
    f"{SHOP}/": f"{SHOP}/",
    "HTTPS://WWW.Shop.Example/A": "HTTPS://WWW.Shop.Example/A",
    f"{SHOP}:443/a": f"{SHOP}:443/a",
    f"{SHOP}:00443/a": f"{SHOP}:00443/a",
    f"{SHOP}:/a": None,
    f"{SHOP}?a=1": f"{SHOP}?a=1",
    f"{SHOP}#@evil.example": f"{SHOP}#@evil.example",
    f"{SHOP}?@evil.example": f"{SHOP}?@evil.example",
    f"{SHOP}//evil.example": f"{SHOP}//evil.example",
    f"{SHOP}/a?next=https://evil.example/&x=%2F%5c#top": f"{SHOP}/a?next=https://evil.example/&x=%2F%5c#top",
    f"{SHOP}/café?q=€#ü": f"{SHOP}/caf%C3%A9?q=%E2%82%AC#%C3%BC",
    "http://shop.localhost:8080/a": "http://shop.localhost:8080/a",
    "https://xn--mnchen-3ya.example/": "https://xn--mnchen-3ya.example/",
}


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    async with opened(load({}, database=f"sqlite:///{tmp_path / 'gateway.db'}")) as gateway:
        site = await gateway.sites.create("shop", gateway.new_id(), origins=ORIGINS)
        transport = httpx.ASGITransport(app=make_app(gateway), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://t.shop.example") as client:
            yield Driver(gateway, client, site)


def token_for(driver: Driver, url: str) -> str:
    """A token that was really signed, as if the link had once been allowed."""
    return link_token(driver.gateway.signer, LinkPayload(driver.site.site_id, "id", "jo@x.io", url))


async def made(driver: Driver, url: str = f"{SHOP}/sale?a=1#top") -> Any:
    return (await driver.api("POST", "/v1/links", {"identity": "jo@x.io", "url": url})).json()


@pytest.mark.parametrize("url", BYPASSES)
async def test_no_link_leads_away_from_the_site(driver: Driver, url: str) -> None:
    refused = await driver.api("POST", "/v1/links", {"identity": "jo@x.io", "url": url})
    assert refused.status_code == 400, refused.text
    followed = await driver.client.get(f"/r/{token_for(driver, url)}")
    assert followed.status_code in (400, 404), followed.headers
    assert "location" not in followed.headers and "set-cookie" not in followed.headers


@pytest.mark.parametrize("url", GOOD)
async def test_links_to_the_sites_own_pages_lead_there(driver: Driver, url: str) -> None:
    response = await driver.client.get(f"/r/{token_for(driver, url)}")
    if GOOD[url] is None:
        assert response.status_code == 400
        return
    assert (response.status_code, response.headers["location"]) == (302, GOOD[url])


def test_browsers_read_every_target_as_we_do() -> None:
    """Node's URL is the browsers' own algorithm. Odd letters go everywhere into good and bad addresses."""
    site = Site(1, "shop", "k" * 40, ["s" * 64], {"origins": ORIGINS})
    odd = [
        *"\\/@:?#.%;&[]<>^|`\t\n\r \x00\u3002\uff0e\u2044\u00ad\u200d\u212a\u0130ß",
        "//",
        "\\\\",
        "%2f",
        "%5c",
        "@evil.example",
    ]
    bases = [*GOOD, "https://evil.example/", "https://www.shop.example.evil.example/"]
    urls = {
        base[:n] + letter + base[n:] for base, letter in itertools.product(bases, odd) for n in range(len(base) + 1)
    }
    accepted = []
    for url in sorted(urls | set(BYPASSES) | set(GOOD)):
        try:
            accepted.append(check_target(url, site))
        except BadRequest:
            continue
    script = (
        "const u=JSON.parse(require('fs').readFileSync(0));console.log(JSON.stringify(u.map(x=>new URL(x).origin)))"
    )
    command = [required("node"), "-e", script]
    done = subprocess.run(command, input=json.dumps(accepted), capture_output=True, text=True, timeout=30, check=True)
    assert len(accepted) > 1000
    assert set(json.loads(done.stdout)) <= set(ORIGINS)


async def test_a_link_to_a_host_that_was_taken_off_the_list_leads_nowhere(driver: Driver) -> None:
    link = await made(driver)
    driver.site.settings["origins"] = ["https://other.example"]
    await driver.gateway.sites.save(driver.site)
    response = await driver.client.get(link["redirect"])
    assert (response.status_code, "location" in response.headers) == (400, False)


async def test_what_a_redirect_tells_caches_and_other_sites(driver: Driver) -> None:
    response = await driver.client.get((await made(driver))["redirect"])
    assert (response.status_code, response.headers["location"]) == (302, f"{SHOP}/sale?a=1#top")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-robots-tag"] == "noindex"
    assert "content-encoding" not in response.headers and response.content == b""
    pending, device = response.headers.get_list("set-cookie")
    assert pending.startswith(f"{PENDING_LINK}=") and pending.endswith("Max-Age=600; HttpOnly; SameSite=Lax; Secure")
    assert device.startswith(f"{COOKIE}=") and device.endswith("Max-Age=34560000; Secure; HttpOnly; SameSite=Lax")


async def test_the_device_of_a_redirect_is_the_pages_and_stays(driver: Driver) -> None:
    link = await made(driver)
    await driver.client.get(link["redirect"])
    cookie = driver.client.cookies[COOKIE]
    assert await driver.profiles() == [], "nothing is stored before a page says something"
    again = await driver.client.get(link["redirect"])
    assert len(again.headers.get_list("set-cookie")) == 1, "who is known keeps the cookie"
    body = {"key": driver.site.api_key, "commands": [{"id": "m1", "at": 1, "command": ["track", "Landed"]}]}
    response = await driver.client.post("/v1/commands", json=body)
    assert response.json() == {"status": "ok"}, "the cookie works at once: no token is needed"
    assert driver.client.cookies[COOKIE] == cookie
    profile = await driver.find("u:jo@x.io")
    assert profile is not None and profile["events"] == 1
    await driver.check_refold()


LOOKS: list[tuple[str, dict[str, str]]] = [
    ("HEAD", {}),
    ("GET", {"Sec-Purpose": "prefetch"}),
    ("GET", {"Sec-Purpose": "prefetch;prerender"}),
    ("GET", {"Sec-Purpose": "prefetch;anonymous-client-ip"}),
    ("GET", {"Purpose": "prefetch"}),
    ("GET", {"X-Purpose": "preview"}),
    ("GET", {"X-Moz": "prefetch"}),
]


@pytest.mark.parametrize(("method", "headers"), LOOKS, ids=[f"{m} {h}" for m, h in LOOKS])
async def test_machines_that_have_a_look_carry_nothing_away(
    driver: Driver, method: str, headers: dict[str, str]
) -> None:
    response = await driver.client.request(method, (await made(driver))["redirect"], headers=headers)
    assert (response.status_code, "set-cookie" in response.headers) == (302, False)


async def test_scanners_that_open_every_link_identify_nobody(driver: Driver) -> None:
    link = await made(driver)
    for agent in ("Mozilla/5.0", "GoogleImageProxy", "curl/8", "Mozilla/5.0 (compatible; SafeLinks)"):
        driver.client.cookies.clear()
        for _ in range(8):
            await driver.client.get(link["redirect"], headers={"User-Agent": agent})
    assert await driver.find("u:jo@x.io") is None
    assert await driver.profiles() == []
    assert (await driver.api("GET", "/v1/ledger?limit=500")).json()["facts"] == []


async def test_a_page_that_is_only_prerendered_confirms_no_link(driver: Driver) -> None:
    await driver.client.get((await made(driver))["redirect"])
    body = {"key": driver.site.api_key, "commands": [{"id": "m1", "at": 1, "command": ["track", "Landed"]}]}
    await driver.client.post("/v1/commands", json=body, headers={"Sec-Purpose": "prefetch;prerender"})
    assert await driver.find("u:jo@x.io") is None
    assert PENDING_LINK in driver.client.cookies, "it waits for the page to be seen"
    body["commands"][0]["id"] = "m2"  # type: ignore[index]
    await driver.client.post("/v1/commands", json=body)
    profile = await driver.find("u:jo@x.io")
    assert profile is not None and profile["tentative"]


async def test_a_link_followed_by_somebody_known_changes_nothing(driver: Driver) -> None:
    body = {"key": driver.site.api_key, "commands": [{"id": "m1", "at": 1, "command": ["user", {"id": "42"}]}]}
    await driver.client.post("/v1/commands", json=body)
    before = await driver.find("u:42")
    await driver.client.get((await made(driver))["redirect"])
    again = {"key": driver.site.api_key, "commands": [{"id": "m2", "at": 2, "command": ["track", "Landed"]}]}
    await driver.client.post("/v1/commands", json=again)
    after = await driver.find("u:42")
    assert before is not None and after is not None
    assert (after["identities"], after["profile_id"]) == (before["identities"], before["profile_id"])
    assert await driver.find("u:jo@x.io") is None or (await driver.events("u:jo@x.io")) == []


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a&b", "'", "vero_conv", "conv_id", "é", "x" * 65, "a\n"])
def test_a_parameter_has_a_name_that_every_address_can_hold(name: str) -> None:
    with pytest.raises(BadRequest, match="link parameter"):
        check_link_param(name)


async def test_the_parameters_name_is_the_sites_own(driver: Driver) -> None:
    driver.site.settings["link_param"] = check_link_param("who")
    await driver.gateway.sites.save(driver.site)
    link = await made(driver)
    assert link["url"] == f"{SHOP}/sale?a=1&who={link['token']}#top"
