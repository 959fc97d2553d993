"""The calls about users: upsert, get, edit, delete, list, merge."""

from __future__ import annotations

import re

from starlette.responses import Response

from gateway.dialects.suprsend import channels, messages
from gateway.dialects.suprsend.calls import Asked
from gateway.dialects.suprsend.channels import Json
from gateway.errors import BadRequest, Conflict, NotFound
from gateway.identity.requests import Operation, Person
from gateway.model import Key
from gateway.web import answer

MAX_DELETES = 100
PAGE = 10
MAX_PAGE = 100
STALE_TRIES = 5


async def upsert(asked: Asked) -> Response:
    key = asked.key
    rows = messages.user_rows(messages.decode(asked.body))
    before = await asked.profile(key)
    if before is None and not any(channels.channel_of(name) == "$inbox" for _, name, _ in rows):
        rows += channels.fresh_inbox()
    return answer(messages.user_object(await asked.keep(key, [rows])), 201)


async def get(asked: Asked) -> Response:
    return answer(messages.user_object(await asked.user(asked.key)))


async def edit(asked: Asked) -> Response:
    key = asked.key
    operations = messages.edits_of(messages.decode(asked.body))
    before = await asked.user(key)
    steps = messages.edit_rows(operations, before["properties"])
    profile = await asked.keep(key, steps) if steps else before
    return answer(messages.user_object(profile), 202)


async def delete(asked: Asked) -> Response:
    if not await erase(asked, asked.key):
        raise NotFound(f"user [distinct_id: '{asked.key[1]}'] not found")
    return Response(status_code=204)


async def delete_many(asked: Asked) -> Response:
    values = messages.decode(asked.body).get("distinct_ids")
    if not isinstance(values, list) or not values:
        raise BadRequest("distinct_ids must be an array of ids")
    if len(values) > MAX_DELETES:
        raise BadRequest(f"{len(values)} distinct_ids", f"send at most {MAX_DELETES}")
    for key in [messages.person(v) for v in values]:
        await erase(asked, key)
    return Response(status_code=204)


async def erase(asked: Asked, key: Key) -> bool:
    """Deletes a user; False if there is none. An id that was merged away never deletes the survivor."""
    try:
        profile = await asked.user(key)
    except NotFound:
        return False
    who = Person(profile_id=int(profile["profile_id"]))
    done = await asked.gateway.writer.operation(Operation(asked.caller.site, "delete", "", [who]))
    return done.outcome == "deleted"


async def merge(asked: Asked) -> Response:
    primary = asked.key
    secondary = messages.person(messages.decode(asked.body).get("from_user_id"), "from_user_id")
    if primary == secondary:
        raise BadRequest("a user cannot be merged into itself", "from_user_id must be another user")
    for _ in range(STALE_TRIES):
        try:
            return answer(messages.user_object(await merge_users(asked, primary, secondary)), 201)
        except Conflict as error:
            if error.code != "stale_preview":
                raise
    raise Conflict("these users keep changing", "send the same request again")


async def merge_users(asked: Asked, primary: Key, secondary: Key) -> Json:
    """Merges what are two users here; the merged one. A plan made first tells if anything changed since we looked."""
    site, writer = asked.caller.site, asked.gateway.writer
    people = [Person(key=primary), Person(key=secondary)]
    try:
        plan = (await writer.operation(Operation(site, "preview", "", people))).extra
    except NotFound:
        plan = {}
    await asked.user(primary)
    await asked.user(secondary, "from_user_id: [distinct_id: '{}'] not found")
    done = await writer.operation(Operation(site, "merge", "", people, plan_hash=plan.get("plan_hash", "stale")))
    if done.outcome != "merged":
        reasons = "; ".join(plan.get("reasons", ())) or done.outcome
        raise Conflict(f"these users cannot be merged: {reasons}", "the native API merges with force")
    return await asked.user(primary)


async def list_users(asked: Asked) -> Response:
    limit = asked.query.get("limit") or str(PAGE)
    if not re.fullmatch(r"[1-9][0-9]{0,8}", limit):
        raise BadRequest("limit must be a number from 1 up")
    size = min(int(limit), MAX_PAGE)
    lists = asked.gateway.lists(asked.caller.site)
    page = await lists.named("id", limit=size, after=asked.query.get("after"), before=asked.query.get("before"))
    meta = {"count": page["count"], "limit": size, "has_prev": page["before"] is not None, "before": page["before"]}
    meta |= {"has_next": page["after"] is not None, "after": page["after"]}
    return answer({"meta": meta, "results": [messages.user_object(p) for p in page["profiles"]]})


async def not_here(asked: Asked) -> Response:
    raise NotFound(
        "this gateway has no lists, objects, tenants and preferences of SuprSend", "see the dialect's README"
    )
