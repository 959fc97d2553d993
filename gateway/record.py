"""Recordings: what pages and servers really sent, as JSON Lines, and playing them against another database.

A recording holds no key and no token. A device is known by its id, and what a signed link or identity token proved is
kept in its place, so the same people come out where other keys sign. The order of lines is the order of commits.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Self

import msgspec

from gateway.commands import Parser
from gateway.context import Gateway
from gateway.errors import BadRequest, GatewayError, NotFound
from gateway.identity import requests
from gateway.identity.batches import Done
from gateway.identity.engine import Reply, Request
from gateway.identity.requests import Batch, Command, Link, Login, Operation, Person, ServerBatch, Track
from gateway.model import Proof, Site
from gateway.observe import Pushed, Turned

Json = dict[str, Any]
Write = Callable[[Json], None]

log = logging.getLogger("gateway.record")

FORMAT = 1
LINE = {"site", "at", "outcomes"}
FIELDS = (LINE | {"operation"}, LINE | {"batch", "device"}, LINE | {"commands", "device", "measured"})
"""What a line holds: an operation, a server's request, or a page's."""
SIGNED = ("link", "verify")
MASK = "(what it proved is kept beside)"


class Recorder:
    """Writes a line for each answered request of a gateway while it is open."""

    def __init__(self, gateway: Gateway, write: Write) -> None:
        self.gateway = gateway
        self._write = write
        self._last: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.gateway.observers.append(self)
        self.gateway.writer.listeners.append(self.committed)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gateway.observers.remove(self)
        self.gateway.writer.listeners.remove(self.committed)
        if self._last is not None:
            await self._last

    def write(self, line: Json, site: Site, people: list[Person] | None = None) -> None:
        """Writes a line, after those before it. One about a profile id waits until that profile's name is known."""
        unnamed = any(person.profile_id is not None for person in people or ())
        if not unnamed and (self._last is None or self._last.done()):
            self._write(line)
        else:
            self._last = asyncio.create_task(self._write_after(self._last, line, site, people))

    async def _write_after(
        self, last: asyncio.Task[None] | None, line: Json, site: Site, people: list[Person] | None
    ) -> None:
        if last is not None:
            await last
        if people:
            line["operation"]["people"] = [msgspec.to_builtins(await self.named(site, person)) for person in people]
        self._write(line)

    async def named(self, site: Site, person: Person) -> Person:
        """Somebody by an identity or a device in place of a profile id, which only this database knows."""
        if person.profile_id is None:
            return person
        for column, table in (("kind, value", "identities"), ("device_id", "visitors")):
            sql = f"/* record.named */ select {column} from {table} where site_id = $1 and home = $2 order by 1 limit 1"
            for row in await self.gateway.store.read(sql, site.site_id, person.profile_id):
                found = list(row.values())
                return Person(key=(found[0], found[1])) if table == "identities" else Person(device_id=found[0])
        return person

    def pushed(self, pushed: Pushed) -> None:
        """A page's request: its entries as they came."""
        entries = [masked(msgspec.json.decode(raw)) for raw in pushed.entries]
        line = self._line(pushed.site, pushed.received_at) | {"device": str(pushed.device_id)}
        if pushed.other_device:
            line["other_device"] = str(pushed.other_device)
        if pushed.private:
            line["private"] = True
        line |= {"measured": pushed.measured, "commands": entries}
        line["outcomes"] = {c.op_id: o for c, o in zip(pushed.commands, pushed.outcomes, strict=True)}
        if proofs := {c.op_id: as_json(c) for c in pushed.commands if is_signed(c)}:
            line["proofs"] = proofs
        self.write(line, pushed.site)

    def turned(self, turned: Turned) -> None:
        """What was refused as a whole changed nothing."""

    def committed(self, request: Request, reply: Reply) -> None:
        """A server's request, of any API."""
        if isinstance(request, Batch) and request.actor == "page":
            return
        if isinstance(request, Operation):
            if request.kind != "preview" and not request.dry_run:
                assert not isinstance(reply, Done)
                shown = as_json(request) | {"op_id": reply.op_id}
                line = {"operation": shown, "outcomes": {reply.op_id: reply.outcome}}
                self.write(self._line(request.site, 0) | line, request.site, request.people)
            return
        assert isinstance(reply, Done)
        commands = [as_json(c) for c in request.commands]
        line = self._line(request.site, request.received_at) | {"batch": as_json(request) | {"commands": commands}}
        outcomes = zip((c.op_id for c in request.commands), reply.outcomes, strict=False)
        self.write(line | {"device": str(reply.device_id), "outcomes": dict(outcomes)}, request.site)

    @staticmethod
    def _line(site: Site, at: int) -> Json:
        return {"recording": FORMAT, "site": site.name, "at": at}


def is_signed(command: Command) -> bool:
    """Whether a command rests on a signature that only this gateway or site could check."""
    return (isinstance(command, Link) and command.token is not None) or (
        isinstance(command, Login) and command.proof == Proof.VERIFIED
    )


def masked(entry: Any) -> Any:
    """An entry without the signed value in it."""
    command = entry.get("command") if isinstance(entry, dict) else None
    if isinstance(command, list) and len(command) > 1 and command[0] in SIGNED:
        return entry | {"command": [command[0], MASK, *command[2:]]}
    return entry


def as_json(request: Any) -> Json:
    """A request or command as JSON that people can read, without its site."""
    shown: Json = {"type": type(request).__name__}
    names = request.__struct_fields__ if isinstance(request, msgspec.Struct) else [f.name for f in fields(request)]
    for name in names:
        value = getattr(request, name)
        if name != "site":
            shown[name] = value.decode() if isinstance(value, bytes) else msgspec.to_builtins(value)
    return shown


def from_json(shown: Json, **more: Any) -> Any:
    """What `as_json` was given. Raises BadRequest for what it does not return."""
    try:
        kind = getattr(requests, shown["type"])
        given = {k: v for k, v in shown.items() if k != "type"} | more
        if kind is Track:
            given |= {k: given[k].encode() for k in ("data", "extras", "page") if given.get(k) is not None}
        if kind is Operation:
            given["people"] = [msgspec.convert(p, Person) for p in given["people"]]
        if "key" in given and given["key"] is not None:
            given["key"] = tuple(given["key"])
        for name in ("new", "old", "target"):
            if given.get(name) is not None:
                given[name] = tuple(given[name])
        if "rows" in given:
            given["rows"] = [tuple(row) for row in given["rows"]]
        if "aliases" in given:
            given["aliases"] = [tuple(key) for key in given["aliases"]]
        if "proof" in given:
            given["proof"] = Proof(given["proof"])
        return kind(**given)
    except (LookupError, AttributeError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise BadRequest(f"this is not a line of a recording: {error}") from error


@asynccontextmanager
async def recording(gateway: Gateway, path: Path) -> AsyncIterator[Recorder]:
    """Appends what arrives to a file which nobody else may read: it holds what people did. Raises BadRequest."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        hint = "name a file in a folder that is there"
        raise BadRequest(f"{path} cannot be written: {error.strerror}", hint) from error
    with os.fdopen(descriptor, "ab") as file:
        async with Recorder(gateway, writer_to(file)) as recorder:
            yield recorder


def writer_to(file: IO[bytes]) -> Write:
    """Writes lines and flushes each, so that a recording that is cut off is whole up to there.

    A line that cannot be written is logged and missing: what was committed is answered all the same.
    """

    def write(line: Json) -> None:
        try:
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
        except OSError as error:
            log.error("the recording lacks a line: %s", error)

    return write


def read_lines(path: Path) -> Iterator[Json]:
    """The lines of a recording. Raises BadRequest naming the first that cannot be read."""
    try:
        opened = path.open("rb")
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", "make a recording: gateway record FILE") from error
    with opened as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                line = msgspec.json.decode(raw)
                known = line["recording"] == FORMAT and any(fields <= line.keys() for fields in FIELDS)
            except (msgspec.DecodeError, LookupError, TypeError):
                known = False
            if not known:
                raise BadRequest(f"{path}: line {number} is not a line of a recording", "make one: gateway record FILE")
            yield line


@dataclass(slots=True)
class Replayed:
    """What a replay did."""

    requests: int = 0
    commands: int = 0
    skipped: int = 0
    devices: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    other_outcomes: list[Json] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Replay:
    """Plays lines against a gateway: one request after the other, with the times and devices they had."""

    def __init__(self, gateway: Gateway, site: Site | None = None) -> None:
        self.gateway = gateway
        self.site = site
        self.devices: dict[tuple[int, str], int] = {}
        self.done = Replayed()

    async def play(self, lines: Iterable[Json]) -> Replayed:
        """Plays all lines. Raises NotFound if a line's site is not there."""
        for line in lines:
            site = self.site or await self.gateway.sites.by_name(line["site"])
            if site is None:
                hint = "make it: gateway site create NAME, or play all of it into another one: --site NAME"
                raise NotFound(f"there is no site {line['site']!r}", hint)
            self.done.requests += 1
            try:
                outcomes = await self._play(site, line)
            except GatewayError as error:
                self.done.problems.append(f"line {self.done.requests}: {error.message}")
                continue
            self._compare(line, outcomes)
        self.done.devices = len(self.devices)
        return self.done

    async def _play(self, site: Site, line: Json) -> dict[str, str]:
        if "operation" in line:
            return await self._operation(site, line)
        batch = self._server(site, line) if "batch" in line else self._page(site, line)
        if not batch.commands:
            return {}
        done = await self.gateway.writer.commands(batch)
        self.devices.setdefault((site.site_id, line["device"]), done.device_id)
        self.done.commands += len(batch.commands)
        return {c.op_id: o for c, o in zip(batch.commands, done.outcomes, strict=False)}

    def _page(self, site: Site, line: Json) -> Batch:
        """A page's request, parsed anew by today's rules; what was signed counts as it counted then."""
        private = bool(line.get("private"))
        parser = Parser(site, self.gateway.signer, private=private)
        proofs: dict[str, Json] = dict(line.get("proofs", {}))
        commands: list[Command] = []
        for entry in line["commands"]:
            proven = proofs.pop(str(entry.get("id")), None) if isinstance(entry, dict) else None
            if proven is not None:
                commands.append(from_json(proven))
            elif (parsed := parser.entry(msgspec.json.encode(entry))) is not None:
                commands += parsed[1]
        self.done.skipped += len(parser.skipped)
        commands = [*(from_json(p) for p in proofs.values()), *commands]  # a link that came from a redirect is first
        device = self.devices.get((site.site_id, line["device"]), 0)
        other = self._device(site, line["other_device"]) if "other_device" in line else 0
        return Batch(site, device, commands, line["at"], line["measured"], other, private=private)

    def _server(self, site: Site, line: Json) -> Batch | ServerBatch:
        commands = [from_json(c) for c in line["batch"]["commands"]]
        batch: Batch | ServerBatch = from_json(line["batch"], site=site, commands=commands)
        if isinstance(batch, Batch):
            batch.device_id = self._device(site, str(batch.device_id)) if batch.device_id else 0
        return batch

    async def _operation(self, site: Site, line: Json) -> dict[str, str]:
        operation: Operation = from_json(line["operation"], site=site)
        for n, person in enumerate(operation.people):
            if person.device_id is not None:
                operation.people[n] = Person(device_id=self._device(site, str(person.device_id)))
            elif person.profile_id is not None:
                raise BadRequest(f"{operation.kind} is about a profile that had no name when it was recorded")
        self.done.commands += 1
        operation.plan_hash = None
        answer = await self.gateway.writer.operation(operation)
        return {answer.op_id: answer.outcome}

    def _device(self, site: Site, recorded: str) -> int:
        """The device that stands for a recorded one; a new one if it was not seen sending before."""
        return self.devices.setdefault((site.site_id, recorded), self.gateway.new_id())

    def _compare(self, line: Json, outcomes: dict[str, str]) -> None:
        self.done.outcomes.update(outcomes.values())
        for op_id, before in line["outcomes"].items():
            if (after := outcomes.get(op_id, "skipped")) != before:
                entries = (e for e in line.get("commands", ()) if isinstance(e, dict) and e.get("id") == op_id)
                command = next((e.get("command") for e in entries), None)
                found = {"op_id": op_id, "command": command, "recorded": before, "replayed": after}
                self.done.other_outcomes.append(found)
