"""Decides commands: waves of batches on one loaded world, device by device, in device time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import msgspec
from msgspec.structs import replace

from gateway.identity import rules
from gateway.identity.clock import CLOCK_TOLERANCE, MAX_PAST, jumped, nth, span, trusted
from gateway.identity.decide import Answer, Op, value_hash
from gateway.identity.requests import (
    Batch,
    Command,
    Context,
    Link,
    Login,
    Logout,
    Refused,
    Reidentify,
    ServerBatch,
    Track,
    Writes,
)
from gateway.identity.save import Run
from gateway.model import (
    ID_TIME_SHIFT,
    Device,
    Event,
    Fact,
    Identity,
    IdentityError,
    Key,
    Proof,
    Site,
    Visitor,
    Write,
)
from gateway.store.base import Transaction

RECEIPT_WINDOW = 5 * 60 * 1_000_000
YOUNG_MS = 3600 * 1000


@dataclass(slots=True)
class Relative:
    """A write that depends on what its profile shows: null clears it everywhere, the others change the value."""

    device_id: int
    row: tuple[str, str, str]
    at: int
    op_id: str
    visitors: list[Visitor]


class Done(msgspec.Struct):
    """The answer to a batch: the device it was kept on, the outcome of each command in order, and whether the same
    batch had been received shortly before."""

    device_id: int
    outcomes: list[str] = msgspec.field(default_factory=list)
    repeated: bool = False


class BatchRun(Run):
    """Decides a wave of batches on one world."""

    def __init__(self, tx: Transaction, site: Site, new_id: Callable[[], int]) -> None:
        super().__init__(tx, site, new_id)
        self.recorded: dict[tuple[int, str], Fact] = {}
        self.tombstones: dict[Key, int] = {}
        self.relative: list[Relative] = []
        self.revived: set[int] = set()
        self.known_receipts: set[str] = set()
        self.names: dict[str, str] = {}

    async def run(self, batches: Sequence[Batch | ServerBatch]) -> list[Done]:
        """Loads what the batches name, decides command by command, saves; one reply per batch."""
        batches = await self._placed(batches)
        since = min((self._earliest(b) for b in batches), default=0)
        ids = {i for b in batches if isinstance(b, Batch) for i in (b.device_id, b.other_device)}
        await self.loader.devices(ids, since)
        self._new_devices(ids)
        await self._load_named([b for b in batches if not only_events(b)], since)
        self.decider.last_seq = await self.tx.last_seq(
            self.site.site_id
        )  # after the locks: behind whoever held them before
        replies: list[Done] = [self._told(b) for b in batches]
        await self.save()
        return replies

    async def _load_named(self, batches: Sequence[Batch | ServerBatch], since: int) -> None:
        """Loads what batches name besides their devices; events alone name nobody."""
        if not batches:
            return
        keys = {k for b in batches for c in b.commands for k in self._keys(c)}
        await self.loader.identities(keys | {b.key for b in batches if isinstance(b, ServerBatch)})
        servers = {i.server_device for i in self.world.identities.values()}
        await self.loader.devices(servers, since)
        self.tombstones = await self._deleted(batches, keys)
        await self._recognise(batches)
        op_ids = {c.op_id for b in batches for c in b.commands if not isinstance(c, (Track, Writes, Context))}
        facts = await self.tx.recorded(self.site.site_id, op_ids) if op_ids else []
        self.recorded = {(f.device_id, f.op_id): f for f in facts}
        await self._deepen(batches)

    async def _placed(self, batches: Sequence[Batch | ServerBatch]) -> list[Batch | ServerBatch]:
        """The batches, those of browsers that show no token on the device of their name or of a message sent before, or
        else on a new one.

        On a first visit several requests can be under way before the cookie comes back, each on a device of its own. A
        browser sends again what was not acknowledged: a message that is on another device already shows that the two
        are one browser, and is not kept twice.
        """
        placed = list(batches)
        young = [(n, b) for n, b in enumerate(batches) if isinstance(b, Batch) and b.commands and self._young(b)]
        known_by = {n: [b.name] if b.name else [c.op_id for c in b.commands] for n, b in young}
        ids = {i for names in known_by.values() for i in names}
        births = await self.tx.births(self.site.site_id, ids) if ids else {}
        for n, batch in young:
            names = known_by[n]
            owners = [births[i] for i in names if i in births]
            if not batch.device_id:
                batch = replace(batch, device_id=owners[0] if owners else self.new_id())
                self.births += [(i, batch.device_id) for i in names if i not in births]
                births |= {i: batch.device_id for i in names if i not in births}
            elsewhere = [d for d in owners if d != batch.device_id]
            if elsewhere:
                mine = batch.device_id
                kept = [c for c in batch.commands if births.get(c.op_id, mine) == mine]
                batch = replace(batch, other_device=batch.other_device or elsewhere[0], commands=kept)
            placed[n] = batch
        return placed

    def _young(self, batch: Batch) -> bool:
        """Whether the browser's cookie may not have come back yet: it shows none, or its device is not an hour old."""
        age = self.now // 1000 - (batch.device_id >> ID_TIME_SHIFT)
        return not batch.device_id or (batch.actor == "page" and age < YOUNG_MS)

    def _earliest(self, batch: Batch | ServerBatch) -> int:
        past = batch.received_at - MAX_PAST
        return min([past, *(c.sent_at for c in batch.commands)] if trusted(batch) else (past,)) - 1

    def _keys(self, command: Command) -> list[Key]:
        if isinstance(command, Login):
            return [k for k in (command.key, *command.aliases) if k]
        if isinstance(command, Link):
            return [command.key] if command.key else []
        if isinstance(command, Reidentify):
            return [k for k in (command.new, command.old) if k]
        return [command.target] if isinstance(command, Writes) and command.target else []

    def _new_devices(self, ids: set[int]) -> None:
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

    async def _recognise(self, batches: Sequence[Batch | ServerBatch]) -> None:
        """Looks up which batches were received shortly before, and the first spelling of the names of their events."""
        receipts = {self._receipt(b) for b in batches if isinstance(b, ServerBatch) and b.receipt}
        folded = {c.folded for b in batches for c in b.commands if isinstance(c, Track) and c.folded}
        if receipts:
            self.known_receipts = await self.tx.receipts(self.site.site_id, receipts, self.now - RECEIPT_WINDOW)
        if folded:
            self.names = await self.tx.event_names(self.site.site_id, folded)

    def _receipt(self, batch: ServerBatch) -> str:
        """A batch's receipt. Whoever was deleted is somebody new afterwards, of whom nothing was received yet."""
        deleted = self.tombstones.get(batch.key)
        return f"{batch.receipt}-{deleted}" if deleted else batch.receipt

    async def _deepen(self, batches: Sequence[Batch | ServerBatch]) -> None:
        """Loads the profiles around everything whose identity may change in this wave."""
        loader, world = self.loader, self.world
        devices: set[int] = set()
        nodes: set[int] = set()
        for batch in batches:
            if isinstance(batch, ServerBatch):
                identity = world.identities.get(batch.key)
                if identity is None or not identity.server_device or self._waits(batch, identity):
                    nodes |= {identity.home} if identity else set()
                else:
                    upgrade = identity.proof < batch.proof or self._changes(batch, identity.server_device)
                    devices |= {identity.server_device} if upgrade else set()
                keys = {k for c in batch.commands for k in self._keys(c)}
                nodes |= {world.home_of(k) for k in keys}
                continue
            if batch.other_device and batch.other_device != batch.device_id:
                devices |= {batch.device_id, batch.other_device}
            if self._changes(batch, batch.device_id):
                devices.add(batch.device_id)
                keys = {k for c in batch.commands for k in self._keys(c)}
                nodes |= {world.home_of(k) for k in keys}
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
            if isinstance(command, (Link, Logout)):
                return True
            if isinstance(command, (Login, Writes)) and any(_is_relative(row) for row in command.rows):
                return True
            if isinstance(command, Login) and command.key:
                if command.aliases or command.proof > Proof.CLAIMED:
                    return True
                if not self._settled(device, batch, command, command.key):
                    return True
            if isinstance(command, Reidentify) and not self._said_again(device, batch, command):
                return True
        return False

    def _said_again(self, device: Device, batch: Batch | ServerBatch, command: Reidentify) -> bool:
        """Whether a reidentify only repeats what is so already: pages say it on every view."""
        world = self.world
        if command.new is None or command.old is None or command.blocked_old:
            return False
        target, source = world.identities.get(command.new), world.identities.get(command.old)
        if target is None or source is None or world.root(target.home) != world.root(source.home):
            return False
        return self._settled(device, batch, command, command.new)

    def _settled(self, device: Device, batch: Batch | ServerBatch, command: Command, key: Key) -> bool:
        """Whether a person is on the device already, and nothing is known of it that happened after the command."""
        identity = self.world.identities.get(key)
        at = command.sent_at + device.clock_offset
        turn = rules.turn_at(device.turns, at)
        if turn is None or identity is None or not turn.known or turn.home != identity.home:
            return False
        if jumped(device.clock_offset, batch) or at < identity.since:  # it may land in another turn, or be the first
            return False
        return all((v.last_seen or 0) <= at for v in device.turns)  # else it is late

    # --- deciding -----------------------------------------------------------------------------------------------

    def _told(self, batch: Batch | ServerBatch) -> Done:
        """Decides a batch, and notes what of it is to be left out of the feed."""
        events, facts = len(self.events), len(self.decider.facts)
        done = self._decide(batch)
        if batch.private:
            self.private |= {e.event_id for e in self.events[events:]} | {f.seq for f in self.decider.facts[facts:]}
        return done

    def _decide(self, batch: Batch | ServerBatch) -> Done:
        if isinstance(batch, ServerBatch):
            return self._decide_server(batch)
        device = self.world.devices[batch.device_id]
        offset = self._offset(device, batch)
        if batch.other_device and batch.other_device != batch.device_id:
            op = Op(f"join-{self.new_id()}", batch.received_at, "page", Proof.CLAIMED, device.device_id)
            self.decider.join_devices(op, batch.other_device)
        done = Done(batch.device_id)
        earliest, latest = span(batch)
        for n, command in enumerate(batch.commands):
            sent = nth(command.sent_at + offset, n)
            at = earliest if sent < earliest else latest if sent > latest else sent
            done.outcomes.append(self._command(batch, device, command, at, at != sent))
        return done

    def _decide_server(self, batch: ServerBatch) -> Done:
        """Keeps what a server says about an identity on the identity's own pseudo-device."""
        deleted = self.tombstones.get(batch.key, -1)
        fresh = [c for c in batch.commands if self._time(c.sent_at, batch)[0] > deleted]
        if not fresh or (batch.known_only and batch.key not in self.world.identities):
            return Done(0, ["noop" for _ in batch.commands])
        if self._waits(batch, self.world.identities.get(batch.key)):
            device = self._claims_device(batch)
        else:
            device = self._server_device(batch.key, batch.received_at, batch.actor, batch.proof)
        done = Done(device.device_id, repeated=bool(batch.receipt) and self._received_before(batch))
        for n, command in enumerate(batch.commands):
            at, clamped = self._time(nth(command.sent_at, n), batch)
            old = at <= deleted or (done.repeated and isinstance(command, Track))
            done.outcomes.append("noop" if old else self._command(batch, device, command, at, clamped))
        return done

    def _received_before(self, batch: ServerBatch) -> bool:
        receipt = self._receipt(batch)
        if receipt in self.known_receipts:
            return True
        self.known_receipts.add(receipt)
        self.receipts[receipt] = batch.received_at
        return False

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

    def _waits(self, batch: ServerBatch, identity: Identity | None) -> bool:
        """Whether a claim with the public key alone is about somebody who is proven elsewhere (trust strict)."""
        proven = identity is not None and identity.proof >= Proof.VERIFIED
        return self.site.trust == "strict" and batch.proof < Proof.VERIFIED and proven

    def _claims_device(self, batch: ServerBatch) -> Device:
        """Where such claims are kept: on a tentative visitor of their own, which decides nothing."""
        for visitor in self.world.visitors(self.world.identities[batch.key].home):
            device = self.world.devices[visitor.device_id]
            if visitor.tentative and device.server and visitor.claim == batch.key:
                return device
        device = self.world.add_device(Device(self.new_id(), server=True, created_at=self.now), new=True)
        self.devices_changed.add(device.device_id)
        op = Op(f"claims-{self.new_id()}", batch.received_at, batch.actor, batch.proof, device.device_id)
        self.decider.login(op, batch.key, wait=True)
        return device

    def _offset(self, device: Device, batch: Batch) -> int:
        """The correction of the browser's clock: kept as it is until it is clearly wrong, so that order is kept."""
        if trusted(batch):
            return 0
        if batch.measured is not None and jumped(device.clock_offset, batch):
            device.clock_offset = batch.measured if abs(batch.measured) > CLOCK_TOLERANCE else 0
            self.devices_changed.add(device.device_id)
        return device.clock_offset

    def _time(self, at: int, batch: Batch | ServerBatch) -> tuple[int, bool]:
        earliest, latest = span(batch)
        clamped = min(max(at, earliest), latest)
        return clamped, clamped != at

    def _command(self, batch: Batch | ServerBatch, device: Device, command: Command, at: int, clamped: bool) -> str:
        turn = rules.turn_at(device.turns, at)
        if turn is None and any(e.started_at <= at < e.ended_at for e in device.erasures):
            return "noop"
        if isinstance(command, Track):  # most of what comes, and it names nobody
            self._event(batch, device, command, at, clamped)
            self._seen(device, turn, at)
            return "accepted"
        if any(at <= self.tombstones.get(k, -1) for k in self._keys(command)):
            return "noop"
        outcome = "accepted"
        if isinstance(command, Writes):
            self._write(batch, device, command, at)
        elif isinstance(command, Context):
            if device.context != command.data:
                device.context = command.data
                self.devices_changed.add(device.device_id)
        else:
            outcome = self._identity_command(batch, device, command, at)
        landed = at - 1 if isinstance(command, Logout) else at
        self._seen(device, rules.turn_at(device.turns, landed), landed)
        return outcome

    def _identity_command(self, batch: Batch | ServerBatch, device: Device, command: Command, at: int) -> str:
        decider = self.decider
        kind = type(command).__name__.lower()
        proof = getattr(command, "proof", Proof.CLAIMED)
        op = Op(command.op_id, at, batch.actor, proof, device.device_id, command.fingerprint)
        recorded = self.recorded.get((device.device_id, command.op_id))
        if recorded is not None:
            same = recorded.request_hash in ("", command.fingerprint)
            self.repeated += same
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
            if command.ignored:
                return decider.ignored(op, kind, command.ignored)
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
        name = command.name
        if command.folded:
            if command.folded not in self.names:
                self.names[command.folded] = self.new_names[command.folded] = name
            name = self.names[command.folded]
        what = (self.new_id(), device.device_id, command.op_id, name, command.data, command.extras, command.page)
        self.events.append(Event(self.site.site_id, *what, at, batch.received_at, int(clamped)))

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
                self._seen(device, rules.turn_at(device.turns, at), at)
        for n, row in enumerate(command.rows):
            self._put(device, row, at, command.op_id, n)

    def _put(self, device: Device, row: tuple[str, str, str], at: int, op_id: str, n: int) -> None:
        if _is_relative(row):
            turn = rules.turn_at(device.turns, at)
            around = self.world.visitors(turn.home) if turn else []
            self.relative.append(Relative(device.device_id, row, at, op_id, list(around)))
            return
        kind, key, value = row
        self.writes.append(Write(device.device_id, kind, key, at, op_id, value))

    async def _collapse(self) -> tuple[list[Write], list[Write]]:
        plain, decided = self.writes, list[Write]()
        for relative in self.relative:
            key, devices = relative.row[1], {v.device_id for v in relative.visitors} | {relative.device_id}
            before = [w for w in plain if w.at <= relative.at] + decided
            before = [w for w in before if w.key == key and w.device_id in devices]
            before += await self.tx.writes(self.site.site_id, devices, [key])
            decided += self._cleared(relative, before) or self._changed(relative, before)
        self.writes = plain + decided
        return await super()._collapse()

    @staticmethod
    def _cleared(relative: Relative, written: Sequence[Write]) -> list[Write]:
        if relative.row[2] != "null" or not written:
            return []
        devices = sorted({v.device_id for v in relative.visitors} | {relative.device_id})
        value = msgspec.json.encode(devices).decode()
        return [Write(relative.device_id, "clear", relative.row[1], relative.at, relative.op_id, value)]

    @staticmethod
    def _changed(relative: Relative, before: Sequence[Write]) -> list[Write]:
        """The value after a change, as a set. It starts from the newest value there is, so that no change is lost."""
        kind, key, operand = relative.row
        if kind not in rules.CHANGES or any(w.op_id == relative.op_id for w in before):
            return []
        mine = [
            rules.Row(w.device_id, w.kind, w.key, w.at, w.op_id, msgspec.json.decode(w.value))
            for w in before
            if any(v.device_id == w.device_id and v.started_at <= w.at < v.ended_at for v in relative.visitors)
        ]
        value = rules.changed(kind, rules.fold_properties(mine)[0].get(key), msgspec.json.decode(operand))
        at = max([relative.at, *(r.at + 1 for r in mine if r.at >= relative.at)])
        return [Write(relative.device_id, "set", key, at, relative.op_id, msgspec.json.encode(value).decode())]

    def _seen(self, device: Device, turn: Visitor | None, at: int) -> None:
        """Something landed in a visitor: from the first time on its profile is there to be seen."""
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
        await self.loader.components(self.revived)
        self.world.touched |= self.revived
        await super().save()


def _is_relative(row: tuple[str, str, str]) -> bool:
    kind, _, value = row
    return kind in rules.CHANGES or (value == "null" and kind in ("set", "once"))


def only_events(batch: Batch | ServerBatch) -> bool:
    """Whether a batch of one browser holds nothing but events under the names they came with."""
    if isinstance(batch, ServerBatch) or batch.other_device:
        return False
    return set(map(type, batch.commands)) <= {Track} and not any(map(_folded, batch.commands))


_folded = attrgetter("folded")
