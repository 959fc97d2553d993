"""What is read for one answer is of one commit, whatever others do meanwhile."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.exports import Exports
from gateway.lists import Lists
from gateway.store.base import Record, View
from tests.driver import Driver, driving

JO, ANN = ("id", "jo"), ("id", "ann")


class Disturbed:
    """Reads as ever; after the first of them something else happens."""

    def __init__(self, view: View, happen: Callable[[], Awaitable[None]]) -> None:
        self.view = view
        self.happen = happen

    async def read(self, statement: str, *arguments: object) -> list[Record]:
        rows = await self.view.read(statement, *arguments)
        await self.happen()
        return rows

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[View]:
        async with self.view.snapshot() as view:
            yield Disturbed(view, self.happen)


@pytest.fixture
async def town(database: str) -> AsyncIterator[Driver]:
    """Jo and Ann, each with an event and a property."""
    async with driving(database) as driver:
        for at, who in enumerate(("jo", "ann")):
            await driver.server_push(who, ["track", f"{who} came"], f"e-{who}", at)
            await driver.server_push(who, ["user", {"name": who}], f"p-{who}", at)
        yield driver


async def profile_id(reader: Lists) -> int:
    profile = await reader.by_identity(ANN)
    assert profile is not None
    return int(profile["profile_id"])


async def whole(exports: Exports) -> Any:
    return await exports.people(list((await exports.roots_of({ANN})).values()), events=True)


QUESTIONS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "by_identity": lambda reader: reader.by_identity(ANN),
    "profile": lambda reader: reader.profile(reader.ann),
    "events": lambda reader: reader.events(reader.ann),
    "profile_ledger": lambda reader: reader.profile_ledger(reader.ann),
    "export": lambda reader: reader.export(reader.ann),
    "search": lambda reader: reader.search("ann"),
    "named": lambda reader: reader.named("id", limit=10),
    "people": lambda reader: reader.people([reader.ann], events=True),
    "showing": lambda reader: reader.showing("email", {"ann@shop.example"}),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
async def test_a_merge_in_the_middle_of_a_question_is_not_in_its_answer(
    town: Driver, question: Callable[[Any], Awaitable[Any]]
) -> None:
    await town.server_push("ann", ["user", {"email": "ann@shop.example"}], "mail", 2)
    reader: Any = Exports(town.gateway, town.site)
    reader.ann = await profile_id(reader)
    before = await question(reader)
    assert before
    merged: list[str] = []

    async def merge() -> None:
        if not merged:
            merged.append("")
            merged[0] = await town.do_merge("m", 3, "u:jo", "u:ann")

    reader.store = Disturbed(reader.store, merge)
    assert await question(reader) == before
    assert merged == ["merged"]
    assert await question(reader) != before
