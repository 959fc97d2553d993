"""Demerge and unlink: a profile comes apart into its devices, and nothing is lost."""

from pathlib import Path
from typing import Any

from tests.driver import driving
from tests.identity.lab import SECOND, Lab, name


def one_person_on_three_devices(lab: Lab) -> None:
    for device in (1, 2, 3):
        lab.track(device, f"on {device}")
        lab.login(device, "alice")
    lab.reidentify("alice", "42")
    lab.server_track("alice", "bought")


def test_each_device_becomes_a_person_without_a_name(lab: Lab) -> None:
    one_person_on_three_devices(lab)
    assert lab.demerge("42") == "demerged"
    assert (lab.profile("alice"), lab.profile("42")) == (None, None)
    for device in (1, 2, 3):
        profile = lab.profile(device)
        assert profile is not None
        assert {v["device_id"] for v in profile["visitors"]} == {str(device)}
        assert profile["identities"] == []
        assert lab.events(device) == [f"on {device}"]
    lab.check()


def test_what_servers_said_keeps_a_profile_of_its_own(lab: Lab) -> None:
    one_person_on_three_devices(lab)
    server = next(r[0] for r in lab.rows("select device_id from devices where server = 1 and site_id = 1"))
    lab.demerge("alice")
    assert lab.events(server) == ["bought"]


def test_a_dry_run_says_what_would_happen_and_changes_nothing(lab: Lab) -> None:
    one_person_on_three_devices(lab)
    before = lab.dump(lab.site)
    answer = lab.answer("demerge", lab.person("alice"), dry_run=True)
    assert answer.outcome == "demerged"
    assert answer.extra["devices"] == ["1", "2", "3"]
    assert {i["value"] for i in answer.extra["identities"]} == {"alice", "42"}
    assert lab.dump(lab.site) == before


def test_the_next_login_takes_the_device_and_names_are_free_again(lab: Lab) -> None:
    one_person_on_three_devices(lab)
    lab.demerge("alice")
    assert lab.login(2, "bob") == "attached"
    assert lab.login(1, "alice") == "attached"
    assert (lab.events("bob"), lab.events("alice")) == (["on 2"], ["on 1"])
    assert not lab.same("alice", "bob")
    assert lab.login(4, "42") == "attached"
    assert not lab.same("alice", "42")
    lab.check()


def test_a_late_login_of_a_stranger_is_not_taken_off_with_the_rest(lab: Lab) -> None:
    start = lab.clock()
    lab.track(1, "early", at=start + SECOND)
    lab.login(1, "alice", at=start + 10 * SECOND)
    lab.track(1, "late", at=start + 11 * SECOND)
    for _ in range(20):
        lab.clock.tick()
    lab.demerge("alice")
    lab.login(1, "bob", at=start + 5 * SECOND)
    assert lab.events("bob") == ["early"]
    assert lab.events(1) == ["late"]
    lab.check()


def test_a_login_older_than_the_demerge_does_not_put_together_again(lab: Lab) -> None:
    lab.track(3, "third")
    lab.login(1, "alice")
    then = lab.clock()
    lab.demerge("alice")
    lab.login(3, "alice", at=then)
    profile = lab.profile(3)
    assert profile is not None and profile["identities"] == []
    lab.check()


def test_login_again_then_demerge_again_does_not_grow(lab: Lab) -> None:
    for _ in range(3):
        lab.login(1, "alice")
        lab.login(2, "alice")
        assert lab.demerge("alice") == "demerged"
    assert lab.demerge("alice") == "not_found"
    lab.check()


def test_unlink_takes_one_device_and_leaves_the_rest(lab: Lab) -> None:
    one_person_on_three_devices(lab)
    assert lab.unlink(2) == "unlinked"
    assert lab.events("alice") == ["on 1", "on 3", "bought"]
    assert lab.events(2) == ["on 2"]
    lab.track(2, "later")
    assert lab.events(2) == ["on 2", "later"]
    lab.check()


def test_unlink_of_the_only_device_of_somebody_without_a_name_changes_nothing(lab: Lab) -> None:
    lab.track(1, "x")
    assert lab.unlink(1) == "noop"


def test_unlink_of_a_device_that_a_merge_brought(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(2, "x")
    lab.merge(2, "alice", op="m")
    assert lab.unlink(2) == "unlinked"
    assert lab.events(2) == ["x"]
    assert not lab.same("alice", 2)
    assert lab.undo("m") == "undone"
    assert lab.events(2) == ["x"]
    lab.check()


def test_one_identity_can_be_dropped_and_used_for_somebody_else(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(1, "a")
    lab.reidentify("alice", "shared@x.io", op="r")
    assert lab.operate("drop", lab.person("shared@x.io"), op="d") == "unlinked"
    lab.login(2, "shared@x.io")
    lab.track(2, "other")
    assert not lab.same("alice", "shared@x.io")
    assert (lab.events("alice"), lab.events("shared@x.io")) == (["a"], ["other"])
    lab.check()
    assert lab.undo("d") == "undone"
    assert lab.same("alice", "shared@x.io")
    lab.check()


def test_a_dropped_identity_leaves_what_came_in_under_it(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(1, "a")
    was = lab.profile("alice")
    lab.operate("drop", lab.person("alice"))
    now = lab.profile(1)
    assert was is not None and now is not None
    assert (now["profile_id"], now["identities"], lab.events(1)) == (was["profile_id"], [], ["a"])
    lab.login(2, "alice")
    assert not lab.same("alice", 1)
    lab.check()


async def test_at_most_a_hundred_identities_a_call(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        ids: list[Any] = [f"p{n}" for n in range(101)]
        assert (await driver.api("POST", "/v1/demerge", {"identities": ids})).status_code == 400
        answer = await driver.api("POST", "/v1/demerge", {"identities": ids[:100]})
        assert [r["outcome"] for r in answer.json()["results"]] == ["not_found"] * 100
        empty = await driver.api("POST", "/v1/demerge", {"identities": []})
        assert (empty.status_code, empty.json()["results"]) == (200, [])


def test_a_value_keeps_the_profile_id_it_was_given_first(lab: Lab) -> None:
    lab.login(1, "alice")
    was = lab.profile("alice")
    lab.demerge("alice")
    lab.login(2, "alice")
    now = lab.profile("alice")
    assert was is not None and now is not None and now["profile_id"] == was["profile_id"]
    assert name("alice") == ("id", "alice")
