"""Plots of counts over time, as numbers for SVG. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from gateway.store.hours import HOUR, Hour

WIDTH, HEIGHT = 1000, 200


@dataclass(slots=True)
class Bar:
    """One hour or day: when it began, what it is called, how much came, how much of it from known people."""

    at: int
    label: str
    events: int = 0
    known: int = 0
    x: float = 0
    width: float = 0

    @property
    def share(self) -> int | None:
        """Percent of somebody known; None without events."""
        return round(100 * self.known / self.events) if self.events else None


@dataclass(frozen=True, slots=True)
class Plot:
    """Bars in order, and the highest of them."""

    bars: list[Bar]
    top: int

    def height(self, events: int) -> float:
        """How high a number of events stands."""
        return round(HEIGHT * events / self.top, 1) if self.top else 0

    @property
    def total(self) -> int:
        """All events."""
        return sum(b.events for b in self.bars)

    @property
    def share(self) -> int | None:
        """Percent of all events that are of somebody known."""
        return round(100 * sum(b.known for b in self.bars) / self.total) if self.total else None

    @property
    def line(self) -> str:
        """The share over time, as the points of a line; times without events are left out."""
        return " ".join(f"{b.x + b.width / 2:.1f},{HEIGHT - 2 * b.share:.1f}" for b in self.bars if b.share is not None)


def empty_bars(zone: ZoneInfo, now_at: int, number: int, *, by_day: bool) -> list[Bar]:
    """The last hours, or the last days of a time zone, without anything in them."""
    if not by_day:
        last = now_at // HOUR
        starts = [h * HOUR for h in range(last - number + 1, last + 1)]
        times = [datetime.fromtimestamp(s / 1_000_000, zone) for s in starts]
        return [Bar(s, t.strftime("%-d %b, %H:%M")) for s, t in zip(starts, times, strict=True)]
    today = datetime.fromtimestamp(now_at / 1_000_000, zone).date()
    days = [today - timedelta(days=n) for n in reversed(range(number))]
    midnights = [datetime(d.year, d.month, d.day, tzinfo=zone) for d in days]
    return [Bar(int(m.timestamp()) * 1_000_000, m.strftime("%a, %-d %b")) for m in midnights]


def draw(bars: list[Bar], hours: Sequence[Hour]) -> Plot:
    """Puts hours into the bars that they fall into."""
    starts = [b.at for b in bars]
    place = 0
    for hour in hours:
        at = hour.hour * HOUR
        while place + 1 < len(bars) and at >= starts[place + 1]:
            place += 1
        if at >= starts[0] - HOUR // 2:  # a zone may be half an hour off
            bars[place].events += hour.events
            bars[place].known += hour.known
    step = WIDTH / len(bars)
    for n, bar in enumerate(bars):
        bar.x, bar.width = round(n * step, 1), round(step * 0.84, 1)
    return Plot(bars, max(b.events for b in bars))


def lanes(bars: list[Bar], found: Mapping[tuple[str, int], int]) -> dict[str, list[int]]:
    """Counts by (what, hour) as a list for each, one number a bar; what came most often first."""
    shown: dict[str, list[int]] = {}
    for (what, hour), number in found.items():
        n = max((i for i, b in enumerate(bars) if b.at <= hour * HOUR), default=0)
        shown.setdefault(what, [0] * len(bars))[n] += number
    return dict(sorted(shown.items(), key=lambda item: (-sum(item[1]), item[0])))
