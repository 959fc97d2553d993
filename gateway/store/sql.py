"""The statements, once for every database, and the transaction that runs them.

A backend gives `fetch` and `execute` for statements written with $1, $2 … and `= any($n)`, and `insert` for many rows.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any

import msgspec

from gateway.model import (
    Device,
    Erasure,
    Event,
    Fact,
    Identity,
    IdentityError,
    Key,
    Profile,
    Proof,
    Seen,
    Site,
    Stretch,
    Told,
    Visitor,
    Write,
)
from gateway.store.base import Changes, Outbox

Rows = list[tuple[Any, ...]]

FORGET_RECEIPTS = 0.02
"""How often old receipts are cleared away: with so many of the groups that keep new ones."""

RECEIPTS_KEPT = 3600 * 1_000_000

_encode = msgspec.json.encode
_decode = msgspec.json.decode

KEYS = {
    "devices": "site_id, device_id",
    "visitors": "site_id, device_id, visitor_id",
    "identities": "site_id, value, kind",
    "profiles": "site_id, profile_id",
    "properties": "site_id, device_id, kind, key, at, op_id",
    "ledger": "site_id, op_id, device_id",
    "ledger_refs": "site_id, profile_id, seq",
    "exclusions": "site_id, profile_a, profile_b",
    "link_tokens": "site_id, token, device_id",
    "births": "site_id, message_id",
    "tombstones": "site_id, value_hash",
    "homes": "site_id, value, kind",
    "receipts": "site_id, receipt",
    "event_names": "site_id, folded",
}
"""The primary key of each table that is saved by upsert."""

INERT, IDLE = 1, 2
"""What `ledger.inert` says of facts that are only an answer, and of those that changed nothing when they came."""

COLUMNS = {
    "devices": "device_id, server, created_at, clock_offset, context, erasures",
    "visitors": "visitor_id, device_id, started_at, ended_at, claim_kind, claim_value, home, proof, tentative, "
    "claim_seq, claim_at, first_seen, last_seen, events",
    "identities": "kind, value, home, proof, since, server_device",
    "profiles": "profile_id, root, live, primary_kind, primary_value",
    "ledger": "seq, op_id, kind, outcome, device_id, actor, proof, at, committed_at, identities, homes, visitor_id, "
    "detail, flags, moved_visitors, moved_identities, reason, undone_by, resolved_by, erased, inert, request_hash",
    "properties": "device_id, kind, key, at, op_id, value",
    "events": "event_id, device_id, message_id, name, data, extras, page, occurred_at, received_at, clamped",
}

EVENT_COLUMNS = f"site_id, {COLUMNS['events']}"
"""An event as a whole row."""

FACT_COLUMNS = ", ".join(f"ledger.{c.strip()}" for c in COLUMNS["ledger"].split(","))


def _json(value: object) -> str:
    return _encode(value).decode()


def site_from(row: Sequence[Any]) -> Site:
    """A site from its columns."""
    return Site(row[0], row[1], row[2], _decode(row[3]), _decode(row[4]), row[5])


def device_from(row: Sequence[Any]) -> Device:
    """A device from its columns."""
    erasures = [Erasure(*e) for e in _decode(row[5])] if row[5] else []
    return Device(row[0], bool(row[1]), row[2], row[3], row[4], erasures)


def visitor_from(row: Sequence[Any]) -> Visitor:
    """A visitor from its columns."""
    claim = (row[4], row[5]) if row[4] is not None else None
    proof = Proof(row[7]) if row[7] is not None else None
    return Visitor(row[0], row[1], row[2], row[3], claim, row[6], proof, bool(row[8]), *row[9:14])


def identity_from(row: Sequence[Any]) -> Identity:
    """An identity from its columns."""
    return Identity((row[0], row[1]), row[2], Proof(row[3]), row[4], row[5])


def profile_from(row: Sequence[Any]) -> Profile:
    """A profile from its columns."""
    return Profile(row[0], row[1], bool(row[2]), (row[3], row[4]) if row[3] is not None else None)


def fact_from(row: Sequence[Any]) -> Fact:
    """A fact from its columns."""
    fact = Fact(*row)
    fact.proof = Proof(row[6]) if row[6] is not None else None
    fact.identities = [tuple(k) if k else None for k in _decode(row[9])]
    fact.homes = _decode(row[10])
    fact.detail = _decode(row[12])
    fact.erased, fact.inert, fact.idle = bool(row[19]), row[20] == INERT, row[20] == IDLE
    return fact


def outbox_from(row: Sequence[Any]) -> Outbox:
    """What a commit adds to the feed from its columns: at, events, facts."""
    facts = [
        Told(seq, profile, [tuple(r) for r in to], [tuple(m) for m in moved])
        for seq, profile, to, moved in _decode(row[2] or "[]")
    ]
    return Outbox(row[0], list(accumulate(_decode(row[1] or "[]"))), facts)


def _outbox_row(site_id: int, o: Outbox) -> tuple[Any, ...]:
    """Ids of one commit follow one another closely: they are kept as their differences."""
    events = _json([b - a for a, b in pairwise([0, *o.events])]) if o.events else None
    facts = _json([[f.seq, f.profile_id, f.redirects, f.moved] for f in o.facts]) if o.facts else None
    return (site_id, o.at, events, facts)


def _device_row(d: Device) -> tuple[Any, ...]:
    erasures = _json([[e.started_at, e.ended_at, e.next_visitor_id] for e in d.erasures]) if d.erasures else None
    return (d.device_id, int(d.server), d.created_at, d.clock_offset, d.context, erasures)


def visitor_row(v: Visitor) -> tuple[Any, ...]:
    """A visitor's columns."""
    kind, value = v.claim if v.claim else (None, None)
    start = (v.visitor_id, v.device_id, v.started_at, v.ended_at, kind, value, v.home, v.proof, int(v.tentative))
    return (*start, v.claim_seq, v.claim_at, v.first_seen, v.last_seen, v.events)


def identity_row(i: Identity) -> tuple[Any, ...]:
    """An identity's columns."""
    return (*i.key, i.home, int(i.proof), i.since, i.server_device)


def profile_row(p: Profile) -> tuple[Any, ...]:
    """A profile's columns."""
    return (p.profile_id, p.root, int(p.live), *(p.primary or (None, None)))


def _fact_row(f: Fact) -> tuple[Any, ...]:
    what = (f.seq, f.op_id, f.kind, f.outcome, f.device_id, f.actor, f.proof, f.at, f.committed_at)
    who = (_json(f.identities), _json(f.homes), f.visitor_id, _json(f.detail), f.flags)
    moved = (f.moved_visitors, f.moved_identities, f.reason, f.undone_by, f.resolved_by)
    return (*what, *who, *moved, int(f.erased), INERT if f.inert else IDLE if f.idle else 0, f.request_hash)


class SqlTransaction(ABC):
    """The contract of `store.base.Transaction` in SQL."""

    in_thread = False
    """Whether statements run aside from the event loop, where the database would otherwise keep it waiting."""

    @abstractmethod
    async def fetch(self, statement: str, *arguments: object) -> Rows:
        """Runs a query and returns its rows."""

    @abstractmethod
    async def execute(self, statement: str, *arguments: object) -> None:
        """Runs a statement for its effect."""

    @abstractmethod
    async def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]], tail: str) -> Rows:
        """Inserts many rows; `tail` is the rest of the statement: on conflict …, returning …."""

    @abstractmethod
    async def lock(self, site_id: int, profile_ids: Collection[int]) -> None:
        """Keeps profiles from being changed by others."""

    async def last_seq(self, site_id: int) -> int:
        sql = "/* ledger.last_seq */ select coalesce(max(seq), 0) from ledger where site_id = $1"
        return int((await self.fetch(sql, site_id))[0][0])

    async def devices(self, site_id: int, ids: Collection[int]) -> list[Device]:
        sql = f"/* devices.by_id */ select {COLUMNS['devices']} from devices where site_id = $1 and device_id = any($2)"
        return [device_from(r) for r in await self.fetch(sql, site_id, list(ids))]

    async def visitors_on(self, site_id: int, device_ids: Collection[int], since: int) -> list[Visitor]:
        sql = (
            f"/* visitors.on_devices */ select {COLUMNS['visitors']} from visitors"
            " where site_id = $1 and device_id = any($2) and ended_at > $3 order by device_id, started_at, ended_at"
        )
        return [visitor_from(r) for r in await self.fetch(sql, site_id, list(device_ids), since)]

    async def stretches(self, site_id: int, device_ids: Collection[int], since: int) -> list[Stretch]:
        sql = (
            "/* visitors.stretches */ select d.device_id, d.clock_offset, v.visitor_id, v.started_at,"
            " v.ended_at, v.first_seen from devices d"
            " join visitors v on v.site_id = d.site_id and v.device_id = d.device_id"
            " where d.site_id = $1 and d.device_id = any($2) and v.ended_at > $3"
        )
        return [Stretch(*r) for r in await self.fetch(sql, site_id, list(device_ids), since)]

    async def visitors_at(self, site_id: int, homes: Collection[int]) -> list[Visitor]:
        sql = (
            f"/* visitors.at_homes */ select {COLUMNS['visitors']} from visitors where site_id = $1 and home = any($2)"
        )
        return [visitor_from(r) for r in await self.fetch(sql, site_id, list(homes))]

    async def identities_named(self, site_id: int, keys: Collection[Key]) -> list[Identity]:
        sql = (
            f"/* identities.named */ select {COLUMNS['identities']} from identities"
            " where site_id = $1 and value = any($2)"
        )
        rows = await self.fetch(sql, site_id, [value for _, value in keys])
        return [i for i in map(identity_from, rows) if i.key in keys]

    async def identities_at(self, site_id: int, homes: Collection[int]) -> list[Identity]:
        sql = (
            f"/* identities.at_homes */ select {COLUMNS['identities']} from identities"
            " where site_id = $1 and home = any($2)"
        )
        return [identity_from(r) for r in await self.fetch(sql, site_id, list(homes))]

    async def profiles(self, site_id: int, ids: Collection[int]) -> list[Profile]:
        sql = (
            f"/* profiles.by_id */ select {COLUMNS['profiles']} from profiles"
            " where site_id = $1 and profile_id = any($2)"
        )
        return [profile_from(r) for r in await self.fetch(sql, site_id, list(ids))]

    async def members(self, site_id: int, roots: Collection[int]) -> list[Profile]:
        sql = f"/* profiles.by_root */ select {COLUMNS['profiles']} from profiles where site_id = $1 and root = any($2)"
        return [profile_from(r) for r in await self.fetch(sql, site_id, list(roots))]

    async def device_facts(self, site_id: int, device_ids: Collection[int]) -> list[Fact]:
        sql = (
            f"/* ledger.of_devices */ select {FACT_COLUMNS} from ledger where site_id = $1 and device_id = any($2)"
            f" and kind in ('login', 'link', 'logout', 'reidentify') and inert <> {INERT} and erased = 0"
            " and undone_by is null order by seq"
        )
        return [fact_from(r) for r in await self.fetch(sql, site_id, list(device_ids))]

    async def graph_facts(self, site_id: int, nodes: Collection[int]) -> list[Fact]:
        sql = (
            # Not a join: SQLite would go through the whole ledger of the site to have it in order.
            f"/* ledger.graph */ select {FACT_COLUMNS} from ledger where site_id = $1"
            " and seq in (select seq from ledger_refs where site_id = $1 and profile_id = any($2))"
            " and kind in ('merge', 'reidentify', 'demerge', 'unlink', 'undo', 'delete')"
            " and inert = 0 and erased = 0 and undone_by is null order by seq"
        )
        return [fact_from(r) for r in await self.fetch(sql, site_id, list(nodes))]

    async def facts_of(self, site_id: int, nodes: Collection[int]) -> list[Fact]:
        sql = (
            f"/* ledger.of_nodes */ select {FACT_COLUMNS} from ledger where site_id = $1"
            " and seq in (select seq from ledger_refs where site_id = $1 and profile_id = any($2))"
            f" and inert <> {INERT} and erased = 0 and undone_by is null order by seq"
        )
        return [fact_from(r) for r in await self.fetch(sql, site_id, list(nodes))]

    async def homes(self, site_id: int, keys: Collection[Key]) -> dict[Key, int]:
        sql = "/* homes.of */ select kind, value, home from homes where site_id = $1 and value = any($2)"
        rows = await self.fetch(sql, site_id, [value for _, value in keys])
        return {(r[0], r[1]): r[2] for r in rows if (r[0], r[1]) in keys}

    async def recorded(self, site_id: int, op_ids: Collection[str]) -> list[Fact]:
        sql = f"/* ledger.recorded */ select {FACT_COLUMNS} from ledger where site_id = $1 and op_id = any($2)"
        return [fact_from(r) for r in await self.fetch(sql, site_id, list(op_ids))]

    async def facts_about(self, site_id: int, nodes: Collection[int], device_ids: Collection[int]) -> list[Fact]:
        sql = (
            f"/* ledger.about */ select {FACT_COLUMNS} from ledger where site_id = $1 and (device_id = any($2)"
            " or seq in (select seq from ledger_refs where site_id = $1 and profile_id = any($3))) order by seq"
        )
        return [fact_from(r) for r in await self.fetch(sql, site_id, list(device_ids), list(nodes))]

    async def exclusions(self, site_id: int, nodes: Collection[int]) -> list[tuple[int, int]]:
        sql = (
            "/* exclusions.of */ select profile_a, profile_b from exclusions where site_id = $1 and profile_a = any($2)"
        )
        return [(r[0], r[1]) for r in await self.fetch(sql, site_id, list(nodes))]

    async def tokens(self, site_id: int, tokens: Collection[str]) -> list[tuple[str, int]]:
        sql = (
            "/* link_tokens.devices */ select token, device_id from link_tokens where site_id = $1 and token = any($2)"
        )
        return [(r[0], r[1]) for r in await self.fetch(sql, site_id, list(tokens))]

    async def births(self, site_id: int, message_ids: Collection[str]) -> dict[str, int]:
        sql = "/* births.of */ select message_id, device_id from births where site_id = $1 and message_id = any($2)"
        return {r[0]: r[1] for r in await self.fetch(sql, site_id, list(message_ids))}

    async def tombstones(self, site_id: int, hashes: Collection[str]) -> dict[str, int]:
        sql = (
            "/* tombstones.of */ select value_hash, deleted_at from tombstones"
            " where site_id = $1 and value_hash = any($2)"
        )
        return {r[0]: r[1] for r in await self.fetch(sql, site_id, list(hashes))}

    async def writes(self, site_id: int, device_ids: Collection[int], keys: Collection[str]) -> list[Write]:
        sql = (
            f"/* properties.of_devices */ select {COLUMNS['properties']} from properties"
            " where site_id = $1 and device_id = any($2) and key = any($3) order by at, op_id"
        )
        return [Write(*r) for r in await self.fetch(sql, site_id, list(device_ids), list(keys))]

    async def receipts(self, site_id: int, receipts: Collection[str], since: int) -> set[str]:
        sql = "/* receipts.known */ select receipt from receipts where site_id = $1 and receipt = any($2) and at > $3"
        return {r[0] for r in await self.fetch(sql, site_id, list(receipts), since)}

    async def event_names(self, site_id: int, folded: Collection[str]) -> dict[str, str]:
        sql = "/* event_names.first */ select folded, name from event_names where site_id = $1 and folded = any($2)"
        return {r[0]: r[1] for r in await self.fetch(sql, site_id, list(folded))}

    async def add_events(self, site_id: int, events: Sequence[Event]) -> set[int]:
        tail = "on conflict (device_id, message_id) do nothing returning event_id"
        return {r[0] for r in await self.insert("events", EVENT_COLUMNS, events, tail)}

    @abstractmethod
    async def seen(self, site_id: int, rows: Sequence[Seen]) -> None:
        """Adds what landed on visitors to their counters."""

    async def count_events(self, site_id: int, visitor: Visitor) -> tuple[int, int | None, int | None]:
        stretch = (visitor.device_id, visitor.started_at, visitor.ended_at, site_id)
        where = "where device_id = $1 and {0} >= $2 and {0} < $3 and site_id = $4"
        sql = "/* events.count */ select count(*), min(occurred_at), max(occurred_at) from events "
        number, first, last = (await self.fetch(sql + where.format("occurred_at"), *stretch))[0]
        sql = "/* properties.span */ select min(at), max(at) from properties "
        start, end = (await self.fetch(sql + where.format("at"), *stretch))[0]
        seen = [t for t in (first, last, start, end) if t is not None]
        return number, min(seen, default=None), max(seen, default=None)

    async def erase(self, site_id: int, visitors: Sequence[Visitor], nodes: Collection[int]) -> None:
        for v in visitors:
            stretch = (v.device_id, v.started_at, v.ended_at, site_id)
            sql = "/* events.erase */ delete from events where device_id = $1 and site_id = $4"
            await self.execute(f"{sql} and occurred_at >= $2 and occurred_at < $3", *stretch)
            sql = "/* properties.erase */ delete from properties where device_id = $1 and at >= $2 and at < $3"
            await self.execute(f"{sql} and site_id = $4", *stretch)
        homes = list(nodes)
        sql = "/* identity_errors.erase */ delete from identity_errors where site_id = $1"
        await self.execute(f"{sql} and (home = any($2) or other = any($2))", site_id, homes)
        for table, column in (
            ("link_tokens", "home"),
            ("homes", "home"),
            ("exclusions", "profile_a"),
            ("exclusions", "profile_b"),
        ):
            sql = f"/* {table}.erase */ delete from {table} where site_id = $1 and {column} = any($2)"
            await self.execute(sql, site_id, homes)
        devices = list({v.device_id for v in visitors})
        sql = (
            "/* devices.forget_context */ update devices set context = null where site_id = $1 and device_id = any($2)"
        )
        await self.execute(sql, site_id, devices)
        sql = "/* births.erase */ delete from births where site_id = $1 and device_id = any($2)"
        await self.execute(sql, site_id, devices)

    async def upsert(self, table: str, site_id: int, columns: str, rows: Iterable[Sequence[Any]]) -> None:
        """Inserts rows or, where their key exists, replaces them; the last of several rows with one key counts."""
        whole = [(site_id, *row) for row in rows]
        if not whole:
            return
        names = ["site_id", *(c.strip() for c in columns.split(","))]
        key = KEYS[table]
        key_of = itemgetter(*(names.index(c) for c in key.split(", ")))
        kept = {key_of(row): row for row in whole}
        rows = [kept[k] for k in sorted(kept)]  # one order for all, so that no two writers wait for each other
        rest = [c for c in names if c not in key.split(", ")]
        action = f"do update set {', '.join(f'{c} = excluded.{c}' for c in rest)}" if rest else "do nothing"
        await self.insert(table, f"site_id, {columns}", rows, f"on conflict ({key}) {action}")

    async def create(self, table: str, site_id: int, columns: str, rows: Iterable[Sequence[Any]]) -> None:
        """Inserts rows whose keys were looked up and not found."""
        await self.upsert(table, site_id, columns, rows)

    async def save(self, site_id: int, changes: Changes) -> None:
        c = changes
        await self._remove(site_id, c)
        await self.upsert("devices", site_id, COLUMNS["devices"], map(_device_row, c.devices))
        await self.upsert("visitors", site_id, COLUMNS["visitors"], map(visitor_row, c.visitors))
        await self.create("identities", site_id, COLUMNS["identities"], map(identity_row, c.identities_new))
        await self.upsert("identities", site_id, COLUMNS["identities"], map(identity_row, c.identities))
        await self.upsert("profiles", site_id, COLUMNS["profiles"], map(profile_row, c.profiles))
        await self.upsert("ledger", site_id, COLUMNS["ledger"], map(_fact_row, c.facts_changed))
        await self.create("ledger", site_id, COLUMNS["ledger"], map(_fact_row, c.facts))
        await self.upsert("ledger_refs", site_id, "profile_id, seq", c.refs)
        await self.upsert("exclusions", site_id, "profile_a, profile_b, seq", c.excluded)
        await self.upsert("link_tokens", site_id, "token, device_id, home, seen_at", c.tokens)
        writes = [(w.device_id, w.kind, w.key, w.at, w.op_id, w.value) for w in c.writes]
        await self.upsert("properties", site_id, COLUMNS["properties"], writes)
        await self.create("births", site_id, "message_id, device_id", c.births)
        await self.create("homes", site_id, "kind, value, home", c.homes_new)
        await self.upsert("homes", site_id, "kind, value, home", c.homes)
        await self.upsert("tombstones", site_id, "value_hash, deleted_at", c.tombstones)
        await self._save_errors(site_id, c.errors)
        await self._save_receipts(site_id, c)
        if c.outbox is not None:
            await self._add_to_outbox(site_id, c.outbox)

    async def _add_to_outbox(self, site_id: int, row: Outbox) -> None:
        """Last of all: whoever waits for this commit comes after it in the feed."""
        await self.insert("outbox", "site_id, at, events, facts", [_outbox_row(site_id, row)], "")

    async def _save_receipts(self, site_id: int, c: Changes) -> None:
        await self.upsert("receipts", site_id, "receipt, at", c.receipts)
        if c.receipts and random.random() < FORGET_RECEIPTS:
            sql = "/* receipts.forget */ delete from receipts where site_id = $1 and at < $2"
            await self.execute(sql, site_id, min(at for _, at in c.receipts) - RECEIPTS_KEPT)
        await self.create("event_names", site_id, "folded, name", c.event_names)

    async def _remove(self, site_id: int, c: Changes) -> None:
        if c.visitors_gone:
            devices, visitors = [v.device_id for v in c.visitors_gone], [v.visitor_id for v in c.visitors_gone]
            sql = "/* visitors.remove */ delete from visitors where site_id = $1 and device_id = any($2)"
            await self.execute(f"{sql} and visitor_id = any($3)", site_id, devices, visitors)
        if c.profiles_gone:
            sql = "/* profiles.remove */ delete from profiles where site_id = $1 and profile_id = any($2)"
            await self.execute(sql, site_id, c.profiles_gone)
        for kind, value in c.identities_gone:
            sql = "/* identities.remove */ delete from identities where site_id = $1 and value = $2 and kind = $3"
            await self.execute(sql, site_id, value, kind)
        for a, b in c.included:
            sql = (
                "/* exclusions.lift */ delete from exclusions where site_id = $1 and profile_a = $2 and profile_b = $3"
            )
            await self.execute(sql, site_id, a, b)
        for code, op_id, device_id in c.errors_gone:
            sql = "/* identity_errors.withdraw */ delete from identity_errors where site_id = $1 and code = $2"
            await self.execute(f"{sql} and op_id = $3 and device_id = $4", site_id, code, op_id, device_id)
        for w in c.writes_gone:
            sql = "/* properties.remove */ delete from properties where site_id = $1 and device_id = $2 and kind = $3"
            arguments = (site_id, w.device_id, w.kind, w.key, w.at, w.op_id)
            await self.execute(f"{sql} and key = $4 and at = $5 and op_id = $6", *arguments)

    async def _save_errors(self, site_id: int, errors: Sequence[IdentityError]) -> None:
        columns = "site_id, code, device_id, subject, op_id, at, home, other, message, seen"
        merged = {(e.code, e.device_id, e.subject): e for e in errors}
        rows = [
            (site_id, e.code, e.device_id, e.subject, e.op_id, e.at, e.home, e.other, e.message, 1)
            for _, e in sorted(merged.items())
        ]
        if rows:
            tail = (
                "on conflict (site_id, code, device_id, subject) do update set op_id = excluded.op_id,"
                " at = excluded.at, home = excluded.home, other = excluded.other, seen = identity_errors.seen + 1"
            )
            await self.insert("identity_errors", columns, rows, tail)
