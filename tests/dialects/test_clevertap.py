"""CleverTap's uploads on the wire: who may call, shapes, codes and texts, limits, and what bad input gets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import Unavailable
from gateway.model import now
from tests.dialects.clevertap_account import Account, Json, account

PROFILE = "Profile data is incorrect. "


@pytest.fixture
async def ct(tmp_path: Path) -> AsyncIterator[Account]:
    async with account(tmp_path) as made:
        yield made


def profile(**data: Any) -> Json:
    return {"type": "profile", "identity": "bob", "profileData": data}


def event(**more: Any) -> Json:
    return {"type": "event", "identity": "bob", "evtName": "Bought", "evtData": {}, **more}


# --- who calls --------------------------------------------------------------------------------------------------------


async def test_header_names_in_any_case(ct: Account) -> None:
    headers = {k.lower(): v for k, v in ct.headers.items()} | {"content-type": "application/json; charset=utf-8"}
    response = await ct.driver.client.post("/1/upload", content=json.dumps({"d": [event()]}), headers=headers)
    assert response.json() == {"status": "success", "processed": 1, "unprocessed": []}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"X-CleverTap-Account-Id": "nobody"}, "Account ID is not valid"),
        ({"X-CleverTap-Account-Id": ""}, "Account ID is not valid"),
        ({"X-CleverTap-Account-Id": "ü".encode("latin-1")}, "Account ID is not valid"),
        ({"X-CleverTap-Passcode": "wrong"}, "Invalid Credentials"),
        ({"X-CleverTap-Passcode": ""}, "Invalid Credentials"),
        ({"X-CleverTap-Passcode": "ü".encode("latin-1")}, "Invalid Credentials"),
    ],
)
@pytest.mark.parametrize("path", ["upload", "profile.json", "nothing"])
async def test_wrong_keys_are_refused_before_anything_else(
    ct: Account, path: str, changed: dict[str, Any], error: str
) -> None:
    response = await ct.call("POST", path, headers=changed, content=b"{")
    assert response.status_code == 401
    assert response.json() == {"status": "fail", "error": error, "code": 401}


async def test_the_public_key_is_no_passcode(ct: Account) -> None:
    response = await ct.call("POST", "upload", headers={"X-CleverTap-Passcode": ct.driver.site.api_key}, json={"d": []})
    assert response.status_code == 401


async def test_a_passcode_that_comes_from_a_browser_has_leaked(ct: Account) -> None:
    response = await ct.call("POST", "upload", headers={"Origin": "https://shop.example"}, json={"d": [event()]})
    assert (response.status_code, response.json()["status"]) == (403, "fail")
    assert await ct.missing(identity="bob")


# --- uploads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "code", "text"),
    [
        (event(evtName=""), 509, "Event Name is incorrect. ErrorCode: 509 - Event name is mandatory. "),
        (event(evtName=None), 509, "Event Name is incorrect. ErrorCode: 509 - Event name is mandatory. "),
        (event(evtName=5), 509, "Event Name is incorrect. ErrorCode: 509 - Event name is mandatory. "),
        (profile(Email="nonsense"), 515, f"{PROFILE}Email is not valid."),
        (profile(Email="a b@c.de"), 515, f"{PROFILE}Email is not valid."),
        (profile(Email=5), 515, f"{PROFILE}Email is not valid."),
        (profile(Phone="0170 1234567"), 516, f"{PROFILE}Phone number is not valid."),
        (profile(Employed="maybe"), 517, f"{PROFILE}Employed needs to be Y/N."),
        (profile(Education="Life"), 518, f"{PROFILE}Education needs to be School/College/Graduate.."),
        (profile(Married=True), 519, f"{PROFILE}Married needs to be Y/N."),
        (profile(Age="old"), 520, f"{PROFILE}Age is invalid."),
        (profile(Age=0), 520, f"{PROFILE}Age is invalid."),
        (event(ts=0), 525, "Timestamp should be present in the Unix Epoch format. "),
        (event(ts="yesterday"), 525, "Timestamp should be present in the Unix Epoch format. "),
        (event(ts=1700000000000), 525, "Timestamp should be present in the Unix Epoch format. "),
        (profile(Age=30) | {"ts": -1}, 525, "Timestamp should be present in the Unix Epoch format. "),
    ],
)
async def test_recorded_texts(ct: Account, record: Json, code: int, text: str) -> None:
    assert await ct.refusal(record) == (code, f"{text}Skipped record number : 2")


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (event(evtData=[]), 512),
        (event(evtData="x"), 512),
        (event(evtName="x" * 129), 512),
        (event(evtData={"x": "y" * 40_000}), 512),
        (event(evtName="App Launched"), 513),
        (event(evtName="Identity Set"), 513),
        (event(evtName=" identity ERROR "), 513),
        (event(evtName="Identity Reset"), 513),
        (profile(Gender="X"), 514),
        (event(evtData={str(n): n for n in range(257)}), 522),
        ({"type": "event", "evtName": "Bought"}, 523),
        ({"type": "profile", "identity": "", "profileData": {}}, 523),
        ({"type": "profile", "identity": None, "profileData": {}}, 523),
        ({"type": "thing", "identity": "bob"}, 524),
        ({"identity": "bob", "profileData": {}}, 524),
        ("bob", 524),
        (None, 524),
        ({"type": "event", "objectId": "a b", "evtName": "Bought"}, 526),
        ({"type": "event", "objectId": "x" * 65, "evtName": "Bought"}, 526),
        ({"type": "event", "objectId": ["x"], "evtName": "Bought"}, 526),
        ({"type": "token", "tokenData": {"id": "t", "type": "fcm"}}, 530),
        ({"type": "token", "objectId": "a b", "tokenData": {"id": "t", "type": "fcm"}}, 530),
        ({"type": "token", "objectId": "d1"}, 531),
        ({"type": "token", "objectId": "d1", "tokenData": "t"}, 531),
        ({"type": "token", "objectId": "d1", "tokenData": {"type": "fcm"}}, 532),
        ({"type": "token", "objectId": "d1", "tokenData": {"id": "t"}}, 533),
        ({"type": "token", "objectId": "d1", "tokenData": {"id": "t", "type": "pigeon"}}, 534),
        ({"type": "profile", "identity": "bob", "profileData": []}, 555),
        (profile(**{f"k{n}": n for n in range(257)}), 555),
        (profile(x={"$explode": 1}), 555),
        (profile(x={"$incr": "much"}), 555),
        (profile(x={"$add": [{"a": 1}]}), 555),
        (profile(x="y" * 9000), 555),
        (profile(x={"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}), 555),
        (profile(x="NUL \0"), 555),
        ({"type": "event", "identity": "null", "evtName": "Bought"}, 560),
        ({"type": "event", "identity": "{{ user.id }}", "evtName": "Bought"}, 560),
        ({"type": "event", "identity": ["bob"], "evtName": "Bought"}, 560),
        ({"type": "event", "identity": True, "evtName": "Bought"}, 560),
    ],
)
async def test_codes(ct: Account, record: Any, code: int) -> None:
    found, text = await ct.refusal(record)
    assert found == code
    assert text.endswith("Skipped record number : 2")


async def test_nothing_but_bad_records_is_a_failure(ct: Account) -> None:
    answer = await ct.upload(event(ts=0), event(evtName=""))
    assert (answer["status"], answer["processed"]) == ("fail", 0)
    assert [u["error"][-1] for u in answer["unprocessed"]] == ["1", "2"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"d":1}',
        b'{"d":{}}',
        b"\xff\xfe",
        b'{"d":[' * 50_000,
        b'{"d":["\\ud800"]}',
        b"[NaN]",
    ],
)
async def test_a_body_that_is_no_upload(ct: Account, body: bytes) -> None:
    response = await ct.call("POST", "upload", content=body)
    assert (response.status_code, response.json()["status"], response.json()["code"]) == (400, "fail", 400)


async def test_more_than_a_thousand_records_are_refused_as_one(ct: Account) -> None:
    response = await ct.call("POST", "upload", json={"d": [event()] * 1001})
    assert (response.status_code, response.json()["code"]) == (400, 400)
    assert await ct.missing(identity="bob")


async def test_a_body_that_is_too_large(ct: Account) -> None:
    response = await ct.call("POST", "upload", content=b" " * (10 * 1024 * 1024 + 1))
    assert (response.status_code, response.json()["code"]) == (413, 413)


async def test_a_thousand_people_are_few_transactions(ct: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ct.driver.gateway.writer.engine
    groups: list[int] = []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda tx, group: (groups.append(len(group)), run(tx, group))[1])
    await ct.take(*({"type": "profile", "identity": f"u{n}", "profileData": {"n": n}} for n in range(1000)))
    assert groups == [500, 500]
    assert (await ct.record(identity="u999"))["profileData"] == {"n": 999}


async def test_records_of_one_upload_that_build_on_each_other(tmp_path: Path) -> None:
    async with account(tmp_path, identity_kinds=["email"]) as ct:
        await ct.take(
            {"type": "profile", "objectId": "d1", "profileData": {"Email": "ada@x.io"}},
            {"type": "profile", "identity": "77", "profileData": {"Email": "ada@x.io"}},
            {"type": "event", "identity": "77", "evtName": "Bought"},
            {"type": "profile", "identity": "77", "profileData": {"identity": "78"}},
            {"type": "event", "identity": "78", "evtName": "Sold"},
            {"type": "profile", "identity": "79", "profileData": {"identity": "78"}},
        )
        assert (await ct.names(identity="78"), await ct.devices(identity="78")) == (
            ["77", "78", "79", "ada@x.io"],
            ["d1"],
        )
        assert await ct.events(identity="77") == ["Bought", "Sold"]
        assert await ct.driver.errors() == []


async def test_what_cannot_be_stored_now_costs_nobody_else(ct: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ct.driver.gateway.writer
    commands = writer.commands

    async def commands_but_eves(batch: Any) -> Any:
        if batch.key[1] == "eve":
            raise Unavailable("the disk is full")
        return await commands(batch)

    monkeypatch.setattr(writer, "commands", commands_but_eves)
    answer = await ct.upload(event(), event(identity="eve"), event())
    assert (answer["status"], answer["processed"]) == ("partial", 2)
    assert [(u["code"], u["error"][-1]) for u in answer["unprocessed"]] == [(555, "2")]
    assert await ct.missing(identity="eve")


async def test_a_dry_run_says_what_an_upload_would_and_keeps_nothing(ct: Account) -> None:
    answer = await ct.post("upload?dryRun=1", {"d": [event(), event(ts=0)]})
    assert (answer["status"], answer["processed"], answer["unprocessed"][0]["code"]) == ("partial", 1, 525)
    assert await ct.missing(identity="bob")


async def test_an_upload_that_is_sent_again_is_kept_once(ct: Account) -> None:
    records = [event(ts=1700000000), event(ts=1700000000), profile(n={"$incr": 2}) | {"ts": 1700000000}]
    for _ in range(2):
        await ct.take(*records)
    record = await ct.record(identity="bob")
    assert record["events"]["Bought"] == {"count": 2, "first_seen": 1700000000, "last_seen": 1700000000}
    assert record["profileData"] == {"n": 2}


async def test_without_a_time_it_happened_now_and_every_time(ct: Account) -> None:
    before = now() // 1_000_000
    await ct.take(event())
    await ct.take(event())
    counted = (await ct.record(identity="bob"))["events"]["Bought"]
    assert counted["count"] == 2
    assert before <= counted["first_seen"] <= counted["last_seen"]


async def test_an_older_value_does_not_replace_a_newer_one(ct: Account) -> None:
    await ct.take(profile(plan="new"), profile(plan="old", other=1) | {"ts": 1700000000})
    assert (await ct.record(identity="bob"))["profileData"] == {"other": 1, "plan": "new"}


async def test_operators(ct: Account) -> None:
    await ct.take(
        profile(
            tags={"$set": ["a", "b", "a"]}, score={"$incr": 10}, one="x", gone="x", Name="Bob", empty={"$add": "x"}
        ),
        profile(tags={"$add": "c"}, score={"$decr": 2.5}, one={"$add": ["y", "y"]}, gone={"$delete": True}),
        profile(tags={"$remove": ["a"]}, Name={"$delete": 1}, empty={"$remove": "x"}),
    )
    record = await ct.record(identity="bob")
    assert record["profileData"] == {"one": ["x", "y"], "score": 7.5, "tags": ["b", "c"]}
    assert "name" not in record


async def test_increments_that_cross_are_all_counted(ct: Account) -> None:
    for _ in range(3):
        await ct.take(*[profile(n={"$incr": 1})] * 20)
    assert (await ct.record(identity="bob"))["profileData"] == {"n": 60}


async def test_fields_that_every_product_has_are_the_same_property_everywhere(ct: Account) -> None:
    await ct.take(profile(Name="Bob", Email=" Bob@x.io ", Phone=4917012345678, Age="44", DOB="$D_1514980800"))
    record = await ct.record(identity="bob")
    assert (record["name"], record["email"], record["phone"]) == ("Bob", "Bob@x.io", "+4917012345678")
    assert record["profileData"] == {"Age": "44", "DOB": "$D_1514980800"}
    native = await ct.driver.find("u:bob")
    assert native is not None
    assert (native["properties"]["email"], native["properties"]["name"]) == ("Bob@x.io", "Bob")


async def test_locators_of_other_kinds(ct: Account) -> None:
    await ct.take(
        {"type": "profile", "FBID": "fb1", "profileData": {"n": 1}},
        {"type": "profile", "GPID": "fb1", "profileData": {"n": 2}},
        {"type": "profile", "identity": 5, "profileData": {"n": 3}},
        {"type": "event", "identity": "5", "evtName": "Bought"},
    )
    assert (await ct.record(identity="FB:fb1"))["profileData"] == {"n": 1}
    assert (await ct.record(identity="GP:fb1"))["profileData"] == {"n": 2}
    assert await ct.events(identity="5") == ["Bought"]


async def test_identity_and_object_id_together_attach(ct: Account) -> None:
    await ct.take(event(objectId="d1"))
    assert (await ct.devices(identity="bob"), await ct.events(objectId="d1")) == (["d1"], ["Bought"])


async def test_emails_are_identities_only_where_the_site_says_so(ct: Account) -> None:
    await ct.take({"type": "profile", "identity": "1", "profileData": {"Email": "x@x.io"}})
    await ct.take({"type": "profile", "identity": "2", "profileData": {"Email": "x@x.io"}})
    assert (await ct.names(identity="1"), await ct.names(identity="2")) == (["1"], ["2"])
    assert (await ct.record(email="X@x.io"))["identity"] == "2"  # the one who came last, by the property
    assert await ct.driver.errors() == []


async def test_tokens(ct: Account) -> None:
    keys = {"p256dh": "k", "auth": "a"}
    await ct.take(
        {"type": "token", "objectId": "__g1", "tokenData": {"id": "t1", "type": "fcm"}},
        {"type": "token", "objectId": "__g1", "tokenData": {"id": "t2", "type": "fcm", "keys": keys}},
        {"type": "token", "identity": "bob", "tokenData": {"id": "t3", "type": "chrome"}},
        {"type": "profile", "objectId": "__g1", "profileData": {"identity": "bob"}},
    )
    [device] = (await ct.record(identity="bob"))["platformInfo"]
    assert device == {"platform": "Android", "objectId": "__g1", "push_token": "t2"}


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$add", "$remove", "$set", "$incr", "$decr", "$delete"]) | st.text(), inner)
    ),
    max_leaves=6,
)
records = values | st.fixed_dictionaries(
    {"type": st.sampled_from(["profile", "event", "token"])},
    optional=dict.fromkeys(("identity", "FBID", "GPID", "objectId", "evtName", "evtData", "ts", "tokenData"), values)
    | {"profileData": values | st.dictionaries(st.sampled_from(["identity", "Email", "Phone", "Age", "tags"]), values)},
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_records=st.lists(records, max_size=5))
async def test_whatever_is_sent_is_taken_or_refused(tmp_path_factory: Any, given_records: list[Any]) -> None:
    async with account(tmp_path_factory.mktemp("ct"), identity_kinds=["email", "phone"]) as ct:
        try:
            content = json.dumps({"d": given_records}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            content = json.dumps({"d": given_records}).encode()
        response = await ct.call("POST", "upload", content=content)
        answer = response.json()
        if response.status_code == 200:
            assert answer["processed"] + len(answer["unprocessed"]) == len(given_records)
        else:
            assert (response.status_code, answer["status"]) == (400, "fail")


# --- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "nothing", 404),
        ("POST", "targets/create.json", 404),
        ("GET", "upload", 405),
        ("DELETE", "delete/profiles.json", 405),
        ("POST", "profile.json", 405),
        ("GET", "counts/profiles.json?req_id=1", 400),
    ],
)
async def test_what_is_not_there(ct: Account, method: str, path: str, status: int) -> None:
    response = await ct.call(method, path)
    assert (response.status_code, response.json()["status"], response.json()["code"]) == (status, "fail", status)
