"""What is kept for how long: `Retention` takes away what is too old, a little at a time, while the gateway serves.

Nothing goes that decides who is who: after it `gateway check` finds the same people as before.
"""

from __future__ import annotations

import asyncio
import calendar
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from gateway.context import Gateway
from gateway.errors import Unavailable
from gateway.identity.engine import Engine
from gateway.identity.requests import Operation, Person
from gateway.model import Site, iso, now
from gateway.settings import Settings
from gateway.signing import LINK_MAX_AGE
from gateway.store import retention as statements
from gateway.store.base import Transaction
from gateway.store.sql import SqlTransaction

log = logging.getLogger("gateway.retention")

EVERY_SECONDS = 23 * 3600
"""How long after it began a pass begins again; of several gateways on one database one does it."""
LOOK_SECONDS = 600
"""How often it is looked whether a pass is due; the first time after a part of it."""
REST = 4.0
"""How long it rests after each bite, in lengths of that bite: others have four fifths of the time."""
LEAST_REST_SECONDS = 0.05
LINK_SLACK = 30 * 24 * 3600 * 1_000_000
FIRST_MESSAGES_KEPT = 30 * 24 * 3600 * 1_000_000
"""A browser may send again what was not answered; after this time its page's queue has forgotten it, too."""

RECORD, REPORT = "retention begun", "retention report"
"""Under which names it is kept with the database when the last pass began, and what it took."""


@dataclass(slots=True)
class Removed:
    """What went, or would go."""

    events: int = 0
    anonymous_profiles: int = 0
    link_tokens: int = 0
    repeats: int = 0
    first_messages: int = 0

    def add(self, other: Removed) -> None:
        """Adds what went elsewhere."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Before:
    """The moments, in microseconds, before which things are too old; 0 keeps them for ever."""

    events: int
    anonymous: int
    repeats: int
    link_tokens: int
    first_messages: int


def months_ago(months: int, at: int) -> int:
    """`at` some calendar months earlier, both in microseconds; the 31st becomes the last day of a shorter month."""
    moment = datetime.fromtimestamp(at / 1_000_000, UTC)
    year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return int(moment.replace(year=year, month=month + 1, day=day).timestamp() * 1_000_000)


def limits(settings: Settings, at: int) -> Before:
    """What the settings mean at a time. A link is good for 400 days; then it need not be known where it was opened."""
    forgotten = {"link_tokens": at - LINK_MAX_AGE * 1_000_000 - LINK_SLACK, "first_messages": at - FIRST_MESSAGES_KEPT}
    given = (settings.keep_events, settings.keep_anonymous, settings.keep_repeats)
    events, anonymous, repeats = (months_ago(m, at) if m else 0 for m in given)
    return Before(events, anonymous, repeats, **forgotten)


class Retention:
    """Takes away what is too old of one site after the other. `rest` is as REST; 0 does not rest."""

    def __init__(self, gateway: Gateway, before: Before, *, rest: float = 0.0) -> None:
        self.gateway = gateway
        self.store = gateway.store
        self.before = before
        self.rest = rest

    async def would_remove(self, site: Site) -> Removed:
        """How much would go now; reads everything, and changes nothing."""
        store, site_id, before = self.store, site.site_id, self.before
        found = Removed()
        if before.events:
            found.events = await statements.count_events(store, site_id, before.events)
        if before.anonymous:
            found.anonymous_profiles = await statements.count_idle_profiles(store, site_id, before.anonymous)
        found.link_tokens = await statements.count_link_tokens(store, site_id, before.link_tokens, site.token_cap)
        if before.repeats:
            found.repeats = await statements.count_repeats(store, site_id, before.repeats)
        found.first_messages = await statements.count_first_messages(store, site_id, before.first_messages)
        return found

    async def remove(self, site: Site, tell: Callable[[Removed], object] = lambda removed: None) -> Removed:
        """Takes away what is too old; `tell` hears how much went so far. Raises Unavailable; what went is gone."""
        done = Removed()
        for kind in (self._first_messages, self._events, self._anonymous, self._link_tokens, self._repeats):
            await kind(site, done, tell)
        if done != Removed():
            await self.store.forget()
        return done

    async def _bite(self, work: Callable[[SqlTransaction], Awaitable[Any]]) -> Any:
        """One short transaction, and a rest that is longer if others wait for the database."""

        async def on_sql(tx: Transaction) -> Any:
            assert isinstance(tx, SqlTransaction)
            tx.in_thread = True
            return await work(tx)

        started = time.monotonic()
        result = await self.store.run(on_sql)
        if self.rest:
            waiting = 1 + self.gateway.writer.waiting / 100
            await asyncio.sleep(max(LEAST_REST_SECONDS, (time.monotonic() - started) * self.rest * waiting))
        return result

    async def _events(self, site: Site, done: Removed, tell: Callable[[Removed], object]) -> None:
        site_id, before = site.site_id, self.before.events
        if not before:
            return
        async for devices in statements.devices_with_events(self.store, site_id, before):
            went = statements.AT_ONCE
            while went == statements.AT_ONCE:
                drop = partial(statements.drop_events, site_id=site_id, devices=devices, before=before)
                went = await self._bite(drop)
                done.events += went
                tell(done)

    async def _anonymous(self, site: Site, done: Removed, tell: Callable[[Removed], object]) -> None:
        site_id, before = site.site_id, self.before.anonymous
        if not before:
            return
        async for profiles in statements.idle_profiles(self.store, site_id, before):
            drop = partial(statements.drop_passers_by, site_id=site_id, profiles=profiles, before=before)
            gone = await self._bite(drop)
            done.anonymous_profiles += len(gone)
            for profile_id in sorted(set(profiles) - set(gone)):
                done.anonymous_profiles += await self._bite(partial(self._delete, site=site, profile_id=profile_id))
            tell(done)

    async def _delete(self, tx: SqlTransaction, site: Site, profile_id: int) -> bool:
        """Erases an anonymous profile that has a history, like anybody: the ledger goes on without it."""
        if not await statements.still_idle(tx, site.site_id, profile_id, self.before.anonymous):
            return False
        operation = Operation(site, "delete", "", [Person(profile_id=profile_id)], actor="retention", reason="idle")
        await Engine(self.gateway.new_id).run(tx, [operation])
        return True

    async def _link_tokens(self, site: Site, done: Removed, tell: Callable[[Removed], object]) -> None:
        site_id, before, cap = site.site_id, self.before.link_tokens, site.token_cap
        async for tokens in statements.old_link_tokens(self.store, site_id, before, cap):
            drop = partial(statements.drop_link_tokens, site_id=site_id, tokens=tokens, before=before, cap=cap)
            done.link_tokens += await self._bite(drop)
            tell(done)

    async def _repeats(self, site: Site, done: Removed, tell: Callable[[Removed], object]) -> None:
        went = statements.AT_ONCE if self.before.repeats else 0
        while went == statements.AT_ONCE:
            drop = partial(statements.drop_repeats, site_id=site.site_id, before=self.before.repeats)
            went = await self._bite(drop)
            done.repeats += went
            tell(done)

    async def _first_messages(self, site: Site, done: Removed, tell: Callable[[Removed], object]) -> None:
        site_id, before = site.site_id, self.before.first_messages
        went, after = statements.AT_ONCE, -1
        while went == statements.AT_ONCE:
            drop = partial(statements.drop_first_messages, site_id=site_id, after=after, before=before)
            went, after = await self._bite(drop)
            done.first_messages += went
            tell(done)


# --- in the background ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def retained(gateway: Gateway) -> AsyncIterator[None]:
    """Retention at work in the background for as long as it is entered."""
    task = asyncio.create_task(keep_up(gateway), name="retention")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def keep_up(gateway: Gateway) -> None:
    """Does a pass a day for as long as the gateway runs. What cannot be done now is tried again later."""
    await asyncio.sleep(LOOK_SECONDS * random.uniform(0.3, 1))  # not while the gateway starts, nor all at once
    unfinished = False
    while True:
        try:
            if unfinished := unfinished or await due(gateway, now()):
                await one_pass(gateway)
                unfinished = False
        except Unavailable as error:
            log.warning("retention goes on later: %s", error.message)
        except Exception:
            log.exception("retention stopped")
        await asyncio.sleep(LOOK_SECONDS)


async def due(gateway: Gateway, at: int) -> bool:
    """Whether it is this process's turn to do a pass: the one before began long enough ago, and nobody else took it."""
    begun, last = iso(at), iso(at - EVERY_SECONDS * 1_000_000)

    async def claim(tx: Transaction) -> bool:
        assert isinstance(tx, SqlTransaction)
        tail = f"on conflict (name) do update set value = excluded.value where config.value < '{last}' returning value"
        return bool(await tx.insert("config", "name, value", [(RECORD, begun)], tail))

    return await gateway.store.run(claim)


async def one_pass(gateway: Gateway, rest: float = REST) -> dict[str, Removed]:
    """Takes away what is too old of every site; keeps and logs what that was, by the name of the site."""
    retention = Retention(gateway, limits(gateway.settings, now()), rest=rest)
    report: dict[str, Removed] = {}
    for site in await gateway.sites.all(fresh=True):
        report[site.name] = await retention.remove(site)
        gateway.writer.tally.remove(msgspec.to_builtins(report[site.name]))
    told = {"at": iso(now()), "removed": report}
    await gateway.store.set_config(REPORT, msgspec.json.encode(told).decode())
    for name, removed in report.items():
        if removed != Removed():
            log.info("retention removed of %s: %s", name, shown(removed))
    return report


def shown(removed: Removed) -> str:
    """`12 events, 3 anonymous profiles`; `nothing` for none."""
    counts: dict[str, int] = msgspec.to_builtins(removed)
    return ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items() if n) or "nothing"
