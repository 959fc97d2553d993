"""The script as it is served: small, compressed as asked for, and cached by what is in it."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import brotli
import httpx
import pytest
from starlette.applications import Starlette

from gateway import __version__, snippet
from gateway.cli_pages import loader
from gateway.model import Site
from gateway.snippet import best_coding, load_snippet
from tests.server import GatewayServer

ROOT = Path(__file__).resolve().parent.parent
PATHS = ["/veroq.js", "/m.js", "/assets/m.js"]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Starlette(routes=snippet.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="https://t.shop.example") as client:
        del client.headers["accept-encoding"]
        yield client


def test_the_snippet_stays_small() -> None:
    packed = load_snippet().served.bodies["gzip"]
    assert packed == gzip.compress(load_snippet().served.bodies["identity"], 9, mtime=0)
    assert len(packed) <= 2400, f"{len(packed)} bytes"


def test_the_served_file_is_the_readable_one_with_shorter_names() -> None:
    served, source = (script.bodies["identity"].decode() for script in (load_snippet().served, load_snippet().source))
    assert source == (ROOT / "static" / "veroq.js").read_text()
    assert len(served) < len(source) / 2
    for word in ("processVeroArray", "Semblance", "attach_to_kissmetrics", "attach_to_mixpanel", "/v1/commands"):
        assert word in served
    assert "conversion" not in served


def test_the_snippet_needs_nothing_that_a_strict_page_forbids() -> None:
    source = load_snippet().source.bodies["identity"].decode()
    code = re.sub(r"/\*.*?\*/|//.*", "", source, flags=re.DOTALL)
    for forbidden in ("eval(", "Function(", "innerHTML", "document.write", "createElement", "unload", "XMLHttpRequest"):
        assert forbidden not in code


@pytest.mark.parametrize("path", PATHS)
async def test_every_name_serves_the_same_script(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    assert response.content == load_snippet().served.bodies["identity"]
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "content-encoding" not in response.headers


async def test_headers_let_any_site_load_and_cache_it(client: httpx.AsyncClient) -> None:
    headers = (await client.get("/veroq.js")).headers
    assert headers["cache-control"] == "public, max-age=3600, stale-while-revalidate=86400"
    assert headers["vary"] == "Accept-Encoding"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert headers["timing-allow-origin"] == "*"
    assert headers["x-gateway-version"] == __version__
    assert "set-cookie" not in headers


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", "identity"),
        ("gzip", "gzip"),
        ("br", "br"),
        ("gzip, deflate, br, zstd", "br"),
        ("GZIP;q=1.0, BR ; q=0.5", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("br;q=0, gzip;q=0", "identity"),
        ("*", "br"),
        ("*;q=0", "identity"),
        ("identity", "identity"),
        ("deflate", "identity"),
        ("br;q=high", "identity"),
        (",;,", "identity"),
    ],
)
def test_coding_is_the_one_the_client_prefers(accepted: str, coding: str) -> None:
    assert best_coding(accepted) == coding


@pytest.mark.parametrize("coding", ["br", "gzip"])
async def test_compressed_bodies_hold_the_same_script(client: httpx.AsyncClient, coding: str) -> None:
    async with client.stream("GET", "/veroq.js", headers={"accept-encoding": coding}) as response:
        packed = b"".join([part async for part in response.aiter_raw()])
    assert response.headers["content-encoding"] == coding
    assert response.headers["content-length"] == str(len(packed))
    unpack = {"br": brotli.decompress, "gzip": gzip.decompress}[coding]
    assert unpack(packed) == load_snippet().served.bodies["identity"]


async def test_an_etag_is_strong_and_one_per_coding(client: httpx.AsyncClient) -> None:
    answers = [await client.get("/veroq.js", headers={"accept-encoding": coding}) for coding in ("", "gzip", "br")]
    tags = {answer.headers["etag"] for answer in answers}
    assert len(tags) == 3
    assert all(re.fullmatch(r'"[\w-]+"', tag) for tag in tags)
    assert (await client.get("/veroq.src.js")).headers["etag"] not in tags


@pytest.mark.parametrize("known", ['"{0}"', 'W/"{0}"', '"other", "{0}"', "*"])
async def test_an_unchanged_script_is_not_sent_again(client: httpx.AsyncClient, known: str) -> None:
    first = await client.get("/veroq.js", headers={"accept-encoding": "br"})
    tag = first.headers["etag"].strip('"')
    response = await client.get("/veroq.js", headers={"accept-encoding": "br", "if-none-match": known.format(tag)})
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["etag"] == f'"{tag}"'
    assert response.headers["cache-control"].startswith("public")
    assert response.headers["vary"] == "Accept-Encoding"
    plain = await client.get("/veroq.js", headers={"if-none-match": f'"{tag}"'})
    assert plain.status_code == 200, "another coding"


async def test_head_tells_the_length_only(client: httpx.AsyncClient) -> None:
    asked, got = await client.head("/veroq.js"), await client.get("/veroq.js")
    assert asked.content == b""
    assert dict(asked.headers) == dict(got.headers)


async def test_no_other_request_header_changes_the_bytes(client: httpx.AsyncClient) -> None:
    odd = {
        "origin": "https://shop.example",
        "host": "evil.example",
        "sec-gpc": "1",
        "sec-purpose": "prefetch",
        "save-data": "on",
        "sec-fetch-dest": "document",
        "accept": "text/html",
        "referer": "https://evil.example/",
        "authorization": "Bearer x",
        "x-forwarded-for": "203.0.113.7",
        "x-forwarded-proto": "http",
        "if-modified-since": "Fri, 01 Jan 2100 00:00:00 GMT",
        "cookie": "vq_dev=1",
        "user-agent": "old",
        "accept-language": "de",
        "range": "bytes=0-9",
        "x-forwarded-host": "evil.example",
    }
    for path in (*PATHS, "/veroq.src.js", f"/{load_snippet().name}"):
        plain, dressed = await client.get(path), await client.get(f"{path}?v=2", headers=odd)
        assert (dressed.status_code, dressed.content, dict(dressed.headers)) == (
            200,
            plain.content,
            dict(plain.headers),
        )


async def test_the_pinned_name_and_integrity_value_follow_the_content(client: httpx.AsyncClient) -> None:
    loaded = load_snippet()
    assert re.fullmatch(r"veroq\.[0-9a-f]{10}\.js", loaded.name)
    response = await client.get(f"/{loaded.name}")
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    digest = base64.b64encode(hashlib.sha384(response.content).digest()).decode()
    assert loaded.integrity == f"sha384-{digest}"
    assert loaded.tag("https://shop.example/t/") == (
        f'<script async src="https://shop.example/t/{loaded.name}" integrity="sha384-{digest}" crossorigin="anonymous">'
        "</script>"
    )


async def test_a_version_that_is_gone_leads_to_the_latest(client: httpx.AsyncClient) -> None:
    response = await client.get("/veroq.0123456789.js")
    assert response.status_code == 302
    assert response.headers["location"] == "veroq.js", "relative, so that a path prefix stays"
    assert response.headers["cache-control"] == "no-cache"


async def test_the_source_is_there_to_read(client: httpx.AsyncClient) -> None:
    response = await client.get("/veroq.src.js")
    assert response.text == (ROOT / "static" / "veroq.js").read_text()


def test_a_platform_without_the_minifier_serves_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snippet, "minify", None)
    loaded = load_snippet.__wrapped__()
    assert loaded.served == loaded.source


def test_what_to_paste_holds_the_key_and_the_address_and_can_be_pinned() -> None:
    site = Site(1, "shop", "ab" * 20, [])
    plain = loader(site, "https://www.shop.example/vq", sri=False)
    assert "_veroq.push(['init', { api_key: '" + "ab" * 20 + "' }]);" in plain["html"]
    assert '<script async src="https://www.shop.example/vq/veroq.js"></script>' in plain["html"]
    assert plain["csp"] == "script-src https://www.shop.example; connect-src https://www.shop.example"
    pinned = loader(site, "https://www.shop.example/vq", sri=True)
    assert load_snippet().tag("https://www.shop.example/vq") in pinned["html"]
    site.settings["link_param"] = "who"
    assert "link_param: 'who'" in loader(site, "https://t.shop.example", sri=False)["html"]


def test_the_command_prints_it_for_people_and_for_scripts(tmp_path: Path) -> None:
    server = GatewayServer(tmp_path, environment={"GATEWAY_PUBLIC_URL": "https://www.shop.example/vq"})
    made = server.site("shop")
    text = server.command("snippet", "shop").stdout
    assert made["api_key"] in text and 'src="https://www.shop.example/vq/veroq.js"' in text
    said = json.loads(server.command("snippet", "shop", "--sri", "--json", "--url", "https://t.shop.example").stdout)
    assert said["src"] == f"https://t.shop.example/{load_snippet().name}"
    assert (said["integrity"], said["api_key"]) == (load_snippet().integrity, made["api_key"])
