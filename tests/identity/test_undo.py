"""Undo: as if it had never happened, to the byte."""

import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from gateway.model import Proof
from tests.identity.lab import Lab

ANYBODY = ("alice", "bob", "carol", "dave", 1, 2, 3, 4)


def exports(lab: Lab, *people: Any) -> str:
    """Everything held about people, as text."""
    return json.dumps([lab.export(p) for p in people or ANYBODY], sort_keys=True)


def two_people(lab: Lab) -> None:
    """Alice on device 1 and bob on device 2, each with events, properties, tags, a subscription and server events."""
    for device, who in ((1, "alice"), (2, "bob")):
        lab.track(device, f"{who} looked")
        lab.login(device, who)
        lab.put(device, ("set", "name", who), ("set", f"only {who}", 1), ("once", "first", who))
        lab.put(device, ("tag", who, True), ("tag", "both", device == 1), ("subscription", "", device == 1))
        lab.server_track(who, f"{who} bought")


def test_an_undone_merge_leaves_two_people_exactly_as_they_were(lab: Lab) -> None:
    two_people(lab)
    before = exports(lab)
    assert lab.merge("alice", "bob", op="m") == "merged"
    merged = lab.profile("alice")
    assert merged is not None
    assert [i["value"] for i in merged["identities"]] == ["alice", "bob"]
    assert (merged["properties"]["name"], merged["tags"], merged["subscribed"]) == ("bob", ["alice", "bob"], False)
    assert lab.undo("m") == "undone"
    assert exports(lab) == before
    lab.check()


@pytest.mark.parametrize("order", list(itertools.permutations(["ab", "bc", "cd"])))
@pytest.mark.parametrize("undone", ["ab", "bc", "cd"])
def test_other_merges_in_between_stay(lab: Lab, order: tuple[str, ...], undone: str) -> None:
    people = {"a": "alice", "b": "bob", "c": "carol", "d": "dave"}
    for device, who in enumerate(people.values(), 1):
        lab.login(device, who)
        lab.track(device, who)
    for pair in order:
        assert lab.merge(people[pair[0]], people[pair[1]], op=pair) == "merged"
    assert lab.undo(undone) == "undone"
    groups = {"ab": ["a", "bcd"], "bc": ["ab", "cd"], "cd": ["abc", "d"]}[undone]
    for group in groups:
        assert lab.events(people[group[0]]) == [people[p] for p in group]
    assert not lab.same(people[undone[0]], people[undone[1]])
    lab.check()


def history_with(step: Callable[[Lab], None], undo: Callable[[Lab], None]) -> str:
    lab = Lab()
    try:
        two_people(lab)
        lab.login(3, "carol")
        step(lab)
        lab.track(1, "later on 1")
        lab.track(2, "later on 2")
        lab.login(2, "dave")
        lab.track(2, "dave's")
        lab.put(1, ("set", "name", "alice herself"))
        lab.link(4, "bob", token="letter")
        lab.track(4, "from the letter")
        lab.merge("carol", "alice", op="other")
        lab.server_track("bob", "bob came back")
        undo(lab)
        lab.check()
        # A merge in between says how much it moved at the time, which was more: that much is history, not identity.
        return re.sub(r'"moved": {[^}]*}', "", exports(lab))
    finally:
        lab.close()


@pytest.mark.parametrize(
    "fact",
    [
        lambda lab: lab.merge("alice", "bob", op="x"),
        lambda lab: lab.merge("bob", "alice", op="x"),
        lambda lab: lab.reidentify("alice", "bob", op="x"),
        lambda lab: lab.merge(1, 2, op="x"),
    ],
    ids=["merge", "the other way round", "reidentify", "by device"],
)
def test_a_merge_that_was_undone_is_as_one_that_never_was(fact: Callable[[Lab], str]) -> None:
    """The same history with the merge and its undoing, and with nothing but the ids and seconds they took."""
    used: list[int] = []

    def counted(lab: Lab, work: Callable[[], str], expected: str) -> None:
        before = lab.ids()
        assert work() == expected
        after = lab.ids()
        used.append(after - before + 1)

    def spend(lab: Lab) -> None:
        lab.clock.tick()
        for _ in range(used.pop(0)):
            lab.ids()

    def spend_and_name(lab: Lab) -> None:
        lab.op()
        spend(lab)

    with_it = history_with(
        lambda lab: counted(lab, lambda: fact(lab), "merged"), lambda lab: counted(lab, lambda: lab.undo("x"), "undone")
    )
    assert with_it == history_with(spend, spend_and_name)


def test_what_arrived_since_stays_where_it_really_happened(lab: Lab) -> None:
    two_people(lab)
    lab.merge("alice", "bob", op="m")
    lab.track(2, "on bob's device")
    lab.server_track("alice", "about alice")
    lab.login(3, "bob")
    lab.undo("m")
    assert "on bob's device" in lab.events("bob")
    assert "about alice" in lab.events("alice")
    assert lab.same("bob", 3)
    lab.check()


def test_redirects_and_primary_are_as_before(lab: Lab) -> None:
    two_people(lab)
    alice, bob = lab.profile("alice"), lab.profile("bob")
    assert alice is not None and bob is not None
    lab.merge("alice", "bob", op="m")
    redirected = lab.profile("bob")
    assert redirected is not None and redirected["profile_id"] == alice["profile_id"]
    assert redirected["primary"] == "alice"
    lab.undo("m")
    again = lab.profile("bob")
    assert again is not None
    assert (again["profile_id"], again["primary"]) == (bob["profile_id"], "bob")


def test_a_page_that_repeats_an_undone_reidentify_is_refused(lab: Lab) -> None:
    lab.login(1, "news@x.io")
    lab.track(1, "read")
    assert lab.page_reidentify(1, "42", "news@x.io", op="r") == "renamed"
    assert lab.undo("r") == "undone"
    for _ in range(3):
        assert lab.page_reidentify(1, "42", "news@x.io") == "refused_excluded"
    assert not lab.same("42", "news@x.io")
    assert lab.errors() == ["excluded_pair"]
    assert lab.events("news@x.io") == ["read"]
    lab.check()


def test_a_page_cannot_reserve_again_what_was_undone(lab: Lab) -> None:
    assert lab.page_reidentify(1, "42", "news@x.io", op="r") == "reserved"
    lab.undo("r")
    assert lab.page_reidentify(1, "42", "news@x.io") == "refused_excluded"
    lab.login(2, "news@x.io")
    assert not lab.same("42", "news@x.io")
    lab.check()


def test_a_server_needs_force_to_merge_what_was_undone(lab: Lab) -> None:
    two_people(lab)
    lab.merge("alice", "bob", op="m")
    lab.undo("m")
    assert lab.merge("alice", "bob") == "refused_excluded"
    assert lab.reidentify("bob", "alice") == "refused_excluded"
    assert lab.merge("alice", "bob", force=True, op="f") == "merged"
    assert lab.undo("f") == "undone"
    assert lab.merge("bob", "alice") == "refused_excluded"
    lab.check()


def test_what_is_undone_or_changed_nothing_cannot_be_undone(lab: Lab) -> None:
    two_people(lab)
    lab.merge("alice", "bob", op="m")
    assert lab.merge("bob", "alice", op="again") == "noop"
    assert lab.undo("again") == "nothing_to_undo"
    assert lab.undo("m", op="u") == "undone"
    assert lab.undo("m") == "nothing_to_undo"
    assert lab.undo("u") == "nothing_to_undo"
    assert lab.undo("never seen") == "not_found"


def test_a_merge_taken_apart_by_a_demerge_is_no_longer_there_to_undo(lab: Lab) -> None:
    two_people(lab)
    lab.merge("alice", "bob", op="m")
    lab.demerge("alice", op="d")
    assert lab.undo("m") == "nothing_to_undo"
    assert lab.undo("d") == "undone"
    assert lab.undo("m") == "undone"
    assert not lab.same("alice", "bob")
    lab.check()


def test_an_undone_demerge_restores_everything(lab: Lab) -> None:
    two_people(lab)
    lab.login(3, "alice")
    lab.merge("alice", "bob")
    before = exports(lab)
    assert lab.demerge("bob", op="d") == "demerged"
    assert exports(lab) != before
    assert lab.undo("d") == "undone"
    assert exports(lab) == before
    lab.check()


def test_a_login_after_a_demerge_survives_its_undoing(lab: Lab) -> None:
    two_people(lab)
    lab.demerge("alice", op="d")
    lab.login(5, "alice")
    lab.track(5, "new device")
    lab.login(1, "eve")
    assert lab.undo("d") == "undone"
    assert lab.same("alice", 5)
    assert lab.events("alice") == ["alice looked", "alice bought", "new device"]
    assert lab.events("eve") == []
    assert lab.same("eve", 1)
    lab.check()


def test_an_undone_unlink_brings_the_device_back(lab: Lab) -> None:
    two_people(lab)
    lab.login(3, "alice")
    lab.track(3, "third")
    before = exports(lab)
    assert lab.unlink(3, op="u") == "unlinked"
    assert lab.events(3) == ["third"]
    assert lab.undo("u") == "undone"
    assert exports(lab) == before
    lab.check()


def test_undo_on_a_device_that_several_people_share(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(1, "a1")
    lab.login(1, "bob")
    lab.track(1, "b1")
    lab.login(1, "carol")
    lab.track(1, "c1")
    lab.login(2, "dave")
    before = exports(lab)
    lab.merge("alice", "dave", op="m")
    lab.merge("alice", "carol", op="n")
    assert lab.events("dave") == ["a1", "c1"]
    lab.undo("m")
    assert (lab.events("alice"), lab.events("bob"), lab.events("dave")) == (["a1", "c1"], ["b1"], [])
    lab.undo("n")
    assert exports(lab) == before
    lab.check()


def test_turns_that_came_along_with_a_held_merge_go_back(lab: Lab) -> None:
    lab.login(1, "news@x.io")
    lab.track(1, "mine")
    lab.login(2, "news@x.io")
    lab.track(2, "other")
    assert lab.page_reidentify(1, "42", "news@x.io", op="r") == "held"
    assert (lab.events("42"), lab.events("news@x.io")) == (["mine"], ["other"])
    assert lab.undo("r") == "undone"
    assert lab.events("news@x.io") == ["mine", "other"]
    assert lab.profile("42") is None
    lab.check()


def test_a_ghost_of_a_full_profile_is_let_in_when_the_merge_that_filled_it_is_undone() -> None:
    lab = Lab(device_cap=2)
    lab.login(1, "alice")
    lab.login(2, "bob")
    lab.merge("alice", "bob", op="m")
    lab.track(3, "third")
    assert lab.login(3, "alice") == "ghost"
    lab.undo("m")
    assert lab.events("alice") == ["third"]
    lab.check()
    lab.close()


def test_an_undone_merge_with_a_visitor_lets_a_later_login_have_all_of_it(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(2, "before")
    lab.merge("alice", 2, op="m")
    assert lab.login(2, "bob") == "switched"
    lab.track(2, "after")
    assert (lab.events("alice"), lab.events("bob")) == (["before"], ["after"])
    lab.undo("m")
    assert (lab.events("alice"), lab.events("bob")) == ([], ["before", "after"])
    lab.check()


def test_an_identity_proven_by_an_undone_fact_is_not_proven_any_more(lab: Lab) -> None:
    lab.login(1, "42", Proof.CLAIMED)
    lab.login(2, "77", Proof.CLAIMED)
    lab.reidentify("42", "77", op="r")
    lab.undo("r")
    profile = lab.profile("42")
    assert profile is not None
    assert [i["proof"] for i in profile["identities"]] == ["claimed"]
    lab.check()


def test_a_login_beside_a_merge_stays_beside_when_something_else_is_undone(lab: Lab) -> None:
    """The merge is with somebody whom the undone demerge did not touch, and who has no name by then."""
    lab.login(2, "alice")
    lab.track(1, "before")
    lab.merge("alice", 1)
    assert lab.login(1, "bob") == "switched"
    lab.demerge("bob", op="d")
    lab.demerge("alice")
    lab.undo("d")
    assert lab.events("bob") == []
    lab.check()


def test_a_login_as_whom_the_visitor_was_merged_with_takes_all_of_it_also_when_their_name_is_gone(lab: Lab) -> None:
    lab.put(1, ("tag", "vip", True))
    lab.link(1, "42", token="t")
    lab.login(2, "alice")
    lab.merge("alice", 1)
    lab.page_reidentify(1, "alice", "42")
    lab.login(1, "42")
    lab.demerge("42", op="d")
    lab.demerge("alice")
    lab.undo("d")
    assert lab.profile("42")["tags"] == []  # type: ignore[index]
    lab.check()


def test_what_a_device_left_and_was_merged_again_leads_there_after_an_undo(lab: Lab) -> None:
    lab.track(1, "a")
    lab.reidentify("42", "alice", op="r")
    lab.track(2, "b")
    lab.login(1, "alice")
    lab.unlink(1)
    lab.merge(2, 1)
    lab.login(1, "alice")
    assert lab.undo("r") == "undone"
    assert lab.events("alice") == ["a"]
    lab.check()


def test_who_was_taken_apart_stays_so_once_one_of_them_is_deleted(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.login(2, "alice")
    lab.unlink(1, op="u")
    lab.delete("alice")
    assert lab.undo("u") == "nothing_to_undo"
    lab.check()
