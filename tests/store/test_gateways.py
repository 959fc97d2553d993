"""Several gateways on one PostgreSQL database: real processes, one of them killed, the database restarted."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import make_store, opened
from gateway.check import check_site
from gateway.context import Gateway
from gateway.identity.batches import Done
from gateway.identity.requests import Batch, Login, Operation, Person, ServerBatch, Track
from gateway.model import Site, now
from gateway.settings import load
from tests.postgres import SAFE, Cluster
from tests.server import GatewayServer

PEOPLE = [f"person-{n}" for n in range(12)]


@pytest.fixture
def servers(tmp_path: Path, postgres_url: str) -> Iterator[list[GatewayServer]]:
    made = [server(tmp_path / str(n), postgres_url) for n in range(3)]
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        yield list(pool.map(stack.enter_context, made))


def server(folder: Path, url: str) -> GatewayServer:
    folder.mkdir()
    return GatewayServer(folder, environment={"GATEWAY_DATABASE": url})


@dataclass
class Load:
    """Browsers that send to any gateway, and again with the same ids until one of them took it, as the snippet does."""

    urls: list[str]
    api_key: str
    seed: int = 1
    acknowledged: list[str] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    refused: int = 0
    stop: bool = False

    async def run(self, browsers: int) -> None:
        await asyncio.gather(*(self.browser(n) for n in range(browsers)))

    async def browser(self, name: int) -> None:
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            await self.push(client, name)

    async def push(self, client: httpx.AsyncClient, name: int) -> None:
        choose = random.Random(self.seed * 1000 + name)
        token: dict[str, str] = {}
        sent = 0
        while not self.stop:
            commands = []
            for _ in range(choose.randint(1, 4)):
                sent += 1
                what = choose.random()
                command: list[Any] = ["track", "Viewed", {"n": sent}]
                if what < 0.2:
                    command = ["user", {"id": choose.choice(PEOPLE), "n": sent}]
                elif what < 0.25:
                    command = ["logout"]
                elif what < 0.3:
                    command = ["reidentify", choose.choice(PEOPLE), choose.choice(PEOPLE)]
                commands.append({"id": f"m-{name}-{sent}", "at": time.time() * 1000, "command": command})
            body = {"key": self.api_key, "sent_at": time.time() * 1000, "commands": commands} | token
            reply = await self.send(client, choose, body)
            token = {"device": reply["device"]} if "device" in reply else token
            self.acknowledged += [c["id"] for c in commands if c["command"][0] == "track"]

    async def send(self, client: httpx.AsyncClient, choose: random.Random, body: Any) -> Any:
        while True:
            try:
                response = await client.post(f"{choose.choice(self.urls)}/v1/commands", json=body)
            except httpx.TransportError:
                self.refused += 1
                await asyncio.sleep(0.05)
                continue
            self.statuses.add(response.status_code)
            if response.status_code == 202:
                return response.json()
            assert response.status_code == 503, response.text
            assert int(response.headers["retry-after"]) > 0
            await asyncio.sleep(0.1)


async def stored(url: str) -> list[str]:
    """The message ids of all events."""
    store = make_store(load({}, database=url))
    await store.open()
    try:
        return [r["message_id"] for r in await store.read("select message_id from events")]
    finally:
        await store.close()


async def test_one_of_three_gateways_is_killed_under_load(servers, postgres_url):
    shop = servers[0].site()
    traffic = Load([s.url for s in servers], shop["api_key"])
    running = asyncio.create_task(traffic.run(browsers=9))
    await asyncio.sleep(1.5)
    servers[2].kill()
    await asyncio.sleep(1.5)
    traffic.stop = True
    await running
    events = await stored(postgres_url)
    assert traffic.refused > 0
    assert len(traffic.acknowledged) > 50
    assert traffic.statuses == {202}
    assert sorted(events) == sorted(traffic.acknowledged)
    servers[0].command("check")
    servers[2].start()
    assert servers[2].is_ready()


async def test_the_database_restarts_under_load(tmp_path):
    """A crash of the database: refusals with Retry-After while it is away, and nothing acknowledged is lost."""
    with Cluster(SAFE) as cluster, server(tmp_path / "gateway", cluster.new_database()) as gateway:
        url = gateway._environment["GATEWAY_DATABASE"]
        traffic = Load([gateway.url], gateway.site()["api_key"])
        running = asyncio.create_task(traffic.run(browsers=4))
        await asyncio.sleep(1)
        await asyncio.to_thread(cluster.stop, signal.SIGQUIT)
        await asyncio.sleep(0.5)
        before = len(traffic.acknowledged)
        assert (await asyncio.to_thread(httpx.get, f"{gateway.url}/ready", trust_env=False)).status_code == 503
        await asyncio.to_thread(cluster.start)
        await asyncio.sleep(1.5)
        traffic.stop = True
        await running
        assert len(traffic.acknowledged) > before > 0
        assert traffic.statuses == {202, 503}
        events = await stored(url)
        assert sorted(events) == sorted(traffic.acknowledged)
        gateway.command("check")


# --- the same thing at once, from different gateways, in one process so that they meet often --------------------------


@pytest.fixture
async def gateways(postgres_url: str) -> AsyncIterator[list[Gateway]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(load({}, database=postgres_url))) for _ in range(3)]


@pytest.fixture
async def shop(gateways: list[Gateway]) -> AsyncIterator[Site]:
    site = await gateways[0].sites.create("shop", gateways[0].new_id(), origins=[])
    yield site
    assert await check_site(gateways[0].store, site) == []


def login(site: Site, device_id: int, value: str, op_id: str) -> Batch:
    return Batch(site, device_id, [Login(op_id, now(), "", key=("id", value))], now())


def track(site: Site, device_id: int, message_id: str) -> Batch:
    return Batch(site, device_id, [Track(message_id, now(), "", name="Viewed")], now())


async def count(gateway: Gateway, sql: str) -> int:
    return int((await gateway.store.read(f"select count(*) as n from {sql}"))[0]["n"])


async def test_opposite_merges_give_one_merge(gateways, shop):
    for n in range(10):
        for side in "ab":
            await gateways[0].writer.commands(login(shop, gateways[0].new_id(), f"{side}{n}", f"login-{side}{n}"))
        people = [Person(key=("id", f"a{n}")), Person(key=("id", f"b{n}"))]
        answers = await asyncio.gather(
            gateways[1].writer.operation(Operation(shop, "merge", f"one-{n}", people)),
            gateways[2].writer.operation(Operation(shop, "merge", f"other-{n}", people[::-1])),
        )
        assert sorted(a.outcome for a in answers) == ["merged", "noop"]


async def test_a_ring_of_merges_ends_as_one_profile(gateways, shop):
    size = 9
    for n in range(size):
        await gateways[0].writer.commands(login(shop, gateways[0].new_id(), f"p{n}", f"login-{n}"))
    ring = [
        Operation(shop, "merge", f"m{n}", [Person(key=("id", f"p{n}")), Person(key=("id", f"p{(n + 1) % size}"))])
        for n in range(size)
    ]
    answers = await asyncio.gather(*(gateways[n % 3].writer.operation(o) for n, o in enumerate(ring)))
    assert sorted(a.outcome for a in answers) == ["merged"] * (size - 1) + ["noop"]
    assert await count(gateways[0], "profiles where live = 1") == 1


async def test_one_operation_sent_to_all_is_done_once(gateways, shop):
    for value in ("alice", "bob"):
        await gateways[0].writer.commands(login(shop, gateways[0].new_id(), value, f"login-{value}"))
    operation = Operation(shop, "merge", "op", [Person(key=("id", "alice")), Person(key=("id", "bob"))])
    answers = await asyncio.gather(*(g.writer.operation(operation) for g in gateways))
    assert [a.outcome for a in answers] == ["merged"] * 3
    assert await count(gateways[0], "ledger where op_id = 'op'") == 1


async def test_a_new_identity_is_made_once(gateways, shop):
    for n in range(10):
        devices = [g.new_id() for g in gateways]
        work = [
            g.writer.commands(login(shop, d, f"new-{n}", f"{n}-{d}")) for g, d in zip(gateways, devices, strict=True)
        ]
        await asyncio.gather(*work)
        assert await count(gateways[0], f"identities where value = 'new-{n}'") == 1
        homes = f"(select distinct home from visitors where device_id in ({', '.join(map(str, devices))})) h"
        assert await count(gateways[0], homes) == 1


async def test_a_browser_without_a_cookie_that_tries_everywhere_is_one_device(gateways, shop):
    for n in range(10):
        batches = [track(shop, 0, f"first-{n}") for _ in gateways]
        answers = await asyncio.gather(*(g.writer.commands(b) for g, b in zip(gateways, batches, strict=True)))
        assert len({a.device_id for a in answers if isinstance(a, Done)}) == 1
    assert await count(gateways[0], "events") == 10


async def test_counters_count_what_came_through_different_gateways(gateways, shop):
    device = gateways[0].new_id()
    work = [gateways[n % 3].writer.commands(track(shop, device, f"m{n // 2}")) for n in range(60)]
    await asyncio.gather(*work)
    assert await count(gateways[0], "events") == 30
    rows = await gateways[0].store.read("select events from visitors where device_id = $1", device)
    assert rows == [{"events": 30}]


async def test_two_gateways_cut_one_device(gateways, shop):
    device = gateways[0].new_id()
    people = ["alice", "bob", "carol"]
    work = [g.writer.commands(login(shop, device, p, f"login-{p}")) for g, p in zip(gateways, people, strict=True)]
    await asyncio.gather(*work)
    sql = "select started_at, ended_at from visitors where device_id = $1 order by started_at"
    rows = await gateways[0].store.read(sql, device)
    assert len(rows) == 3
    assert [r["started_at"] for r in rows[1:]] == [r["ended_at"] for r in rows[:-1]]


async def test_a_servers_first_messages_about_a_person_share_one_visitor(gateways, shop):
    async def send(gateway: Gateway, n: int) -> None:
        batch = ServerBatch(shop, ("id", "alice"), [Track(f"s{n}", now(), "", name="Paid")], now())
        await gateway.writer.commands(batch)

    await asyncio.gather(*(send(gateways[n % 3], n) for n in range(12)))
    assert await count(gateways[0], "devices where server = 1") == 1
    assert await count(gateways[0], "events") == 12


async def test_a_merge_meets_logins_of_both_people(gateways, shop):
    for value in ("alice", "bob"):
        await gateways[0].writer.commands(login(shop, gateways[0].new_id(), value, f"login-{value}"))
    work: list[Any] = [
        gateways[n % 3].writer.commands(login(shop, gateways[n % 3].new_id(), ("alice", "bob")[n % 2], f"again-{n}"))
        for n in range(12)
    ]
    people = [Person(key=("id", "alice")), Person(key=("id", "bob"))]
    work.insert(5, gateways[1].writer.operation(Operation(shop, "merge", "op", people)))
    await asyncio.gather(*work)
    assert await count(gateways[0], "profiles where live = 1") == 1
    assert (
        await count(gateways[0], "visitors v join profiles p on p.profile_id = v.home where p.root = p.profile_id") > 0
    )
