"""Lists of profiles: found by what they hold, those with a kind of identity, those that show one address."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from gateway.identity import rules
from gateway.reads import LAST_ID, Json, Reader, from_one_commit, number_of, page_size

NAMED = (
    "from profiles p where p.site_id = $1 and p.live = 1 and exists (select 1 from profiles n"
    " join identities i on i.site_id = n.site_id and i.home = n.profile_id"
    " where n.site_id = p.site_id and n.root = p.profile_id and i.kind = $2)"
)


class Lists(Reader):
    """Answers questions about many profiles of one site."""

    @from_one_commit
    async def search(self, query: str, *, after: str | None = None, limit: int | None = None) -> Json:
        """Profiles whose identity starts with the query or a property holds it; all for an empty one; newest first."""
        size = page_size(limit)
        start = number_of(after) if after else LAST_ID
        if query.strip():
            ids = await self._matching(query.strip(), start, size + 1)
        else:
            sql = (
                "/* profiles.recent */ select profile_id from profiles where site_id = $1 and live = 1"
                f" and profile_id < $2 order by profile_id desc limit {size + 1}"
            )
            ids = [r["profile_id"] for r in await self.store.read(sql, self.site_id, start)]
        found = [p for p in [await self.profile(i) for i in ids[:size]] if p is not None]
        return {"profiles": found, "next": str(ids[size - 1]) if len(ids) > size else None}

    @from_one_commit
    async def named(self, kind: str, *, limit: int, after: str | None = None, before: str | None = None) -> Json:
        """A page of the profiles with an identity of a kind, newest first, their number, and cursors both ways."""
        if before:
            ids = (await self._named(kind, ">", number_of(before), limit + 1))[::-1]
            page, newer = ids[-limit:], len(ids) > limit
            older = bool(page and await self._named(kind, "<", page[-1], 1))
        else:
            ids = await self._named(kind, "<", number_of(after) if after else LAST_ID, limit + 1)
            page, older = ids[:limit], len(ids) > limit
            newer = bool(page and await self._named(kind, ">", page[0], 1))
        sql = f"/* profiles.count_named */ select count(*) as number {NAMED}"
        number = (await self.store.read(sql, self.site_id, kind))[0]["number"]
        return {
            "profiles": [p for p in [await self.profile(i) for i in page] if p is not None],
            "count": number,
            "before": str(page[0]) if newer else None,
            "after": str(page[-1]) if older else None,
        }

    async def _named(self, kind: str, side: str, edge: int, limit: int) -> list[int]:
        sql = f"/* profiles.named */ select p.profile_id {NAMED} and p.profile_id {side} $3 order by p.profile_id"
        direction = "desc" if side == "<" else "asc"
        rows = await self.store.read(f"{sql} {direction} limit {limit}", self.site_id, kind, edge)
        return [r["profile_id"] for r in rows]

    async def _matching(self, query: str, start: int, limit: int) -> list[int]:
        pattern = query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").lower()
        sql = (
            "/* profiles.search */ select distinct p.root as profile_id from profiles p where p.site_id = $1"
            " and p.root < $2 and p.profile_id in ("
            "select home from identities where site_id = $1 and lower(value) like $3 escape '\\'"
            " union select v.home from properties w join visitors v on v.site_id = w.site_id"
            " and v.device_id = w.device_id and w.at >= v.started_at and w.at < v.ended_at"
            " where w.site_id = $1 and w.kind = 'set' and lower(w.value) like $4 escape '\\')"
            f" order by profile_id desc limit {limit}"
        )
        rows = await self.store.read(sql, self.site_id, start, f"{pattern}%", f"%{pattern}%")
        return [r["profile_id"] for r in rows]

    async def duplicates(self) -> Json:
        """Groups of profiles that show the same email address, as a property or as an identity."""
        sql = (
            "/* duplicates.email */ select value, root from"
            " (select value, root, count(*) over (partition by value) as n from"
            " (select lower(w.value) as value, p.root as root from properties w"
            " join visitors v on v.site_id = w.site_id and v.device_id = w.device_id"
            " and w.at >= v.started_at and w.at < v.ended_at"
            " join profiles p on p.site_id = v.site_id and p.profile_id = v.home"
            " where w.site_id = $1 and w.kind = 'set' and w.key = 'email' and v.tentative = 0"
            " union select '\"' || i.value || '\"', p.root from identities i"
            " join profiles p on p.site_id = i.site_id and p.profile_id = i.home"
            " where i.site_id = $1 and i.value like '%@%') as shown) as counted where n > 1"
        )
        groups: dict[str, set[int]] = defaultdict(set)
        for row in await self.store.read(sql, self.site_id):
            value = msgspec.json.decode(row["value"])
            if isinstance(value, str) and rules.looks_like_email(value):
                groups[value].add(row["root"])
        found = [
            {"email": value, "profiles": [str(p) for p in sorted(profiles)]}
            for value, profiles in sorted(groups.items())
            if len(profiles) > 1
        ]
        return {"duplicates": found, "next": None}
