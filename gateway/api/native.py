"""The calls of the native API: each names a person, asks the engine or the reader once, and answers."""

from __future__ import annotations

from typing import Any

from starlette.routing import BaseRoute

from gateway.api import receivers, shapes
from gateway.api.calls import Asked, Call
from gateway.commands import identity
from gateway.context import Gateway
from gateway.errors import BadRequest, GatewayError, NotFound
from gateway.feed import Cursor, Feed
from gateway.identity.decide import Answer
from gateway.identity.requests import Operation, Person
from gateway.links import make_link
from gateway.model import Key
from gateway.reads import Json, page_size

KINDS = ("id", "email", "phone")
MISSING = "it may never have been seen, or was deleted"


def person(asked: Asked, ref: str | int | shapes.Ref) -> Person:
    """Whom a request means. Raises BadRequest if it names nobody, or several."""
    if not isinstance(ref, shapes.Ref):
        return Person(key=named(ref))
    given = [f for f in ("value", "profile_id", "device_id") if getattr(ref, f) is not None]
    if len(given) != 1:
        raise BadRequest("name the person one way", 'send an id, {"kind","value"}, {"profile_id"} or {"device_id"}')
    if ref.value is not None:
        return Person(key=named(ref.value, ref.kind))
    if ref.profile_id is not None:
        return Person(profile_id=number(ref.profile_id, "profile_id"))
    return Person(device_id=asked.gateway.device_id(asked.site, ref.device_id or ""))


def named(value: object, kind: str = "id") -> Key:
    """An identity. Raises BadRequest for a value that must not be one."""
    if kind not in KINDS:
        raise BadRequest(f"there is no identity kind {kind[:40]!r}", f"use one of {', '.join(KINDS)}")
    key, blocked = identity(value, kind)
    if key is None:
        raise BadRequest(blocked or "not an identity", "send the person's own id", code="blocked_identity")
    return key


def number(value: object, what: str) -> int:
    """One of our ids. Raises NotFound for what cannot be one."""
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) >= 2**63:
        raise NotFound(f"there is no {what} {text[:60]!r}", "ids are the digits that an answer showed")
    return int(text)


async def outcome(asked: Asked, result: Answer) -> Json:
    """The answer of every operation."""
    profile = await asked.gateway.reader(asked.site).profile(result.node) if result.node else None
    return {"op_id": result.op_id, "outcome": result.outcome, "profile": profile}


async def run(asked: Asked, kind: str, **more: Any) -> Answer:
    """Carries out one operation."""
    more["op_id"] = more.get("op_id") or ""
    return await asked.gateway.writer.operation(Operation(asked.site, kind, **more))


def found(data: Json | None, what: str) -> Json:
    """`data`, or NotFound."""
    if data is None:
        raise NotFound(f"there is no {what}", MISSING)
    return data


# --- reading ----------------------------------------------------------------------------------------------------------


async def find_profile(asked: Asked) -> tuple[int, Any]:
    query, reader = asked.query, asked.gateway.reader(asked.site)
    given = [n for n in ("identity", "device_id", "q") if getattr(query, n) is not None]
    if len(given) != 1:
        raise BadRequest("send one of identity, device_id and q", "an empty q lists everybody")
    if query.identity is not None:
        return 200, found(await reader.by_identity(named(query.identity, query.kind)), "profile with this identity")
    if query.device_id is not None:
        device_id = asked.gateway.device_id(asked.site, query.device_id)
        return 200, found(await reader.by_device(device_id), "profile on this device")
    return 200, await asked.gateway.lists(asked.site).search(query.q, after=query.after, limit=query.limit)


async def get_profile(asked: Asked) -> tuple[int, Any]:
    profile_id = number(asked.path["profile_id"], "profile")
    return 200, found(await asked.gateway.reader(asked.site).profile(profile_id), "profile with this id")


async def get_events(asked: Asked) -> tuple[int, Any]:
    profile_id = number(asked.path["profile_id"], "profile")
    reader = asked.gateway.reader(asked.site)
    page = await reader.events(profile_id, limit=asked.query.limit, before=asked.query.before)
    return 200, found(page, "profile with this id")


async def get_profile_ledger(asked: Asked) -> tuple[int, Any]:
    profile_id = number(asked.path["profile_id"], "profile")
    return 200, found(await asked.gateway.reader(asked.site).profile_ledger(profile_id), "profile with this id")


async def get_export(asked: Asked) -> tuple[int, Any]:
    profile_id = number(asked.path["profile_id"], "profile")
    return 200, found(await asked.gateway.reader(asked.site).export(profile_id), "profile with this id")


async def get_ledger(asked: Asked) -> tuple[int, Any]:
    q = asked.query
    page = await asked.gateway.reader(asked.site).ledger(kind=q.kind, outcome=q.outcome, after=q.after, limit=q.limit)
    return 200, page


async def get_fact(asked: Asked) -> tuple[int, Any]:
    return 200, found(await asked.gateway.reader(asked.site).fact(asked.path["op_id"]), "fact with this op id")


async def get_held(asked: Asked) -> tuple[int, Any]:
    return 200, await asked.gateway.reader(asked.site).held()


async def get_errors(asked: Asked) -> tuple[int, Any]:
    q = asked.query
    return 200, await asked.gateway.reader(asked.site).identity_errors(code=q.code, after=q.after, limit=q.limit)


async def get_duplicates(asked: Asked) -> tuple[int, Any]:
    return 200, await asked.gateway.lists(asked.site).duplicates()


async def get_feed(asked: Asked) -> tuple[int, Any]:
    q = asked.query
    after = Cursor.read(q.after) if q.after else Cursor()

    async def wanted() -> bool:
        guard = asked.request.scope.get("state", {}).get("guard")
        return not (guard and guard.stopping) and not await asked.request.is_disconnected()

    page = await Feed(asked.gateway.store, asked.site).wait(after, page_size(q.limit), q.wait, wanted)
    return 200, {"entries": page.entries, "next": str(page.next)}


# --- changing ---------------------------------------------------------------------------------------------------------


async def reidentify(asked: Asked) -> tuple[int, Any]:
    body = asked.body
    (new, blocked_new), (old, blocked_old) = identity(body.new), identity(body.old)
    blocked = blocked_new or blocked_old
    people = [Person(key=new), Person(key=old)]
    return 200, await outcome(asked, await run(asked, "reidentify", people=people, op_id=body.op_id, blocked=blocked))


def _merge(asked: Asked, merge: shapes.Merge) -> dict[str, Any]:
    people = [person(asked, merge.target), person(asked, merge.source)]
    keys = {"op_id": merge.op_id, "plan_hash": merge.plan_hash, "force": merge.force, "reason": merge.reason}
    return {"people": people, **keys}


async def merge(asked: Asked) -> tuple[int, Any]:
    return 201, await outcome(asked, await run(asked, "merge", **_merge(asked, asked.body)))


async def preview(asked: Asked) -> tuple[int, Any]:
    reader = asked.gateway.reader(asked.site)
    people = [person(asked, asked.body.target), person(asked, asked.body.source)]
    plan = (await run(asked, "preview", people=people)).extra
    target, source = await reader.profile(plan["target"]), await reader.profile(plan["source"])
    conflicts = []
    if target and source and target["profile_id"] != source["profile_id"]:
        conflicts = await reader.conflicts(target, source)
    shown = {"target": target and target["profile_id"], "source": source and source["profile_id"]}
    return 200, plan | shown | {"conflicts": conflicts}


async def merge_many(asked: Asked) -> tuple[int, Any]:
    results = []
    for row in asked.body.merges:
        try:
            answer = await run(asked, "merge", **_merge(asked, row))
            roots = await asked.gateway.reader(asked.site).roots([answer.node])
            root = roots.get(answer.node)
            shown = {"op_id": answer.op_id, "outcome": answer.outcome, "message": None}
            results.append(shown | {"profile_id": str(root) if root else None})
        except GatewayError as error:
            if error.status == 503:
                raise
            known = error.code if error.code in ("not_found", "op_id_conflict", "stale_preview") else "refused_blocked"
            shown = {"op_id": row.op_id, "outcome": known, "message": error.message}
            results.append(shown | {"profile_id": None})
    return 200, {"results": results}


async def undo(asked: Asked) -> tuple[int, Any]:
    body = asked.body
    answer = await run(asked, "undo", of=asked.path["op_id"], op_id=body.op_id, reason=body.reason)
    return 200, await outcome(asked, answer)


async def demerge(asked: Asked) -> tuple[int, Any]:
    refs = asked.body.identities
    keys = [named(r.value, r.kind) if isinstance(r, shapes.IdentityRef) else named(r) for r in refs]
    results = []
    for key in keys:
        answer = await run(asked, "demerge", people=[Person(key=key)], dry_run=asked.body.dry_run)
        devices, names = answer.extra.get("devices", []), answer.extra.get("identities", [])
        row = {"identity": {"kind": key[0], "value": key[1]}, "op_id": answer.op_id, "outcome": answer.outcome}
        results.append(row | {"devices": devices, "identities": names})
    return 200, {"dry_run": asked.body.dry_run, "results": results}


async def unlink(asked: Asked) -> tuple[int, Any]:
    device = Person(device_id=asked.gateway.device_id(asked.site, asked.path["device_id"]))
    answer = await run(asked, "unlink", people=[device], op_id=asked.body.op_id, reason=asked.body.reason)
    if answer.outcome == "not_found":
        raise NotFound("there is no profile on this device", MISSING)
    return 200, await outcome(asked, answer)


async def delete(asked: Asked) -> tuple[int, Any]:
    who = Person(profile_id=number(asked.path["profile_id"], "profile"))
    answer = await run(asked, "delete", people=[who], op_id=asked.query.op_id)
    if answer.outcome == "not_found":
        raise NotFound("there is no profile with this id", MISSING)
    counts = answer.extra.get("deleted", {})
    return 200, {"op_id": answer.op_id, "outcome": answer.outcome, "profile": None, "deleted": counts}


async def approve(asked: Asked) -> tuple[int, Any]:
    answer = await run(asked, "approve", of=asked.path["op_id"], op_id=asked.body.op_id, reason=asked.body.reason)
    return 200, await outcome(asked, answer)


async def reject(asked: Asked) -> tuple[int, Any]:
    answer = await run(asked, "reject", of=asked.path["op_id"], op_id=asked.body.op_id, reason=asked.body.reason)
    return 200, await outcome(asked, answer)


async def make_a_link(asked: Asked) -> tuple[int, Any]:
    body = asked.body
    who = person(asked, body.identity)
    if who.key is None:
        raise BadRequest("a link names an identity", 'send an id or {"kind","value"}')
    url = asked.gateway.settings.public_url or str(asked.request.base_url).rstrip("/")
    options = {"campaign": body.campaign, "expires_in": body.expires_in}
    return 200, make_link(asked.gateway.signer, asked.site, who.key, body.url, gateway_url=url, **options)


CALLS = (
    Call("GET", "/v1/profiles", find_profile, "Find a profile by identity or device, or search",
         {200: (shapes.ProfileShown, shapes.Profiles)}, query=shapes.FindProfile, errors=(404,)),
    Call("GET", "/v1/profiles/{profile_id}", get_profile, "A profile; a merged-away id answers the survivor",
         {200: shapes.ProfileShown}, errors=(404,)),
    Call("GET", "/v1/profiles/{profile_id}/events", get_events, "Its events, newest first",
         {200: shapes.Events}, query=shapes.EventPage, errors=(404,)),
    Call("GET", "/v1/profiles/{profile_id}/ledger", get_profile_ledger, "Why these are one person",
         {200: shapes.ProfileLedger}, errors=(404,)),
    Call("GET", "/v1/profiles/{profile_id}/export", get_export, "Everything held about a person",
         {200: shapes.Export}, errors=(404,)),
    Call("DELETE", "/v1/profiles/{profile_id}", delete, "Erase a person", {200: shapes.Deleted},
         query=shapes.DeleteOptions, errors=(404, 409)),
    Call("POST", "/v1/reidentify", reidentify, "old is new from now on", {200: shapes.Outcome},
         body=shapes.Reidentify, errors=(409,)),
    Call("POST", "/v1/merges/preview", preview, "What a merge would do; changes nothing", {200: shapes.Plan},
         body=shapes.Pair, errors=(404,)),
    Call("POST", "/v1/merges", merge, "Make two profiles one", {201: shapes.Outcome}, body=shapes.Merge,
         errors=(404, 409)),
    Call("POST", "/v1/merges/bulk", merge_many, "Many merges, an outcome each", {200: shapes.MergeRows},
         body=shapes.Merges),
    Call("POST", "/v1/operations/{op_id}/undo", undo, "As if a merge, reidentify, demerge or unlink had never happened",
         {200: shapes.Outcome}, body=shapes.Undo, body_optional=True, errors=(404, 409)),
    Call("POST", "/v1/demerge", demerge, "Take profiles apart into their devices", {200: shapes.DemergeRows},
         body=shapes.Demerge),
    Call("POST", "/v1/devices/{device_id}/unlink", unlink, "Take one device off its profile", {200: shapes.Outcome},
         body=shapes.Undo, body_optional=True, errors=(404, 409)),
    Call("GET", "/v1/ledger", get_ledger, "The ledger, oldest first", {200: shapes.Facts}, query=shapes.LedgerPage),
    Call("GET", "/v1/ledger/{op_id}", get_fact, "One fact", {200: shapes.FactShown}, errors=(404,)),
    Call("GET", "/v1/held", get_held, "Merges that wait for an operator", {200: shapes.Held}),
    Call("POST", "/v1/held/{op_id}/approve", approve, "Carry out a held merge", {200: shapes.Outcome},
         body=shapes.Undo, body_optional=True, errors=(404, 409)),
    Call("POST", "/v1/held/{op_id}/reject", reject, "Close a held merge", {200: shapes.Outcome}, body=shapes.Undo,
         body_optional=True, errors=(404, 409)),
    Call("GET", "/v1/identity-errors", get_errors, "Refused and doubtful identity facts", {200: shapes.Errors},
         query=shapes.ErrorPage),
    Call("GET", "/v1/duplicates", get_duplicates, "Profiles with the same address", {200: shapes.Duplicates},
         query=shapes.DuplicateRule),
    Call("GET", "/v1/feed", get_feed, "Events and identity changes, in the order of their commits",
         {200: shapes.FeedShown}, query=shapes.FeedPage, errors=(410,)),
    Call("POST", "/v1/links", make_a_link, "A signed link for an email", {200: shapes.LinkShown}, body=shapes.Link,
         errors=(404,)),
    *receivers.CALLS,
)  # fmt: skip


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The calls as routes."""
    return [call.route(gateway) for call in CALLS]
