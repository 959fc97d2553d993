"""`gateway bench growth`: whether an event costs the same when millions are there already, and memory stays as it is.

Browsers come and go while events are written through the engine in groups, as a busy gateway does, with each commit
synced. What is measured again and again is the processor's time per event, the rate, and this process's memory.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.app import opened
from gateway.bench_ingest import entry, message_id, resident_mb
from gateway.commands import Parser
from gateway.context import Gateway
from gateway.identity.requests import Batch, Command
from gateway.model import Site, now
from gateway.settings import load

BATCHES = 100
"""Requests of one group."""
EVENTS = 20
"""Events of one request."""
BROWSERS = 20_000
"""Browsers that visit in the same hours; one request in ten comes from a new one, which takes an old one's place."""
WINDOW = 100_000
"""Events over which a rate is measured."""
STEPS = (10**5, 10**6, 10**7, 10**8)
"""When it is measured, besides at the end."""


@dataclass(slots=True)
class Stage:
    """What one event cost when `events` were there: events a second, microseconds of CPU, MiB of memory and of file.

    The ratios are to the first stage.
    """

    events: int
    per_second: float
    cpu_us: float
    memory_mb: float
    database_mb: float
    rate_ratio: float = 1.0
    cpu_ratio: float = 1.0


class Crowd:
    """Browsers, of which each request comes from one, and their events."""

    def __init__(self, gateway: Gateway, site: Site) -> None:
        self.gateway, self.site = gateway, site
        parsed = Parser(site, gateway.signer).entry(msgspec.json.encode(entry(0, int(time.time() * 1000))))
        assert parsed is not None
        self.pattern = parsed[1][0]
        self.browsers: list[int] = []
        self.chance = random.Random(1)
        self.sent = 0

    def _commands(self) -> list[Command]:
        at_ms = int(time.time() * 1000)
        first, self.sent = self.sent, self.sent + EVENTS
        ids = (message_id(n, at_ms) for n in range(first, self.sent))
        return [msgspec.structs.replace(self.pattern, op_id=i, sent_at=at_ms * 1000) for i in ids]

    def group(self) -> list[Batch]:
        """The next requests."""
        found = []
        for _ in range(BATCHES):
            new = len(self.browsers) < BROWSERS / 20 or self.chance.random() < 0.1
            browser = 0 if new else self.chance.choice(self.browsers)
            found.append(Batch(self.site, browser, self._commands(), now()))
        return found

    async def visit(self) -> None:
        """Writes one group in one transaction."""
        group = self.group()
        answers = await self.gateway.store.run(lambda tx: self.gateway.writer.engine.run(tx, group))
        for batch, answer in zip(group, answers, strict=True):
            if not batch.device_id:
                self.browsers.append(answer.device_id)  # type: ignore[union-attr]
        del self.browsers[: max(0, len(self.browsers) - BROWSERS)]


def size_mb(folder: str) -> float:
    """MiB of the files in a folder."""
    return sum(f.stat().st_size for f in Path(folder).iterdir()) / 2**20


async def bench(events: int, report: Callable[[int, int], None]) -> list[Stage]:
    """Stages at a hundred thousand events, at each tenfold, and at `events`."""
    wanted = [n for n in STEPS if n < events] + [events]
    stages: list[Stage] = []
    with tempfile.TemporaryDirectory() as folder:
        async with opened(load({}, database=f"sqlite:///{folder}/gateway.db")) as gateway:
            site = await gateway.sites.create("bench", gateway.new_id(), origins=[])
            crowd = Crowd(gateway, site)
            for until in wanted:
                while crowd.sent < until - WINDOW // 2:
                    await crowd.visit()
                    report(crowd.sent, events)
                first, began, spent = crowd.sent, time.perf_counter(), time.process_time()
                while crowd.sent < first + WINDOW:
                    await crowd.visit()
                seconds, cpu = time.perf_counter() - began, time.process_time() - spent
                number = crowd.sent - first
                stage = Stage(until, number / seconds, cpu / number * 1e6, resident_mb(), size_mb(folder))
                start = stages[0] if stages else stage
                stage.rate_ratio, stage.cpu_ratio = stage.per_second / start.per_second, stage.cpu_us / start.cpu_us
                stages.append(stage)
    return stages
