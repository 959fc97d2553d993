"""Vero's parameters as what the engine is asked, before it is known who asks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.commands import (
    MAX_DEPTH,
    MAX_EVENT,
    MAX_NAME,
    MAX_PROPERTIES,
    SYSTEM_EVENTS,
    depth,
    identity,
    rows_of,
    storable,
)
from gateway.dialects.vero.bodies import Params
from gateway.errors import BadRequest
from gateway.identity import rules
from gateway.identity.requests import Command, Track, Writes
from gateway.model import Key

MAX_TEXT = 254
"""The longest id, email and event name."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_SEPARATORS = re.compile(r"[\s_-]+")
_ISO_ZONE = re.compile(r"\s*(?:UTC|GMT)$")


@dataclass(slots=True)
class Said:
    """Something about one person. `receipt`: the same for equal requests; `known_only`: nobody is created by it."""

    key: Key
    commands: list[Command]
    receipt: str = ""
    known_only: bool = False


@dataclass(slots=True)
class Renamed:
    """`old` is `new` from now on; `blocked` says why one of them cannot be an id."""

    new: Key | None
    old: Key | None
    blocked: str | None = None


@dataclass(slots=True)
class Deleted:
    """Somebody is to be forgotten."""

    key: Key


Message = Said | Renamed | Deleted


@dataclass(slots=True)
class Call:
    """The parameters of one call, when it arrived, and a source of ids."""

    params: Params
    received_at: int
    new_id: Callable[[], int]
    extras: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.params, MAX_DEPTH + 1)
        self.extras = mapping(self.params, "extras")

    def head(self) -> tuple[str, int]:
        """The id and the time of a command: when the caller says it happened, else now."""
        at = moment(self.extras.get("created_at"))
        return f"vero-{self.new_id()}", self.received_at if at is None else at

    def writes(self, rows: list[tuple[str, str, str]]) -> Writes:
        """Properties, tags or a subscription of the person."""
        return Writes(*self.head(), rows=rows)


def users_track(call: Call) -> Said:
    """Creates or updates a user."""
    key, named = person(call.params)
    given = mapping(call.params, "data") | named
    for name in ("phone_number", "preferences"):
        if call.params.get(name) not in (None, ""):
            given[name] = call.params[name]
    if channels := _channels(call.params.get("channels")):
        given["channels"] = channels
    known_only = str(call.extras.get("update_only", "")).strip().lower() in ("true", "1")
    commands: list[Command] = [call.writes(_rows(given, key))]
    return Said(key, commands, _receipt("users/track", key, given), known_only)


def users_edit(call: Call) -> Said:
    """Changes properties of a user that exists."""
    if "changes" not in call.params:
        raise BadRequest("changes is required")
    key, _ = person(call.params)
    changes = mapping(call.params, "changes")
    if changes.get("email") not in (None, ""):
        _email(changes["email"])
    return Said(key, [call.writes(_rows(changes, key))], known_only=True)


def tags_edit(call: Call) -> Said:
    """Adds and removes tags; a tag in both lists is removed."""
    key, _ = person(call.params)
    if call.params.get("add") is None and call.params.get("remove") is None:
        raise BadRequest("add or remove is required")
    wanted = dict.fromkeys(tags(call.params.get("add"), "add"), "true")
    wanted |= dict.fromkeys(tags(call.params.get("remove"), "remove"), "false")
    if len(wanted) > MAX_PROPERTIES:
        raise BadRequest(f"send at most {MAX_PROPERTIES} tags at a time")
    return Said(key, [call.writes([("tag", tag, value) for tag, value in wanted.items()])])


def unsubscribe(call: Call) -> Said:
    """No email for this user."""
    return Said(person(call.params)[0], [call.writes([("subscription", "", "false")])])


def resubscribe(call: Call) -> Said:
    """Email again for this user."""
    return Said(person(call.params)[0], [call.writes([("subscription", "", "true")])])


def reidentify(call: Call) -> Renamed:
    """`id` is the old id, `new_id` the new one."""
    given = {name: _given(call.params, name) for name in ("id", "new_id")}
    for name, value in given.items():
        if value is None:
            raise BadRequest(f"{name} is required")
        if isinstance(value, (bool, list, dict)):
            raise BadRequest(f"{name} must be a string or a number")
    (old, blocked_old), (new, blocked_new) = identity(given["id"]), identity(given["new_id"])
    return Renamed(new, old, blocked_new or blocked_old)


def delete(call: Call) -> Deleted:
    """Forgets a user."""
    return Deleted(person(call.params)[0])


def events_track(call: Call) -> Said:
    """Something happened to a user, who is created if need be."""
    if call.params.get("identity") in (None, "", {}):
        raise BadRequest("identity is required")
    who = mapping(call.params, "identity")
    key, named = person(who)
    name = _event_name(call.params.get("event_name"))
    data = mapping(call.params, "data")
    encoded = msgspec.json.encode(data)
    if len(encoded) > MAX_EVENT:
        raise BadRequest(f"data is larger than {MAX_EVENT // 1024} KiB")
    commands: list[Command] = []
    rows = _rows({k: v for k, v in who.items() if k != "email"} | named, key)
    if rows:
        commands.append(call.writes(rows))
    extras = msgspec.json.encode(call.extras).decode() if call.extras else None
    commands.append(Track(*call.head(), "", name, encoded.decode(), extras, folded=folded(name)))
    # Vero compares the data; where there is none, what the caller named the message.
    content = data or {"check_id": call.extras.get("check_id")}
    return Said(key, commands, _receipt("events/track", key, folded(name), content))


def _receipt(*content: object) -> str:
    return rules.fingerprint(msgspec.json.encode(content, order="sorted"))


# --- people -----------------------------------------------------------------------------------------------------------


def person(given: Params) -> tuple[Key, Params]:
    """Who is meant, by id or without one by email, and the email as a property. Raises BadRequest for nobody."""
    email = _given(given, "email")
    email = None if email is None else _email(email)
    value = _given(given, "id")
    if value is None:
        value = email
    if value is None:
        raise BadRequest("an id or email is required")
    if len(str(value)) > MAX_TEXT:
        raise BadRequest(f"an id has at most {MAX_TEXT} characters")
    key, blocked = identity(value)
    if key is None:
        raise BadRequest(blocked or "this cannot be an id")
    return key, {} if email is None else {"email": email}


def _given(given: Params, name: str) -> Any:
    """A parameter, None if it is blank."""
    value = given.get(name)
    return None if isinstance(value, str) and not value.strip() else value


def _email(value: object) -> str:
    if not isinstance(value, str) or len(value.strip()) > MAX_TEXT or not _EMAIL.fullmatch(value.strip()):
        raise BadRequest("email is not a valid email address")
    return value.strip()


def _rows(properties: Params, key: Key) -> list[tuple[str, str, str]]:
    """Properties as rows, without the id, which clients like to repeat among them."""
    mine = {k: v for k, v in properties.items() if k != "id" or identity(v)[0] != key}
    return rows_of(mine)


# --- values -----------------------------------------------------------------------------------------------------------


def mapping(params: Params, name: str) -> Params:
    """An object, also as the JSON text that forms carry, or as the empty list that PHP makes of an empty one."""
    value = params.get(name)
    if isinstance(value, str) and value.strip():
        value = _decoded(value, name)
    if value in (None, "", []) or (isinstance(value, str) and not value.strip()):
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object")
    return value


def tags(value: object, name: str) -> list[str]:
    """A list of tags, also as JSON text; one tag may stand alone. Blank ones are left out."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _decoded(value, name)
    given = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(v, (bool, dict, list)) for v in given):
        raise BadRequest(f"{name} must be a list of strings")
    found = [str(v).strip() for v in given if v is not None]
    if any(len(v) > MAX_NAME for v in found):
        raise BadRequest(f"a tag has at most {MAX_NAME} characters")
    return [v for v in found if v]


def _channels(value: object) -> list[Params]:
    """The list of channels; one alone comes as an object."""
    if isinstance(value, str) and value.strip():
        value = _decoded(value, "channels")
    channels = [value] if isinstance(value, dict) and value else value or []
    if not isinstance(channels, list) or not all(isinstance(c, dict) for c in channels):
        raise BadRequest("channels must be a list of objects")
    return channels


def _decoded(text: str, name: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(f"{name} is not JSON: {error}") from error
    _check(value, MAX_DEPTH)
    return value


def _check(value: object, levels: int) -> None:
    """Raises BadRequest for what no database would keep as it is."""
    if depth(value) > levels:
        raise BadRequest(f"nested more than {MAX_DEPTH} deep")
    if not storable(value):
        raise BadRequest("a text holds NUL")


def _event_name(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRequest("event_name is required")
    if len(value.strip()) > MAX_TEXT:
        raise BadRequest(f"event_name has at most {MAX_TEXT} characters")
    return value.strip()


def folded(name: str) -> str:
    """The name under which events are one: case, space, underscore and dash make no difference."""
    return _SEPARATORS.sub(" ", name.casefold()).strip() or name.casefold()


def is_system_event(name: str) -> bool:
    """Whether only the gateway makes events of this name."""
    return folded(name) in SYSTEM_EVENTS


def moment(value: object) -> int | None:
    """A time as seconds or milliseconds since the epoch or as ISO 8601, in microseconds; None if none is given."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        at = _epoch(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise BadRequest("extras.created_at is neither ISO 8601 nor seconds since the epoch") from error
    if not 0 <= at < 2**52 * 1000:
        raise BadRequest("extras.created_at is out of range")
    return at


def _epoch(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    text = str(value).strip()
    if re.fullmatch(r"\d{1,16}(\.\d+)?", text):
        number = float(text)
        return int(number * (1_000 if number > 1e11 else 1_000_000))
    at = datetime.fromisoformat(_ISO_ZONE.sub("+00:00", text))
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)
