"""What only the console asks of a site: lists of people, who was on a device, values that were refused."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from gateway.errors import BadRequest
from gateway.exports import Exports, Whole
from gateway.model import ID_TIME_SHIFT, now
from gateway.reads import LAST_ID, Json, from_one_commit, page_size

WEEK = 7 * 24 * 3600 * 1000
LATEST_EVENTS = 500
KINDS_OF_PEOPLE = {
    "all": "",
    "known": " and primary_kind is not null",
    "anonymous": " and primary_kind is null",
}


class ConsoleReader(Exports):
    """Answers the console's questions about one site."""

    # --- finding people -----------------------------------------------------------------------------------------

    async def list_people(self, which: str, after: int = LAST_ID, limit: int = 25) -> tuple[list[int], int | None]:
        """A page of live profiles, newest first, and where the next one begins."""
        condition = KINDS_OF_PEOPLE.get(which, "")
        sql = (
            "/* console.people */ select profile_id from profiles where site_id = $1 and live = 1"
            f" and profile_id < $2{condition} order by profile_id desc limit {page_size(limit) + 1}"
        )
        ids = [r["profile_id"] for r in await self.store.read(sql, self.site_id, after)]
        return ids[:limit], ids[limit - 1] if len(ids) > limit else None

    @from_one_commit
    async def active_people(self, limit: int = 25) -> list[int]:
        """The profiles that did something last, latest first, among the site's latest events of a week."""
        first = (now() // 1000 - WEEK) << ID_TIME_SHIFT
        sql = (
            "/* console.active */ select device_id, occurred_at from events where site_id = $1 and event_id > $2"
            f" order by event_id desc limit {LATEST_EVENTS}"
        )
        rows = await self.store.read(sql, self.site_id, first)
        owners = await self.owners([(r["device_id"], r["occurred_at"]) for r in rows])
        return list(dict.fromkeys(root for root in owners if root))[:limit]

    @from_one_commit
    async def find(self, query: str, after: int = LAST_ID, limit: int = 25) -> tuple[list[int], int | None]:
        """Profiles by identity, property, profile id, device id or device token; exact ones come first."""
        exact = await self._exactly(query) if after == LAST_ID else []
        ids = await self._matching(query, after, limit + 1)
        cursor = ids[limit - 1] if len(ids) > limit else None
        return list(dict.fromkeys([*exact, *ids[:limit]])), cursor

    async def _exactly(self, query: str) -> list[int]:
        """The profiles that a query names: an identity of any kind, a profile or device id, a device token."""
        names = {(kind, v) for kind in ("id", "email", "phone") for v in (query, query.lower())}
        found = list((await self.roots_of(names)).values())
        try:
            number = self.gateway.device_id(self.site, query)
        except BadRequest:
            return found
        for root in (await self.root(number), await self.on_device(number)):
            if root is not None:
                found.append(root)
        return found

    async def shown_people(self, ids: Sequence[int]) -> list[Whole]:
        """Whole profiles in the given order; those that are gone are left out."""
        people = await self.people(ids)
        return [people[i] for i in ids if i in people]

    async def any_people(self) -> bool:
        """Whether the site has seen anybody at all."""
        return bool((await self.list_people("all", limit=1))[0])

    # --- one person ---------------------------------------------------------------------------------------------

    async def called(self, roots: Collection[int]) -> dict[int, str]:
        """The primary identities of profiles; those without one are left out."""
        sql = "/* console.called */ select profile_id, primary_value from profiles where site_id = $1"
        rows = await self.store.read(f"{sql} and profile_id = any($2)", self.site_id, list(roots)) if roots else []
        return {r["profile_id"]: r["primary_value"] for r in rows if r["primary_value"] is not None}

    async def waiting(self, root: int) -> list[Json]:
        """The held merges that concern a profile."""
        return [h for h in (await self.held())["held"] if str(root) in (h["target"], h["source"])]

    # --- refused values -----------------------------------------------------------------------------------------

    async def refused_values(self, code: str, limit: int = 200) -> list[dict[str, Any]]:
        """Values that were refused under one code: how often, on how many devices, last when."""
        sql = (
            "/* console.refused */ select message, min(subject) as subject, count(distinct device_id) as devices,"
            " sum(seen) as times, max(at) as last_at, max(home) as home from identity_errors"
            " where site_id = $1 and code = $2"
            f" group by message, subject order by times desc, message limit {limit}"
        )
        rows = await self.store.read(sql, self.site_id, code)
        return [r | {"times": int(r["times"])} for r in rows]
