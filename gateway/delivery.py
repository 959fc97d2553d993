"""Sends the feed to the receivers of all sites, at least once and in order; what is not taken becomes a dead letter.

What is being sent is written down before it is sent, so that after a crash the same entries go out under the same id.
One process at a time sends to a receiver: it holds a lease, and its progress is kept only while it does.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from gateway.context import Gateway
from gateway.errors import BadRequest, GatewayError, Gone
from gateway.extras import extra_module
from gateway.feed import Cursor, Feed, Page, prune, pruned
from gateway.model import Site, now
from gateway.store.receivers import DeadLetter, Receiver, Receivers
from gateway.webhooks import Failed, Webhooks, check_secret, new_secret

log = logging.getLogger("gateway.delivery")

BATCH = 200
LOOK_AGAIN = 0.25
NOBODY = 2.0
"""Seconds until it looks again whether there is something to send, or anybody to send to."""

SCHEMES = ("http", "https", "nats", "tls")
MAX_ATTEMPTS = 20
LONGEST_WAIT = 3600.0
AWAY = 2.0
"""Seconds until a server that was away is tried again; after a refusal they double each time, up to an hour."""

PRUNE_EVERY = 600


def is_nats(url: str) -> bool:
    """Whether a receiver is a NATS server; else it is a webhook."""
    return url.startswith(("nats://", "tls://"))


def _names_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        return parts.scheme in SCHEMES and bool(host) and parts.port != 0 and len(url) <= 2048
    except ValueError:
        return False


async def new_receiver(
    gateway: Gateway, site: Site, url: str, *, subject: str, secret: str | None, attempts: int, oldest: bool
) -> Receiver:
    """Adds a receiver to a site, from now on or from the oldest entry that is kept. Raises BadRequest for a bad URL."""
    if not _names_a_host(url):
        raise BadRequest("a receiver needs a URL", "https://… for a webhook, nats://… or tls://… for NATS JetStream")
    if any(c in subject for c in " *>\t\r\n") or subject.startswith(".") or subject.endswith("."):
        raise BadRequest(f"{subject!r} is no subject to publish under", "write it as shop.events")
    if is_nats(url):
        jetstream()
    secret = check_secret(secret) if secret else new_secret()
    _, end = await gateway.store.settled()
    position = await pruned(gateway.store) if oldest else end
    made = Receiver(
        site.site_id, gateway.new_id(), url, subject or f"veroq.{site.site_id}", secret, attempts, now(), position
    )
    await Receivers(gateway.store).add(made)
    return made


def jetstream() -> Any:
    """The module that speaks NATS. Raises BadRequest if its library is not installed."""
    return extra_module("gateway.jetstream", "nats", "nats", "NATS needs a library that is not installed")


class Deliverer:
    """Sends to every receiver for whom there is something, to each by a task of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.store = gateway.store
        self.receivers = Receivers(gateway.store)
        self.name = secrets.token_hex(8)
        self.webhooks = Webhooks()
        self.nats: Any = None
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        try:
            while True:
                pause = LOOK_AGAIN
                try:
                    pause = await self._look()
                except GatewayError as error:  # the database is away: so is the feed
                    log.debug("nothing can be delivered now: %s", error)
                except Exception:
                    log.exception("looking for what is to be delivered failed")
                await asyncio.sleep(pause)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await self.webhooks.close()
            if self.nats is not None:
                await self.nats.close()

    async def _look(self) -> float:
        """Starts what there is to do; answers when to look again."""
        self._tasks = {key: task for key, task in self._tasks.items() if not task.done()}
        if not await self.receivers.any():
            return NOBODY
        settled, _ = await self.store.settled()
        for receiver in await self.receivers.due(settled):
            key = (receiver.site_id, receiver.receiver_id)
            if key not in self._tasks:
                self._tasks[key] = asyncio.create_task(self._serve(receiver))
        return LOOK_AGAIN

    async def _serve(self, receiver: Receiver) -> None:
        try:
            site = next((s for s in await self.gateway.sites.all() if s.site_id == receiver.site_id), None)
            mine = await self.receivers.claim(receiver, self.name) if site else None
            if site is not None and mine is not None:
                await self._send_again(mine, Feed(self.store, site))
                await self._go_on(mine, Feed(self.store, site))
        except GatewayError as error:
            log.debug("what was delivered could not be noted, and will be delivered again: %s", error)
        except Exception:
            log.exception("a receiver could not be served")

    async def _go_on(self, receiver: Receiver, feed: Feed) -> None:
        """Batch after batch, until nothing is left, one is not taken, or somebody else has the receiver."""
        while True:
            page = await self._next(receiver, feed)
            more = receiver.until_position is not None
            if not await self.receivers.save(receiver, done=not more) or not more:
                return
            dead = None
            try:
                await self._send(receiver, page, _range(receiver))
            except Failed as error:
                dead = self._failed(receiver, error)
                if dead is None:
                    await self.receivers.save(receiver, done=True)
                    return
            else:
                receiver.delivered_at, receiver.error = now(), None
            _advance(receiver)
            if dead is not None and not await self.receivers.save(receiver, done=False, dead=dead):
                return

    async def _next(self, receiver: Receiver, feed: Feed) -> Page:
        """What a receiver is to be sent: what it was being sent before, or the next page, which is noted in it."""
        try:
            if receiver.until_position is not None:
                after, until = _range(receiver)
                return await feed.page(after, BATCH, until)
            page = await feed.page(Cursor(receiver.position, receiver.entries), BATCH)
        except Gone:
            log.warning("a receiver missed entries that are not kept any more: raise GATEWAY_FEED_DAYS")
            receiver.position, receiver.entries, receiver.until_position = await pruned(self.store), 0, None
            page = await feed.page(Cursor(receiver.position), BATCH)
        if page.entries:
            receiver.until_position, receiver.until_entries = page.next
        else:
            receiver.position, receiver.entries = page.next
        return page

    async def _send(self, receiver: Receiver, page: Page, stretch: tuple[Cursor, Cursor]) -> None:
        if not page.entries:
            return  # all of it was about people who are deleted
        if is_nats(receiver.url):
            self.nats = self.nats or jetstream().JetStream()
            await self.nats.send(receiver.url, receiver.subject, page.entries)
        else:
            name = f"feed_{receiver.receiver_id}_{stretch[0]}_{stretch[1]}"
            await self.webhooks.send(receiver.url, receiver.secret, name, page.entries, str(stretch[1]))

    def _failed(self, receiver: Receiver, error: Failed) -> DeadLetter | None:
        """Notes a failure: when to try again, or the dead letter after the last attempt that counts."""
        receiver.error, wait = str(error)[:500], AWAY
        if error.counts:
            wait = min(LONGEST_WAIT, 2.0**receiver.attempts) * random.uniform(0.8, 1.2)
            receiver.attempts += 1
        if error.counts and receiver.attempts >= receiver.max_attempts:
            _, until = _range(receiver)
            place = (receiver.site_id, receiver.receiver_id, receiver.position, receiver.entries)
            log.warning("a receiver did not take a batch after %d attempts", receiver.attempts)
            return DeadLetter(*place, *until, receiver.attempts, now(), receiver.error)
        receiver.retry_at = now() + int(wait * 1_000_000)
        return None

    async def _send_again(self, receiver: Receiver, feed: Feed) -> None:
        """Dead letters that somebody asked to be sent again, once each."""
        for dead in await self.receivers.dead(receiver.site_id, receiver.receiver_id, again=True):
            stretch = dead_range(dead)
            if not await self.receivers.save(receiver, done=False):
                return
            try:
                await self._send(receiver, await feed.page(stretch[0], BATCH, stretch[1]), stretch)
            except Gone:
                pass  # nothing of it is kept any more
            except Failed as error:
                again = replace(dead, attempts=dead.attempts + 1, at=now(), error=str(error)[:500], again=0)
                if not await self.receivers.save(receiver, done=False, dead=again):
                    return
                continue
            await self.receivers.taken(dead)


def dead_range(dead: DeadLetter) -> tuple[Cursor, Cursor]:
    """The stretch of the feed that a dead letter is about."""
    return Cursor(dead.position, dead.entries), Cursor(dead.until_position, dead.until_entries)


def _range(receiver: Receiver) -> tuple[Cursor, Cursor]:
    until = Cursor(receiver.until_position or receiver.position, receiver.until_entries)
    return Cursor(receiver.position, receiver.entries), until


def _advance(receiver: Receiver) -> None:
    """What was being sent is settled."""
    receiver.position, receiver.entries = receiver.until_position or receiver.position, receiver.until_entries
    receiver.until_position, receiver.until_entries = None, 0
    receiver.attempts = receiver.retry_at = 0


async def _pruning(gateway: Gateway) -> None:
    while True:
        try:
            await prune(gateway.store, gateway.settings.feed_days)
        except GatewayError as error:  # the database is away
            log.debug("the feed cannot be shortened now: %s", error)
        except Exception:
            log.exception("the feed could not be shortened")
        await asyncio.sleep(PRUNE_EVERY * random.uniform(0.9, 1.1))


@asynccontextmanager
async def delivering(gateway: Gateway, *, deliver: bool = True) -> AsyncIterator[None]:
    """Sends the feed to its receivers, if this process is to, and forgets what is older than is kept."""
    works: Sequence[Any] = [_pruning(gateway), *([Deliverer(gateway).run()] if deliver else [])]
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
