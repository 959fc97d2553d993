"""The overview: what is counted, by the hour of arrival, who is known by then, and who may see it."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.console import overview
from gateway.console.overview import count_up, stretches
from gateway.console.plots import draw, empty_bars, lanes
from gateway.model import now
from gateway.store import hours as counting
from gateway.store.hours import DAY, HOUR, Hour, Hours
from tests.console.desk import Desk, desk_of


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(tmp_path) as desk:
        yield desk


def hours_of(desk: Desk) -> Hours:
    return Hours(desk.driver.gateway.store, desk.driver.site.site_id)


async def test_events_are_counted_with_who_is_known_now(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk_of(database) as desk:
        await desk.log_in()
        await desk.driver.push("d:a", ["track", "Looked"], "a1", time.time() - 2)
        await desk.driver.push("d:a", ["track", "Looked"], "a2", time.time() - 1)
        await desk.driver.push("d:b", ["track", "Bought"], "b1", time.time())
        await desk.get("overview")
        assert "3 events, 0 % of somebody known" in desk.text
        assert "Looked 2 Bought 1" in desk.text
        await desk.driver.push("d:a", ["user", {"id": "42"}], "a3", time.time())
        monkeypatch.setattr(counting, "FRESH", 0)
        await desk.get("overview")
        assert "3 events, 67 % of somebody known" in desk.text


async def test_counting_twice_is_counting_once_and_what_is_gone_leaves(database: str) -> None:
    async with desk_of(database) as desk:
        await desk.driver.push("d:a", ["track", "Looked"], "a1", time.time())
        hours, at = hours_of(desk), now()
        for _ in range(2):
            await hours.count(at // HOUR - 1, at // HOUR, at)
        assert [(h.events, h.known) for h in await hours.since(at // HOUR)] == [(1, 0)]
        assert await hours.names(0, 5) == [{"name": "Looked", "events": 1}]
        assert await hours.begins() == at // HOUR
        await desk.driver.gateway.store.run(lambda tx: tx.execute("delete from events"))
        await hours.count(at // HOUR, at // HOUR, at)
        assert await hours.names(0, 5) == []


async def test_all_hours_since_the_first_event_are_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.driver.push("d:a", ["track", "Looked"], "a1", time.time())
    later = now() + 30 * HOUR
    monkeypatch.setattr(overview, "now", lambda: later)
    await count_up(hours_of(desk))
    found = await hours_of(desk).since(0)
    assert [h.events for h in found] == [1] + [0] * 30
    gone = "delete from event_hours where hour = $1"
    await desk.driver.gateway.store.run(lambda tx: tx.execute(gone, found[9].hour))  # as if it had broken off
    await count_up(hours_of(desk))
    assert len(await hours_of(desk).since(0)) == 31
    counted: list[tuple[int, int]] = []

    async def watched(self: Hours, first: int, last: int, at: int) -> None:
        counted.append((first, last))

    monkeypatch.setattr(Hours, "count", watched)
    await count_up(hours_of(desk))
    assert counted == []


def test_an_hour_is_counted_until_a_day_after_it_is_over() -> None:
    begin, end = 100 * HOUR, 101 * HOUR
    assert Hour(100, 1, 0, begin + HOUR // 2).settled(begin + HOUR // 2 + 1)
    assert not Hour(100, 1, 0, begin).settled(begin + HOUR // 2)
    assert not Hour(100, 1, 0, end - 1).settled(end)
    assert Hour(100, 1, 0, end).settled(end + DAY - 1)
    assert not Hour(100, 1, 0, end).settled(end + DAY)
    assert Hour(100, 1, 0, end + DAY).settled(end + 100 * DAY)


def test_hours_are_counted_in_small_bites() -> None:
    assert list(stretches([])) == []
    assert list(stretches([9, 8, 5, 3, 2])) == [(8, 9), (5, 5), (2, 3)]
    assert list(stretches(range(20, 0, -1))) == [(15, 20), (9, 14), (3, 8), (1, 2)]


def test_days_are_those_of_the_sites_time_zone() -> None:
    at = 1_793_487_600_000_000  # 2026-10-31 23:00 UTC, the first of November in Berlin
    bars = empty_bars(ZoneInfo("Europe/Berlin"), at, 8, by_day=True)
    assert (bars[0].label, bars[-1].label) == ("Sun, 25 Oct", "Sun, 1 Nov")
    assert (bars[1].at - bars[0].at) // HOUR == 25  # clocks go back
    plot = draw(bars, [Hour(at // HOUR - 1, 5, 1, 0), Hour(at // HOUR, 3, 3, 0)])
    assert [(b.events, b.share) for b in plot.bars[-2:]] == [(5, 20), (3, 100)]
    assert (plot.total, plot.top, plot.share) == (8, 5, 50)
    assert lanes(bars, {("x", at // HOUR): 1, ("y", at // HOUR - 1): 2}) == {"y": [0] * 6 + [2, 0], "x": [0] * 7 + [1]}


async def test_identity_errors_are_shown_by_kind(database: str) -> None:
    async with desk_of(database) as desk:
        await desk.log_in()
        for n in range(3):
            await desk.driver.push(f"d:{n}", ["user", {"id": "undefined"}], f"x{n}", time.time())
        await desk.get("overview")
        assert "A value that names nobody 3" in desk.text
        assert re.search(r'aria-label="A value that names nobody per hour: [0, ]+3"', desk.page)


async def test_a_page_does_not_wait_for_what_is_being_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.log_in()
    monkeypatch.setattr(overview, "PATIENCE", 0)
    await desk.get("overview?span=quarter")
    assert "Still counting" in desk.text and 'data-again="2000"' in desk.page
    monkeypatch.setattr(overview, "PATIENCE", 20)
    await desk.get("overview?span=quarter")
    assert "Still counting" not in desk.text


async def test_a_viewer_sees_their_site_only_and_nothing_of_the_process(desk: Desk) -> None:
    gateway = desk.driver.gateway
    await desk.log_in()
    await desk.driver.push("d:a", ["track", "Looked"], "a1", time.time())
    assert "This process, all sites" in (await desk.get("overview")).text
    other = await gateway.sites.create("other", gateway.new_id(), origins=[])
    await desk.get(f"/console/s/{other.site_id}/overview")
    assert "No event arrived in this time." in desk.text and "Looked" not in desk.text
    async with desk.colleague("vic", "editor") as vic:
        await vic.get("overview?span=nonsense")
        assert "1 event, 0 %" in vic.text and "This process" not in vic.text
        assert (await vic.get(f"/console/s/{other.site_id}/overview")).status_code == 404
