"""Another gateway acts between any two statements of a request: the tables still say what the ledger says."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.app import opened
from gateway.check import check_site
from gateway.context import Gateway
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
    Writes,
)
from gateway.model import Key, Proof, Site, now
from gateway.settings import load
from gateway.store.postgres import PostgresTransaction
from tests.store.conftest import ask

JO, ANN, BEA, CY, NEW = [("id", name) for name in ("jo", "ann", "bea", "cy", "new")]
Asked = Batch | ServerBatch | Operation

pytestmark = pytest.mark.usefixtures("only_what_is_locked_is_written")


class Town:
    """Jo on two browsers, Ann on one, Bea with whom Cy was merged, and a browser of nobody's."""

    def __init__(self, here: Gateway, site: Site) -> None:
        self.here, self.site = here, site
        self.jos, self.second, self.anns, self.beas, self.cys, self.nobodys = [here.new_id() for _ in range(6)]
        self.start = now() - 60_000_000
        self.number = itertools.count()

    async def settle(self) -> None:
        owners = {self.jos: JO, self.second: JO, self.anns: ANN, self.beas: BEA, self.cys: CY}
        for device, who in owners.items():
            await self.here.writer.commands(self.page(device, Login("", 0, "", key=who, rows=[("set", "n", "1")])))
        for device in (self.jos, self.nobodys):
            await self.here.writer.commands(self.page(device, Track("", 0, "", name="Viewed")))
        await self.here.writer.operation(Operation(self.site, "merge", "merge-cy", [Person(key=BEA), Person(key=CY)]))

    def page(self, device: int, command: Command) -> Batch:
        number = next(self.number)
        command.op_id, command.sent_at = f"op-{number}", self.start + number * 1_000_000
        return Batch(self.site, device, [command], now())

    def server(self, who: Key, command: Command) -> ServerBatch:
        batch = self.page(0, command)
        return ServerBatch(self.site, who, batch.commands, now())

    def operation(self, kind: str, *people: Key, **more: Any) -> Operation:
        return Operation(self.site, kind, f"op-{next(self.number)}", [Person(key=p) for p in people], **more)


REQUESTS: dict[str, Callable[[Town], Asked]] = {
    "login as jo": lambda t: t.page(t.nobodys, Login("", 0, "", key=JO)),
    "login as cy": lambda t: t.page(t.nobodys, Login("", 0, "", key=CY)),
    "login as somebody new": lambda t: t.page(t.nobodys, Login("", 0, "", key=NEW)),
    "jo's browser becomes ann's": lambda t: t.page(t.jos, Login("", 0, "", key=ANN)),
    "link": lambda t: t.page(t.nobodys, Link("", 0, "", key=JO, proof=Proof.LINK, token="t")),
    "logout": lambda t: t.page(t.jos, Logout("", 0, "")),
    "page": lambda t: t.page(t.jos, Reidentify("", 0, "", new=ANN, old=JO)),
    "page to new": lambda t: t.page(t.jos, Reidentify("", 0, "", new=NEW, old=JO)),
    "track": lambda t: t.page(t.jos, Track("", 0, "", name="Viewed")),
    "server": lambda t: t.server(JO, Track("", 0, "", name="Paid")),
    "server to cy": lambda t: t.server(CY, Writes("", 0, "", rows=[("set", "n", "2")])),
    "merge": lambda t: t.operation("merge", ANN, JO),
    "merge back": lambda t: t.operation("merge", JO, ANN),
    "merge bea": lambda t: t.operation("merge", JO, BEA, force=True),
    "reidentify": lambda t: t.operation("reidentify", NEW, JO),
    "reidentify cy": lambda t: t.operation("reidentify", ANN, CY),
    "undo": lambda t: t.operation("undo", of="merge-cy"),
    "demerge": lambda t: t.operation("demerge", BEA),
    "unlink": lambda t: Operation(t.site, "unlink", f"op-{next(t.number)}", [Person(device_id=t.jos)]),
    "delete": lambda t: t.operation("delete", JO),
    "delete cy": lambda t: t.operation("delete", CY),
}


@pytest.fixture
async def gateways(postgres_url: str) -> AsyncIterator[list[Gateway]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(load({}, database=postgres_url))) for _ in range(2)]


async def meet(gateways: list[Gateway], name: str, first: str, second: str, place: int) -> bool:
    """Asks for `second` elsewhere before statement number `place` of `first`; False if it has no so many."""
    site = await gateways[0].sites.create(name, gateways[0].new_id(), origins=[])
    town = Town(gateways[0], site)
    await town.settle()
    one, other = REQUESTS[first](town), REQUESTS[second](town)
    statements, under_way = itertools.count(), list[asyncio.Task[None]]()

    def interrupted(statement: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def stated(*arguments: object) -> Any:
            if asyncio.current_task() is gateways[0].writer._task and next(statements) == place:
                under_way.append(asyncio.create_task(ask(gateways[1], other)))
                await asyncio.wait(under_way, timeout=0.1)  # unless it waits for what is locked here
            return await statement(*arguments)

        return stated

    with pytest.MonkeyPatch.context() as patch:
        for method in ("fetch", "insert", "execute"):
            patch.setattr(PostgresTransaction, method, interrupted(getattr(PostgresTransaction, method)))
        await ask(gateways[0], one)
        if under_way:
            await under_way[0]
    assert await check_site(gateways[0].store, site) == [], (first, second, place)
    return bool(under_way)


@pytest.mark.parametrize("first", REQUESTS)
async def test_some_place_in_every_request(gateways: list[Gateway], first: str) -> None:
    chance, number = random.Random(first), itertools.count()
    for second in chance.sample([*REQUESTS], 6):
        place = chance.randrange(24)
        while not await meet(gateways, f"shop-{next(number)}", first, second, place):
            assert place, "there is no statement at all"
            place //= 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", REQUESTS)
async def test_every_place_in_every_request(gateways: list[Gateway], first: str) -> None:
    number = itertools.count()
    for second in REQUESTS:
        place = 0
        while await meet(gateways, f"shop-{next(number)}", first, second, place):
            place += 1
        assert place
