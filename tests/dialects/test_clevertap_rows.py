"""CleverTap's identity cases that a server can cause or see, by their numbers in the dialect's README.

A device is an objectId. Somebody logs in on it by an upload that names both: an SDK's onUserLogin, done by a server.
"""

from collections.abc import AsyncIterator

import pytest

from tests.dialects.clevertap_account import Account, account


@pytest.fixture
async def ct(database: str) -> AsyncIterator[Account]:
    async with account(database, identity_kinds=["email", "phone"]) as made:
        yield made


async def test_1_first_visit_is_an_anonymous_profile(ct: Account) -> None:
    await ct.event("e1", objectId="d1")
    record = await ct.record(objectId="d1")
    assert record["platformInfo"] == [{"platform": "Web", "objectId": "d1"}]
    assert (record["all_identities"], "identity" in record) == ([], False)


async def test_2_first_login_takes_the_anonymous_device_along(ct: Account) -> None:
    await ct.event("e1", objectId="d1")
    await ct.attach("d1", "bob")
    assert (await ct.devices(identity="bob"), await ct.events(identity="bob")) == (["d1"], ["e1"])
    assert await ct.debug(identity="bob") == {"Identity Set": 1}


async def test_3_after_a_departure_events_stay_with_the_last_known_person(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.event("later", objectId="d1")
    assert await ct.events(identity="bob") == ["later"]


async def test_4_and_5_a_second_person_on_a_device_has_a_profile_of_their_own(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.event("bob's", objectId="d1")
    await ct.attach("d1", "adam")
    await ct.event("adam's", objectId="d1")
    await ct.event("adam's too", objectId="d1")
    assert (await ct.names(identity="bob"), await ct.events(identity="bob")) == (["bob"], ["bob's"])
    assert (await ct.names(identity="adam"), await ct.events(identity="adam")) == (["adam"], ["adam's", "adam's too"])


async def test_6_the_first_person_returns(ct: Account) -> None:
    for who in ("bob", "adam", "bob"):
        await ct.attach("d1", who)
    await ct.event("again", objectId="d1")
    assert (await ct.events(identity="bob"), await ct.events(identity="adam")) == (["again"], [])


async def test_7_one_person_on_two_devices_is_one_profile(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.attach("d9", "bob")
    assert await ct.devices(identity="bob") == ["d1", "d9"]


async def test_8_and_32_earlier_anonymous_events_come_along(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.event("e9", objectId="d9")
    await ct.attach("d9", "bob")
    assert await ct.events(identity="bob") == ["e9"]  # CleverTap leaves them on an orphan profile


async def test_9_a_profile_without_identity_changes_nobody(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.take({"type": "profile", "objectId": "d1", "profileData": {"Name": "X"}})
    assert (await ct.record(identity="bob"))["name"] == "X"


async def test_10_a_new_identity_on_a_known_device_is_another_person(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.attach("d1", "carol")
    assert (await ct.names(identity="bob"), await ct.names(identity="carol")) == (["bob"], ["carol"])


async def test_11_an_identity_of_somebody_else_is_not_moved(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.event("hers", objectId="d2")
    await ct.attach("d2", "adam")
    await ct.attach("d1", "adam")
    assert (await ct.names(identity="bob"), await ct.names(identity="adam")) == (["bob"], ["adam"])
    assert await ct.events(identity="bob") == []


async def test_11_an_email_of_somebody_else_is_an_identity_error(ct: Account) -> None:
    await ct.attach("d1", "bob", Email="b@x.io")
    await ct.attach("d2", "adam", Email="b@x.io")
    adam = await ct.record(identity="adam")
    assert adam["platformInfo"][0]["badKs"] == adam["bad_identities"] == ["b@x.io"]
    assert (await ct.names(identity="bob"), await ct.names(identity="adam")) == (["b@x.io", "bob"], ["adam"])
    assert (await ct.debug(identity="adam"))["Identity Error"] == 1
    [held] = (await ct.driver.api("GET", "/v1/held")).json()["held"]
    assert held["outcome"] == "held"


@pytest.mark.parametrize("times", [1, 3])
async def test_12_one_email_and_two_customers_stay_two(ct: Account, times: int) -> None:
    await ct.take({"type": "profile", "identity": "1", "profileData": {"Email": "x@x.io"}})
    for _ in range(times):
        await ct.take({"type": "profile", "identity": "2", "profileData": {"Email": "x@x.io"}})
    assert (await ct.names(identity="1"), await ct.names(identity="2")) == (["1", "x@x.io"], ["2"])
    assert await ct.debug(identity="2") == {"Identity Set": 1, "Identity Error": 1}
    assert (await ct.record(email="x@x.io"))["identity"] == "1"


async def test_12_where_everything_is_believed_one_email_is_one_person(database: str) -> None:
    async with account(database, identity_kinds=["email"], trust="open") as ct:
        for n in ("1", "2"):
            await ct.take({"type": "profile", "identity": n, "profileData": {"Email": "x@x.io"}})
        assert await ct.names(identity="2") == ["1", "2", "x@x.io"]


async def test_13_a_placeholder_glues_nobody_together(ct: Account) -> None:
    for n in (1, 2):
        answer = await ct.upload({"type": "profile", "identity": n, "profileData": {"Email": "null"}})
        assert answer["unprocessed"][0]["code"] == 515
    for n in (1, 2):
        await ct.take({"type": "profile", "objectId": f"d{n}", "profileData": {"identity": "null", "Name": f"n{n}"}})
    assert [await ct.names(objectId=f"d{n}") for n in (1, 2)] == [[], []]
    assert [(await ct.record(objectId=f"d{n}"))["name"] for n in (1, 2)] == ["n1", "n2"]
    assert (await ct.debug(objectId="d1")) == {"Identity Error": 1}


async def test_14_the_51st_device_is_a_ghost(ct: Account) -> None:
    everybody = [{"type": "profile", "objectId": f"d{n}", "profileData": {"identity": "bob"}} for n in range(51)]
    await ct.take(*everybody)
    await ct.event("kept", objectId="d50")
    assert len(await ct.devices(identity="bob")) == 50
    [ghost] = [d for n in range(51) if (d := await ct.record(objectId=f"d{n}"))["all_identities"] == []]
    assert len(ghost["platformInfo"]) == 1
    errors = await ct.driver.errors()
    assert errors == ["device_limit"]


async def test_15_demerge_gives_each_device_its_own_profile(ct: Account) -> None:
    for n in range(10):
        await ct.event(f"e{n}", objectId=f"d{n}")
        await ct.attach(f"d{n}", "i1")
    await ct.take({"type": "profile", "identity": "i1", "profileData": {"Email": "i@x.io"}})
    answer = await ct.post("demerge/profiles.json", {"identities": ["i@x.io"]})
    assert answer["status"] == "success"
    assert sorted(answer["results"][0]["devices"]) == [f"d{n}" for n in range(10)]
    for n in range(10):
        assert (await ct.events(objectId=f"d{n}"), await ct.names(objectId=f"d{n}")) == ([f"e{n}"], [])
        assert (await ct.debug(objectId=f"d{n}"))["Identity Reset"] == 1
    assert await ct.missing(identity="i1")
    assert not await ct.missing(email="i@x.io")  # what a server wrote has a profile of its own: nothing is lost


async def test_16_a_login_after_a_demerge(ct: Account) -> None:
    for d in ("d1", "d2"):
        await ct.event(d, objectId=d)
        await ct.attach(d, "i1")
    await ct.post("demerge/profiles.json", {"identities": ["i1"]})
    await ct.attach("d1", "i1")
    assert (await ct.events(identity="i1"), await ct.names(objectId="d2")) == (["d1"], [])
    await ct.attach("d2", "i1")
    assert await ct.devices(identity="i1") == ["d1", "d2"]


async def test_17_an_upload_merges_again_what_was_taken_apart(ct: Account) -> None:
    devices = [f"d{n}" for n in range(10)]
    for d in devices:
        await ct.event(f"of {d}", objectId=d)
        await ct.attach(d, "i1")
    await ct.post("demerge/profiles.json", {"identities": ["i1"]})
    again = [{"type": "profile", "objectId": d, "profileData": {"identity": "i1"}} for d in devices]
    await ct.take(*again)
    assert await ct.devices(identity="i1") == devices
    assert await ct.events(identity="i1") == [f"of {d}" for d in devices]


async def test_18_and_19_who_was_deleted_comes_back_as_somebody_new(ct: Account) -> None:
    for d in ("d1", "d2"):
        await ct.event("old", objectId=d)
        await ct.attach(d, "bob")
    answer = await ct.post("delete/profiles.json", {"identity": "bob"})
    assert answer == {"status": "success", "results": [{"identity": "bob", "outcome": "deleted"}]}
    assert await ct.missing(identity="bob")
    assert await ct.missing(objectId="d1")
    await ct.event("new", objectId="d1")
    await ct.attach("d1", "bob")
    assert (await ct.events(identity="bob"), await ct.devices(identity="bob")) == (["new"], ["d1"])


async def test_18_who_was_taken_apart_and_came_back_is_deleted_whole(ct: Account) -> None:
    for d in ("d1", "d2"):
        await ct.attach(d, "bob")
    await ct.event("e", identity="bob")
    await ct.post("demerge/profiles.json", {"identities": ["bob"]})
    await ct.attach("d1", "bob")
    await ct.post("delete/profiles.json", {"identity": "bob"})
    ledger = (await ct.driver.api("GET", "/v1/ledger?limit=500")).text
    assert "bob" not in ledger


async def test_20_and_21_a_profile_without_device_until_the_first_login(ct: Account) -> None:
    await ct.take({"type": "profile", "identity": "z", "profileData": {"plan": "pro"}})
    assert await ct.devices(identity="z") == []
    await ct.attach("d5", "z")
    assert await ct.devices(identity="z") == ["d5"]
    assert (await ct.record(objectId="d5"))["profileData"] == {"plan": "pro"}


async def test_22_an_event_of_somebody_unknown_makes_the_profile(ct: Account) -> None:
    await ct.event("e", identity="z")
    assert await ct.events(identity="z") == ["e"]


async def test_23_a_second_identity_for_a_profile(ct: Account) -> None:
    await ct.event("e", identity="prev")
    await ct.take({"type": "profile", "identity": "prev", "profileData": {"identity": "new"}})
    assert await ct.names(identity="new") == ["new", "prev"]
    assert await ct.events(identity="new") == ["e"]
    assert (await ct.record(identity="prev"))["identity"] == "new"


async def test_23_a_second_identity_that_is_somebody_else_waits_for_an_operator(ct: Account) -> None:
    await ct.event("e", identity="prev")
    await ct.event("f", identity="new")
    await ct.take({"type": "profile", "identity": "prev", "profileData": {"identity": "new", "n": 1}})
    assert (await ct.names(identity="prev"), await ct.names(identity="new")) == (["prev"], ["new"])
    assert (await ct.record(identity="prev"))["profileData"] == {"n": 1}
    [held] = (await ct.driver.api("GET", "/v1/held")).json()["held"]
    approved = await ct.driver.api("POST", f"/v1/held/{held['op_id']}/approve")
    assert approved.json()["outcome"] == "merged"
    assert await ct.events(identity="new") == ["e", "f"]


async def test_25_a_lost_cookie_costs_a_device(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.event("before", objectId="d1-again")
    await ct.attach("d1-again", "bob")
    assert await ct.devices(identity="bob") == ["d1", "d1-again"]


async def test_26_one_login_that_arrives_under_two_ids_is_no_error(ct: Account) -> None:
    await ct.take(
        {"type": "profile", "objectId": "www", "profileData": {"identity": "bob"}},
        {"type": "profile", "objectId": "shop", "profileData": {"identity": "bob"}},
    )
    assert await ct.devices(identity="bob") == ["shop", "www"]
    assert await ct.driver.errors() == []


async def test_27_a_phone_is_taken_off_its_profile(ct: Account) -> None:
    await ct.attach("d1", "bob", Phone="+919213231415")
    assert await ct.names(identity="bob") == ["+919213231415", "bob"]
    answer = await ct.post("disassociate", {"d": [{"type": "phone", "value": "+919213231415"}]})
    assert answer == {"status": "success", "processed": 1, "unprocessed": []}
    assert await ct.names(identity="bob") == ["bob"]
    assert "phone" not in await ct.record(identity="bob")
    await ct.attach("d2", "adam", Phone="+919213231415")
    assert await ct.names(identity="adam") == ["+919213231415", "adam"]


async def test_27_a_phone_that_logged_in_leaves_its_devices_behind(ct: Account) -> None:
    phone = "+919213231415"
    await ct.take({"type": "profile", "objectId": "d1", "profileData": {"Phone": phone}})
    await ct.event("e", objectId="d1")
    await ct.post("disassociate", {"d": [{"type": "phone", "value": phone}]})
    assert (await ct.names(objectId="d1"), await ct.events(objectId="d1")) == ([], ["e"])
    await ct.take({"type": "profile", "objectId": "d2", "profileData": {"Phone": phone}})
    await ct.event("f", objectId="d1")
    assert (await ct.devices(objectId="d2"), await ct.events(objectId="d1")) == (["d2"], ["e", "f"])


async def test_28_the_mark_of_an_opted_out_browser_is_no_part_of_its_name(ct: Account) -> None:
    await ct.event("e", objectId="d6")
    await ct.event("f", objectId="d6:OO")
    assert await ct.events(objectId="d6:OO") == ["e", "f"]


async def test_30_the_same_person_by_email_alone(ct: Account) -> None:
    await ct.attach("d1", "bob1", Email="bob@x.io")
    await ct.take({"type": "profile", "objectId": "d3", "profileData": {"Email": "Bob@X.io"}})
    assert await ct.devices(identity="bob1") == ["d1", "d3"]


async def test_31_two_logins_at_once_are_two_people(ct: Account) -> None:
    await ct.take(
        {"type": "profile", "objectId": "d3", "profileData": {"identity": "carol"}},
        {"type": "profile", "objectId": "d3", "profileData": {"identity": "dave"}},
    )
    await ct.event("e", objectId="d3")
    assert (await ct.names(identity="carol"), await ct.names(identity="dave")) == (["carol"], ["dave"])
    assert (await ct.events(identity="carol"), await ct.events(identity="dave")) == ([], ["e"])


async def test_a_subscriber_who_becomes_a_customer_is_one_person(ct: Account) -> None:
    await ct.take({"type": "profile", "objectId": "d1", "profileData": {"Email": "ada@x.io"}})
    await ct.event("read", objectId="d1")
    await ct.take({"type": "profile", "identity": "77", "profileData": {"Email": "ada@x.io"}})
    assert (await ct.names(identity="77"), await ct.events(identity="77")) == (["77", "ada@x.io"], ["read"])


async def test_a_page_of_the_gateway_is_a_device_too(ct: Account) -> None:
    await ct.driver.push("laptop", ["track", "Viewed"], "v1", ct.driver.time(None))
    token = ct.driver.tokens["laptop"]
    device_id = str(ct.driver.gateway.device_id(ct.driver.site, token))
    await ct.attach(device_id, "bob")
    assert (await ct.devices(identity="bob"), await ct.events(identity="bob")) == ([device_id], ["Viewed"])
    assert (await ct.record(objectId=token))["identity"] == "bob"
    native = await ct.driver.find("u:bob")
    assert native is not None
    assert native["profile_id"] == (await ct.driver.find("d:laptop") or {})["profile_id"]
