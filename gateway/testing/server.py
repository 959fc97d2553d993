"""The thread in which gateways serve, and websites made of files."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import uvicorn
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

T = TypeVar("T")


class Background:
    """An event loop in a thread: the gateways of a test session run there, whatever the tests do with theirs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="gateway", daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` there and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


async def listen(app: ASGIApp) -> tuple[uvicorn.Server, str]:
    """Serves an application on a free port; returns its address too."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    quiet: Any = {"log_config": None, "access_log": False}
    config = uvicorn.Config(app, interface="asgi3", lifespan="off", ws="none", **quiet)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    return server, f"http://localhost:{listener.getsockname()[1]}"


async def leave(server: uvicorn.Server) -> None:
    """What uvicorn does at its end, without its waiting: the test is over and its browser may still hold on."""
    for listening in server.servers:
        listening.close()
    for connection in list(server.server_state.connections):
        connection.shutdown()
    await asyncio.sleep(0)


class Pages:
    """A website made of files. The snippet comes first in each page, so that what the page pushes finds it."""

    def __init__(self, folder: Path, snippet: str) -> None:
        self.folder = folder.resolve()
        self.snippet = snippet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self.folder / scope["path"].lstrip("/")
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file() or not path.resolve().is_relative_to(self.folder):
            await Response(status_code=404)(scope, receive, send)
        elif path.suffix not in (".html", ".htm"):
            await FileResponse(path)(scope, receive, send)
        else:
            await HTMLResponse(self.with_snippet(path.read_text(encoding="utf-8")))(scope, receive, send)

    def with_snippet(self, html: str) -> str:
        """A page with the snippet after `<head>`, or after the doctype where it has none."""
        places = (re.search(tag, html, re.IGNORECASE) for tag in ("<head[^>]*>", "<html[^>]*>", "<!doctype[^>]*>"))
        at = next((place.end() for place in places if place), 0)
        return f"{html[:at]}\n{self.snippet}\n{html[at:]}"
