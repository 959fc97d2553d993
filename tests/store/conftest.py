"""What the tests of several gateways on one database share."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from gateway.context import Gateway
from gateway.errors import Conflict, NotFound
from gateway.identity.requests import Batch, Operation, ServerBatch
from gateway.store.postgres import PostgresTransaction

GUARDED = {"profiles": "profile_id", "visitors": "device_id", "devices": "device_id", "identities": "home"}


async def ask(gateway: Gateway, request: Batch | ServerBatch | Operation) -> None:
    """Asks a gateway; that somebody is not found is an answer like any other, Unavailable fails the test."""
    try:
        if isinstance(request, Operation):
            await gateway.writer.operation(request)
        else:
            await gateway.writer.commands(request)
    except (NotFound, Conflict):
        pass


@pytest.fixture
def only_what_is_locked_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are there already and stand for a profile or device are written by whoever has locked that.

    Otherwise changes are lost, or gateways wait for each other in a ring: who waits for a row that another writes does
    not wait in the order of ids.
    """
    upsert = PostgresTransaction.upsert

    async def checked(self: Any, table: str, site_id: int, columns: str, rows: Iterable[Sequence[Any]]) -> None:
        rows, names = list(rows), columns.split(", ")
        if table in GUARDED:
            ids = {row[names.index(GUARDED[table])] for row in rows} - {i for _, i in self.locked}
            sql = f"select {GUARDED[table]} from {table} where site_id = $1 and {GUARDED[table]} = any($2::bigint[])"
            there = await self.connection.fetch(sql, site_id, list(ids)) if ids else []
            assert there == [], (table, there)
        await upsert(self, table, site_id, columns, rows)

    monkeypatch.setattr(PostgresTransaction, "upsert", checked)
