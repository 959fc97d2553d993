"""The overview of a site: events over time and how many are of known people, what came most, trouble, health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator

from starlette.responses import Response

from gateway.console.calls import Asked, Page
from gateway.console.plots import draw, empty_bars, lanes
from gateway.console.recent import Recent
from gateway.model import now
from gateway.store.hours import HOUR, Hour, Hours
from gateway.tally import Spread, Tally

log = logging.getLogger("gateway.console")

SPANS = {"day": (24, False), "month": (30, True), "quarter": (90, True)}
DAYS = 92
"""How far back hours are counted: a quarter, and what its time zone adds."""
BITE = 6
"""How many hours are counted by one query."""
TOP = 10
PATIENCE = 0.05
"""For so long a page waits for what is being counted; later it shows what there is, and asks again."""


async def count_up(hours: Hours) -> None:
    """Counts whatever hours of the last quarter are not counted, newest first, in small bites."""
    at = now()
    last, first = at // HOUR, at // HOUR - DAYS * 24
    known = {h.hour: h for h in await hours.since(first)}
    begins = min(known) if known else await hours.begins()
    if begins is None:
        return
    begins = max(first, begins)
    if begins not in known:  # it comes first: where counting breaks off, the first that is known is still the first
        await hours.count(begins, begins, at)
        known[begins] = Hour(begins, 0, 0, at)
    due = (h for h in range(last, begins - 1, -1) if h not in known or not known[h].settled(at))
    for a, b in stretches(due):
        await hours.count(a, b, now())
        await asyncio.sleep(0)


def stretches(hours: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of neighbouring hours, at most so many together; they come newest first."""
    found: list[int] = []
    for hour in hours:
        if found and (found[-1] - hour != 1 or len(found) == BITE):
            yield found[-1], found[0]
            found = []
        found.append(hour)
    if found:
        yield found[-1], found[0]


async def counted(asked: Asked) -> bool:
    """Sees to it that the site is being counted; whether that is done."""
    counting, site_id = asked.console.counting, asked.site.site_id
    task = counting.get(site_id)
    if task is None or task.done():
        task = counting[site_id] = asyncio.create_task(count_up(Hours(asked.gateway.store, site_id)))
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    if done and (error := task.exception()) is not None:
        log.error("the hours of a site could not be counted", exc_info=error)
    return bool(done)


async def overview(asked: Asked) -> Response:
    """The plots, and what else there is to know."""
    span = asked.query.get("span", "day")
    span = span if span in SPANS else "day"
    number, by_day = SPANS[span]
    done = await counted(asked)
    site, recent, hours = asked.site, Recent(asked.gateway, asked.site), Hours(asked.gateway.store, asked.site.site_id)
    bars = empty_bars(site.time_zone, now(), number, by_day=by_day)
    first = bars[0].at // HOUR
    plot = draw(bars, await hours.since(first))
    last, other = await recent.last_pushed()
    return await asked.show(
        "overview.html",
        span=span,
        spans=list(SPANS),
        done=done,
        plot=plot,
        names=await hours.names(first, TOP),
        errors=lanes(bars, await recent.errors_by_hour(bars[0].at)),
        last=last,
        other=other,
        refused=sum(line.times for line in asked.console.refusals.of(site.site_id)),
        health=health(asked) if asked.may("admin") else [],
        zone=site.time_zone.key,
    )


def health(asked: Asked) -> list[tuple[str, str]]:
    """How this process is doing, for all sites together."""
    tally = asked.gateway.writer.tally
    slow = within(tally.commit_seconds, 0.95)
    return [
        ("Commands kept", f"{sum(tally.commands_durable.values()):,}"),
        ("Time to keep them", f"95 % within {slow * 1000:g} ms" if slow else "nothing was kept yet"),
        ("Waiting for the next commit", f"{asked.gateway.writer.waiting:,}"),
        ("Entries skipped", reasons(dict(tally.skipped))),
        ("Requests refused", reasons(dict(tally.refused))),
        ("Answers with an error of ours", f"{failures(tally):,}"),
    ]


def within(spread: Spread, part: float) -> float:
    """The bound below which such a part of the values is; 0 if there are none."""
    total = sum(spread.counts)
    reached = 0
    for bound, count in zip(spread.bounds, spread.counts, strict=False):
        reached += count
        if total and reached >= part * total:
            return bound
    return spread.bounds[-1] if total else 0


def reasons(counts: dict[str, int]) -> str:
    """Counts by reason, the most frequent first."""
    shown = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{code} {n:,}" for code, n in shown[:6]) or "none"


def failures(tally: Tally) -> int:
    """How many answers said that the gateway itself failed."""
    return sum(n for (_, status), n in tally.responses.items() if status >= 500)


PAGES = (Page("GET", "/s/{site}/overview", overview, nav="Overview"),)
