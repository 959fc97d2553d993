"""Browsers that keep sending through every fault, each message until it is acknowledged, and what must then hold."""

import asyncio
import json
import random
import sqlite3
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.server import GatewayServer, Site, wait_for

UNLIMITED = {"GATEWAY_RATE_ADDRESS": "0", "GATEWAY_RATE_SITE": "0", "GATEWAY_RATE_DEVICE": "0"}
PEOPLE = 12
KINDS = ("track",) * 8 + ("user", "reidentify", "logout", "tags")


class Swarm:
    """Browsers in a thread of their own, sending for as long as the `with` block lasts; the end waits for the last
    answers. `port` may be changed while they run. `reconnecting`: each request on a connection of its own."""

    def __init__(
        self,
        port: int,
        site: Site,
        browsers: int = 12,
        *,
        seed: int = 1,
        pause: float = 0.0,
        reconnecting: bool = False,
    ) -> None:
        self.port, self.site, self.pause, self.reconnecting = port, site, pause, reconnecting
        self.seed, self.random = seed, random.Random(seed)
        self.acknowledged: dict[str, str] = {}  # message id: the command's name
        self.requests: dict[int, list[set[str]]] = {}  # by the browser's port: the messages of each request, in order
        self.statuses: Counter[int] = Counter()
        self.retry_after: set[int] = set()
        self.skipped: list[str] = []
        self.latest = 0.0  # the longest time from the first attempt to the answer
        self._stop = threading.Event()
        self._browsers = browsers
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(60)
        if error is None:
            assert not self._thread.is_alive(), "the last messages were not acknowledged within a minute"
            assert self._failed is None, repr(self._failed)
            assert not self.skipped

    def wait_for_more(self, number: int = 20) -> None:
        """Returns when so many more messages were acknowledged."""
        wanted = len(self.acknowledged) + number
        wait_for(lambda: len(self.acknowledged) >= wanted, 30, f"{number} more messages to be acknowledged")

    def wait_for_refusals(self, status: int = 503, number: int = 10) -> None:
        """Returns when so many more requests were refused."""
        wanted = self.statuses[status] + number
        wait_for(lambda: self.statuses[status] >= wanted, 30, f"{number} answers {status}")

    @property
    def tracked(self) -> set[str]:
        """The events that were acknowledged."""
        return {message for message, name in self.acknowledged.copy().items() if name == "track"}

    @property
    def kept(self) -> set[str]:
        """What was acknowledged and leaves a row under the message's id: properties and tags do not."""
        return {message for message, name in self.acknowledged.copy().items() if name != "tags"}

    def _run(self) -> None:
        try:
            asyncio.run(self._send_all())
        except BaseException as error:
            self._failed = error

    async def _send_all(self) -> None:
        await asyncio.gather(*(Browser(self, n).run() for n in range(self._browsers)))

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()


class Browser:
    """One device: starts without a cookie, keeps the one it is given."""

    def __init__(self, swarm: Swarm, number: int) -> None:
        self.swarm, self.number = swarm, number
        self.cookie = ""
        self.sent = 0
        self.stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        while not self.swarm.stopped:
            await self.deliver([self.entry() for _ in range(self.swarm.random.randint(1, 4))])
            if self.swarm.reconnecting:
                await self.hang_up()
            await asyncio.sleep(self.swarm.pause)
        await self.hang_up()

    def entry(self) -> dict[str, Any]:
        """A message that no other is like."""
        self.sent += 1
        message = f"{self.swarm.seed}-{self.number}-{self.sent}"
        person = f"person-{self.swarm.random.randrange(PEOPLE)}"
        kind = self.swarm.random.choice(KINDS)
        rest: dict[str, list[Any]] = {
            "track": ["Seen", {"n": self.sent}],
            "user": [{"id": person, "plan": self.sent}],
            "reidentify": [person, f"{person}@x.example"],
            "logout": [],
            "tags": [{"add": [person]}],
        }
        return {"id": message, "at": time.time() * 1000, "command": [kind, *rest[kind]]}

    async def deliver(self, entries: list[dict[str, Any]]) -> None:
        """Sends until it is acknowledged."""
        began = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(30):
                    status, headers = await self.attempt(entries)
            except (OSError, EOFError, ValueError, TimeoutError):
                await self.hang_up()
                await asyncio.sleep(0.05)
                continue
            self.swarm.statuses[status] += 1
            if "retry-after" in headers:
                self.swarm.retry_after.add(int(headers["retry-after"]))
            if "x-gateway-skipped" in headers:
                self.swarm.skipped.append(headers["x-gateway-skipped"])
            if status == 202:
                break
            await asyncio.sleep(0.1)
        self.cookie = headers.get("set-cookie", self.cookie).split(";")[0]
        self.swarm.latest = max(self.swarm.latest, time.monotonic() - began)
        self.swarm.acknowledged |= {e["id"]: e["command"][0] for e in entries}

    async def attempt(self, entries: list[dict[str, Any]]) -> tuple[int, dict[str, str]]:
        """One request; (status, headers) of its answer."""
        if self.stream is None:
            self.stream = await asyncio.open_connection("127.0.0.1", self.swarm.port)
        reader, writer = self.stream
        port = writer.get_extra_info("sockname")[1]
        self.swarm.requests.setdefault(port, []).append({e["id"] for e in entries if e["command"][0] != "tags"})
        body = {"key": self.swarm.site["api_key"], "sent_at": time.time() * 1000, "commands": entries}
        text = json.dumps(body).encode()
        cookie = f"Cookie: {self.cookie}\r\n" if self.cookie else ""
        head = f"POST /v1/commands HTTP/1.1\r\nHost: localhost\r\n{cookie}Content-Length: {len(text)}\r\n\r\n"
        writer.write(head.encode() + text)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            await self.hang_up()
        return int(lines[0].split()[1]), headers

    async def hang_up(self) -> None:
        """Closes the connection; the next attempt makes another."""
        if self.stream is not None:
            self.stream[1].close()
            with suppress(OSError):
                await self.stream[1].wait_closed()
        self.stream = None


def stored(database: Path) -> Counter[str]:
    """How often each message is in a database, as event or as fact."""
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        found = Counter(row[0] for row in connection.execute("select message_id from events"))
        found.update(Counter(row[0] for row in connection.execute("select op_id from ledger")))
        return found
    finally:
        connection.close()


def check_nothing_lost(database: Path, swarm: Swarm) -> None:
    """Every acknowledged event and fact is there, and no message is there twice."""
    found = stored(database)
    missing = swarm.kept - found.keys()
    assert not missing, (
        f"{len(missing)} of {len(swarm.acknowledged)} acknowledged messages are lost: {sorted(missing)[:9]}"
    )
    assert max(found.values(), default=0) <= 1, [m for m, n in found.items() if n > 1][:9]


def check_all(server: GatewayServer, swarm: Swarm, database: Path | None = None) -> None:
    """Nothing lost or doubled, and the ledger folded again says what the tables say."""
    assert swarm.tracked, "nothing was acknowledged"
    check_nothing_lost(database or server.folder / "gateway.db", swarm)
    server.command("check")
