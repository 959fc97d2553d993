"""Setting one person right: merge with preview, undo, unlink, reset identities, delete. Each asks once more first."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.console.calls import Asked, Page, number
from gateway.console.people import device_names, whole
from gateway.console.story import chapter
from gateway.console.words import count, title
from gateway.errors import BadRequest, Conflict, GatewayError, NotFound
from gateway.exports import Whole
from gateway.identity.requests import Person

CANDIDATES = 10
MAX_REASON = 500
OUTCOMES = {
    "merged": "They are one person now.",
    "noop": "They were one person already: nothing was changed.",
    "refused_excluded": "Nothing was changed: an undone merge keeps them apart. Tick the box to lift that.",
    "refused_limit": "Nothing was changed: together they would have too many devices.",
    "undone": "Undone, as if it had never happened.",
    "nothing_to_undo": "There was nothing left to undo: nothing was changed.",
    "unlinked": "The device is a stranger of its own now.",
    "demerged": "The identities were reset: every device is a stranger of its own now.",
    "deleted": "Deleted, with everything that was held.",
}
"""What the outcomes of operations mean to whoever asked for them."""


def said(outcome: str) -> tuple[str, str]:
    """The line for an outcome, and its tone."""
    good = outcome in ("merged", "undone", "unlinked", "demerged", "deleted")
    return OUTCOMES.get(outcome, f"Outcome: {outcome}."), "good" if good else "plain"


def reason_of(asked: Asked) -> str | None:
    """Why, in the operator's words, as the ledger keeps it."""
    return asked.form.get("reason", "").strip()[:MAX_REASON] or None


def named(person: Whole) -> Person:
    """How an operation names a person: as they are called, so that the ledger can be read."""
    return Person(key=person.primary) if person.primary else Person(profile_id=person.profile_id)


def person_path(person: Whole, more: str = "") -> str:
    """The path of a person's page below the site."""
    return f"people/{person.profile_id}{more}"


# --- merge ------------------------------------------------------------------------------------------------------------


async def merge_form(asked: Asked) -> Response:
    """First whom to merge with, then what would happen."""
    one = await whole(asked, asked.path["profile_id"])
    if not asked.query.get("with"):
        return await _choose(asked, one)
    other = await whole(asked, asked.query["with"])
    return await _preview(asked, *((other, one) if asked.query.get("keep") == "other" else (one, other)))


async def _choose(asked: Asked, one: Whole) -> Response:
    query, reader = asked.query.get("q", "").strip()[:300], asked.reader
    if query:
        ids, _ = await reader.find(query, limit=CANDIDATES)
    else:
        emails = {str(v) for v in (one.properties.get("email"),) if isinstance(v, str) and v}
        emails |= {key.key[1] for key in one.identities if "@" in key.key[1]}
        same = await reader.showing("email", emails)
        ids = sorted({root for roots in same.values() for root in roots})
        ids += [r for r in (await reader.roots_of({("id", e) for e in emails})).values() if r not in ids]
    found = [p for p in await reader.shown_people(ids[: CANDIDATES + 1]) if p.profile_id != one.profile_id]
    asked.about(f"profile {one.profile_id}", "choosing whom to merge with")
    return await asked.show("choose.html", person=one, people=found[:CANDIDATES], query=query)


async def _preview(
    asked: Asked, target: Whole, source: Whole, status: int = 200, error: GatewayError | None = None
) -> Response:
    reader = asked.reader
    if target.profile_id == source.profile_id:
        raise BadRequest("these are one person already", "choose somebody else")
    plan = (await asked.operate("preview", people=[named(target), named(source)])).extra
    shown = [await reader.profile(p.profile_id) for p in (target, source)]
    conflicts = await reader.conflicts(shown[0], shown[1]) if shown[0] and shown[1] else []
    only = {k: v for k, v in source.properties.items() if k not in target.properties}
    asked.about(f"profile {target.profile_id}", f"merge with {source.profile_id} previewed")
    return await asked.show(
        "merge.html", status, target=target, source=source, plan=plan, conflicts=conflicts, only=only, error=error
    )


async def merge(asked: Asked) -> Response:
    """Carries out what was previewed; if the people changed since, shows the new preview."""
    form = asked.form
    target, source = await whole(asked, form.get("target", "")), await whole(asked, form.get("source", ""))
    more: dict[str, Any] = {"plan_hash": form.get("plan_hash") or None, "force": form.get("force") == "yes"}
    try:
        answer = await asked.operate("merge", people=[named(target), named(source)], reason=reason_of(asked), **more)
    except Conflict as error:
        response = await _preview(asked, target, source, 409, error)
        asked.about(f"profile {target.profile_id}", f"merge with {source.profile_id} refused: {error.code}")
        return response
    asked.about(f"profile {target.profile_id}", f"with {source.profile_id}: {answer.outcome}, {answer.op_id}")
    return asked.back(asked.to(person_path(target)), *said(answer.outcome))


# --- undo -------------------------------------------------------------------------------------------------------------


async def undo_form(asked: Asked) -> Response:
    """What would be undone, tried out without keeping it."""
    op_id = asked.query.get("op", "")
    fact = await asked.reader.fact(op_id)
    if fact is None:
        raise NotFound("there is no such operation", "it may have been deleted with the person")
    trial = await asked.operate("undo", of=op_id, dry_run=True)
    told = chapter(fact, {str(fact["device_id"]): "A browser"})
    return await asked.show("undo.html", told=told, op_id=op_id, trial=trial, person=asked.query.get("person", ""))


async def undo(asked: Asked) -> Response:
    """Takes one operation back."""
    op_id = asked.form.get("op", "")
    answer = await asked.operate("undo", of=op_id, reason=reason_of(asked))
    root = await asked.reader.root(answer.node) if answer.node else None
    asked.about(f"profile {root}" if root else "", f"undid {op_id}: {answer.outcome}")
    back = asked.form.get("person", "") or root
    known = back and await asked.reader.root(number(back, "person"))
    return asked.back(asked.to(f"people/{back}" if known else "people"), *said(answer.outcome))


# --- take apart -------------------------------------------------------------------------------------------------------


async def unlink_form(asked: Asked) -> Response:
    """What leaves with a device, and what stays."""
    device_id = number(asked.path["device_id"], "device")
    root = await asked.reader.on_device(device_id)
    if root is None:
        raise NotFound("there is nobody on this device", "it may have been deleted")
    one = await whole(asked, root)
    leaving = [v for v in one.visitors if v.device_id == device_id]
    asked.about(f"profile {root}", f"unlinking device {device_id}")
    name = device_names(one).get(device_id, "This device")
    return await asked.show("unlink.html", person=one, device_id=device_id, name=name, leaving=leaving)


async def unlink(asked: Asked) -> Response:
    """Takes one device off its person."""
    device_id = number(asked.path["device_id"], "device")
    root = await asked.reader.on_device(device_id)
    answer = await asked.operate("unlink", people=[Person(device_id=device_id)], reason=reason_of(asked))
    asked.about(f"profile {root}", f"device {device_id}: {answer.outcome}")
    stays = root and await asked.reader.root(root)
    return asked.back(asked.to(f"people/{root}" if stays else "people"), *said(answer.outcome))


async def reset_form(asked: Asked) -> Response:
    """How many identities and devices a reset takes apart."""
    one = await whole(asked, asked.path["profile_id"])
    if one.primary is None:
        raise BadRequest("this person has no identity", "there is nothing to reset")
    asked.about(f"profile {one.profile_id}", "reset previewed")
    return await asked.show("reset.html", person=one)


async def reset(asked: Asked) -> Response:
    """Every device becomes a stranger of its own, all identities are dropped."""
    one = await whole(asked, asked.path["profile_id"])
    if one.primary is None:
        raise BadRequest("this person has no identity", "there is nothing to reset")
    answer = await asked.operate("demerge", people=[Person(key=one.primary)], reason=reason_of(asked))
    asked.about(f"profile {one.profile_id}", f"{answer.outcome}, {answer.op_id}")
    done, tone = said(answer.outcome)
    return asked.back(asked.to("reset", op=answer.op_id), done, tone)


async def after_reset(asked: Asked) -> Response:
    """Where a reset leads: its person is no more, so this is the place to take it back."""
    fact = await asked.reader.fact(asked.query.get("op", ""))
    if fact is None:
        raise NotFound("there is no such operation", "it may have been deleted with the person")
    return await asked.show("after_reset.html", told=chapter(fact, {}))


# --- delete -----------------------------------------------------------------------------------------------------------


def typed_to_delete(person: Whole) -> str:
    """What an operator types to delete somebody: what they are called, or the end of the profile id."""
    return person.primary[1] if person.primary else str(person.profile_id)[-6:]


async def delete_form(asked: Asked) -> Response:
    """What goes, and what to type."""
    one = await whole(asked, asked.path["profile_id"])
    asked.about(f"profile {one.profile_id}", "deletion asked for")
    return await _delete_form(asked, one)


async def _delete_form(asked: Asked, one: Whole, status: int = 200, error: GatewayError | None = None) -> Response:
    events = sum(v.events for v in one.visitors)
    return await asked.show("delete.html", status, person=one, typed=typed_to_delete(one), events=events, error=error)


async def delete(asked: Asked) -> Response:
    """Erases a person, if what was typed is right."""
    one = await whole(asked, asked.path["profile_id"])
    asked.about(f"profile {one.profile_id}")
    if asked.form.get("typed", "").strip() != typed_to_delete(one):
        asked.detail = "refused: not typed"
        error = BadRequest("what you typed is something else", "nothing was deleted")
        return await _delete_form(asked, one, 400, error)
    called = title(one)
    answer = await asked.operate("delete", people=[Person(profile_id=one.profile_id)])
    gone = answer.extra.get("deleted", {})
    asked.detail = f"{answer.outcome}, {answer.op_id}"
    what = f"{called} was deleted: {count(gone.get('events', 0), 'event')} and everything else that was held."
    return asked.back(asked.to("people"), what if answer.outcome == "deleted" else said(answer.outcome)[0])


PAGES = (
    Page("GET", "/s/{site}/people/{profile_id}/merge", merge_form, role="editor", action="looked at"),
    Page("POST", "/s/{site}/people/{profile_id}/merge", merge, role="editor", action="merged"),
    Page("GET", "/s/{site}/undo", undo_form, role="editor", action="looked at"),
    Page("POST", "/s/{site}/undo", undo, role="editor", action="undid"),
    Page("GET", "/s/{site}/devices/{device_id}/unlink", unlink_form, role="editor", action="looked at"),
    Page("POST", "/s/{site}/devices/{device_id}/unlink", unlink, role="editor", action="unlinked a device"),
    Page("GET", "/s/{site}/people/{profile_id}/reset", reset_form, role="editor", action="looked at"),
    Page("POST", "/s/{site}/people/{profile_id}/reset", reset, role="editor", action="reset identities"),
    Page("GET", "/s/{site}/reset", after_reset, role="editor", action="looked at"),
    Page("GET", "/s/{site}/people/{profile_id}/delete", delete_form, role="editor", action="looked at"),
    Page("POST", "/s/{site}/people/{profile_id}/delete", delete, role="editor", action="deleted"),
)
