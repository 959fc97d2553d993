"""What other systems ask for in bulk: whole profiles, events and identities of a site, read in few set queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.context import Gateway
from gateway.errors import BadRequest
from gateway.identity import rules
from gateway.lists import Lists
from gateway.model import FOREVER, Fact, Identity, Key, Site, Visitor
from gateway.reads import from_one_commit
from gateway.store.base import Record
from gateway.store.sql import COLUMNS, FACT_COLUMNS, fact_from, identity_from, visitor_from

LATE = 5 * 60 * 1_000_000
"""How far behind its own time an event may be said to have happened, at most: ids of events are made as they arrive."""

AT_ONCE = 2000
"""How many events are looked at together."""


@dataclass(slots=True)
class Counted:
    """How often an event happened, first and last."""

    count: int = 0
    first_at: int = FOREVER
    last_at: int = 0

    def add(self, count: int, first_at: int, last_at: int) -> None:
        """Counts some more."""
        self.count += count
        self.first_at, self.last_at = min(self.first_at, first_at), max(self.last_at, last_at)


@dataclass(slots=True)
class Happened:
    """Something the gateway itself says about a profile: an identity was set, refused or taken away."""

    name: str
    at: int
    root: int
    op_id: str
    data: dict[str, Any]
    device_id: int = 0


@dataclass(slots=True)
class Whole:
    """A profile with everything that is shown of it. `contexts` are what its devices said about themselves."""

    profile_id: int
    primary: Key | None = None
    identities: list[Identity] = field(default_factory=list)
    visitors: list[Visitor] = field(default_factory=list)
    servers: set[int] = field(default_factory=set)
    contexts: dict[int, dict[str, Any]] = field(default_factory=dict)
    rows: list[rules.Row] = field(default_factory=list)
    properties: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    subscribed: bool = True
    events: dict[str, Counted] = field(default_factory=dict)
    said: list[Happened] = field(default_factory=list)

    @property
    def browsers(self) -> list[int]:
        """Its devices that are browsers, first seen first."""
        return list(dict.fromkeys(v.device_id for v in self.visitors if v.device_id not in self.servers))

    @property
    def first_seen(self) -> int:
        """When it was first heard of, 0 for never."""
        times = [v.first_seen for v in self.visitors if v.first_seen] + [i.since for i in self.identities]
        return min(times, default=0)

    @property
    def last_seen(self) -> int:
        """When something of it was last seen, 0 for never."""
        return max([v.last_seen for v in self.visitors if v.last_seen], default=self.first_seen)


class Exports(Lists):
    """Answers questions about many profiles of one site at once."""

    def __init__(self, gateway: Gateway, site: Site) -> None:
        super().__init__(gateway.store, site)
        self.gateway = gateway

    # --- identities and devices ---------------------------------------------------------------------------------

    async def roots_of(self, keys: Collection[Key]) -> dict[Key, int]:
        """The profiles that identities name."""
        if not keys:
            return {}
        sql = (
            "/* identities.roots */ select i.kind, i.value, p.root from identities i"
            " join profiles p on p.site_id = i.site_id and p.profile_id = i.home"
            " where i.site_id = $1 and i.value = any($2)"
        )
        rows = await self.store.read(sql, self.site_id, sorted({value for _, value in keys}))
        found: dict[Key, int] = {(r["kind"], r["value"]): r["root"] for r in rows}
        return {k: root for k, root in found.items() if k in keys}

    async def with_customer_number(self, roots: Collection[int]) -> set[int]:
        """Those of the profiles that hold a customer number."""
        if not roots:
            return set()
        sql = (
            "/* identities.customers */ select p.root, i.value from profiles p"
            " join identities i on i.site_id = p.site_id and i.home = p.profile_id"
            " where p.site_id = $1 and p.root = any($2) and i.kind = 'id'"
        )
        rows = await self.store.read(sql, self.site_id, list(roots))
        return {r["root"] for r in rows if rules.is_customer_number(("id", r["value"]))}

    async def devices_named(self, names: Collection[str]) -> dict[str, int]:
        """Devices by what another system calls them."""
        if not names:
            return {}
        sql = "/* births.named */ select message_id, device_id from births where site_id = $1 and message_id = any($2)"
        return {r["message_id"]: r["device_id"] for r in await self.store.read(sql, self.site_id, list(names))}

    def own_device(self, text: str) -> int:
        """A device id from its digits or a signed token, 0 for anything else."""
        try:
            return self.gateway.device_id(self.site, text)
        except BadRequest:
            return 0

    async def existing_devices(self, ids: Collection[int]) -> set[int]:
        """Those of the devices that are browsers this site has seen."""
        if not ids:
            return set()
        sql = "/* devices.existing */ select device_id from devices where site_id = $1 and device_id = any($2)"
        rows = await self.store.read(f"{sql} and server = 0", self.site_id, list(ids))
        return {r["device_id"] for r in rows}

    @from_one_commit
    async def on_device(self, device_id: int) -> int | None:
        """The live profile of the person who is on a device now."""
        sql = "/* visitors.current */ select home from visitors where site_id = $1 and device_id = $2 and ended_at = $3"
        rows = await self.store.read(sql, self.site_id, device_id, FOREVER)
        return await self.root(rows[0]["home"]) if rows else None

    async def contexts(self, device_ids: Collection[int]) -> dict[int, dict[str, Any]]:
        """What devices said about themselves."""
        sql = "/* devices.contexts */ select device_id, context from devices where site_id = $1 and device_id = any($2)"
        rows = await self.store.read(f"{sql} and context is not null", self.site_id, list(device_ids))
        return {r["device_id"]: msgspec.json.decode(r["context"]) for r in rows}

    @from_one_commit
    async def owners(self, moments: Collection[tuple[int, int]]) -> list[int]:
        """The profiles that devices belong to at given times, in the same order; 0 for nobody's."""
        turns = await self.turns({device_id for device_id, _ in moments})
        found = [rules.turn_at(turns.get(device_id, ()), at) for device_id, at in moments]
        roots = await self.roots({v.home for v in found if v is not None})
        return [roots.get(v.home, 0) if v is not None else 0 for v in found]

    @from_one_commit
    async def showing(self, key: str, values: Collection[str]) -> dict[str, list[int]]:
        """Profiles by the email address or phone number that they show, however its letters are written."""
        wanted = {msgspec.json.encode(v).decode().lower(): v for v in values}
        if not wanted:
            return {}
        sql = (
            "/* properties.showing */ select device_id, at from properties"
            " where site_id = $1 and kind = 'set' and key in ('email', 'phone') and lower(value) = any($2)"
        )
        rows = await self.store.read(sql, self.site_id, list(wanted))
        people = await self.people(set(await self.owners([(r["device_id"], r["at"]) for r in rows])))
        found: dict[str, list[int]] = defaultdict(list)
        for root, whole in people.items():
            shown = msgspec.json.encode(whole.properties.get(key)).decode().lower()
            if shown in wanted:
                found[wanted[shown]].append(root)
        return found

    # --- whole profiles -----------------------------------------------------------------------------------------

    @from_one_commit
    async def people(self, roots: Collection[int], *, events: bool = False) -> dict[int, Whole]:
        """Profiles by id; `events` counts theirs as well. Ids that are no live profile are left out."""
        sql = "/* profiles.whole */ select profile_id, root, live, primary_kind, primary_value from profiles"
        members = await self.store.read(f"{sql} where site_id = $1 and root = any($2)", self.site_id, list(roots))
        people: dict[int, Whole] = {}
        for row in members:
            if row["live"] and row["profile_id"] == row["root"]:
                primary = (row["primary_kind"], row["primary_value"]) if row["primary_kind"] else None
                people[row["root"]] = Whole(row["root"], primary)
        owners = {r["profile_id"]: people[r["root"]] for r in members if r["root"] in people}
        if people:
            await self._identities(owners)
            await self._visitors(owners)
            await self._properties(people)
            if events:
                await self._count(people)
                for happened in await self._said(people, owners):
                    people[happened.root].said.append(happened)
        return people

    async def _identities(self, owners: dict[int, Whole]) -> None:
        sql = f"/* identities.whole */ select {COLUMNS['identities']} from identities"
        rows = await self.store.read(f"{sql} where site_id = $1 and home = any($2)", self.site_id, list(owners))
        for identity in sorted((identity_from(list(r.values())) for r in rows), key=lambda i: (i.since, i.key)):
            owners[identity.home].identities.append(identity)

    async def _visitors(self, owners: dict[int, Whole]) -> None:
        columns = ", ".join(f"v.{c.strip()}" for c in COLUMNS["visitors"].split(","))
        sql = (
            f"/* visitors.whole */ select {columns}, d.server, d.context from visitors v join devices d"
            " on d.site_id = v.site_id and d.device_id = v.device_id where v.site_id = $1 and v.home = any($2)"
            " order by coalesce(v.first_seen, v.started_at), v.visitor_id"
        )
        for row in await self.store.read(sql, self.site_id, list(owners)):
            values = list(row.values())
            visitor = visitor_from(values)
            if visitor.first_seen is None and visitor.claim is None:
                continue
            whole = owners[visitor.home]
            whole.visitors.append(visitor)
            if row["server"]:
                whole.servers.add(visitor.device_id)
            elif row["context"]:
                whole.contexts[visitor.device_id] = msgspec.json.decode(row["context"])

    async def _properties(self, people: dict[int, Whole]) -> None:
        stretches: dict[int, list[tuple[int, int, Whole]]] = defaultdict(list)
        for whole in people.values():
            for v in whole.visitors:
                stretches[v.device_id].append((v.started_at, v.ended_at, whole))
        sql = f"/* properties.whole */ select {COLUMNS['properties']} from properties"
        sql += " where site_id = $1 and device_id = any($2) order by at, op_id"
        for r in await self.store.read(sql, self.site_id, list(stretches)):
            for start, end, whole in stretches[r["device_id"]]:
                if start <= r["at"] < end:
                    value = msgspec.json.decode(r["value"])
                    row = rules.Row(r["device_id"], r["kind"], r["key"], r["at"], r["op_id"], value)
                    whole.rows.append(row)
        for whole in people.values():
            whole.properties, whole.tags, whole.subscribed = rules.fold_properties(whole.rows)

    async def _count(self, people: dict[int, Whole]) -> None:
        sql = (
            "/* events.counted */ select p.root, e.name, count(*) as n, min(e.occurred_at) as first_at,"
            " max(e.occurred_at) as last_at from profiles p"
            " join visitors v on v.site_id = p.site_id and v.home = p.profile_id"
            " join events e on e.device_id = v.device_id and e.occurred_at >= v.started_at"
            " and e.occurred_at < v.ended_at"
            " where p.site_id = $1 and p.root = any($2) group by p.root, e.name"
        )
        for r in await self.store.read(sql, self.site_id, list(people)):
            counted = people[r["root"]].events.setdefault(r["name"], Counted())
            counted.add(r["n"], r["first_at"], r["last_at"])

    # --- what the gateway says about identities -----------------------------------------------------------------

    async def _said(self, people: dict[int, Whole], owners: dict[int, Whole]) -> list[Happened]:
        """The identity facts and errors of profiles, as events."""
        devices = {v.device_id for w in people.values() for v in w.visitors}
        sql = (
            f"/* ledger.said_of */ select {FACT_COLUMNS} from ledger where {SAYING} and (device_id = any($2) or seq in"
            " (select seq from ledger_refs where site_id = $1 and profile_id = any($3))) order by seq"
        )
        rows = await self.store.read(sql, self.site_id, list(devices), list(owners))
        facts = [fact_from(list(r.values())) for r in rows]
        sql = f"/* identity_errors.said_of */ {ERRORS} and (e.home = any($2) or e.other = any($2))"
        errors = await self.store.read(sql, self.site_id, list(owners))
        placed = await self._placed(facts)
        return [h for h in [*placed, *map(_refused, errors)] if h.root in people]

    @from_one_commit
    async def said(self, name: str, start: int, end: int) -> list[Happened]:
        """Everything of one kind that the gateway said about identities in a time, oldest first."""
        if name == IDENTITY_ERROR:
            sql = f"/* identity_errors.said */ {ERRORS} and e.at >= $2 and e.at < $3"
            found = [_refused(r) for r in await self.store.read(sql, self.site_id, start, end)]
        else:
            sql = f"/* ledger.said */ select {FACT_COLUMNS} from ledger where {SAYING}"
            sql += " and committed_at >= $2 and committed_at < $3 order by seq"
            rows = await self.store.read(sql, self.site_id, start, end)
            found = await self._placed([fact_from(list(r.values())) for r in rows])
        return sorted((h for h in found if h.name == name), key=lambda h: (h.at, h.op_id, h.root))

    async def _placed(self, facts: Iterable[Fact]) -> list[Happened]:
        """Facts on the profiles that they are about now: a device's with whoever has that turn of the device."""
        facts = list(facts)
        turns = await self.turns({f.device_id for f in facts if f.device_id})
        nodes = {n for f in facts for n in (*f.homes, *f.detail.get("severed", ()))}
        nodes |= {v.home for visitors in turns.values() for v in visitors}
        roots = await self.roots(nodes)
        found: list[Happened] = []
        for fact in facts:
            at, data = fact.committed_at, _identities_said(fact)
            if fact.kind == "demerge":
                for root in sorted({roots[n] for n in fact.detail.get("severed", ()) if n in roots}):
                    found.append(Happened(IDENTITY_RESET, at, root, fact.op_id, data))
                continue
            turn = rules.turn_at(turns.get(fact.device_id, ()), fact.at) if fact.device_id else None
            node = turn.home if turn else fact.homes[0] if fact.homes else 0
            if node in roots:
                found.append(Happened(IDENTITY_SET, at, roots[node], fact.op_id, data, fact.device_id))
        return found

    async def turns(self, device_ids: Collection[int]) -> dict[int, list[Visitor]]:
        """All visitors of devices, in order of time."""
        sql = f"/* visitors.turns */ select {COLUMNS['visitors']} from visitors"
        sql += " where site_id = $1 and device_id = any($2) order by started_at, ended_at"
        found: dict[int, list[Visitor]] = defaultdict(list)
        for row in await self.store.read(sql, self.site_id, list(device_ids)) if device_ids else ():
            visitor = visitor_from(list(row.values()))
            found[visitor.device_id].append(visitor)
        return found

    # --- the site's events and profiles in order ----------------------------------------------------------------

    def events_of(self, name: str, start: int, end: int, after: int) -> AsyncIterator[Record]:
        """Events of one name that happened in [start, end), as they arrived, behind the event id `after`."""
        # An id holds the milliseconds of its making, and nothing happens more than five minutes after it was received.
        first = max(after, max(start - LATE, 0) // 1000 << 22)
        sql = (
            f"/* events.export */ select {COLUMNS['events']} from events where site_id = $1 and event_id > $2"
            " and name = $3 and occurred_at >= $4 and occurred_at < $5 order by event_id"
        )
        return self.gateway.store.stream(sql, self.site_id, first, name, start, end)

    async def who_did(self, name: str, start: int, end: int) -> AsyncIterator[tuple[int, Record]]:
        """(profile, event) for every event of one name that happened in [start, end)."""
        rows: list[Record] = []
        async for row in self.events_of(name, start, end, 0):
            rows.append(row)
            if len(rows) == AT_ONCE:
                for root, of_one in await self._owned(rows):
                    yield root, of_one
                rows = []
        for root, of_one in await self._owned(rows):
            yield root, of_one

    async def _owned(self, rows: list[Record]) -> list[tuple[int, Record]]:
        roots = await self.owners([(r["device_id"], r["occurred_at"]) for r in rows])
        return [(root, row) for root, row in zip(roots, rows, strict=True) if root]

    async def profiles_after(self, after: int, limit: int) -> list[int]:
        """The next live profiles in the order of their ids."""
        sql = "/* profiles.export */ select profile_id from profiles where site_id = $1 and live = 1"
        sql += " and profile_id > $2 order by profile_id limit $3"
        rows = await self.store.read(sql, self.site_id, after, limit)
        return [r["profile_id"] for r in rows]

    async def active_since(self, at: int) -> int:
        """How many profiles something was seen of since `at`."""
        sql = (
            "/* profiles.active */ select count(distinct p.root) as n from visitors v join profiles p"
            " on p.site_id = v.site_id and p.profile_id = v.home where v.site_id = $1 and v.last_seen >= $2"
        )
        return int((await self.store.read(sql, self.site_id, at))[0]["n"])

    async def bad_identities(self) -> dict[int, list[tuple[int, str]]]:
        """(device, value) of identities that somebody claimed and did not get, by the claimant's profile."""
        found: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for new, _, fact in await self._held():
            if fact.identities[1] is not None:
                found[new].append((fact.device_id, fact.identities[1][1]))
        return found

    async def held_pairs(self) -> set[tuple[int, int]]:
        """(claimant's, owner's) profiles of the merges that wait for an operator."""
        return {(new, old) for new, old, _ in await self._held()}

    @from_one_commit
    async def _held(self) -> list[tuple[int, int, Fact]]:
        """The merges that wait for an operator, between profiles that are still two."""
        sql = (
            f"/* ledger.held_pairs */ select {FACT_COLUMNS} from ledger where site_id = $1 and outcome = 'held'"
            " and inert = 0 and erased = 0 and undone_by is null and resolved_by is null order by seq limit 1000"
        )
        facts = [fact_from(list(r.values())) for r in await self.store.read(sql, self.site_id)]
        roots = await self.roots({h for f in facts for h in f.homes})
        pairs = [(roots.get(f.homes[0], 0), roots.get(f.homes[1], 0), f) for f in facts]
        return [(new, old, fact) for new, old, fact in pairs if new and old and new != old]


IDENTITY_SET, IDENTITY_ERROR, IDENTITY_RESET = "Identity Set", "Identity Error", "Identity Reset"

SAYING = (
    "site_id = $1 and inert = 0 and erased = 0 and undone_by is null and (kind = 'demerge' or (kind in ('login',"
    " 'reidentify', 'merge') and outcome in ('attached', 'switched', 'renamed', 'aliased', 'reserved', 'merged')))"
)
ERRORS = (
    "select e.*, h.root, o.root as other_root, l.identities from identity_errors e"
    " join profiles h on h.site_id = e.site_id and h.profile_id = e.home"
    " left join profiles o on o.site_id = e.site_id and o.profile_id = e.other"
    " left join ledger l on l.site_id = e.site_id and l.op_id = e.op_id and l.device_id = e.device_id"
    " where e.site_id = $1 and (e.other = 0 or h.root <> coalesce(o.root, e.other))"
)


def _identities_said(fact: Fact) -> dict[str, Any]:
    names = [k for k in fact.identities if k]
    action = {"login": "Set", "demerge": "Reset"}.get(fact.kind, "Appended")
    return {"identity": [k[1] for k in names], "type": [k[0] for k in names], "action": action, "source": fact.actor}


def _refused(row: Record) -> Happened:
    """An identity error as an event. A refused identity is the concern of the profile that claimed it."""
    names = [k[1] for k in msgspec.json.decode(row["identities"] or "[]") if k]
    data = {"identity": names, "code": row["code"], "message": row["message"], "count": row["seen"]}
    root = row["other_root"] if row["code"] == "needs_proof" and row["other_root"] else row["root"]
    return Happened(IDENTITY_ERROR, row["at"], root, row["op_id"], data, row["device_id"])


def merged_counts(whole: Whole) -> dict[str, Counted]:
    """A profile's events and what the gateway said about it, counted by name."""
    counts = dict(whole.events)
    for happened in whole.said:
        times = int(happened.data.get("count", 1))
        counts.setdefault(happened.name, Counted()).add(times, happened.at, happened.at)
    return counts
