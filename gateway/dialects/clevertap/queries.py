"""Questions about many profiles or events: read as clients write them, kept in cursors, put to one row at a time."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Self
from zoneinfo import ZoneInfo

import msgspec

from gateway.commands import storable
from gateway.errors import BadRequest
from gateway.model import FOREVER

Json = dict[str, Any]

BATCH_SIZE = 100
MAX_BATCH = 5000
MAX_CURSOR = 16 * 1024
NO_EVENT = "-1"
"""The event name that stands for every profile, whatever it did."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter on a property."""

    name: str
    operator: str
    value: Any

    def holds(self, given: Mapping[str, Any]) -> bool:
        """Whether a set of properties passes."""
        found = given.get(self.name)
        if self.operator in ("exists", "not_exists"):
            return (found is not None) == (self.operator == "exists")
        if self.operator in NEGATIONS:
            return not Condition(self.name, NEGATIONS[self.operator], self.value).holds(given)
        if found is None:
            return False
        if self.operator == "between":
            low, high = self.value
            return _compared(found, low) >= 0 >= _compared(found, high) if _numbers(found, low, high) else False
        values = self.value if isinstance(self.value, list) else [self.value]
        mine = found if isinstance(found, list) else [found]
        return any(OPERATORS[self.operator](m, v) for m in mine for v in values)


def _numbers(*values: Any) -> bool:
    return all(_number(v) is not None for v in values)


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, (bool, list, dict)) or value is None else float(value)
    except (ValueError, OverflowError):
        return None


def _compared(a: Any, b: Any) -> float:
    return (_number(a) or 0.0) - (_number(b) or 0.0)


def _equal(a: Any, b: Any) -> bool:
    return str(a) == str(b) or (_numbers(a, b) and _compared(a, b) == 0)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "equals": _equal,
    "contains": lambda a, b: str(b).lower() in str(a).lower(),
    "greater_than": lambda a, b: _numbers(a, b) and _compared(a, b) > 0,
    "less_than": lambda a, b: _numbers(a, b) and _compared(a, b) < 0,
}
NEGATIONS = {"not_equals": "equals", "does_not_contain": "contains", "not_contains": "contains"}
OTHERS = ("exists", "not_exists", "between")


@dataclass(slots=True)
class Query:
    """What is asked. `start` and `end` are microseconds; `event` is empty for all profiles."""

    event: str = ""
    start: int = 0
    end: int = FOREVER
    event_conditions: list[Condition] = field(default_factory=list)
    profile_conditions: list[Condition] = field(default_factory=list)
    raw: Json = field(default_factory=dict)

    @classmethod
    def read(cls, raw: Any, zone: ZoneInfo) -> Self:
        """A query as CleverTap's clients write it. Raises BadRequest."""
        if not isinstance(raw, dict):
            raise BadRequest("the query must be a JSON object with event_name, from and to")
        if not storable(raw):
            raise BadRequest("the query holds NUL, half a character, or a number that is not finite")
        name = raw.get("event_name", "")
        if not isinstance(name, str):
            raise BadRequest("event_name must be a string")
        start = _day(raw.get("from"), "from", zone, 0) if raw.get("from") is not None else 0
        end = _day(raw.get("to"), "to", zone, 1) if raw.get("to") is not None else FOREVER
        if end <= start:
            raise BadRequest("from is after to")
        fields = raw.get("common_profile_properties") or {}
        fields = fields.get("profile_fields") if isinstance(fields, dict) else None
        conditions = _conditions(raw.get("event_properties")), _conditions(fields)
        return cls("" if name == NO_EVENT else name, start, end, *conditions, raw)


def _day(value: Any, name: str, zone: ZoneInfo, days_later: int) -> int:
    """The beginning of a day in the project's time zone, given as yyyymmdd."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, str)) or len(str(value)) != 8:
            raise ValueError
        day = date.fromisoformat(str(value)) + timedelta(days=days_later)
        if day < date(1971, 1, 1):
            raise ValueError
        return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1_000_000
    except (ValueError, OverflowError):
        raise BadRequest(f"{name} must be a day written as the number yyyymmdd") from None


def _conditions(raw: Any) -> list[Condition]:
    found = []
    for given in raw if isinstance(raw, list) else [raw] if raw else []:
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise BadRequest("a property filter is an object with name, operator and value")
        condition = Condition(given["name"], str(given.get("operator", "equals")), given.get("value"))
        if condition.operator not in (*OPERATORS, *NEGATIONS, *OTHERS):
            known = ", ".join([*OPERATORS, *NEGATIONS, *OTHERS])
            raise BadRequest(f"there is no operator {condition.operator[:40]!r}; there are {known}")
        if condition.operator == "between" and not (isinstance(condition.value, list) and len(condition.value) == 2):
            raise BadRequest("between needs a list of two numbers")
        found.append(condition)
    return found


@dataclass(slots=True)
class Page:
    """One page of the answer to a query: where it starts and how many records it holds."""

    query: Query
    size: int
    after: int = 0

    def cursor(self, kind: str, after: int) -> str:
        """The cursor for the page behind `after`: letters that mean the same however often a URL encodes them."""
        packed = msgspec.json.encode([kind, self.size, after, self.query.raw])
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def first_page(raw: Any, batch_size: str | None, zone: ZoneInfo) -> Page:
    """The page a new query starts with. Raises BadRequest."""
    if batch_size is not None and not (batch_size.isascii() and batch_size.isdigit() and 0 < len(batch_size) < 10):
        raise BadRequest("batch_size must be a number")
    size = BATCH_SIZE if batch_size is None else int(batch_size)
    return Page(Query.read(raw, zone), max(1, min(size, MAX_BATCH)))


def page_at(cursor: str, kind: str, zone: ZoneInfo) -> Page:
    """The page that a cursor stands for. Raises BadRequest for what is none of ours."""
    try:
        if len(cursor) > MAX_CURSOR or not cursor.isascii():
            raise ValueError
        packed = base64.urlsafe_b64decode(cursor.rstrip("=") + "=" * (-len(cursor.rstrip("=")) % 4))
        found, size, after, raw = msgspec.json.decode(packed, type=tuple[str, int, int, dict[str, Any]])
        if found != kind or not 0 < size <= MAX_BATCH or not 0 <= after < 2**63:
            raise ValueError
    except (ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        raise BadRequest("the cursor is not valid") from None
    return Page(Query.read(raw, zone), size, after)
