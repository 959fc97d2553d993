"""Pages about people: finding them, one person with everything known, what they did."""

from __future__ import annotations

from starlette.responses import Response

from gateway.console.calls import Asked, Page, number
from gateway.reads import LAST_ID

PEOPLE = 25
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
        "people.html", people=people, query=query, chosen=chosen, lists=LISTS, more=more, empty=empty
    )


PAGES = (Page("GET", "/s/{site}/people", find, nav="People"),)
