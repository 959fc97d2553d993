"""`gateway move`: every row from one database into another, while it is written to, and nothing lost at the switch."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from gateway.app import make_store, opened
from gateway.cli import app
from gateway.errors import Conflict, GatewayError
from gateway.move import AT_ONCE, Move, run
from gateway.settings import load
from gateway.store.catalog import Table, rows, tables
from tests.driver import driving
from tests.server import GatewayServer, wait_for
from tests.store.test_gateways import Load

CASES = json.loads((Path(__file__).parent / "data" / "scenarios.json").read_text())
OWN = {"moving", "moved", "move_id", "node"}


def move(source: str, target: str, *options: str) -> tuple[int, Any]:
    """The exit code of `gateway move`, and what it says."""
    result = CliRunner().invoke(app, ["move", source, target, *options, "--json"])
    if isinstance(result.exception, GatewayError):
        return 1, result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return 0, json.loads(result.stdout)


async def contents(url: str) -> dict[str, list[Any]]:
    """Every row of every table, in an order that does not depend on the database."""
    store: Any = make_store(load({}, database=url))
    await store.open()
    found = {}
    for name, table in (await tables(store)).items():
        held = [r for r in await store.read(f"select * from {name}") if r.get("name") not in OWN or name != "config"]
        found[name] = sorted((tuple(r[c] for c in sorted(table.columns)) for r in held), key=repr)
    await store.close()
    return found


async def fill(url: str, cases: list[Any]) -> None:
    for case in cases:
        async with driving(url) as driver:
            driver.site.name = case["id"]
            await driver.gateway.sites.save(driver.site)
            await driver.run(case["ops"])
    async with opened(load({}, database=url)) as gateway:
        await gateway.store.set_config("ключ\U0001f511", "значение")


async def test_there_and_back_again_is_the_same(tmp_path: Path, postgres_url: str) -> None:
    first, last = (f"sqlite:///{tmp_path / name}" for name in ("first.db", "last.db"))
    await fill(first, CASES[::12])
    before = await contents(first)
    assert all(before[t] for t in ("events", "ledger", "properties", "outbox", "sites", "homes", "exclusions"))
    _, said = await asyncio.to_thread(move, first, postgres_url, "--finish")
    assert said["finished"] is True
    assert said["written"] == sum(map(len, before.values()))
    assert await contents(postgres_url) == before
    async with opened(load({}, database=postgres_url)) as gateway:
        assert (await gateway.store.settled())[1] == max(row[-2] for row in before["outbox"])
    assert (await asyncio.to_thread(move, postgres_url, last, "--finish"))[0] == 0
    assert await contents(last) == before
    async with driving(last) as driver:  # and it goes on: signing keys, ids and places in the feed
        await driver.run([["track", {"device": "d", "name": "on"}]])
        _, position = await driver.gateway.store.settled()
        assert position == max(row[-2] for row in before["outbox"]) + 1
    with pytest.raises(Conflict, match="was moved into another"):
        async with opened(load({}, database=first)):
            pass


async def test_a_move_that_broke_off_goes_on_and_takes_over_what_changed(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.move.AT_ONCE", 3)
    source = f"sqlite:///{tmp_path / 'source.db'}"
    await fill(source, CASES[:1])

    class BrokenOff(Exception):
        pass

    stores: list[Any] = [make_store(load({}, database=url)) for url in (source, postgres_url)]
    for store in stores:
        await store.open()
    looked_at = 0

    def report(done: int) -> None:
        nonlocal looked_at
        looked_at += done
        if looked_at > 20:
            raise BrokenOff

    half = Move(*stores)
    await half.begin(resume=False)
    with pytest.raises(BrokenOff):
        await half.copy(report)
    for store in stores:
        await store.close()
    with pytest.raises(Conflict, match="not all of it is here"):
        async with opened(load({}, database=postgres_url)):
            pass
    await fill(source, CASES[30:31])
    async with opened(load({}, database=source)) as gateway:
        await gateway.store.run(lambda tx: tx.execute("delete from identity_errors"))  # type: ignore[attr-defined]
        await gateway.store.run(lambda tx: tx.execute("update devices set context = 'x'"))  # type: ignore[attr-defined]
    code, refused = await asyncio.to_thread(move, source, postgres_url, "--finish")
    assert (code, "add --resume" in refused.hint) == (1, True)
    assert (await asyncio.to_thread(move, source, postgres_url, "--resume", "--finish"))[1]["finished"]
    assert await contents(postgres_url) == await contents(source)


async def test_nothing_is_lost_when_a_site_is_switched_under_load(tmp_path: Path, postgres_url: str) -> None:
    """The steps of docs/scaling.md: browsers write all the time, and are refused only while nobody serves."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = GatewayServer(tmp_path / "old"), GatewayServer(tmp_path / "new")
    new._environment["GATEWAY_DATABASE"] = postgres_url
    old.start()
    try:
        shop = old.site("shop")
        traffic = Load([old.url], shop["api_key"])
        running = asyncio.create_task(traffic.run(browsers=4))
        await asyncio.to_thread(wait_for, lambda: len(traffic.acknowledged) >= 100, 60)
        assert (await asyncio.to_thread(move, old.database, postgres_url))[1]["finished"] is False
        before = len(traffic.acknowledged)
        await asyncio.to_thread(wait_for, lambda: len(traffic.acknowledged) >= before + 20, 60)
        code, refused = await asyncio.to_thread(move, old.database, postgres_url, "--resume", "--finish")
        assert (code, "in use" in refused.message) == (1, True)
        await asyncio.to_thread(old.stop)
        assert (await asyncio.to_thread(move, old.database, postgres_url, "--resume", "--finish"))[1]["finished"]
        await asyncio.to_thread(new.start)
        traffic.urls[:] = [new.url]
        switched = len(traffic.acknowledged)
        await asyncio.to_thread(wait_for, lambda: len(traffic.acknowledged) >= switched + 50, 60)
        traffic.stop = True
        await running
        new.command("check")
    finally:
        for server in (old, new):
            server.kill()
    held = [row for row in (await contents(postgres_url))["events"] if row]
    assert len(held) == len(set(traffic.acknowledged)) == len(traffic.acknowledged)
    assert traffic.statuses <= {202, 503}


async def test_a_source_that_is_written_to_or_a_target_that_is_wrong_is_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = (f"sqlite:///{tmp_path / name}" for name in ("source.db", "target.db"))
    await fill(source, CASES[:1])
    stores: list[Any] = [make_store(load({}, database=url)) for url in (source, target)]
    for store in stores:
        await store.open()
    try:
        half = Move(*stores)
        await half.begin(resume=False)
        await half.copy()
        await half.verify()
        await stores[0].run(lambda tx: tx.execute("insert into receipts (site_id, receipt, at) values (1, 'late', 1)"))
        with pytest.raises(Conflict, match="receipts has 1 rows in SOURCE and 0 in TARGET"):
            await half.verify()
        await half.copy()
        await stores[1].run(lambda tx: tx.execute("update profiles set live = 0"))
        with pytest.raises(Conflict, match="not what the ledger says"):
            await half.verify()
    finally:
        for store in stores:
            await store.close()

    async def verified(move: Move) -> None:
        await fill(source, CASES[1:2])

    monkeypatch.setattr(Move, "verify", verified)
    settings = [load({}, database=url) for url in (source, target)]
    with pytest.raises(Conflict, match="SOURCE is still written to"):
        await run(*settings, resume=True, finish=True, progress=Progress(disable=True))
    with pytest.raises(Conflict, match="not all of it is here"):
        async with opened(settings[1]):
            pass


async def test_what_cannot_be_moved_is_refused(tmp_path: Path) -> None:
    one, two = (f"sqlite:///{tmp_path / name}" for name in ("one.db", "two.db"))
    assert "no database" in (await asyncio.to_thread(move, one, two))[1].message
    await fill(one, CASES[:1])
    await fill(two, CASES[1:2])
    assert "same database" in (await asyncio.to_thread(move, one, one))[1].message
    assert "not empty" in (await asyncio.to_thread(move, one, two))[1].message


@pytest.mark.parametrize("number", [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1])
async def test_pages_of_rows_end_where_they_should(tmp_path: Path, number: int) -> None:
    urls = [f"sqlite:///{tmp_path / name}" for name in ("one.db", "two.db")]
    stores: list[Any] = [make_store(load({}, database=url)) for url in urls]
    for store in stores:
        await store.open()
    made = [(1, f"r{n:05}", n) for n in range(number)]
    await stores[0].run(lambda tx: tx.insert("receipts", "site_id, receipt, at", made, ""))
    await stores[1].run(lambda tx: tx.insert("receipts", "site_id, receipt, at", [(1, "x", 5)], ""))
    moved = await Move(*stores).copy()
    table = Table("receipts", ["site_id", "receipt", "at"])
    assert len(await rows(stores[1], table, ["site_id", "receipt"], after=None)) == number
    assert (moved.rows["receipts"], moved.deleted) == (number, 1)
    for store in stores:
        await store.close()
