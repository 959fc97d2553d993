"""What each operation does, decided on a loaded world: pure, apart from the ids and the time it is given.

Every decision becomes a fact that the world folds at once; the caller saves what changed. Nothing here reads or writes.
Here is what servers and operators ask; what devices do is in `device_decisions.py`, what both share in `decision.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.identity import rules
from gateway.identity.decision import Answer, Op, value_hash
from gateway.identity.device_decisions import DeviceDecisions
from gateway.identity.ledger import JOINED
from gateway.model import FOREVER, Fact, Key, Proof

__all__ = ["UNDOABLE", "Answer", "Decider", "Op", "value_hash"]

UNDOABLE = (*JOINED, "held", "demerged", "unlinked")


class Decider(DeviceDecisions):
    """Decides everything that can be asked."""

    def reidentify(self, op: Op, new: Key, old: Key, *, hold: bool = False) -> Answer:
        """`old` is `new` from now on, whoever knew them: merged (unless `hold`), renamed, or an alias for later."""
        world = self.world
        target, source = world.identities.get(new), world.identities.get(old)
        if new == old:
            return self._inert(op, "reidentify", "noop", [new, old], node=target.home if target else 0)
        fact = self._fact(op, "reidentify", [new, old])
        if target and source and world.root(target.home) == world.root(source.home):
            if world.primary(target.home) == new:
                return self._inert(op, "reidentify", "noop", [new, old], node=target.home)
            fact.outcome, fact.detail = "noop", {"target": target.home, "primary": list(new)}
        elif source and (op.proof < Proof.VERIFIED or (target and hold)):
            return self._hold(op, fact)
        elif refused := self._refusal(fact, *fact.homes[:2], force=False):
            return refused
        elif target and source:
            self._count(fact, source.home)
            fact.outcome = self._pin_join(fact, "merged")
        elif target:
            fact.outcome = self._pin_join(fact, "aliased")
        else:
            fact.outcome = self._pin_join(fact, "renamed" if source else "reserved")
        self._record(fact)
        return Answer(op.op_id, fact.outcome, fact.homes[0])

    def _hold(self, op: Op, fact: Fact) -> Answer:
        """Keeps a reidentify that nobody proved for an operator, once."""
        if self._pending(fact):
            return self._inert(op, "reidentify", "held", fact.identities, node=fact.homes[0])
        fact.outcome = "held"
        self._record(fact)
        self._explain(fact, "held", fact.homes, None)
        return Answer(op.op_id, "held", fact.homes[0])

    def merge(
        self, op: Op, target: int, source: int, names: Sequence[Key | None] = (None, None), *, force: bool = False
    ) -> Answer:
        """Makes two profiles one; `target` keeps its profile id."""
        world = self.world
        if world.root(target) == world.root(source):
            return self._inert(op, "merge", "noop", list(names), node=target)
        fact = self._fact(op, "merge", list(names), homes=[target, source])
        if refused := self._refusal(fact, target, source, force=force):
            return refused
        self._count(fact, source)
        primary = names[0] or world.primary(target)
        fact.detail = {"target": target, "source": source, "primary": list(primary) if primary else None}
        lifted = [[a, b] for a in world.component(target) for b in world.exclusions[a] & world.component(source)]
        if lifted:
            fact.detail["lifted"] = lifted
        fact.outcome = "merged"
        self._record(fact)
        return Answer(op.op_id, "merged", target)

    def join_devices(self, op: Op, other_device: int) -> None:
        """Two valid device tokens in one request are one browser: the anonymous one joins the other's profile."""
        world = self.world
        mine = rules.turn_at(world.devices[op.device_id].turns, op.at)
        theirs = rules.turn_at(world.devices[other_device].turns, op.at)
        if mine is None or theirs is None or (mine.known and theirs.known):
            return
        if theirs.known:
            mine, theirs = theirs, mine
        if not theirs.tentative and world.root(mine.home) != world.root(theirs.home):
            self.merge(op, world.node_of(mine), theirs.home)

    def _refusal(self, fact: Fact, target: int, source: int, *, force: bool) -> Answer | None:
        world = self.world
        op = Op(fact.op_id, fact.at, fact.actor, fact.proof or Proof.SERVER, fact.device_id, fact.request_hash)
        outcome = ""
        if not force and world.excluded(target, source):
            outcome = "refused_excluded"
        elif len(world.browsers(target) | world.browsers(source)) > world.site.device_cap:
            outcome = "refused_limit"
        if not outcome:
            return None
        answer = self._inert(op, fact.kind, outcome, fact.identities, node=target)
        self._explain(self.facts[-1], outcome, [target, source], None)
        return answer

    def demerge(self, op: Op, key: Key) -> Answer:
        """Every device of the profile becomes its own anonymous profile; all its identities are dropped."""
        world = self.world
        identity = world.identities.get(key)
        if identity is None:
            return self._inert(op, "demerge", "not_found", [key])
        visitors = world.visitors(identity.home)
        held = world.identities_of(identity.home)
        devices = sorted({v.device_id for v in visitors})
        nodes = sorted(world.component(identity.home))
        fact = self._fact(op, "demerge", [key])
        fact.detail = {
            "released": {str(d): [self.new_id(), self._after_all(d, op.at)] for d in devices},
            "dropped": [[*i.key, i.home] for i in held],
            "nodes": nodes,
            "severed": nodes,
        }
        fact.outcome, fact.moved_visitors, fact.moved_identities = "demerged", len(visitors), len(held)
        self._record(fact)
        browsers = [str(d) for d in devices if not world.devices[d].server]
        extra = {"devices": browsers, "identities": [{"kind": i.key[0], "value": i.key[1]} for i in held]}
        return Answer(op.op_id, "demerged", 0, extra)

    def _after_all(self, device_id: int, at: int) -> int:
        """When a device leaves a profile: now, but after everything that is known of it, should its clock be ahead."""
        return max([at, *(f.at for f in self.world.devices[device_id].facts)])

    def unlink(self, op: Op, device_id: int) -> Answer:
        """Takes one device off its profile: its visitors there become one anonymous profile, the rest stays."""
        world = self.world
        device = world.devices.get(device_id)
        turn = rules.turn_at(device.turns, op.at) if device else None
        if device is None or turn is None:
            return self._inert(op, "unlink", "not_found", [])
        root = world.root(turn.home)
        leaving = [v.visitor_id for v in device.turns if world.root(v.home) == root]
        leaving_ids = set(leaving)
        stays = any(v.visitor_id not in leaving_ids for v in world.visitors(root))
        if not stays and not world.identities_of(root):
            return self._inert(op, "unlink", "noop", [], node=root)
        anchor = self.new_id()
        fact = self._fact(op, "unlink", [])
        fact.detail = {
            "released": {str(device_id): [anchor, self._after_all(device_id, op.at)]},
            "nodes": sorted(world.component(root)),
        }
        fact.outcome, fact.moved_visitors = "unlinked", len(leaving)
        self._record(fact)
        return Answer(op.op_id, "unlinked", anchor)

    def drop(self, op: Op, key: Key) -> Answer:
        """Takes one identity off its profile; everything else stays, also what came in under that identity."""
        identity = self.world.identities.get(key)
        if identity is None:
            return self._inert(op, "unlink", "not_found", [key])
        home = identity.home
        devices = sorted({v.device_id for v in self.world.visitors(home) if v.home == home})
        fact = self._fact(op, "unlink", [key])
        fact.detail = {
            "released": {str(d): [home, self._after_all(d, op.at)] for d in devices},
            "nodes": [home],
            "dropped": [[*key, home]],
            "rehomed": [[*key, self.new_id()]],
        }
        fact.outcome, fact.moved_identities = "unlinked", 1
        self._record(fact)
        return Answer(op.op_id, "unlinked", home)

    def delete(self, op: Op, node: int) -> Answer:
        """Erases a person: visitors, events, properties, identities, and their values in the ledger."""
        world = self.world
        if node not in world.roots or not world.live(node):
            return self._inert(op, "delete", "not_found", [])
        nodes, visitors = world.component(node), world.visitors(node)
        identities = world.identities_of(node)
        erased: dict[str, list[list[int]]] = {}
        for visitor in visitors:
            open_ended = visitor.ended_at == FOREVER
            end = max(self.now, (visitor.last_seen or 0) + 1) if open_ended else visitor.ended_at
            stretch = [visitor.started_at, end, self.new_id()]
            erased.setdefault(str(visitor.device_id), []).append(stretch)
            self.deleted.append(visitor)
        self.deleted_nodes |= nodes
        self.tombstones += [value_hash(world.site.site_id, i.key) for i in identities]
        fact = self._fact(op, "delete", [], detail={"nodes": sorted(nodes), "erased": erased})
        fact.outcome, fact.moved_visitors, fact.moved_identities = "deleted", len(visitors), len(identities)
        counts = {"visitors": len(visitors), "identities": len(identities), "events": sum(v.events for v in visitors)}
        self._record(fact)
        return Answer(op.op_id, "deleted", 0, {"deleted": counts})

    def undo(self, op: Op, undone: Fact | None) -> Answer:
        """As if a merge, reidentify, demerge or unlink had never happened. The world's devices must be complete."""
        world = self.world
        if undone is None:
            return self._inert(op, "undo", "not_found", [])
        if not self._undoable(undone):
            node = next((h for h in undone.homes if h in world.roots), 0)
            return self._inert(op, "undo", "nothing_to_undo", [], node=node)
        core = {n for node in self.nodes_of(undone) if node in world.roots for n in world.component(node)}
        fact = self._fact(op, "undo", list(undone.identities), homes=list(undone.homes))
        again = world.without(undone, core, fact.seq)
        fact.outcome = "undone"
        fact.moved_visitors, fact.moved_identities = undone.moved_visitors, undone.moved_identities
        fact.detail = {"of": undone.op_id, "of_seq": undone.seq}
        if undone.kind in ("merge", "reidentify") and len(undone.homes) > 1 and again.roots.keys() >= set(undone.homes):
            fact.detail["excluded"] = [undone.homes[:2]]
        # A value that was dropped and named again since has its old home again, and the new one leads there.
        fact.detail["joined"] = []
        for (*_, old), (kind, value, new) in zip(
            undone.detail.get("dropped", ()), undone.detail.get("rehomed", ()), strict=False
        ):
            fact.detail["joined"].append([old, new])
            again.homes[kind, value] = old
        undone.undone_by = op.op_id
        self.undone[undone.seq] = op.op_id
        self.world = again
        self._record(fact)
        node = next((h for h in undone.homes if h in again.roots), 0)
        return Answer(op.op_id, "undone", node)

    def _undoable(self, fact: Fact) -> bool:
        if fact.inert or fact.idle or fact.erased or fact.undone_by or fact.outcome not in UNDOABLE:
            return False
        if fact.kind not in ("merge", "reidentify", "demerge", "unlink"):
            return False
        if fact.kind in ("demerge", "unlink") and self.world.dead & set(fact.detail["nodes"]):
            return False  # as if it had never happened, they would be deleted as well
        if "target" in fact.detail and "source" in fact.detail:
            return any(e.seq == fact.seq for e in self.world.edges[fact.detail["target"]])
        return True

    def resolve_held(self, op: Op, held: Fact, *, approve: bool) -> Answer:
        """An operator's word on a held merge: approve merges, reject only closes it."""
        if approve:
            names = list(held.identities)
            answer = self.merge(op, held.homes[0], held.homes[1], names, force=True)
        else:
            answer = self._inert(op, "reject", "noop", list(held.identities), node=held.homes[1])
        held.resolved_by = op.op_id
        self.resolved[held.seq] = op.op_id
        return answer

    def plan(self, target: int, source: int) -> dict[str, Any]:
        """What `merge` would do now, and a hash that tells later whether it would still do the same."""
        world = self.world
        together = world.root(target) == world.root(source)
        reasons = ["already one profile"] if together else []
        if not together and world.excluded(target, source):
            reasons.append("an undone merge keeps them apart: send force to lift that")
        limited = len(world.browsers(target) | world.browsers(source)) > world.site.device_cap
        if not together and limited:
            reasons.append(f"together they would have more than {world.site.device_cap} devices")
        visitors, identities = world.visitors(source), world.identities_of(source)
        sides = [sorted(world.component(n)) for n in (target, source)]
        claims = sorted((v.visitor_id, v.home, v.claim_seq) for n in (target, source) for v in world.visitors(n))
        keys = sorted(i.key for n in (target, source) for i in world.identities_of(n))
        return {
            "allowed": not reasons,
            "reasons": reasons,
            "moves": {
                "visitors": 0 if together else len(visitors),
                "identities": 0 if together else len(identities),
                "events": 0 if together else sum(v.events for v in visitors),
            },
            "plan_hash": rules.fingerprint(sides, claims, keys, reasons),
        }
