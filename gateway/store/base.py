"""The contract every store keeps: what is loaded for a decision, what is saved after it, and what is read to be shown.

A `Transaction` sees and changes the database for one group of requests; nothing it did exists before it was committed,
and after that it survives a power loss. A `Store` hands out the write transaction and answers reads from the last
commit, a snapshot of it all of them from one. Loads take sets and return what exists of them: what is missing is simply
not in the answer. Saves are upserts: saving the same rows twice is the same as once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from gateway.model import (
    Device,
    Event,
    Fact,
    Identity,
    IdentityError,
    Key,
    Profile,
    Seen,
    Site,
    Stretch,
    Told,
    Visitor,
    Write,
)

T = TypeVar("T")
Record = dict[str, Any]
"""A row to be shown: column names to values."""


@dataclass(slots=True)
class Outbox:
    """What a commit adds to the feed of a site: ids of events, and facts."""

    at: int
    events: list[int]
    facts: list[Told]


@dataclass(slots=True)
class Changes:
    """Everything one wave of decisions changed on one site, as rows."""

    devices: list[Device] = field(default_factory=list)
    visitors: list[Visitor] = field(default_factory=list)
    visitors_gone: list[Visitor] = field(default_factory=list)
    identities_new: list[Identity] = field(default_factory=list)
    identities: list[Identity] = field(default_factory=list)
    identities_gone: list[Key] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    profiles_gone: list[int] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    refs: list[tuple[int, int]] = field(default_factory=list)
    facts_changed: list[Fact] = field(default_factory=list)
    excluded: list[tuple[int, int, int]] = field(default_factory=list)
    included: list[tuple[int, int]] = field(default_factory=list)
    tokens: list[tuple[str, int, int, int]] = field(default_factory=list)
    errors: list[IdentityError] = field(default_factory=list)
    errors_gone: list[tuple[str, str, int]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    writes_gone: list[Write] = field(default_factory=list)
    births: list[tuple[str, int]] = field(default_factory=list)
    tombstones: list[tuple[str, int]] = field(default_factory=list)
    homes_new: list[tuple[str, str, int]] = field(default_factory=list)
    homes: list[tuple[str, str, int]] = field(default_factory=list)
    receipts: list[tuple[str, int]] = field(default_factory=list)
    event_names: list[tuple[str, str]] = field(default_factory=list)
    outbox: Outbox | None = None


class Transaction(Protocol):
    """One group of requests against the database."""

    async def lock(self, site_id: int, profile_ids: Collection[int]) -> None:
        """Says that what is decided rests on these profiles, each with the device of the same id if there is one.

        Until the commit nobody else changes them, their visitors, identities or facts; ids that do not exist are locked
        like others. Where several gateways write to one database, a transaction that turns out to rest on more than it
        had locked before it read is thrown away at its first write, and its work is done again with all of it locked.
        """

    async def last_seq(self, site_id: int) -> int:
        """The highest `seq` in the site's ledger, 0 if it is empty."""

    async def devices(self, site_id: int, ids: Collection[int]) -> list[Device]:
        """Devices without their facts and visitors."""

    async def visitors_on(self, site_id: int, device_ids: Collection[int], since: int) -> list[Visitor]:
        """The visitors of devices that ended after `since`, in order of time."""

    async def stretches(self, site_id: int, device_ids: Collection[int], since: int) -> list[Stretch]:
        """The visitors of devices that ended after `since`, briefly, in no order.

        For work that rests on nothing else: what is locked before it, and what after it, are locked alike.
        """

    async def visitors_at(self, site_id: int, homes: Collection[int]) -> list[Visitor]:
        """The visitors that point at any of the given profile ids."""

    async def identities_named(self, site_id: int, keys: Collection[Key]) -> list[Identity]:
        """Identities by kind and value."""

    async def identities_at(self, site_id: int, homes: Collection[int]) -> list[Identity]:
        """Identities by the profile id they were given."""

    async def profiles(self, site_id: int, ids: Collection[int]) -> list[Profile]:
        """Profiles by id, with the profile each resolves to."""

    async def members(self, site_id: int, roots: Collection[int]) -> list[Profile]:
        """All profile ids that resolve to the given ones."""

    async def device_facts(self, site_id: int, device_ids: Collection[int]) -> list[Fact]:
        """What devices wrote into the ledger that is in force, in the order of commits."""

    async def graph_facts(self, site_id: int, nodes: Collection[int]) -> list[Fact]:
        """Merges and their kin that concern any of the given profile ids and are in force, in the order of commits.

        Without what changed nothing when it came: that joins and parts nobody.
        """

    async def facts_of(self, site_id: int, nodes: Collection[int]) -> list[Fact]:
        """Every fact in force that names any of the given profile ids, in the order of commits."""

    async def homes(self, site_id: int, keys: Collection[Key]) -> dict[Key, int]:
        """The profile ids that values without an identity were given when they were named before."""

    async def recorded(self, site_id: int, op_ids: Collection[str]) -> list[Fact]:
        """Facts by op id, inert ones included: the recorded answers."""

    async def exclusions(self, site_id: int, nodes: Collection[int]) -> list[tuple[int, int]]:
        """Cannot-link pairs that concern any of the given profile ids, both ways round."""

    async def tokens(self, site_id: int, tokens: Collection[str]) -> list[tuple[str, int]]:
        """(link token digest, device) pairs."""

    async def births(self, site_id: int, message_ids: Collection[str]) -> dict[str, int]:
        """Devices by the message that made them, for requests whose cookie has not come back yet."""

    async def tombstones(self, site_id: int, hashes: Collection[str]) -> dict[str, int]:
        """When identities were deleted, by their digest."""

    async def receipts(self, site_id: int, receipts: Collection[str], since: int) -> set[str]:
        """Those of the given receipts that were kept after `since`."""

    async def event_names(self, site_id: int, folded: Collection[str]) -> dict[str, str]:
        """The first spelling of event names, by the form under which they are compared."""

    async def writes(self, site_id: int, device_ids: Collection[int], keys: Collection[str]) -> list[Write]:
        """Property, tag and subscription facts of devices under the given keys, oldest first."""

    async def facts_about(self, site_id: int, nodes: Collection[int], device_ids: Collection[int]) -> list[Fact]:
        """Every fact, inert or not, that names any of the profile ids or devices."""

    async def add_events(self, site_id: int, events: Sequence[Event]) -> set[int]:
        """Appends events; returns the ids of those that were not already there by (device, message id)."""

    async def seen(self, site_id: int, rows: Sequence[Seen]) -> None:
        """Adds what landed on visitors to their counters."""

    async def count_events(self, site_id: int, visitor: Visitor) -> tuple[int, int | None, int | None]:
        """(number, first, last) of the events and writes in a visitor's stretch; writes are not counted as events."""

    async def erase(self, site_id: int, visitors: Sequence[Visitor], nodes: Collection[int]) -> None:
        """Removes the events, properties, errors, links and references of deleted visitors and profiles."""

    async def save(self, site_id: int, changes: Changes) -> None:
        """Writes everything a wave changed."""


class View(Protocol):
    """What can be read: a store, which answers every read from the last commit, or one commit of it."""

    async def read(self, statement: str, *arguments: object) -> list[Record]:
        """Rows of the last commit. `statement` uses $1, $2 … and `= any($n)` for lists."""

    def snapshot(self) -> AbstractAsyncContextManager[View]:
        """The last commit, whatever is committed while it is read; a snapshot's own is itself."""


class Store(View, Protocol):
    """A database: opened once per process, with one writer and many readers."""

    async def open(self) -> None:
        """Connects, creates or migrates the schema. Raises Unavailable if the database cannot be used."""

    async def close(self) -> None:
        """Ends every connection; what was committed stays."""

    async def run(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Does `work` in a write transaction: committed when it returns, rolled back when it raises.

        `work` may be called several times, each time on a database without what it did before; it must not change what
        it was given. Raises Unavailable if the database cannot be written now; then nothing has been acknowledged.
        """

    async def forget(self) -> None:
        """Takes what was deleted out of the database's files as well, where that is not the database's own affair."""

    def stream(self, statement: str, *arguments: object) -> AsyncIterator[Record]:
        """Like `read`, row by row."""

    async def sites(self) -> list[Site]:
        """All sites."""

    async def save_site(self, site: Site) -> None:
        """Creates or changes a site."""

    async def config(self, name: str) -> str | None:
        """A value kept with the database, None if it was never set."""

    async def set_config(self, name: str, value: str, *, only_if_absent: bool = False) -> str:
        """Keeps a value with the database; returns what is kept now."""

    async def settled(self) -> tuple[int, int]:
        """(how far the outbox is complete, its last position): up to the first, no commit can put in anything more."""

    async def lease_node(self) -> int:
        """A number for this process's ids that no other running process on this database has."""
