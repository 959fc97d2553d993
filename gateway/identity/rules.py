"""The rules of identity as pure functions: no I/O, no clock, no state.

What a value may be, how a device's time line is cut into visitors, what a browser may merge, which property wins.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from gateway.model import (
    APPEND,
    GHOST,
    GONE,
    IGNORED,
    TENTATIVE,
    Erasure,
    Fact,
    Identity,
    Key,
    Proof,
    Release,
    Visitor,
)

MAX_IDENTITY = 255

# What frameworks, templates and hurried hands send in place of an id. Each glues strangers together if it is believed.
BLOCKED = frozenset(
    """null none nil undefined nan true false anonymous anon guest unknown void id email distinct_id distinctid
    not_authenticated n/a na -1 [] {} $posthog_cookieless""".split()  # noqa: SIM905
) | {"", "[object object]"}
_ZEROS = re.compile(r"[0\-]+")
_TEMPLATE = re.compile(r"\{\{.*\}\}|\{%.*%\}|\*\|.*\|\*|%%.+%%|\$\{.*\}|<%.*%>|\[\[.*\]\]", re.DOTALL)
_QUOTES = "\"'`“”‘’«»"
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


class BlockedError(ValueError):
    """A value that must not become an identity; the message says why."""


def normalise(value: object) -> str:
    """The canonical text of an identity value: trimmed, NFC, integers as text, emails in lower case.

    Raises BlockedError for placeholders, unrendered templates, non-scalars and everything else that names nobody.
    """
    if isinstance(value, bool) or value is None or isinstance(value, (list, dict)):
        raise BlockedError(f"{_show(value)} is not an id: send a string or a number")
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise BlockedError("a number that is not finite is not an id")
        value = int(value) if value.is_integer() else value
    text = unicodedata.normalize("NFC", str(value)).strip()
    if "\0" in text:
        raise BlockedError("an id cannot contain NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BlockedError("an id must be valid Unicode") from None
    if len(text) > MAX_IDENTITY:
        raise BlockedError(f"an id has at most {MAX_IDENTITY} characters, this one has {len(text)}")
    _check_placeholder(text)
    return text.lower() if looks_like_email(text) else text


def _check_placeholder(text: str) -> None:
    plain = text
    for _ in range(4):  # quoted, encoded, quoted again: peel until it no longer changes
        if _TEMPLATE.search(plain):
            raise BlockedError(f"{_show(text)} is a template tag that was not filled in")
        if plain.casefold() in BLOCKED or _ZEROS.fullmatch(plain):
            raise BlockedError(f"{_show(text)} is a placeholder, not somebody's id")
        peeled = unquote(plain).strip().strip(_QUOTES + "\\").strip()
        if peeled == plain:
            return
        plain = peeled


def _show(value: object) -> str:
    return repr(value)[:80]


def looks_like_email(value: str) -> bool:
    """Whether a value reads as an email address; an `id` that does not is a customer number."""
    return _EMAIL.fullmatch(value) is not None


def is_customer_number(key: Key) -> bool:
    """Whether an identity is an `id` that is not an email address."""
    return key[0] == "id" and not looks_like_email(key[1])


def fingerprint(*parts: object) -> str:
    """A short digest that tells whether a repeated id carries the same request."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]


# --- the device's time line ---------------------------------------------------------------------------------------


def cut(
    device_id: int,
    facts: Sequence[Fact],
    releases: Sequence[Release],
    erasures: Sequence[Erasure],
    void_tokens: frozenset[str],
) -> list[Visitor]:
    """Cuts a device's time line into visitors: what it did, what took it off a profile, and who was deleted.

    Facts are login, link, logout and reidentify. A fact's `visitor_id` is the id of the visitor it opens, if it opens
    one; the first visitor's id is the device's. A turn that lasts no time is none: nothing can have happened in it.
    """
    turns = [Visitor(device_id, device_id, home=device_id)]
    marks: list[tuple[int, int, int, Fact | Release | Erasure]] = [(f.at, 1, f.seq, f) for f in facts]
    marks += [(r.at, 1, r.seq, r) for r in releases]
    for n, erasure in enumerate(erasures):
        marks += [(erasure.started_at, 0, n, erasure), (erasure.ended_at, 2, n, erasure)]
    for at, order, _, mark in sorted(marks, key=lambda m: m[:3]):
        if isinstance(mark, Release):
            _apply_release(turns, mark)
        elif isinstance(mark, Fact):
            _apply_fact(turns, mark, at, void_tokens)
        elif order == 0:
            _begin_erasure(turns, mark)
        elif turns[-1].erased and not any(e.started_at <= at < e.ended_at for e in erasures):
            _open(turns, mark.next_visitor_id, at)
    for turn in turns:
        if turn.claim is not None and turn.claim[0] == GONE:
            _release(turn, turn.visitor_id)
    return [turn for turn in turns if not turn.erased and turn.started_at < turn.ended_at]


def _apply_fact(turns: list[Visitor], fact: Fact, at: int, void_tokens: frozenset[str]) -> None:
    if fact.kind == "logout":
        if turns[-1].claim is not None or turns[-1].erased:
            _open(turns, fact.visitor_id, at)
    elif fact.kind == "link":
        _apply_link(turns, fact, at, void_tokens)
    else:
        _apply_login(turns, fact, at)


def _open(turns: list[Visitor], visitor_id: int, at: int) -> Visitor:
    turns[-1].ended_at = at
    turns.append(Visitor(visitor_id, turns[-1].device_id, at, home=visitor_id))
    return turns[-1]


def _claim(turn: Visitor, fact: Fact, *, tentative: bool = False) -> None:
    turn.claim, turn.home = fact.identities[0], fact.homes[0]
    turn.proof, turn.tentative, turn.claim_seq, turn.claim_at = fact.proof, tentative, fact.seq, fact.at


def _apply_release(turns: list[Visitor], release: Release) -> None:
    for turn in turns:
        if turn.home in release.nodes:
            _release(turn, release.anchor or turn.visitor_id)


def _release(turn: Visitor, home: int) -> None:
    turn.claim, turn.home, turn.proof, turn.tentative, turn.claim_seq, turn.claim_at = None, home, None, False, 0, 0


def _begin_erasure(turns: list[Visitor], erasure: Erasure) -> None:
    if erasure.started_at > turns[-1].started_at:
        _open(turns, 0, erasure.started_at)
    turn = turns[-1]
    turn.claim, turn.home, turn.tentative, turn.erased = None, 0, False, True


def _apply_login(turns: list[Visitor], fact: Fact, at: int) -> None:
    turn = turns[-1]
    if fact.flags & GHOST:
        if turn.known or turn.erased:
            _open(turns, fact.visitor_id, at)
    elif turn.known and turn.home == fact.homes[0]:
        turn.proof = max(turn.proof or Proof.CLAIMED, fact.proof or Proof.CLAIMED)
    elif turn.known or turn.erased or fact.flags & APPEND:
        _claim(_open(turns, fact.visitor_id, at), fact, tentative=bool(fact.flags & TENTATIVE))
    elif not (fact.flags & TENTATIVE and turn.tentative and (turn.proof or 0) >= (fact.proof or 0)):
        _claim(turn, fact, tentative=bool(fact.flags & TENTATIVE))
    brought = set(fact.detail.get("brought", ()))
    for earlier in turns:
        if earlier.claim is not None and earlier.home in brought:
            _claim(earlier, fact)


def _apply_link(turns: list[Visitor], fact: Fact, at: int, void_tokens: frozenset[str]) -> None:
    if fact.detail.get("token") in void_tokens or fact.flags & IGNORED:
        return
    if turns[-1].erased:
        _open(turns, fact.visitor_id, at)
    turn = turns[-1]
    if turn.claim is None or (turn.tentative and (turn.proof or 0) < (fact.proof or 0)):
        _claim(turn, fact, tentative=True)


def turn_at(turns: Sequence[Visitor], at: int) -> Visitor | None:
    """The visitor whose stretch covers `at`; None where that person was deleted."""
    for turn in reversed(turns):
        if turn.started_at <= at < turn.ended_at:
            return turn
    return None


# --- what a browser may merge -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OldProfile:
    """What the authority rule needs to know of `old`'s profile.

    `devices` are the browsers firmly on it; `others`: something of another device, even a tentative visit, is there;
    `server_side`: a server put something there.
    """

    devices: frozenset[int]
    identities: tuple[Identity, ...]
    server_side: bool
    others: bool

    @property
    def proven_customer(self) -> bool:
        """Whether it holds a customer number proven by an identity token or the server."""
        return any(is_customer_number(i.key) and i.proof >= Proof.VERIFIED for i in self.identities)

    @property
    def empty(self) -> bool:
        """Whether nobody and nothing but unproven claims is there: taking it takes nothing from anybody."""
        return not self.devices and not self.others and all(i.proof < Proof.VERIFIED for i in self.identities)


def may_bring(old: OldProfile, device_id: int, *, signed_link: bool, token_names_both: bool, trust: str) -> bool:
    """Whether a browser's reidentify may bring all of `old`'s profile along (rules 1 to 4 of the design)."""
    if trust == "open" or token_names_both or old.empty:
        return True
    if old.proven_customer:
        return False
    if signed_link:
        return True
    return trust == "guarded" and old.devices == {device_id} and not old.server_side


# --- what a profile shows -----------------------------------------------------------------------------------------


def primary(calls: Iterable[tuple[int, Key]], identities: Iterable[Identity]) -> Key | None:
    """The identity a profile is called by: the target of the last explicit call, else the earliest customer number,
    else the earliest identity."""
    held = {identity.key: identity for identity in identities}
    for _, key in sorted(calls, reverse=True):
        if key in held:
            return key
    ordered = sorted(held.values(), key=lambda i: (not is_customer_number(i.key), i.since, i.home))
    return ordered[0].key if ordered else None


@dataclass(frozen=True, slots=True)
class Row:
    """A property, tag or subscription fact as a profile reads it; `value` is decoded, None clears."""

    device_id: int
    kind: str
    key: str
    at: int
    op_id: str
    value: Any


def fold_properties(rows: Iterable[Row]) -> tuple[dict[str, Any], list[str], bool]:
    """What a profile shows of its visitors' facts: (properties, tags in order, subscribed).

    The newest set wins, at equal times the higher op id; the oldest set_once shows only where nothing was set. A clear
    names the devices that its profile had: what they wrote before is gone for whoever still has both, so that a null
    never reaches across a later merge, and an undone merge brings back what was cleared through it.
    """
    newest: dict[tuple[str, str], Row] = {}
    once: dict[str, Any] = {}
    rows = standing(rows)
    for row in rows:
        if row.kind == "once":
            once.setdefault(row.key, row.value)
            continue
        newest[row.kind, row.key] = row
    properties = once | {r.key: r.value for (kind, _), r in newest.items() if kind == "set"}
    tags = sorted(r.key for (kind, _), r in newest.items() if kind == "tag" and r.value)
    subscription = [r for r in rows if r.kind == "subscription"]
    subscribed = min(((-r.at, bool(r.value)) for r in subscription), default=(0, True))[1]
    return dict(sorted(properties.items())), tags, subscribed


def standing(rows: Iterable[Row]) -> list[Row]:
    """The rows that no later clear took away, oldest first."""
    cleared: dict[tuple[int, str], tuple[int, str]] = {}
    rows = sorted(rows, key=lambda r: (r.at, r.op_id))
    for row in rows:
        for device_id in row.value if row.kind == "clear" else ():
            cleared[device_id, row.key] = (row.at, row.op_id)
    never = (-1, "")
    return [
        r for r in rows if r.kind not in ("set", "once") or (r.at, r.op_id) >= cleared.get((r.device_id, r.key), never)
    ]


def sources(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Where each shown property comes from: the row that shows, then those it won over, the newest first."""
    written: dict[str, list[Row]] = {}
    once: dict[str, list[Row]] = {}
    for row in standing(rows):
        if row.kind == "set":
            written.setdefault(row.key, []).insert(0, row)
        elif row.kind == "once":
            once.setdefault(row.key, []).append(row)
    keys = sorted(written.keys() | once.keys())
    return {key: written.get(key, []) + once.get(key, []) for key in keys}


CHANGES = ("add", "append", "remove")
"""Kinds of writes that change what a profile shows: a number is added, values go into a list or out of it."""

MAX_LIST = 1000
MAX_NUMBER = 2**63


def changed(kind: str, current: Any, operand: Any) -> Any:
    """A property after a change. What cannot be added up stays; a list holds a value once, and the newest 1000."""
    if kind == "add":
        if current is None:
            return operand
        if isinstance(current, bool) or not isinstance(current, (int, float)):
            return current
        total = current + operand
        return total if -MAX_NUMBER < total < MAX_NUMBER else current
    values = current if isinstance(current, list) else [] if current is None else [current]
    if kind == "append":
        return (values + [v for n, v in enumerate(operand) if v not in values and v not in operand[:n]])[-MAX_LIST:]
    return [v for v in values if v not in operand]
