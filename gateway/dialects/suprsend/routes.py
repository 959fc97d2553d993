"""SuprSend's calls: users, merge and events, each one question to the engine or the reader, answered in their words."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from gateway.context import Gateway
from gateway.dialects.suprsend import messages
from gateway.dialects.suprsend.auth import Caller, caller_of, raw_path
from gateway.dialects.suprsend.messages import Json, Record
from gateway.errors import BadRequest, Conflict, Forbidden, GatewayError, MethodNotAllowed, NotFound
from gateway.identity.requests import Command, Operation, Person, ServerBatch
from gateway.model import Key, now
from gateway.web import answer, body_of

MAX_BODY = 800 * 1024
MAX_RECORDS = 400
MAX_DELETES = 100
PAGE = 10
MAX_PAGE = 100
DAY = 24 * 3600 * 1_000_000
STALE_TRIES = 5

TYPES = {
    400: "ValidationError",
    401: "AuthenticationFailed",
    403: "PermissionDenied",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "RequestTooLarge",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}


@dataclass(slots=True)
class Asked:
    """One request: who calls, the id in its path, its query and its body as they arrived."""

    gateway: Gateway
    caller: Caller
    value: str
    query: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> Key:
        """The identity in the path."""
        return messages.person(self.value)

    async def profile(self, key: Key) -> Json | None:
        """The profile an identity names, whatever it is called here."""
        return await self.gateway.reader(self.caller.site).by_identity(key)

    async def user(self, key: Key, message: str = "user [distinct_id: '{}'] not found") -> Json:
        """The profile of a user. Raises NotFound for an id that was never seen, was deleted or was merged away."""
        profile = await self.profile(key)
        if profile is None or messages.distinct_id(profile) != key[1]:
            raise NotFound(message.format(key[1]))
        return profile

    async def keep(self, key: Key, steps: list[list[messages.Row]]) -> Json:
        """Keeps facts about a person, all or none; returns the profile with them."""
        commands = messages.edit_commands(str(self.gateway.new_id()), now(), steps)
        await self.gateway.writer.commands(ServerBatch(self.caller.site, key, commands, now()))
        profile = await self.profile(key)
        if profile is None:
            raise Conflict("the user was deleted at the same moment", "send the same request again")
        return profile


Handler = Callable[[Asked], Awaitable[Response]]


# --- users ------------------------------------------------------------------------------------------------------------


async def upsert(asked: Asked) -> Response:
    key = asked.key
    rows = messages.user_rows(messages.decode(asked.body))
    before = await asked.profile(key)
    if before is None and not any(messages.channel_of(name) == "$inbox" for _, name, _ in rows):
        rows += messages.fresh_inbox()
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
    reader = asked.gateway.reader(asked.caller.site)
    page = await reader.named("id", limit=size, after=asked.query.get("after"), before=asked.query.get("before"))
    meta = {"count": page["count"], "limit": size, "has_prev": page["before"] is not None, "before": page["before"]}
    meta |= {"has_next": page["after"] is not None, "after": page["after"]}
    return answer({"meta": meta, "results": [messages.user_object(p) for p in page["profiles"]]})


async def not_here(asked: Asked) -> Response:
    raise NotFound(
        "this gateway has no lists, objects, tenants and preferences of SuprSend", "see the dialect's README"
    )


# --- events -----------------------------------------------------------------------------------------------------------


async def events(asked: Asked) -> Response:
    """`/event/`: one record or an array of them; the answer is the text OK."""
    body = messages.decode(asked.body, object)
    results = await keep_records(asked, body if isinstance(body, list) else [body])
    refused = [r for r in results if isinstance(r, GatewayError)]
    if refused and len(refused) == len(results):
        raise refused[0]
    response = PlainTextResponse("OK", 202)
    if refused:
        reason = "".join(filter(str.isprintable, refused[0].message.encode("ascii", "replace").decode()))
        response.headers["X-Gateway-Skipped"] = f"{len(refused)}; {reason[:300]}"
    return response


async def event(asked: Asked) -> Response:
    """`/v2/event/`: one record; the answer is JSON with its message id."""
    (result,) = await keep_records(asked, [messages.decode(asked.body)])
    if isinstance(result, GatewayError):
        raise result
    return answer({"status": "success", "message_id": result}, 202)


async def bulk_events(asked: Asked) -> Response:
    """`/v2/bulk/event/`: an array of records, an answer each."""
    results = await keep_records(asked, messages.decode(asked.body, list))
    records = [
        {"status": "error", "status_code": r.status, "error": problem(r)}
        if isinstance(r, GatewayError)
        else {"status": "success", "status_code": 202, "message_id": r}
        for r in results
    ]
    mixed = any(isinstance(r, GatewayError) for r in results)
    return answer({"status": "success", "records": records}, 207 if mixed else 202)


async def keep_records(asked: Asked, entries: list[Any]) -> list[str | GatewayError]:
    """Keeps the good records of a call; each one's message id, or why it was refused. Raises if nothing can be kept."""
    if not entries or len(entries) > MAX_RECORDS:
        raise BadRequest(f"{len(entries)} records in one request", f"send 1 to {MAX_RECORDS}")
    received = now()
    results: list[str | GatewayError] = []
    people: dict[Key, list[tuple[int, Record]]] = defaultdict(list)
    for n, entry in enumerate(entries):
        try:
            record = messages.record_of(entry, received, str(asked.gateway.new_id()))
            record.op_id = asked.caller.prefix + record.op_id
            people[record.key].append((n, record))
            results.append(record.op_id)
        except BadRequest as error:
            results.append(error)
    about = [keep_about(asked, key, records, received) for key, records in people.items()]
    for kept in await asyncio.gather(*about):
        for n, result in kept.items():
            results[n] = result
    return results


async def keep_about(
    asked: Asked, key: Key, records: list[tuple[int, Record]], received: int
) -> dict[int, str | GatewayError]:
    """Keeps the records about one person in their order, as few commits as that takes."""
    caller = asked.caller
    results: dict[int, str | GatewayError] = {}
    waiting: list[Command] = []

    async def commit() -> None:
        if waiting:
            batch = ServerBatch(caller.site, key, list(waiting), received, caller.actor, caller.proof)
            waiting.clear()
            await asked.gateway.writer.commands(batch)

    for n, record in records:
        if record.needs_state:
            await commit()
        try:
            results[n], commands = await commands_of(asked, record, received)
        except (Conflict, NotFound) as error:
            results[n] = error
            continue
        waiting += commands
    await commit()
    return results


async def commands_of(asked: Asked, record: Record, received: int) -> tuple[str, list[Command]]:
    """The message id and commands of a record; no commands for one that is kept already."""
    op_id = record.op_id
    shown: Json = {}
    if record.merge:
        await identify(asked, record, record.merge)
    if record.unsets_channel:
        profile = await asked.profile(record.key)
        shown = profile["properties"] if profile else {}
    if record.idempotency_key:
        # Kept on the day it came: a key counts for 24 hours, so that of today or yesterday may still be in force.
        ids = [f"{asked.caller.prefix}idem-{record.idempotency_key}-{received // DAY - n}" for n in (0, 1)]
        known = await asked.gateway.reader(asked.caller.site).server_messages(record.key, ids)
        for op_id in ids:
            if received - known.get(op_id, 0) < DAY:
                return op_id, []
        op_id = ids[0]
    return op_id, record.commands(op_id, shown)


async def identify(asked: Asked, record: Record, anonymous: Key) -> None:
    """`$identify` with an `$anon_id`: what was anonymous is this person from now on."""
    if anonymous == record.key:
        return
    people = [Person(key=record.key), Person(key=anonymous)]
    caller = asked.caller
    operation = Operation(caller.site, "reidentify", record.op_id, people, actor=caller.actor, proof=caller.proof)
    await asked.gateway.writer.operation(operation)


# --- routing ----------------------------------------------------------------------------------------------------------

ID = rb"([^/]*)"
USERS: tuple[tuple[bytes, dict[str, Handler]], ...] = (
    (rb"/v1/user/?", {"GET": list_users}),
    (rb"/v1/bulk/user/?", {"DELETE": delete_many}),
    (rb"/v1/user/" + ID + rb"/?", {"POST": upsert, "GET": get, "PATCH": edit, "DELETE": delete}),
    (rb"/v1/user/" + ID + rb"/merge/?", {"POST": merge}),
    (rb"/v1/user/.*", dict.fromkeys(("GET", "POST", "PATCH", "DELETE"), not_here)),
)
EVENTS: tuple[tuple[bytes, dict[str, Handler]], ...] = (
    (rb"/event/?", {"POST": events}),
    (rb"/v2/event/?", {"POST": event}),
    (rb"/v2/bulk/event/?", {"POST": bulk_events}),
)


class RawRoute(Route):
    """A route that matches the path as it was sent: an id may hold a slash, percent-encoded."""

    def __init__(self, pattern: bytes, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__("/" + pattern.decode("ascii", "replace").strip("/"), endpoint)
        self.methods = None  # each: the call itself refuses the wrong ones, in this dialect's words
        self.pattern = re.compile(pattern, re.DOTALL)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the path as it was sent is this call's; the id in it stays encoded."""
        found = self.pattern.fullmatch(raw_path(scope)) if scope["type"] == "http" else None
        if found is None:
            return Match.NONE, {}
        value = found.group(1) if found.groups() else b""
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {"value": value}}


def endpoint(
    gateway: Gateway, handlers: dict[str, Handler], *, pages: bool
) -> Callable[[Request], Awaitable[Response]]:
    """Checks who calls and answers; `pages`: the public key is enough, and pages of other origins may call."""

    async def serve(request: Request) -> Response:
        if pages and request.method == "OPTIONS":
            return preflight(request)
        try:
            response = await called(request)
        except GatewayError as error:
            response = refusal(error)
        response.headers["Cache-Control"] = "no-store"
        if pages and (origin := request.headers.get("origin")):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Vary"] = "Origin"
        return response

    async def called(request: Request) -> Response:
        body = await body_of(request, MAX_BODY)
        caller = await caller_of(gateway, request, body)
        if caller.public and not pages:
            raise Forbidden("this call needs the secret key", "send Authorization: Bearer SECRET_KEY from a server")
        handler = handlers.get(request.method)
        if handler is None:
            return refusal(MethodNotAllowed(f"{request.method} is not possible here"), {"Allow": ", ".join(handlers)})
        asked = Asked(gateway, caller, text_of(request.path_params["value"]), request.query_params, body)
        return await handler(asked)

    return serve


def text_of(segment: bytes) -> str:
    """The id that a path segment stands for. Raises BadRequest if it is not UTF-8."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise BadRequest("the distinct_id in the path is not UTF-8", "percent-encode it") from error


def preflight(request: Request) -> Response:
    """What a browser asks before it sends an Authorization header elsewhere."""
    headers = {
        "Access-Control-Allow-Origin": request.headers.get("origin", "*"),
        "Access-Control-Allow-Methods": "POST, OPTIONS",
        "Access-Control-Allow-Headers": "authorization, content-type, x-ss-signature",
        "Access-Control-Max-Age": "7200",
        "Vary": "Origin",
    }
    return Response(status_code=204, headers=headers)


def problem(error: GatewayError) -> Json:
    """A refusal inside an event answer."""
    return {"message": error.message, "type": TYPES.get(error.status, "Error")}


def refusal(error: GatewayError, headers: dict[str, str] | None = None) -> Response:
    """A refusal in the shapes that the SDKs read: `message`, and for the v2 calls `error` and `records`."""
    code = error.code if error.status != 400 else "error"
    body = {"code": error.status, "error_code": code, "type": TYPES.get(error.status, "Error")}
    body |= {"message": error.message, "detail": f"{error.message}. {error.hint}" if error.hint else error.message}
    body |= {"status": "error", "error": problem(error), "records": []}
    retry = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    return answer(body, error.status, {**(headers or {}), **retry})


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The calls as routes."""
    doors = [(USERS, False), (EVENTS, True)]
    return [
        RawRoute(pattern, endpoint(gateway, handlers, pages=pages))
        for calls, pages in doors
        for pattern, handlers in calls
    ]
