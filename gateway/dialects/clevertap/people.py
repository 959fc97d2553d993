"""Calls about known people: one profile, taking profiles apart, deleting them, their phones and subscriptions."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from gateway.commands import identity
from gateway.dialects.clevertap import answers
from gateway.dialects.clevertap.calls import SUCCESS, Asked, Json, records_of, unprocessed, values_of
from gateway.dialects.clevertap.messages import LOCATORS, MAX_RECORDS, RecordError, phone
from gateway.dialects.clevertap.uploads import devices_of
from gateway.errors import BadRequest
from gateway.exports import Exports, Whole
from gateway.identity.requests import Batch, Command, Operation, Person, ServerBatch, Writes
from gateway.model import OPTIONAL_KINDS, Key, now

MAX_NAMED = 100
NOT_FOUND = {"status": "fail", "error": "Profile not found", "code": 404}
CHANNELS = {"email": ("email", "MSG-email"), "phone": ("phone", "MSG-sms"), "whatsapp": ("phone", "MSG-whatsapp")}
"""Types of subscriptions: where the address is held, and CleverTap's property that says whether it is wanted."""

STATUSES = {"unsubscribe": "false", "resubscribe": "true"}


async def profile(asked: Asked) -> Json:
    """GET /1/profile.json?identity=|email=|objectId="""
    given = [(n, v) for n in ("identity", "email", "objectId") if (v := asked.parameter(n))]
    if len(given) != 1:
        raise BadRequest("send one of identity, email and objectId")
    exports = asked.exports
    root = await _root(asked, exports, *given[0])
    people = await exports.people([root], events=True) if root else {}
    if root not in people:
        return NOT_FOUND
    bad = (await exports.bad_identities()).get(root, [])
    return {"status": "success", "record": answers.profile_record(people[root], bad)}


async def _root(asked: Asked, exports: Exports, name: str, value: str) -> int:
    """The profile that a question means, 0 for none."""
    if name == "objectId":
        devices = await devices_of(exports, {value.removesuffix(":OO")})
        return next(iter([await exports.on_device(d) or 0 for d in devices.values()]), 0)
    # A plus sign that was not encoded has become a space on its way.
    for spelling in dict.fromkeys((value, value.replace(" ", "+"))):
        kinds = ("email", "id") if name == "email" else ("id", *asked.site.identity_kinds[1:])
        keys = [k for kind in kinds if (k := identity(spelling, kind)[0])]
        roots = await exports.roots_of(set(keys))
        if found := [roots[k] for k in keys if k in roots]:
            return found[0]
    shown = await exports.showing("email", [value.strip()]) if name == "email" else {}
    return max((root for roots in shown.values() for root in roots), default=0)


# --- taking apart and deleting ----------------------------------------------------------------------------------------


async def demerge(asked: Asked) -> Json:
    """POST /1/demerge/profiles.json: at once, with a result for each identity."""
    body = asked.body if isinstance(asked.body, dict) else {}
    values = values_of(body.get("identities"), "identities", MAX_NAMED)
    dry_run = body.get("dry_run", False) is True
    exports = asked.exports
    keys = await _keys(asked, exports, values)
    roots = await exports.roots_of({k for k in keys if k})
    done: dict[int, Json] = {}
    results = []
    for value, key in zip(values, keys, strict=True):
        root = roots.get(key, 0) if key else 0
        if not key or not root:
            results.append({"identity": value, "outcome": "not_found"})
            continue
        if root not in done:  # several names of one profile take it apart once
            operation = Operation(asked.site, "demerge", "", [Person(key=key)], dry_run=dry_run)
            done_now = await asked.gateway.writer.operation(operation)
            shown = {"outcome": done_now.outcome, "op_id": done_now.op_id}
            done[root] = shown | {"devices": await _object_ids(exports, done_now.extra.get("devices", []))}
        results.append({"identity": value} | done[root])
    return SUCCESS | {"results": results} | ({"dry_run": True} if dry_run else {})


async def _object_ids(exports: Exports, devices: list[str]) -> list[str]:
    """What devices are called in this API."""
    contexts = await exports.contexts([int(d) for d in devices])
    return [str(contexts.get(int(d), {}).get("objectId", d)) for d in devices]


async def _keys(asked: Asked, exports: Exports, values: list[Any]) -> list[Key | None]:
    """The identity that each value names: as an id, else as an email or phone where the site takes these."""
    candidates = [
        [k for kind in asked.site.identity_kinds if (k := identity(v, kind)[0])]
        + [k for prefix in LOCATORS.values() if prefix and (k := identity(f"{prefix}{v}")[0])]
        for v in values
    ]
    known = await exports.roots_of({k for keys in candidates for k in keys})
    return [next((k for k in keys if k in known), None) for keys in candidates]


async def delete(asked: Asked) -> Json:
    """POST /1/delete/profiles.json: at once and for good."""
    body = asked.body if isinstance(asked.body, dict) else {}
    given = [n for n in ("identity", "guid") if body.get(n) is not None]
    if len(given) != 1:
        raise BadRequest("send identity or guid, and not both")
    values = values_of(body[given[0]], given[0], MAX_NAMED)
    exports = asked.exports
    people: list[Person | None]
    if given == ["identity"]:
        people = [k and Person(key=k) for k in await _keys(asked, exports, values)]
    else:
        devices = await devices_of(exports, {str(v) for v in values})
        people = [Person(device_id=devices[str(v)]) if str(v) in devices else None for v in values]
    results = []
    for value, person in zip(values, people, strict=True):
        outcome = "not_found"
        if person is not None:
            operation = Operation(asked.site, "delete", "", [person])
            outcome = (await asked.gateway.writer.operation(operation)).outcome
        results.append({given[0]: value, "outcome": outcome})
    return SUCCESS | {"results": results}


# --- phones and subscriptions -----------------------------------------------------------------------------------------


async def disassociate(asked: Asked) -> Json:
    """POST /1/disassociate: a phone number is no identity of its profile any more."""
    records = records_of(asked, MAX_RECORDS)
    refused: dict[int, RecordError] = {}
    for n, record in enumerate(records):
        try:
            kind, value = _address(record, ("phone",))
            await _disassociate(asked, kind, value)
        except RecordError as error:
            refused[n] = error
    return unprocessed(records, refused)


async def _disassociate(asked: Asked, kind: str, value: str) -> None:
    exports = asked.exports
    key, _ = identity(value, kind)
    root = (await exports.roots_of({key})).get(key, 0) if key else 0
    if key and root:
        await asked.gateway.writer.operation(Operation(asked.site, "drop", "", [Person(key=key)]))
    shown = [root] if root else (await exports.showing(kind, [value])).get(value, [])
    if not shown:
        raise RecordError(555, "There is no profile with this phone number. ")
    for whole in (await exports.people(shown)).values():
        if whole.properties.get(kind) == value:
            await _write(asked, whole, [("set", kind, "null")])


async def subscribe(asked: Asked) -> Json:
    """POST /1/subscribe: whether an address may be written to."""
    records = records_of(asked, MAX_RECORDS)
    refused: dict[int, RecordError] = {}
    wanted: list[tuple[int, str, str, list[tuple[str, str, str]]]] = []
    for n, record in enumerate(records):
        try:
            kind, value = _address(record, tuple(CHANNELS))
            status = STATUSES.get(str(record.get("status", "")).strip().lower())
            if status is None:
                raise RecordError(555, "status has to be Unsubscribe or Resubscribe. ")
            rows = [("set", CHANNELS[kind][1], status)]
            rows += [("subscription", "", status)] if kind == "email" else []
            wanted.append((n, CHANNELS[kind][0], value, rows))
        except RecordError as error:
            refused[n] = error
    exports = asked.exports
    for address in OPTIONAL_KINDS:
        of = [(n, value, rows) for n, kind, value, rows in wanted if kind == address]
        found = await _holders(asked, exports, address, {value for _, value, _ in of})
        for n, value, rows in of:
            try:
                await _subscribe(asked, address, value, found.get(value, []), rows)
            except RecordError as error:
                refused[n] = error
    return unprocessed(records, refused)


async def _holders(asked: Asked, exports: Exports, kind: str, values: set[str]) -> dict[str, list[Whole]]:
    """Everybody who has an address, as an identity or as a property."""
    shown = await exports.showing(kind, values)
    keys = {v: [k for name in (kind, "id") if (k := identity(v, name)[0])] for v in values}
    named = await exports.roots_of({k for found in keys.values() for k in found})
    roots = {v: {*shown.get(v, ()), *(named[k] for k in keys[v] if k in named)} for v in values}
    people = await exports.people({r for found in roots.values() for r in found})
    return {v: [people[r] for r in sorted(found) if r in people] for v, found in roots.items()}


async def _subscribe(
    asked: Asked, kind: str, value: str, holders: list[Whole], rows: list[tuple[str, str, str]]
) -> None:
    """Keeps a wish. Nobody's wish is lost: an address that nobody has yet is kept as somebody's."""
    if holders:
        await asyncio.gather(*(_write(asked, whole, rows) for whole in holders))
        return
    if kind == "phone" and kind not in asked.site.identity_kinds:
        raise RecordError(555, "There is no profile with this phone number. ")
    key, blocked = identity(value, kind if kind in asked.site.identity_kinds else "id")
    if key is None:
        raise RecordError(555, f"The address is not valid: {blocked}. ")
    address = ("set", kind, msgspec.json.encode(value).decode())
    received = now()
    command = Writes(f"ct-{asked.gateway.new_id()}", received, rows=[address, *rows])
    await asked.gateway.writer.commands(ServerBatch(asked.site, key, [command], received))


def _address(record: Any, kinds: tuple[str, ...]) -> tuple[str, str]:
    """The type and value of a record. Raises RecordError."""
    if not isinstance(record, dict) or record.get("type") not in kinds:
        raise RecordError(555, f"type has to be {' or '.join(kinds)}. ")
    value = record.get("value")
    address = CHANNELS[record["type"]][0]
    if isinstance(value, int) and not isinstance(value, bool) and address == "phone":
        value = phone(value)
    key, blocked = identity(value, address) if isinstance(value, str) else (None, "it must be a string")
    if key is None or (address == "email") != ("@" in key[1]):
        raise RecordError(555, f"value is not valid: {blocked or f'it is no {address}'}. ")
    return record["type"], key[1]


async def _write(asked: Asked, whole: Whole, rows: list[tuple[str, str, str]]) -> None:
    """Writes properties of a profile: under one of its names, else on its newest device."""
    received = now()
    commands: list[Command] = [Writes(f"ct-{asked.gateway.new_id()}", received, rows=rows)]
    key = whole.primary or next((i.key for i in whole.identities), None)
    if key is not None:
        await asked.gateway.writer.commands(ServerBatch(asked.site, key, commands, received))
    elif whole.browsers:
        batch = Batch(asked.site, whole.browsers[-1], commands, received, actor="server")
        await asked.gateway.writer.commands(batch)
