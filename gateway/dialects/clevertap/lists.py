"""Calls about many profiles or events: pages behind cursors, and counts."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import msgspec

from gateway.dialects.clevertap import answers
from gateway.dialects.clevertap.calls import Asked, Json
from gateway.dialects.clevertap.messages import PLAIN_NAMES
from gateway.dialects.clevertap.queries import Condition, Page, Query, first_page, page_at
from gateway.errors import BadRequest
from gateway.exports import IDENTITY_ERROR, IDENTITY_RESET, IDENTITY_SET, Exports, Happened, Whole
from gateway.model import now
from gateway.store.base import Record

SAID = (IDENTITY_SET, IDENTITY_ERROR, IDENTITY_RESET)
ACTIVE = 5 * 60 * 1_000_000
AT_ONCE = 1000
TRENDS = {"daily": "%Y%m%d", "weekly": "%G%V", "monthly": "%Y%m"}


def _given(asked: Asked) -> Any:
    """A query: in the body, or as JSON in the query string, where the Node client puts it."""
    if asked.body is not None:
        return asked.body
    text = asked.parameter("query")
    if text is None:
        raise BadRequest("send the query as the body, or a cursor")
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(f"query is not JSON: {error}") from error


def _page(asked: Asked, kind: str) -> tuple[Page, bool]:
    """The page asked for, and whether it is only asked for its cursor: the first step of two."""
    cursor = asked.parameter("cursor")
    if cursor is None and isinstance(asked.body, dict) and "cursor" in asked.body:
        cursor = str(asked.body["cursor"])
    if cursor:
        return page_at(cursor, kind, asked.site.time_zone), False
    page = first_page(_given(asked), asked.parameter("batch_size"), asked.site.time_zone)
    return page, True


# --- profiles ---------------------------------------------------------------------------------------------------------


async def profiles(asked: Asked) -> Json:
    """GET and POST /1/profiles.json: profiles that did something, or have something."""
    page, first = _page(asked, "profiles")
    if first:
        return {"status": "success", "cursor": page.cursor("profiles", 0)}
    exports = asked.exports
    bad = await exports.bad_identities()
    found: list[Json] = []
    after = page.after
    candidates = await _who_did(exports, page.query) if page.query.event else None
    more = True
    while more and len(found) < page.size:
        wanted = page.size - len(found)
        if candidates is None:
            ids = await exports.profiles_after(after, min(max(wanted, 50), AT_ONCE))
        else:
            ids = [r for r in candidates if r > after][: min(max(wanted, 50), AT_ONCE)]
        people = await exports.people(ids, events=True)
        more = bool(ids)
        for root in ids:
            if len(found) == page.size:
                break
            after = root
            if root in people and _has(people[root], page.query.profile_conditions, bad.get(root, [])):
                found.append(answers.profile_record(people[root], bad.get(root, [])))
    shown: Json = {"status": "success", "records": found}
    return shown | ({"next_cursor": page.cursor("profiles", after)} if more else {})


async def _who_did(exports: Exports, query: Query) -> list[int]:
    """The profiles that did what is asked for, in the order of their ids."""
    if query.event in SAID:
        return sorted({h.root for h in await exports.said(query.event, query.start, query.end)})
    roots = set()
    async for root, row in exports.who_did(query.event, query.start, query.end):
        if root not in roots and _passes(row["data"], query.event_conditions):
            roots.add(root)
    return sorted(roots)


def _passes(data: str, conditions: list[Condition]) -> bool:
    if not conditions:
        return True
    given = msgspec.json.decode(data)
    return all(c.holds(given) for c in conditions)


def _has(whole: Whole, conditions: list[Condition], bad: list[tuple[int, str]]) -> bool:
    if not conditions:
        return True
    given = whole.properties | {n: v for n, p in PLAIN_NAMES.items() if (v := whole.properties.get(p)) is not None}
    given["identity"] = given["Identity"] = [i.key[1] for i in whole.identities] or None
    given["bad_identities"] = [value for _, value in bad] or None
    return all(c.holds(given) for c in conditions)


# --- events -----------------------------------------------------------------------------------------------------------


async def events(asked: Asked) -> Json:
    """GET and POST /1/events.json: events of one name in the order they arrived, each with whose it is now."""
    page, first = _page(asked, "events")
    if not page.query.event:
        raise BadRequest("event_name is mandatory")
    if first:
        return {"status": "success", "cursor": page.cursor("events", 0)}
    exports = asked.exports
    if page.query.event in SAID:
        return await _said(asked, exports, page)
    rows: list[Record] = []
    more = False
    async for row in exports.events_of(page.query.event, page.query.start, page.query.end, page.after):
        if len(rows) == page.size:
            more = True
            break
        if _passes(row["data"], page.query.event_conditions):
            rows.append(row)
    owners = await exports.owners([(r["device_id"], r["occurred_at"]) for r in rows])
    people = await exports.people(set(owners))
    zone = asked.site.time_zone
    records = [
        answers.event_record(people[root], row, zone)
        for root, row in zip(owners, rows, strict=True)
        if root in people and _has(people[root], page.query.profile_conditions, [])
    ]
    shown: Json = {"status": "success", "records": records}
    return shown | ({"next_cursor": page.cursor("events", rows[-1]["event_id"])} if more else {})


async def _said(asked: Asked, exports: Exports, page: Page) -> Json:
    """Debug events: what the gateway itself says about identities. Here the cursor counts."""
    said = await _said_all(exports, page.query)
    some = said[page.after : page.after + page.size]
    people = await exports.people({h.root for h in some})
    zone = asked.site.time_zone
    records = [answers.said_record(people[h.root], h.device_id, h.data, h.at, zone) for h in some if h.root in people]
    shown: Json = {"status": "success", "records": records}
    after = page.after + len(some)
    return shown | ({"next_cursor": page.cursor("events", after)} if after < len(said) else {})


async def _said_all(exports: Exports, query: Query) -> list[Happened]:
    said = await exports.said(query.event, query.start, query.end)
    return [h for h in said if all(c.holds(h.data) for c in query.event_conditions)]


# --- counts -----------------------------------------------------------------------------------------------------------


def _counted(asked: Asked) -> Query:
    if asked.parameter("req_id") is not None:
        raise BadRequest("no count is under way: every count is answered at once")
    query = Query.read(asked.body, asked.site.time_zone)
    return query


async def count_profiles(asked: Asked) -> Json:
    """POST /1/counts/profiles.json"""
    query, exports = _counted(asked), asked.exports
    ids = await _who_did(exports, query) if query.event else None
    if ids is not None and not query.profile_conditions:
        return {"status": "success", "count": len(ids)}
    bad = await exports.bad_identities()
    count = after = 0
    while some := await exports.profiles_after(after, AT_ONCE) if ids is None else ids[:AT_ONCE]:
        people = await exports.people(some)
        count += sum(_has(w, query.profile_conditions, bad.get(r, [])) for r, w in people.items())
        after, ids = some[-1], ids if ids is None else ids[AT_ONCE:]
    return {"status": "success", "count": count}


async def count_events(asked: Asked) -> Json:
    """POST /1/counts/events.json"""
    query = _counted(asked)
    return {"status": "success", "count": len(await _rows(asked.exports, query))}


async def _rows(exports: Exports, query: Query) -> list[tuple[int, int, Json]]:
    """(profile, time, data) of every event that is asked for."""
    if not query.event:
        raise BadRequest("event_name is mandatory")
    if query.event in SAID:
        return [(h.root, h.at, h.data) for h in await _said_all(exports, query)]
    found = []
    async for root, row in exports.who_did(query.event, query.start, query.end):
        if _passes(row["data"], query.event_conditions):
            found.append((root, row["occurred_at"], msgspec.json.decode(row["data"])))
    if query.profile_conditions:
        people = await exports.people({root for root, _, _ in found})
        mine = {r for r, w in people.items() if _has(w, query.profile_conditions, [])}
        found = [f for f in found if f[0] in mine]
    return found


def _groups(query: Query) -> dict[str, Json]:
    groups = query.raw.get("groups") or {}
    if not isinstance(groups, dict) or not all(isinstance(g, dict) for g in groups.values()):
        raise BadRequest("groups must be an object of objects")
    return groups


async def top(asked: Asked) -> Json:
    """POST /1/counts/top.json: the most and least frequent values of properties."""
    query, exports = _counted(asked), asked.exports
    groups = _groups(query)
    rows = await _rows(exports, query)
    people: dict[int, Whole] = {}
    if any(g.get("property_type") == "profile_fields" for g in groups.values()):
        people = await exports.people({root for root, _, _ in rows})
    shown: Json = {"status": "success", "count": len(rows)}
    for name, group in groups.items():
        values: Counter[str] = Counter()
        for root, _, data in rows:
            of_profile = group.get("property_type") == "profile_fields"
            value = (people[root].properties if of_profile and root in people else data).get(str(group.get("name")))
            values.update(str(v) for v in (value if isinstance(value, list) else [value]) if v is not None)
        ordered = sorted(values.items(), key=lambda i: (i[1] if group.get("order") == "asc" else -i[1], i[0]))
        most = group.get("top_n")
        shown[name] = {"STR": dict(ordered[: most if isinstance(most, int) and most > 0 else 10])}
    return shown


async def trends(asked: Asked) -> Json:
    """POST /1/counts/trends.json: counts by day, week or month of the project's time zone."""
    query = _counted(asked)
    groups = _groups(query)
    rows = await _rows(asked.exports, query)
    shown: Json = {"status": "success", "count": len(rows)}
    for name, group in groups.items():
        form = TRENDS.get(str(group.get("trend_type", "daily")))
        if form is None:
            raise BadRequest(f"trend_type has to be one of {', '.join(TRENDS)}")
        zone = asked.site.time_zone
        marks = [(root, datetime.fromtimestamp(at // 1_000_000, zone).strftime(form)) for root, at, _ in rows]
        if group.get("unique"):
            marks = list(dict.fromkeys(marks))
        shown[name] = dict(sorted(Counter(mark for _, mark in marks).items()))
    return shown


async def active_now(asked: Asked) -> Json:
    """POST /1/now.json: profiles that something was seen of in the last five minutes."""
    return {"status": "success", "count": await asked.exports.active_since(now() - ACTIVE)}
