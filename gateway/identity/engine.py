"""Load, decide, save: runs groups of requests in one transaction and answers each of them.

Batches of commands are decided together on one loaded world; an operation (merge, undo, delete …) has a world of its
own. Only what changed is written.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from gateway.identity.batches import BatchRun, Done
from gateway.identity.decide import Answer
from gateway.identity.events import EventRun, plain
from gateway.identity.operations import OperationRun
from gateway.identity.requests import (
    Batch,
    Operation,
    ServerBatch,
)
from gateway.model import NewIds
from gateway.store.base import Transaction

Request = Batch | ServerBatch | Operation
Reply = Done | Answer


class Engine:
    """Runs requests against a transaction. `new_id` makes time-ordered ids.

    `repeated` says how many events and identity commands of the last run were there already.
    """

    def __init__(self, new_id: NewIds) -> None:
        self.new_id = new_id
        self.repeated = 0

    async def run(self, tx: Transaction, requests: Sequence[Request]) -> list[Reply]:
        """Decides the requests in order and saves what they change; the caller commits. One reply per request.

        Raises NotFound and Conflict for an operation that must not be answered with an outcome; operations should
        therefore be run alone if a neighbour must not be rolled back with them.
        """
        replies: list[Reply] = []
        self.repeated = 0
        for (alone, _), group in itertools.groupby(
            enumerate(requests), key=lambda p: (p[0] if isinstance(p[1], Operation) else -1, p[1].site.site_id)
        ):
            wave = [request for _, request in group]
            if alone >= 0:
                operation = wave[0]
                assert isinstance(operation, Operation)
                replies.append(await OperationRun(tx, operation, self.new_id).run())
            else:
                replies += await self._wave(tx, [r for r in wave if not isinstance(r, Operation)])
        return replies

    async def _wave(self, tx: Transaction, batches: Sequence[Batch | ServerBatch]) -> list[Done]:
        """Batches of one site: first those that are events and no more, then what is left on one world."""
        site = batches[0].site
        replies: list[Done | None] = [None] * len(batches)
        events = {n: b for n, b in enumerate(batches) if isinstance(b, Batch) and plain(b)}
        if events:
            devices = {i for b in batches if isinstance(b, Batch) for i in (b.device_id, b.other_device)}
            await tx.lock(site.site_id, devices - {0})
            short = EventRun(tx, site, self.new_id)
            for n, reply in zip(events, await short.run(list(events.values())), strict=True):
                replies[n] = reply
            self.repeated += short.repeated
        left = [n for n, reply in enumerate(replies) if reply is None]
        if left:
            run = BatchRun(tx, site, self.new_id)
            for n, reply in zip(left, await run.run([batches[n] for n in left]), strict=True):
                replies[n] = reply
            self.repeated += run.repeated
        return [reply for reply in replies if reply is not None]
