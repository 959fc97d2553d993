"""Properties, tags and the subscription: facts of a visitor, shown by whoever the visitor belongs to."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import rules
from tests.identity.lab import SECOND, START, Lab


def properties(lab: Lab, who: Any) -> Any:
    profile = lab.profile(who)
    return profile and profile["properties"]


def test_the_newest_write_wins_across_a_merge_and_back(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.put(1, ("set", "city", "Bern"), ("set", "plan", "free"))
    lab.login(2, "bob")
    lab.put(2, ("set", "city", "Oslo"))
    lab.merge("alice", "bob", op="m")
    assert properties(lab, "alice") == {"city": "Oslo", "plan": "free"}
    lab.undo("m")
    assert properties(lab, "alice") == {"city": "Bern", "plan": "free"}
    assert properties(lab, "bob") == {"city": "Oslo"}


def test_at_equal_times_the_higher_op_id_wins_whatever_came_first(lab: Lab) -> None:
    for first, second in (("a", "b"), ("b", "a")):
        for device, op in ((1, first), (2, second)):
            lab.put(device, ("set", f"p{first}", op), at=START, op=op)
    lab.merge(1, 2)
    assert properties(lab, 1) == {"pa": "b", "pb": "b"}


def test_null_clears_a_property(lab: Lab) -> None:
    lab.put(1, ("set", "city", "Bern"))
    lab.put(1, ("set", "city", None))
    assert properties(lab, 1) == {}
    lab.put(1, ("set", "city", "Oslo"))
    assert properties(lab, 1) == {"city": "Oslo"}


def test_null_clears_what_the_profile_showed_on_all_its_devices(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.login(2, "alice")
    lab.put(1, ("set", "city", "Bern"))
    lab.put(2, ("set", "city", None))
    assert properties(lab, "alice") == {}


def test_somebody_elses_null_does_not_reach_across_a_later_merge(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.put(1, ("set", "city", "Bern"))
    lab.login(2, "bob")
    lab.put(2, ("set", "city", None))
    lab.merge("alice", "bob")
    assert properties(lab, "alice") == {"city": "Bern"}


def test_what_a_null_cleared_in_a_merged_profile_is_back_after_the_undo(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.put(1, ("set", "city", "Bern"))
    lab.login(2, "bob")
    lab.put(2, ("set", "city", "Oslo"))
    lab.merge("alice", "bob", op="m")
    lab.put(1, ("set", "city", None))
    assert properties(lab, "alice") == {}
    lab.undo("m")
    assert properties(lab, "bob") == {"city": "Oslo"}
    assert properties(lab, "alice") == {}


def test_set_once_loses_to_any_set_and_the_oldest_of_them_shows(lab: Lab) -> None:
    lab.put(1, ("once", "source", "second"), at=START + 20)
    lab.put(1, ("once", "source", "first"), at=START + 10)
    assert properties(lab, 1) == {"source": "first"}
    lab.put(1, ("set", "source", "set"), at=START)
    assert properties(lab, 1) == {"source": "set"}


def test_tags_are_added_and_removed_across_a_merge_and_back(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.put(1, ("tag", "vip", True), ("tag", "new", True))
    lab.login(2, "bob")
    lab.put(2, ("tag", "vip", False), ("tag", "old", True))
    lab.merge("alice", "bob", op="m")
    assert [lab.profile(w)["tags"] for w in ("alice", "bob")] == [["new", "old"]] * 2  # type: ignore[index]
    lab.undo("m")
    assert [lab.profile(w)["tags"] for w in ("alice", "bob")] == [["new", "vip"], ["old"]]  # type: ignore[index]


def test_unsubscribed_wins_over_older_and_absent_and_only_resubscribing_lifts_it(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.put(1, ("subscription", "", True))
    lab.login(2, "bob")
    lab.put(2, ("subscription", "", False))
    lab.login(3, "carol")
    subscribed = lambda who: lab.profile(who)["subscribed"]  # type: ignore[index]  # noqa: E731
    lab.merge("alice", "bob", op="m")
    lab.merge("carol", "alice")
    assert subscribed("carol") is False
    lab.undo("m")
    assert (subscribed("carol"), subscribed("bob")) == (True, False)
    lab.put(2, ("subscription", "", True))
    assert subscribed("bob") is True


def test_anybody_may_unsubscribe_anybody_but_not_change_them(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.put(9, ("subscription", "", False), about="alice")
    assert lab.profile("alice")["subscribed"] is False  # type: ignore[index]
    lab.put(9, ("tag", "vip", True), about="alice")
    lab.put(9, ("subscription", "", True), about="alice")
    profile = lab.profile("alice")
    assert profile is not None
    assert (profile["tags"], profile["subscribed"]) == ([], False)


def test_a_late_login_takes_the_properties_of_its_turn_along(lab: Lab) -> None:
    at = lab.clock()
    lab.put(1, ("set", "city", "Bern"), at=at + 10)
    lab.login(1, "bob", at=at + 20)
    lab.put(1, ("set", "city", "Oslo"), at=at + 30)
    lab.login(1, "alice", at=at + 5)
    assert (properties(lab, "alice"), properties(lab, "bob")) == ({"city": "Bern"}, {"city": "Oslo"})
    lab.check()


def test_a_property_that_never_changes_is_kept_twice_at_most(lab: Lab) -> None:
    for _ in range(20):
        lab.clock.at += 3600 * SECOND
        lab.put(1, ("set", "plan", "free"))
    assert lab.rows("select count(*) from properties") == [(2,)]
    assert json.loads(lab.rows("select value from properties")[0][0]) == "free"


row = st.builds(
    rules.Row,
    device_id=st.integers(1, 3),
    kind=st.sampled_from(["set", "once", "tag"]),
    key=st.sampled_from("ab"),
    at=st.integers(1, 5),
    op_id=st.sampled_from("xyz"),
    value=st.integers(0, 9),
)
clear = st.builds(
    rules.Row,
    device_id=st.integers(1, 3),
    kind=st.just("clear"),
    key=st.sampled_from("ab"),
    at=st.integers(1, 5),
    op_id=st.sampled_from("xyz"),
    value=st.lists(st.integers(1, 3), max_size=3),
)


@given(st.lists(st.one_of(row, row, clear), max_size=12))
def test_what_shows_comes_from_where_the_sources_say(rows: list[rules.Row]) -> None:
    """Whatever was written and cleared, the first source of each property is what the profile shows."""
    shown = rules.fold_properties(rows)[0]
    assert {key: sources[0].value for key, sources in rules.sources(rows).items()} == shown
