"""The websites of the browser tests: pages on http://localhost and any *.localhost, and a record of every request."""

import json
import socket
import threading
from dataclasses import dataclass, field
from typing import Any, Self

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.server import wait_for

# The loader of Vero's documentation; only the address of the script is another one.
LOADER = """<script>
var _veroq = _veroq || [];
_veroq.push(['init', {init}]);
(function() {{var ve = document.createElement('script'); ve.type = 'text/javascript'; ve.async = true;
  ve.src = {source};
  var s = document.getElementsByTagName('script')[0]; s.parentNode.insertBefore(ve, s);}})();
</script>"""


def snippet_page(
    gateway_url: str, api_key: str, *, script: str = "", body: str = "", head: str = "", source: str = "/m.js"
) -> str:
    """An HTML page with the snippet; `script` is JavaScript that runs right after the loader."""
    init, address = json.dumps({"api_key": api_key}), json.dumps(gateway_url + source)
    loader = LOADER.format(init=init, source=address)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>{head}\n{loader}\n'
        f"<script>{script}</script></head><body>{body}</body></html>"
    )


@dataclass
class Page:
    html: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Visit:
    """One request that the site host got."""

    method: str
    host: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Listener:
    """Serves an ASGI application on a free port from a thread of its own; `options` are uvicorn's, as for TLS."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        socket_ = socket.socket()
        socket_.bind(("127.0.0.1", 0))
        self.port: int = socket_.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", **options))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [socket_]}, daemon=True)

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self._server.started, message="the site host to start")

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)


class SiteHost:
    """Serves `pages`, a dict from path (`/`) or host and path (`shop.localhost/`) to HTML or a `Page`.

    Every request is kept in `visits`, except those for /favicon.ico.
    """

    def __init__(self) -> None:
        self.pages: dict[str, str | Page] = {}
        self.visits: list[Visit] = []
        self._listener = Listener(self)

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()

    @property
    def port(self) -> int:
        return self._listener.port

    def clear(self) -> None:
        self.pages.clear()
        self.visits.clear()

    def origin(self, host: str = "localhost") -> str:
        return f"http://{host}:{self.port}"

    def url(self, path: str = "/", host: str = "localhost") -> str:
        return self.origin(host) + path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        host, path = request.url.hostname or "", request.url.path
        if path == "/favicon.ico":
            await Response(status_code=204)(scope, receive, send)
            return
        body = await request.body()
        self.visits.append(Visit(request.method, host, path, request.url.query, dict(request.headers), body))
        page = self.pages.get(host + path, self.pages.get(path, Page("no such page", 404)))
        page = Page(page) if isinstance(page, str) else page
        response = Response(page.html, page.status, page.headers, "text/html")
        await response(scope, receive, send)
