"""`gateway bench merge`: what a merge and its undoing cost for profiles of very different size, in one run.

Each profile is made of two people with one device each, through the same engine and store as in a running gateway, in a
database of its own. A merge moves visitors and identities, never events: its cost must not grow with them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gateway.app import opened
from gateway.context import Gateway
from gateway.identity.requests import Batch, Command, Login, Operation, Person, Track
from gateway.model import Site, now
from gateway.settings import load

SIZES = (10, 1_000, 100_000)
MILLION = 1_000_000
DEVICES = 50
PER_BATCH = 500


@dataclass(slots=True)
class Cost:
    """What operations on a profile cost: medians in milliseconds, ratios to the smallest profile."""

    events: int
    merge_ms: float
    undo_ms: float
    latest_ms: float
    merge_ratio: float = 1.0
    undo_ratio: float = 1.0
    latest_ratio: float = 1.0


@dataclass(slots=True)
class Costs:
    """The whole run."""

    sizes: list[Cost]
    devices: int
    devices_events: int
    devices_latest_ms: float


async def bench(
    *, million: bool = False, rounds: int = 20, report: Callable[[int, int], object] = lambda done, total: None
) -> Costs:
    """Fills a temporary database and measures. `report` is told how many events are in and how many there will be."""
    sizes = [*SIZES, MILLION] if million else [*SIZES]
    many = SIZES[-1]
    total = sum(sizes) + many
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        async with opened(load({}, database=f"sqlite:///{Path(folder) / 'bench.db'}")) as gateway:
            site = await gateway.sites.create("bench", gateway.new_id(), origins=[], device_cap=DEVICES + 1)
            done = 0
            for size in sizes:
                await person(gateway, site, f"small-{size}", [(gateway.new_id(), 1)])
                await person(gateway, site, f"large-{size}", [(gateway.new_id(), size)])
                done += size
                report(done, total)
            devices = [(gateway.new_id(), many // DEVICES) for _ in range(DEVICES)]
            await person(gateway, site, "everywhere", devices)
            report(total, total)
            found = await costs(gateway, site, sizes, rounds)
            latest = median([await look(gateway, site, "everywhere") for _ in range(rounds)])
    for each in found:
        each.merge_ratio = round(each.merge_ms / found[0].merge_ms, 2)
        each.undo_ratio = round(each.undo_ms / found[0].undo_ms, 2)
        each.latest_ratio = round(each.latest_ms / found[0].latest_ms, 2)
    return Costs(found, DEVICES, many, round(latest, 3))


async def person(gateway: Gateway, site: Site, name: str, devices: list[tuple[int, int]]) -> None:
    """Somebody known on devices, with so many events on each."""
    for device_id, events in devices:
        at = now() - events * 1000
        login = Login(f"{name}-{device_id}", at, key=("id", name))
        await gateway.writer.commands(Batch(site, device_id, [login], now()))
        for start in range(0, events, PER_BATCH):
            numbers = range(start, min(start + PER_BATCH, events))
            tracks: list[Command] = [Track(f"{device_id}-{n}", at + n * 1000, name="Viewed page") for n in numbers]
            await gateway.writer.commands(Batch(site, device_id, tracks, now()))


async def costs(gateway: Gateway, site: Site, sizes: list[int], rounds: int) -> list[Cost]:
    """Merges each large profile into its small one and undoes it, in turns, so that a busy moment meets them all."""
    merges, undos, looks = ({size: list[float]() for size in sizes} for _ in range(3))
    for n in range(rounds):
        for size in sizes:
            people = [Person(("id", f"small-{size}")), Person(("id", f"large-{size}"))]
            merge = Operation(site, "merge", f"merge-{size}-{n}", people, force=True)
            merges[size].append(await timed(gateway.writer.operation(merge)))
            undo = Operation(site, "undo", f"undo-{size}-{n}", of=merge.op_id)
            undos[size].append(await timed(gateway.writer.operation(undo)))
            looks[size].append(await look(gateway, site, f"large-{size}"))
    middle = [[round(median(times[size]), 3) for times in (merges, undos, looks)] for size in sizes]
    return [Cost(size, *figures) for size, figures in zip(sizes, middle, strict=True)]


async def look(gateway: Gateway, site: Site, name: str) -> float:
    """How long the latest 50 events of somebody take, in milliseconds."""
    reader = gateway.reader(site)
    profile = await reader.by_identity(("id", name))
    assert profile is not None
    return await timed(reader.events(int(profile["profile_id"]), limit=50))


async def timed(work: Awaitable[object]) -> float:
    """How long `work` takes, in milliseconds."""
    started = time.perf_counter()
    await work
    return (time.perf_counter() - started) * 1000
