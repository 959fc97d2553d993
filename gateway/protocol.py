"""uvicorn's HTTP protocol with the limits it has not: time for headers, bodies and answers, sizes, connections, bytes.

Timers are one number per connection, looked at twice a second by the `Guard`: a request costs a few assignments. What
is refused here never reaches the application, or the application is told that the client has gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import OrderedDict
from math import inf
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.commands import MAX_BODY
from gateway.direct import Direct, Senders
from gateway.ingest import PATH, Caller, Ingest, caller
from gateway.settings import Settings
from gateway.web import error_body

if sys.platform != "win32":
    import resource

log = logging.getLogger("gateway.protocol")

SWEEP_SECONDS = 0.5
LINGER_SECONDS = 5
"""How long a client may go on sending a body that was refused, to read why; and how long a closed one may read."""
LINGER_BYTES = 1024 * 1024
SILENCE_SECONDS = 1
"""How long a stopping server waits for the next request on a connection, to say with its answer that it is the last."""
MAX_REQUEST = 24 * 1024 * 1024
"""Bytes of one request on the wire, chunk sizes and trailers included; each path has a smaller limit for its body."""
MAX_PIPELINED = 32
MAX_HEADERS = 100
OWN_FILES = 100
"""Open files that are no connections: the database, the log, libraries."""


def room_for(connections: int) -> int:
    """How many connections the system's limit of open files leaves room for; it is raised as far as it may be."""
    if sys.platform == "win32":
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OWN_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            log.warning("open files (ulimit -n) leave room for %d of %d connections", soft - OWN_FILES, connections)
    return connections if soft == resource.RLIM_INFINITY else max(1, min(connections, soft - OWN_FILES))


class Guard:
    """The connections of one process: how many, how much they hold in memory, and which are late."""

    def __init__(self, settings: Settings) -> None:
        self.header_timeout = settings.header_timeout
        self.body_timeout = settings.body_timeout
        self.send_timeout = settings.send_timeout
        self.idle_timeout = settings.idle_timeout
        self.max_connections = room_for(settings.max_connections)
        self.max_header = settings.max_header
        self.max_held = settings.max_held
        self.held = 0
        self.stopping = False
        self.connections: set[Protocol] = set()
        self.waiting: OrderedDict[Protocol, None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self.ingest: Ingest | None = None
        self.direct_urls: frozenset[bytes] = frozenset()
        self._senders: Senders | None = None

    def hand_over(self, ingest: Ingest, prefix: str) -> None:
        """From now on most of what pages push goes to `ingest` directly, at its path and at that below `prefix`."""
        self.ingest = ingest
        self.direct_urls = frozenset({PATH.encode(), f"{prefix}{PATH}".encode()})

    def senders_of(self, app: object) -> Senders:
        """Who sends requests to an application, behind the proxies it trusts."""
        if self._senders is None:
            self._senders = Senders(app)
        return self._senders

    def start(self) -> None:
        """Begins to look at the clocks; needs a running event loop."""
        self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def stop(self) -> None:
        """The server ends: who reads nothing of its answer has no longer than who sends nothing of its request."""
        self.stopping = True
        self.send_timeout = min(self.send_timeout, LINGER_SECONDS)

    def close(self) -> None:
        """Ends looking."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        self.start()
        now = asyncio.get_running_loop().time()
        for connection in [c for c in self.connections if c.deadline < now]:
            connection.late()

    def admit(self, newcomer: Protocol) -> bool:
        """Whether there is room; if not, the connection that has waited longest for a request makes some."""
        if len(self.connections) >= self.max_connections:
            if not self.waiting:
                return False
            oldest, _ = self.waiting.popitem(last=False)
            oldest.drop()
        self.connections.add(newcomer)
        self.waiting[newcomer] = None
        return True

    def relieve(self, newest: Protocol) -> None:
        """Gives memory back: of the requests that are still arriving, the one that holds most goes."""
        arriving = [c for c in self.connections if c.receiving]
        largest = max(arriving, key=lambda c: c.held, default=newest)
        largest.refuse(503, "too much is being received at once", "send the same request again", retry_after=5)


class Protocol(HttpToolsProtocol):
    """One connection. `deadline` is when the client must have done its next step."""

    cycle: Any  # the last request whose headers are complete: uvicorn's RequestResponseCycle, or a Direct

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.guard: Guard = self.app_state["guard"]
        self.running: Any = None  # the request that is being answered, or was last; those behind it are in the pipeline
        self.deadline = inf
        self.receiving = False  # between the first byte of a request and its last
        self.in_head = False
        self.received = 0  # bytes of the request under way, or of what follows its refusal
        self.trailing = 0  # bytes of the headers with the trailers, once there are some
        self.held = 0
        self.chunk = 0  # size of the data being parsed
        self.unsent = 0  # what was still to be sent when it was last late
        self.asked = Caller()
        self.senders = self.guard.senders_of(self.app)

    # --- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.guard.admit(self):
            self.deadline = self.loop.time() + self.guard.header_timeout
        else:
            self.refuse(503, "too many connections", "try again later", retry_after=LINGER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.connections.discard(self)
        self.guard.waiting.pop(self, None)
        self._release()
        self._leave()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.chunk = len(data)
        self.received += len(data)
        self.held += len(data)
        self.guard.held += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.in_head and self.received > self.guard.max_header:
            self._headers_too_large()
        elif self.received > MAX_REQUEST or len(self.pipeline) > MAX_PIPELINED:
            self.drop()
        elif self.receiving and not self.in_head and self.answered:
            if self.received > LINGER_BYTES:
                self.drop()
        elif self.guard.held > self.guard.max_held and self.receiving:
            self.guard.relieve(self)
        elif not self.receiving and self.answered:
            self._release()  # line ends between requests

    @property
    def answered(self) -> bool:
        """Whether no request waits for its answer."""
        cycle = getattr(self, "cycle", None)  # None before the first request
        return cycle is None or cycle.response_complete

    def shutdown(self) -> None:
        """What has arrived whole is answered; a body that is still coming has a few seconds.

        Who is connected and silent may just be sending: its request is answered as the last one on this connection.
        """
        self.guard.stop()
        if self.answered and not self.receiving:
            self.deadline = min(self.deadline, self.loop.time() + SILENCE_SECONDS)
            return
        super().shutdown()
        if self.receiving or self.transport.is_closing() or self.flow.write_paused:
            self.deadline = min(self.deadline, self.loop.time() + LINGER_SECONDS)

    # --- a request's steps ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        # What else uvicorn prepares here only the usual way needs: see _usual.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.receiving = self.in_head = True
        self.received, self.trailing = self.chunk, 0
        self.deadline = self.loop.time() + self.guard.header_timeout

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:
            self.headers.append((name.lower(), value))
            return
        # Trailers of a chunked body are nobody's headers, and as limited.
        self.trailing = (self.trailing or self._head_size()) + len(name) + len(value)
        if self.trailing > self.guard.max_header:
            self._headers_too_large()

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_too_large():
            self._headers_too_large()
            return
        self.in_head = False
        self.guard.waiting.pop(self, None)
        self.deadline = self.loop.time() + self.guard.body_timeout
        if self.url in self.guard.direct_urls and self._is_plain():
            keep_alive = self.parser.should_keep_alive()
            self.cycle = self.running = Direct(
                self.transport, self.server_state.default_headers, self.on_response_complete, keep_alive=keep_alive
            )
        else:
            self._usual()
        if self.guard.stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def _is_too_large(self) -> bool:
        """Whether the headers are, that came in one piece with their end."""
        if len(self.headers) > MAX_HEADERS:
            return True
        most = self.guard.max_header
        return self.received > most and self._head_size() > most

    def _head_size(self) -> int:
        return len(self.url) + sum(len(n) + len(v) for n, v in self.headers)

    def _is_plain(self) -> bool:
        """Whether a request may go to ingest directly: a POST whose body has a known, allowed size, in its turn,
        of a client that reads its answers."""
        if self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1" or not self.answered:
            return False
        said = dict(self.headers)
        if b"expect" in said or self.parser.should_upgrade() or self.flow.write_paused:
            return False
        scheme, client = self.senders.sender(self.scheme or "http", self.client, self.headers, said)
        self.asked = caller(scheme, client, self.headers, said)
        return 0 < self.asked.length <= MAX_BODY

    def _usual(self) -> None:
        """A request whose headers are complete becomes a task of the application."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers += headers  # the list that the scope has now
        self.expect_100_continue = any(n == b"expect" and v.lower() == b"100-continue" for n, v in headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.transport.is_closing():
            return
        if isinstance(self.cycle, Direct):  # no larger than it said it would be
            self.cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.receiving = False
        # A request that comes while the client does not read its answers must not make that be forgotten.
        self.deadline = self.loop.time() + self.guard.send_timeout if self.flow.write_paused else inf
        if self.transport.is_closing():
            return
        if not isinstance(self.cycle, Direct):
            super().on_message_complete()
        elif not self.cycle.response_complete:
            self._direct(self.cycle)
        if self.cycle.response_complete:
            self._await_request()

    def _direct(self, cycle: Direct) -> None:
        """Gives a whole request to ingest; if that cannot take it now, to the application."""
        cycle.more_body = False
        self.asked.body = cycle.body
        if self.guard.ingest is None or not self.guard.ingest.direct(self.asked, cycle.answer):
            self.cycle = None
            self._usual()
            super().on_body(cycle.body)
            super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        # As uvicorn does, but without its timer for idle connections: the guard looks after these.
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
        if self.transport.is_closing():
            self.deadline = self.loop.time() + LINGER_SECONDS
        elif self.cycle.response_complete and self.receiving:  # refused before it was all there
            self.received = 0
            self.deadline = min(self.deadline, self.loop.time() + LINGER_SECONDS)
        elif self.cycle.response_complete:
            self._await_request()

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        super().pause_writing()
        self.deadline = self.loop.time() + self.guard.send_timeout

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self.deadline = self.loop.time() + self.guard.idle_timeout if self.cycle.response_complete else inf

    def _await_request(self) -> None:
        self.deadline = self.loop.time() + self.guard.idle_timeout
        self.guard.waiting[self] = None
        self._release()

    def _release(self) -> None:
        self.guard.held -= self.held
        self.held = 0

    def _headers_too_large(self) -> None:
        size = self.guard.max_header // 1024
        self.refuse(431, f"the headers are larger than {size} KiB or more than {MAX_HEADERS}", "send fewer cookies")

    # --- what is refused --------------------------------------------------------------------------------------------

    def late(self) -> None:
        """The deadline has passed."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent != self.unsent and not self.guard.stopping:  # slow, but reading
            self.unsent, self.deadline = unsent, self.loop.time() + self.guard.send_timeout
            return
        if self.transport.is_closing() or (not self.receiving and not self.answered):
            self.transport.abort()  # it does not read its answer
        elif self.receiving and (self.in_head or not self.answered):
            what = "headers" if self.in_head else "body"
            self.refuse(408, f"the {what} did not arrive in time", "send the same request again", retry_after=1)
        else:
            self.drop()

    def send_400_response(self, msg: str) -> None:
        """These bytes are no HTTP. A whole request before them is still answered, as the last one."""
        if not self.answered and not self.cycle.more_body:  # its client counts letters, not bytes
            self.cycle.keep_alive = self.receiving = self.in_head = False
            self.deadline = inf
            return
        self.refuse(400, "this is not an HTTP request", "speak HTTP/1.1; TLS ends at the proxy in front")

    def drop(self) -> None:
        """Closes the connection without a word."""
        self._gone()
        self.transport.close()

    def refuse(self, status: int, message: str, hint: str, *, retry_after: int | None = None) -> None:
        """Answers instead of the application, if it has not begun to, and closes."""
        if self.transport.is_closing():
            return
        mine = self.running is self.cycle and not self.in_head  # else the answer would be taken for one before it
        if self.answered or (mine and not self.cycle.response_started):
            self.transport.write(self._refusal(status, error_body(CODES[status], message, hint), retry_after))
        self.drop()

    def _refusal(self, status: int, body: dict[str, Any], retry_after: int | None) -> bytes:
        text = json.dumps(body).encode()
        lines = [STATUS_LINE[status], b"content-type: application/json\r\nconnection: close\r\n"]
        lines.append(b"content-length: %d\r\n" % len(text))
        if retry_after is not None:
            lines.append(b"retry-after: %d\r\n" % retry_after)
        origin = dict(self.headers or ()).get(b"origin")
        if origin:  # so that the page can read it
            lines.append(b"access-control-allow-origin: %b\r\naccess-control-allow-credentials: true\r\n" % origin)
            lines.append(b"access-control-expose-headers: Retry-After\r\nvary: Origin\r\n")
        return b"".join([*lines, b"\r\n", text])

    def _gone(self) -> None:
        """Tells the application that there is nobody to answer."""
        self.guard.waiting.pop(self, None)
        self._release()
        self.receiving = False
        self.deadline = self.loop.time() + LINGER_SECONDS
        self._leave()

    def _leave(self) -> None:
        for cycle in (self.running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


CODES = {400: "bad_request", 408: "too_slow", 431: "headers_too_large", 503: "unavailable"}
