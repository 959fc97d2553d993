"""The feed: everything once and in order, who is who followed by a reader, nothing of who is deleted."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.app import make_store, opened
from gateway.feed import PRUNED, Cursor, Feed, prune
from gateway.identity.requests import Batch, Login, Track
from gateway.model import now
from gateway.settings import load
from tests.driver import Driver, driving
from tests.server import GatewayServer

CASES = json.loads((Path(__file__).parent / "data" / "scenarios.json").read_text())


@pytest.fixture
async def shop(database: str) -> AsyncIterator[Driver]:
    async with driving(database) as driver:
        yield driver


async def read(driver: Driver, after: str = "", limit: int = 500) -> tuple[list[dict[str, Any]], str]:
    """Everything behind a cursor, page by page."""
    entries: list[dict[str, Any]] = []
    while True:
        answer = await driver.api("GET", f"/v1/feed?limit={limit}" + (f"&after={after}" if after else ""))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        if not page["entries"] and page["next"] == after:
            return entries, after
        assert len(page["entries"]) <= limit
        entries, after = entries + page["entries"], page["next"]


class Follower:
    """What the documentation tells a reader to do: keep events with their visitor and profile, and move them."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}

    def take(self, entry: dict[str, Any]) -> None:
        if entry["type"] == "event":
            self.events[entry["id"]] = entry["event"] | {k: entry[k] for k in ("profile_id", "micros")}
            return
        moved = []
        for piece in entry["moved"]:
            for name, event in self.events.items():
                inside = (piece["from"] or 0) <= event["micros"] < (piece["until"] or 2**62)
                if event["visitor_id"] == piece["was"] and inside:
                    moved.append((name, piece))
        for name, piece in moved:
            if piece["target"] is None:
                del self.events[name]
            else:
                self.events[name] |= {"visitor_id": piece["visitor_id"], "profile_id": piece["target"]}

    def where(self) -> dict[str, tuple[str, str]]:
        return {name: (e["visitor_id"], e["profile_id"]) for name, e in self.events.items()}


async def kept(driver: Driver) -> dict[str, tuple[str, str]]:
    """Every event there is, with the visitor and profile that the native API shows it on."""
    found = {}
    for profile in await driver.profiles():
        page = (await driver.api("GET", f"/v1/profiles/{profile['profile_id']}/events?limit=500")).json()
        found |= {f"event-{e['event_id']}": (e["visitor_id"], profile["profile_id"]) for e in page["events"]}
    return found


@pytest.mark.parametrize("case", CASES[::4], ids=[c["id"] for c in CASES[::4]])
async def test_whoever_follows_the_feed_knows_who_is_who(case: dict[str, Any], tmp_path: Path) -> None:
    """Read operation by operation, and all at the end: both come to what the gateway says."""
    follower, after = Follower(), Cursor()
    async with driving(tmp_path, device_cap=case["device_cap"], token_cap=case["token_cap"]) as driver:
        feed = Feed(driver.gateway.store, driver.site)

        async def step() -> None:
            nonlocal after
            page = await feed.page(after, 500)
            after = page.next
            for entry in page.entries:
                follower.take(entry)

        for kind in {kind for kind, _ in case["ops"]}:
            setattr(driver, f"do_{kind}", _then(getattr(driver, f"do_{kind}"), step))
        await driver.run(case["ops"])
        expected = await kept(driver)
        assert follower.where() == expected
        late = Follower()
        for entry in (await read(driver))[0]:
            late.take(entry)
        assert late.where() == expected


def _then(work: Any, after: Any) -> Any:
    async def both(*given: Any, **named: Any) -> Any:
        answer = await work(*given, **named)
        await after()
        return answer

    return both


def track(driver: Driver, device: int, message_id: str, *, private: bool = False) -> Batch:
    return Batch(driver.site, device, [Track(message_id, now(), "", name="Viewed")], now(), private=private)


async def test_pages_hold_every_entry_once_and_in_order(shop: Driver) -> None:
    devices = [shop.gateway.new_id() for _ in range(7)]
    writer = shop.gateway.writer
    for n in range(5):  # five commits of seven events, and pages that end within them
        await asyncio.gather(*(writer.commands(track(shop, d, f"{n}-{d}")) for d in devices))
    entries, end = await read(shop, limit=4)
    assert [e["type"] for e in entries] == ["event"] * 35
    assert len({e["id"] for e in entries}) == 35
    for device in devices:
        mine = [e["event"]["message_id"] for e in entries if e["event"]["device_id"] == str(device)]
        assert mine == [f"{n}-{device}" for n in range(5)]
    assert await read(shop, end) == ([], end)
    assert (await read(shop, limit=500))[0] == entries


async def test_a_merge_says_what_leads_where_and_so_does_its_undoing(shop: Driver) -> None:
    await shop.run([["track", {"device": "d1", "name": "looked"}], ["track", {"device": "d2", "name": "bought"}]])
    anonymous = await shop.find("d:d1")
    await shop.run([["login", {"device": "d1", "identity": "alice", "proof": "claimed"}]])
    await shop.run([["login", {"device": "d2", "identity": "bob", "proof": "claimed", "op": "second"}]])
    alice, bob = await shop.find("u:alice"), await shop.find("u:bob")
    assert anonymous and alice and bob
    entries, end = await read(shop)
    login = next(e for e in entries if e["type"] == "identity")
    assert (login["profile_id"], login["fact"]["kind"]) == (alice["profile_id"], "login")
    assert {"profile_id": anonymous["profile_id"], "target": alice["profile_id"]} in login["redirects"]
    await shop.run([["merge", {"target": "u:alice", "source": "u:bob", "op": "merge"}]])
    (merge,), end = await read(shop, end)
    assert merge["fact"]["op_id"] == "merge"
    assert {"profile_id": bob["profile_id"], "target": alice["profile_id"]} in merge["redirects"]
    (piece,) = merge["moved"]
    assert (piece["source"], piece["target"]) == (bob["profile_id"], alice["profile_id"])
    await shop.run([["undo", {"of": "merge", "op": "undo"}]])
    (undo,), end = await read(shop, end)
    assert {"profile_id": bob["profile_id"], "target": bob["profile_id"]} in undo["redirects"]
    await shop.run([["delete", {"who": "u:bob", "op": "delete"}]])
    (delete,), _ = await read(shop, end)
    assert (delete["fact"]["kind"], delete["profile_id"]) == ("delete", bob["profile_id"])
    assert {"profile_id": bob["profile_id"], "target": None} in delete["redirects"]
    everything = json.dumps((await read(shop))[0])
    assert "looked" in everything
    assert "bought" not in everything
    assert '"bob"' not in everything


async def test_whoever_asks_not_to_be_passed_on_is_left_out(shop: Driver) -> None:
    writer, device = shop.gateway.writer, shop.gateway.new_id()
    login = Login("l", now(), "", key=("id", "alice"))
    await writer.commands(Batch(shop.site, device, [login, Track("t", now(), "", name="Bought")], now(), private=True))
    await writer.commands(track(shop, shop.gateway.new_id(), "public"))
    entries, _ = await read(shop)
    assert [e["event"]["message_id"] for e in entries] == ["public"]


async def test_a_reader_that_waits_is_answered_when_something_comes(shop: Driver) -> None:
    _, end = await read(shop)
    waiting = asyncio.create_task(shop.api("GET", f"/v1/feed?wait=20&after={end or 0}"))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await shop.gateway.writer.commands(track(shop, shop.gateway.new_id(), "late"))
    page = (await waiting).json()
    assert [e["event"]["message_id"] for e in page["entries"]] == ["late"]
    assert time.monotonic() - began < 10


async def test_cursors_that_lead_nowhere_are_refused(shop: Driver) -> None:
    for n in range(3):
        await shop.gateway.writer.commands(track(shop, shop.gateway.new_id(), f"m{n}"))
    first = (await shop.api("GET", "/v1/feed?limit=1")).json()["next"]
    future = await shop.api("GET", "/v1/feed?after=999999999")
    assert (future.status_code, future.json()["error"]["code"]) == (400, "bad_cursor")
    store = shop.gateway.store
    assert await prune(store, 7) == 0
    await store.run(lambda tx: tx.execute("update outbox set at = at - $1", 8 * 24 * 3600 * 1_000_000))
    assert await prune(store, 7) == 3
    assert int(await store.config(PRUNED)) > int(first)
    old = await shop.api("GET", f"/v1/feed?after={first}")
    assert (old.status_code, old.json()["error"]["code"]) == (410, "cursor_expired")
    await shop.gateway.writer.commands(track(shop, shop.gateway.new_id(), "after"))
    assert [e["event"]["message_id"] for e in (await read(shop))[0]] == ["after"]


async def test_a_browser_may_not_read_it(shop: Driver) -> None:
    assert (await shop.client.get("/v1/feed")).status_code == 401
    assert (await shop.client.get("/v1/feed", headers={"Authorization": f"Bearer {shop.site.api_key}"})).is_error


# --- several gateways -------------------------------------------------------------------------------------------------


async def test_what_commits_late_is_waited_for(postgres_url: str) -> None:
    """A transaction that took its place in the outbox and is not over holds back what comes after it."""
    async with driving(postgres_url) as driver:
        await driver.gateway.writer.commands(track(driver, driver.gateway.new_id(), "first"))
        assert len((await read(driver))[0]) == 1
        for ends in ("commit", "rollback"):
            _, after = await read(driver)
            late = await asyncpg.connect(postgres_url)
            await late.execute("begin; insert into config values ('x', 'y') on conflict (name) do nothing")
            events = await late.fetchval("select event_id from events limit 1")
            row = (driver.site.site_id, now(), f"[{events}]")
            await late.execute("insert into outbox (site_id, at, events) values ($1, $2, $3)", *row)
            await driver.gateway.writer.commands(track(driver, driver.gateway.new_id(), f"beside {ends}"))
            for _ in range(3):
                assert (await read(driver, after))[0] == []
            await late.execute(ends)
            await late.close()
            names = [e["event"]["message_id"] for e in (await read(driver, after))[0]]
            assert names == (["first"] if ends == "commit" else []) + [f"beside {ends}"]


async def test_a_reader_misses_nothing_of_three_gateways(postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        driver = await stack.enter_async_context(driving(postgres_url))
        gateways = [await stack.enter_async_context(opened(load({}, database=postgres_url))) for _ in range(3)]
        devices = [driver.gateway.new_id() for _ in range(20)]
        sent: list[str] = []

        async def client(n: int) -> None:
            for i in range(40):
                writer, device = gateways[(n + i) % 3].writer, devices[(n * 7 + i) % 20]
                name = f"{device}:{i:02}:{n:02}"
                commands = [Login(f"l{name}", now(), "", key=("id", f"p{n % 5}"))] if i % 9 == 0 else []
                await writer.commands(Batch(driver.site, device, [*commands, Track(name, now(), "", name="V")], now()))
                sent.append(name)

        async def reader() -> list[str]:
            found, after = [], Cursor()
            feed = Feed(make_store(load({}, database=postgres_url)), driver.site)
            await feed.store.open()
            while len(found) < 240 or not writing.done():
                page = await feed.page(after, 50)
                found += [e["event"]["message_id"] for e in page.entries if e["type"] == "event"]
                after = page.next
                await asyncio.sleep(0.01)
                assert time.monotonic() < deadline, f"{len(found)} of 240"
            await feed.store.close()
            return found

        deadline = time.monotonic() + 30
        writing = asyncio.gather(*(client(n) for n in range(6)))
        read_ids = await reader()
        await writing
        assert sorted(read_ids) == sorted(sent)


def test_a_reader_that_waits_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with GatewayServer(tmp_path) as server:
        headers = {"Authorization": f"Bearer {server.site()['secret_key']}"}
        reader = HTTPConnection("127.0.0.1", server.port, timeout=30)
        reader.request("GET", "/v1/feed", headers=headers)
        assert json.loads(reader.getresponse().read()) == {"entries": [], "next": "0"}
        reader.request("GET", "/v1/feed?wait=25", headers=headers)
        assert server.is_ready()  # what was sent before is read by now
        began = time.monotonic()
        server.stop(timeout=20)
        assert time.monotonic() - began < 9, "it was cut off, not answered"
        assert json.loads(reader.getresponse().read()) == {"entries": [], "next": "0"}
        reader.close()
