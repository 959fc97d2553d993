"""Decides one operation of an API on a world of its own: merge, undo, demerge, delete and their kin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gateway.errors import Conflict, NotFound
from gateway.identity import rules
from gateway.identity.decide import Answer, Op
from gateway.identity.ledger import JOINED, established
from gateway.identity.requests import (
    Operation,
    Person,
)
from gateway.identity.save import Run
from gateway.model import (
    FOREVER,
    GONE,
    SERVER_DEVICE,
    Fact,
    Key,
    Proof,
    Visitor,
)
from gateway.store.base import Transaction


class OperationRun(Run):
    """Decides one operation on a world of its own."""

    def __init__(self, tx: Transaction, operation: Operation, new_id: Callable[[], int]) -> None:
        super().__init__(tx, operation.site, new_id)
        self.operation = operation

    async def run(self) -> Answer:
        """Loads, decides, saves. Raises NotFound for a missing person, Conflict for a stale plan."""
        operation = self.operation
        self.decider.last_seq = await self.tx.last_seq(self.site.site_id)
        people = [(p.key, p.profile_id, p.device_id) for p in operation.people]
        fingerprint = rules.fingerprint(operation.kind, people, operation.of, operation.force, operation.blocked)
        for fact in await self.tx.recorded(self.site.site_id, [operation.op_id]) if operation.op_id else []:
            if fact.device_id == 0:
                if fact.request_hash != fingerprint:
                    message = f"operation id {operation.op_id!r} was used for another request"
                    raise Conflict(message, "send a new op_id", code="op_id_conflict")
                return Answer(fact.op_id, fact.outcome, next(iter(fact.homes), 0), {"repeated": True})
        op_id = operation.op_id or f"{operation.kind}-{self.new_id()}"
        op = Op(op_id, self.now, operation.actor, operation.proof, 0, fingerprint, operation.reason)
        answer = await getattr(self, f"_{operation.kind}")(op)
        if operation.private:
            self.private = {f.seq for f in self.decider.facts}
        if not operation.dry_run and operation.kind != "preview":
            await self.save()
        assert isinstance(answer, Answer)
        return answer

    async def _node(self, person: Person) -> int:
        """The profile id a request means, loaded with everything around it; 0 if there is none."""
        loader, world = self.loader, self.world
        node = 0
        if person.key is not None:
            await loader.identities([person.key])
            node = world.identities[person.key].home if person.key in world.identities else 0
        elif person.profile_id is not None:
            node = person.profile_id
        elif person.device_id is not None:
            await loader.devices([person.device_id], -1)
            await loader.complete([person.device_id])  # another profile may have brought in some of its turns only
            device = world.devices.get(person.device_id)
            turn = rules.turn_at(device.turns, FOREVER - 1) if device else None
            node = world.node_of(turn) if turn else 0
        await loader.components([node])
        if (turn := world.turn_of.get(node)) is not None:
            node = world.node_of(turn)  # the id of a visitor stands for the person it belongs to
        return node if node in world.roots and world.live(node) else 0

    async def _pair(self) -> tuple[int, int]:
        target, source = [await self._node(p) for p in self.operation.people]
        missing = [str(p) for p, n in zip(self.operation.people, (target, source), strict=True) if not n]
        if missing:
            message = f"no profile for {' and '.join(missing)}"
            raise NotFound(message, "the person must have been seen before; reidentify also takes ids never seen")
        return target, source

    async def _reidentify(self, op: Op) -> Answer:
        if self.operation.blocked:
            return self.decider.blocked(op, "reidentify", self.operation.blocked)
        new, old = (p.key for p in self.operation.people)
        assert new is not None
        assert old is not None
        await self.loader.identities([new, old])
        await self.loader.components([self.world.home_of(k) for k in (new, old)])
        return self.decider.reidentify(op, new, old, hold=self.operation.hold)

    async def _merge(self, op: Op) -> Answer:
        target, source = await self._pair()
        if self.operation.plan_hash:
            plan = self.decider.plan(target, source)
            if plan["plan_hash"] != self.operation.plan_hash:
                message = "the profiles changed since the preview"
                raise Conflict(message, "ask for a new preview and send its plan_hash", code="stale_preview")
        names = [p.key for p in self.operation.people]
        return self.decider.merge(op, target, source, names, force=self.operation.force)

    async def _preview(self, op: Op) -> Answer:
        target, source = await self._pair()
        plan = self.decider.plan(target, source)
        return Answer(op.op_id, "noop", target, plan | {"target": target, "source": source})

    async def _demerge(self, op: Op) -> Answer:
        key = self.operation.people[0].key
        assert key is not None
        await self._complete([await self._node(self.operation.people[0])])
        return self.decider.demerge(op, key)

    async def _unlink(self, op: Op) -> Answer:
        device_id = self.operation.people[0].device_id or 0
        await self._complete([await self._node(self.operation.people[0])])
        return self.decider.unlink(op, device_id)

    async def _drop(self, op: Op) -> Answer:
        key = self.operation.people[0].key
        assert key is not None
        await self._complete([await self._node(self.operation.people[0])])
        return self.decider.drop(op, key)

    async def _delete(self, op: Op) -> Answer:
        node = await self._node(self.operation.people[0])
        await self._complete([node])
        world = self.world
        nodes, visitors = set(world.component(node)), world.visitors(node)
        keys = {i.key for i in world.identities_of(node)}
        if not node:
            return self.decider.delete(op, node)
        about = await self.tx.facts_about(self.site.site_id, nodes, [v.device_id for v in visitors])
        await self.tx.lock(self.site.site_id, {f.device_id for f in about} - {SERVER_DEVICE})
        about += await self._before_a_drop(about, keys)
        others = self._scrub([self.loader.facts.setdefault(f.seq, f) for f in about], nodes, visitors, keys)
        answer = self.decider.delete(op, node)
        for device in world.devices.values():
            if device.complete and any(f.seq in self.scrubbed for f in device.facts):
                world.cut(device)
        await self._establish(others - keys)
        self.devices_changed |= {v.device_id for v in visitors}
        return answer

    async def _before_a_drop(self, facts: Sequence[Fact], keys: set[Key]) -> list[Fact]:
        """Further facts that name a person: those of profiles that these names were taken off."""
        dropped = [d for f in facts for d in f.detail.get("dropped", ())]
        homes = {home for kind, value, home in dropped if (kind, value) in keys}
        found = await self.tx.facts_about(self.site.site_id, homes, []) if homes else []
        await self.tx.lock(self.site.site_id, {f.device_id for f in found} - {SERVER_DEVICE})
        known = {f.seq for f in facts}
        return [f for f in found if f.seq not in known]

    def _scrub(self, facts: Sequence[Fact], nodes: set[int], visitors: Sequence[Visitor], keys: set[Key]) -> set[Key]:
        """Takes a deleted person's values out of the ledger; what is only about them no longer counts.

        Returns the identities of other people that were named in what no longer counts.
        """
        stretches = [(v.device_id, v.started_at, v.ended_at) for v in visitors]
        others: set[Key] = set()
        for fact in facts:
            mine = any(d == fact.device_id and a <= fact.at < b for d, a, b in stretches)
            homes = {h for h in fact.homes if h}
            if not mine and not homes & nodes and not keys & set(fact.identities):
                continue
            fact.reason = None
            if mine and fact.detail.get("join") not in JOINED:
                others |= {k for k in fact.identities if k}
                fact.identities, fact.detail, fact.erased = [None for _ in fact.identities], {}, True
            else:
                self._scrub_mention(fact, keys)
            self.loader.facts[fact.seq] = fact
            self.scrubbed.add(fact.seq)
        for device in self.world.devices.values():
            device.facts = [f for f in device.facts if not f.erased]
        return others

    def _scrub_mention(self, fact: Fact, keys: set[Key]) -> None:
        """Takes a deleted person out of a fact about others, or about a turn that was others' when they were deleted.

        Somebody without a name stays in their place: a turn that began or was taken over there still does.
        """
        names = zip(fact.identities, fact.homes, strict=False)
        fact.identities = [(GONE, str(h)) if k in keys else k for k, h in names] if fact.homes else []
        for name in ("dropped", "rehomed", "aliases"):
            if name in fact.detail:
                fact.detail[name] = [row for row in fact.detail[name] if (row[0], row[1]) not in keys]
        if tuple(fact.detail.get("primary") or ()) in keys:
            del fact.detail["primary"]

    async def _establish(self, keys: set[Key]) -> None:
        """Identities of other people as what still counts gives them; one that was only named there is gone."""
        world = self.world
        await self.loader.identities(keys)
        for key in keys & world.identities.keys():
            identity = world.identities[key]
            await self.loader.components([identity.home])
            facts = await self.tx.facts_of(self.site.site_id, [identity.home])
            kept = [self.loader.facts.get(f.seq, f) for f in facts]
            found = established(f for f in kept if not f.erased).get(key)
            if found is not None:
                identity.proof, identity.since = found.proof, found.since
            elif identity.proof >= Proof.CLAIMED:
                world.forget(identity)
                world.settle([(key, identity.home)])
            world.touched.add(identity.home)

    async def _complete(self, nodes: Iterable[int], devices: Iterable[int] = ()) -> None:
        """Loads the profiles, all devices on which anything was said about them, and the profiles that share these."""
        nodes = [n for n in nodes if n]
        await self.loader.components(nodes)
        await self.loader.graph(set(nodes))
        around = {n for node in nodes for n in self.world.component(node)}
        facts = await self.tx.facts_of(self.site.site_id, around) if around else []
        wanted = {v.device_id for n in nodes for v in self.world.visitors(n)} | {f.device_id for f in facts}
        wanted |= {int(d) for f in facts for d in f.detail.get("released", ())}
        wanted = (wanted | set(devices)) - {SERVER_DEVICE}
        await self.loader.devices(wanted, -1)
        await self.loader.complete(wanted)
        await self.loader.components(list(self.world.roots))

    async def _undo(self, op: Op) -> Answer:
        found = [f for f in await self.tx.recorded(self.site.site_id, [self.operation.of]) if not f.erased]
        undone = next(iter(sorted(found, key=lambda f: f.device_id != 0)), None)
        if undone is None:
            raise NotFound(f"no operation {self.operation.of!r}", "look it up with GET /v1/ledger")
        undone = self.loader.facts.setdefault(undone.seq, undone)
        # The names that come back have their homes already.
        await self.loader.identities([(kind, value) for kind, value, _ in undone.detail.get("dropped", ()) if kind])
        await self._complete(self.decider.nodes_of(undone), map(int, undone.detail.get("released", ())))
        return self.decider.undo(op, undone)

    async def _held(self) -> Fact:
        found = [f for f in await self.tx.recorded(self.site.site_id, [self.operation.of]) if f.outcome == "held"]
        if not found or found[0].resolved_by or found[0].undone_by or found[0].inert or found[0].idle:
            raise NotFound(f"no held merge {self.operation.of!r}", "GET /v1/held lists what waits")
        held = self.loader.facts.setdefault(found[0].seq, found[0])
        await self.loader.components(held.homes)
        return held

    async def _approve(self, op: Op) -> Answer:
        held = await self._held()
        if any(h not in self.world.roots for h in held.homes[:2]):
            raise NotFound("one of the two profiles is gone", "reject the held merge")
        return self.decider.resolve_held(op, held, approve=True)

    async def _reject(self, op: Op) -> Answer:
        return self.decider.resolve_held(op, await self._held(), approve=False)
