"""The short way of most batches: events of browsers that are known, on visitors that were seen before.

Such an event changes nothing about who is who: it is kept, and its visitor's counters follow. Whatever may be more than
that is left to `batches.BatchRun`, which would come to the same rows for these, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from operator import attrgetter
from typing import cast

from gateway.identity.batches import YOUNG_MS, Done, only_events
from gateway.identity.clock import CLOCK_TOLERANCE, MAX_PAST, jumped, span, trusted
from gateway.identity.requests import Batch, ServerBatch, Track
from gateway.model import ID_TIME_SHIFT, Event, NewIds, Seen, Site, Stretch, now
from gateway.store.base import Changes, Outbox, Transaction


def plain(batch: Batch | ServerBatch) -> bool:
    """Whether a batch holds nothing but events, of a browser that showed its device and whose clock may be wrong."""
    if isinstance(batch, ServerBatch) or not batch.device_id or batch.name or trusted(batch):
        return False
    return bool(batch.commands) and only_events(batch)


row = tuple.__new__
_sent_at = attrgetter("sent_at")


class EventRun:
    """Keeps a wave of plain batches in one transaction."""

    def __init__(self, tx: Transaction, site: Site, new_id: NewIds) -> None:
        self.tx = tx
        self.site_id = site.site_id
        self.new_id = new_id
        self.now = now()
        self.repeated = 0
        self.events: list[Event] = []
        self.landed: list[Seen] = []
        self.private: set[int] = set()

    async def run(self, batches: Sequence[Batch]) -> list[Done | None]:
        """The answers; None for each batch that has to be decided with everything around it."""
        elsewhere = await self._elsewhere(batches)
        ids = {b.device_id for b in batches}
        stretches: dict[int, list[Stretch]] = {i: [] for i in ids}
        for stretch in await self.tx.stretches(self.site_id, ids, min(map(_earliest, batches))):
            stretches[stretch.device_id].append(stretch)
        replies = [None if n in elsewhere else self._land(b, stretches[b.device_id]) for n, b in enumerate(batches)]
        if self.events:
            await self._save()
        return replies

    async def _elsewhere(self, batches: Sequence[Batch]) -> set[int]:
        """Which batches hold a message that made another device: their browser had not got its cookie yet."""
        oldest = self.now // 1000 - YOUNG_MS
        young = [(n, b) for n, b in enumerate(batches) if b.device_id >> ID_TIME_SHIFT > oldest]
        ids = [c.op_id for _, b in young for c in b.commands]
        births = await self.tx.births(self.site_id, ids) if ids else {}
        if not births:
            return set()
        return {n for n, b in young if any(births.get(c.op_id, b.device_id) != b.device_id for c in b.commands)}

    def _land(self, batch: Batch, stretches: Sequence[Stretch]) -> Done | None:
        """Puts the events on the visitor whose stretch they all lie in, or leaves the batch alone."""
        if not stretches or jumped(offset := stretches[0].clock_offset, batch):
            return None
        received, device_id, site_id = batch.received_at, batch.device_id, self.site_id
        times = [c.sent_at + offset + n for n, c in enumerate(batch.commands)]  # clock.nth, of at most 500
        first, last = min(times), max(times)
        earliest, latest = span(batch)
        if first < earliest or last > latest:
            return None
        here = next((s for s in stretches if s.started_at <= first and last < s.ended_at), None)
        if here is None or here.first_seen is None:  # its profile was not there to be seen until now
            return None
        tracks = zip(self.new_id.many(len(times)), cast(list[Track], batch.commands), times, strict=True)
        # Event(…) is a call into Python, which each event would pay for
        events = [
            row(Event, (site_id, i, device_id, c.op_id, c.name, c.data, c.extras, c.page, at, received, 0))
            for i, c, at in tracks
        ]
        if batch.private:
            self.private |= {e.event_id for e in events}
        self.events += events
        self.landed.append(Seen(device_id, here.visitor_id, len(events), first, last))
        return Done(device_id, ["accepted"] * len(events))

    async def _save(self) -> None:
        added = await self.tx.add_events(self.site_id, self.events)
        self.repeated = len(self.events) - len(added)
        visitors: dict[int, Seen] = {}
        events = iter(self.events)
        for here in self.landed:
            if self.repeated:
                here.events = sum(e.event_id in added for e in islice(events, here.events))
            known = visitors.setdefault(here.visitor_id, here)
            if known is not here:
                known.events += here.events
                known.first, known.last = min(known.first, here.first), max(known.last, here.last)
        await self.tx.seen(self.site_id, list(visitors.values()))
        shown = sorted(added - self.private)
        if shown:
            await self.tx.save(self.site_id, Changes(outbox=Outbox(self.now, shown, [])))


def _earliest(batch: Batch) -> int:
    """The earliest time that something in a batch can have, whatever the device's clock is corrected by."""
    past = batch.received_at - MAX_PAST
    if batch.measured is None or not batch.commands:
        return past - 1
    return max(past, int(min(map(_sent_at, batch.commands))) + batch.measured - CLOCK_TOLERANCE) - 1
