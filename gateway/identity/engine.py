"""Load, decide, save: runs groups of requests in one transaction and answers each of them.

Batches of commands are decided together on one loaded world; an operation (merge, undo, delete …) has a world of its
own. Only what changed is written.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from gateway.errors import Conflict, NotFound
from gateway.identity import rules
from gateway.identity.decide import Answer, Decider, Op, value_hash
from gateway.identity.ledger import World
from gateway.identity.requests import (
    Batch,
    Command,
    Context,
    Link,
    Login,
    Logout,
    Operation,
    Person,
    Refused,
    Reidentify,
    ServerBatch,
    Track,
    Writes,
)
from gateway.model import (
    FOREVER,
    Device,
    Event,
    Fact,
    Identity,
    IdentityError,
    Key,
    Profile,
    Proof,
    Site,
    Visitor,
    Write,
    now,
)
from gateway.store.base import Changes, Transaction

MAX_PAST = 7 * 24 * 3600 * 1_000_000
MAX_FUTURE = 5 * 60 * 1_000_000
CLOCK_TOLERANCE = 10 * 1_000_000
MANY_TURNS = 200

Request = Batch | ServerBatch | Operation


@dataclass(slots=True)
class Done:
    """The answer to a batch: the device it was kept on and the outcome of each command, in order."""

    device_id: int
    outcomes: list[str] = field(default_factory=list)


Reply = Done | Answer


class Loader:
    """Loads parts of a site into a world, each only once, and remembers the rows as they were."""

    def __init__(self, tx: Transaction, site: Site) -> None:
        self.tx = tx
        self.site_id = site.site_id
        self.world = World(site)
        self.visitor_rows: dict[int, Visitor] = {}
        self.identity_rows: dict[Key, Identity] = {}
        self.profile_rows: dict[int, Profile] = {}
        self.flags: dict[int, int] = {}
        self.facts: dict[int, Fact] = {}
        self.grouped: set[int] = set()
        self.missing: set[Key] = set()

    async def devices(self, ids: Iterable[int], since: int) -> None:
        """Devices with their visitors that ended after `since`, and what these point at."""
        wanted = {i for i in ids if i and i not in self.world.devices}
        if not wanted:
            return
        for device in await self.tx.devices(self.site_id, wanted):
            self.world.add_device(device)
        await self._visitors(await self.tx.visitors_on(self.site_id, wanted, since))
        homes = {v.home for i in wanted & self.world.devices.keys() for v in self.world.devices[i].turns}
        await self._profiles(homes)

    async def identities(self, keys: Iterable[Key]) -> None:
        """Identities by name, and the profiles they belong to."""
        wanted = {k for k in keys if k not in self.world.identities and k not in self.missing}
        if not wanted:
            return
        found = await self.tx.identities_named(self.site_id, wanted)
        self.missing |= wanted - {i.key for i in found}
        self._identities(found)
        await self._profiles({i.home for i in found})

    async def components(self, nodes: Iterable[int]) -> None:
        """Everything that decides about the profiles of the given ids: members, visitors, identities, merges."""
        nodes = [n for n in nodes if n]
        await self._profiles({n for n in nodes if n not in self.profile_rows})
        roots = {self.profile_rows[n].root for n in nodes if n in self.profile_rows} - self.grouped
        if not roots:
            return
        self.grouped |= roots
        world = self.world
        members = await self.tx.members(self.site_id, roots)
        for profile in members:
            self._profile(profile)
        ids = {p.profile_id for p in members}
        self._identities(await self.tx.identities_at(self.site_id, ids))
        visitors = await self.tx.visitors_at(self.site_id, ids)
        new = {v.device_id for v in visitors if v.device_id not in world.devices}
        for device in await self.tx.devices(self.site_id, new) if new else ():
            world.add_device(device)
        await self._visitors(visitors)
        await self._graph(ids)

    async def _graph(self, nodes: set[int]) -> None:
        world = self.world
        facts = await self.tx.graph_facts(self.site_id, nodes)
        for a, b in await self.tx.exclusions(self.site_id, nodes):
            world.exclusions[a].add(b)
            world.exclusions[b].add(a)
        exclusions = {n: set(s) for n, s in world.exclusions.items()}
        for fact in facts:
            self.facts.setdefault(fact.seq, fact)
            world.graph_facts.setdefault(fact.seq, self.facts[fact.seq])
        world.edges.clear()
        for seq in sorted(world.graph_facts):
            world.fold_graph(world.graph_facts[seq])
        world.exclusions.clear()
        world.exclusions.update(exclusions)

    async def complete(self, ids: Iterable[int]) -> None:
        """Devices with all their visitors and facts, so that their time line can be cut again."""
        wanted = {i for i in ids if i in self.world.devices and not self.world.devices[i].complete}
        if not wanted:
            return
        world = self.world
        await self._visitors(await self.tx.visitors_on(self.site_id, wanted, -1))
        facts = await self.tx.device_facts(self.site_id, wanted)
        await self.identities({k for f in facts for k in f.identities[:1] if k})
        for fact in facts:
            fact = self.facts.setdefault(fact.seq, fact)
            self.flags[fact.seq] = fact.flags
            for n, key in enumerate(fact.identities):
                if key in world.identities and n < len(fact.homes):
                    fact.homes[n] = world.identities[key].home
            world.devices[fact.device_id].facts.append(fact)
        tokens = {f.detail["token"] for f in facts if f.detail.get("token")}
        await self.tokens(tokens)
        for i in wanted:
            world.devices[i].complete = True
            world.devices[i].facts.sort(key=lambda f: (f.at, f.seq))
        await self._graph_of_turns(wanted)

    async def _graph_of_turns(self, ids: set[int]) -> None:
        """Loads the profiles around the devices' visitors; of a device with very many, the recent ones."""
        nodes: set[int] = set()
        for i in ids:
            for turn in self.world.devices[i].turns[-MANY_TURNS:]:
                nodes |= {turn.home, turn.visitor_id}
        await self.components(nodes)

    async def tokens(self, tokens: Iterable[str]) -> None:
        """Where link tokens were seen; what is past the cap is void."""
        wanted = {t for t in tokens if t not in self.world.tokens}
        if not wanted:
            return
        for token, device_id in await self.tx.tokens(self.site_id, wanted):
            self.world.tokens[token].add(device_id)
        cap = self.world.site.token_cap
        self.world.void |= {t for t in wanted if len(self.world.tokens[t]) > cap}

    async def _profiles(self, ids: Iterable[int]) -> None:
        wanted = {i for i in ids if i not in self.profile_rows}
        for profile in await self.tx.profiles(self.site_id, wanted) if wanted else ():
            self._profile(profile)

    def _profile(self, profile: Profile) -> None:
        self.profile_rows.setdefault(profile.profile_id, profile)
        self.world.add_node(profile.profile_id, profile.root)

    def _identities(self, identities: Iterable[Identity]) -> None:
        for identity in identities:
            if identity.key not in self.world.identities:
                i = identity
                self.identity_rows[i.key] = Identity(i.key, i.home, i.proof, i.since, i.server_device)
                self.world.identities[i.key] = i
                self.world.named[i.home].add(i.key)

    async def _visitors(self, visitors: Iterable[Visitor]) -> None:
        for v in visitors:
            if v.visitor_id in self.visitor_rows:
                continue
            self.visitor_rows[v.visitor_id] = Visitor(
                v.visitor_id, v.device_id, v.started_at, v.ended_at, v.claim, v.home, v.proof, v.tentative,
                v.claim_seq, v.first_seen, v.last_seen, v.events,
            )  # fmt: skip
            self.world.add_visitor(v)
        for device in self.world.devices.values():
            device.turns.sort(key=lambda t: (t.started_at, t.ended_at))


class Engine:
    """Runs requests against a transaction. `new_id` makes time-ordered ids."""

    def __init__(self, new_id: Callable[[], int]) -> None:
        self.new_id = new_id

    async def run(self, tx: Transaction, requests: Sequence[Request]) -> list[Reply]:
        """Decides the requests in order and saves what they change; the caller commits. One reply per request.

        Raises NotFound and Conflict for an operation that must not be answered with an outcome; operations should
        therefore be run alone if a neighbour must not be rolled back with them.
        """
        replies: list[Reply] = []
        for (alone, _), group in itertools.groupby(
            enumerate(requests), key=lambda p: (p[0] if isinstance(p[1], Operation) else -1, p[1].site.site_id)
        ):
            wave = [request for _, request in group]
            if alone >= 0:
                operation = wave[0]
                assert isinstance(operation, Operation)
                replies.append(await OperationRun(tx, operation, self.new_id).run())
            else:
                batches = [r for r in wave if not isinstance(r, Operation)]
                replies += await BatchRun(tx, batches[0].site, self.new_id).run(batches)
        return replies


class Run:
    """What the two kinds of run share: a loaded world, a decider, and saving the difference."""

    def __init__(self, tx: Transaction, site: Site, new_id: Callable[[], int]) -> None:
        self.tx = tx
        self.site = site
        self.new_id = new_id
        self.now = now()
        self.last_seq = 0
        self.loader = Loader(tx, site)
        self.decider = Decider(self.loader.world, now=self.now, new_id=new_id, next_seq=self.next_seq)
        self.devices_changed: set[int] = set()
        self.events: list[Event] = []
        self.writes: list[Write] = []
        self.births: list[tuple[str, int]] = []

    def next_seq(self) -> int:
        """The next place in the ledger: time-ordered, and behind everything committed even if the clock went back."""
        self.last_seq = max(self.last_seq + 1, self.new_id())
        return self.last_seq

    @property
    def world(self) -> World:
        """The world as decided so far."""
        return self.decider.world

    async def save(self) -> None:
        """Writes the difference between the world as it was loaded and as it is now."""
        changes = Changes(births=self.births)
        world = self.world
        added = await self.tx.add_events(self.site.site_id, self.events) if self.events else set()
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
        if self.decider.deleted:
            await self.tx.erase(self.site.site_id, self.decider.deleted, self.decider.deleted_nodes)
        await self.tx.save(self.site.site_id, changes)

    async def _recount(self) -> None:
        """Counts again the visitors whose stretch changed under what was already there."""
        for device_id in self.world.recut:
            device = self.world.devices[device_id]
            if device_id not in {v.device_id for v in self.loader.visitor_rows.values()}:
                continue
            old = {i: v for i, v in self.loader.visitor_rows.items() if v.device_id == device_id}
            last = max((v.last_seen or 0 for v in old.values()), default=0)
            last = max([last, *(e.occurred_at for e in self.events if e.device_id == device_id)])
            for turn in device.turns:
                was = old.get(turn.visitor_id)
                same = was is not None and (was.started_at, was.ended_at) == (turn.started_at, turn.ended_at)
                shrunk_late = was is not None and was.started_at == turn.started_at and turn.ended_at > last
                if same or (shrunk_late and was is not None and turn.ended_at < was.ended_at):
                    continue
                if turn.started_at > last:
                    continue
                number, first, final = await self.tx.count_events(self.site.site_id, turn)
                seen = [t for t in (first, final) if t is not None]
                seen += [f.at for f in device.facts if f.kind != "logout" and turn.started_at <= f.at < turn.ended_at]
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
        changes.visitors_gone = [i for i in loader.visitor_rows if i not in alive]
        changes.identities = [i for k, i in world.identities.items() if loader.identity_rows.get(k) != i]
        changes.identities_gone = [k for k in loader.identity_rows if k not in world.identities]
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
            refs = set(fact.homes) | set(fact.detail.get("nodes", ())) | set(fact.detail.get("severed", ()))
            refs |= {n for group in fact.detail.get("groups", ()) for n in group}
            refs |= {v for turns in fact.detail.get("devices", {}).values() for v in turns}
            refs |= set(fact.detail.get("turns", ())) | {fact.detail.get("target", 0), fact.detail.get("source", 0)}
            changes.refs += [(n, fact.seq) for n in sorted(refs - {0})]
            for a, b in fact.detail.get("excluded", ()):
                changes.excluded += [(a, b, fact.seq), (b, a, fact.seq)]
            for a, b in fact.detail.get("lifted", ()):
                changes.included += [(a, b), (b, a)]
            if fact.detail.get("token"):
                changes.tokens.append((fact.detail["token"], fact.device_id, fact.homes[0], fact.at))
        folded = [f for d in world.devices.values() for f in d.facts] + list(world.graph_facts.values())
        for fact in folded:
            if fact.seq in self.loader.flags and self.loader.flags[fact.seq] != fact.flags:
                changes.facts_changed.append(fact)
        marked = self.decider.undone.keys() | self.decider.resolved.keys()
        known = {f.seq for f in changes.facts_changed}
        changes.facts_changed += [f for s, f in self.loader.facts.items() if s in marked and s not in known]
        changes.errors = decider.errors
        for device_id, op_ids in decider.checked_links.items():
            for op_id in op_ids:
                for code in ("link_contradicted", "link_for_other_user", "conflicting_links"):
                    changes.errors_gone.append((code, op_id, device_id))
        changes.tombstones = [(h, self.now) for h in decider.tombstones]

    async def _collapse(self) -> tuple[list[Write], list[Write]]:
        """Keeps of a run of equal writes only the first and the last: pages repeat their properties on every view."""
        if not self.writes:
            return [], []
        devices, keys = {w.device_id for w in self.writes}, {w.key for w in self.writes}
        stored = await self.tx.writes(self.site.site_id, devices, keys)
        runs: dict[tuple[int, str, str], list[Write]] = {}
        for write in stored:
            runs.setdefault((write.device_id, write.kind, write.key), []).append(write)
        kept: list[Write] = []
        gone: list[Write] = []
        for write in sorted(self.writes, key=lambda w: (w.at, w.op_id)):
            run = runs.setdefault((write.device_id, write.kind, write.key), [])
            if any(w.op_id == write.op_id for w in run):
                continue
            latest = [w.value for w in run[-2:]] == [write.value] * 2 and run[-1].at <= write.at
            if latest and write.kind != "once":
                dropped = run.pop()
                if dropped in kept:
                    kept.remove(dropped)
                else:
                    gone.append(dropped)
            run.append(write)
            run.sort(key=lambda w: (w.at, w.op_id))
            kept.append(write)
        return kept, gone


class BatchRun(Run):
    """Decides a wave of batches on one world."""

    def __init__(self, tx: Transaction, site: Site, new_id: Callable[[], int]) -> None:
        super().__init__(tx, site, new_id)
        self.recorded: dict[tuple[int, str], Fact] = {}
        self.tombstones: dict[Key, int] = {}
        self.cleared: list[tuple[set[int], str, int, str]] = []
        self.revived: set[int] = set()

    async def run(self, batches: Sequence[Batch | ServerBatch]) -> list[Reply]:
        """Loads what the batches name, decides command by command, saves; one reply per batch."""
        self.last_seq = await self.tx.last_seq(self.site.site_id)
        await self._find_devices([b for b in batches if isinstance(b, Batch)])
        since = min((self._earliest(b) for b in batches), default=0)
        loader = self.loader
        ids = {i for b in batches if isinstance(b, Batch) for i in (b.device_id, b.other_device)}
        await loader.devices(ids, since)
        keys = {k for b in batches for c in b.commands for k in self._keys(c)}
        await loader.identities(keys | {b.key for b in batches if isinstance(b, ServerBatch)})
        servers = {i.server_device for i in self.world.identities.values()}
        await loader.devices(servers, since)
        self._new_devices(batches, ids)
        self.tombstones = await self._deleted(batches, keys)
        op_ids = {c.op_id for b in batches for c in b.commands if not isinstance(c, (Track, Writes, Context))}
        facts = await self.tx.recorded(self.site.site_id, op_ids) if op_ids else []
        self.recorded = {(f.device_id, f.op_id): f for f in facts}
        await self._deepen(batches)
        replies: list[Reply] = [self._decide(b) for b in batches]
        await self.save()
        return replies

    async def _find_devices(self, batches: Sequence[Batch]) -> None:
        """Finds the device of browsers that show no token: by a message they sent before, else a new one."""
        unknown = [b for b in batches if not b.device_id and b.commands]
        ids = {c.op_id for b in unknown for c in b.commands}
        births = await self.tx.births(self.site.site_id, ids) if ids else {}
        for batch in unknown:
            found = [births[c.op_id] for c in batch.commands if c.op_id in births]
            batch.device_id = found[0] if found else self.new_id()
            if not found:
                first = min(c.op_id for c in batch.commands)
                births[first] = batch.device_id
                self.births.append((first, batch.device_id))

    def _earliest(self, batch: Batch | ServerBatch) -> int:
        return batch.received_at - MAX_PAST - 1

    def _keys(self, command: Command) -> list[Key]:
        if isinstance(command, Login):
            return [k for k in (command.key, *command.aliases) if k]
        if isinstance(command, Link):
            return [command.key] if command.key else []
        if isinstance(command, Reidentify):
            return [k for k in (command.new, command.old) if k]
        return [command.target] if isinstance(command, Writes) and command.target else []

    def _new_devices(self, batches: Sequence[Batch | ServerBatch], ids: set[int]) -> None:
        for device_id in ids - {0} - self.world.devices.keys():
            self.world.add_device(Device(device_id, created_at=self.now), new=True)
            self.devices_changed.add(device_id)

    async def _deleted(self, batches: Sequence[Batch | ServerBatch], keys: set[Key]) -> dict[Key, int]:
        keys = keys | {b.key for b in batches if isinstance(b, ServerBatch)}
        if not keys:
            return {}
        hashes = {value_hash(self.site.site_id, k): k for k in keys}
        found = await self.tx.tombstones(self.site.site_id, list(hashes))
        return {hashes[h]: at for h, at in found.items()}

    async def _deepen(self, batches: Sequence[Batch | ServerBatch]) -> None:
        """Loads the profiles around everything whose identity may change in this wave."""
        loader, world = self.loader, self.world
        devices: set[int] = set()
        nodes: set[int] = set()
        for batch in batches:
            if isinstance(batch, ServerBatch):
                identity = world.identities.get(batch.key)
                if identity is None or not identity.server_device:
                    nodes |= {identity.home} if identity else set()
                else:
                    upgrade = identity.proof < batch.proof or self._changes(batch, identity.server_device)
                    devices |= {identity.server_device} if upgrade else set()
                continue
            if batch.other_device and batch.other_device != batch.device_id:
                devices |= {batch.device_id, batch.other_device}
            if self._changes(batch, batch.device_id):
                devices.add(batch.device_id)
                keys = {k for c in batch.commands for k in self._keys(c)}
                nodes |= {world.identities[k].home for k in keys if k in world.identities}
            for command in batch.commands:
                if isinstance(command, Writes) and command.target in world.identities:
                    identity = world.identities[command.target]
                    nodes |= {identity.home} if not identity.server_device else set()
        await loader.complete(devices)
        await loader.components(nodes)
        tokens = {c.token for b in batches for c in b.commands if isinstance(c, Link) and c.token}
        await loader.tokens(tokens)
        crowd = {d for t in tokens if len(world.tokens[t]) >= self.site.token_cap for d in world.tokens[t]}
        if crowd:
            await loader.devices(crowd, -1)
            await loader.complete(crowd)

    def _changes(self, batch: Batch | ServerBatch, device_id: int) -> bool:
        """Whether a batch may change who is who: it holds an identity command that is not a plain repetition."""
        device = self.world.devices[device_id]
        for command in batch.commands:
            if isinstance(command, (Link, Logout, Reidentify)):
                return True
            if isinstance(command, (Login, Writes)) and any(row[2] == "null" for row in command.rows):
                return True
            if isinstance(command, Login) and command.key:
                identity = self.world.identities.get(command.key)
                turn = rules.turn_at(device.turns, command.sent_at + device.clock_offset)
                settled = turn is not None and identity is not None and turn.known and turn.home == identity.home
                if not settled or command.aliases or command.proof > Proof.CLAIMED:
                    return True
        return False

    # --- deciding -----------------------------------------------------------------------------------------------

    def _decide(self, batch: Batch | ServerBatch) -> Done:
        if isinstance(batch, ServerBatch):
            return self._decide_server(batch)
        device = self.world.devices[batch.device_id]
        offset = self._offset(device, batch)
        if batch.other_device and batch.other_device != batch.device_id:
            op = Op(f"join-{self.new_id()}", batch.received_at, "page", Proof.CLAIMED, device.device_id)
            self.decider.join_devices(op, batch.other_device)
        done = Done(batch.device_id)
        for n, command in enumerate(batch.commands):
            at, clamped = self._time(command.sent_at + offset + min(n, 999), batch.received_at)
            done.outcomes.append(self._command(batch, device, command, at, clamped))
        return done

    def _decide_server(self, batch: ServerBatch) -> Done:
        """Keeps what a server says about an identity on the identity's own pseudo-device."""
        deleted = self.tombstones.get(batch.key, -1)
        fresh = [c for c in batch.commands if self._time(c.sent_at, batch.received_at)[0] > deleted]
        if not fresh:
            return Done(0, ["noop" for _ in batch.commands])
        device = self._server_device(batch.key, batch.received_at, batch.actor, batch.proof)
        done = Done(device.device_id)
        for n, command in enumerate(batch.commands):
            at, clamped = self._time(command.sent_at + min(n, 999), batch.received_at)
            old = at <= deleted
            done.outcomes.append("noop" if old else self._command(batch, device, command, at, clamped))
        return done

    def _server_device(self, key: Key, at: int, actor: str, proof: Proof) -> Device:
        identity = self.world.identities.get(key)
        if identity is not None and identity.server_device and identity.server_device in self.world.devices:
            device = self.world.devices[identity.server_device]
            if identity.proof < proof and device.complete:
                self.decider.login(Op(f"server-{self.new_id()}", at, actor, proof, device.device_id), key)
            return device
        device = self.world.add_device(Device(self.new_id(), server=True, created_at=self.now), new=True)
        self.devices_changed.add(device.device_id)
        self.decider.login(Op(f"server-{self.new_id()}", at, actor, proof, device.device_id), key)
        return device

    def _offset(self, device: Device, batch: Batch) -> int:
        """The correction of the browser's clock: kept as it is until it is clearly wrong, so that order is kept."""
        if batch.measured is not None and abs(batch.measured - device.clock_offset) > CLOCK_TOLERANCE:
            device.clock_offset = batch.measured if abs(batch.measured) > CLOCK_TOLERANCE else 0
            self.devices_changed.add(device.device_id)
        return device.clock_offset

    @staticmethod
    def _time(at: int, received_at: int) -> tuple[int, bool]:
        clamped = min(max(at, received_at - MAX_PAST), received_at + MAX_FUTURE)
        return clamped, clamped != at

    def _command(self, batch: Batch | ServerBatch, device: Device, command: Command, at: int, clamped: bool) -> str:
        turn = rules.turn_at(device.turns, at)
        if any(e.started_at <= at < e.ended_at for e in device.erasures) and turn is None:
            return "noop"
        if any(at <= self.tombstones.get(k, -1) for k in self._keys(command)):
            return "noop"
        outcome = "accepted"
        if isinstance(command, Track):
            self._event(batch, device, command, at, clamped)
        elif isinstance(command, Writes):
            self._write(batch, device, command, at)
        elif isinstance(command, Context):
            if device.context != command.data:
                device.context = command.data
                self.devices_changed.add(device.device_id)
        else:
            outcome = self._identity_command(batch, device, command, at)
        self._seen(device, at - 1 if isinstance(command, Logout) else at)
        return outcome

    def _identity_command(self, batch: Batch | ServerBatch, device: Device, command: Command, at: int) -> str:
        decider = self.decider
        kind = type(command).__name__.lower()
        proof = getattr(command, "proof", Proof.CLAIMED)
        op = Op(command.op_id, at, batch.actor, proof, device.device_id, command.fingerprint)
        recorded = self.recorded.get((device.device_id, command.op_id))
        if recorded is not None:
            same = recorded.request_hash in ("", command.fingerprint)
            return recorded.outcome if same else "op_id_conflict"
        before = len(decider.facts)
        answer = self._answer(op, kind, device, command, at)
        for fact in decider.facts[before:]:
            self.recorded[fact.device_id, fact.op_id] = fact
        if isinstance(command, Login):
            for n, row in enumerate(command.rows):
                self._put(device, row, at, command.op_id, n)
        return answer.outcome

    def _answer(self, op: Op, kind: str, device: Device, command: Command, at: int) -> Answer:
        decider = self.decider
        if isinstance(command, Login):
            if command.key is None:
                return decider.blocked(op, kind, command.blocked or "no id was given")
            answer = decider.login(op, command.key, wait=command.wait, aliases=command.aliases)
            for n, alias in enumerate(command.aliases):
                again = Op(f"{op.op_id}:{n}", at, op.actor, op.proof, op.device_id)
                decider.page_reidentify(again, command.key, alias)
            return answer
        if isinstance(command, Link):
            if command.key is None:
                return decider.blocked(op, kind, command.blocked or "the link names nobody")
            return decider.link(op, command.key, command.token)
        if isinstance(command, Reidentify):
            if command.new is None:
                return decider.blocked(op, kind, command.blocked_new or "no new id was given")
            return decider.page_reidentify(op, command.new, command.old, blocked=command.blocked_old)
        if isinstance(command, Refused):
            turn = rules.turn_at(device.turns, at)
            error = IdentityError(
                command.code, op.op_id, at, turn.home if turn else 0, device.device_id, command.message
            )
            decider.errors.append(error)
            return Answer(op.op_id, "noop")
        return decider.logout(op)

    def _event(self, batch: Batch | ServerBatch, device: Device, command: Track, at: int, clamped: bool) -> None:
        what = (self.new_id(), device.device_id, command.op_id, command.name, command.data)
        self.events.append(Event(*what, at, batch.received_at, command.extras, command.page, clamped))

    def _write(self, batch: Batch | ServerBatch, device: Device, command: Writes, at: int) -> None:
        if command.target is not None:
            identity = self.world.identities.get(command.target)
            turn = rules.turn_at(device.turns, at)
            mine = identity and turn and self.world.root(identity.home) == self.world.root(turn.home)
            if not mine:
                # Anybody may unsubscribe anybody, as a link in an email does; the rest takes more than a public key.
                if not all(row[0] == "subscription" and row[2] == "false" for row in command.rows):
                    return
                device = self._server_device(command.target, batch.received_at, batch.actor, Proof.CLAIMED)
                self._seen(device, at)
        for n, row in enumerate(command.rows):
            self._put(device, row, at, command.op_id, n)

    def _put(self, device: Device, row: tuple[str, str, str], at: int, op_id: str, n: int) -> None:
        kind, key, value = row
        if value == "null" and kind in ("set", "once"):
            turn = rules.turn_at(device.turns, at)
            around = {v.device_id for v in self.world.visitors(turn.home)} if turn else set()
            self.cleared.append((around | {device.device_id}, key, at, op_id))
            return
        self.writes.append(Write(device.device_id, kind, key, at, op_id, value))

    async def _collapse(self) -> tuple[list[Write], list[Write]]:
        for devices, key, at, op_id in self.cleared:
            stored = await self.tx.writes(self.site.site_id, devices, [key])
            holding = {w.device_id for w in [*stored, *self.writes] if w.key == key and w.device_id in devices}
            self.writes += [Write(d, "set", key, at, op_id, "null") for d in sorted(holding)]
        return await super()._collapse()

    def _seen(self, device: Device, at: int) -> None:
        """Something landed in the visitor that covers `at`: from the first time on the profile is there to be seen."""
        turn = rules.turn_at(device.turns, at)
        if turn is None:
            return
        if turn.first_seen is None:
            if device.complete:
                self.world.touched.add(turn.home)
            else:
                self.revived.add(turn.home)
        turn.first_seen = min(turn.first_seen or at, at)
        turn.last_seen = max(turn.last_seen or at, at)

    async def save(self) -> None:
        """A visitor that was never seen before makes its profile live."""
        revived = {n for n in self.revived if not self._is_live(n)}
        await self.loader.components(revived)
        self.world.touched |= revived
        await super().save()

    def _is_live(self, node: int) -> bool:
        row = self.loader.profile_rows.get(self.world.root(node))
        return row is not None and row.live


class OperationRun(Run):
    """Decides one operation on a world of its own."""

    def __init__(self, tx: Transaction, operation: Operation, new_id: Callable[[], int]) -> None:
        super().__init__(tx, operation.site, new_id)
        self.operation = operation

    async def run(self) -> Answer:
        """Loads, decides, saves. Raises NotFound for a missing person, Conflict for a stale plan."""
        operation = self.operation
        self.last_seq = await self.tx.last_seq(self.site.site_id)
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
            device = world.devices.get(person.device_id)
            turn = rules.turn_at(device.turns, FOREVER - 1) if device else None
            node = turn.home if turn else 0
        await loader.components([node])
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
        homes = [self.world.identities[k].home for k in (new, old) if k in self.world.identities]
        await self.loader.components(homes)
        return self.decider.reidentify(op, new, old)

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

    async def _delete(self, op: Op) -> Answer:
        node = await self._node(self.operation.people[0])
        await self._complete([node])
        nodes, devices = self.world.component(node), {v.device_id: v for v in self.world.visitors(node)}
        facts = await self.tx.facts_about(self.site.site_id, nodes, list(devices)) if node else []
        visitors = self.world.visitors(node)
        keys = {i.key for i in self.world.identities_of(node)}
        answer = self.decider.delete(op, node)
        if answer.outcome == "deleted":
            self._scrub(facts, nodes, visitors, keys)
            self.devices_changed |= {v.device_id for v in visitors}
        return answer

    def _scrub(self, facts: Sequence[Fact], nodes: set[int], visitors: Sequence[Visitor], keys: set[Key]) -> None:
        """Takes a deleted person's values out of the ledger; what is only about them no longer counts."""
        stretches = [(v.device_id, v.started_at, v.ended_at) for v in visitors]
        for fact in facts:
            mine = any(d == fact.device_id and a <= fact.at < b for d, a, b in stretches)
            homes = {h for h in fact.homes if h}
            about = homes & nodes or any(k in keys for k in fact.identities)
            if not mine and not about:
                continue
            fact.identities = [None if k in keys or k is None else k for k in fact.identities]
            fact.reason = None
            for name in ("primary", "dropped", "aliases", "token"):
                fact.detail.pop(name, None)
            fact.erased = mine or homes <= nodes
            if fact.seq not in {f.seq for f in self.decider.facts}:
                self.loader.facts[fact.seq] = fact
                self.decider.resolved.setdefault(fact.seq, fact.resolved_by or "")

    async def _complete(self, nodes: Iterable[int]) -> None:
        """Loads whole the devices of the profiles, and the profiles that share them."""
        nodes = [n for n in nodes if n]
        await self.loader.components(nodes)
        devices = {v.device_id for n in nodes for v in self.world.visitors(n)}
        await self.loader.devices(devices, -1)
        await self.loader.complete(devices)

    async def _undo(self, op: Op) -> Answer:
        found = [f for f in await self.tx.recorded(self.site.site_id, [self.operation.of]) if not f.erased]
        undone = next(iter(sorted(found, key=lambda f: f.device_id != 0)), None)
        if undone is None:
            raise NotFound(f"no operation {self.operation.of!r}", "look it up with GET /v1/ledger")
        undone = self.loader.facts.setdefault(undone.seq, undone)
        nodes = self.decider._nodes_of(undone)
        await self._complete(nodes)
        return self.decider.undo(op, undone)

    async def _held(self) -> Fact:
        found = [f for f in await self.tx.recorded(self.site.site_id, [self.operation.of]) if f.outcome == "held"]
        if not found or found[0].resolved_by or found[0].undone_by or found[0].inert:
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
