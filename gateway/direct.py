"""The short way of most ingest requests: from the HTTP parser to ingest and back, without an ASGI task.

Of what an event costs, the framework around it is the larger half: a task, a scope, two messages each way. A POST of a
page that is whole and plain needs none of it. Everything else takes the usual way, with the same rules behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.ingest import Reply

Headers = list[tuple[bytes, bytes]]
Address = tuple[str, int] | None


class Awaited:
    """Stands where uvicorn keeps the event on which an application waits for its request: nobody waits here."""

    def set(self) -> None:
        """Nothing to wake."""


AWAITED = Awaited()


class Direct:
    """One request. It has of uvicorn's RequestResponseCycle what the protocol looks at."""

    __slots__ = (
        "body",
        "default_headers",
        "disconnected",
        "keep_alive",
        "more_body",
        "on_response",
        "response_complete",
        "response_started",
        "transport",
    )
    message_event = AWAITED

    def __init__(
        self,
        transport: asyncio.Transport,
        default_headers: Headers,
        on_response: Callable[[], None],
        *,
        keep_alive: bool,
    ) -> None:
        self.transport = transport
        self.default_headers = default_headers
        self.on_response = on_response
        self.keep_alive = keep_alive
        self.body = b""
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    def answer(self, reply: Reply) -> None:
        """Sends the answer, unless there is nobody left to read it."""
        if self.disconnected or self.transport.is_closing():
            return
        self.response_started = self.response_complete = True
        lines = [STATUS_LINE[reply.status]]
        for name, value in self.default_headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(reply.wire)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", reply.body)
        self.transport.write(b"".join(lines))
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

    def sender(self, scheme: str, client: Address, headers: Headers) -> tuple[str, Address]:
        """(scheme, address) of the browser."""
        if client is None or not self._trusted(client[0]):
            return scheme, client
        assert self._hosts is not None
        said = [value for name, value in headers if name == b"x-forwarded-for"]
        if said:
            host, port = self._hosts.get_trusted_client_address(b", ".join(said).decode("latin-1"))
            client = (host, port) if host else client
        said = [value for name, value in headers if name == b"x-forwarded-proto"]
        if said and (named := said[-1].decode("latin-1").strip()) in ("http", "https"):
            scheme = named
        return scheme, client
