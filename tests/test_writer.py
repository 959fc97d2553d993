"""Group commit: what waits together is committed together, and nobody pays for a neighbour."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Unavailable
from gateway.identity.engine import Engine, Reply, Request
from gateway.store.base import Transaction
from tests.driver import Driver, driving


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    async with driving(tmp_path) as driver:
        yield driver


def groups_of(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each group that is decided from now on."""
    sizes: list[int] = []
    run = Engine.run

    async def counted(self: Engine, tx: Transaction, requests: Any) -> list[Reply]:
        sizes.append(len(requests))
        return await run(self, tx, requests)

    monkeypatch.setattr(Engine, "run", counted)
    return sizes


async def push(driver: Driver, n: int) -> str:
    return await driver.push(f"d{n}", ["track", "Landed"], f"op{n}", time.time())


async def test_requests_that_wait_together_share_a_transaction(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = groups_of(driver, monkeypatch)
    await asyncio.gather(*(push(driver, n) for n in range(40)))
    assert sum(sizes) == 40
    assert len(sizes) < 20
    assert len(await driver.profiles()) == 40


@pytest.mark.gateway_errors_expected
async def test_one_bad_request_costs_only_itself(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Engine.run

    async def poisoned(self: Engine, tx: Transaction, requests: list[Request]) -> list[Reply]:
        if any(c.op_id == "op7" for r in requests for c in getattr(r, "commands", ())):
            raise RuntimeError("a bug")
        return await run(self, tx, requests)

    monkeypatch.setattr(Engine, "run", poisoned)
    done = await asyncio.gather(*(push(driver, n) for n in range(20)), return_exceptions=True)
    assert sum(isinstance(d, AssertionError) for d in done) == 1
    assert len(await driver.profiles()) == 19


@pytest.mark.gateway_errors_expected
async def test_a_listener_that_fails_stops_nobody(driver: Driver) -> None:
    def fails(request: Request, reply: Reply) -> None:
        raise RuntimeError("a bug")

    driver.gateway.writer.listeners.append(fails)
    await push(driver, 1)
    await push(driver, 2)
    assert len(await driver.profiles()) == 2


async def test_a_site_may_be_changed_while_groups_are_committed(driver: Driver) -> None:
    pushes = [push(driver, n) for n in range(30)]
    saves = [driver.gateway.sites.save(driver.site) for _ in range(10)]
    await asyncio.gather(*pushes, *saves)
    assert len(await driver.profiles()) == 30


async def test_what_waits_when_the_gateway_stops_is_committed_first(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, store = driver.gateway.writer, driver.gateway.store
    commit, submit = store.run, writer._submit
    all_wait, may_commit, submitted = asyncio.Event(), asyncio.Event(), []

    async def held(work: Any) -> Any:
        await may_commit.wait()
        return await commit(work)

    async def counted(request: Request) -> Reply:
        submitted.append(request)
        if len(submitted) == 10:
            all_wait.set()
        return await submit(request)

    monkeypatch.setattr(store, "run", held)
    monkeypatch.setattr(writer, "_submit", counted)
    pushes = [asyncio.create_task(push(driver, n)) for n in range(10)]
    await asyncio.wait_for(all_wait.wait(), 10)
    closing = asyncio.create_task(writer.close())
    may_commit.set()
    await asyncio.gather(closing, *pushes)
    with pytest.raises(Unavailable):
        await submit(submitted[0])
    assert len(await driver.profiles()) == 10


async def test_a_group_leaves_nothing_to_the_garbage_collector(driver: Driver) -> None:
    """What was loaded for a group goes with it: kept until a collection, it cost a fifth of every event."""
    await push(driver, 1)
    gc.collect()
    gc.disable()
    try:
        for n in range(5):
            await driver.push("d1", ["track", "Landed"], f"again{n}", time.time())
            await driver.push("d1", ["user", {"id": f"u{n}"}], f"user{n}", time.time())
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {type(found).__name__ for found in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left & {"World", "Device", "Visitor", "Event", "Fact", "BatchRun", "Decider", "Loader"}


async def until_jo_is_gone(driver: Driver) -> None:
    for _ in range(500):
        if await driver.find("u:jo") is None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the deletion was not committed in time")


def holding(folder: Path, value: bytes) -> list[Path]:
    return [file for file in folder.glob("gateway.db*") if value in file.read_bytes()]


async def test_a_deletion_that_waits_for_readers_holds_up_nobody_else(driver: Driver, tmp_path: Path) -> None:
    """Its answer says that the values are gone from the files, too; others have their own answers long before."""
    await driver.server_push("jo", ["user", {"name": "canary-jo"}], "jo", time.time())
    async with driver.gateway.store.snapshot() as view:
        await view.read("select * from profiles")  # as a long export does
        assert holding(tmp_path, b"canary-jo")
        deletion = asyncio.create_task(driver.do_delete("d", time.time(), "u:jo"))
        await until_jo_is_gone(driver)
        await asyncio.wait_for(push(driver, 1), 3)
        assert not deletion.done()
    assert await deletion == "deleted"
    assert holding(tmp_path, b"canary-jo") == []


async def test_the_writer_ends_after_the_deletions_that_wait_are_answered(driver: Driver) -> None:
    await driver.server_push("jo", ["user", {"name": "jo"}], "jo", time.time())
    async with driver.gateway.store.snapshot() as view:
        await view.read("select * from profiles")
        deletion = asyncio.create_task(driver.do_delete("d", time.time(), "u:jo"))
        await until_jo_is_gone(driver)
        closing = asyncio.create_task(driver.gateway.writer.close())
        await asyncio.wait([closing], timeout=0.1)
        assert not closing.done()
    await closing
    assert await deletion == "deleted"
