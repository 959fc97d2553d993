"""Delete: a person is erased, late messages about them are dropped, and who comes back is somebody new."""

from pathlib import Path

from tests.driver import driving
from tests.identity.lab import SECOND, Lab, run


def search(path: Path, *values: str) -> list[str]:
    """Which values stand anywhere in the files of a database."""
    found = []
    for file in path.iterdir():
        content = file.read_bytes().lower()
        found += [f"{value} in {file.name}" for value in values if value.lower().encode() in content]
    return found


async def test_nothing_of_a_deleted_person_is_left_in_any_file_of_the_database(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with driving(database) as driver:
        steps = [
            ["track", {"device": "d1", "name": "Looked-at-Zebra"}],
            ["login", {"device": "d1", "identity": "wilhelmina@example.org", "proof": "claimed"}],
            ["set", {"device": "d1", "props": {"street": "Zebrastrasse 9"}, "once": False}],
            ["login", {"device": "d1", "identity": "cust-90210", "proof": "claimed"}],
            ["reidentify", {"new": "cust-90210", "old": "wilhelmina@example.org", "origin": "d1"}],
            ["server_event", {"identity": "cust-90210", "name": "Bought-Zebra"}],
            ["link", {"device": "d2", "identity": "cust-90210", "proof": "link", "token": "t"}],
            ["login", {"device": "d2", "identity": "bob", "proof": "claimed"}],
            ["merge", {"target": "u:bob", "source": "u:cust-90210", "op": "m"}],
            ["undo", {"of": "m"}],
        ]
        await driver.run(steps)
        demerged = (await driver.api("POST", "/v1/demerge", {"identities": ["cust-90210"]})).json()["results"][0]
        await driver.api("POST", f"/v1/operations/{demerged['op_id']}/undo")
        values = ("wilhelmina", "cust-90210", "Zebra")
        assert {f.split(" in ")[0] for f in search(tmp_path, *values)} == set(values)
        await driver.run([["delete", {"who": "u:cust-90210", "op": "gone"}]])
        assert driver.outcomes[-1] == "deleted"
        assert search(tmp_path, *values) == []
        assert await driver.find("u:bob") is not None
        await driver.check_refold()


def test_what_arrives_late_about_a_deleted_person_is_dropped(lab: Lab) -> None:
    lab.login(1, "alice")
    before = lab.clock()
    lab.server_track("alice", "bought")
    assert lab.delete("alice") == "deleted"
    lab.track(1, "late", at=before + 1)
    lab.login(1, "alice", at=before + 2)
    lab.server_track("alice", "late-too", at=before + 3)
    assert lab.profile("alice") is None
    assert lab.rows("select count(*) from events") == [(0,)]
    lab.check()


def test_the_same_cookie_and_id_coming_back_are_a_new_person(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(1, "before")
    was = lab.profile("alice")
    lab.delete("alice")
    lab.track(1, "after")
    lab.login(1, "alice")
    now = lab.profile("alice")
    assert was is not None and now is not None
    assert now["profile_id"] != was["profile_id"]
    assert lab.events("alice") == ["after"]
    lab.check()


def test_deleting_one_person_of_a_shared_device_leaves_the_others_turns(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(1, "a")
    lab.login(1, "bob")
    lab.track(1, "b")
    lab.login(1, "carol")
    lab.track(1, "c")
    assert lab.delete("bob") == "deleted"
    assert (lab.events("alice"), lab.events("bob"), lab.events("carol")) == (["a"], [], ["c"])
    lab.check()


def test_a_late_login_does_not_wake_a_deleted_turn(lab: Lab) -> None:
    lab.login(1, "alice")
    start = lab.clock()
    for n in range(3):
        lab.track(1, f"a{n}")
    lab.delete("alice")
    lab.login(1, "bob", at=start + SECOND)
    lab.track(1, "new")
    assert lab.events(1) == ["new"]
    assert lab.profile("bob") is None
    lab.check()


def test_a_deleted_profile_cannot_be_undone_back(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.login(2, "bob")
    lab.merge("alice", "bob", op="m")
    lab.delete("alice")
    assert lab.undo("m") in ("nothing_to_undo", "not_found")
    assert lab.profile("bob") is None
    lab.check()


def test_who_was_taken_off_a_deleted_person_stays(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(1, "a")
    lab.login(2, "alice")
    lab.track(2, "not-hers")
    lab.unlink(2)
    lab.delete("alice")
    assert lab.events(2) == ["not-hers"]
    lab.check()


def test_undoing_a_reidentify_beside_a_deleted_turn_loses_no_event(lab: Lab) -> None:
    lab.login(1, "bob")
    lab.track(1, "b")
    lab.page_reidentify(1, "alice", "carol", op="r")
    lab.track(1, "a")
    lab.delete("bob")
    assert lab.undo("r") == "undone"
    assert lab.events(1) == ["a"]
    lab.check()


def test_deleting_twice_finds_nobody_the_second_time(lab: Lab) -> None:
    lab.login(1, "alice")
    assert lab.delete("alice") == "deleted"
    assert lab.delete("alice") == "not_found"


def test_a_repeated_deletion_gets_its_recorded_answer(lab: Lab) -> None:
    lab.login(1, "alice")
    assert lab.delete("alice", op="once") == "deleted"
    lab.login(1, "alice")
    assert lab.delete("alice", op="once") == "deleted"
    assert lab.profile("alice") is not None


def test_somebody_without_any_device_is_deleted_like_others(lab: Lab) -> None:
    lab.reidentify("alice", "bob")
    was = lab.profile("alice")
    assert lab.delete("alice") == "deleted"
    assert "alice" not in lab.dump(lab.site)
    assert lab.reidentify("alice", "bob") == "reserved"
    now = lab.profile("alice")
    assert was is not None and now is not None and now["profile_id"] != was["profile_id"]
    assert lab.same("alice", "bob")
    lab.check()


def test_a_device_that_left_before_the_deletion_is_no_way_back(lab: Lab) -> None:
    lab.login(1, "alice")
    lab.track(2, "mine")
    lab.merge("alice", 2)
    lab.unlink(2)
    lab.delete("alice")
    assert lab.events(2) == ["mine"]
    lab.track(2, "more")
    lab.login(2, "bob")
    assert lab.events("bob") == ["mine", "more"]
    lab.check()


def test_a_name_that_only_a_link_in_the_deleted_stretch_gave_is_gone(lab: Lab) -> None:
    lab.link(1, "bob", token="t")
    at = lab.clock()
    lab.logout(1, at=at)
    lab.link(1, "alice")
    lab.delete("alice")
    assert lab.profile("bob") is None
    lab.check()


def test_a_turn_never_goes_to_whom_a_device_left_and_who_was_deleted_since(lab: Lab) -> None:
    lab.login(2, "alice")
    lab.login(1, "bob")
    at = lab.clock()
    lab.track(1, "not bob's")
    lab.login(1, "alice")
    lab.unlink(1)
    lab.delete(1)
    lab.login(1, "alice", at=at + 1)
    (profile,) = [p for p in run(lab.reader().search(""))["profiles"] if p["events"]]
    assert lab.events_of(profile["profile_id"]) == ["not bob's"]
    assert not profile["identities"]
    lab.check()
