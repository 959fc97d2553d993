"""Pages about people: finding them, one person with everything known, what they did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import RedirectResponse, Response

from gateway.console.calls import Asked, Page, number
from gateway.console.story import tell
from gateway.console.timeline import draw
from gateway.console.words import count, device_label, letters
from gateway.errors import NotFound
from gateway.exports import Whole
from gateway.identity import rules
from gateway.reads import LAST_ID

PEOPLE = 25
EVENTS = 25
CHAPTERS = 100
REPLACED = 20
LISTS = ("active", "all", "known", "anonymous")


async def find(asked: Asked) -> Response:
    """People by what somebody types, or a list of them."""
    query, reader = asked.query.get("q", "").strip()[:300], asked.reader
    chosen = asked.query.get("list", LISTS[0])
    after = number(asked.query.get("after") or LAST_ID)
    cursor: int | None = None
    if query:
        ids, cursor = await reader.find(query, after, PEOPLE)
    elif chosen == "active":
        ids = await reader.active_people(PEOPLE)
    else:
        ids, cursor = await reader.list_people(chosen, after, PEOPLE)
    people = await reader.shown_people(ids)
    more = asked.to("people", q=query, list="" if query else chosen, after=cursor) if cursor else ""
    empty = not people and not query and not await reader.any_people()
    return await asked.show(
        "people.html",
        people=people,
        query=query,
        chosen=chosen,
        lists=LISTS,
        more=more,
        empty=empty,
        gateway_url=asked.gateway.settings.public_url or str(asked.request.base_url).rstrip("/"),
    )


# --- one person -------------------------------------------------------------------------------------------------------


async def whole(asked: Asked, profile_id: object) -> Whole:
    """The person a path names; a merged-away id names the survivor. Raises NotFound."""
    root = await asked.reader.root(number(profile_id, "person"))
    found = (await asked.reader.people([root])).get(root) if root is not None else None
    if found is None:
        raise NotFound("there is no such person", "they may have been deleted")
    return found


@dataclass(frozen=True, slots=True)
class Shown:
    """A property: the row it comes from, and those that one replaced."""

    key: str
    row: rules.Row
    replaced: list[rules.Row]


def properties_of(person: Whole) -> list[Shown]:
    """The properties with where they come from; the same value said again replaced nothing."""
    shown = []
    for key, (row, *older) in rules.sources(person.rows).items():
        last, replaced = row.value, []
        for other in older:
            if other.value != last:
                replaced.append(other)
                last = other.value
        shown.append(Shown(key, row, replaced[:REPLACED]))
    return shown


def device_names(person: Whole) -> dict[int, str]:
    """What the person's browsers are called on their page."""
    return {device_id: f"Device {letters(n)}" for n, device_id in enumerate(person.browsers)}


async def person(asked: Asked) -> Response:
    """One person with everything known."""
    reader, one = asked.reader, await whole(asked, asked.path["profile_id"])
    if str(one.profile_id) != asked.path["profile_id"]:
        return RedirectResponse(asked.to(f"people/{one.profile_id}"), 303)
    asked.about(f"profile {one.profile_id}")
    names = device_names(one)
    turns = await reader.turns(one.browsers)
    roots = await reader.roots({v.home for visitors in turns.values() for v in visitors})
    devices = [(d, names[d], device_label(one.contexts.get(d))) for d in one.browsers]
    ledger = await reader.profile_ledger(one.profile_id) or {"facts": [], "identity_errors": []}
    events = await reader.events(one.profile_id, limit=EVENTS, before=asked.query.get("before"))
    assert events is not None
    waiting = await reader.waiting(one.profile_id)
    story = tell(ledger["facts"], {str(d): name for d, name in names.items()}, {h["op_id"] for h in waiting})
    others = set(roots.values()) | {int(h[side]) for h in waiting for side in ("target", "source")}
    subscriptions = [r for r in rules.standing(one.rows) if r.kind == "subscription"]
    return await asked.show(
        "person.html",
        person=one,
        events_total=sum(v.events for v in one.visitors),
        names=names,
        timeline=draw(one.profile_id, devices, turns, roots),
        called=await reader.called(others - {one.profile_id}),
        properties=properties_of(one),
        subscription=subscriptions[-1] if subscriptions else None,
        links=[f for f in ledger["facts"] if f["kind"] == "link"],
        errors=ledger["identity_errors"],
        waiting=waiting,
        story=story[:CHAPTERS],
        more_story=max(0, len(story) - CHAPTERS),
        events=[_event(e, names) for e in events["events"]],
        older=asked.to(f"people/{one.profile_id}", before=events["next"]) + "#events" if events["next"] else "",
        before=asked.query.get("before", ""),
        tentative=any(v.tentative for v in one.visitors),
    )


def _event(event: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """An event with where it happened, and its data in a line."""
    device_id = event["device_id"]
    where = "your server" if device_id is None else names.get(int(device_id), "another device")
    data = event["data"] or {}
    plain = [f"{k}: {v if isinstance(v, str) else msgspec.json.encode(v).decode()}" for k, v in list(data.items())[:4]]
    line = ", ".join(plain)
    more = {k: event[k] for k in ("data", "extras", "page") if event[k]}
    return event | {"where": where, "line": line[:160] + ("…" if len(line) > 160 else ""), "more": more}


async def export(asked: Asked) -> Response:
    """Everything held about a person, as a file."""
    one = await whole(asked, asked.path["profile_id"])
    asked.about(f"profile {one.profile_id}", count(sum(v.events for v in one.visitors), "event"))
    data = msgspec.json.format(msgspec.json.encode(await asked.reader.export(one.profile_id)), indent=2)
    headers = asked.console.headers(asked.request)
    headers |= {"Content-Disposition": f'attachment; filename="person-{one.profile_id}.json"'}
    return Response(data, 200, headers, "application/json")


PAGES = (
    Page("GET", "/s/{site}/people", find, nav="People"),
    Page("GET", "/s/{site}/people/{profile_id}", person, action="looked at"),
    Page("GET", "/s/{site}/people/{profile_id}/export", export, role="editor", action="exported"),
)
