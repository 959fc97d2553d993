"""Group commit: requests that wait together share one transaction, and each is answered only after its commit.

One group is under way at a time; what arrives meanwhile is the next. There is no timer: alone, a request is committed
at once; under load the groups grow by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

import msgspec

from gateway.errors import GatewayError, Unavailable
from gateway.identity.batches import Done
from gateway.identity.decide import Answer
from gateway.identity.engine import Engine, Reply, Request
from gateway.identity.requests import Batch, Operation, ServerBatch
from gateway.store.base import Store
from gateway.tally import Tally

log = logging.getLogger("gateway.writer")

MAX_GROUP = 500
MAX_WAITING = 20_000


Settle = Callable[[Reply | GatewayError], None]
"""Is called once with the answer to a request, or with why there is none."""


class Waiting(msgspec.Struct):
    """A request and who waits for its answer."""

    request: Request
    settle: Settle


class Writer:
    """The one place that writes. `listeners` are called after each commit with what was committed; `tally` counts."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self.store = store
        self.engine = engine
        self.listeners: list[Callable[[Request, Reply], None]] = []
        self.tally = Tally()
        self._queue: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._forgetting: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins to work; needs a running event loop."""
        self._task = asyncio.create_task(self._work(), name="writer")

    @property
    def waiting(self) -> int:
        """How many requests wait for the next group."""
        return len(self._queue)

    async def close(self) -> None:
        """Takes nothing more, commits what waits, and ends."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await asyncio.gather(*self._forgetting)

    async def commands(self, batch: Batch | ServerBatch) -> Done:
        """Makes a batch durable, unless it was declined. Raises Unavailable if that is not possible now."""
        if batch.declined:
            return Done(0, ["noop" for _ in batch.commands])
        reply = await self._submit(batch)
        assert isinstance(reply, Done)
        return reply

    async def operation(self, operation: Operation) -> Answer:
        """Carries out one operation, unless it was declined. Raises NotFound, Conflict, Unavailable."""
        if operation.declined:
            return Answer(operation.op_id, "noop")
        reply = await self._submit(operation)
        assert isinstance(reply, Answer)
        return reply

    def submit(self, request: Request, settle: Settle) -> None:
        """Queues a request; `settle` is told when it is durable or failed. Raises Unavailable if there is no room."""
        if self._closing:
            raise Unavailable("the gateway is shutting down", "send the same request again")
        if len(self._queue) >= MAX_WAITING:
            raise Unavailable("too many requests are waiting", "slow down and send the same request again")
        self.tally.accepted(request)
        self._queue.append(Waiting(request, settle))
        self._wake.set()

    async def _submit(self, request: Request) -> Reply:
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def settle(reply: Reply | GatewayError) -> None:
            if answer.done():  # who waited has gone
                return
            if isinstance(reply, GatewayError):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

        self.submit(request, settle)
        return await answer

    async def _work(self) -> None:
        while self._queue or not self._closing:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._commit(self._take())

    def _take(self) -> list[Waiting]:
        """The next group: an operation alone, or all batches up to the next operation."""
        group = [self._queue.popleft()]
        while not isinstance(group[0].request, Operation) and self._queue and len(group) < MAX_GROUP:
            if isinstance(self._queue[0].request, Operation):
                break
            group.append(self._queue.popleft())
        return group

    async def _commit(self, group: list[Waiting]) -> None:
        started = time.perf_counter()
        try:
            requests = [w.request for w in group]
            replies = await self.store.run(lambda tx: self.engine.run(tx, requests))
        except GatewayError as error:
            self.tally.rolled_back(error.code)
            self._refuse(group, error)
        except Exception:
            if len(group) > 1:  # one bad request must not cost its neighbours: each again on its own
                for waiting in group:
                    await self._commit([waiting])
                return
            log.exception("a request could not be decided")
            self.tally.rolled_back("bug")
            self._refuse(group, Unavailable("this request could not be stored", "the log says why", retry_after=60))
        else:
            self.tally.committed(len(group), time.perf_counter() - started, self.engine.repeated)
            for waiting, reply in zip(group, replies, strict=True):
                if isinstance(reply, Answer) and reply.outcome == "deleted":
                    task = asyncio.create_task(self._settle_when_forgotten(waiting, reply), name="forget")
                    self._forgetting.add(task)
                    task.add_done_callback(self._forgetting.discard)
                else:
                    self._settle(waiting, reply)
                self.tally.durable(waiting.request, reply)
                self._tell(waiting.request, reply)

    def _tell(self, request: Request, reply: Reply) -> None:
        for listener in self.listeners:
            try:
                listener(request, reply)
            except Exception:  # what was committed stays committed, and the next group waits
                log.exception("a listener failed")

    async def _settle_when_forgotten(self, waiting: Waiting, reply: Reply) -> None:
        """Before a deletion is answered, its values are gone from the files, too; nobody else waits for that."""
        try:
            await self.store.forget()
        except Exception:  # it is committed all the same: the next checkpoint takes them out
            log.exception("what was deleted is still in the write-ahead log")
        self._settle(waiting, reply)

    def _refuse(self, group: list[Waiting], error: GatewayError) -> None:
        for waiting in group:
            self._settle(waiting, error)

    @staticmethod
    def _settle(waiting: Waiting, reply: Reply | GatewayError) -> None:
        try:
            waiting.settle(reply)
        except Exception:  # the others of the group are still to be answered
            log.exception("a request could not be answered")
