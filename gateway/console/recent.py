"""What happened on a site lately, in the order of arrival: read from the database, so whichever process took it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

from gateway.console.reads import ConsoleReader
from gateway.model import ID_TIME_SHIFT, Fact, now
from gateway.store.base import Record
from gateway.store.sql import COLUMNS, FACT_COLUMNS, fact_from

WEEK = 7 * 24 * 3600 * 1000
LOOKED_AT = 50


class Recent(ConsoleReader):
    """Answers what the site has seen last."""

    async def latest_events(self, limit: int, since: int = WEEK) -> list[Record]:
        """The events that arrived last, newest first, none older than so many milliseconds; `server` as of devices."""
        # The newest are chosen first: joined at once, SQLite would begin with the devices and read every event.
        newest = (
            f"select {COLUMNS['events']} from events where site_id = $1 and event_id > $2"
            f" order by event_id desc limit {limit}"
        )
        sql = (
            f"/* console.latest_events */ select e.*, coalesce(d.server, 0) as server from ({newest}) as e"
            " left join devices d on d.site_id = $1 and d.device_id = e.device_id order by e.event_id desc"
        )
        return await self.store.read(sql, self.site_id, (now() // 1000 - since) << ID_TIME_SHIFT)

    async def last_pushed(self) -> tuple[int | None, bool]:
        """(when a page last pushed an event within a week, whether anything else came in that time)."""
        rows = await self.latest_events(LOOKED_AT)
        return next((r["received_at"] for r in rows if not r["server"]), None), bool(rows)

    async def latest_facts(self, limit: int) -> list[Fact]:
        """The facts that were committed last, newest first, also those that changed nothing."""
        sql = (
            f"/* console.latest_facts */ select {FACT_COLUMNS} from ledger where site_id = $1 and erased = 0"
            f" order by seq desc limit {limit}"
        )
        return [fact_from(list(r.values())) for r in await self.store.read(sql, self.site_id)]

    async def latest_errors(self, limit: int) -> list[Record]:
        """The identity errors that were raised last, newest first."""
        sql = (
            "/* console.latest_errors */ select code, op_id, at, device_id, message, seen from identity_errors"
            f" where site_id = $1 order by at desc limit {limit}"
        )
        return await self.store.read(sql, self.site_id)

    async def errors_by_hour(self, since: int) -> dict[tuple[str, int], int]:
        """How many identity errors were last raised in each hour, by code; one that repeats counts once."""
        sql = (
            "/* console.errors_by_hour */ select code, at / 3600000000 as hour, count(*) as n from identity_errors"
            " where site_id = $1 and at >= $2 group by 1, 2"
        )
        rows = await self.store.read(sql, self.site_id, since)
        return {(r["code"], r["hour"]): r["n"] for r in rows}

    async def who_was(self, moments: Collection[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, str]]:
        """(profile, primary identity or "") of whose turn it was on a device at a time; nobody's are left out."""
        sql = (
            "/* console.who_was */ select device_id, home, started_at, ended_at from visitors"
            " where site_id = $1 and device_id = any($2) and started_at <= $3 and ended_at > $4"
        )
        times = [at for _, at in moments] or [0]
        devices = list({device_id for device_id, _ in moments})
        rows = await self.store.read(sql, self.site_id, devices, max(times), min(times)) if devices else []
        roots = await self.roots({r["home"] for r in rows})
        names = await self.called(set(roots.values()))
        turns: dict[int, list[Record]] = {}
        for row in rows:
            if row["home"] in roots:
                turns.setdefault(row["device_id"], []).append(row)
        found = {}
        for device_id, at in moments:
            for turn in turns.get(device_id, ()):
                if turn["started_at"] <= at < turn["ended_at"]:
                    root = roots[turn["home"]]
                    found[device_id, at] = (root, names.get(root, ""))
        return found

    async def opened_links(self, limit: int) -> list[Record]:
        """Links by when they were opened last: on how many devices, how often, since when, for which profile id."""
        sql = (
            "/* console.opened_links */ select token, count(*) as devices, min(seen_at) as first_at,"
            " max(seen_at) as last_at, max(home) as home from link_tokens where site_id = $1"
            f" group by token order by max(seen_at) desc, token limit {limit}"
        )
        rows = await self.store.read(sql, self.site_id)
        tokens = {r["token"] for r in rows}
        sql = "/* console.link_devices */ select distinct device_id from link_tokens"
        devices = await self.store.read(f"{sql} where site_id = $1 and token = any($2)", self.site_id, list(tokens))
        sql = (
            "/* console.link_clicks */ select detail from ledger where site_id = $1 and device_id = any($2)"
            " and kind = 'link' and erased = 0"
        )
        facts = await self.store.read(sql, self.site_id, [d["device_id"] for d in devices]) if devices else []
        clicks = Counter(msgspec.json.decode(f["detail"]).get("token") for f in facts)
        return [r | {"clicks": max(clicks[r["token"]], r["devices"])} for r in rows]
