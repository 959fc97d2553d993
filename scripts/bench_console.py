"""How long the console's pages take on much data: `python scripts/bench_console.py [sqlite] [postgres]`.

A site of 10,000 people and a million events is made: people by the engine, as pages would, and their events straight
into the table. Each page is then asked for in one process. `--keep FILE` leaves the SQLite database behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import httpx
import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from gateway.app import make_app, opened
from gateway.console.access import Access
from gateway.context import Gateway
from gateway.identity.requests import Batch, Context, Login, Logout, Operation, Person, Reidentify, ServerBatch, Writes
from gateway.model import ID_TIME_SHIFT, Site, now
from gateway.settings import load
from tests.postgres import SAFE, Cluster

DAY = 24 * 3600 * 1_000_000
DAYS = 60
ROUNDS = 15
PASSWORD = "seven quiet otters"
FIRST = (
    "Ada Ben Cleo Dan Eva Finn Gus Hana Ida Jon Kim Leo Mia Nora Otto Pia Quin Rosa Sam Tess Uma Vic Wes Xena Yan Zoe"
)
EVENTS = ("Viewed page", "Viewed page", "Viewed page", "Viewed product", "Added to basket", "Searched", "Purchased")
BROWSERS = (("Chromium", "macOS"), ("Chromium", "Windows"), ("Google Chrome", "Android"), ("Firefox", "Linux"))


def text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def first_visit(site: Site, n: int, at: int) -> Batch:
    """A new browser: four in five log in, every tenth of those subscribed first; every twentieth shares an address."""
    brand, platform = random.choice(BROWSERS)
    hints = {"language": "en", "timezone": "Europe/Berlin", "screen": "1440x900", "ua": {"platform": platform}}
    hints["ua"] = {"brands": [{"brand": brand}], "platform": platform, "mobile": platform == "Android"}
    commands: list[Context | Login | Logout | Reidentify] = [Context(f"c{n}", at, data=text(hints))]
    email = f"person{n - 1 if n % 20 == 2 else n}@example.com"
    if n % 5:
        name = f"{random.choice(FIRST.split())} {random.choice('ABCDEFGHKLMNRSTW')}."
        rows = [
            ("set", k, text(v)) for k, v in (("email", email), ("name", name), ("plan", random.choice(["pro", "free"])))
        ]
        if n % 10 == 3:
            commands.append(Login(f"s{n}", at + 1, key=("id", email), rows=rows))
            commands.append(Reidentify(f"r{n}", at + 2, new=("id", str(1000 + n)), old=("id", email)))
        else:
            commands.append(Login(f"l{n}", at + 1, key=("id", str(1000 + n)), rows=rows))
    return Batch(site, 0, list(commands), at)


async def people(gateway: Gateway, site: Site, number: int) -> None:
    """Makes the people, second devices, held merges, a few merges and an undo."""
    start = now() - DAYS * DAY
    for first in range(0, number, 500):
        batches = [
            first_visit(site, n, start + n * (DAYS * DAY // number)) for n in range(first, min(first + 500, number))
        ]
        await asyncio.gather(*(gateway.writer.commands(b) for b in batches))
    known = [n for n in range(number) if n % 5]
    again = [
        Batch(site, 0, [Login(f"a{n}", now(), key=("id", str(1000 + n)))], now())
        for n in known[:: max(1, number // 2000)]
    ]
    again += [Batch(site, 0, [Login(f"b{n}", now(), key=("id", "1001"))], now()) for n in range(min(40, number // 5))]
    claims = [(f"h{n}", ("id", f"claim-{n}"), ("id", str(1000 + n))) for n in known[: min(30, number // 5)]]
    again += [Batch(site, 0, [Reidentify(o, now(), new=a, old=b)], now()) for o, a, b in claims]
    again += [Batch(site, 0, [Login(f"x{n}", now(), blocked=f"'{v}' is a placeholder, not somebody's id")], now())
              for n, v in enumerate(["null", "undefined", "anonymous", "0"] * 5)]  # fmt: skip
    for first in range(0, len(again), 500):
        await asyncio.gather(*(gateway.writer.commands(b) for b in again[first : first + 500]))
    bought = [Writes(f"w{n}", now(), rows=[("set", "orders", str(n)), ("tag", "vip", "true")]) for n in range(3)]
    await gateway.writer.commands(ServerBatch(site, ("id", "1001"), list(bought), now()))
    for a, b in zip(known[100:110], known[110:120], strict=False):
        pair = [Person(key=("id", str(1000 + a))), Person(key=("id", str(1000 + b)))]
        done = await gateway.writer.operation(
            Operation(site, "merge", "", pair, actor="console:ann", reason="called us")
        )
        if a % 2:
            await gateway.writer.operation(Operation(site, "undo", "", of=done.op_id, actor="console:ann"))


def rows(site: Site, visitors: list[dict[str, int]], number: int) -> Iterator[tuple[object, ...]]:
    """Events, spread over the visitors so that a few have very many."""
    end = now()
    for n in range(number):
        visitor = visitors[int(len(visitors) * random.random() ** 3)]
        at = random.randint(max(visitor["first"], 0), end) if visitor["ended_at"] > end else visitor["first"]
        name = random.choice(EVENTS)
        data = (
            text({"total": n % 300, "product": f"lamp-{n % 50}"}) if name != "Viewed page" else text({"title": "Shop"})
        )
        page = text({"url": f"https://www.shop.example/p/{n % 500}", "title": f"Lamp {n % 500}", "referrer": ""})
        event_id = (at // 1000 << ID_TIME_SHIFT) + n
        yield event_id, site.site_id, visitor["device_id"], f"e{n}", name, data, page, at, at + 1000, 0


async def events(gateway: Gateway, site: Site, number: int) -> None:
    """Puts events into the table, and what they come to into the counters of visitors."""
    store = gateway.store
    found = await store.read(
        "select device_id, ended_at, coalesce(first_seen, claim_at) as first from visitors where site_id = $1"
        " order by device_id", site.site_id,
    )  # fmt: skip
    columns = "event_id, site_id, device_id, message_id, name, data, page, occurred_at, received_at, clamped"
    waiting: list[tuple[object, ...]] = []

    async def flush() -> None:
        group = list(waiting)
        waiting.clear()
        if group:
            await store.run(lambda tx: tx.insert("events", columns, group, ""))  # type: ignore[attr-defined]

    for row in rows(site, [v for v in found if v["first"]], number):
        waiting.append(row)
        if len(waiting) == 20_000:
            await flush()
    await flush()
    count = (
        "update visitors set events = c.n, first_seen = case when c.a < first_seen then c.a else first_seen end,"
        " last_seen = case when c.b > last_seen then c.b else last_seen end"
        " from (select v.visitor_id as id, count(*) as n, min(e.occurred_at) as a, max(e.occurred_at) as b"
        " from visitors v join events e on e.device_id = v.device_id"
        " and e.occurred_at >= v.started_at and e.occurred_at < v.ended_at group by v.visitor_id) as c"
        " where visitors.visitor_id = c.id"
    )
    if gateway.settings.database.startswith("postgres"):
        await store.read(count)  # a write may take 30 seconds there
    else:
        await store.run(lambda tx: tx.execute(count))  # type: ignore[attr-defined]


async def seed(gateway: Gateway, number: int, many: int) -> Site:
    """A site with so many people and events, and an admin called ann."""
    random.seed(7)
    site = await gateway.sites.create("shop", gateway.new_id(), origins=["https://www.shop.example"])
    await people(gateway, site, number)
    await events(gateway, site, many)
    await Access(gateway).create("ann", PASSWORD, "admin", [])
    if gateway.settings.database.startswith("postgres"):
        await gateway.store.read("analyze")
    return site


async def pages(gateway: Gateway, site: Site, client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """Every page to be measured, by name."""
    below = f"/console/s/{site.site_id}/"
    ids = {}
    for who in ("1001", "1002", "1003"):
        found = await gateway.reader(site).by_identity(("id", who))
        assert found is not None
        ids[who] = found["profile_id"]
    heavy, one, other = ids.values()
    listed = re.findall(
        r'<a href="([^"?#]*)"', (await client.get(below + "people")).text.partition("<nav")[2].partition("</nav>")[0]
    )
    named = {path.rpartition("/")[2]: path for path in listed}
    named |= {"people, all": below + "people?list=all", "people, known": below + "people?list=known"}
    named |= {"people, anonymous": below + "people?list=anonymous", "find an id": below + "people?q=1500"}
    named |= {"find an email": below + "people?q=person1500@example.com", "find a property": below + "people?q=pro"}
    named |= {"person": f"{below}people/{one}", "person, 41 devices": f"{below}people/{heavy}"}
    named |= {
        "merge preview": f"{below}people/{one}/merge?with={other}",
        "merge with whom": f"{below}people/{one}/merge",
    }
    named |= {"reset": f"{below}people/{heavy}/reset", "delete": f"{below}people/{one}/delete"}
    return list(named.items()) + [("audit", "/console/audit"), ("users", "/console/users")]


def worked(server: int) -> float:
    """Seconds of CPU that this process and the processes of a database server have used."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat") if server else ():
        with contextlib.suppress(OSError):  # a process that has just ended
            fields = file.read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if int(fields[1]) == server else 0
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


async def measure(gateway: Gateway, site: Site, server: int) -> None:
    """Prints the time of each page: as the clock says, and the CPU that it took, the database's included."""
    transport = httpx.ASGITransport(app=make_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="https://console.test", timeout=60) as client:
        form = {"name": "ann", "password": PASSWORD}
        await client.post("/console/login", data=form, headers={"Sec-Fetch-Site": "same-origin"})
        print(f"{'page':<22}{'median':>9}{'slowest':>9}{'CPU':>9}  ms")
        for name, path in await pages(gateway, site, client):
            times = []
            cpu = worked(server)
            for _ in range(ROUNDS):
                started = time.perf_counter()
                response = await client.get(path)
                times.append(time.perf_counter() - started)
                assert response.status_code == 200, (path, response.text)
            cpu = (worked(server) - cpu) / ROUNDS
            print(f"{name:<22}{median(times) * 1000:>9.1f}{max(times) * 1000:>9.1f}{cpu * 1000:>9.1f}")


async def main(database: str, number: int, many: int, reuse: bool, server: int = 0) -> None:
    async with opened(load({}, database=database)) as gateway:
        started = time.monotonic()
        site = (await gateway.sites.all())[0] if reuse else await seed(gateway, number, many)
        print(f"\n{database.partition(':')[0]}: {number:,} people, {many:,} events; {time.monotonic() - started:.0f} s")
        await measure(gateway, site, server)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("databases", nargs="*", default=["sqlite"])
    asked.add_argument("--people", type=int, default=10_000)
    asked.add_argument("--events", type=int, default=1_000_000)
    asked.add_argument("--keep", help="a SQLite file, made or used again")
    given = asked.parse_args()
    for kind in given.databases:
        if kind == "postgres":
            with Cluster(SAFE) as cluster:
                assert cluster.process is not None
                asyncio.run(main(cluster.emptied(), given.people, given.events, False, cluster.process.pid))
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = given.keep or f"{folder}/gateway.db"
            asyncio.run(main(f"sqlite:///{file}", given.people, given.events, Path(file).exists()))
