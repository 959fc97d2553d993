"""What a commit adds to the feed: which events, which facts, and where these moved whose events.

Only ids are kept. A reader of the feed looks up the rest, so that who is deleted is gone from the feed as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

from gateway.identity.decide import Decider
from gateway.identity.ledger import GRAPH_KINDS
from gateway.identity.load import Loader
from gateway.model import Fact, Told, Visitor
from gateway.store.base import Outbox

APART = ("demerge", "unlink", "delete")


def outbox(decider: Decider, loader: Loader, events: Iterable[int], private: Collection[int]) -> Outbox | None:
    """The row of a commit, None if it has nothing to tell. `private` are events and facts to be left out."""
    shown = [e for e in events if e not in private]
    facts = [f for f in decider.facts if not f.inert and not f.idle]
    told = _told(decider, loader, facts) if facts else []
    told = [t for t in told if t.seq not in private]
    return Outbox(decider.now, shown, told) if shown or told else None


def _told(decider: Decider, loader: Loader, facts: list[Fact]) -> list[Told]:
    """Each fact with the profile it is about and, on the last of those that can have done it, what moved."""
    told = {f.seq: Told(f.seq, _profile(decider, loader, f)) for f in facts}
    graph = [f for f in facts if f.kind in GRAPH_KINDS]
    told[(graph or facts)[-1].seq].redirects = _redirects(decider, loader)
    last_on = {f.device_id: f.seq for f in facts}
    for device_id, moved in _moved(decider, loader).items():
        told[last_on.get(device_id, facts[-1].seq)].moved += moved
    return list(told.values())


def _profile(decider: Decider, loader: Loader, fact: Fact) -> int:
    """The profile that a fact took apart, else the one that it led to."""
    world = decider.world
    node = next(iter(decider.nodes_of(fact)), 0)
    if fact.kind in APART:
        return _root_before(loader, node)
    if fact.kind in ("login", "link", "logout") and fact.device_id in world.devices:
        turns = [t for t in world.devices[fact.device_id].turns if t.started_at <= fact.at]
        node = turns[-1].home if turns else node
    return world.root(node)


def _root_before(loader: Loader, node: int) -> int:
    row = loader.profile_rows.get(node)
    return row.root if row else node


def _redirects(decider: Decider, loader: Loader) -> list[tuple[int, int]]:
    """Profile ids that lead elsewhere than before: (id, where to), itself when it stands for a profile again."""
    found = []
    for node, row in sorted(loader.profile_rows.items()):
        after = 0 if node in decider.deleted_nodes else decider.world.root(node)
        if (after != row.root and node in (row.root, after)) or (not after and row.root == node):
            found.append((node, after))
    return found


def _moved(decider: Decider, loader: Loader) -> dict[int, list[tuple[int, ...]]]:
    """By device: stretches of visitors that now belong to another visitor or profile.

    (visitor before, visitor now, from, until, profile before, profile now); no visitor and profile now: deleted.
    """
    before: defaultdict[int, list[Visitor]] = defaultdict(list)
    for row in loader.visitor_rows.values():
        before[row.device_id].append(row)
    found: dict[int, list[tuple[int, ...]]] = {}
    for device_id, rows in before.items():
        turns = sorted(decider.world.devices[device_id].turns, key=lambda t: (t.started_at, t.ended_at))
        moved = [m for row in rows for m in _pieces(decider, loader, row, turns)]
        if moved:
            found[device_id] = moved
    return found


def _pieces(decider: Decider, loader: Loader, row: Visitor, turns: list[Visitor]) -> Iterator[tuple[int, ...]]:
    """What became of a visitor as it was loaded, where that is something else."""
    source, at = _root_before(loader, row.home), row.started_at
    for turn in turns:
        start, end = max(turn.started_at, row.started_at), min(turn.ended_at, row.ended_at)
        if start >= end:
            continue
        if at < start:
            yield row.visitor_id, 0, at, start, source, 0
        target, at = decider.world.root(turn.home), end
        if (turn.visitor_id, target) != (row.visitor_id, source):
            yield row.visitor_id, turn.visitor_id, start, end, source, target
    if at < row.ended_at:
        yield row.visitor_id, 0, at, row.ended_at, source, 0
