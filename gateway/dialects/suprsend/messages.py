"""SuprSend's shapes: users, edit operations and events as the engine's commands, profiles as user objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from gateway.commands import MAX_DEPTH, MAX_NAME, SYSTEM_EVENTS, depth, identity, rows_of, storable
from gateway.dialects.suprsend import channels
from gateway.dialects.suprsend.channels import CHANNELS, DETAILS, Json, Row
from gateway.errors import BadRequest
from gateway.identity import rules
from gateway.identity.requests import Command, Track, Writes
from gateway.model import Key

OWN_PROPERTIES = frozenset({"$timezone", "$locale", "$preferred_language"})
OWN_EVENTS = frozenset(
    {
        "$identify",
        "$notification_delivered",
        "$notification_dismiss",
        "$notification_clicked",
        "$app_launched",
        "$user_login",
        "$user_logout",
    }
)
OPERATORS = ("$set", "$set_once", "$increment", "$add", "$append", "$remove", "$unset")
KINDS = {"$set": "set", "$set_once": "once", "$append": "append", "$remove": "remove"}

MAX_OPERATIONS = 500
MAX_ID = 64
MAX_KEY = 255
LATEST_TIME = 2**52

_encode = msgspec.json.encode
_decode = msgspec.json.decode


# --- in: bodies and people --------------------------------------------------------------------------------------------


def decode(body: bytes, kind: type = dict) -> Any:
    """A body as JSON of a kind. Raises BadRequest if it is something else, or holds what no database can keep."""
    try:
        data = _decode(body or b"{}")
        deep = depth(data) > MAX_DEPTH + 4
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(data, kind):
        raise BadRequest("the body must be a JSON object" if kind is dict else "the body must be a JSON array")
    if deep:
        raise BadRequest("the body is nested too deep")
    if not storable(data):
        raise BadRequest("the body holds NUL, half a character, or a number that is not finite")
    return data


def person(value: object, name: str = "distinct_id") -> Key:
    """The identity a distinct_id names. Raises BadRequest for one that names nobody."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRequest(f"{name} missing")
    key, blocked = identity(value)
    if key is None:
        raise BadRequest(f"{name}: {blocked}")
    return key


# --- in: a user and its edits -----------------------------------------------------------------------------------------


def user_rows(user: Json) -> list[Row]:
    """The facts of an upserted user: properties and channel lists."""
    details = channels.details_of(user)
    rows: list[Row] = []
    for key, values in user.items():
        if key in CHANNELS:
            rows += [channels.entry_row(key, v, details) for v in _list(values)]
    return rows + property_rows({k: v for k, v in user.items() if k not in CHANNELS and k not in DETAILS})


def property_rows(properties: Json, *, once: bool = False) -> list[Row]:
    """Properties as facts. Raises BadRequest for reserved names and over the limits."""
    _check_names(properties)
    return rows_of(properties, once=once)


def edits_of(body: Json) -> list[Json]:
    """The operations of an edit: the list, or the one that stands on its own."""
    operations = body.get("operations")
    if operations is None and any(k in OPERATORS for k in body):
        operations = [{k: v for k, v in body.items() if k in OPERATORS}]
    if not isinstance(operations, list) or not all(isinstance(o, dict) for o in operations):
        raise BadRequest("operations must be an array of objects", 'send {"operations": [{"$set": {…}}]}')
    if len(operations) > MAX_OPERATIONS:
        raise BadRequest(f"{len(operations)} operations", f"send at most {MAX_OPERATIONS}")
    return operations


def edit_rows(operations: Iterable[Json], shown: Mapping[str, Any]) -> list[list[Row]]:
    """The facts of edit operations, step by step. `shown`: the properties now, of which $unset takes whole channels."""
    steps: list[list[Row]] = []
    names = set(shown)
    for operation in operations:
        for operator, operand in operation.items():
            if operator not in OPERATORS:
                raise BadRequest(f"unknown operation {operator[:40]!r}", f"use one of {', '.join(OPERATORS)}")
            rows = _unset_rows(operand, names) if operator == "$unset" else _operator_rows(operator, operand)
            names |= {key for _, key, _ in rows}
            steps.append(rows)
    return [rows for rows in steps if rows]


def _unset_rows(operand: Any, names: Iterable[str]) -> list[Row]:
    keys = _list(operand)
    if not all(isinstance(k, str) for k in keys):
        raise BadRequest("$unset takes an array of names", 'send {"$unset": ["$sms", "name"]}')
    gone = [n for k in keys if k in CHANNELS for n in names if channels.channel_of(n) == k]
    return property_rows(dict.fromkeys(k for k in keys if k not in CHANNELS)) + [("set", n, "null") for n in gone]


def _operator_rows(operator: str, operand: Any) -> list[Row]:
    if not isinstance(operand, dict):
        raise BadRequest(f"{operator} must be an object, not {type(operand).__name__}")
    details = channels.details_of(operand)
    plain = {k: v for k, v in operand.items() if k not in CHANNELS and k not in DETAILS}
    rows: list[Row] = []
    for channel in (k for k in operand if k in CHANNELS):
        if operator in ("$increment", "$add"):
            raise BadRequest(f"{operator}: {channel} is not a number")
        values = _list(operand[channel])
        if operator == "$remove":
            rows += [row for v in values for row in channels.entry_gone(channel, v)]
        else:
            rows += [channels.entry_row(channel, v, details) for v in values]
    if operator in ("$increment", "$add"):
        return [("add", k, _encode(_number(k, v)).decode()) for k, v in _checked(plain).items()]
    if operator in ("$append", "$remove"):
        lists = {k: _list(v) for k, v in _checked(plain).items()}
        return rows + [(KINDS[operator], k, v) for _, k, v in rows_of(lists)]
    return rows + property_rows(plain, once=operator == "$set_once")


def _number(key: str, value: Any) -> int | float:
    try:
        number = _decode(value, type=int | float) if isinstance(value, str) else value
    except msgspec.MsgspecError:
        number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or abs(number) >= rules.MAX_NUMBER:
        raise BadRequest(f"{key[:40]!r} can only be increased by a number")
    return number


def _checked(properties: Json) -> Json:
    _check_names(properties)
    rows_of(properties)
    return properties


def _check_names(properties: Json) -> None:
    for key in properties:
        if key.lower().startswith(("$", "ss_")) and key not in OWN_PROPERTIES:
            raise BadRequest(f"property names starting with $ or ss_ are reserved: {key[:40]!r}")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


# --- in: events -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Record:
    """One entry of an event call: about whom, when, and what.

    `merge` is the anonymous id of an $identify; `idempotency_key` decides about repeats where the sender gave one.
    """

    key: Key
    op_id: str
    sent_at: int
    event: str = ""
    data: Json = field(default_factory=dict)
    extras: Json = field(default_factory=dict)
    operations: list[Json] | None = None
    merge: Key | None = None
    idempotency_key: str = ""

    @property
    def unsets_channel(self) -> bool:
        """Whether it takes a whole channel away: then its entries must be known."""
        names = (k for o in self.operations or () for k in _list(o.get("$unset")))
        return any(k in CHANNELS for k in names if isinstance(k, str))

    @property
    def needs_state(self) -> bool:
        """Whether what was sent before it must be committed first."""
        return bool(self.merge or self.idempotency_key or self.unsets_channel)

    def commands(self, op_id: str, shown: Mapping[str, Any]) -> list[Command]:
        """What the engine is asked to keep."""
        if self.operations is not None:
            return edit_commands(op_id, self.sent_at, edit_rows(self.operations, shown))
        extras = _encode(self.extras).decode() if self.extras else None
        return [Track(op_id, self.sent_at, "", self.event, _encode(self.data).decode(), extras)]


def edit_commands(op_id: str, at: int, steps: list[list[Row]]) -> list[Command]:
    """One command per step, so that a later step sees what an earlier one wrote. No step: the person is only named."""
    return [Writes(f"{op_id}:{n}", at, rows=rows) for n, rows in enumerate(steps or [[]])]


def record_of(raw: Any, at: int, fresh_id: str) -> Record:
    """An entry of an event call, checked whole before anything is kept. Raises BadRequest saying what is wrong."""
    if not isinstance(raw, dict):
        raise BadRequest(f"a record must be an object, not {type(raw).__name__}")
    properties = _properties(raw)
    identify = raw.get("event") == "$identify"
    named = properties.get("$identified_id", raw.get("distinct_id")) if identify else raw.get("distinct_id")
    record = Record(person(named), _op_id(raw.get("$insert_id"), fresh_id), _time(raw.get("$time"), at))
    record.idempotency_key = _idempotency_key(raw)
    operations = raw.get("$user_operations")
    if operations is not None or any(o in raw for o in OPERATORS):
        record.operations = edits_of(raw if operations is None else {"operations": operations})
        edit_rows(record.operations, {})
        return record
    record.event = _event_name(raw.get("event"))
    record.data = {k: v for k, v in properties.items() if not k.startswith("$ss_")}
    known = {k: v for k, v in properties.items() if k.startswith("$ss_")}
    record.extras = known | {k: raw[k] for k in ("tenant_id", "brand_id") if isinstance(raw.get(k), str)}
    if identify and properties.get("$anon_id") is not None:
        record.merge = person(properties["$anon_id"], "$anon_id")
    return record


def _properties(raw: Json) -> Json:
    properties = raw.get("properties")
    if properties is None:
        return {}
    if not isinstance(properties, dict):
        raise BadRequest("properties must be an object")
    return properties


def _event_name(value: object) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not name:
        raise BadRequest("event missing")
    if len(name) < 2 or len(name) > MAX_NAME:
        raise BadRequest(f"an event name has 2 to {MAX_NAME} characters")
    reserved = name.lower().startswith(("$", "ss_")) and name not in OWN_EVENTS
    if reserved or name.casefold() in SYSTEM_EVENTS:
        raise BadRequest(f"this event name is reserved: {name[:40]!r}")
    return name


def _op_id(value: Any, fresh_id: str) -> str:
    if value is None or value == "":
        return fresh_id
    if not isinstance(value, str) or not value.isprintable():
        raise BadRequest("$insert_id must be text")
    return value if len(value) <= MAX_ID else channels.digest(value.encode())


def _time(value: Any, at: int) -> int:
    if value is None:
        return at
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < LATEST_TIME:
        raise BadRequest("$time must be milliseconds since the epoch")
    return int(value * 1000)


def _idempotency_key(raw: Json) -> str:
    key = raw.get("$idempotency_key")
    if key is None or key == "":
        return ""
    if not isinstance(key, str) or len(key) > MAX_KEY:
        raise BadRequest(f"$idempotency_key must be text of at most {MAX_KEY} characters")
    return channels.digest(key.encode())


# --- out --------------------------------------------------------------------------------------------------------------


def distinct_id(profile: Json) -> str | None:
    """The one id by which this dialect knows a profile; None for somebody without an id.

    It is the profile's primary identity: everything else was merged away, which here means it is gone.
    """
    ids = [i["value"] for i in profile["identities"] if i["kind"] == "id"]
    if profile["primary"] in ids:
        return str(profile["primary"])
    return next((v for v in ids if not rules.looks_like_email(v)), next(iter(ids), None))


def user_object(profile: Json) -> Json:
    """A profile as SuprSend's user object."""
    properties, lists = channels.lists_of(profile["properties"])
    return {
        "distinct_id": distinct_id(profile),
        "properties": properties,
        "created_at": _timestamp(profile["created_at"]),
        "updated_at": _timestamp(profile["updated_at"]),
        **lists,
    }


def _timestamp(text: str) -> str:
    at: datetime = datetime.fromisoformat(text)
    return at.isoformat(timespec="microseconds")
