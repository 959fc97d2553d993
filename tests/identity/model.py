"""What identity should be, written once more from the design: slow, in plain lists, sharing no code with the gateway.

The model keeps every deed since the beginning. To know who is who it goes through all of them; to undo one it goes
through all the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Place = tuple[Any, ...]
"""Where turns and names are at home: ("id", value, life), ("turn", device, opener) or ("left", deed, device)."""

FOREVER = 10**18
LINK_RAW, LINK, CLAIMED, VERIFIED, SERVER = 1, 2, 3, 4, 5


@dataclass
class Turn:
    """One person's turn on a device."""

    device: Any
    own: Place
    start: int
    end: int = FOREVER
    place: Place = ()
    who: str | None = None
    tentative: bool = False
    proof: int = 0
    erased: bool = False

    @property
    def known(self) -> bool:
        return self.who is not None and not self.tentative


@dataclass
class Deed:
    """Something that was said or done, with what was decided about it then."""

    n: int
    kind: str
    at: int
    device: Any = None
    who: str | None = None
    home: Place = ()
    old: str | None = None
    old_home: Place = ()
    proof: int = CLAIMED
    signed: bool = False
    join: tuple[Place, Place] | None = None
    brought: frozenset[Place] = frozenset()
    nodes: frozenset[Place] = frozenset()
    left: dict[Any, tuple[Place, int]] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    named: list[tuple[str, Place]] = field(default_factory=list)
    erased: list[tuple[Any, int, int]] = field(default_factory=list)
    lifted: list[frozenset[Place]] = field(default_factory=list)
    excluded: frozenset[Place] | None = None
    of: int = -1
    apart: bool = False
    held: bool = False
    skip: bool = False
    undone: bool = False


class State:
    """Who is who after some deeds."""

    def __init__(self) -> None:
        self.facts: dict[Any, list[Deed]] = {}
        self.turns: dict[Any, list[Turn]] = {}
        self.partings: list[Deed] = []
        self.erasures: list[tuple[Any, int, int, int]] = []
        self.names: dict[str, tuple[Place, int]] = {}
        self.edges: list[tuple[int, Place, Place]] = []
        self.kept_apart: set[frozenset[Place]] = set()
        self.servers: dict[str, Any] = {}
        self.dead: set[Place] = set()

    # --- groups ---

    def groups(self, without: Turn | None = None) -> dict[Place, set[Place]]:
        """Which places are one person."""
        group: dict[Place, set[Place]] = {}

        def join(a: Place, b: Place) -> None:
            ours, theirs = group.setdefault(a, {a}), group.setdefault(b, {b})
            if ours is not theirs:
                ours |= theirs
                for place in theirs:
                    group[place] = ours

        for _, a, b in self.edges:
            join(a, b)
        for turns in self.turns.values():
            for turn in turns:
                group.setdefault(turn.own, {turn.own})
                group.setdefault(turn.place, {turn.place})
                if turn is not without and self.attached(turn):
                    join(turn.place, turn.own)
        for place, _ in self.names.values():
            group.setdefault(place, {place})
        return group

    def attached(self, turn: Turn) -> bool:
        """Whether what a turn was before is where the turn is: a turn that took part in a merge stays there."""
        return turn.who is not None or (turn.own not in self.dead and not any(turn.own in e for e in self.edges))

    def group(self, place: Place, without: Turn | None = None) -> set[Place]:
        return self.groups(without).get(place, {place})

    def turns_in(self, places: set[Place]) -> list[Turn]:
        return [t for turns in self.turns.values() for t in turns if t.place in places]

    def names_in(self, places: set[Place]) -> set[str]:
        return {name for name, (place, _) in self.names.items() if place in places}

    def current(self, device: Any, at: int) -> Turn | None:
        for turn in self.turns.get(
            device, [Turn(device, ("turn", device, "first"), 0, place=("turn", device, "first"))]
        ):
            if turn.start <= at < turn.end:
                return turn
        return None

    # --- time lines ---

    def cut(self, device: Any) -> None:
        """The turns of a device, from everything that happened on it."""
        turns = [Turn(device, ("turn", device, "first"), 0, place=("turn", device, "first"))]
        mine = [e for e in self.erasures if e[0] == device]
        marks: list[tuple[int, int, int, str, Any]] = []
        for deed in self.facts.get(device, ()):
            if not any(a <= deed.at < b for _, a, b, _ in mine):
                marks.append((deed.at, 1, deed.n, "deed", deed))
        for deed in self.partings:
            if device in deed.left:
                marks.append((deed.left[device][1], 1, deed.n, "parting", (deed.nodes, deed.left[device][0])))
            elif deed.kind == "demerge":
                marks.append((deed.at, 1, deed.n, "parting", (deed.nodes, None)))
        for _, a, b, n in mine:
            marks += [(a, 0, n, "erase", None), (b, 2, n, "erased", None)]
        for at, _, n, what, mark in sorted(marks, key=lambda m: m[:3]):
            if what == "deed":
                self.happen(turns, mark)
            elif what == "parting":
                for turn in turns:
                    if turn.place in mark[0]:
                        self.leave(turn, mark[1] or turn.own)
            elif what == "erase":
                if at > turns[-1].start:
                    self.begin(turns, at, ("nobody", n))
                turns[-1].erased, turns[-1].who, turns[-1].place = True, None, ("nobody", n)
            elif turns[-1].erased and not any(a <= at < b for _, a, b, _ in mine):
                self.begin(turns, at, ("turn", device, ("after", n, at)))
        for turn in turns:
            if turn.place in self.dead:
                self.leave(turn, turn.own)
        self.turns[device] = [t for t in turns if not t.erased and t.start < t.end]

    @staticmethod
    def begin(turns: list[Turn], at: int, own: Place) -> Turn:
        turns[-1].end = at
        turns.append(Turn(turns[-1].device, own, at, place=own))
        return turns[-1]

    @staticmethod
    def leave(turn: Turn, place: Place) -> None:
        turn.who, turn.place, turn.tentative, turn.proof = None, place, False, 0

    def happen(self, turns: list[Turn], deed: Deed) -> None:
        """Login, link and logout, by section 3.1."""
        turn, own = turns[-1], ("turn", deed.device, deed.n)
        if deed.kind == "logout":
            if turn.who is not None or turn.erased:
                self.begin(turns, deed.at, own)
            return
        if deed.kind == "link":
            if deed.apart:
                return
            if turn.erased:
                turn = self.begin(turns, deed.at, own)
            if turn.who is None or (turn.tentative and turn.proof < deed.proof):
                turn.who, turn.place, turn.tentative, turn.proof = deed.who, deed.home, True, deed.proof
            return
        if not (turn.known and turn.place == deed.home):
            if turn.known or turn.erased or deed.apart:
                turn = self.begin(turns, deed.at, own)
            turn.who, turn.place, turn.tentative, turn.proof = deed.who, deed.home, False, deed.proof
        for earlier in turns:
            if earlier.who is not None and earlier.place in deed.brought:
                earlier.who, earlier.place, earlier.tentative = deed.who, deed.home, False

    # --- one deed more ---

    def name(self, value: str, place: Place, proof: int) -> None:
        kept, best = self.names.get(value, (place, proof))
        self.names[value] = (kept if best >= CLAIMED else place, max(best, proof))

    def add(self, deed: Deed, *, decide: bool) -> None:
        """Goes on by one deed; `decide`: it is new, or looked at as if for the first time."""
        if deed.kind in ("login", "link", "reidentify", "logout") and deed.device is not None and not deed.skip:
            if decide and deed.kind != "logout":
                deed.apart = self.is_apart(deed)
            if deed.kind in ("login", "reidentify"):
                self.mention(deed.who, deed.home, deed.proof)
            if str(deed.device).startswith("server") and deed.who is not None and deed.home not in self.dead:
                self.servers[deed.who] = deed.device
            self.facts.setdefault(deed.device, []).append(deed)
            self.cut(deed.device)
        if deed.join is not None:
            if deed.kind == "reidentify":
                self.mention(deed.who, deed.home, deed.proof)
                self.mention(deed.old, deed.old_home, deed.proof)
            if not set(deed.join) & self.dead:
                self.edges.append((deed.n, *deed.join))
            if deed.kind == "merge":
                for value, place in deed.named:
                    self.mention(value, place, CLAIMED)
            for pair in deed.lifted:
                self.kept_apart.discard(pair)
        if deed.kind == "demerge":
            self.edges = [e for e in self.edges if not {e[1], e[2]} & deed.nodes]
            for value in deed.dropped:
                self.names.pop(value, None)
                self.servers.pop(value, None)
        if deed.kind in ("demerge", "unlink"):
            self.partings.append(deed)
            for device in list(self.turns):
                self.cut(device)
        if deed.excluded is not None and not deed.excluded & self.dead:
            self.kept_apart.add(deed.excluded)
        if deed.kind == "delete":
            self.bury(deed)
        self.names = {v: n for v, n in self.names.items() if n[1] >= CLAIMED}
        for turns in self.turns.values():
            for turn in turns:
                if turn.who is not None and self.names.get(turn.who, (turn.place, 0))[1] < CLAIMED:
                    self.name(turn.who, turn.place, turn.proof)

    def mention(self, value: str | None, place: Place, proof: int) -> None:
        if value is not None and place not in self.dead:
            self.name(value, place, proof)

    def bury(self, deed: Deed) -> None:
        self.dead |= deed.nodes
        self.names = {v: p for v, p in self.names.items() if p[0] not in deed.nodes}
        self.servers = {v: d for v, d in self.servers.items() if v in self.names}
        self.edges = [e for e in self.edges if not {e[1], e[2]} & self.dead]
        self.kept_apart = {pair for pair in self.kept_apart if not pair & self.dead}
        self.erasures += [(device, a, b, deed.n) for device, a, b in deed.erased]
        for device in list(self.turns):
            self.cut(device)

    def is_apart(self, deed: Deed) -> bool:
        """Whether the visitor belongs to somebody else through a merge, not through a claim of its own."""
        turn = self.current(deed.device, deed.at)
        if turn is None or turn.known:
            return False
        around = self.group(turn.own if turn.who is not None else turn.place, turn)
        return bool(self.names_in(around)) and deed.home not in around


class Model:
    """One site."""

    def __init__(self) -> None:
        self.deeds: list[Deed] = []
        self.state = State()
        self.lives: dict[str, int] = {}
        self.deleted_at: dict[str, int] = {}
        self.events: list[tuple[Any, int, str]] = []
        self.writes: list[tuple[Any, int, str, str, str, Any]] = []
        self.by_op: dict[str, Deed] = {}

    # --- helpers ---

    def home(self, value: str) -> Place:
        named = self.state.names.get(value)
        return named[0] if named else ("id", value, self.lives.get(value, 0))

    def do(self, op: str, deed: Deed) -> Deed:
        self.deeds.append(deed)
        self.by_op.setdefault(op, deed)
        self.state.add(deed, decide=True)
        return deed

    def again(self, *, decide: bool) -> None:
        """Everything from the beginning."""
        devices = list(self.state.turns)
        self.state = State()
        for device in devices:
            self.state.cut(device)
        for deed in self.deeds:
            if not deed.undone:
                self.state.add(deed, decide=decide)

    def late(self, device: Any, at: int, *values: str | None) -> bool:
        """Whether a command is older than the deletion of whom it is about."""
        if any(v is not None and at <= self.deleted_at.get(v, -1) for v in values):
            return True
        return any(d == device and a <= at < b for d, a, b, _ in self.state.erasures)

    def place(self, who: Any) -> Place | None:
        """Where a person is: by name, or by the device they are on now. None if nothing is known of them."""
        if isinstance(who, str):
            return self.state.names[who][0] if who in self.state.names else None
        turn = self.state.current(who, FOREVER - 1) if who in self.state.turns else None
        if turn is None:
            return None
        around = self.state.group(turn.place)
        node = turn.own if turn.tentative else turn.place
        return node if self.state.names_in(around) or self.events_in(around) else None

    def events_in(self, places: set[Place]) -> list[str]:
        found = []
        for device, at, event in self.events:
            turn = self.state.current(device, at)
            if turn is not None and turn.place in places:
                found.append(event)
        return sorted(found)

    # --- what is done ---

    def track(self, op: str, at: int, device: Any, event: str) -> None:
        if device not in self.state.turns:
            self.state.cut(device)
        if not self.late(device, at):
            self.events.append((device, at, event))

    def write(self, op: str, at: int, device: Any, kind: str, key: str, value: Any) -> None:
        if device not in self.state.turns:
            self.state.cut(device)
        if not self.late(device, at):
            self.writes.append((device, at, op, kind, key, value))

    def server(self, now: int, value: str) -> Any:
        """The device of what servers say about somebody."""
        if value not in self.state.servers:
            device = f"server {value} {len(self.deeds)}"
            deed = Deed(len(self.deeds), "login", now, device, value, self.home(value), proof=SERVER)
            self.do(f"server-{device}", deed)
        return self.state.servers[value]

    def server_track(self, op: str, now: int, at: int, value: str, event: str) -> None:
        if at > self.deleted_at.get(value, -1):
            self.track(op, at, self.server(now, value), event)

    def login(self, op: str, at: int, device: Any, value: str, proof: int) -> None:
        if not self.late(device, at, value):
            self.do(op, Deed(len(self.deeds), "login", at, device, value, self.home(value), proof=proof))

    def link(self, op: str, at: int, device: Any, value: str, *, signed: bool) -> None:
        if not self.late(device, at, value):
            proof = LINK if signed else LINK_RAW
            deed = Deed(len(self.deeds), "link", at, device, value, self.home(value), proof=proof, signed=signed)
            self.do(op, deed)

    def logout(self, op: str, at: int, device: Any) -> None:
        if not self.late(device, at):
            self.do(op, Deed(len(self.deeds), "logout", at, device))

    def page_reidentify(self, op: str, at: int, device: Any, new: str, old: str | None) -> str | None:
        """The outcome if section 3.1 fixes it."""
        if self.late(device, at, new, old):
            return None
        s = self.state
        turn = s.current(device, at)
        assert turn is not None
        if new == old:
            return "noop"
        old = old if old is not None else turn.who
        deed = Deed(len(self.deeds), "reidentify", at, device, new, self.home(new))
        if new == old:
            old = None
        outcome = None
        if old is not None:
            deed.old, deed.old_home = old, self.home(old)
            outcome = self.decide_old(deed, turn)
        if turn.known and turn.place == deed.home and deed.join is None and not deed.brought:
            waits = any(
                d.held and not d.undone and (d.home, d.old_home) == (deed.home, deed.old_home) for d in self.deeds
            )
            waits = waits or outcome != "held"
        else:
            waits = False
        deed.held = outcome == "held" and not waits
        self.do(op, deed)
        return outcome

    def decide_old(self, deed: Deed, turn: Turn) -> str | None:
        s, device = self.state, deed.device
        new, old = deed.home, deed.old_home
        groups = s.groups()
        ours, theirs = groups.get(new, {new}), groups.get(old, {old})
        if deed.who in s.names and deed.old in s.names and theirs is ours:
            return None
        if any(pair & ours and pair & theirs for pair in s.kept_apart):
            return "refused_excluded"
        if deed.old not in s.names:
            deed.join = (new, old)
            return "aliased" if deed.who in s.names else "reserved"
        turns, proofs = s.turns_in(theirs), {v: s.names[v][1] for v in s.names_in(theirs)}
        browsers = {t.device for t in turns if not t.tentative and isinstance(t.device, int)}
        customer = any("@" not in v and p >= VERIFIED for v, p in proofs.items())
        on_server = any(not isinstance(t.device, int) for t in turns) or SERVER in proofs.values()
        nothing = not browsers and all(t.device == device for t in turns) and max(proofs.values()) < VERIFIED
        allowed = nothing or (
            not customer and (self.holds_link(deed, turn, ours, theirs) or (browsers == {device} and not on_server))
        )
        if allowed:
            deed.join = (new, old) if deed.who in s.names else (old, new)
            return None
        if not customer and any(t.device == device and t.who is not None for t in turns):
            deed.brought = frozenset(theirs)
        return "held"

    def holds_link(self, deed: Deed, turn: Turn, ours: set[Place], theirs: set[Place]) -> bool:
        s = self.state
        for link in s.facts.get(deed.device, ()):
            if link.signed and link.home in theirs and not self.late(deed.device, link.at):
                there = s.current(deed.device, link.at)
                if there is turn or (there is not None and there.place in ours | theirs):
                    return True
        return False

    def reidentify(self, op: str, now: int, new: str, old: str) -> str:
        s = self.state
        if new == old:
            return "noop"
        a, b = self.home(new), self.home(old)
        ours, theirs = s.group(a), s.group(b)
        known = new in s.names, old in s.names
        if all(known) and b in ours:
            return "noop"
        if any(pair & ours and pair & theirs for pair in s.kept_apart):
            return "refused_excluded"
        outcome = {(True, True): "merged", (True, False): "aliased", (False, True): "renamed"}.get(known, "reserved")
        join = (b, a) if outcome == "renamed" else (a, b)
        deed = Deed(len(self.deeds), "reidentify", now, None, new, a, old, b, SERVER, join=join)
        self.do(op, deed)
        return outcome

    def merge(self, op: str, now: int, target: Any, source: Any, *, force: bool) -> str:
        s = self.state
        a, b = self.place(target), self.place(source)
        if a is None or b is None:
            return "not_found"
        ours, theirs = s.group(a), s.group(b)
        if b in ours:
            return "noop"
        pairs = [pair for pair in s.kept_apart if pair & ours and pair & theirs]
        if pairs and not force:
            return "refused_excluded"
        named = [(who, place) for who, place in ((target, a), (source, b)) if isinstance(who, str)]
        self.do(op, Deed(len(self.deeds), "merge", now, join=(a, b), lifted=pairs, named=named))
        return "merged"

    def demerge(self, op: str, now: int, value: str) -> str:
        s = self.state
        if value not in s.names:
            return "not_found"
        nodes = s.group(s.names[value][0])
        n = len(self.deeds)
        devices = {t.device for t in s.turns_in(nodes)}
        left = {d: (("left", n, d), max([now, *(f.at for f in s.facts.get(d, ()))])) for d in devices}
        dropped = frozenset(s.names_in(nodes))
        self.do(op, Deed(n, "demerge", now, nodes=frozenset(nodes), left=left, dropped=dropped))
        return "demerged"

    def unlink(self, op: str, now: int, device: int) -> str:
        s = self.state
        turn = s.current(device, FOREVER - 1) if device in s.turns else None
        if turn is None or self.place(device) is None:
            return "not_found"
        nodes = s.group(turn.place)
        if not s.names_in(nodes) and all(t.device == device for t in s.turns_in(nodes)):
            return "noop"
        n = len(self.deeds)
        left = {device: (("left", n, device), max([now, *(f.at for f in s.facts.get(device, ()))]))}
        self.do(op, Deed(n, "unlink", now, nodes=frozenset(nodes), left=left))
        return "unlinked"

    def undo(self, op: str, now: int, of: str) -> str | None:
        deed = self.by_op.get(of)
        if deed is None:
            return None
        possible = deed.kind in ("demerge", "unlink") or deed.join is not None or deed.held
        if deed.join is not None and not any(e[0] == deed.n for e in self.state.edges):
            possible = False
        if deed.kind in ("demerge", "unlink") and deed.nodes & self.state.dead:
            possible = False  # one of the people that were taken apart is no more
        # What a deletion erased of a device cannot be undone; a name that was taken as another's stands and can be.
        if not possible or deed.undone or (deed.skip and deed.join is None):
            return None
        deed.undone = True
        pair = deed.join if deed.kind == "merge" else (deed.home, deed.old_home) if deed.kind == "reidentify" else None
        self.again(decide=True)
        self.do(op, Deed(len(self.deeds), "undo", now, excluded=frozenset(pair) if pair else None, of=deed.n))
        return "undone"

    def delete(self, op: str, now: int, who: Any) -> str:
        s = self.state
        place = self.place(who)
        if place is None:
            return "not_found"
        nodes = s.group(place)
        erased = [(t.device, t.start, min(t.end, max(now, t.start + 1))) for t in s.turns_in(nodes)]
        for value in s.names_in(nodes):
            self.lives[value] = self.lives.get(value, 0) + 1
            self.deleted_at[value] = now
        gone = [any(d == e[0] and a <= e[1] < b for d, a, b in erased) for e in self.events]
        self.events = [e for e, g in zip(self.events, gone, strict=True) if not g]
        self.writes = [w for w in self.writes if not any(d == w[0] and a <= w[1] < b for d, a, b in erased)]
        self.do(op, Deed(len(self.deeds), "delete", now, nodes=frozenset(nodes), erased=erased))
        for deed in self.deeds:
            if any(d == deed.device and a <= deed.at < b for d, a, b in erased):
                deed.skip = True
        self.again(decide=False)
        return "deleted"

    # --- what is seen ---

    def people(self) -> list[tuple[Any, ...]]:
        """Everybody: (names, events, properties, tags, subscribed, browsers with events), sorted."""
        found = []
        seen: list[set[Place]] = []
        for places in self.state.groups().values():
            if any(places is other for other in seen):
                continue
            seen.append(places)
            names, events = sorted(self.state.names_in(places)), self.events_in(places)
            if names or events:
                found.append((names, events, *self.shown(places)))
        return sorted(found, key=repr)

    def shown(self, places: set[Place]) -> tuple[dict[str, Any], list[str], bool]:
        """Properties, tags and subscription: the newest write per key wins, at equal times the higher op id."""
        mine = []
        for device, at, op, kind, key, value in self.writes:
            turn = self.state.current(device, at)
            if turn is not None and turn.place in places:
                mine.append((at, op, kind, key, value))
        mine.sort()
        properties: dict[str, Any] = {}
        for _, _, kind, key, value in reversed(mine):
            if kind == "once":
                properties[key] = value
        properties |= {key: value for _, _, kind, key, value in mine if kind == "set"}
        tags = {key: value for _, _, kind, key, value in mine if kind == "tag"}
        says = sorted((at, not value) for at, _, kind, _, value in mine if kind == "subscription")
        subscribed = not says[-1][1] if says else True  # at equal times unsubscribed wins
        return dict(sorted(properties.items())), sorted(t for t, on in tags.items() if on), subscribed


def partition(people: Iterable[tuple[Any, ...]]) -> set[frozenset[str]]:
    """Which names are one person."""
    return {frozenset(p[0]) for p in people if p[0]}
