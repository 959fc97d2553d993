"""The fold: from facts, in the order they were committed, to who is who now.

Profiles are the connected components of a small graph. Its nodes are profile ids: one per visitor (its own) and one per
identity (its home). A visitor's claim joins its own node with the identity's; a merge joins two nodes; undoing a merge
takes the edge away and joins again what is left.

`World.apply` folds one fact after the other into the loaded part of a site and decides its flags on the way; `without`
does so again over the profiles around an undone fact. `refold` makes a whole site from its ledger at once, with the
flags as they were decided: that both come to the same is what `gateway check` verifies.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from gateway.identity import rules
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
    Release,
    Site,
    Visitor,
)

DEVICE_KINDS = ("login", "link", "logout", "reidentify")
GRAPH_KINDS = ("merge", "reidentify", "demerge", "unlink", "undo", "delete")
JOINED = ("merged", "renamed", "aliased", "reserved")


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """`source` joined `target` at `seq`; the target's profile id survives."""

    seq: int
    target: int
    source: int


def mentions(fact: Fact) -> list[tuple[int, Proof]]:
    """Which of a fact's identities exist because of it, and how well it proves them: (position, proof).

    What stayed a ghost names nobody. A link names somebody only as long as a visitor is held by it: see `only_linked`.
    """
    proof = fact.proof or Proof.CLAIMED
    said = fact.kind in ("login", "reidentify") and fact.device_id != SERVER_DEVICE and not fact.flags & GHOST
    found: list[int] = []
    if fact.kind == "merge":
        found, proof = [0, 1], Proof.CLAIMED
    elif fact.kind == "reidentify" and fact.detail.get("join") in JOINED:
        found = [0, 1]
    elif said or (fact.kind == "reidentify" and fact.device_id == SERVER_DEVICE and fact.outcome == "held"):
        found = [0]  # what waits is between two profiles that exist
    names = fact.identities
    return [(n, proof) for n in found if n < len(names) and (key := names[n]) is not None and key[0] != GONE]


def only_linked(key: Key, home: int, visitors: Iterable[Visitor]) -> Identity | None:
    """The identity that links alone give, None if no visitor is held by one (any more)."""
    holders = [v for v in visitors if v.claim == key]
    if not holders:
        return None
    proof = max(v.proof or Proof.LINK_RAW for v in holders)
    return Identity(key, home, proof, min(v.claim_at for v in holders))


def release(fact: Fact, device_id: int, dead: Collection[int]) -> Release | None:
    """What a demerge or unlink means for a device. A demerge holds for devices that nobody knew of at the time, too.

    Where the turns that left were given to somebody who is `dead` by now, each that is still there is by itself.
    """
    released = fact.detail.get("released", {})
    if str(device_id) in released:
        anchor, at = released[str(device_id)]
    elif fact.kind == "demerge":
        anchor, at = 0, fact.at
    else:
        return None
    return Release(at, fact.seq, frozenset(fact.detail["nodes"]), 0 if anchor in dead else anchor)


def established(facts: Iterable[Fact], servers: dict[int, bool] | None = None) -> dict[Key, Identity]:
    """The identities that facts in force give, each with its best proof, since its first mention.

    `servers` tells the pseudo-devices of server-side traffic, so that each identity is given its own.
    """
    steps: list[tuple[int, int, Fact]] = []
    for fact in facts:
        named = fact.detail.get("named", fact.seq)
        steps.append((fact.seq, 0, fact))
        if named != fact.seq:  # it took hold later, when the time line was cut again
            steps.append((named, 1, fact))
    found: dict[Key, Identity] = {}
    for seq, _, fact in sorted(steps, key=lambda s: s[:2]):
        for kind, value, _ in fact.detail.get("dropped", ()):
            found.pop((kind, value), None)
        for n, proof in mentions(fact):
            key = fact.identities[n]
            assert key is not None
            if seq != fact.seq and n:
                continue
            identity = found.setdefault(key, Identity(key, fact.homes[n], proof, fact.at))
            identity.proof, identity.since = max(identity.proof, proof), min(identity.since, fact.at)
            serves = fact.kind == "login" and not fact.flags & TENTATIVE
            if serves and servers and servers.get(fact.device_id):
                identity.server_device = fact.device_id
    return found


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
        self.turn_of: dict[int, Visitor] = {}
        self.homes: dict[Key, int] = {}
        self.dead: set[int] = set()
        self.touched: set[int] = set()
        self.recut: set[int] = set()
        self.gone: set[int] = set()  # visitors that went, and their counters with them, also if they came back
        self.core: set[int] | None = None
        self.without_seq = 0
        self.seq = 0

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

    def home_of(self, key: Key) -> int:
        """The profile id that a value was given when it was first named, 0 if it never was."""
        identity = self.identities.get(key)
        return identity.home if identity else self.homes.get(key, 0)

    def node_of(self, turn: Visitor) -> int:
        """The profile id that stands for who is on a device: a link decides nothing that would outlast it."""
        return turn.visitor_id if turn.tentative else turn.home

    def releases(self, device_id: int) -> list[Release]:
        """What took this device off a profile."""
        return [r for f in self.graph_facts.values() if (r := release(f, device_id, self.dead)) is not None]

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
        self._place(visitor)

    def add_device(self, device: Device, *, new: bool = False) -> Device:
        """Makes a device known; a new one starts with one anonymous visitor that nobody has seen yet."""
        self.devices[device.device_id] = device
        if new:
            device.complete = True
            self.cut(device)
        return device

    def _place(self, visitor: Visitor) -> None:
        self.at_home[visitor.home][visitor.visitor_id] = visitor
        self.turn_of[visitor.visitor_id] = visitor

    def _displace(self, visitor: Visitor) -> None:
        self.at_home[visitor.home].pop(visitor.visitor_id, None)
        self.turn_of.pop(visitor.visitor_id, None)

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
                if visitor is not turn and visitor.home != visitor.visitor_id and self._attached(visitor):
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

    def _attached(self, visitor: Visitor) -> bool:
        """Whether a visitor's own profile id goes where it went: one that took part in a merge does not."""
        if visitor.claim is not None:
            return True
        return visitor.visitor_id not in self.dead and not self.edges[visitor.visitor_id]

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
            self._displace(gone)
        device.turns = turns
        claims ^= {(v.visitor_id, v.claim, v.home, v.claim_seq) for v in turns if v.claim}
        self.settle((claim, home) for _, claim, home, _ in claims)
        self._regroup(concerned)

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

    def forget(self, identity: Identity) -> None:
        """An identity that is no more; its value keeps the profile id."""
        del self.identities[identity.key]
        self.named[identity.home].discard(identity.key)
        self.homes[identity.key] = identity.home

    def _replace(self, device: Device, old: Visitor | None, new: Visitor) -> set[int]:
        """Puts a visitor in the place of its former self; returns the nodes to join again if its claim changed."""
        concerned: set[int] = set()
        if old is not None:
            self._displace(old)
            if (old.home, old.claim_seq) != (new.home, new.claim_seq):
                concerned |= self.component(old.home) | self.component(old.visitor_id)
        self._place(new)
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
        self._regroup({n for c in concerned for n in self.component(c)})

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

    def fold_edges(self, fact: Fact) -> set[int]:
        """Folds what a fact does to edges and exclusions; returns nodes whose profiles must be joined again."""
        detail = fact.detail
        if fact.kind == "delete":
            self._bury(detail["nodes"])
            return set()
        concerned: set[int] = set()
        if detail.get("target") and detail.get("source"):
            concerned |= self._join(Edge(fact.seq, detail["target"], detail["source"]))
        if detail.get("primary") and detail.get("target"):
            self.calls[detail["target"]].add((fact.seq, (detail["primary"][0], detail["primary"][1])))
            concerned |= self.component(detail["target"])
        for node in detail.get("severed", ()):
            concerned |= self.component(node)
            for edge in list(self.edges[node]):
                self.edges[edge.target].discard(edge)
                self.edges[edge.source].discard(edge)
        for a, b in detail.get("joined", ()):
            concerned |= self._join(Edge(fact.seq, a, b))
        for a, b in detail.get("excluded", ()):
            if not {a, b} & self.dead:
                self.exclusions[a].add(b)
                self.exclusions[b].add(a)
        for a, b in detail.get("lifted", ()):
            self.exclusions[a].discard(b)
            self.exclusions[b].discard(a)
        return concerned

    def _join(self, edge: Edge) -> set[int]:
        if edge.target in self.dead or edge.source in self.dead:
            return set()
        self.edges[edge.target].add(edge)
        self.edges[edge.source].add(edge)
        return self.component(edge.target) | self.component(edge.source)

    def _bury(self, nodes: Iterable[int]) -> None:
        """Takes the profile ids of a deleted person out of the graph for good."""
        for node in nodes:
            self.dead.add(node)
            for edge in self.edges.pop(node, set()):
                self.edges[edge.target if edge.source == node else edge.source].discard(edge)
            for other in self.exclusions.pop(node, ()):
                self.exclusions[other].discard(node)
            self.calls.pop(node, None)

    def _regroup(self, nodes: set[int]) -> None:
        """Joins the given nodes afresh: all edges and claims among them, in the order of their facts."""
        nodes = nodes & self.roots.keys()
        edges = {e for n in nodes for e in self.edges[n]}
        for node in nodes:
            for visitor in self.at_home[node].values():
                if visitor.home != visitor.visitor_id and self._attached(visitor):
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
        again._regroup(set(again.roots))
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


def outside(device: Device) -> list[Fact]:
    """A device's facts without those in the stretches of deleted people."""
    return [f for f in device.facts if not erased(device, f)]


def erased(device: Device, fact: Fact) -> bool:
    """Whether a fact lies in the stretch of a deleted person: then only what it says about others counts."""
    return any(e.started_at <= fact.at < e.ended_at for e in device.erasures)


def about(device: Device, nodes: set[int]) -> bool:
    """Whether a device belongs to any of the profile ids, or something was said on it about them."""
    return any(v.home in nodes for v in device.turns) or any(
        nodes & {*f.homes, *joined_through(f)} for f in device.facts
    )


def joined_through(fact: Fact) -> set[int]:
    """The profile ids through which the visitor of a device fact was somebody else's."""
    return {n for _, *nodes in fact.detail.get("through", {}).get("edges", ()) for n in nodes}


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
            world._place(visitor)
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
    world._regroup(set(world.roots))
    return world
