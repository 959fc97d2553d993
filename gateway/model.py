"""The words of the product as types: ids, times, proofs, and the rows that the identity engine works on.

Times are integers, microseconds since the epoch in UTC; they are shown as ISO 8601. Ids are time-ordered 63-bit
integers, shown as strings.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import msgspec

Key = tuple[str, str]
"""An identity: (kind, value), the value already normalised."""

OPTIONAL_KINDS = ("email", "phone")
"""Kinds of identities that a site turns on."""

BEGINNING = 0
FOREVER = 2**62
"""Bounds of a device's time line: the first visitor starts at BEGINNING, the current one ends at FOREVER."""

GONE = "gone"
"""The kind of an identity in a fact whose person was deleted; its value is the profile id that it had."""

SERVER_DEVICE = 0
"""The `device_id` of ledger facts that no device wrote."""


class Proof(IntEnum):
    """How well a claim is proven, weakest first."""

    LINK_RAW = 1
    LINK = 2
    CLAIMED = 3
    VERIFIED = 4
    SERVER = 5

    @property
    def label(self) -> str:
        """The word used in JSON."""
        return self.name.lower()


def now() -> int:
    """The time, in microseconds since the epoch."""
    return time.time_ns() // 1000


def iso(at: int | None) -> str | None:
    """`at` as ISO 8601 in UTC with milliseconds; None stays None."""
    if at is None:
        return None
    return datetime.fromtimestamp(at / 1_000_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


ID_TIME_SHIFT = 22
"""What is above it in an id of ours are the milliseconds since the epoch when it was made."""


SEQUENCES = 1 << 12


class NewIds(Protocol):
    """What makes ids, one or many at once: each is larger than all before it."""

    def __call__(self) -> int:
        """The next id."""

    def many(self, number: int) -> list[int]:
        """The next ids."""


class IdGenerator:
    """Makes time-ordered 63-bit integers: 41 bits of milliseconds, 10 bits of node, 12 bits of sequence.

    `node` is leased from the database by each process, so two gateways on one database never make the same id.
    """

    def __init__(self, node: int | None = None) -> None:
        self.node = (int.from_bytes(os.urandom(2)) if node is None else node) % 1024
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """The next id: larger than all before it, also if the clock went back."""
        with self._lock:
            self._last = self._next()
            return self._last

    def many(self, number: int) -> list[int]:
        """The next ids, made at once."""
        ids: list[int] = []
        with self._lock:
            while len(ids) < number:
                start = self._next()
                left = min(number - len(ids), SEQUENCES - start % SEQUENCES)
                ids += range(start, start + left)
                self._last = ids[-1]
        return ids

    def _next(self) -> int:
        made = self._first_of(time.time_ns() // 1_000_000)
        if made > self._last:
            return made
        after = self._last + 1
        return after if after % SEQUENCES else self._first_of((self._last >> ID_TIME_SHIFT) + 1)

    def _first_of(self, ms: int) -> int:
        return (ms << ID_TIME_SHIFT) + self.node * SEQUENCES


@dataclass(slots=True)
class Site:
    """A tenant. `settings` holds the site's own choices; see `site_setting` for their defaults."""

    site_id: int
    name: str
    api_key: str
    secret_keys: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    created_at: int = 0

    @property
    def origins(self) -> list[str]:
        """Origins whose pages may send commands; empty means any."""
        return list(self.settings.get("origins", ()))

    @property
    def trust(self) -> str:
        """`guarded`, `strict` or `open`."""
        return str(self.settings.get("trust", "guarded"))

    @property
    def device_cap(self) -> int:
        """How many devices one profile may have."""
        return int(self.settings.get("device_cap", 50))

    @property
    def token_cap(self) -> int:
        """On how many devices one link token may be seen before its links are withdrawn."""
        return int(self.settings.get("token_cap", 5))

    @property
    def identity_kinds(self) -> tuple[str, ...]:
        """The kinds of identities that the server APIs take from profiles: `id` always, `email` and `phone` if on."""
        return ("id", *(k for k in OPTIONAL_KINDS if k in self.settings.get("identity_kinds", ())))

    @property
    def time_zone(self) -> ZoneInfo:
        """The time zone that days are counted in where another system's API speaks of days."""
        return ZoneInfo(str(self.settings.get("time_zone", "UTC")))

    @property
    def gpc(self) -> str:
        """What is done about Global Privacy Control: `respect`, `strict` (nothing is kept) or `ignore`."""
        return str(self.settings.get("gpc", "respect"))

    @property
    def link_param(self) -> str:
        """The name of the link parameter in email links."""
        return str(self.settings.get("link_param", "vero_id"))


# Flags of a device fact: what the fold decided about it from the state at its commit.
APPEND = 1  # the visitor belonged to somebody through a merge: open a new one instead of claiming it
GHOST = 2  # the profile was full: the claim is not taken
IGNORED = 4  # a link on a visitor that was known through a merge
TENTATIVE = 8  # a login that waits for an identity token (trust strict)


@dataclass(slots=True)
class Fact:
    """One entry of the ledger.

    `at` is device time for what a device did, else the commit time; `seq` is the order of commits. `identities` and
    `homes` run in parallel: the identities a fact names and the profile ids given to them. `detail` pins what was
    decided at commit; `flags` is what the fold made of it. What is `inert` is kept as an answer only and never folded;
    what is `idle` changed nothing when it came and counts all the same, should what came before it change.
    """

    seq: int
    op_id: str
    kind: str
    outcome: str
    device_id: int = SERVER_DEVICE
    actor: str = "server"
    proof: Proof | None = None
    at: int = 0
    committed_at: int = 0
    identities: list[Key | None] = field(default_factory=list)
    homes: list[int] = field(default_factory=list)
    visitor_id: int = 0
    detail: dict[str, Any] = field(default_factory=dict)
    flags: int = 0
    moved_visitors: int = 0
    moved_identities: int = 0
    reason: str | None = None
    undone_by: str | None = None
    resolved_by: str | None = None
    erased: bool = False
    inert: bool = False
    request_hash: str = ""
    idle: bool = False


@dataclass(slots=True)
class Visitor:
    """One person's turn on one device: [started_at, ended_at) of its time line.

    `home` is the profile id the turn points at: the claimed identity's; while nobody is known its own (`visitor_id`),
    or, after a demerge, the one that all such turns of the device were given.
    """

    visitor_id: int
    device_id: int
    started_at: int = BEGINNING
    ended_at: int = FOREVER
    claim: Key | None = None
    home: int = 0
    proof: Proof | None = None
    tentative: bool = False
    claim_seq: int = 0
    claim_at: int = 0
    first_seen: int | None = None
    last_seen: int | None = None
    events: int = 0
    erased: bool = False

    def __copy__(self) -> Visitor:
        """Another with the same values: each command loads some, and the general way takes four times as long."""
        what = (self.visitor_id, self.device_id, self.started_at, self.ended_at, self.claim, self.home, self.proof)
        when = (self.tentative, self.claim_seq, self.claim_at, self.first_seen, self.last_seen, self.events)
        return Visitor(*what, *when, self.erased)

    @property
    def known(self) -> bool:
        """Whether somebody firmly holds this turn."""
        return self.claim is not None and not self.tentative


@dataclass(slots=True)
class Identity:
    """A value that names a profile. `server_device` is the pseudo-device of its server-side traffic, 0 for none."""

    key: Key
    home: int
    proof: Proof
    since: int
    server_device: int = 0


@dataclass(slots=True)
class Erasure:
    """A stretch of a device's time line whose person was deleted; `next_visitor_id` follows it if nobody else does."""

    started_at: int
    ended_at: int
    next_visitor_id: int


@dataclass(frozen=True, slots=True)
class Release:
    """A demerge or unlink took a device off a profile: its turns at any of `nodes` are at `anchor` from then on.

    With `anchor` 0 each goes back to its own profile id.
    """

    at: int
    seq: int
    nodes: frozenset[int]
    anchor: int


@dataclass(slots=True)
class Device:
    """One browser, or the pseudo-device of an identity's server-side traffic. `complete`: all its facts are loaded."""

    device_id: int
    server: bool = False
    created_at: int = 0
    clock_offset: int = 0
    context: str | None = None
    erasures: list[Erasure] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    turns: list[Visitor] = field(default_factory=list)
    complete: bool = False


@dataclass(slots=True)
class Profile:
    """One person as a row: `root` is the profile it resolves to, its own id unless it was merged away."""

    profile_id: int
    root: int
    live: bool = False
    primary: Key | None = None


class Event(NamedTuple):
    """Something that happened on a device; never changed afterwards. In the order of its columns; texts are JSON."""

    site_id: int
    event_id: int
    device_id: int
    message_id: str
    name: str
    data: str
    extras: str | None
    page: str | None
    occurred_at: int
    received_at: int
    clamped: int


class Stretch(NamedTuple):
    """A visitor as far as an event needs it, with its device's correction of the clock."""

    device_id: int
    clock_offset: int
    visitor_id: int
    started_at: int
    ended_at: int
    first_seen: int | None


class Seen(msgspec.Struct):
    """How many new events a visitor has, and the first and last time at which something landed there."""

    device_id: int
    visitor_id: int
    events: int
    first: int
    last: int


@dataclass(slots=True)
class Told:
    """A fact as the feed tells it: the profile it is about, the profile ids it redirected, the stretches it moved.

    `redirects`: (profile id, where it leads now), 0 if it was deleted. `moved`: (visitor before, visitor now, from,
    until, profile before, profile now), 0 and 0 now if it was deleted.
    """

    seq: int
    profile_id: int
    redirects: list[tuple[int, int]] = field(default_factory=list)
    moved: list[tuple[int, ...]] = field(default_factory=list)


@dataclass(slots=True)
class Write:
    """A property, tag or subscription fact: `kind` is set, once, tag or subscription. `value` is JSON; null clears."""

    device_id: int
    kind: str
    key: str
    at: int
    op_id: str
    value: str


@dataclass(slots=True)
class IdentityError:
    """A refused or doubtful identity fact. Shown while `home` and `other` are different profiles (or `other` is 0)."""

    code: str
    op_id: str
    at: int
    home: int
    device_id: int
    message: str
    other: int = 0
    subject: str = ""
