"""Late and repeated facts: what a device did counts by its own clock, however it arrives."""

import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.identity.requests import Batch, Command, Link, Login, Logout, Track, Writes
from gateway.model import Proof
from tests.identity.lab import SECOND, START, Lab, name, run

PEOPLE = ("alice", "bob@x.io", "42")

facts = st.one_of(
    st.tuples(st.just("login"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("link"), st.sampled_from(PEOPLE)),
    st.tuples(st.sampled_from(["logout", "track", "put"]), st.just("")),
)


def command(n: int, fact: tuple[str, str]) -> Command:
    """What happened at the n-th second on the device."""
    kind, who = fact
    head = (f"m{n:03}", START + n * SECOND, "")
    if kind == "login":
        return Login(*head, name(who))
    if kind == "link":
        return Link(*head, name(who), proof=Proof.LINK, token=f"token {n}")
    if kind == "logout":
        return Logout(*head)
    if kind == "put":
        return Writes(*head, [("set", "p", str(n)), ("tag", f"t{n}", "true")])
    return Track(*head, f"e{n}")


def shown(lab: Lab) -> str:
    """Who is who, without ids."""
    people = []
    for who in (*PEOPLE, 1, 2, 3):
        profile = lab.profile(who)
        if profile is not None:
            names = sorted(i["value"] for i in profile["identities"])
            events = lab.events_of(profile["profile_id"])
            counted = sum(v["events"] for v in profile["visitors"])
            people.append((str(who), names, events, counted, profile["properties"], profile["tags"]))
    turns = lab.rows(
        "select device_id, started_at, ended_at, claim_value, tentative, events from visitors order by 1, 2, 3"
    )
    return json.dumps([people, turns])


def arrive(order: list[tuple[int, int, tuple[str, str]]]) -> str:
    lab = Lab()
    lab.clock.at = START + 1000 * SECOND
    try:
        for device, n, fact in order:
            lab.ask(Batch(lab.site, device, [command(n, fact)], lab.clock()))
        lab.check()
        return shown(lab)
    finally:
        lab.close()


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(1, 3), facts), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(done: list[tuple[int, Any]], chance: random.Random) -> None:
    in_order = [(device, n, fact) for n, (device, fact) in enumerate(done)]
    shuffled = in_order[:]
    chance.shuffle(shuffled)
    assert arrive(shuffled) == arrive(in_order)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_whoever_logs_out_twice_is_seen_in_every_order(order: tuple[int, ...]) -> None:
    done = [(1, n, (kind, "alice" if kind == "login" else "")) for n, kind in enumerate(("login", "logout", "logout"))]
    assert arrive([done[n] for n in order]) == arrive(done)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_of_two_people_on_one_device(order: tuple[int, ...]) -> None:
    done = [(1, 0, ("track", "")), (1, 1, ("login", "alice")), (1, 2, ("login", "bob@x.io")), (1, 3, ("track", ""))]
    assert arrive([done[n] for n in order]) == arrive(done)


def test_a_late_login_cuts_only_its_own_device_again(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.login(2, "alice")
    before = lab.rows("select * from visitors where device_id = 2")
    at = lab.clock()
    lab.track(1, "x")
    lab.login(1, "bob", at=at + 1)
    assert lab.rows("select * from visitors where device_id = 2") == before
    assert lab.events("bob") == ["x"]
    lab.check()


def test_a_repeated_message_changes_nothing(lab: Lab) -> None:
    at = lab.clock()
    for _ in range(3):
        lab.track(1, "e", at=at, op="t")
        assert lab.login(1, "alice", at=at + 1, op="l") == "attached"
    lab.login(1, "bob", op="b")
    before = lab.dump(lab.site)
    assert lab.login(1, "alice", at=at + 1, op="l") == "attached"
    assert lab.events("alice") == ["e"]
    assert lab.dump(lab.site) == before


def test_a_repeat_after_a_merge_gets_the_recorded_answer(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.login(2, "bob")
    assert lab.merge("alice", "bob", op="m") == "merged"
    lab.undo("m")
    assert lab.merge("alice", "bob", op="m") == "merged"
    assert not lab.same("alice", "bob")
    assert lab.merge("bob", "alice", op="m") == "op_id_conflict"


def test_merges_in_any_order_give_one_person() -> None:
    seen = set()
    pairs = [("a", "b"), ("c", "b"), ("d", "c"), ("b", "a"), ("a", "d")]
    for order in itertools.permutations(pairs):
        lab = Lab()
        for device, who in enumerate("abcd", 1):
            lab.login(device, who)
            lab.track(device, who)
        for target, source in order:
            lab.merge(target, source)
        assert lab.same(*"abcd")
        seen.add(tuple(lab.events("a")))
        lab.check()
        lab.close()
    assert seen == {("a", "b", "c", "d")}


def test_a_merge_writes_no_event_row_and_few_others(lab: Lab) -> None:
    for device in range(1, 11):
        lab.login(device, "alice" if device < 6 else "bob")
        for n in range(50):
            lab.track(device, f"e{n}")
    lab.store.db.executescript(
        "create temp table touched (what text);"
        "create temp trigger added after insert on main.events begin insert into touched values ('insert'); end;"
        "create temp trigger changed after update on main.events begin insert into touched values ('update'); end;"
        "create temp trigger removed after delete on main.events begin insert into touched values ('delete'); end;"
    )
    for work in (lambda: lab.merge("alice", "bob", op="m"), lambda: lab.undo("m")):
        before = lab.store.db.total_changes
        assert work() in ("merged", "undone")
        assert lab.store.db.total_changes - before <= 20
    assert lab.rows("select count(*) from touched") == [(0,)]


def test_logging_in_on_every_page_adds_no_fact_that_counts(lab: Lab) -> None:
    lab.login(1, "alice")
    for _ in range(20):
        assert lab.login(1, "alice") == "noop"
    assert lab.rows("select count(*) from ledger where inert = 0") == [(1,)]


def test_a_device_is_whoever_is_on_it_now_also_when_the_other_was_there_before(lab: Lab) -> None:
    lab.login(2, "alice")
    lab.login(2, "bob")
    assert lab.merge("alice", 2) == "merged"
    assert lab.same("alice", "bob")
    lab.check()


@pytest.mark.parametrize("what", ["track", "put", "login"])
@pytest.mark.parametrize("known", [False, True])
def test_what_came_before_a_late_fact_in_one_group_is_seen_where_it_belongs(
    lab: Lab, what: str, *, known: bool
) -> None:
    if known:
        lab.track(1, "before")
    at = lab.clock() + 10 * SECOND
    first: Command = Track("t", at, name="t")
    if what == "put":
        first = Writes("t", at, rows=[("tag", "vip", "true")])
    elif what == "login":
        first = Login("t", at, key=name("bob"))
    late: list[Command] = [Login("a", at - 2 * SECOND, key=name("alice")), Logout("o", at - SECOND)]
    lab.ask(*(Batch(lab.site, 1, [c], at) for c in [first, *late]))
    turns = [v for p in run(lab.reader().search(""))["profiles"] for v in p["visitors"]]
    assert len(turns) == 2
    assert all(v["first_seen"] for v in turns)
    assert lab.events("alice") == ["before"] * known
    lab.check()
