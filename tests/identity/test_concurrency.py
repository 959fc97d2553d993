"""Many at once among a few people everybody knows: nobody meets an error, and nothing is lost."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gateway.app import opened
from gateway.check import check_site
from gateway.context import Gateway
from gateway.errors import Conflict, NotFound
from gateway.identity.requests import Batch, Command, Login, Logout, Operation, Person, Reidentify, ServerBatch, Track
from gateway.model import Proof, Site, now
from gateway.settings import load

TASKS = 16
STEPS = 40
PEOPLE = [("id", name) for name in ("alice", "bob@x.io", "42", "77")]
DOCUMENTED = {
    "attached", "switched", "noop", "tentative", "ignored_known", "ghost", "merged", "renamed", "aliased", "reserved",
    "held", "demerged", "unlinked", "undone", "nothing_to_undo", "not_found", "refused_excluded", "refused_limit",
    "accepted",
}  # fmt: skip


class Crowd:
    """Sixteen tasks that merge, take apart, undo and track, all on one writer."""

    def __init__(self, gateway: Gateway, site: Site) -> None:
        self.gateway, self.site = gateway, site
        self.devices = [gateway.new_id() for _ in range(6)]
        self.outcomes: Counter[str] = Counter()
        self.tracked: list[str] = []
        self.operations: list[str] = []

    async def live(self, number: int) -> None:
        """One task."""
        chance = random.Random(number)
        for step in range(STEPS):
            await self.step(chance, f"{number}-{step}")

    async def step(self, chance: random.Random, name: str) -> None:
        kind = chance.choice(
            ["track"] * 6 + ["merge"] * 3 + ["login", "login", "page", "server", "demerge", "unlink", "undo", "undo"]
        )
        device, (a, b) = chance.choice(self.devices), chance.sample(PEOPLE, 2)
        if kind == "track":
            self.tracked.append(name)
            event, proof = Track(name, now(), name=name), chance.choice([Proof.CLAIMED, Proof.SERVER])
            await self.send(device, [event, Login(f"l{name}", now(), key=a, proof=proof)])
        elif kind == "login":
            await self.send(device, [Logout(f"o{name}", now()), Login(name, now(), key=a)])
        elif kind == "page":
            await self.send(device, [Reidentify(name, now(), new=a, old=b)])
        elif kind == "server":
            self.tracked.append(name)
            batch = ServerBatch(self.site, a, [Track(name, now(), name=name)], now())
            self.outcomes.update((await self.gateway.writer.commands(batch)).outcomes)
        else:
            await self.operate(kind, name, chance, device, a, b)

    async def send(self, device: int, commands: list[Command]) -> None:
        done = await self.gateway.writer.commands(Batch(self.site, device, commands, now()))
        self.outcomes.update(done.outcomes)

    async def operate(
        self, kind: str, name: str, chance: random.Random, device: int, a: tuple[str, str], b: tuple[str, str]
    ) -> None:
        people = {"merge": [Person(a), Person(b)], "demerge": [Person(a)], "unlink": [Person(device_id=device)]}
        of = chance.choice(self.operations or ["none"])
        operation = Operation(
            self.site, kind, f"{kind}{name}", people.get(kind, []), of=of, force=chance.random() < 0.5
        )
        self.operations.append(operation.op_id)
        try:
            self.outcomes[(await self.gateway.writer.operation(operation)).outcome] += 1
        except (NotFound, Conflict) as refusal:
            self.outcomes[refusal.code] += 1


async def test_sixteen_at_once_lose_nothing_and_meet_no_error(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with opened(load({}, database=f"sqlite:///{tmp_path / 'gateway.db'}")) as gateway:
        site = await gateway.sites.create("crowd", gateway.new_id(), origins=[])
        crowd = Crowd(gateway, site)
        await asyncio.gather(*(crowd.live(number) for number in range(TASKS)))
        assert set(crowd.outcomes) <= DOCUMENTED, crowd.outcomes
        assert crowd.outcomes["merged"] > 20 and crowd.outcomes["demerged"] > 5 and crowd.outcomes["undone"] > 5
        shown: list[str] = []
        for profile in (await gateway.lists(site).search("", limit=500))["profiles"]:
            page = await gateway.reader(site).events(int(profile["profile_id"]), limit=500)
            assert page is not None and page["next"] is None
            shown += [e["name"] for e in page["events"]]
        assert sorted(shown) == sorted(crowd.tracked)
        assert await check_site(gateway.store, site) == []
        record_property("ran", f"{TASKS} tasks, {crowd.outcomes.total()} outcomes: {dict(crowd.outcomes)}")


async def test_opposite_merges_at_once_are_one_merge(tmp_path: Path) -> None:
    async with opened(load({}, database=f"sqlite:///{tmp_path / 'gateway.db'}")) as gateway:
        site = await gateway.sites.create("pair", gateway.new_id(), origins=[])
        for key in PEOPLE[:2]:
            await gateway.writer.commands(ServerBatch(site, key, [Track(key[1], now(), name="e")], now()))
        people = [Person(key) for key in PEOPLE[:2]]
        asked = [Operation(site, "merge", f"m{n}", people[:: 1 if n % 2 else -1]) for n in range(10)]
        answers = await asyncio.gather(*map(gateway.writer.operation, asked))
        assert Counter(a.outcome for a in answers) == {"merged": 1, "noop": 9}
        assert await check_site(gateway.store, site) == []
