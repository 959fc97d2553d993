"""Every kind of request at random from three gateways: afterwards the ledger says what the tables say."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.app import opened
from gateway.check import check_site
from gateway.errors import Conflict, NotFound
from gateway.identity.requests import (
    Batch,
    Command,
    Link,
    Login,
    Logout,
    Operation,
    Person,
    Reidentify,
    ServerBatch,
    Track,
)
from gateway.model import Proof, Site, now
from gateway.settings import load
from gateway.store.postgres import PostgresTransaction

PEOPLE = [("id", f"person-{n}") for n in range(8)]
REQUESTS = 200
GUARDED = {"profiles": "profile_id", "visitors": "device_id", "devices": "device_id", "identities": "home"}


class Chance:
    """Makes requests; `made` are the operations that an undo may name."""

    def __init__(self, seed: int, site: Site, devices: list[int]) -> None:
        self.random, self.site, self.devices = random.Random(seed), site, devices
        self.made: list[str] = []

    def request(self, op: str) -> Batch | ServerBatch | Operation:
        choose = self.random
        one, other = choose.choice(PEOPLE), choose.choice(PEOPLE)
        at = now() - choose.choice([0, 0, 0, choose.randrange(100_000_000)])
        self.made.append(op)
        what = choose.choices(
            ["track", "login", "link", "logout", "page", "server", "merge", "reidentify", "undo", "take apart"],
            [30, 20, 6, 4, 6, 6, 8, 4, 8, 8],
        )[0]
        commands: dict[str, Command] = {
            "track": Track(op, at, "", name="Viewed"),
            "login": Login(op, at, "", key=one, rows=[("set", "n", op)]),
            "link": Link(op, at, "", key=one, proof=Proof.LINK, token=one[1]),
            "logout": Logout(op, at, ""),
            "page": Reidentify(op, at, "", new=one, old=other),
        }
        if what in commands:
            return Batch(self.site, choose.choice(self.devices), [commands[what]], now())
        if what == "server":
            return ServerBatch(self.site, one, [Track(op, at, "", name="Paid")], now())
        if what == "undo":
            return Operation(self.site, "undo", op, of=choose.choice(self.made))
        if what == "take apart":
            kind = choose.choice(["demerge", "unlink", "delete"])
            person = Person(device_id=choose.choice(self.devices)) if kind == "unlink" else Person(key=one)
            return Operation(self.site, kind, op, [person])
        return Operation(self.site, what, op, [Person(key=one), Person(key=other)])


@pytest.fixture(autouse=True)
def only_what_is_locked_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are there already and stand for a profile or device are written by whoever has locked that.

    Otherwise changes are lost, or gateways wait for each other in a ring: who waits for a row that another writes does
    not wait in the order of ids.
    """
    upsert = PostgresTransaction.upsert

    async def checked(self: Any, table: str, site_id: int, columns: str, rows: Iterable[Sequence[Any]]) -> None:
        rows, names = list(rows), columns.split(", ")
        if table in GUARDED:
            ids = {row[names.index(GUARDED[table])] for row in rows} - {i for _, i in self.locked}
            sql = f"select {GUARDED[table]} from {table} where site_id = $1 and {GUARDED[table]} = any($2::bigint[])"
            there = await self.connection.fetch(sql, site_id, list(ids)) if ids else []
            assert there == [], (table, there)
        await upsert(self, table, site_id, columns, rows)

    monkeypatch.setattr(PostgresTransaction, "upsert", checked)


@pytest.mark.parametrize("seed", [1, 2])
async def test_everything_at_once(seed: int, postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(opened(load({}, database=postgres_url))) for _ in range(3)]
        site = await gateways[0].sites.create("shop", gateways[0].new_id(), origins=[])
        chance = Chance(seed, site, [gateways[0].new_id() for _ in range(10)])
        waiting = [chance.request(f"op{n}") for n in range(REQUESTS)]

        async def send() -> None:
            while waiting:
                request = waiting.pop()
                for gateway in chance.random.sample(gateways, chance.random.choice([1, 1, 2])):
                    try:
                        if isinstance(request, Operation):
                            await gateway.writer.operation(request)
                        else:
                            await gateway.writer.commands(request)
                    except (NotFound, Conflict):
                        pass  # an answer like any other; Unavailable would fail the test

        await asyncio.gather(*(send() for _ in range(16)))
        assert await check_site(gateways[0].store, site) == []
        sql = "select message_id from events where site_id = $1 group by device_id, message_id having count(*) > 1"
        assert await gateways[0].store.read(sql, site.site_id) == []
