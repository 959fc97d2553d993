"""What one upload asks of the engine: few transactions, everybody's records in order, people side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.context import Gateway
from gateway.dialects.clevertap.messages import Parser, Record, RecordError
from gateway.errors import GatewayError, Unavailable
from gateway.exports import Exports
from gateway.identity.requests import (
    Batch,
    Command,
    Context,
    Login,
    Operation,
    Person,
    Reidentify,
    ServerBatch,
    Track,
    Writes,
)
from gateway.model import Key, Proof, Site, now

DEVICE_NAME = "objectId\n"
"""What stands before an objectId in the name of a device: no page can send a line break in an id."""

PLATFORMS = (("__", "Android"), ("-", "iOS"), ("_w_", "Web"))
NOT_STORED = "The record could not be stored now, send it again. "


@dataclass(slots=True)
class Known:
    """What an upload's identities and devices are now: profiles by identity, devices by objectId.

    `customers` are profiles with a customer number, `held` the pairs of profiles that wait for an operator.
    """

    roots: dict[Key, int]
    customers: set[int]
    held: set[tuple[int, int]]
    devices: dict[str, int]

    def together(self, a: Key, b: Key) -> bool:
        """Whether two identities already are one person."""
        return a in self.roots and self.roots[a] == self.roots.get(b)

    def free(self, a: Key, b: Key) -> bool:
        """Whether nobody is known as `a`, and `b` is somebody of whom no customer number is known."""
        return a not in self.roots and b in self.roots and self.roots[b] not in self.customers

    def settled(self, a: Key, b: Key) -> bool:
        """Whether there is nothing to say about `b` being `a`: so it is, or just that was asked for before."""
        return self.together(a, b) or (self.roots.get(a, 0), self.roots.get(b, 0)) in self.held


@dataclass(slots=True)
class Upload:
    """An upload under way: `refused` are the records not taken, by place."""

    gateway: Gateway
    site: Site
    raw: Sequence[Any]
    received_at: int = field(default_factory=now)
    refused: dict[int, RecordError] = field(default_factory=dict)

    def parse(self) -> list[tuple[int, Record]]:
        """The records that can be understood, with their places."""
        parser = Parser(self.site.identity_kinds, self.received_at, self.gateway.new_id())
        records = []
        for n, raw in enumerate(self.raw):
            try:
                records.append((n, parser.record(raw)))
            except RecordError as error:
                self.refused[n] = error
        return records

    async def keep(self) -> None:
        """Keeps all records that can be understood."""
        for stage in stages(self.parse()):
            await self._keep(stage)

    async def _keep(self, records: list[tuple[int, Record]]) -> None:
        """Keeps records none of which changes who another one is about."""
        known = await self._known([r for _, r in records])
        await self._join(records, known)
        people: dict[Key | str, list[tuple[int, Record]]] = {}
        for n, record in records:
            if n not in self.refused:
                people.setdefault(record.device or record.names[0], []).append((n, record))
        # The writer puts what waits at the same time into one transaction.
        await asyncio.gather(*(self._person(who, of, known) for who, of in people.items()))

    async def _known(self, records: Sequence[Record]) -> Known:
        exports = Exports(self.gateway, self.site)
        names = {k for r in records if len(r.names) > 1 for k in r.names}
        roots = await exports.roots_of(names)
        customers = await exports.with_customer_number(set(roots.values()))
        devices = await devices_of(exports, {r.device for r in records if r.device})
        held = await exports.held_pairs() if len(set(roots.values())) > 1 else set()
        return Known(roots, customers, held, devices)

    async def _join(self, records: list[tuple[int, Record]], known: Known) -> None:
        """Makes one person of two names where that needs an operation of its own."""
        for n, record in records:
            pairs = [(record.names[1], record.names[0])] if record.renamed else []
            main = record.names[0] if record.names else None
            pairs += [(main, k) for k in record.names[1 + record.renamed :] if main and known.free(main, k)]
            for new, old in pairs:
                if not known.settled(new, old):
                    await self._reidentify(n, [Person(key=new), Person(key=old)])
            if record.blocked and not record.device:
                await self._reidentify(n, [Person(), Person(key=main)], record.blocked)

    async def _reidentify(self, n: int, people: list[Person], blocked: str | None = None) -> None:
        operation = Operation(self.site, "reidentify", "", people, hold=True, blocked=blocked)
        try:
            await self.gateway.writer.operation(operation)
        except GatewayError:
            self.refused[n] = RecordError(555, NOT_STORED)

    async def _person(self, who: Key | str, records: list[tuple[int, Record]], known: Known) -> None:
        """Keeps the records of one person or one device, in order."""
        commands: list[Command] = []
        if isinstance(who, str) and not known.devices.get(who):
            data = msgspec.json.encode({"objectId": who, "platform": platform(who)}).decode()
            commands.append(Context(f"ct-{who}", self.received_at, data=data))
        for _, record in records:
            commands += self._commands(record, known)
        try:
            if isinstance(who, str):
                device_id = known.devices.get(who, 0)
                name = "" if device_id else DEVICE_NAME + who
                batch = Batch(self.site, device_id, commands, self.received_at, actor="server", name=name)
                await self.gateway.writer.commands(batch)
            else:
                await self.gateway.writer.commands(ServerBatch(self.site, who, commands, self.received_at))
        except Unavailable:
            for n, _ in records:
                self.refused[n] = RecordError(555, NOT_STORED)

    def _commands(self, record: Record, known: Known) -> list[Command]:
        commands: list[Command] = []
        at = record.at
        if record.device and (record.names or record.blocked):
            key = record.names[0] if record.names else None
            op_id = f"ct-{self.gateway.new_id()}"
            commands.append(Login(op_id, at, key=key, blocked=record.blocked or None, proof=Proof.SERVER))
        for name in record.names[1 + record.renamed :]:
            main = record.names[0]
            if not known.settled(main, name) and not known.free(main, name):
                op_id = f"ct-{self.gateway.new_id()}"
                commands.append(Reidentify(op_id, at, new=main, old=name, proof=Proof.SERVER))
        if record.event:
            commands.append(Track(record.op_id, at, name=record.event, data=record.data))
        else:
            commands.append(Writes(record.op_id, at, rows=record.rows))
        return commands


def stages(records: list[tuple[int, Record]]) -> list[list[tuple[int, Record]]]:
    """Cuts an upload where a record joins an identity that an earlier one may have made: mostly nowhere."""
    found: list[list[tuple[int, Record]]] = []
    owners: dict[Key, Key | str] = {}
    for n, record in records:
        who = record.device or record.names[0]
        joined = record.names if record.renamed else record.names[1:]
        if not found or any(owners.get(k, who) != who for k in joined):
            found.append([])
            owners = {}
        owners |= dict.fromkeys(record.names, who)
        found[-1].append((n, record))
    return found


async def devices_of(exports: Exports, object_ids: set[str]) -> dict[str, int]:
    """Devices by objectId: another system's name, our own device id, or a browser's signed token."""
    named = await exports.devices_named({DEVICE_NAME + o for o in object_ids})
    found = {name.removeprefix(DEVICE_NAME): device_id for name, device_id in named.items()}
    own = {o: device_id for o in object_ids - found.keys() if (device_id := exports.own_device(o))}
    existing = await exports.existing_devices(set(own.values()))
    return found | {o: d for o, d in own.items() if d in existing}


def platform(object_id: str) -> str:
    """Where an objectId comes from, as the vendor's SDKs mark it."""
    return next((name for prefix, name in PLATFORMS if object_id.startswith(prefix)), "Web")
