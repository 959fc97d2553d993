"""What arrived, for tests: every command that was taken and every one that was refused, with the reason in words.

`gateway serve --inspect` and the pytest fixtures keep this in memory and answer `/inspect/...`. Whoever knows Snowplow
Micro finds the same calls here: all, good, bad and reset; `people` is ours.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from re import Pattern
from typing import Any

import msgspec

from gateway.advice import HOW_IDENTITY, REFUSED, how_to_write, written
from gateway.commands import Entry, identity
from gateway.context import Gateway
from gateway.identity import rules
from gateway.identity.batches import Done
from gateway.identity.engine import Reply, Request
from gateway.identity.requests import Batch, Command, Operation, ServerBatch, Track
from gateway.model import Site, Visitor, now
from gateway.observe import Pushed, Turned
from gateway.reads import Json, Reader
from gateway.store.sql import COLUMNS, visitor_from

KEPT = 10_000
LAST_ERRORS = 500


@dataclass(slots=True)
class Arrived:
    """A command that was taken. `outcomes` are those of all the engine's commands it was written as."""

    site: Site
    op_id: str
    command: list[Any]
    outcomes: list[str]
    device_id: int
    received_at: int
    at: int
    actor: str = "page"
    page: Json | None = None
    server: bool = False


@dataclass(slots=True)
class Bad:
    """A command that was refused: what was pushed, why it was refused, how to write it."""

    command: Any
    why: str
    how: str
    code: str
    received_at: int
    op_id: str = ""
    page: Json | None = None
    site_id: int = 0

    def as_json(self) -> Json:
        """In the words of Snowplow Micro (`rawEvent`, `errors`) and in ours."""
        return {
            "pushed": written(self.command),
            "why": self.why,
            "how": self.how,
            "code": self.code,
            "rawEvent": {"id": self.op_id or None, "command": self.command, "page": self.page},
            "errors": [f"{self.why}. {self.how}".strip()],
        }


def entries_of(raws: Iterable[msgspec.Raw | bytes]) -> list[Entry]:
    """The entries of a request that are entries."""
    found = []
    for raw in raws:
        try:
            found.append(msgspec.json.decode(raw, type=Entry))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    return found


@dataclass(slots=True)
class Inspector:
    """Keeps the last commands in memory. `changed` is called after each."""

    good: deque[Arrived] = field(default_factory=lambda: deque(maxlen=KEPT))
    bad: deque[Bad] = field(default_factory=lambda: deque(maxlen=KEPT))
    changed: Callable[[], None] = lambda: None
    _seen: set[tuple[int, str]] = field(default_factory=set)

    def watch(self, gateway: Gateway) -> None:
        """Begins to listen to a gateway."""
        gateway.observers.append(self)
        gateway.writer.listeners.append(self.committed)

    def clear(self) -> None:
        """Forgets everything."""
        self.good.clear()
        self.bad.clear()
        self._seen.clear()

    def pushed(self, pushed: Pushed) -> None:
        """A page's request: each entry is either good or among those that were skipped."""
        skipped = list(pushed.skipped)
        outcomes: dict[str, list[str]] = defaultdict(list)
        for command, outcome in zip(pushed.commands, pushed.outcomes, strict=True):
            outcomes[command.op_id].append(outcome)
        for entry in entries_of(pushed.entries):
            refusal = next((s for s in skipped if s.command == entry.command), None)
            if refusal is not None:
                skipped.remove(refusal)
                self._refuse(refusal.command, refusal.reason, pushed, entry)
                continue
            if entry.command[:1] == ["context"]:
                continue  # the script's own, once a page: nobody who counts their commands expects it
            arrived = (entry.id, entry.command, outcomes.get(entry.id, []), pushed.device_id, pushed.received_at)
            self._take(Arrived(pushed.site, *arrived, int(entry.at * 1000), page=entry.page))
        for refusal in skipped:
            self._refuse(refusal.command, refusal.reason, pushed, None)
        if pushed.link is not None and pushed.commands:
            link = pushed.commands[0]
            followed = (link.op_id, ["link", pushed.link], outcomes[link.op_id], pushed.device_id, pushed.received_at)
            self._take(Arrived(pushed.site, *followed, link.sent_at))
        self.changed()

    def _refuse(self, command: Any, reason: str, pushed: Pushed, entry: Entry | None) -> None:
        how = how_to_write(command)
        advice = how.removeprefix("_veroq.")
        why = reason.partition(". ")[0] if reason.startswith("no command") else reason.replace(advice, "")
        why = why.rstrip(" .")  # without the advice that `how` gives
        about = (entry.id, entry.page) if entry else ("", None)
        self.bad.append(Bad(command, why, how, "skipped", pushed.received_at, *about, pushed.site.site_id))

    def turned(self, turned: Turned) -> None:
        """A request refused as a whole: every command in it."""
        error = turned.error
        commands: list[Any]
        try:
            commands = [e.command for e in entries_of(map(msgspec.json.encode, json.loads(turned.raw)["commands"]))]
        except (ValueError, LookupError, TypeError, AttributeError):
            commands = []
        for command in commands or [turned.raw[:200].decode(errors="replace")]:
            self.bad.append(Bad(command, error.message, error.hint, error.code, now()))
        self.changed()

    def committed(self, request: Request, reply: Reply) -> None:
        """What did not come from a page: commands of servers, and operations."""
        if isinstance(request, Operation) or not isinstance(reply, Done):
            self.changed()
            return
        if isinstance(request, ServerBatch) or request.actor != "page":  # else `pushed` is told, with what was written
            for command, outcome in zip(request.commands, reply.outcomes, strict=False):
                self._take(self._served(request, reply, command, outcome))
        self.changed()

    @staticmethod
    def _served(request: Batch | ServerBatch, reply: Done, command: Command, outcome: str) -> Arrived:
        name = type(command).__name__.lower()
        shown = [name, command.name, msgspec.json.decode(command.data)] if isinstance(command, Track) else [name]
        kept = (command.op_id, shown, [outcome], reply.device_id, request.received_at, command.sent_at)
        return Arrived(request.site, *kept, request.actor, server=isinstance(request, ServerBatch))

    def _take(self, arrived: Arrived) -> None:
        key = (arrived.site.site_id, arrived.op_id)
        if key in self._seen:
            return
        if len(self.good) == KEPT:
            self._seen.discard((self.good[0].site.site_id, self.good[0].op_id))
        self._seen.add(key)
        self.good.append(arrived)


class Report:
    """Joins what arrived with what the database made of it."""

    def __init__(self, gateway: Gateway, inspector: Inspector) -> None:
        self.gateway = gateway
        self.inspector = inspector

    async def good(self) -> list[Json]:
        """Commands that were taken without reservation, newest first."""
        bad = {b.op_id for b in await self.refused()}
        taken = [a for a in self.inspector.good if a.op_id not in bad]
        found: dict[int, Json] = {}
        for site in {a.site.site_id: a.site for a in taken}.values():
            found |= await self._shown(site, [a for a in taken if a.site.site_id == site.site_id])
        return [found[id(a)] for a in reversed(taken)]

    async def refused(self) -> list[Bad]:
        """Commands that were refused or left a doubt, newest first."""
        found = list(self.inspector.bad)
        by_op = {a.op_id: a for a in self.inspector.good}
        for site_id, site in {a.site.site_id: a.site for a in self.inspector.good}.items():
            for error in await self._errors(Reader(self.gateway.store, site)):
                arrived = by_op.pop(error["op_id"], None)
                if arrived is not None:
                    how = HOW_IDENTITY.get(error["code"], "")
                    about = (arrived.received_at, arrived.op_id, arrived.page, site_id)
                    found.append(Bad(arrived.command, error["message"], how, error["code"], *about))
        for arrived in by_op.values():
            for outcome in set(arrived.outcomes) & REFUSED.keys():
                about = (arrived.received_at, arrived.op_id, arrived.page, arrived.site.site_id)
                found.append(Bad(arrived.command, REFUSED[outcome], how_to_write(arrived.command), outcome, *about))
        return sorted(found, key=lambda b: -b.received_at)

    async def _errors(self, reader: Reader) -> list[Json]:
        errors: list[Json] = []
        cursor: str | None = None
        while len(errors) < LAST_ERRORS * 10:
            page = await reader.identity_errors(after=cursor, limit=LAST_ERRORS)
            errors += page["identity_errors"]
            cursor = page["next"]
            if cursor is None:
                break
        return errors

    async def people(self) -> list[Json]:
        """All profiles with an identity or an event, newest first."""
        found: list[Json] = []
        for site in await self.gateway.sites.all():
            found += (await self.gateway.lists(site).search("", limit=500))["profiles"]
        return [p for p in found if p["identities"] or p["events"] or p["visitors"]]

    async def _shown(self, site: Site, arrived: Sequence[Arrived]) -> dict[int, Json]:
        reader = Reader(self.gateway.store, site)
        turns = await self._turns(site, {a.device_id for a in arrived})
        people: dict[int, Json | None] = {}
        events = await self._events(site, [a.op_id for a in arrived])
        shown: dict[int, Json] = {}
        for a in arrived:
            row = events.get((a.device_id, a.op_id))
            turn = rules.turn_at(turns.get(a.device_id, []), row["occurred_at"] if row else a.at)
            turn = turn or next(iter(turns.get(a.device_id, [])), None)
            if turn is not None and turn.home not in people:
                people[turn.home] = summary(await reader.profile(turn.home))
            person = people.get(turn.home) if turn else None
            event = Reader.event_json(turn, row, a.server) if row and turn else None
            shown[id(a)] = self._good(a, event, person)
        return shown

    @staticmethod
    def _good(a: Arrived, event: Json | None, person: Json | None) -> Json:
        return {
            "eventType": str(a.command[0]) if a.command else "",
            "name": event["name"] if event else None,
            "data": event["data"] if event else None,
            "person": person,
            "page": a.page,
            "outcome": a.outcomes[-1] if a.outcomes else "noop",
            "actor": a.actor,
            "device_id": str(a.device_id) if a.device_id and not a.server else None,
            "event": event,
            "rawEvent": {"id": a.op_id, "command": a.command, "page": a.page},
        }

    async def _turns(self, site: Site, devices: Iterable[int]) -> dict[int, list[Visitor]]:
        sql = f"/* inspect.turns */ select {COLUMNS['visitors']} from visitors"
        sql += " where site_id = $1 and device_id = any($2) order by started_at"
        found: dict[int, list[Visitor]] = defaultdict(list)
        for row in await self.gateway.store.read(sql, site.site_id, list(devices)):
            visitor = visitor_from(list(row.values()))
            found[visitor.device_id].append(visitor)
        return found

    async def _events(self, site: Site, message_ids: Sequence[str]) -> dict[tuple[int, str], Any]:
        sql = f"/* inspect.events */ select {COLUMNS['events']} from events"
        sql += " where site_id = $1 and message_id = any($2)"
        rows = await self.gateway.store.read(sql, site.site_id, list(message_ids))
        return {(r["device_id"], r["message_id"]): r for r in rows}


def summary(profile: Json | None) -> Json | None:
    """Who somebody is, in short."""
    if profile is None:
        return None
    identities = [i["value"] for i in profile["identities"]]
    keys = ("profile_id", "primary", "tentative")
    return {key: profile[key] for key in keys} | {"identities": identities}


def is_person(shown: Json | None, value: object) -> bool:
    """Whether somebody is called `value`."""
    key, _ = identity(value)
    return shown is not None and key is not None and key[1] in shown["identities"]


def differences(expected: Any, actual: Any, where: str = "") -> list[str]:
    """What `actual` lacks of `expected`, in words; an object may hold more than is expected of it.

    A compiled pattern must match all of a text; `...` stands for any value.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = []
        for key, value in expected.items():
            name = f"{where}.{key}" if where else str(key)
            if key not in actual:
                found.append(f"{name}: expected {show(value)}, is not there")
            else:
                found += differences(value, actual[key], name)
        return found
    if expected is ...:
        return []
    if isinstance(expected, Pattern):
        fits = isinstance(actual, str) and expected.fullmatch(actual) is not None
    else:
        fits = bool(expected == actual) and isinstance(expected, bool) == isinstance(actual, bool)
    return [] if fits else [f"{where or 'value'}: expected {show(expected)}, got {show(actual)}"]


def show(value: Any) -> str:
    """A value as JSON, or as Python shows it if it is more than data."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)
