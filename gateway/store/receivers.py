"""The receivers of the feed as rows: who they are, how far they got, which process is sending to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from gateway.model import now
from gateway.store.base import Store

LEASE = 30 * 1_000_000
"""For how long a process has a receiver for itself, in microseconds: longer than one sending may take."""


@dataclass(slots=True)
class Receiver:
    """A webhook or NATS stream. Of the feed it has got `entries` of what is at `position`, and all before.

    With `until_position` it is being sent what is up to there, and nothing else until that is settled.
    """

    site_id: int
    receiver_id: int
    url: str
    subject: str
    secret: str
    max_attempts: int
    created_at: int
    position: int
    entries: int = 0
    until_position: int | None = None
    until_entries: int = 0
    attempts: int = 0
    retry_at: int = 0
    error: str | None = None
    delivered_at: int | None = None
    holder: str = ""
    held_until: int = 0


@dataclass(slots=True)
class DeadLetter:
    """A stretch of the feed that a receiver did not take; `again`: it is to be sent once more."""

    site_id: int
    receiver_id: int
    position: int
    entries: int
    until_position: int
    until_entries: int
    attempts: int
    at: int
    error: str
    again: int = 0


RECEIVER = ", ".join(f.name for f in fields(Receiver))
DEAD_LETTER = ", ".join(f.name for f in fields(DeadLetter))
PROGRESS = ("position", "entries", "until_position", "until_entries", "attempts", "retry_at", "error", "delivered_at")


def _row(thing: Receiver | DeadLetter) -> tuple[Any, ...]:
    return tuple(getattr(thing, f.name) for f in fields(thing))


class Receivers:
    """The receivers in a database, of all sites or one."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def add(self, receiver: Receiver) -> None:
        """Keeps a new receiver."""
        await self.store.run(lambda tx: tx.insert("receivers", RECEIVER, [_row(receiver)], ""))  # type: ignore[attr-defined]

    async def of_site(self, site_id: int) -> list[Receiver]:
        """The receivers of a site, oldest first."""
        sql = f"/* receivers.of_site */ select {RECEIVER} from receivers where site_id = $1 order by receiver_id"
        return [Receiver(**r) for r in await self.store.read(sql, site_id)]

    async def remove(self, site_id: int, receiver_id: int) -> bool:
        """Forgets a receiver and what it did not take; False if there is none."""

        async def work(tx: Any) -> bool:
            where = "where site_id = $1 and receiver_id = $2"
            await tx.execute(f"/* dead_letters.remove */ delete from dead_letters {where}", site_id, receiver_id)
            sql = f"/* receivers.remove */ delete from receivers {where} returning receiver_id"
            return bool(await tx.fetch(sql, site_id, receiver_id))

        return await self.store.run(work)

    async def any(self) -> bool:
        """Whether any site has a receiver."""
        return bool(await self.store.read("/* receivers.any */ select 1 as found from receivers limit 1"))

    async def due(self, settled: int) -> list[Receiver]:
        """The receivers for whom there is something, that need not wait, and that nobody is sending to."""
        sql = (
            f"/* receivers.due */ select {RECEIVER} from receivers r where r.retry_at <= $1 and r.held_until <= $1"
            " and (r.until_position is not null or r.entries > 0"
            " or exists (select 1 from outbox o where o.site_id = r.site_id and o.position > r.position"
            " and o.position <= $2)"
            " or exists (select 1 from dead_letters d where d.site_id = r.site_id and d.receiver_id = r.receiver_id"
            " and d.again = 1))"
        )
        return [Receiver(**r) for r in await self.store.read(sql, now(), settled)]

    async def claim(self, receiver: Receiver, holder: str) -> Receiver | None:
        """The receiver as it is now, for `holder` alone until its lease is over; None if somebody else was first."""
        sql = (
            "/* receivers.claim */ update receivers set holder = $3, held_until = $4"
            f" where site_id = $1 and receiver_id = $2 and held_until <= $5 returning {RECEIVER}"
        )
        at = now()
        arguments = (receiver.site_id, receiver.receiver_id, holder, at + LEASE, at)
        rows = await self._change(sql, *arguments)
        return Receiver(*rows[0]) if rows else None

    async def save(self, receiver: Receiver, *, done: bool, dead: DeadLetter | None = None) -> bool:
        """Keeps how far a receiver is, and its lease unless it is `done`; False if somebody else has it now."""
        receiver.held_until = 0 if done else now() + LEASE
        changes = ", ".join(f"{name} = ${n}" for n, name in enumerate((*PROGRESS, "held_until"), 4))
        sql = f"/* receivers.save */ update receivers set {changes}"
        sql += " where site_id = $1 and receiver_id = $2 and holder = $3 returning receiver_id"
        values = [getattr(receiver, name) for name in (*PROGRESS, "held_until")]

        async def work(tx: Any) -> bool:
            rows = await tx.fetch(sql, receiver.site_id, receiver.receiver_id, receiver.holder, *values)
            if rows and dead is not None:
                tail = "on conflict (site_id, receiver_id, position, entries) do update set at = excluded.at,"
                tail += " attempts = excluded.attempts, error = excluded.error, again = excluded.again"
                await tx.insert("dead_letters", DEAD_LETTER, [_row(dead)], tail)
            return bool(rows)

        return await self.store.run(work)

    # --- what was not taken ---------------------------------------------------------------------------------------

    async def dead(self, site_id: int, receiver_id: int, *, again: bool = False) -> list[DeadLetter]:
        """What a receiver did not take, in the order of the feed; only what is to be sent again, if asked for."""
        sql = f"/* dead_letters.of */ select {DEAD_LETTER} from dead_letters where site_id = $1 and receiver_id = $2"
        sql += (" and again = 1" if again else "") + " order by position, entries limit 1000"
        return [DeadLetter(**r) for r in await self.store.read(sql, site_id, receiver_id)]

    async def send_again(self, site_id: int, receiver_id: int, places: Sequence[tuple[int, int]] = ()) -> int:
        """Marks dead letters, those at the given places or all of a receiver, to be sent again; answers how many."""
        sql = "/* dead_letters.again */ update dead_letters set again = 1 where site_id = $1 and receiver_id = $2"
        if not places:
            return len(await self._change(f"{sql} returning position", site_id, receiver_id))
        sql += " and position = $3 and entries = $4 returning position"
        return sum([len(await self._change(sql, site_id, receiver_id, *place)) for place in places])

    async def taken(self, dead: DeadLetter) -> None:
        """A dead letter that was taken at last."""
        sql = "/* dead_letters.taken */ delete from dead_letters where site_id = $1 and receiver_id = $2"
        sql += " and position = $3 and entries = $4 returning position"
        await self._change(sql, dead.site_id, dead.receiver_id, dead.position, dead.entries)

    async def _change(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        async def work(tx: Any) -> list[tuple[Any, ...]]:
            found: list[tuple[Any, ...]] = await tx.fetch(sql, *arguments)
            return found

        return await self.store.run(work)
