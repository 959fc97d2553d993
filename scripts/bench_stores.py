"""What both databases take side by side, with one gateway and with three: `python scripts/bench_stores.py`.

Each line is a fresh database and the writer alone, without HTTP: requests that wait together share a transaction, as in
a running gateway. PostgreSQL is started for it, with fsync on. The ratios matter: figures move from machine to machine.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from gateway.app import opened
from gateway.context import Gateway
from gateway.identity.requests import Batch, Login, Track
from gateway.model import Site, now
from gateway.settings import load
from tests.postgres import SAFE, Cluster

SECONDS = 4
WAITING = 200
DEVICES = 2000

Make = Callable[[Site, int, int], Batch]


def events(site: Site, device: int, n: int) -> Batch:
    return Batch(site, device, [Track(f"e{n}", now(), "", name="Viewed", data=b'{"price":9.99}')], now())


def first_visits(site: Site, device: int, n: int) -> Batch:
    return Batch(site, 0, [Track(f"f{n}", now(), "", name="Viewed")], now())


def logins(site: Site, device: int, n: int) -> Batch:
    login = Login(f"l{n}", now(), "", key=("id", f"person-{n}"), rows=[("set", "plan", '"pro"')])
    return Batch(site, 0, [Track(f"t{n}", now(), "", name="Viewed"), login], now())


async def rate(url: str, gateways: int, make: Make) -> float:
    """Requests a second that `gateways` gateways make durable together; they share one process and one CPU here."""
    async with AsyncExitStack() as stack:
        opened_ = [await stack.enter_async_context(opened(load({}, database=url))) for _ in range(gateways)]
        site = await opened_[0].sites.create("shop", opened_[0].new_id(), origins=[])
        devices = [opened_[0].new_id() for _ in range(DEVICES)]
        await asyncio.gather(*(opened_[0].writer.commands(events(site, d, -d)) for d in devices))
        counter = iter(range(10**9))
        done = 0
        end = time.perf_counter() + SECONDS

        async def client(gateway: Gateway) -> None:
            nonlocal done
            while time.perf_counter() < end:
                n = next(counter)
                await gateway.writer.commands(make(site, devices[n % DEVICES], n))
                done += 1

        start = time.perf_counter()
        await asyncio.gather(*(client(opened_[n % gateways]) for n in range(WAITING)))
        return done / (time.perf_counter() - start)


def main() -> None:
    with Cluster(SAFE) as cluster:
        print(f"{'':24}{'SQLite':>10}{'PostgreSQL':>12}{'ratio':>8}{'3 gateways':>12}{'ratio':>8}")
        for name, make in (("events", events), ("first visits", first_visits), ("visit and login", logins)):
            with tempfile.TemporaryDirectory() as folder:
                small = asyncio.run(rate(f"sqlite:///{folder}/bench.db", 1, make))
            one = asyncio.run(rate(cluster.new_database(), 1, make))
            three = asyncio.run(rate(cluster.new_database(), 3, make))
            print(f"{name:24}{small:10.0f}{one:12.0f}{one / small:8.2f}{three:12.0f}{three / one:8.2f}")


if __name__ == "__main__":
    main()
