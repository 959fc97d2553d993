"""`gateway bench ingest`: what a durable event costs beside an empty route on the same server, in one run.

A server process is started on a free port; a load generator in this process keeps its connections busy with prepared
requests. What counts is the server's own CPU time (user and system, from the operating system) per request, as a ratio
to the empty route: absolute figures move from machine to machine, the ratios hardly do.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import cast

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.ingest import OK

BROWSER_HEADERS = (
    "Host: localhost:{port}\r\nConnection: keep-alive\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n"
    "Accept: */*\r\nAccept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br\r\nDNT: 1\r\n"
    "Origin: http://localhost:{port}\r\nReferer: http://localhost:{port}/product/12\r\n"
    "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n"
)


TAKEN = (b"HTTP/1.1 202", b"HTTP/1.1 204")


@dataclass(slots=True)
class Measured:
    """One load on one server: CPU in microseconds per request, time in milliseconds."""

    name: str
    requests: int
    events_per_request: int
    cpu_us: float
    per_second: float
    p50_ms: float
    p99_ms: float
    ratio: float = 0.0
    ratio_per_event: float = 0.0


class Connection(asyncio.Protocol):
    """Sends its requests one after the other, or each at its time, and keeps how long each answer took."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Event, due: Iterator[float] | None) -> None:
        self.requests, self.done, self.due = requests, done, due
        self.times: list[float] = []
        self.bad = 0
        self._sent = 0.0
        self._buffer = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        request = next(self.requests, None)
        if request is None:
            self.done.set()
            return
        if self.due is None:
            self._send(request, time.perf_counter())
            return
        at = next(self.due)
        wait = at - time.perf_counter()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._send, request, at)
        else:
            self._send(request, at)

    def _send(self, request: bytes, at: float) -> None:
        assert self.transport is not None
        self._sent = at  # the time it was due: a server that is behind is charged for it
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        # A whole answer of the usual kind is not taken apart: the generator has to be quicker than the server.
        if (
            not self._buffer
            and data.startswith(TAKEN)
            and data.endswith(OK if data.startswith(TAKEN[0]) else b"\r\n\r\n")
        ):
            self._took()
            return
        self._buffer += data
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if b"\r\n\r\n" not in self._buffer or len(rest) < length:
            return
        self._buffer = rest[length:]
        self.bad += not head.startswith(TAKEN)
        self._took()

    def _took(self) -> None:
        self.times.append(time.perf_counter() - self._sent)
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set()


async def load(port: int, queues: list[list[bytes]], rate: float | None = None) -> tuple[list[float], int, float]:
    """Sends every queue on a connection of its own; returns all answer times, the number of bad ones, and seconds."""
    loop = asyncio.get_running_loop()
    waiting, connections = [], []
    start = time.perf_counter() + 0.05
    for n, queue in enumerate(queues):
        done = asyncio.Event()
        due = iter([start + (i * len(queues) + n) / rate for i in range(len(queue) + 1)]) if rate else None
        _, connection = await loop.create_connection(
            lambda q=queue, d=done, u=due: Connection(iter(q), d, u),  # type: ignore[misc]
            "127.0.0.1",
            port,
        )
        waiting.append(done.wait())
        connections.append(connection)
    started = time.perf_counter()
    await asyncio.gather(*waiting)
    seconds = time.perf_counter() - started
    times = [t for c in connections for t in c.times]
    for connection in connections:
        if connection.transport is not None:
            connection.transport.close()
    return times, sum(c.bad for c in connections), seconds


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def message_id(n: int, at_ms: int) -> str:
    """A UUIDv7 with a counter in its tail."""
    return f"{at_ms >> 16:08x}-{at_ms & 0xFFFF:04x}-7{n >> 48 & 0xFFF:03x}-8000-{n & 0xFFFFFFFFFFFF:012x}"


def entry(n: int, at_ms: int) -> dict[str, object]:
    """An event as the snippet sends it, about 300 bytes."""
    page = {"url": "http://localhost/product/12?color=blue", "referrer": "http://localhost/", "title": "A blue chair"}
    data = {"sku": f"SKU-{n % 1000}", "price": 129.9, "currency": "EUR", "list": "Autumn collection"}
    return {"id": message_id(n, at_ms), "at": at_ms, "command": ["track", "Viewed product", data], "page": page}


def post(port: int, cookie: str, body: bytes) -> bytes:
    """A request as a browser writes it."""
    head = f"POST /v1/commands HTTP/1.1\r\n{BROWSER_HEADERS.format(port=port)}Cookie: theme=dark; vq_dev={cookie}\r\n"
    return f"{head}Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def queues_of(port: int, key: str, cookies: list[str], total: int, batch: int, first: int) -> list[list[bytes]]:
    """Prepared requests, one queue a connection; `first` keeps message ids apart between loads."""
    now = int(time.time() * 1000)
    each = total // len(cookies)
    queues = []
    for c, cookie in enumerate(cookies):
        queue = []
        for i in range(each):
            n = first + (c * each + i) * batch
            commands = [entry(n + k, now + i * batch + k) for k in range(batch)]
            queue.append(post(port, cookie, json.dumps({"key": key, "sent_at": now, "commands": commands}).encode()))
        queues.append(queue)
    return queues


@contextmanager
def serving(*arguments: str, environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """A server process of our own: (pid, port); stopped by pid."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", *arguments, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(20)


async def first_cookie(port: int, key: str, n: int) -> str:
    """A device of its own, as a first visit gets it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"key": key, "commands": [entry(10**12 + n, int(time.time() * 1000))]}).encode()
    writer.write(post(port, "none", body))
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    line = next(h for h in answer.split("\r\n") if h.lower().startswith("set-cookie: vq_dev="))
    return line.split("=", 1)[1].split(";")[0]


async def measure(name: str, pid: int, port: int, queues: list[list[bytes]], events: int) -> Measured:
    """Runs one load after a short warm-up of the same kind."""
    warm = max(1, len(queues[0]) // 10)
    await load(port, [q[:warm] for q in queues])
    before = cpu_seconds(pid)
    times, bad, seconds = await load(port, [q[warm:] for q in queues])
    cpu = cpu_seconds(pid) - before
    if bad or not times:
        raise SystemExit(f"{name}: {bad} of {len(times)} requests were not taken")
    cuts = quantiles(times, n=100)
    cost = cpu / len(times) * 1e6
    return Measured(name, len(times), events, cost, len(times) / seconds, cuts[49] * 1000, cuts[98] * 1000)


def bench(requests: int, connections: int, rounds: int, offered: int) -> list[Measured]:
    """Interleaved rounds of: empty route, single events, batches of 20; the medians, with ratios to the empty route.

    `offered` adds a load of single events at that many a second, 0 leaves it out.
    """
    with tempfile.TemporaryDirectory() as folder:
        # One machine is all networks here, and a few devices all visitors: what a rate limit is not for.
        free = {f"GATEWAY_RATE_{what}": "0" for what in ("ADDRESS", "SITE", "DEVICE")}
        environment = free | {"GATEWAY_DATABASE": f"sqlite:///{folder}/bench.db", "GATEWAY_LOG_LEVEL": "warning"}
        create = [sys.executable, "-m", "gateway", "site", "create", "bench", "--json"]
        key = json.loads(subprocess.check_output(create, env=os.environ | environment))["api_key"]
        nothing = ("uvicorn", "gateway.bench_ingest:empty", "--log-level", "warning", "--no-access-log")
        with serving(*nothing, environment={}) as bare, serving("gateway", "serve", environment=environment) as served:
            table = uvloop.run(compare(bare, served, key, requests, connections, rounds, offered))
    for row in table:
        row.ratio = row.cpu_us / table[0].cpu_us
        row.ratio_per_event = row.ratio / max(row.events_per_request, 1)
    return table


async def compare(
    bare: tuple[int, int],
    served: tuple[int, int],
    key: str,
    requests: int,
    connections: int,
    rounds: int,
    offered: int,
) -> list[Measured]:
    """The rows of the table, the empty route first; `bare` and `served` are (pid, port)."""
    cookies = [await first_cookie(served[1], key, n) for n in range(connections)]
    runs: dict[str, list[Measured]] = {}
    for turn in range(rounds):
        for name, (pid, port), events in (
            ("empty route, 204", bare, 0),
            ("one event", served, 1),
            ("20 events", served, 20),
        ):
            total = requests if events < 2 else requests // 6
            first = turn * 10**9 + events * 10**8
            queues = queues_of(port, key, cookies, total, max(events, 1), first)
            if not events:
                queues = [[q.replace(b"/v1/commands", b"/empty", 1) for q in queue] for queue in queues]
            runs.setdefault(name, []).append(await measure(name, pid, port, queues, events))
    table = [middle(found) for found in runs.values()]
    return [*table, await steady(*served, key, cookies, offered)] if offered else table


async def steady(pid: int, port: int, key: str, cookies: list[str], offered: int) -> Measured:
    """Single events at a fixed rate for five seconds: how long an answer takes below the server's limit."""
    queues = queues_of(port, key, cookies, offered * 5, 1, 9 * 10**9)
    before = cpu_seconds(pid)
    times, bad, seconds = await load(port, queues, offered)
    if bad:
        raise SystemExit(f"{bad} requests were not taken at {offered} a second")
    cuts = quantiles(times, n=100)
    cost = (cpu_seconds(pid) - before) / len(times) * 1e6
    name = f"one event, {offered}/s offered"
    return Measured(name, len(times), 1, cost, len(times) / seconds, cuts[49] * 1000, cuts[98] * 1000)


def middle(runs: list[Measured]) -> Measured:
    """The median of each figure over several runs."""
    figures = ("cpu_us", "per_second", "p50_ms", "p99_ms")
    return Measured(**(asdict(runs[0]) | {f: median(getattr(r, f) for r in runs) for f in figures}))


def _empty() -> Starlette:
    async def nothing(request: Request) -> Response:
        return Response(status_code=204)

    return Starlette(routes=[Route("/empty", nothing, methods=["POST"])])


empty = _empty()
"""The bare application that everything is compared with: Starlette, one route, 204."""
