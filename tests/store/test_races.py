"""Every kind of request at random from three gateways: afterwards the ledger says what the tables say."""

import asyncio
import random
from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.app import opened
from gateway.check import check_site
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
from tests.store.conftest import ask

PEOPLE = [("id", f"person-{n}") for n in range(8)]
REQUESTS = 200

pytestmark = pytest.mark.usefixtures("only_what_is_locked_is_written")


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
                    await ask(gateway, request)

        await asyncio.gather(*(send() for _ in range(16)))
        assert await check_site(gateways[0].store, site) == []
        sql = "select message_id from events where site_id = $1 group by device_id, message_id having count(*) > 1"
        assert await gateways[0].store.read(sql, site.site_id) == []


@pytest.mark.parametrize(("read", "kind"), [("members", "merge"), ("profiles", "merge"), ("profiles", "delete")])
async def test_what_happens_elsewhere_while_a_person_is_loaded_is_seen(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, read: str, kind: str
) -> None:
    """The profile that an identity names, or that an id resolves to, may be nobody's when it is asked for itself."""
    async with AsyncExitStack() as stack:
        here, elsewhere = [await stack.enter_async_context(opened(load({}, database=postgres_url))) for _ in range(2)]
        site = await here.sites.create("shop", here.new_id(), origins=[])
        jo, ann = PEOPLE[:2]
        for who in (jo, ann):
            await here.writer.commands(Batch(site, here.new_id(), [Login(f"on-{who[1]}", now(), "", key=who)], now()))
        operation = Operation(
            site, kind, kind, [Person(key=jo)] if kind == "delete" else [Person(key=ann), Person(key=jo)]
        )
        ordinary, outcomes = getattr(PostgresTransaction, read), []

        async def late(self: PostgresTransaction, site_id: int, ids: Collection[int]) -> Any:
            if not outcomes:
                outcomes.append("")
                outcomes[0] = (await elsewhere.writer.operation(operation)).outcome
            return await ordinary(self, site_id, ids)

        monkeypatch.setattr(PostgresTransaction, read, late)
        login = Batch(site, here.new_id(), [Login("login", now() + 1_000_000, "", key=jo)], now() + 1_000_000)
        await here.writer.commands(login)
        assert outcomes == ["deleted" if kind == "delete" else "merged"]
        assert await check_site(here.store, site) == []
        people = [await here.reader(site).by_identity(who) for who in (jo, ann)]
        assert (people[0] == people[1]) is (kind == "merge")
        assert people[0] is not None
        assert str(login.device_id) in [v["device_id"] for v in people[0]["visitors"]]
