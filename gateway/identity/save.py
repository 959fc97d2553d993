"""What every run shares: a loaded world, a decider, and saving the difference they made."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable

from gateway.identity import rules
from gateway.identity.decide import Decider
from gateway.identity.ledger import World, joined_through
from gateway.identity.load import Loader
from gateway.identity.outbox import outbox
from gateway.model import (
    Event,
    Fact,
    Profile,
    Site,
    Visitor,
    Write,
    now,
)
from gateway.store.base import Changes, Transaction

RECENT = 10 * 60 * 1_000_000


class Run:
    """What the two kinds of run share: a loaded world, a decider, and saving the difference."""

    def __init__(self, tx: Transaction, site: Site, new_id: Callable[[], int]) -> None:
        self.tx = tx
        self.site = site
        self.new_id = new_id
        self.now = now()
        self.loader = Loader(tx, site)
        self.decider = Decider(self.loader.world, now=self.now, new_id=new_id)
        self.devices_changed: set[int] = set()
        self.events: list[Event] = []
        self.writes: list[Write] = []
        self.births: list[tuple[str, int]] = []
        self.scrubbed: set[int] = set()
        self.receipts: dict[str, int] = {}
        self.new_names: dict[str, str] = {}
        self.repeated = 0
        self.private: set[int] = set()

    @property
    def world(self) -> World:
        """The world as decided so far."""
        return self.decider.world

    async def save(self) -> None:
        """Writes the difference between the world as it was loaded and as it is now."""
        changes = Changes(births=self.births, receipts=[*self.receipts.items()], event_names=[*self.new_names.items()])
        world = self.world
        added = await self.tx.add_events(self.site.site_id, self.events) if self.events else set()
        self.repeated += len(self.events) - len(added)
        for event in self.events:
            if event.event_id in added:
                turn = rules.turn_at(world.devices[event.device_id].turns, event.occurred_at)
                if turn is not None:
                    turn.events += 1
        changes.writes, changes.writes_gone = await self._collapse()
        if changes.writes and world.recut:
            early = Changes(writes=changes.writes, writes_gone=changes.writes_gone)
            await self.tx.save(self.site.site_id, early)
            changes.writes, changes.writes_gone = [], []
        await self._recount()
        self._rows(changes)
        self._ledger_rows(changes)
        if self.decider.deleted_nodes:
            await self.tx.erase(self.site.site_id, self.decider.deleted, self.decider.deleted_nodes)
        changes.outbox = outbox(self.decider, self.loader, sorted(added), self.private)
        await self.tx.save(self.site.site_id, changes)

    async def _recount(self) -> None:
        """Counts again the visitors whose stretch changed under what was there already, or came just before."""
        rows: defaultdict[int, dict[int, Visitor]] = defaultdict(dict)
        for row in self.loader.visitor_rows.values():
            rows[row.device_id][row.visitor_id] = row
        for device_id in self.world.recut:
            device, old = self.world.devices[device_id], rows[device_id]
            if not old and len(device.turns) == 1:
                continue
            last = max((v.last_seen or 0 for v in old.values()), default=0)
            last = max([last, *(e.occurred_at for e in self.events if e.device_id == device_id)])
            last = max([last, *(w.at for w in self.writes if w.device_id == device_id)])
            last = max([last, *(f.at for f in self.decider.facts if f.device_id == device_id)])
            for turn in device.turns:
                was = old.get(turn.visitor_id) if turn.visitor_id not in self.world.gone else None
                same = was is not None and (was.started_at, was.ended_at) == (turn.started_at, turn.ended_at)
                shrunk_late = was is not None and was.started_at == turn.started_at and turn.ended_at > last
                if same or (shrunk_late and was is not None and turn.ended_at < was.ended_at):
                    continue
                if turn.started_at > last:
                    continue
                number, first, final = await self.tx.count_events(self.site.site_id, turn)
                seen = [t for t in (first, final) if t is not None]
                landed = [f.at - 1 if f.kind == "logout" else f.at for f in device.facts]
                seen += [at for at in landed if turn.started_at <= at < turn.ended_at]
                turn.events, turn.first_seen, turn.last_seen = number, min(seen, default=None), max(seen, default=None)
                self.world.touched.add(turn.home)

    def _rows(self, changes: Changes) -> None:
        loader, world = self.loader, self.world
        changes.devices = [world.devices[i] for i in self.devices_changed]
        alive: set[int] = set()
        for device in world.devices.values():
            for visitor in device.turns:
                alive.add(visitor.visitor_id)
                if loader.visitor_rows.get(visitor.visitor_id) != visitor:
                    changes.visitors.append(visitor)
        changes.visitors_gone = [v for i, v in loader.visitor_rows.items() if i not in alive]
        known = loader.identity_rows
        changes.identities_new = [i for k, i in world.identities.items() if k not in known]
        changes.identities = [i for k, i in world.identities.items() if k in known and known[k] != i]
        changes.identities_gone = [k for k in loader.identity_rows if k not in world.identities]
        gone = {k: i.home for k, i in known.items() if k not in world.identities}
        homes = {k: world.homes.get(k, h) for k, h in gone.items()} | world.homes
        homes = {k: h for k, h in homes.items() if k not in world.identities} | {
            i.key: i.home for i in changes.identities_new
        }
        for key, home in homes.items():
            if loader.home_rows.get(key) != home and home not in self.decider.deleted_nodes:
                seen = key in known or key in loader.home_rows
                (changes.homes if seen else changes.homes_new).append((*key, home))
        roots = {world.root(n) for n in world.touched if n in world.roots}
        for root in roots:
            live, primary = world.live(root), world.primary(root)
            for node in world.component(root):
                is_root = node == root
                row = Profile(node, root, live and is_root, primary if is_root else None)
                if loader.profile_rows.get(node) != row:
                    changes.profiles.append(row)
        changes.profiles_gone = [n for n in self.decider.deleted_nodes if n in loader.profile_rows]

    def _ledger_rows(self, changes: Changes) -> None:
        decider, world = self.decider, self.world
        changes.facts = decider.facts
        for fact in decider.facts:
            changes.refs += [(n, fact.seq) for n in sorted(self._concerned(fact))]
            if fact.detail.get("token"):
                changes.tokens.append((fact.detail["token"], fact.device_id, fact.homes[0], fact.at))
        self._wake()
        folded = [f for d in world.devices.values() for f in d.facts] + list(world.graph_facts.values())
        for fact in folded:
            if self.loader.folded.get(fact.seq, (state := (fact.flags, fact.idle, fact.detail))) != state:
                changes.facts_changed.append(fact)
        marked = self.decider.undone.keys() | self.decider.resolved.keys() | self.scrubbed
        known = {f.seq for f in changes.facts_changed}
        changes.facts_changed += [f for s, f in self.loader.facts.items() if s in marked and s not in known]
        changes.errors = decider.errors
        for device_id, op_ids in decider.checked_links.items():
            for op_id in op_ids:
                for code in ("link_contradicted", "link_for_other_user", "conflicting_links"):
                    changes.errors_gone.append((code, op_id, device_id))
        changes.tombstones = [(h, self.now) for h in decider.tombstones]
        self._kept_apart(changes)

    def _wake(self) -> None:
        """What changed nothing when it came is shown like other facts once a visitor rests on it."""
        for device in self.world.devices.values():
            holds = {seq for v in device.turns for seq in (v.claim_seq, v.visitor_id)}
            for fact in device.facts:
                if fact.idle and fact.outcome == "noop" and holds & {fact.seq, fact.visitor_id}:
                    fact.idle = False

    def _concerned(self, fact: Fact) -> set[int]:
        """The profile ids (and, for what takes devices off a profile, devices) under which a fact is found again."""
        detail = fact.detail
        named = [k for k in fact.identities if k] + [(k, v) for k, v in detail.get("aliases", ())]
        refs = {self.world.home_of(k) for k in named} | set(self.decider.nodes_of(fact))
        refs |= {int(d) for d in detail.get("released", ())}
        refs |= joined_through(fact)
        refs |= {n for name in ("joined", "lifted", "excluded") for pair in detail.get(name, ()) for n in pair}
        return refs - {0}

    def _kept_apart(self, changes: Changes) -> None:
        """The pairs that must not be merged, where they changed around the loaded profiles."""
        pairs = {(a, b) for a, others in self.world.exclusions.items() for b in others}
        changes.excluded = [(a, b, self.decider.last_seq) for a, b in sorted(pairs - self.loader.exclusion_rows)]
        changes.included = sorted(self.loader.exclusion_rows - pairs)

    async def _collapse(self) -> tuple[list[Write], list[Write]]:
        """Keeps of a run of equal writes in one turn only the first and the last: pages repeat them on every view.

        What is recent stays: a login that arrives late may yet cut the turn in two.
        """
        if not self.writes:
            return [], []
        devices, keys = {w.device_id for w in self.writes}, {w.key for w in self.writes}
        await self.tx.lock(self.site.site_id, devices & {v.device_id for v in self.loader.visitor_rows.values()})
        stored = await self.tx.writes(self.site.site_id, devices, keys)
        runs: dict[tuple[int, str, str], list[Write]] = {}
        for write in stored:
            runs.setdefault(_run_of(write), []).append(write)
        kept: list[Write] = []
        gone: list[Write] = []
        for write in sorted(self.writes, key=lambda w: (w.at, w.op_id)):
            run = runs.setdefault(_run_of(write), [])
            if any(w.op_id == write.op_id for w in run):
                continue
            run.append(write)
            run.sort(key=lambda w: (w.at, w.op_id))
            kept.append(write)
        for run in runs.values():
            for dropped in self._repeated(run):
                if dropped in kept:
                    kept.remove(dropped)
                else:
                    gone.append(dropped)
        return kept, gone

    def _repeated(self, run: list[Write]) -> list[Write]:
        """The writes that say what those before and after them in the same turn say, and are not recent."""
        found: list[Write] = []
        before = run[:1]
        for write, after in itertools.pairwise(run[1:]):
            three = (*before, write, after)
            if (
                write.kind != "once"
                and write.at < self.now - RECENT
                and len({(w.kind, w.value) for w in three}) == 1
                and len({self._turn_of(w) for w in three}) == 1
            ):
                found.append(write)
            else:
                before = [write]
        return found

    def _turn_of(self, write: Write) -> int:
        turn = rules.turn_at(self.world.devices[write.device_id].turns, write.at)
        return turn.visitor_id if turn else -write.at


def _run_of(write: Write) -> tuple[int, str, str]:
    """Which writes follow one another: a clear comes between the sets of its key."""
    return write.device_id, "set" if write.kind == "clear" else write.kind, write.key
