"""The short way of events leaves the same rows as the long way of everything else."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import engine
from gateway.identity.batches import BatchRun
from gateway.identity.requests import Batch, Command, Context, Login, Logout, Reidentify, Track, Writes
from gateway.model import ID_TIME_SHIFT, Proof
from tests.identity.lab import SECOND, START, Counted, Lab, name

HOUR = 3600 * SECOND
MADE_IDS = re.compile(r"\b1\d{7}\b")


@contextmanager
def a_lab() -> Iterator[Lab]:
    lab = Lab()
    try:
        yield lab
    finally:
        lab.close()


def dumped(lab: Lab) -> str:
    """Every row, with the ids that were made numbered in their order: one way may leave some unused."""
    text = lab.dump(lab.site)
    order = {made: f"made{n}" for n, made in enumerate(sorted(set(MADE_IDS.findall(text))))}
    return MADE_IDS.sub(lambda found: order[found[0]], text)


def ask(lab: Lab, *batches: Batch, short: bool = True) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not short:
            patch.setattr(engine, "plain", lambda batch: False)
        lab.ask(*batches)


def long_ways(lab: Lab, *batches: Batch) -> int:
    """How many times these batches take the long way."""
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        run = BatchRun.run

        async def counted(self, batches):  # type: ignore[no-untyped-def]
            taken.append(len(batches))
            return await run(self, batches)

        patch.setattr(BatchRun, "run", counted)
        lab.ask(*batches)
    return sum(taken)


times = st.sampled_from([-8 * 24 * HOUR, -HOUR, -5 * SECOND, -SECOND, 0, SECOND, HOUR]) | st.integers(-9 * HOUR, HOUR)
ids = st.integers(1, 60).map(lambda n: f"m{n}")
tracks = st.builds(lambda op, at: Track(op, at, "", "Viewed", '{"n":1}', None, '{"url":"/"}'), ids, times)
others = st.one_of(
    st.builds(lambda op, at, who: Login(op, at, "f", name(who)), ids, times, st.integers(1, 3)),
    st.builds(lambda op, at: Logout(op, at, "f"), ids, times),
    st.builds(lambda op, at, who: Writes(op, at, "f", [("set", "k", f'"{who}"')]), ids, times, st.integers(1, 3)),
    st.builds(lambda op, at: Context(op, at, "f", '{"language":"de"}'), ids, times),
    st.builds(lambda op, at, a, b: Reidentify(op, at, "f", name(a), name(b)), ids, times, *[st.integers(1, 3)] * 2),
)
wanted = st.tuples(
    st.integers(1, 3),
    st.lists(tracks, min_size=1, max_size=4) | st.lists(tracks | others, min_size=1, max_size=3),
    st.none() | st.sampled_from([0, SECOND, 15 * SECOND, -HOUR]),
    st.booleans(),
)


Wanted = tuple[int, list[Command], int | None, bool]
"""Device, commands with times from now, the clock as measured, and whether it is private."""


def batch(lab: Lab, now: int, device: int, commands: list[Command], measured: int | None, private: bool) -> Batch:
    return Batch(lab.site, device, [moved(c, now) for c in commands], now, measured, private=private)


def moved(command: Command, by: int) -> Command:
    copied = type(command)(**{f: getattr(command, f) for f in command.__struct_fields__})
    copied.sent_at += by
    return copied


@given(st.lists(wanted, min_size=2, max_size=12), st.booleans())
def test_both_ways_leave_the_same_rows(steps: list[Wanted], delete: bool) -> None:
    left = []
    for short in (True, False):
        with a_lab() as lab:
            repeated = []
            for n, step in enumerate(steps):
                ask(lab, batch(lab, lab.clock.tick(), *step), short=short)
                repeated.append(lab.engine.repeated)
                if delete and n == len(steps) // 2 and lab.profile(1):
                    lab.delete(1)
            lab.check()
            left.append((dumped(lab), repeated))
    assert left[0] == left[1]


@given(st.lists(st.lists(wanted, min_size=1, max_size=4), min_size=1, max_size=5))
def test_groups_of_both_lose_nothing(groups: list[list[Wanted]]) -> None:
    left = []
    for short in (True, False):
        with a_lab() as lab:
            for group in groups:
                now = lab.clock.tick()
                ask(lab, *(batch(lab, now, *step) for step in group), short=short)
            lab.check()
            left.append(lab.rows("select device_id, message_id from events order by 1, 2"))
    assert left[0] == left[1]


def test_events_of_a_known_browser_take_the_short_way(lab: Lab) -> None:
    first, *rest = (Track(f"m{n}", START + n * SECOND, "", "Viewed") for n in range(5))
    assert long_ways(lab, Batch(lab.site, 7, [first], START)) == 1  # a new device
    assert long_ways(lab, Batch(lab.site, 7, rest[:2], START), Batch(lab.site, 7, rest[2:], START)) == 0
    assert len(lab.events(7)) == 5


@pytest.mark.parametrize(
    "unusual",
    [
        lambda site: Batch(site, 7, [Track("x", START, "", "Viewed", folded="viewed")], START),
        lambda site: Batch(site, 7, [Track("x", START), Login("y", START, "", name(1))], START),
        lambda site: Batch(site, 7, [Track("x", START)], START, other_device=8),
        lambda site: Batch(site, 7, [Track("x", START)], START, measured=20 * SECOND),
        lambda site: Batch(site, 7, [Track("x", START)], START, actor="server"),
        lambda site: Batch(site, 0, [Track("x", START)], START, name="their name\n"),
    ],
)
def test_what_may_be_more_takes_the_long_way(lab: Lab, unusual) -> None:  # type: ignore[no-untyped-def]
    lab.track(7, at=START)
    assert long_ways(lab, unusual(lab.site)) == 1


def test_who_was_deleted_gets_nothing_more(lab: Lab) -> None:
    lab.login(7, "jo", Proof.CLAIMED)
    lab.track(7, "before")
    at = lab.clock()
    lab.delete("jo")
    lab.track(7, "late", at=at)
    lab.track(7, "after")
    assert lab.rows("select name from events") == [("after",)]
    lab.check()


def test_a_message_that_made_another_device_shows_that_both_are_one_browser(lab: Lab) -> None:
    lab.engine.new_id = Counted((START // 1000) << ID_TIME_SHIFT)
    for op in ("m1", "m2"):  # two requests under way before the cookie came back
        lab.ask(Batch(lab.site, 0, [Track(op, START, "", "Viewed")], START))
    first, second = (row[0] for row in lab.rows("select device_id from births order by message_id"))
    again = [Track("m1", START, "", "Viewed"), Track("m3", START, "", "Viewed")]
    assert long_ways(lab, Batch(lab.site, second, again, START)) == 1
    assert lab.same(first, second)
    assert len(lab.rows("select 1 from events")) == 3
    assert long_ways(lab, Batch(lab.site, second, again[1:], START)) == 0
