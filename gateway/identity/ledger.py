"""The fold: from facts, in the order they were committed, to who is who now.

Profiles are the connected components of a small graph. Its nodes are profile ids: one per visitor (its own) and one per
identity (its home). A visitor's claim joins its own node with the identity's; a merge joins two nodes; undoing a merge
takes the edge away and joins again what is left. The same `apply` runs step by step on the loaded part of a site, again
over a component when a fact is undone, and over a whole ledger when a database is checked.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from dataclasses import dataclass, replace

from gateway.identity import rules
from gateway.model import APPEND, GHOST, IGNORED, TENTATIVE, Device, Erasure, Fact, Identity, Key, Proof, Site, Visitor

DEVICE_KINDS = ("login", "link", "logout", "reidentify")
GRAPH_KINDS = ("merge", "reidentify", "demerge", "unlink", "undo")
JOINED = ("merged", "renamed", "aliased", "reserved")


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """`source` joined `target` at `seq`; the target's profile id survives."""

    seq: int
    target: int
    source: int


class World:
    """The loaded part of one site: devices with their visitors, identities, and the graph of profiles."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.devices: dict[int, Device] = {}
        self.identities: dict[Key, Identity] = {}
        self.roots: dict[int, int] = {}
        self.members: dict[int, set[int]] = {}
        self.edges: defaultdict[int, set[Edge]] = defaultdict(set)
        self.calls: defaultdict[int, set[tuple[int, Key]]] = defaultdict(set)
        self.graph_facts: dict[int, Fact] = {}
        self.exclusions: defaultdict[int, set[int]] = defaultdict(set)
        self.tokens: defaultdict[str, set[int]] = defaultdict(set)
        self.void: set[str] = set()
        self.at_home: defaultdict[int, dict[int, Visitor]] = defaultdict(dict)
        self.named: defaultdict[int, set[Key]] = defaultdict(set)
        self.touched: set[int] = set()
        self.recut: set[int] = set()
        self.core: set[int] | None = None

    # --- reading ---------------------------------------------------------------------------------------------

    def root(self, node: int) -> int:
        """The profile id that `node` resolves to now."""
        return self.roots.get(node, node)

    def component(self, node: int) -> set[int]:
        """All nodes of the profile that `node` belongs to."""
        return self.members.get(self.root(node), {node})

    def visitors(self, node: int) -> list[Visitor]:
        """The visitors of the profile that `node` belongs to."""
        return [v for n in self.component(node) for v in self.at_home[n].values()]

    def identities_of(self, node: int) -> list[Identity]:
        """The identities of the profile that `node` belongs to, earliest first."""
        found = [self.identities[k] for n in self.component(node) for k in self.named[n]]
        return sorted(found, key=lambda i: (i.since, i.key))

    def browsers(self, node: int) -> set[int]:
        """The browsers that count against the device cap: those with a visitor that is not merely tentative."""
        return {v.device_id for v in self.visitors(node) if not v.tentative and not self.devices[v.device_id].server}

    def primary(self, node: int) -> Key | None:
        """The identity the profile is called by."""
        calls = {call for n in self.component(node) for call in self.calls[n]}
        return rules.primary(calls, self.identities_of(node))

    def live(self, node: int) -> bool:
        """Whether the profile exists for anybody who asks: it has a name, or something was seen of it."""
        return bool(self.identities_of(node)) or any(v.first_seen is not None for v in self.visitors(node))

    def excluded(self, a: int, b: int) -> bool:
        """Whether an undone merge keeps the two profiles apart."""
        right = self.component(b)
        return any(self.exclusions[n] & right for n in self.component(a))

    def device_facts(self, device: Device) -> list[Fact]:
        """Everything that cuts this device's time line: its own facts and the releases that name it."""
        named = str(device.device_id)
        releases = (f for f in self.graph_facts.values() if f.kind in ("demerge", "unlink"))
        return device.facts + [f for f in releases if named in f.detail.get("devices", ())]

    # --- loading ---------------------------------------------------------------------------------------------

    def add_node(self, node: int, root: int | None = None) -> None:
        """Makes a profile id known; a new one is its own root."""
        if node in self.roots:
            return
        root = node if root is None else root
        self.roots[node] = root
        self.members.setdefault(root, set()).add(node)

    def add_identity(self, identity: Identity) -> None:
        """Makes an identity known."""
        self.identities[identity.key] = identity
        self.named[identity.home].add(identity.key)
        self.add_node(identity.home)

    def add_visitor(self, visitor: Visitor) -> None:
        """Puts a visitor of a known device into the world."""
        self.devices[visitor.device_id].turns.append(visitor)
        self.at_home[visitor.home][visitor.visitor_id] = visitor

    def add_device(self, device: Device, *, new: bool = False) -> Device:
        """Makes a device known; a new one starts with one anonymous visitor that nobody has seen yet."""
        self.devices[device.device_id] = device
        if new:
            device.complete = True
            self._cut(device)
        return device

    # --- folding ---------------------------------------------------------------------------------------------

    def apply(self, fact: Fact) -> None:
        """Folds one fact into the state. Facts must come in the order of `seq`."""
        if fact.inert or fact.erased:
            return
        if fact.kind in DEVICE_KINDS and (device := self.devices.get(fact.device_id)) and device.complete:
            self._apply_device(fact, device)
        if fact.kind in GRAPH_KINDS:
            self._apply_graph(fact)
        elif fact.kind == "delete":
            self._apply_delete(fact)

    def _apply_device(self, fact: Fact, device: Device) -> None:
        if fact.kind in ("login", "reidentify", "link"):
            fact.flags = self._flags(fact, device)
            if fact.kind != "link" and not fact.flags & GHOST:
                self._mention(fact, 0)
        insort(device.facts, fact, key=lambda f: (f.at, f.seq))
        if device.server and fact.kind == "login" and (key := fact.identities[0]) is not None:
            self.identities[key].server_device = device.device_id
        token = fact.detail.get("token")
        if token is not None and self._seen(token, device.device_id):
            for other in sorted(self.tokens[token]):
                self._cut(self.devices[other])
        self._cut(device)

    def _seen(self, token: str, device_id: int) -> bool:
        """Counts a device for a link token; True when this is the device that quarantines it."""
        self.tokens[token].add(device_id)
        if token in self.void or len(self.tokens[token]) <= self.site.token_cap:
            return False
        self.void.add(token)
        return True

    def _mention(self, fact: Fact, n: int) -> Identity | None:
        """The n-th identity of a fact, made if it is new; its proof becomes the best that any fact gave it."""
        key = fact.identities[n]
        if key is None:
            return None
        identity = self.identities.get(key)
        proof = fact.proof or Proof.CLAIMED
        if identity is None:
            identity = Identity(key, fact.homes[n], proof, fact.at)
            self.add_identity(identity)
        else:
            fact.homes[n] = identity.home  # the home this value had first, also for facts written after a demerge
            identity.proof = max(identity.proof, proof)
            identity.since = min(identity.since, fact.at)
        self.touched.add(identity.home)
        return identity

    def _flags(self, fact: Fact, device: Device) -> int:
        turn = rules.turn_at(device.turns, fact.at)
        key = fact.identities[0]
        identity = self.identities.get(key) if key else None
        kept = fact.flags & (GHOST | TENTATIVE) if self._outside(identity) else 0
        if turn is None or key is None:
            return kept
        flags = kept
        apart = None if turn.known else self._known_apart(turn)
        if identity is not None and not self._outside(identity):
            full = len(self.browsers(identity.home)) >= self.site.device_cap
            here = any(v.device_id == device.device_id and not v.tentative for v in self.visitors(identity.home))
            if full and not here and not device.server:
                flags |= GHOST
            elif fact.detail.get("wait") and identity.proof >= Proof.VERIFIED:
                flags |= TENTATIVE
        if apart is not None and (identity is None or identity.home not in apart):
            flags |= IGNORED if fact.kind == "link" else APPEND
        if fact.kind == "link" and flags & GHOST:
            flags |= IGNORED
        return flags

    def _outside(self, identity: Identity | None) -> bool:
        return self.core is not None and identity is not None and identity.home not in self.core

    def _known_apart(self, turn: Visitor) -> set[int] | None:
        """The component of an unclaimed visitor without its own claim, if somebody is known there by a merge."""
        if not self.edges[turn.visitor_id]:
            return None
        seen, todo = {turn.visitor_id}, [turn.visitor_id]
        while todo:
            node = todo.pop()
            near = {n for e in self.edges[node] for n in (e.target, e.source)}
            near |= {v.visitor_id for v in self.at_home[node].values() if v is not turn}
            near |= {v.home for v in self.component_visitors(node) if v is not turn}
            todo.extend(near - seen)
            seen |= near
        return seen if any(self.named[n] for n in seen) else None

    def component_visitors(self, node: int) -> list[Visitor]:
        """The visitors whose own profile id is `node`: at most one."""
        return [v for n in self.component(node) for v in self.at_home[n].values() if v.visitor_id == node]

    def _cut(self, device: Device) -> None:
        """Cuts the device's time line again and joins the profiles that this concerns."""
        turns = rules.cut(device.device_id, self.device_facts(device), device.erasures, frozenset(self.void))
        before = {v.visitor_id: v for v in device.turns}
        concerned: set[int] = set()
        for visitor in turns:
            old = before.pop(visitor.visitor_id, None)
            if old is not None:
                visitor.first_seen, visitor.last_seen, visitor.events = old.first_seen, old.last_seen, old.events
                if (old.started_at, old.ended_at) != (visitor.started_at, visitor.ended_at):
                    self.recut.add(device.device_id)
            else:
                self.recut.add(device.device_id)
            concerned |= self._replace(device, old, visitor)
        for gone in before.values():
            self.recut.add(device.device_id)
            concerned |= self.component(gone.home) | self.component(gone.visitor_id)
            self.at_home[gone.home].pop(gone.visitor_id, None)
        device.turns = turns
        self._regroup(concerned)

    def _replace(self, device: Device, old: Visitor | None, new: Visitor) -> set[int]:
        """Puts a visitor in the place of its former self; returns the nodes to join again if its claim changed."""
        concerned: set[int] = set()
        if old is not None:
            self.at_home[old.home].pop(old.visitor_id, None)
            if (old.home, old.claim_seq) != (new.home, new.claim_seq):
                concerned |= self.component(old.home) | self.component(old.visitor_id)
        self.at_home[new.home][new.visitor_id] = new
        if old is None or concerned:
            if new.claim is not None and new.claim not in self.identities:
                since = self._since(device, new)
                self.add_identity(Identity(new.claim, new.home, new.proof or Proof.LINK_RAW, since))
            self.add_node(new.visitor_id)
            concerned |= self.component(new.home) | self.component(new.visitor_id)
        return concerned

    @staticmethod
    def _since(device: Device, visitor: Visitor) -> int:
        return next((f.at for f in device.facts if f.seq == visitor.claim_seq), visitor.started_at)

    def _apply_graph(self, fact: Fact) -> None:
        self.graph_facts[fact.seq] = fact
        if fact.kind == "reidentify" and fact.detail.get("join") in JOINED:
            for n in (0, 1):
                self._mention(fact, n)
        elif fact.kind == "reidentify" and fact.outcome == "held" and not fact.device_id:
            self._mention(fact, 0)  # what waits is between two profiles that exist
        concerned = self.fold_graph(fact)
        for named in fact.detail.get("devices", ()):
            if (device := self.devices.get(int(named))) and device.complete:
                self._cut(device)
        self._regroup({n for c in concerned for n in self.component(c)})

    def fold_graph(self, fact: Fact) -> set[int]:
        """Folds what a fact does to edges, names and exclusions; returns nodes whose profiles must be joined again."""
        detail = fact.detail
        concerned: set[int] = set()
        if detail.get("target") in self.roots and detail.get("source") in self.roots:
            concerned |= self._join(Edge(fact.seq, detail["target"], detail["source"]))
        if detail.get("primary") and detail.get("target") in self.roots:
            self.calls[detail["target"]].add((fact.seq, (detail["primary"][0], detail["primary"][1])))
            concerned |= self.component(detail["target"])
        for kind, value, home in detail.get("dropped", ()):
            for key in [(kind, value)] if kind else list(self.named[home]):  # a deleted person's name is not kept here
                if key in self.identities and self.identities[key].home == home:
                    del self.identities[key]
                    self.named[home].discard(key)
        for node in detail.get("severed", ()):
            concerned |= self.component(node) if node in self.roots else set()
            for edge in list(self.edges[node]):
                self.edges[edge.target].discard(edge)
                self.edges[edge.source].discard(edge)
        for group in detail.get("groups", ()):
            for node in group[1:]:
                if node in self.roots and group[0] in self.roots:
                    concerned |= self._join(Edge(fact.seq, group[0], node))
        for a, b in detail.get("excluded", ()):
            self.exclusions[a].add(b)
            self.exclusions[b].add(a)
        for a, b in detail.get("lifted", ()):
            self.exclusions[a].discard(b)
            self.exclusions[b].discard(a)
        return concerned

    def _join(self, edge: Edge) -> set[int]:
        self.edges[edge.target].add(edge)
        self.edges[edge.source].add(edge)
        return self.component(edge.target) | self.component(edge.source)

    def _regroup(self, nodes: set[int]) -> None:
        """Joins the given nodes afresh: all edges and claims among them, in the order of their facts."""
        edges = {e for n in nodes for e in self.edges[n]}
        for node in nodes:
            for visitor in self.at_home[node].values():
                if visitor.claim is not None:
                    edges.add(Edge(visitor.claim_seq, visitor.home, visitor.visitor_id))
        parent = {n: n for n in nodes}

        def find(n: int) -> int:
            while parent[n] != n:
                parent[n] = n = parent[parent[n]]
            return n

        for edge in sorted(edges):
            if edge.target in parent and edge.source in parent:
                parent[find(edge.source)] = find(edge.target)
        for node in nodes:
            self.members.pop(self.roots.get(node, node), None)
        for node in nodes:
            self.roots[node] = find(node)
            self.members.setdefault(self.roots[node], set()).add(node)
        self.touched |= nodes

    def _apply_delete(self, fact: Fact) -> None:
        nodes = set(fact.detail["nodes"])
        for node in nodes:
            for key in self.named.pop(node, ()):
                del self.identities[key]
            for edge in self.edges.pop(node, set()):
                self.edges[edge.target if edge.source == node else edge.source].discard(edge)
            for other in self.exclusions.pop(node, ()):
                self.exclusions[other].discard(node)
            self.calls.pop(node, None)
            self.at_home.pop(node, None)
        for named, erasures in fact.detail["erased"].items():
            if not (device := self.devices.get(int(named))):
                continue
            erased = [Erasure(*e) for e in erasures]
            device.facts = [f for f in device.facts if not any(e.started_at <= f.at < e.ended_at for e in erased)]
            device.turns = [v for v in device.turns if v.home not in nodes]
            device.erasures.extend(erased)
            if device.complete:
                self._cut(device)
        for node in nodes:
            self.members.pop(self.roots.pop(node, node), None)

    # --- again, without -----------------------------------------------------------------------------------------

    def without(self, undone: Fact, core: set[int]) -> World:
        """The same part of the site as if `undone` had never happened.

        `core` are the nodes of the profiles the fact touched: everything on their devices is folded again in the order
        it was committed. Profiles that merely share a device with them keep what was decided about them.
        """
        again = World(self.site)
        again.core = core
        again.void, again.tokens = set(self.void), self.tokens
        folded = [d for d in self.devices.values() if d.complete and any(v.home in core for v in d.turns)]
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
            if fact.seq != undone.seq and fact.undone_by is None:
                again.apply(fact)
        again._regroup(set(again.roots))
        for device in folded:
            for visitor in again.devices[device.device_id].turns:
                old = next((v for v in device.turns if v.visitor_id == visitor.visitor_id), None)
                if old is not None:
                    visitor.first_seen, visitor.last_seen, visitor.events = old.first_seen, old.last_seen, old.events
            again.recut.add(device.device_id)
        again.core = None
        return again
