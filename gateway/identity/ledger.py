"""The fold: from facts, in the order they were committed, to who is who now.

`World.apply` folds one fact after the other into the loaded part of a site and decides its flags on the way; `without`
does so again over the profiles around an undone fact. `refold` makes a whole site from its ledger at once, with the
flags as they were decided: that both come to the same is what `gateway check` verifies.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gateway.identity import rules
from gateway.identity.facts import (
    DEVICE_KINDS,
    GRAPH_KINDS,
    JOINED,
    about,
    erased,
    established,
    joined_through,
    mentions,
    only_linked,
    outside,
    release,
)
from gateway.identity.graph import Edge, Graph
from gateway.model import (
    APPEND,
    GHOST,
    GONE,
    IGNORED,
    SERVER_DEVICE,
    TENTATIVE,
    Device,
    Erasure,
    Fact,
    Identity,
    Key,
    Proof,
    Site,
    Visitor,
)

__all__ = ["GRAPH_KINDS", "JOINED", "World", "erased", "established", "joined_through", "refold"]


class World(Graph):
    """The loaded part of one site as its facts make it."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.tokens: defaultdict[str, set[int]] = defaultdict(set)
        self.void: set[str] = set()
        self.recut: set[int] = set()
        self.gone: set[int] = set()  # visitors that went, and their counters with them, also if they came back
        self.core: set[int] | None = None
        self.without_seq = 0
        self.seq = 0

    def add_device(self, device: Device, *, new: bool = False) -> Device:
        """Makes a device known; a new one starts with one anonymous visitor that nobody has seen yet."""
        self.devices[device.device_id] = device
        if new:
            device.complete = True
            self.cut(device)
        return device

    # --- folding ---------------------------------------------------------------------------------------------

    def apply(self, fact: Fact) -> None:
        """Folds one fact into the state. Facts must come in the order of `seq`."""
        if fact.inert or fact.erased:
            return
        self.seq = fact.seq
        device = self.devices.get(fact.device_id)
        if device and fact.kind in DEVICE_KINDS and not erased(device, fact):
            if device.complete:
                self._apply_device(fact, device)
            else:  # the newest there, and a repetition
                fact.flags = self._flags(fact, device)
        if fact.kind == "delete":
            self._apply_delete(fact)
        elif fact.kind in GRAPH_KINDS:
            self._apply_graph(fact)

    def _apply_device(self, fact: Fact, device: Device) -> None:
        if fact.kind != "logout":
            fact.flags = self._flags(fact, device)
        for n, proof in mentions(fact)[:1]:
            self._mention(fact, n, proof)
        insort(device.facts, fact, key=lambda f: (f.at, f.seq))
        serves = device.server and fact.kind == "login" and not fact.flags & TENTATIVE
        if serves and (identity := self.identities.get(fact.identities[0] or ("", ""))):
            identity.server_device = device.device_id
        token = fact.detail.get("token")
        if token is not None and self._seen(token, device.device_id):
            for other in sorted(self.tokens[token]):
                self.cut(self.devices[other])
        self.cut(device)

    def _seen(self, token: str, device_id: int) -> bool:
        """Counts a device for a link token; True when this is the device that quarantines it."""
        self.tokens[token].add(device_id)
        if token in self.void or len(self.tokens[token]) <= self.site.token_cap:
            return False
        self.void.add(token)
        return True

    def _mention(self, fact: Fact, n: int, proof: Proof) -> None:
        """The n-th identity of a fact, made if it is new; its proof becomes the best that any fact gave it."""
        key = fact.identities[n]
        assert key is not None
        if self._is_outside(fact.homes[n]):
            return
        identity = self.identities.get(key)
        if identity is None or identity.proof < Proof.CLAIMED:
            identity = Identity(key, fact.homes[n], proof, fact.at)
            self.add_identity(identity)
        else:
            identity.proof = max(identity.proof, proof)
            identity.since = min(identity.since, fact.at)
        self.touched.add(identity.home)

    def _flags(self, fact: Fact, device: Device) -> int:
        turn = rules.turn_at(device.turns, fact.at)
        key = fact.identities[0]
        identity = self.identities.get(key) if key else None
        if key is None or key[0] == GONE:
            return fact.flags
        kept = fact.flags & (GHOST | TENTATIVE) if self._is_outside(fact.homes[0]) else 0
        if turn is None:
            return kept
        flags = kept
        apart = None if turn.known else self._known_apart(turn, fact)
        if identity is not None and not self._is_outside(fact.homes[0]):
            full = len(self.browsers(identity.home)) >= self.site.device_cap
            here = any(v.device_id == device.device_id and not v.tentative for v in self.visitors(identity.home))
            if full and not here and not device.server:
                flags |= GHOST
            elif fact.detail.get("wait") and identity.proof >= Proof.VERIFIED:
                flags |= TENTATIVE
        if apart is not None and fact.homes[0] not in apart:
            flags |= IGNORED if fact.kind == "link" else APPEND
        if fact.kind == "link" and flags & GHOST:
            flags |= IGNORED
        return flags

    def _is_outside(self, home: int) -> bool:
        """Whether an identity is none of those that are decided again."""
        return self.core is not None and home not in self.core

    def _known_apart(self, turn: Visitor, fact: Fact) -> set[int] | None:
        """The component of an unclaimed visitor without its own claim, if somebody is known there by a merge.

        What joined them is pinned in the fact: some of it may belong to people who are not looked at when another fact
        is undone, and who are somebody else by then.
        """
        own = turn.visitor_id if turn.claim else turn.home
        pinned = fact.detail.pop("through", {"edges": [], "named": []})
        joins: defaultdict[int, set[Edge]] = defaultdict(set)
        for edge in (Edge(*e) for e in pinned["edges"]):
            if edge.seq != self.without_seq and not {edge.target, edge.source} & self.dead:
                joins[edge.target].add(edge)
                joins[edge.source].add(edge)
        if not self.edges[own] and not joins[own]:
            return None
        named = {n for n in pinned["named"] if n not in self.dead}
        seen, todo, used = {own}, [own], set[Edge]()
        while todo:
            node = todo.pop()
            edges = self.edges[node] | joins[node]
            for visitor in (*self.at_home[node].values(), *filter(None, [self.turn_of.get(node)])):
                if visitor is not turn and visitor.home != visitor.visitor_id and self.attached(visitor):
                    edges.add(Edge(visitor.claim_seq, visitor.home, visitor.visitor_id))
            near = {n for e in edges for n in (e.target, e.source)}
            used |= edges
            todo.extend(near - seen)
            seen |= near
        named = seen & (named | {n for n in seen if self.named[n]})
        if not named:
            return None
        fact.detail["through"] = {"edges": [[e.seq, e.target, e.source] for e in sorted(used)], "named": sorted(named)}
        return seen

    def cut(self, device: Device) -> None:
        """Cuts the device's time line again and joins the profiles that this concerns."""
        releases = self.releases(device.device_id)
        turns = rules.cut(device.device_id, device.facts, releases, device.erasures, frozenset(self.void))
        before = {v.visitor_id: v for v in device.turns}
        claims = {(v.visitor_id, v.claim, v.home, v.claim_seq) for v in device.turns if v.claim}
        concerned: set[int] = set()
        for visitor in turns:
            old = before.pop(visitor.visitor_id, None)
            if old is not None:
                visitor.first_seen, visitor.last_seen, visitor.events = old.first_seen, old.last_seen, old.events
            if old is None or (old.started_at, old.ended_at) != (visitor.started_at, visitor.ended_at):
                self.recut.add(device.device_id)
            concerned |= self._replace(device, old, visitor)
        for gone in before.values():
            self.gone.add(gone.visitor_id)
            self.recut.add(device.device_id)
            concerned |= self.component(gone.home) | self.component(gone.visitor_id)
            self.displace(gone)
        device.turns = turns
        claims ^= {(v.visitor_id, v.claim, v.home, v.claim_seq) for v in turns if v.claim}
        self.settle((claim, home) for _, claim, home, _ in claims)
        self.regroup(concerned)

    def settle(self, claims: Iterable[tuple[Key, int]]) -> None:
        """Identities that are known from links alone come and go with the visitors held by these links."""
        for key, home in sorted(set(claims)):
            identity = self.identities.get(key)
            if (identity and identity.proof >= Proof.CLAIMED) or self._is_outside(home):
                continue
            linked = only_linked(key, home, self.at_home[home].values())
            if linked is not None:
                self.add_identity(linked)
            elif identity is not None:
                self.forget(identity)
            self.touched.add(home)

    def _replace(self, device: Device, old: Visitor | None, new: Visitor) -> set[int]:
        """Puts a visitor in the place of its former self; returns the nodes to join again if its claim changed."""
        concerned: set[int] = set()
        if old is not None:
            self.displace(old)
            if (old.home, old.claim_seq) != (new.home, new.claim_seq):
                concerned |= self.component(old.home) | self.component(old.visitor_id)
        self.place(new)
        if old is None or concerned:
            if new.claim is not None:
                self._name(device, new)
            self.add_node(new.visitor_id)
            self.add_node(new.home)
            concerned |= self.component(new.home) | self.component(new.visitor_id)
        return concerned

    def _name(self, device: Device, visitor: Visitor) -> None:
        """A login that takes hold only now, after its person's name was dropped, names them again."""
        fact = next(f for f in device.facts if f.seq == visitor.claim_seq)
        if fact.kind == "link" or visitor.claim in self.identities or self._is_outside(fact.homes[0]):
            return
        fact.detail["named"] = self.seq
        self._mention(fact, 0, fact.proof or Proof.CLAIMED)
        if device.server and not visitor.tentative:
            self.identities[visitor.claim].server_device = device.device_id  # type: ignore[index]

    def _apply_graph(self, fact: Fact) -> None:
        self.graph_facts[fact.seq] = fact
        if fact.device_id == SERVER_DEVICE or fact.detail.get("join") in JOINED:
            for n, proof in mentions(fact):
                self._mention(fact, n, proof)
        detail = fact.detail
        joined = [detail.get("target"), detail.get("source"), *(n for pair in detail.get("joined", ()) for n in pair)]
        for node in joined:
            if node and node not in self.dead and (self.core is None or node in self.core):
                self.add_node(node)
        concerned = self.fold_edges(fact)
        parted = set(detail.get("nodes", ())) if fact.kind in ("demerge", "unlink") else set()
        for device in list(self.devices.values()) if parted else ():
            if device.complete and any(v.home in parted for v in device.turns):
                self.cut(device)
        concerned |= self._drop(fact)
        concerned |= {v.home for n in concerned if (v := self.turn_of.get(n))}
        self.regroup({n for c in concerned for n in self.component(c)})

    def _drop(self, fact: Fact) -> set[int]:
        """Takes away the identities that a fact drops."""
        concerned: set[int] = set()
        for kind, value, _ in fact.detail.get("dropped", ()):
            identity = self.identities.get((kind, value))
            if identity is None or self._is_outside(identity.home):
                continue
            self.forget(identity)
            concerned |= self.component(identity.home)
        if self.core is None:
            for kind, value, home in fact.detail.get("rehomed", ()):
                self.homes[kind, value] = home
        return concerned

    def _apply_delete(self, fact: Fact) -> None:
        self.graph_facts[fact.seq] = fact
        nodes = set(fact.detail["nodes"])
        self.fold_edges(fact)
        for node in nodes:
            for key in self.named.pop(node, ()):
                del self.identities[key]
            for visitor in self.at_home.pop(node, {}).values():
                self.turn_of.pop(visitor.visitor_id, None)
        self.homes = {k: h for k, h in self.homes.items() if h not in nodes}
        for named, erasures in fact.detail["erased"].items():
            if (device := self.devices.get(int(named))) is not None:
                device.erasures.extend(Erasure(*e) for e in erasures)
                device.facts = outside(device)
                device.turns = [v for v in device.turns if v.home not in nodes]
                if device.complete:
                    self.cut(device)
        for node in nodes:
            self.members.pop(self.roots.pop(node, node), None)

    # --- again, without -----------------------------------------------------------------------------------------

    def without(self, undone: Fact, core: set[int], seq: int) -> World:
        """The same part of the site as if `undone` had never happened.

        `core` are the nodes of the profiles the fact touched: everything that was ever said about them is folded again
        in the order it was committed. Profiles that merely share a device keep what was decided about them. `seq` is
        the place of the undoing in the ledger.
        """
        again = World(self.site)
        again.core, again.without_seq = core, undone.seq
        again.void, again.tokens, again.homes = set(self.void), self.tokens, dict(self.homes)
        released = undone.detail.get("released", {})
        folded = [d for d in self.devices.values() if d.complete and (str(d.device_id) in released or about(d, core))]
        for node in self.roots:
            again.add_node(node)
        for identity in self.identities.values():
            if identity.home not in core:
                again.add_identity(replace(identity))
        for device in self.devices.values():
            if device in folded:
                again.add_device(replace(device, facts=[], turns=[]), new=True)
            else:
                again.add_device(replace(device, turns=[]))
                for visitor in device.turns:
                    again.add_visitor(replace(visitor))
        facts = {f.seq: f for d in folded for f in d.facts} | self.graph_facts
        for seq in sorted(facts):
            fact = facts[seq]
            if fact.seq == undone.seq or fact.undone_by is not None:
                continue
            if fact.homes and fact.homes[0] in core:
                fact.detail.pop("named", None)
            if fact.kind == "delete":
                again.fold_edges(fact)
            else:
                again.apply(fact)
        again.core, again.seq = None, seq
        for device in folded:
            for visitor in again.devices[device.device_id].turns:
                if visitor.claim is not None:
                    again._name(again.devices[device.device_id], visitor)
        turns = [v for d in folded for v in (*d.turns, *again.devices[d.device_id].turns)]
        again.settle((v.claim, v.home) for v in turns if v.claim)
        again.regroup(set(again.roots))
        for device in folded:
            for visitor in again.devices[device.device_id].turns:
                old = next((v for v in device.turns if v.visitor_id == visitor.visitor_id), None)
                if old is not None:
                    visitor.first_seen, visitor.last_seen, visitor.events = old.first_seen, old.last_seen, old.events
            again.recut.add(device.device_id)
        again.homes, again.gone = dict(self.homes), self.gone
        again._keep_apart(self, undone)
        return again

    def _keep_apart(self, before: World, undone: Fact) -> None:
        """Pairs are what they were, and what the undone fact had lifted; one with a deleted person is over."""
        back = {(x, y) for a, b in undone.detail.get("lifted", ()) for x, y in ((a, b), (b, a))}
        for a, others in self.exclusions.items():
            self.exclusions[a] = {b for b in others if b in before.exclusions[a] or (a, b) in back}


def refold(site: Site, devices: Sequence[Device], facts: Iterable[Fact], void: Iterable[str]) -> World:
    """A whole site from nothing but its ledger, its devices and the link tokens that are void: all at once.

    The flags of the facts stay as they were decided.
    """
    world = World(site)
    world.void = set(void)
    world.devices = {d.device_id: d for d in devices}
    in_force = [f for f in facts if not f.inert and not f.erased and f.undone_by is None]
    for fact in sorted(in_force, key=lambda f: f.seq):
        if fact.kind in GRAPH_KINDS:
            world.graph_facts[fact.seq] = fact
            world.fold_edges(fact)
        if fact.kind in DEVICE_KINDS and fact.device_id in world.devices:
            world.devices[fact.device_id].facts.append(fact)
        for named, erasures in fact.detail.get("erased", {}).items():
            world.devices[int(named)].erasures.extend(Erasure(*e) for e in erasures)
    parting = [f for f in world.graph_facts.values() if f.kind in ("demerge", "unlink")]
    for device in devices:
        device.facts = sorted(outside(device), key=lambda f: (f.at, f.seq))
        device.complete = True
        cuts = [r for f in parting if (r := release(f, device.device_id, world.dead)) is not None]
        device.turns = rules.cut(device.device_id, device.facts, cuts, device.erasures, frozenset(world.void))
        for visitor in device.turns:
            world.place(visitor)
            world.add_node(visitor.home)
            world.add_node(visitor.visitor_id)
    for edges in world.edges.values():
        for edge in edges:
            world.add_node(edge.target)
            world.add_node(edge.source)
    for identity in established(in_force, {d.device_id: d.server for d in devices}).values():
        world.add_identity(identity)
    for visitor in world.turn_of.values():
        if visitor.claim is not None and visitor.claim not in world.identities:
            linked = only_linked(visitor.claim, visitor.home, world.at_home[visitor.home].values())
            assert linked is not None
            world.add_identity(linked)
    world.regroup(set(world.roots))
    return world
