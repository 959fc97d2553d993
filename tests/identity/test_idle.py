"""What changed nothing when it came counts all the same: once something earlier arrives, or is taken back."""

import pytest

from gateway.model import Proof
from tests.identity.lab import SECOND, Lab


def test_a_repeated_login_holds_the_turn_after_a_late_logout(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(1, "a")
    lab.track(1, "b")
    assert lab.login(1, "alice") == "noop"
    lab.logout(1, at=lab.clock() - SECOND)
    assert [v["events"] for v in lab.profile("alice")["visitors"]] == [1, 1]  # type: ignore[index]
    lab.check()


def test_a_repeated_login_holds_the_turn_after_a_late_login_of_somebody_else(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(1, "hers")
    lab.track(1, "his")
    lab.login(1, "alice")
    lab.track(1, "hers again")
    lab.login(1, "bob", at=lab.clock() - 2 * SECOND - 1)
    assert (lab.events("alice"), lab.events("bob")) == (["hers", "hers again"], ["his"])
    lab.check()


def test_a_repeated_login_holds_when_the_reidentify_before_it_is_undone(lab: Lab) -> None:
    lab.track(1, "a")
    lab.page_reidentify(1, "alice", "42", op="r")
    assert lab.page_reidentify(1, "alice") == "noop"
    assert lab.undo("r") == "undone"
    assert lab.events("alice") == ["a"]
    lab.check()


def test_a_logout_of_nobody_ends_the_visit_when_an_unlink_before_it_is_undone(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.unlink(1, op="u")
    lab.logout(1)
    lab.undo("u")
    lab.track(1, "somebody else's")
    assert lab.events("alice") == []
    lab.check()


def test_a_reidentify_as_whom_a_link_names_makes_them_known(lab: Lab) -> None:
    lab.link(1, "alice", token="t")
    assert lab.page_reidentify(1, "alice") == "attached"
    profile = lab.profile("alice")
    assert profile and not profile["tentative"]
    lab.check()


def test_what_was_only_repeated_is_shown_once_a_visitor_rests_on_it(lab: Lab) -> None:
    lab.page_reidentify(1, "alice", "42", op="r")
    lab.page_reidentify(1, "alice", op="again")
    assert lab.rows("select inert from ledger where op_id = 'again'") == [(2,)]
    lab.undo("r")
    assert lab.rows("select inert, outcome from ledger where op_id = 'again'") == [(0, "noop")]


@pytest.mark.parametrize("kind", ["login", "logout", "reidentify"])
def test_a_repetition_is_not_shown_among_the_reasons(lab: Lab, kind: str) -> None:
    for _ in range(3):
        if kind == "logout":
            lab.logout(1)
        elif kind == "login":
            lab.login(1, "alice")
        else:
            lab.page_reidentify(1, "alice", "42")
    assert lab.rows("select count(*) from ledger where inert = 0") == [(0 if kind == "logout" else 1,)]


def test_a_reidentify_on_every_page_reads_nothing_of_what_was_said_before(lab: Lab) -> None:
    lab.page_reidentify(1, "42", "alice")
    statements: list[str] = []
    lab.store.db.set_trace_callback(statements.append)
    assert lab.page_reidentify(1, "42", "alice") == "noop"
    lab.store.db.set_trace_callback(None)
    assert not [s for s in statements if "ledger.of_devices" in s]
    lab.check()


def test_a_merge_that_waits_already_waits_once(lab: Lab) -> None:
    lab.login(2, "alice", Proof.SERVER)
    for _ in range(3):
        assert lab.page_reidentify(1, "bob", "alice") == "held"
    assert lab.rows("select count(*) from ledger where outcome = 'held' and inert = 0") == [(1,)]
    lab.check()


def test_a_property_of_the_time_between_is_kept_for_a_login_that_arrives_late(lab: Lab) -> None:
    for _ in range(4):
        lab.put(1, ("tag", "vip", True))
    lab.login(1, "alice")
    lab.login(1, "bob", at=lab.clock() - 3 * SECOND)
    lab.login(1, "alice", at=lab.clock() - 3 * SECOND)
    lab.check()
    assert lab.profile("bob")["tags"] == ["vip"]  # type: ignore[index]
