"""Writes that change what a profile shows: numbers added, values put into lists and taken out."""

import asyncio
from typing import Any

import pytest

from gateway.app import opened
from gateway.identity import rules
from gateway.identity.requests import Command, ServerBatch, Writes
from gateway.model import now
from gateway.settings import load
from tests.driver import driving


@pytest.mark.parametrize(
    ("kind", "current", "operand", "expected"),
    [
        ("add", None, 2, 2),
        ("add", 40, 2, 42),
        ("add", 1, -0.5, 0.5),
        ("add", "many", 2, "many"),
        ("add", True, 2, True),
        ("add", 2**63 - 1, 1, 2**63 - 1),
        ("append", None, ["a"], ["a"]),
        ("append", "a", ["b"], ["a", "b"]),
        ("append", ["a"], ["a", "b", "b"], ["a", "b"]),
        ("append", list(range(1000)), [1000], list(range(1, 1001))),
        ("remove", ["a", "b"], ["a", "c"], ["b"]),
        ("remove", None, ["a"], []),
    ],
)
def test_a_change_of_a_value(kind: str, current: Any, operand: Any, expected: Any) -> None:
    assert rules.changed(kind, current, operand) == expected


async def write(driver: Any, value: str, *rows: tuple[str, str, str], op: str = "", sent_at: int = 0) -> None:
    commands: list[Command] = [Writes(op or f"w{driver.gateway.new_id()}", sent_at or now(), rows=list(rows))]
    await driver.gateway.writer.commands(ServerBatch(driver.site, ("id", value), commands, now()))


async def shown(driver: Any, value: str) -> Any:
    return (await driver.find(f"u:{value}"))["properties"]


async def test_a_repeated_change_counts_once(database: str) -> None:
    async with driving(database) as driver:
        for op in ("first", "second", "first", "second"):
            await write(driver, "alice", ("add", "visits", "1"), op=op)
        assert await shown(driver, "alice") == {"visits": 2}


async def test_a_change_that_arrives_late_is_not_lost(database: str) -> None:
    async with driving(database) as driver:
        await write(driver, "alice", ("set", "visits", "10"))
        await write(driver, "alice", ("add", "visits", "5"), sent_at=now() - 60_000_000)
        assert await shown(driver, "alice") == {"visits": 15}


async def test_changes_count_from_what_the_merged_profile_shows(database: str) -> None:
    async with driving(database) as driver:
        await write(driver, "alice", ("add", "visits", "3"), ("append", "colours", '["red"]'))
        await write(driver, "anon-1", ("add", "visits", "4"), ("append", "colours", '["blue"]'))
        await driver.run([("merge", {"target": "u:alice", "source": "u:anon-1", "op": "m1"})])
        await write(driver, "alice", ("add", "visits", "1"), ("append", "colours", '["green"]'))
        assert await shown(driver, "anon-1") == {"visits": 5, "colours": ["blue", "green"]}
        await driver.check_refold()


async def test_another_persons_turn_on_the_same_device_does_not_count(database: str) -> None:
    async with driving(database) as driver:
        for person, points in (("alice", 7), ("bob", 1)):
            await driver.push("laptop", ["user", {"id": person, "points": points}], f"login-{person}", now() / 1e6)
        await write(driver, "bob", ("add", "points", "1"))
        assert (await shown(driver, "bob"), await shown(driver, "alice")) == ({"points": 2}, {"points": 7})


async def test_two_gateways_on_one_database_lose_no_change(database: str) -> None:
    async with driving(database) as driver, opened(load({}, database=database)) as second:
        site = driver.site
        await write(driver, "alice", ("set", "visits", "0"))

        async def add(writer: Any, n: int) -> None:
            command = Writes(f"add-{n}", now(), rows=[("add", "visits", "1")])
            await writer.commands(ServerBatch(site, ("id", "alice"), [command], now()))

        await asyncio.gather(*(add((driver.gateway, second)[n % 2].writer, n) for n in range(60)))
        assert await shown(driver, "alice") == {"visits": 60}
