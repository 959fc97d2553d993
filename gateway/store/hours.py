"""How many events of a site arrived in each hour: counted when somebody looks, and kept, so that nobody waits twice.

An hour is counted as it is, once more when it is over, and a last time a day later: by then most of those who were
strangers when they came have said who they are. Writing an event costs nothing of this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from gateway.model import ID_TIME_SHIFT
from gateway.store.base import Record, Store
from gateway.store.database import SqlStore
from gateway.store.sql import SqlTransaction

HOUR = 3600 * 1_000_000
DAY = 24 * HOUR
IDS_OF_AN_HOUR = 3600 * 1000 << ID_TIME_SHIFT
NAMES_OF_AN_HOUR = 30
FRESH = 10 * 1_000_000
COLUMNS = "site_id, hour, events, known, counted_at"


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour, numbered since the epoch: its events, and those of people who were known when it was counted."""

    hour: int
    events: int
    known: int
    counted_at: int

    def settled(self, at: int) -> bool:
        """Whether counting again would tell nothing new yet."""
        end = (self.hour + 1) * HOUR
        if self.counted_at < end:
            return at < end and at - self.counted_at < FRESH
        return self.counted_at >= end + DAY or at < end + DAY


class Hours:
    """The counts of one site."""

    def __init__(self, store: Store, site_id: int) -> None:
        self.store = cast(SqlStore, store)
        self.site_id = site_id

    async def since(self, first: int) -> list[Hour]:
        """What was counted from an hour on, in order."""
        sql = (
            "/* event_hours.since */ select hour, events, known, counted_at from event_hours"
            " where site_id = $1 and hour >= $2 order by hour"
        )
        return [Hour(**r) for r in await self.store.read(sql, self.site_id, first)]

    async def names(self, first: int, limit: int) -> list[Record]:
        """The names that came most often from an hour on."""
        sql = (
            "/* event_hour_names.top */ select name, sum(events) as events from event_hour_names"
            f" where site_id = $1 and hour >= $2 group by name order by 2 desc, name limit {limit}"
        )
        return [r | {"events": int(r["events"])} for r in await self.store.read(sql, self.site_id, first)]

    async def begins(self) -> int | None:
        """The hour of the first event that there is."""
        sql = "/* events.first */ select event_id from events where site_id = $1 order by event_id limit 1"
        rows = await self.store.read(sql, self.site_id)
        return rows[0]["event_id"] // IDS_OF_AN_HOUR if rows else None

    async def count(self, first: int, last: int, at: int) -> None:
        """Counts the hours from `first` to `last` and keeps the result; whoever else does the same, keeps the same."""
        sql = (
            f"/* events.by_hour */ select e.event_id / {IDS_OF_AN_HOUR} as hour, e.name, count(*) as events,"
            " sum(case when r.primary_kind is not null and v.tentative = 0 then 1 else 0 end) as known from events e"
            " left join visitors v on v.site_id = e.site_id and v.device_id = e.device_id"
            " and v.started_at <= e.occurred_at and v.ended_at > e.occurred_at"
            " left join profiles p on p.site_id = e.site_id and p.profile_id = v.home"
            " left join profiles r on r.site_id = e.site_id and r.profile_id = p.root"
            " where e.site_id = $1 and e.event_id >= $2 and e.event_id < $3 group by 1, 2"
        )
        rows = await self.store.read(sql, self.site_id, first * IDS_OF_AN_HOUR, (last + 1) * IDS_OF_AN_HOUR)
        by_hour: dict[int, list[Record]] = defaultdict(list)
        for row in rows:
            by_hour[row["hour"]].append(row)
        hours = range(first, last + 1)
        counted = [(self.site_id, h, *_sums(by_hour[h]), at) for h in hours]
        names = [(self.site_id, h, r["name"], r["events"]) for h in hours for r in _most(by_hour[h])]

        async def keep(tx: SqlTransaction) -> None:
            gone = "/* event_hour_names.gone */ delete from event_hour_names where site_id = $1 and hour >= $2"
            await tx.execute(f"{gone} and hour <= $3", self.site_id, first, last)
            tail = "on conflict (site_id, hour) do update set events = excluded.events, known = excluded.known,"
            await tx.insert("event_hours", COLUMNS, counted, f"{tail} counted_at = excluded.counted_at")
            tail = "on conflict (site_id, hour, name) do update set events = excluded.events"
            if names:
                await tx.insert("event_hour_names", "site_id, hour, name, events", names, tail)

        await self.store.run(keep)


def _sums(rows: Iterable[Record]) -> tuple[int, int]:
    rows = list(rows)
    return sum(int(r["events"]) for r in rows), sum(int(r["known"]) for r in rows)


def _most(rows: list[Record]) -> list[Record]:
    """The most frequent names of an hour; a page that makes up names does not fill the table."""
    return sorted(rows, key=lambda r: (-r["events"], r["name"]))[:NAMES_OF_AN_HOUR]
