"""Who used which device when, as a picture: where the bars of each device stand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.model import Visitor

WIDTH = 1000
LEAST = 5
MAX_DEVICES = 20
MAX_BARS = 150


@dataclass(frozen=True, slots=True)
class Bar:
    """One visitor: `owner` is mine, guess or other; `profile_id` is whose it is now."""

    x: int
    width: int
    owner: str
    profile_id: int
    visitor: Visitor


@dataclass(slots=True)
class Lane:
    """One device. `here`: this person is on it now."""

    device_id: int
    name: str
    label: str
    here: bool
    bars: list[Bar] = field(default_factory=list)
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """All lanes of a person, and the times at both ends and in the middle."""

    lanes: list[Lane]
    marks: tuple[int, int, int]
    left_out: int


def draw(
    profile_id: int,
    devices: Sequence[tuple[int, str, str]],
    turns: Mapping[int, Sequence[Visitor]],
    roots: Mapping[int, int],
) -> Timeline | None:
    """The picture of a person's devices, (id, name, label) each; None if nothing was ever seen on them."""
    seen = {d: [v for v in turns.get(d, ()) if v.first_seen and v.last_seen] for d, _, _ in devices[:MAX_DEVICES]}
    times = [t for visitors in seen.values() for v in visitors for t in (v.first_seen or 0, v.last_seen or 0)]
    if not times:
        return None
    start, end = min(times), max(times)
    span = max(end - start, 1)
    lanes = []
    for device_id, name, label in devices[:MAX_DEVICES]:
        current = next((v for v in reversed(turns.get(device_id, ())) if v.ended_at >= end), None)
        here = current is not None and roots.get(current.home) == profile_id
        lane = Lane(device_id, name, label, here, left_out=max(0, len(seen[device_id]) - MAX_BARS))
        for visitor in seen[device_id][-MAX_BARS:]:
            first, last = visitor.first_seen or 0, visitor.last_seen or 0
            width = max(LEAST, round((last - first) / span * WIDTH))
            x = min(round((first - start) / span * WIDTH), WIDTH - width)
            owner = roots.get(visitor.home, 0)
            shown = ("guess" if visitor.tentative else "mine") if owner == profile_id else "other"
            lane.bars.append(Bar(max(0, x), min(width, WIDTH), shown, owner, visitor))
        lanes.append(lane)
    return Timeline(lanes, (start, start + span // 2, end), max(0, len(devices) - MAX_DEVICES))
