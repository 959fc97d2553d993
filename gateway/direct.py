"""The short way of most ingest requests: from the HTTP parser to ingest and back, without an ASGI task.

Of what an event costs, the framework around it is the larger half: a task, a scope, two messages each way. A POST of a
page that is whole and plain needs none of it. Everything else takes the usual way, with the same rules behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar

import msgspec
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from gateway.ingest import Headers, Reply

Address = tuple[str, int] | None


class Awaited:
    """Stands where uvicorn keeps the event on which an application waits for its request: nobody waits here."""

    def set(self) -> None:
        """Nothing to wake."""


AWAITED = Awaited()


class Direct(msgspec.Struct):
    """One request. It has of uvicorn's RequestResponseCycle what the protocol looks at."""

    message_event: ClassVar[Awaited] = AWAITED

    transport: asyncio.Transport
    default_headers: Headers
    on_response: Callable[[], None]
    keep_alive: bool
    body: bytes = b""
    more_body: bool = True
    disconnected: bool = False
    response_started: bool = False
    response_complete: bool = False

    def answer(self, reply: Reply) -> None:
        """Sends the answer, unless there is nobody left to read it."""
        if self.disconnected or self.transport.is_closing():
            return
        self.response_started = self.response_complete = True
        self.transport.write(reply.whole(self.default_headers, close=not self.keep_alive))
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class Senders:
    """Who sent a request: the other end of the connection, or whom a trusted proxy names, as for the application."""

    def __init__(self, app: object) -> None:
        self._hosts = app.trusted_hosts if isinstance(app, ProxyHeadersMiddleware) else None
        self._trusted = lru_cache(maxsize=4096)(self._is_trusted)

    def _is_trusted(self, host: str) -> bool:
        return self._hosts is not None and host in self._hosts

    def sender(self, scheme: str, client: Address, headers: Headers, said: dict[bytes, bytes]) -> tuple[str, Address]:
        """(scheme, address) of the browser. `said` are the headers by name, the last of each."""
        if client is None or not self._trusted(client[0]):
            return scheme, client
        assert self._hosts is not None
        if b"x-forwarded-for" in said:
            hops = [value for name, value in headers if name == b"x-forwarded-for"]
            host, port = self._hosts.get_trusted_client_address(b", ".join(hops).decode("latin-1"))
            client = (host, port) if host else client
        named = said.get(b"x-forwarded-proto", b"").decode("latin-1").strip()
        if named in ("http", "https"):
            scheme = named
        return scheme, client
