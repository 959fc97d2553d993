"""The statements of retention: what is old is found with reads, and taken away a little at a time.

Each `drop_*` runs in a write transaction, locks first, and looks again at what it is about to take. Each says how much
it took. Times are microseconds, `before` is always exclusive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from gateway.model import BEGINNING, FOREVER, ID_TIME_SHIFT
from gateway.store.base import Store
from gateway.store.sql import IDLE, INERT, Rows, SqlTransaction

PAGE = 200
"""Devices, profiles or rows that are looked at together."""
AT_ONCE = 500
"""Rows that are taken away in one transaction, at most: whoever waits for the database waits a few milliseconds."""

Ids = list[int]

REPEATS = (
    "l.site_id = $1 and l.seq < $2 and l.inert <> 0 and l.kind in ('login', 'link', 'logout', 'reidentify')"
    # An identity error names the entry that it is about.
    " and (l.outcome = 'noop' or not exists (select 1 from identity_errors e where e.site_id = l.site_id"
    " and e.device_id = l.device_id and e.op_id = l.op_id))"
    # A fact that comes months late must find who is on the device: of each name the latest repetition stays, and what
    # says since when the name is known.
    f" and (l.inert = {INERT} or (exists (select 1 from ledger n where n.site_id = l.site_id"
    f" and n.device_id = l.device_id and n.seq > l.seq and n.inert = {IDLE} and n.erased = 0"
    " and n.kind = l.kind and n.identities = l.identities and n.at >= l.at)"
    " and exists (select 1 from ledger n where n.site_id = l.site_id"
    f" and n.device_id = l.device_id and n.seq < l.seq and n.inert <> {INERT} and n.erased = 0 and n.undone_by is null"
    " and n.kind = l.kind and n.identities = l.identities and n.at <= l.at and n.proof >= l.proof)))"
)
"""Which ledger entries changed nothing and are needed for nothing; $2 is a place in the ledger, see `id_at`."""

ANONYMOUS = (
    "p.site_id = $1 and p.live = 1 and p.root = p.profile_id and p.primary_value is null and p.profile_id < $2"
    " and not exists (select 1 from profiles n join identities i on i.site_id = n.site_id and i.home = n.profile_id"
    " where n.site_id = p.site_id and n.root = p.profile_id)"
    " and not exists (select 1 from profiles n join visitors v on v.site_id = n.site_id and v.home = n.profile_id"
    " where n.site_id = p.site_id and n.root = p.profile_id and v.last_seen >= $3)"
)
"""Profiles that nobody is known on and nothing was seen of; $2 is an id, see `id_at`, $3 a time."""


def id_at(at: int) -> int:
    """The first id of ours that can have been made at a time."""
    return max(at, 0) // 1000 << ID_TIME_SHIFT


# --- events -----------------------------------------------------------------------------------------------------------


async def devices_with_events(store: Store, site_id: int, before: int) -> AsyncIterator[Ids]:
    """Devices on which something may have happened before a time, some at a time."""
    sql = (
        "/* retention.devices */ select distinct device_id from visitors where site_id = $1 and device_id > $2"
        f" and events > 0 and first_seen < $3 order by device_id limit {PAGE}"
    )
    after = -1
    while rows := await store.read(sql, site_id, after, before):
        yield [r["device_id"] for r in rows]
        after = rows[-1]["device_id"]


async def drop_events(tx: SqlTransaction, site_id: int, devices: Ids, before: int) -> int:
    """Takes away events of devices that happened before a time; their visitors count them no more."""
    await tx.lock(site_id, devices)
    sql = (
        "/* retention.visitors */ select device_id, visitor_id, started_at, ended_at from visitors"
        " where site_id = $1 and device_id = any($2) and events > 0 and first_seen < $3 order by device_id, visitor_id"
    )
    left = AT_ONCE
    for device_id, visitor_id, started_at, ended_at in await tx.fetch(sql, site_id, devices, before):
        found = await tx.fetch(
            "/* retention.events */ delete from events where device_id = $1 and event_id in (select event_id"
            " from events where device_id = $1 and occurred_at >= $2 and occurred_at < $3 and site_id = $4"
            " order by occurred_at, event_id limit $5) returning event_id",
            device_id, started_at, min(ended_at, before), site_id, left,
        )  # fmt: skip
        if found:
            sql = "/* retention.counted */ update visitors set events = events - $4"
            sql += " where site_id = $1 and device_id = $2 and visitor_id = $3"
            await tx.execute(sql, site_id, device_id, visitor_id, len(found))
        left -= len(found)
        if not left:
            break
    return AT_ONCE - left


# --- anonymous profiles -----------------------------------------------------------------------------------------------


async def idle_profiles(store: Store, site_id: int, before: int) -> AsyncIterator[Ids]:
    """Anonymous profiles of which nothing was seen since a time, some at a time."""
    sql = (
        f"/* retention.idle */ select p.profile_id from profiles p where {ANONYMOUS} and p.profile_id > $4"
        f" order by p.profile_id limit {PAGE}"
    )
    after = -1
    while rows := await store.read(sql, site_id, id_at(before), before, after):
        yield [r["profile_id"] for r in rows]
        after = rows[-1]["profile_id"]


async def still_idle(tx: SqlTransaction, site_id: int, profile_id: int, before: int) -> bool:
    """Whether a profile is (still) anonymous and idle."""
    sql = f"/* retention.still_idle */ select 1 from profiles p where {ANONYMOUS} and p.profile_id = $4"
    return bool(await tx.fetch(sql, site_id, id_at(before), before, profile_id))


async def drop_passers_by(tx: SqlTransaction, site_id: int, profiles: Ids, before: int) -> Ids:
    """Takes away browsers of which the ledger knows nothing: one visitor, nobody ever named, nothing merged.

    Nothing of them stays, so that a browser that comes back with its cookie is seen for the first time. Returns those
    that went; the others have a history.
    """
    await tx.lock(site_id, profiles)
    mine = "site_id = $1 and device_id = any($2)"
    sql = (
        f"/* retention.passers_by */ select p.profile_id from profiles p where {ANONYMOUS} and p.profile_id = any($4)"
        " and exists (select 1 from devices d join visitors v on v.site_id = d.site_id and v.device_id = d.device_id"
        " where d.site_id = p.site_id and d.device_id = p.profile_id and d.server = 0 and d.erasures is null"
        f" and v.visitor_id = d.device_id and v.home = d.device_id and v.started_at = {BEGINNING}"
        f" and v.ended_at = {FOREVER} and v.claim_kind is null)"
        " and not exists (select 1 from profiles n where n.site_id = p.site_id and n.root = p.profile_id"
        " and n.profile_id <> p.profile_id)"
        " and not exists (select 1 from visitors v where v.site_id = p.site_id and v.home = p.profile_id"
        " and v.device_id <> p.profile_id)"
        " and not exists (select 1 from homes h where h.site_id = p.site_id and h.home = p.profile_id)"
        " and not exists (select 1 from exclusions x where x.site_id = p.site_id and x.profile_a = p.profile_id)"
        " and not exists (select 1 from ledger l where l.site_id = p.site_id and l.device_id = p.profile_id"
        " and l.inert = 0)"
        " and not exists (select 1 from ledger_refs r join ledger l on l.site_id = r.site_id and l.seq = r.seq"
        " where r.site_id = p.site_id and r.profile_id = p.profile_id and l.inert = 0)"
    )
    found = [r[0] for r in await tx.fetch(sql, site_id, id_at(before), before, profiles)]
    if found:
        sql = f"/* retention.inert */ select l.seq, l.homes, l.identities from ledger l where {mine}"
        await _drop_entries(tx, site_id, await tx.fetch(sql, site_id, found))
        sql = "/* retention.refs */ delete from ledger_refs where site_id = $1 and profile_id = any($2)"
        await tx.execute(sql, site_id, found)
        for table in ("events", "properties", "births", "identity_errors", "link_tokens", "visitors"):
            await tx.execute(f"/* {table}.drop */ delete from {table} where {mine}", site_id, found)
        sql = "/* identity_errors.drop_home */ delete from identity_errors where site_id = $1 and home = any($2)"
        await tx.execute(sql, site_id, found)
        await tx.execute(f"/* devices.drop */ delete from devices where {mine}", site_id, found)
        sql = "/* profiles.drop */ delete from profiles where site_id = $1 and profile_id = any($2)"
        await tx.execute(sql, site_id, found)
    return found


# --- what only has to be remembered for a while -----------------------------------------------------------------------


async def old_link_tokens(store: Store, site_id: int, before: int, cap: int) -> AsyncIterator[list[str]]:
    """Link tokens that were last seen before a time, some at a time; without those that are quarantined."""
    sql = (
        "/* retention.tokens */ select token from link_tokens where site_id = $1 and token > $2 group by token"
        f" having max(seen_at) < $3 and count(*) <= $4 order by token limit {PAGE}"
    )
    after = ""
    while rows := await store.read(sql, site_id, after, before, cap):
        yield [r["token"] for r in rows]
        after = rows[-1]["token"]


async def drop_link_tokens(tx: SqlTransaction, site_id: int, tokens: Sequence[str], before: int, cap: int) -> int:
    """Forgets where links were opened; those that were opened again meanwhile stay."""
    sql = (
        "/* retention.drop_tokens */ delete from link_tokens where site_id = $1 and token in (select token"
        " from link_tokens where site_id = $1 and token = any($2) group by token"
        " having max(seen_at) < $3 and count(*) <= $4) returning token"
    )
    return len({r[0] for r in await tx.fetch(sql, site_id, list(tokens), before, cap)})


async def drop_repeats(tx: SqlTransaction, site_id: int, before: int) -> int:
    """Takes away ledger entries that changed nothing, oldest first."""
    sql = f"/* retention.repeats */ select l.seq, l.homes, l.identities from ledger l where {REPEATS}"
    return await _drop_entries(
        tx, site_id, await tx.fetch(f"{sql} order by l.seq limit {AT_ONCE}", site_id, id_at(before))
    )


async def _drop_entries(tx: SqlTransaction, site_id: int, entries: Rows) -> int:
    """Takes away inert ledger entries, given as (seq, homes, identities), and where they are found again."""
    if not entries:
        return 0
    seqs = [seq for seq, _, _ in entries]
    keys = {(k[0], k[1]) for _, _, named in entries for k in msgspec.json.decode(named) if k}
    nodes = {home for _, homes, _ in entries for home in msgspec.json.decode(homes)}
    nodes |= {i.home for i in await tx.identities_named(site_id, keys)} | {*(await tx.homes(site_id, keys)).values()}
    sql = "/* ledger_refs.drop */ delete from ledger_refs where site_id = $1 and profile_id = any($2) and seq = any($3)"
    await tx.execute(sql, site_id, list(nodes), seqs)
    sql = "/* ledger.drop */ delete from ledger where site_id = $1 and seq = any($2) and inert <> 0"
    await tx.execute(sql, site_id, seqs)
    return len(seqs)


FIRST_MESSAGES = "births where site_id = $1 and device_id < $2 and message_id not like '%\n%'"
"""Which browser a message made, older than $2 (see `id_at`). What another system calls a device holds a line's end."""


async def drop_first_messages(tx: SqlTransaction, site_id: int, after: int, before: int) -> tuple[int, int]:
    """Forgets which messages made browsers, those behind a device first; (how many, behind which device to go on).

    Nothing to lock: nobody asks for them any more.
    """
    sql = f"/* retention.births */ select message_id, device_id from {FIRST_MESSAGES} and device_id > $3"
    rows = await tx.fetch(f"{sql} order by device_id limit {AT_ONCE}", site_id, id_at(before), after)
    sql = "/* births.drop */ delete from births where site_id = $1 and message_id = any($2)"
    if rows:
        await tx.execute(sql, site_id, [r[0] for r in rows])
    return len(rows), rows[-1][1] - 1 if rows else after


# --- how much there is ------------------------------------------------------------------------------------------------


async def number(store: Store, sql: str, *arguments: Any) -> int:
    """One number."""
    return int((await store.read(f"/* retention.count */ select count(*) as n from {sql}", *arguments))[0]["n"])


async def count_events(store: Store, site_id: int, before: int) -> int:
    """How many events happened before a time."""
    return await number(store, "events where site_id = $1 and occurred_at < $2", site_id, before)


async def count_idle_profiles(store: Store, site_id: int, before: int) -> int:
    """How many profiles are anonymous and idle."""
    return await number(store, f"profiles p where {ANONYMOUS}", site_id, id_at(before), before)


async def count_link_tokens(store: Store, site_id: int, before: int, cap: int) -> int:
    """How many link tokens are not needed any more."""
    sql = (
        "(select token from link_tokens where site_id = $1 group by token"
        " having max(seen_at) < $2 and count(*) <= $3) as old"
    )
    return await number(store, sql, site_id, before, cap)


async def count_first_messages(store: Store, site_id: int, before: int) -> int:
    """How many messages made browsers that have been known for long."""
    return await number(store, FIRST_MESSAGES, site_id, id_at(before))


async def count_repeats(store: Store, site_id: int, before: int) -> int:
    """How many ledger entries changed nothing and can go."""
    return await number(store, f"ledger l where {REPEATS}", site_id, id_at(before))
