"""Records of an upload as what the engine is asked: each is understood on its own, or refused with CleverTap's code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.commands import MAX_DEPTH, MAX_EVENT, MAX_NAME, MAX_VALUE, depth, identity, storable
from gateway.identity import rules
from gateway.model import Key

Json = dict[str, Any]
Row = tuple[str, str, str]

MAX_RECORDS = 1000
MAX_KEYS = 256
LATEST_TS = 2**32

LOCATORS = {"identity": "", "FBID": "FB:", "GPID": "GP:"}
"""Names of the field that says whom a record is about, and what their ids start with here."""

PLAIN_NAMES = {"Email": "email", "Phone": "phone", "Name": "name"}
"""Fields of a CleverTap profile that every product has, under the name that the other APIs use for them."""

RESERVED_EVENTS = frozenset(
    name.casefold()
    for name in (
        "Notification Sent", "Notification Viewed", "Notification Clicked", "Notification Delivered",
        "Notification Replied", "UTM Visited", "App Launched", "App Uninstalled", "App Version Changed", "Stayed",
        "Reply Sent", "Experiment Rendered", "Reachable By", "Identity Set", "Identity Error", "Identity Reset",
    )
)  # fmt: skip
TOKEN_TYPES = ("chrome", "fcm", "gcm", "apns", "wns", "mpns")

NOT_A_PROFILE = "Profile data is incorrect. "
NOT_AN_EVENT = "Event structure is not valid. ErrorCode: 512 - "

_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_PHONE = re.compile(r"\+[1-9]\d{5,14}")
_OBJECT_ID = re.compile(r"[A-Za-z0-9()!:@$_-]{1,64}")
_AGE = re.compile(r"\d{1,3}")


class RecordError(Exception):
    """Why a record is not taken: CleverTap's code and text, without the record's number."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(slots=True)
class Record:
    """One record, understood. `device` is an objectId; `names` are the person's identities, the one addressed first.

    `renamed`: the first two names are one person from now on, called by the second. `blocked`: why an identity was
    not taken; the rest of its record is.
    """

    op_id: str
    at: int
    device: str = ""
    names: list[Key] = field(default_factory=list)
    renamed: bool = False
    blocked: str = ""
    rows: list[Row] = field(default_factory=list)
    event: str = ""
    data: str = "{}"


@dataclass(slots=True)
class Parser:
    """Understands the records of one upload. `kinds` are the identity kinds that the site takes."""

    kinds: tuple[str, ...]
    received_at: int
    nonce: int
    seen: dict[str, int] = field(default_factory=dict)

    def record(self, raw: Any) -> Record:
        """A record. Raises RecordError."""
        if not isinstance(raw, dict) or raw.get("type") not in ("profile", "event", "token"):
            raise RecordError(524, "Record is neither an event nor a profile. ")
        if not storable(raw):
            raise RecordError(555, "The record holds NUL, half a character, or a number that is not finite. ")
        if depth(raw) > MAX_DEPTH + 2:
            raise RecordError(555, f"The record is nested more than {MAX_DEPTH} deep. ")
        if raw["type"] == "token":
            return self._token(raw)
        record = Record(*self._head(raw))
        self._person(record, raw)
        if raw["type"] == "event":
            self._event(record, raw)
        else:
            self._profile(record, raw)
        return record

    def _head(self, raw: Json) -> tuple[str, int]:
        """The id and time of a record. The same record with the same `ts` is a repetition, except within an upload."""
        at = _time(raw)
        if at is None:
            self.seen[""] = self.seen.get("", 0) + 1
            return f"ct-{self.nonce}-{self.seen['']}", self.received_at
        digest = rules.fingerprint(raw)
        self.seen[digest] = self.seen.get(digest, 0) + 1
        return f"ct-{digest}-{self.seen[digest]}", at

    def _person(self, record: Record, raw: Json) -> None:
        """Whom a record is about."""
        name = next((n for n in LOCATORS if raw.get(n) not in (None, "")), None)
        if name is not None:
            key = self._locator(raw[name], LOCATORS[name])
            record.names.append(key)
        if raw.get("objectId") not in (None, ""):
            record.device = object_id(raw["objectId"], 526)
        if not record.names and not record.device:
            raise RecordError(523, "One of identity, FBID, GPID or objectId is mandatory. ")

    @staticmethod
    def _locator(value: Any, prefix: str) -> Key:
        key, blocked = identity(f"{prefix}{value}" if prefix and isinstance(value, (str, int)) else value)
        if key is None:
            # CleverTap has no code for this: it lets such values glue strangers together.
            raise RecordError(560, f"Identity is not valid: {blocked}. ")
        return key

    # --- events -------------------------------------------------------------------------------------------------

    @staticmethod
    def _event(record: Record, raw: Json) -> None:
        name = raw.get("evtName")
        if not isinstance(name, str) or not name.strip():
            raise RecordError(509, "Event Name is incorrect. ErrorCode: 509 - Event name is mandatory. ")
        name = name.strip()
        if len(name) > MAX_NAME:
            raise RecordError(512, f"{NOT_AN_EVENT}Event name has more than {MAX_NAME} characters. ")
        if name.casefold() in RESERVED_EVENTS:
            raise RecordError(513, "Event Name is incorrect. ErrorCode: 513 - Event name is restricted. ")
        data = raw.get("evtData")
        data = {} if data is None else data
        if not isinstance(data, dict):
            raise RecordError(512, f"{NOT_AN_EVENT}evtData must be an object. ")
        if len(data) > MAX_KEYS:
            raise RecordError(522, f"Event has more than {MAX_KEYS} properties. ")
        encoded = msgspec.json.encode(data)
        if len(encoded) > MAX_EVENT:
            raise RecordError(512, f"{NOT_AN_EVENT}evtData is larger than {MAX_EVENT // 1024} KiB. ")
        record.event, record.data = name, encoded.decode()

    # --- profiles -----------------------------------------------------------------------------------------------

    def _profile(self, record: Record, raw: Json) -> None:
        data = raw.get("profileData")
        data = {} if data is None else data
        if not isinstance(data, dict):
            raise RecordError(555, f"{NOT_A_PROFILE}profileData must be an object.")
        if len(data) > MAX_KEYS:
            raise RecordError(555, f"{NOT_A_PROFILE}It has more than {MAX_KEYS} keys.")
        data = dict(data)
        named = [v for k in ("identity", "Identity") if (v := data.pop(k, None)) not in (None, "")]
        _check_profile(data)
        for value in named[:1]:
            key, blocked = identity(value)
            record.blocked = blocked or ""
            if key is not None and key not in record.names:
                record.renamed = bool(record.names)
                record.names.append(key)
        for kind, field_name in (("email", "Email"), ("phone", "Phone")):
            value = data.get(field_name, data.get(kind))
            if kind in self.kinds and isinstance(value, (str, int)):
                address, _ = identity(phone(value) if kind == "phone" else value, kind)
                record.names += [address] if address else []
        for name, value in data.items():
            record.rows += rows_of(str(PLAIN_NAMES.get(name, name)), value)

    # --- device tokens ------------------------------------------------------------------------------------------

    def _token(self, raw: Json) -> Record:
        record = Record(*self._head(raw))
        if raw.get("objectId") not in (None, ""):
            record.device = object_id(raw["objectId"], 530)
        elif raw.get("identity") not in (None, ""):
            record.names.append(self._locator(raw["identity"], ""))
        else:
            raise RecordError(530, "objectId is not valid. ")
        token = raw.get("tokenData")
        if not isinstance(token, dict) or not token:
            raise RecordError(531, "Token data is not valid. ")
        if not isinstance(token.get("id"), str) or not token["id"].strip():
            raise RecordError(532, "Token id is missing. ")
        if token.get("type") in (None, ""):
            raise RecordError(533, "Token type is missing. ")
        if token["type"] not in TOKEN_TYPES:
            raise RecordError(534, f"Token type is not one of {', '.join(TOKEN_TYPES)}. ")
        value = msgspec.json.encode({k: v for k, v in token.items() if k != "type"}).decode()
        if len(value) > MAX_VALUE:
            raise RecordError(531, f"Token data is larger than {MAX_VALUE // 1024} KiB. ")
        record.rows = [("token", token["type"], value)]
        return record


def _time(raw: Json) -> int | None:
    """When a record says it happened, in microseconds; None if it does not say."""
    ts = raw.get("ts")
    if ts is None:
        return None
    if isinstance(ts, str) and ts.isascii() and ts.isdigit() and len(ts) < 12:
        ts = int(ts)
    if isinstance(ts, float) and ts.is_integer():
        ts = int(ts)
    if isinstance(ts, bool) or not isinstance(ts, int) or not 0 < ts < LATEST_TS:
        raise RecordError(525, "Timestamp should be present in the Unix Epoch format. ")
    return ts * 1_000_000


def object_id(value: Any, code: int) -> str:
    """An objectId. A browser that opted out shows its own with `:OO` behind it."""
    text = str(value).removesuffix(":OO") if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not _OBJECT_ID.fullmatch(text) and not _is_token(text):
        raise RecordError(code, "objectId is not valid. ")
    return text


def _is_token(text: str) -> bool:
    """Whether a text may be a device token of a browser, which has dots and is longer than their objectIds."""
    return len(text) <= 512 and text.isascii() and text.count(".") >= 2 and text.isprintable()


def phone(value: str | int) -> str:
    """A phone number as text; SDKs send it as a number, without its plus sign."""
    return f"+{value}" if isinstance(value, int) else value


def _check_profile(data: Json) -> None:
    """Raises RecordError for a field that CleverTap knows, with a value that it refuses."""
    for name, code, text, allowed in FIELDS:
        for key in (name, name.lower()) if name in PLAIN_NAMES else (name,):
            value = data.get(key)
            if value is None or isinstance(value, dict):
                continue
            if isinstance(value, bool) or not isinstance(value, (str, int)) or not allowed(value):
                raise RecordError(code, NOT_A_PROFILE + text)


def _one_of(*words: str) -> Any:
    return lambda value: str(value).strip().lower() in words


FIELDS = (
    ("Gender", 514, "Gender needs to be M/F/O/U.", _one_of("m", "f", "o", "u", "male", "female", "other", "unknown")),
    ("Email", 515, "Email is not valid.", lambda v: isinstance(v, str) and _EMAIL.fullmatch(v.strip())),
    ("Phone", 516, "Phone number is not valid.", lambda v: _PHONE.fullmatch(phone(v).strip())),
    ("Employed", 517, "Employed needs to be Y/N.", _one_of("y", "n")),
    (
        "Education",
        518,
        "Education needs to be School/College/Graduate..",
        _one_of("school", "college", "graduate"),
    ),
    ("Married", 519, "Married needs to be Y/N.", _one_of("y", "n")),
    ("Age", 520, "Age is invalid.", lambda v: bool(_AGE.fullmatch(str(v))) and 0 < int(v) <= 150),
)


def rows_of(name: str, value: Any) -> list[Row]:
    """What one field of a profile writes: its value, or what CleverTap's operators do to it."""
    if not name or len(name) > MAX_NAME:
        raise RecordError(555, f"{NOT_A_PROFILE}A key has 1 to {MAX_NAME} characters.")
    if isinstance(value, dict) and value and all(k.startswith("$") for k in value):
        return [row for operator, operand in value.items() for row in _operation(name, operator, operand)]
    rows = [("set", name, _encoded(value))]
    if name == "MSG-email" and isinstance(value, bool):
        rows.append(("subscription", "", _encoded(value)))
    if name == "email" and isinstance(value, str):
        rows = [("set", name, _encoded(value.strip()))]
    if name == "phone" and isinstance(value, (str, int)):
        rows = [("set", name, _encoded(phone(value).strip()))]
    return rows


def _operation(name: str, operator: str, operand: Any) -> list[Row]:
    if operator in ("$incr", "$decr"):
        if isinstance(operand, bool) or not isinstance(operand, (int, float)):
            raise RecordError(555, f"{NOT_A_PROFILE}{operator} needs a number.")
        return [("add", name, _encoded(operand if operator == "$incr" else -operand))]
    if operator == "$delete":
        return [("set", name, "null")] if operand else []
    values = operand if isinstance(operand, list) else [operand]
    if operator not in ("$add", "$remove", "$set") or any(isinstance(v, (dict, list)) or v is None for v in values):
        raise RecordError(555, f"{NOT_A_PROFILE}{operator[:40]} with this value is not known.")
    if operator == "$set":
        return [("set", name, _encoded([v for n, v in enumerate(values) if v not in values[:n]]))]
    return [("append" if operator == "$add" else "remove", name, _encoded(values))]


def _encoded(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    if len(text) > MAX_VALUE:
        raise RecordError(555, f"{NOT_A_PROFILE}A value is larger than {MAX_VALUE // 1024} KiB.")
    return text
