"""What each operation does, decided on a loaded world: pure, apart from the ids and the time it is given.

Every decision becomes a fact that the world folds at once; the caller saves what changed. Nothing here reads or writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.identity import rules
from gateway.identity.ledger import JOINED, World
from gateway.model import (
    APPEND,
    FOREVER,
    GHOST,
    IGNORED,
    SERVER_DEVICE,
    TENTATIVE,
    Device,
    Fact,
    IdentityError,
    Key,
    Proof,
    Visitor,
)

UNDOABLE = (*JOINED, "held", "demerged", "unlinked")


@dataclass(slots=True)
class Op:
    """Who asks, under which id, and when: device time for a browser's commands, else the commit time."""

    op_id: str
    at: int
    actor: str = "server"
    proof: Proof = Proof.SERVER
    device_id: int = SERVER_DEVICE
    request_hash: str = ""
    reason: str | None = None


@dataclass(slots=True)
class Answer:
    """The outcome of an operation and the profile it is about (any of its profile ids), with extra fields to show."""

    op_id: str
    outcome: str
    node: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def value_hash(site_id: int, key: Key) -> str:
    """What a tombstone keeps of a deleted identity."""
    return hashlib.sha256(f"{site_id}\0{key[0]}\0{key[1]}".encode()).hexdigest()


Stretch = tuple[int, int, int, Key | None, Proof | None, bool]


class Decider:
    """Decides operations one after the other on one world and collects the facts and errors they leave."""

    def __init__(self, world: World, *, now: int, new_id: Callable[[], int], next_seq: Callable[[], int]) -> None:
        self.world = world
        self.now = now
        self.new_id = new_id
        self.next_seq = next_seq
        self.facts: list[Fact] = []
        self.errors: list[IdentityError] = []
        self.checked_links: dict[int, set[str]] = {}
        self.resolved: dict[int, str] = {}
        self.undone: dict[int, str] = {}
        self.deleted: list[Visitor] = []
        self.deleted_nodes: set[int] = set()
        self.tombstones: list[str] = []

    # --- what a device does -----------------------------------------------------------------------------------

    def login(self, op: Op, key: Key, *, wait: bool = False, aliases: Sequence[Key] = ()) -> Answer:
        """The person `key` is on the device: their visitor from here, or from its beginning if nobody was known."""
        device = self.world.devices[op.device_id]
        turn = rules.turn_at(device.turns, op.at)
        if turn is None:
            return self._inert(op, "login", "noop", [key], reason="older than the deletion of this person")
        fact = self._fact(op, "login", [key], detail={"wait": True} if wait else {})
        known, held_by = turn.known, turn.home
        if aliases:
            fact.detail["aliases"] = [list(a) for a in aliases]
        before = self._record(fact)
        outcome = self._login_outcome(fact, known, held_by)
        self._conclude(fact, outcome, before)
        fact.moved_visitors = int(outcome == "attached")
        self._check_links(device)
        return Answer(op.op_id, outcome, self._node_on(device, op.at, fact.homes[0]))

    def _login_outcome(self, fact: Fact, known: bool, held_by: int) -> str:
        if fact.flags & GHOST:
            self._device_limit(fact, fact.homes[0])
            return "ghost"
        if fact.flags & TENTATIVE and not (known and held_by == fact.homes[0]):
            return "tentative"
        if known:
            return "noop" if self.world.root(held_by) == self.world.root(fact.homes[0]) else "switched"
        return "switched" if fact.flags & APPEND else "attached"

    def link(self, op: Op, key: Key, token: str | None) -> Answer:
        """A click on a link for `key`: a tentative visitor if nobody is known on the device, else nothing."""
        device = self.world.devices[op.device_id]
        turn = rules.turn_at(device.turns, op.at)
        if turn is None:
            return self._inert(op, "link", "noop", [key], reason="older than the deletion of this person")
        held_by = turn.home
        fact = self._fact(op, "link", [key], detail={"token": token} if token else {})
        before = self._record(fact)
        outcome = self._link_outcome(fact, rules.turn_at(device.turns, op.at), held_by)
        self._conclude(fact, outcome, before)
        fact.moved_visitors = int(outcome == "tentative")
        self._check_links(device)
        return Answer(op.op_id, fact.outcome, self._node_on(device, op.at, fact.homes[0]))

    def _link_outcome(self, fact: Fact, turn: Visitor | None, held_by: int) -> str:
        if fact.detail.get("token") in self.world.void:
            message = f"this link was opened on more than {self.world.site.token_cap} devices: it identifies nobody now"
            self._error("token_quarantined", fact, message, home=fact.homes[0], subject=fact.detail["token"])
            return "refused_limit"
        if fact.flags & GHOST:
            self._device_limit(fact, fact.homes[0])
            return "ghost"
        if turn is None or fact.flags & IGNORED:
            return "ignored_known"
        if turn.known:
            return "noop" if self.world.root(turn.home) == self.world.root(fact.homes[0]) else "ignored_known"
        return "tentative" if turn.home == fact.homes[0] != held_by else "noop"

    def logout(self, op: Op) -> Answer:
        """The person leaves: the next visitor on the device is anonymous."""
        device = self.world.devices[op.device_id]
        turn = rules.turn_at(device.turns, op.at)
        if turn is None:
            return self._inert(op, "logout", "noop", [], reason="older than the deletion of this person")
        held_by = turn.home
        fact = self._fact(op, "logout", [])
        before = self._record(fact)
        self._conclude(fact, "noop" if before == self._stretches(device) else "switched", before)
        self._check_links(device)
        return Answer(op.op_id, fact.outcome, held_by)

    def ignored(self, op: Op, kind: str, reason: str) -> Answer:
        """A command that identifies nobody here: only that it came is kept, and why it did nothing."""
        return self._inert(op, kind, "noop", [], reason=reason)

    def blocked(self, op: Op, kind: str, reason: str, home: int = 0) -> Answer:
        """An identity value that must not become one: nothing is linked, the refusal is kept where it can be seen."""
        answer = self._inert(op, kind, "refused_blocked", [], reason=reason, node=home)
        device = self.world.devices.get(op.device_id)
        turn = rules.turn_at(device.turns, op.at) if device else None
        self._error("blocked_identity", self.facts[-1], reason, home=home or (turn.home if turn else 0), subject=reason)
        return answer

    def page_reidentify(self, op: Op, new: Key, old: Key | None, *, blocked: str | None = None) -> Answer:
        """`old` is `new`, says a page: the device is `new`'s from here; what else comes along needs authority."""
        world, device = self.world, self.world.devices[op.device_id]
        turn = rules.turn_at(device.turns, op.at)
        if turn is None:
            return self._inert(op, "reidentify", "noop", [new, old], reason="older than the deletion of this person")
        if new == old:
            return self._inert(op, "reidentify", "noop", [new, old], reason="one id twice", node=turn.home)
        if old is None and not blocked and turn.claim != new:
            old = turn.claim
        target, source = world.identities.get(new), world.identities.get(old) if old else None
        together = target is not None and source is not None and world.root(target.home) == world.root(source.home)
        known, held_by = turn.known, turn.home
        fact = self._fact(op, "reidentify", [new, old])
        brought = 0
        if old is None:
            outcome = "" if not blocked else "refused_blocked"
        else:
            outcome = "" if together else self._authority(fact, device, turn, new, old)
        if "brought" in fact.detail:
            brought = sum(v.home in fact.detail["brought"] and v.claim is not None for v in device.turns)
        waits = outcome == "held" and known and held_by == fact.homes[0] and self._pending(fact)
        before = self._record(fact)
        self._conclude(fact, outcome or self._login_outcome(fact, known, held_by), before, again=waits)
        fact.moved_visitors += brought
        self._explain(fact, fact.outcome, fact.homes, blocked)
        self._check_links(device)
        return Answer(op.op_id, fact.outcome, self._node_on(device, op.at, fact.homes[0]))

    def _authority(self, fact: Fact, device: Device, turn: Visitor, new: Key, old: Key) -> str:
        """Decides whether `old`'s profile comes along, and pins it in the fact."""
        world = self.world
        target, source = world.identities.get(new), world.identities.get(old)
        if world.excluded(*fact.homes[:2]):
            return "refused_excluded"
        if source is None:
            return self._pin_join(fact, "aliased" if target else "reserved")
        visitors = world.visitors(source.home)
        identities = tuple(world.identities_of(source.home))
        server_side = any(world.devices[v.device_id].server for v in visitors)
        profile = rules.OldProfile(
            frozenset(world.browsers(source.home)),
            identities,
            server_side or any(i.proof == Proof.SERVER for i in identities),
            others=any(v.device_id != device.device_id for v in visitors),
        )
        allowed = rules.may_bring(
            profile,
            device.device_id,
            signed_link=self._signed_link(device, turn, source.home, target.home if target else 0),
            token_names_both=self._token_names_both(device, new, old),
            trust=world.site.trust,
        )
        if not allowed:
            own = any(v.device_id == device.device_id and v.claim is not None for v in visitors)
            if own and not profile.proven_customer:
                fact.detail["brought"] = sorted(world.component(source.home))
            return "held"
        browsers = profile.devices | {device.device_id} | (world.browsers(target.home) if target else set())
        if len(browsers) > world.site.device_cap:
            return "refused_limit"
        if target is None:
            return self._pin_join(fact, "renamed")
        return self._pin_join(fact, "merged" if visitors else "aliased")

    def _signed_link(self, device: Device, current: Visitor, old: int, new: int) -> bool:
        """Whether the device holds a signed, unquarantined link for `old` on a turn that is theirs or `new`'s."""
        world = self.world
        for fact in device.facts:
            if fact.kind != "link" or fact.proof != Proof.LINK or fact.detail.get("token") in world.void:
                continue
            turn = rules.turn_at(device.turns, fact.at)
            if turn is None or world.root(fact.homes[0]) != world.root(old):
                continue
            if turn is current or world.root(turn.home) in (world.root(old), world.root(new)):
                return True
        return False

    def _token_names_both(self, device: Device, new: Key, old: Key) -> bool:
        for fact in device.facts:
            named = (
                {fact.identities[0], *((k, v) for k, v in fact.detail.get("aliases", ()))}
                if fact.identities
                else {None}
            )
            if fact.kind == "login" and (fact.proof or 0) >= Proof.VERIFIED and {new, old} <= named:
                return True
        return False

    def _pending(self, fact: Fact) -> bool:
        """Whether the same pair already waits for an operator."""
        pair = fact.homes[:2]
        held = (f for f in self.world.graph_facts.values() if f.kind == "reidentify" and f.outcome == "held")
        held = (f for f in held if f.resolved_by is None and f.undone_by is None and not f.idle)
        return any(f.homes[:2] == pair for f in held)

    def _explain(self, fact: Fact, outcome: str, homes: list[int], blocked: str | None) -> None:
        """Keeps an identity error for a refused reidentify on the profile it concerns."""
        if outcome == "held":
            message = "a page asked to bring this profile along and could not prove that it may: approve or reject it"
            self._error("needs_proof", fact, message, home=homes[1], other=homes[0], subject=f"{homes}")
        elif outcome == "refused_excluded":
            message = "these two were taken apart on purpose; merge them with force to lift that"
            self._error("excluded_pair", fact, message, home=homes[0], other=homes[1], subject=f"{homes}")
        elif outcome == "refused_blocked":
            self._error("blocked_identity", fact, blocked or "", home=homes[0], subject=blocked or "")
        elif outcome == "refused_limit":
            self._device_limit(fact, homes[0])

    # --- what a server does -----------------------------------------------------------------------------------

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

    def nodes_of(self, fact: Fact) -> list[int]:
        detail = fact.detail
        anchors = [anchor for anchor, _ in detail.get("released", {}).values()]
        given = [row[2] for name in ("dropped", "rehomed") for row in detail.get(name, ())]
        pinned = [*detail.get("nodes", ()), *detail.get("brought", ())]
        return [n for n in (*fact.homes, *pinned, *anchors, *given, detail.get("target"), detail.get("source")) if n]

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

    # --- shared -----------------------------------------------------------------------------------------------

    def _fact(
        self,
        op: Op,
        kind: str,
        identities: Sequence[Key | None],
        *,
        homes: list[int] | None = None,
        detail: dict[str, Any] | None = None,
    ) -> Fact:
        if homes is None:
            homes = []
            for key in identities:
                home = (self.world.home_of(key) or self.new_id()) if key else 0
                homes.append(home)
                if key and key not in self.world.identities:
                    self.world.homes[key] = home
        return Fact(
            seq=self.next_seq(),
            op_id=op.op_id,
            kind=kind,
            outcome="",
            device_id=op.device_id,
            actor=op.actor,
            proof=op.proof,
            at=op.at,
            committed_at=self.now,
            identities=list(identities),
            homes=homes,
            visitor_id=self.new_id() if op.device_id else 0,
            detail=detail or {},
            reason=op.reason,
            request_hash=op.request_hash,
        )

    def _record(self, fact: Fact) -> list[Stretch]:
        """Folds a fact; returns the time line of its device as it was before."""
        self.facts.append(fact)
        before = self._stretches(self.world.devices[fact.device_id]) if fact.device_id else []
        self.world.apply(fact)
        return before

    @staticmethod
    def _stretches(device: Device) -> list[Stretch]:
        return [(v.started_at, v.ended_at, v.home, v.claim, v.proof, v.tentative) for v in device.turns]

    def _conclude(self, fact: Fact, outcome: str, before: list[Stretch], *, again: bool = False) -> None:
        """The outcome of what a device said: idle if it changed nothing, or was refused before in the same words.

        What waits for an operator is idle only if it waits already (`again`).
        """
        device = self.world.devices[fact.device_id]
        fact.outcome = outcome
        if "join" not in fact.detail and before == self._stretches(device):
            said = (f for f in device.facts if f is not fact and not f.idle and f.outcome == outcome != "held")
            same = any((f.kind, f.identities) == (fact.kind, fact.identities) for f in said)
            fact.idle = again or outcome == "noop" or same

    def _inert(
        self,
        op: Op,
        kind: str,
        outcome: str,
        identities: Sequence[Key | None],
        *,
        reason: str | None = None,
        node: int = 0,
    ) -> Answer:
        """Keeps the answer of an operation that changed nothing, so that a repeat gets the same one."""
        fact = Fact(self.next_seq(), op.op_id, kind, outcome, op.device_id, op.actor, op.proof, op.at, self.now)
        fact.identities = list(identities)
        fact.homes = [node] if node else []
        fact.reason = reason or op.reason
        fact.request_hash = op.request_hash
        fact.inert = True
        self.facts.append(fact)
        return Answer(op.op_id, outcome, node)

    def _pin_join(self, fact: Fact, outcome: str) -> str:
        new, old = fact.homes[:2]
        target, source = (old, new) if outcome == "renamed" else (new, old)
        fact.detail |= {"join": outcome, "target": target, "source": source, "primary": list(fact.identities[0] or ())}
        if outcome == "merged" and fact.device_id:
            self._count(fact, old)
        return outcome

    def _count(self, fact: Fact, source: int) -> None:
        fact.moved_visitors = len(self.world.visitors(source))
        fact.moved_identities = len(self.world.identities_of(source))

    def _node_on(self, device: Device, at: int, otherwise: int) -> int:
        turn = rules.turn_at(device.turns, at)
        return turn.home if turn else otherwise

    def _device_limit(self, fact: Fact, home: int) -> None:
        message = f"this profile has its {self.world.site.device_cap} devices; what came now stays on its own"
        self._error("device_limit", fact, message, home=home, subject=f"{home}")

    def _error(self, code: str, fact: Fact, message: str, *, home: int, other: int = 0, subject: str = "") -> None:
        device_id = fact.device_id
        self.errors.append(IdentityError(code, fact.op_id, fact.at, home, device_id, message, other, subject))

    def _check_links(self, device: Device) -> None:
        """Says again which of the device's links are contradicted by what is known now."""
        links = [f for f in device.facts if f.kind == "link" and f.detail.get("token") not in self.world.void]
        if not links:
            return
        self.errors = [
            e
            for e in self.errors
            if e.device_id != device.device_id
            or e.code not in ("link_contradicted", "link_for_other_user", "conflicting_links")
        ]
        self.checked_links[device.device_id] = {f.op_id for f in links}
        claimed_at = {f.seq: f.at for f in device.facts}
        for fact in links:
            turn = rules.turn_at(device.turns, fact.at)
            home = fact.homes[0]
            if turn is None or turn.home == home:
                continue
            if fact.flags & IGNORED or (turn.known and claimed_at.get(turn.claim_seq, 0) <= fact.at):
                message = "somebody else's link was opened by a known person: ignored"
                self._error("link_for_other_user", fact, message, home=turn.home, other=home, subject=fact.op_id)
            elif turn.known:
                message = "the person who opened this link logged in as somebody else: the visit is theirs"
                self._error("link_contradicted", fact, message, home=home, other=turn.home, subject=fact.op_id)
            elif turn.tentative:
                message = "two links name different people for one visit: the better proven, then the earlier one holds"
                self._error("conflicting_links", fact, message, home=turn.home, other=home, subject=fact.op_id)
