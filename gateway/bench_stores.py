"""`gateway bench stores`: what one durable request costs on SQLite and on PostgreSQL, and with more gateways.

Each figure is from a fresh database and from processes of their own, each with a writer and no HTTP; what waits
together shares a transaction, as in a running gateway. Requests a second depend on who else uses the machine; a
gateway's CPU time for a request hardly does.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from gateway.app import make_store, opened
from gateway.identity.requests import Batch, Command, Login, Track
from gateway.model import IdGenerator, Site, now
from gateway.settings import load

WAITING = 200
DEVICES = 2000
FLEET = 3

Make = Callable[[str], tuple[bool, list[Command]]]


@dataclass(slots=True)
class Cost:
    """One load: requests a second and CPU microseconds of the gateways for a request, on each kind of database."""

    load: str
    sqlite_rate: float
    sqlite_us: float
    postgres_rate: float
    postgres_us: float
    fleet_rate: float
    fleet_us: float


def an_event(name: str) -> tuple[bool, list[Command]]:
    """An event on a device that is known."""
    return True, [Track(f"e{name}", now(), "", name="Viewed", data='{"price":9.99}')]


def a_visit(name: str) -> tuple[bool, list[Command]]:
    """The first event of a browser."""
    return False, [Track(f"f{name}", now(), "", name="Viewed")]


def a_login(name: str) -> tuple[bool, list[Command]]:
    """A first visit with a login."""
    login = Login(f"l{name}", now(), "", key=("id", f"person-{name}"), rows=[("set", "plan", '"pro"')])
    return False, [Track(f"t{name}", now(), "", name="Viewed"), login]


LOADS: dict[str, Make] = {
    "an event on a known device": an_event,
    "a first visit": a_visit,
    "a first visit with a login": a_login,
}


_all_are_ready: Any = None


def _started(barrier: Any) -> None:
    global _all_are_ready
    _all_are_ready = barrier


def gateway_process(url: str, kind: str, devices: Sequence[int], seconds: float) -> tuple[int, float]:
    """One gateway: how many requests it made durable, and the CPU seconds it used."""
    return asyncio.run(_work(url, LOADS[kind], devices, seconds))


async def _work(url: str, make: Make, devices: Sequence[int], seconds: float) -> tuple[int, float]:
    async with opened(load({}, database=url)) as gateway:
        (site,) = await gateway.sites.all()
        me = secrets.token_hex(4)
        counter = iter(range(10**9))
        done = 0
        _all_are_ready.wait(timeout=120)
        end = time.monotonic() + seconds

        async def client() -> None:
            nonlocal done
            while time.monotonic() < end:
                n = next(counter)
                known, commands = make(f"{me}-{n}")
                await gateway.writer.commands(_batch(site, devices[n % len(devices)] if known else 0, commands))
                done += 1

        cpu = time.process_time()
        await asyncio.gather(*(client() for _ in range(WAITING)))
        return done, time.process_time() - cpu


def _batch(site: Site, device_id: int, commands: list[Command]) -> Batch:
    return Batch(site, device_id, commands, now())


async def _measure(url: str, kind: str, gateways: int, seconds: float) -> tuple[float, float]:
    """Requests a second of all gateways together, and CPU microseconds of theirs for a request."""
    async with opened(load({}, database=url)) as gateway:
        site = await gateway.sites.create("bench", gateway.new_id(), origins=[])
        devices = [gateway.new_id() for _ in range(DEVICES)]
        first = [gateway.writer.commands(_batch(site, d, an_event(f"first-{d}")[1])) for d in devices]
        await asyncio.gather(*first)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(gateways, context, _started, (context.Barrier(gateways),)) as pool:
        share = (url, kind, devices, seconds)
        loop = asyncio.get_running_loop()
        done = await asyncio.gather(*(loop.run_in_executor(pool, gateway_process, *share) for _ in range(gateways)))
    total = sum(n for n, _ in done)
    return total / seconds, sum(cpu for _, cpu in done) / total * 1_000_000


@asynccontextmanager
async def _fresh(postgres: str) -> AsyncIterator[str]:
    """A database of its own on the same server, dropped at the end."""
    asyncpg: Any = import_module("asyncpg")
    name = f"gateway_bench_{IdGenerator()()}"
    connection = await asyncpg.connect(postgres)
    try:
        await connection.execute(f"create database {name}")
        try:
            yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        finally:
            await connection.execute(f"drop database {name} with (force)")
    finally:
        await connection.close()


async def bench(postgres: str, seconds: float, report: Callable[[int, int], object]) -> list[Cost]:
    """Every load on SQLite, on PostgreSQL, and on PostgreSQL with several gateways. `report`: (done, of how many)."""
    await _check(postgres)
    costs, done = [], 0
    for kind in LOADS:
        found: list[tuple[float, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            found.append(await _measure(f"sqlite:///{folder}/bench.db", kind, 1, seconds))
            report(done := done + 1, 3 * len(LOADS))
        for gateways in (1, FLEET):
            async with _fresh(postgres) as url:
                found.append(await _measure(url, kind, gateways, seconds))
            report(done := done + 1, 3 * len(LOADS))
        costs.append(Cost(kind, *found[0], *found[1], *found[2]))
    return costs


async def _check(postgres: str) -> None:
    """Raises SettingError or Unavailable for a server that cannot be used, before anything is measured."""
    store = make_store(load({}, database=postgres))
    await store.open()
    await store.close()
