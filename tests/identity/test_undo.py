"""Undo: as if it had never happened."""

from collections.abc import Iterator

import pytest

from tests.identity.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


def test_an_undone_merge_leaves_two_people_with_their_own_events(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(1, "a")
    lab.login(2, "bob")
    lab.track(2, "b")
    assert lab.merge("alice", "bob", op="m") == "merged"
    assert lab.events("alice") == ["a", "b"]
    assert lab.undo("m") == "undone"
    assert (lab.events("alice"), lab.events("bob")) == (["a"], ["b"])
    lab.check()
