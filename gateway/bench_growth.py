"""`gateway bench growth`: whether an event costs the same when millions are there already, and memory stays as it is.

Browsers come and go while events are written through the engine in groups, as a busy gateway does, with each commit
synced. What is measured again and again is the processor's time per event, the rate, and this process's memory: group
by group in turn with a second database of few events and as many browsers, so that a machine that is slower for a
minute is slower for both.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
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

    The ratios are to the second database, in the same minute.
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

    def _commands(self, number: int) -> list[Command]:
        at_ms = int(time.time() * 1000)
        first, self.sent = self.sent, self.sent + number
        ids = (message_id(n, at_ms) for n in range(first, self.sent))
        return [msgspec.structs.replace(self.pattern, op_id=i, sent_at=at_ms * 1000) for i in ids]

    def group(self) -> list[Batch]:
        """The next requests: until all browsers are there, one event of each."""
        if len(self.browsers) < BROWSERS:
            return [Batch(self.site, 0, self._commands(1), now()) for _ in range(BATCHES)]
        come = (0 if self.chance.random() < 0.1 else self.chance.choice(self.browsers) for _ in range(BATCHES))
        return [Batch(self.site, browser, self._commands(EVENTS), now()) for browser in come]

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


async def measured(crowds: Sequence[Crowd]) -> list[tuple[float, float]]:
    """(events a second, microseconds of CPU an event) of each crowd, over a window in which they take turns."""
    ends = [crowd.sent + WINDOW for crowd in crowds]
    spent = [[0.0, 0.0] for _ in crowds]
    while any(crowd.sent < end for crowd, end in zip(crowds, ends, strict=True)):
        for crowd, time_spent in zip(crowds, spent, strict=True):
            began, used = time.perf_counter(), time.process_time()
            await crowd.visit()
            time_spent[0] += time.perf_counter() - began
            time_spent[1] += time.process_time() - used
    return [(WINDOW / seconds, cpu / WINDOW * 1e6) for seconds, cpu in spent]


async def bench(events: int, report: Callable[[int, int], None]) -> list[Stage]:
    """Stages at a hundred thousand events, at each tenfold, and at `events`."""
    wanted = [n for n in STEPS if n < events] + [events]
    stages: list[Stage] = []
    async with AsyncExitStack() as stack:
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2)]
        crowds = []
        for folder in folders:
            gateway = await stack.enter_async_context(opened(load({}, database=f"sqlite:///{folder}/gateway.db")))
            crowds.append(Crowd(gateway, await gateway.sites.create("bench", gateway.new_id(), origins=[])))
        many, few = crowds
        for until in wanted:
            for crowd, number in ((few, STEPS[0]), (many, until)):
                while crowd.sent < number - WINDOW // 2:
                    await crowd.visit()
                    report(many.sent, events)
            (rate, cpu), (rate_of_few, cpu_of_few) = await measured(crowds)
            memory, size = resident_mb(), size_mb(folders[0])
            stages.append(Stage(until, rate, cpu, memory, size, rate / rate_of_few, cpu / cpu_of_few))
    return stages
