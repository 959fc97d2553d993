"""Who is one person: profile ids, and what joins and parts them.

Profiles are the connected components of a small graph. Its nodes are profile ids: one per visitor (its own) and one per
identity (its home). A visitor's claim joins its own node with the identity's; a merge joins two nodes; undoing a merge
takes the edge away and joins again what is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.identity import rules
from gateway.identity.facts import release
from gateway.model import Device, Fact, Identity, Key, Release, Site, Visitor


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """`source` joined `target` at `seq`; the target's profile id survives."""

    seq: int
    target: int
    source: int


class Graph:
    """The loaded part of one site: devices with their visitors, identities, and the profile ids they are at."""

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
        self.at_home: defaultdict[int, dict[int, Visitor]] = defaultdict(dict)
        self.named: defaultdict[int, set[Key]] = defaultdict(set)
        self.turn_of: dict[int, Visitor] = {}
        self.homes: dict[Key, int] = {}
        self.dead: set[int] = set()
        self.touched: set[int] = set()

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

    # --- what is there ----------------------------------------------------------------------------------------

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

    def forget(self, identity: Identity) -> None:
        """An identity that is no more; its value keeps the profile id."""
        del self.identities[identity.key]
        self.named[identity.home].discard(identity.key)
        self.homes[identity.key] = identity.home

    def add_visitor(self, visitor: Visitor) -> None:
        """Puts a visitor of a known device into the world."""
        self.devices[visitor.device_id].turns.append(visitor)
        self.place(visitor)

    def place(self, visitor: Visitor) -> None:
        """Notes where a visitor is at home."""
        self.at_home[visitor.home][visitor.visitor_id] = visitor
        self.turn_of[visitor.visitor_id] = visitor

    def displace(self, visitor: Visitor) -> None:
        """Forgets where a visitor is at home, before it moves or goes."""
        self.at_home[visitor.home].pop(visitor.visitor_id, None)
        self.turn_of.pop(visitor.visitor_id, None)

    def attached(self, visitor: Visitor) -> bool:
        """Whether a visitor's own profile id goes where it went: one that took part in a merge does not."""
        if visitor.claim is not None:
            return True
        return visitor.visitor_id not in self.dead and not self.edges[visitor.visitor_id]

    # --- what joins and parts ---------------------------------------------------------------------------------

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

    def regroup(self, nodes: set[int]) -> None:
        """Joins the given nodes afresh: all edges and claims among them, in the order of their facts."""
        nodes = nodes & self.roots.keys()
        edges = {e for n in nodes for e in self.edges[n]}
        for node in nodes:
            for visitor in self.at_home[node].values():
                if visitor.home != visitor.visitor_id and self.attached(visitor):
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
