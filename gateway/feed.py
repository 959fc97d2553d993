"""The feed of a site: its events and identity changes in the order in which they were committed.

The outbox holds ids only, one row a commit. They are looked up when they are read, so that an event is told with the
profile that it belongs to now, and nothing of a deleted person is told at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from gateway.errors import BadRequest, Gone
from gateway.model import BEGINNING, FOREVER, Site, Told, Visitor, iso, now
from gateway.reads import LAST_ID, Json, Reader
from gateway.store.base import Record, Store
from gateway.store.sql import COLUMNS, FACT_COLUMNS, fact_from, outbox_from

LOOK_AGAIN = 0.2
"""Seconds between two looks for something new."""

PRUNED = "feed_pruned"
PRUNE_AT_ONCE = 5000
DAY = 24 * 3600 * 1_000_000


class Cursor(NamedTuple):
    """A place in the feed: everything before `position` was read, and of its own entries the first `entries`."""

    position: int = 0
    entries: int = 0

    def __str__(self) -> str:
        return f"{self.position}-{self.entries}" if self.entries else str(self.position)

    @classmethod
    def read(cls, text: str) -> Cursor:
        """A cursor as it was answered. Raises BadRequest for anything else."""
        parts = text.split("-")
        if len(parts) > 2 or any(not p.isascii() or not p.isdigit() or int(p) > LAST_ID for p in parts):
            raise _not_ours()
        return cls(*map(int, parts))


@dataclass(slots=True)
class Page:
    """Entries, and the cursor behind them: at least as far as everything that was looked at."""

    entries: list[Json]
    next: Cursor


class Feed:
    """Reads the feed of one site."""

    def __init__(self, store: Store, site: Site) -> None:
        self.store = store
        self.site_id = site.site_id
        self.reader = Reader(store, site)

    async def page(self, after: Cursor, limit: int, until: Cursor | None = None) -> Page:
        """At most `limit` entries behind a cursor, and before another one. Raises BadRequest and Gone for a bad one."""
        settled, end = await self.store.settled()
        if after.position > end:
            raise _not_ours()
        if after.position and after.position < await pruned(self.store):
            message = "what comes next in the feed is not kept any more"
            raise Gone(message, "start again without `after`; GATEWAY_FEED_DAYS keeps more", code="cursor_expired")
        last = min(settled, until.position) if until else settled
        sql = (
            "/* outbox.after */ select position, at, events, facts from outbox where site_id = $1"
            f" and position {'>=' if after.entries else '>'} $2 and position <= $3 order by position limit {limit + 1}"
        )
        return await self._told(await self.store.read(sql, self.site_id, after.position, last), after, limit, until)

    async def wait(self, after: Cursor, limit: int, seconds: float, wanted: Callable[[], Awaitable[bool]]) -> Page:
        """The same, but looks again for so long if there is nothing, as long as the answer is `wanted`."""
        deadline = asyncio.get_running_loop().time() + seconds
        page, seen = await self.page(after, limit), -1
        while not page.entries and asyncio.get_running_loop().time() < deadline and await wanted():
            settled, _ = await self.store.settled()
            if settled != seen:  # there is something, perhaps of another site
                page, seen = await self.page(page.next, limit), settled
            else:
                await asyncio.sleep(LOOK_AGAIN)
        return page

    async def _told(self, rows: Sequence[Record], after: Cursor, limit: int, until: Cursor | None) -> Page:
        facts: list[tuple[int, Told]] = []
        events: list[tuple[int, int]] = []
        order: list[str] = []
        reached = after
        for row in rows:
            box = outbox_from([row["at"], row["events"], row["facts"]])
            size = len(box.facts) + len(box.events)
            start = after.entries if row["position"] == after.position else 0
            stop = min(size, start + limit - len(order))
            if until and row["position"] == until.position and until.entries:
                stop = min(stop, until.entries)
            for n in range(start, stop):
                if n < len(box.facts):
                    facts.append((box.at, box.facts[n]))
                    order.append(identity_name(box.facts[n].seq))
                else:
                    events.append((box.at, box.events[n - len(box.facts)]))
                    order.append(event_name(events[-1][1]))
            reached = Cursor(row["position"], 0 if stop == size else stop)
            if len(order) == limit or stop < size:
                break
        found = await self._identity_entries(facts) | await self._event_entries(events)
        return Page([found[name] for name in order if name in found], reached)

    async def _identity_entries(self, told: Sequence[tuple[int, Told]]) -> dict[str, Json]:
        if not told:
            return {}
        sql = f"/* ledger.told */ select {FACT_COLUMNS} from ledger where site_id = $1 and seq = any($2)"
        rows = await self.store.read(sql, self.site_id, [t.seq for _, t in told])
        facts = [fact_from(list(r.values())) for r in rows]
        shown = dict(zip((f.seq for f in facts), await self.reader.shown(facts), strict=True))
        return {
            identity_name(t.seq): {
                "id": identity_name(t.seq),
                "type": "identity",
                "at": iso(at),
                "profile_id": _shown(t.profile_id),
                "fact": shown[t.seq],
                "redirects": [{"profile_id": str(p), "target": _shown(to)} for p, to in t.redirects],
                "moved": [_moved(m) for m in t.moved],
            }
            for at, t in told
            if t.seq in shown
        }

    async def _event_entries(self, told: Sequence[tuple[int, int]]) -> dict[str, Json]:
        if not told:
            return {}
        events = ", ".join(f"e.{c.strip()}" for c in COLUMNS["events"].split(","))
        # Cross joins keep SQLite from beginning with the site's visitors; PostgreSQL knows better by itself.
        sql = (
            f"/* events.told */ select {events}, v.visitor_id, v.tentative, d.server, coalesce(p.root, v.home) as root"
            " from events e cross join visitors v cross join devices d"
            " left join profiles p on p.site_id = v.site_id and p.profile_id = v.home"
            " where e.site_id = $1 and e.event_id = any($2)"
            " and v.site_id = e.site_id and v.device_id = e.device_id"
            " and v.started_at <= e.occurred_at and v.ended_at > e.occurred_at"
            " and d.site_id = e.site_id and d.device_id = e.device_id"
        )
        rows = {r["event_id"]: r for r in await self.store.read(sql, self.site_id, [e for _, e in told])}
        found = {}
        for at, event_id in told:
            if (row := rows.get(event_id)) is None:
                continue  # its person was deleted
            visitor = Visitor(row["visitor_id"], row["device_id"], tentative=bool(row["tentative"]))
            head: Json = {"id": event_name(event_id), "type": "event", "at": iso(at), "profile_id": str(row["root"])}
            head["micros"] = row["occurred_at"]
            found[event_name(event_id)] = head | {"event": Reader.event_json(visitor, row, bool(row["server"]))}
        return found


def event_name(event_id: int) -> str:
    """What an event is called in the feed, always and everywhere."""
    return f"event-{event_id}"


def identity_name(seq: int) -> str:
    """What an identity change is called in the feed."""
    return f"identity-{seq}"


def _shown(node: int) -> str | None:
    return str(node) if node else None


def _moved(piece: Sequence[int]) -> Json:
    was, visitor, start, end, source, target = piece
    return {
        "was": str(was),
        "visitor_id": _shown(visitor),
        "from": start if start > BEGINNING else None,
        "until": end if end < FOREVER else None,
        "source": _shown(source),
        "target": _shown(target),
    }


def _not_ours() -> BadRequest:
    return BadRequest("this cursor is not one of ours", "send `next` of the page before as it was", code="bad_cursor")


async def pruned(store: Store) -> int:
    """The last position of the outbox that is not kept any more."""
    return int(await store.config(PRUNED) or 0)


async def prune(store: Store, days: int) -> int:
    """Takes what is older than so many days out of the outbox; answers how many rows went."""
    went = 0
    sql = f"/* outbox.oldest */ select position, at from outbox order by position limit {PRUNE_AT_ONCE}"
    while rows := await store.read(sql):
        old = list(takewhile(lambda r: r["at"] < now() - days * DAY, rows))
        if old:
            await store.run(partial(_cut, last=old[-1]["position"]))
        went += len(old)
        if len(old) < PRUNE_AT_ONCE:
            break
    return went


async def _cut(tx: Any, last: int) -> None:
    await tx.execute("/* outbox.prune */ delete from outbox where position <= $1", last)
    tail = "on conflict (name) do update set value = excluded.value"
    await tx.insert("config", "name, value", [(PRUNED, str(last))], tail)
