"""The site under test of most examples: a shop of three pages that embed the snippet, on a free port."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

PAGES = {
    "/": "<h1>Shoes</h1><script>_veroq.push(['track', 'Viewed product', {sku: 'A1'}])</script>"
    '<a href="/checkout">Buy</a> <a href="/login">Log in</a>',
    "/login": "<button id=login>Log in</button><script>"
    "login.onclick = () => _veroq.push(['user', {id: '42', email: 'jo@x.io'}])</script>",
    "/checkout": "<button id=pay>Pay</button><script>"
    "pay.onclick = () => _veroq.push(['track', 'Purchased', {total: 12, currency: 'EUR'}])</script>",
}


class Shop(BaseHTTPRequestHandler):
    snippet = ""

    def do_GET(self) -> None:
        body = PAGES.get(self.path.partition("?")[0])
        html = f"<!doctype html><html><head>{self.snippet}</head><body>{body}</body></html>".encode()
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(html)))
        self.end_headers()
        self.wfile.write(html)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def shop(gateway: Any) -> Iterator[str]:
    """The address of the shop, which tracks with the test's gateway."""
    handler = type("ThisShop", (Shop,), {"snippet": gateway.snippet_html()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Drives the Chromium of the system if there is one; without it, `playwright install chromium` brings one."""
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    return browser_type_launch_args | ({"executable_path": installed} if installed else {})
