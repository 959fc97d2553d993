"""CleverTap's calls on the wire: shapes, codes and texts, limits, and what bad input gets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    store = ct.driver.gateway.store
    begun: list[int] = []
    begin = store.transaction
    monkeypatch.setattr(store, "transaction", lambda: (begun.append(1), begin())[1])
    await ct.take(*({"type": "profile", "identity": f"u{n}", "profileData": {"n": n}} for n in range(1000)))
    assert len(begun) <= 3
    assert (await ct.record(identity="u999"))["profileData"] == {"n": 999}


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


# --- one profile ------------------------------------------------------------------------------------------------------


async def test_a_value_that_was_not_encoded(ct: Account) -> None:
    await ct.take({"type": "profile", "identity": "a+b@x.io", "profileData": {"Email": "a+b@x.io"}})
    for question in ("email=a+b@x.io", "identity=a+b@x.io", "identity=" + quote("a+b@x.io", safe="")):
        response = await ct.call("GET", f"profile.json?{question}")
        assert response.json()["record"]["identity"] == "a+b@x.io"


@pytest.mark.parametrize("question", ["", "?identity=", "?identity=a&email=b", "?phone=+49", "?identity=%00"])
async def test_a_question_that_names_nobody(ct: Account, question: str) -> None:
    response = await ct.call("GET", f"profile.json{question}")
    assert (response.status_code, response.json()["status"]) == (400, "fail")


async def test_an_undone_merge_is_seen_at_once(ct: Account) -> None:
    await ct.take(event(), {"type": "event", "identity": "eve", "evtName": "Sold"})
    merged = await ct.driver.api("POST", "/v1/merges", {"target": "bob", "source": "eve"})
    assert await ct.events(identity="eve") == ["Bought", "Sold"]
    assert (await ct.debug(identity="eve"))["Identity Set"] == 3
    await ct.driver.api("POST", f"/v1/operations/{merged.json()['op_id']}/undo")
    assert await ct.events(identity="eve") == ["Sold"]
    assert (await ct.debug(identity="eve"))["Identity Set"] == 1


# --- queries ----------------------------------------------------------------------------------------------------------


async def seven(ct: Account) -> None:
    await ct.take(*(event(identity=f"u{n}", evtData={"n": n, "odd": str(n % 2)}, ts=1700000000 + n) for n in range(7)))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
@pytest.mark.parametrize("path", ["profiles.json", "events.json"])
async def test_pages_hold_everything_once(ct: Account, path: str, size: int) -> None:
    await seven(ct)
    pages = await ct.pages(path, {"event_name": "Bought", "from": 20231101, "to": 20231130}, size)
    found = [r if path == "profiles.json" else r["profile"] for page in pages for r in page]
    assert [r["identity"] for r in found] == [f"u{n}" for n in range(7)]
    assert all(len(p) <= size for p in pages)


async def test_cursors_survive_every_way_of_sending_them(ct: Account) -> None:
    await seven(ct)
    query = {"event_name": "Bought", "event_properties": [{"name": "n", "operator": "less_than", "value": 5}], "é?/": 1}
    by_get = (await ct.call("GET", "events.json", params={"batch_size": "2", "query": json.dumps(query)})).json()
    assert by_get == await ct.post("events.json?batch_size=2", query)
    cursor = by_get["cursor"]
    assert quote(cursor, safe="") == cursor
    pages = [
        await ct.call("GET", f"events.json?cursor={cursor}"),
        await ct.call("POST", f"events.json?cursor={quote(cursor, safe='')}"),
        await ct.call("POST", "events.json", json={"cursor": cursor}),
        await ct.call("GET", f"events.json?cursor={cursor}=="),
    ]
    assert len({p.text for p in pages}) == 1
    assert [r["event_props"]["n"] for r in pages[0].json()["records"]] == [0, 1]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "ü", "W10", "WyJwcm9maWxlcyIsMSwwLHt9XQ", "A" * 20_000])
async def test_a_cursor_that_is_none_of_ours(ct: Account, cursor: str) -> None:
    response = await ct.call("GET", "events.json", params={"cursor": cursor})
    assert (response.status_code, response.json()["status"]) == (400, "fail")


async def test_days_and_times_are_the_projects_own(tmp_path: Path) -> None:
    async with account(tmp_path, time_zone="Asia/Kolkata") as ct:
        await ct.take(event(ts=1700000000))  # 22:13:20 UTC on the 14th, 03:43:20 on the 15th in India
        [[found]] = await ct.pages("events.json", {"event_name": "Bought", "from": 20231115, "to": 20231115})
        assert found["ts"] == 20231115034320
        assert await ct.pages("events.json", {"event_name": "Bought", "from": 20231114, "to": 20231114}) == [[]]


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("equals", 3, [3]),
        ("equals", "3", [3]),
        ("equals", [1, 2], [1, 2]),
        ("not_equals", 3, [0, 1, 2, 4, 5, 6]),
        ("greater_than", 4, [5, 6]),
        ("less_than", 1, [0]),
        ("between", [2, 4], [2, 3, 4]),
        ("contains", "5", [5]),
        ("does_not_contain", "5", [0, 1, 2, 3, 4, 6]),
        ("exists", "-1", list(range(7))),
        ("not_exists", "-1", []),
    ],
)
async def test_filters(ct: Account, operator: str, value: Any, expected: list[int]) -> None:
    await seven(ct)
    query = {"event_name": "Bought", "event_properties": [{"name": "n", "operator": operator, "value": value}]}
    assert [r["event_props"]["n"] for page in await ct.pages("events.json", query) for r in page] == expected
    people = [p["identity"] for page in await ct.pages("profiles.json", query, 2) for p in page]
    assert people == [f"u{n}" for n in expected]
    for path in ("counts/profiles.json", "counts/events.json"):
        assert await ct.post(path, query) == {"status": "success", "count": len(expected)}


async def test_profiles_by_what_they_are(ct: Account) -> None:
    await ct.take(*({"type": "profile", "identity": f"u{n}", "profileData": {"plan": n % 2}} for n in range(5)))
    query = {
        "event_name": "-1",
        "common_profile_properties": {"profile_fields": [{"name": "plan", "operator": "equals", "value": 1}]},
    }
    pages = await ct.pages("profiles.json", query, 1)
    assert [p["identity"] for page in pages for p in page] == ["u1", "u3"]
    assert await ct.post("counts/profiles.json", query) == {"status": "success", "count": 2}


async def test_debug_events_can_be_asked_for_and_never_uploaded(tmp_path: Path) -> None:
    async with account(tmp_path, identity_kinds=["email"]) as ct:
        await ct.attach("d1", "bob", Email="b@x.io")
        await ct.attach("d2", "eve", Email="b@x.io")
        [[refused]] = await ct.pages("events.json", {"event_name": "Identity Error"})
        assert (refused["profile"]["identity"], refused["profile"]["objectId"]) == ("eve", "d2")
        assert refused["event_props"]["identity"] == ["eve", "b@x.io"]
        assert refused["event_props"]["code"] == "needs_proof"
        bad = {"profile_fields": [{"name": "bad_identities", "operator": "exists", "value": "-1"}]}
        audit = {"event_name": "-1", "common_profile_properties": bad}
        [[eve]] = await ct.pages("profiles.json", audit)
        assert (eve["identity"], eve["bad_identities"]) == ("eve", ["b@x.io"])
        said = [
            r["event_props"]["identity"] for r in (await ct.pages("events.json", {"event_name": "Identity Set"}))[0]
        ]
        assert said == [["bob"], ["bob", "b@x.io"], ["eve"]]
        await ct.post("demerge/profiles.json", {"identities": ["bob"]})
        [[reset, *_]] = await ct.pages("events.json", {"event_name": "Identity Reset"})
        assert reset["event_props"]["action"] == "Reset"


@pytest.mark.parametrize(
    "query",
    [
        [],
        "x",
        {},
        {"event_name": 5},
        {"event_name": "E", "from": 20231301},
        {"event_name": "E", "from": "today"},
        {"event_name": "E", "from": 20231201, "to": 20231101},
        {"event_name": "E", "from": 99991231, "to": 99991231},
        {"event_name": "E", "event_properties": [{"name": "n", "operator": "is"}]},
        {"event_name": "E", "event_properties": ["n"]},
        {"event_name": "E", "event_properties": [{"name": "n", "operator": "between", "value": 1}]},
        {"event_name": "NUL \0"},
    ],
)
async def test_a_query_that_asks_for_nothing(ct: Account, query: Any) -> None:
    response = await ct.call("POST", "events.json", json=query)
    assert (response.status_code, response.json()["status"]) == (400, "fail")
    assert (await ct.call("GET", "events.json", params={"query": json.dumps(query)})).status_code == 400


async def test_top_and_trends(ct: Account) -> None:
    await seven(ct)
    groups = {"odd": {"property_type": "event_properties", "name": "odd", "top_n": 1, "order": "desc"}}
    assert (await ct.post("counts/top.json", {"event_name": "Bought", "groups": groups}))["odd"] == {"STR": {"0": 4}}
    groups = {"days": {"trend_type": "daily"}, "people": {"trend_type": "monthly", "unique": True}}
    answer = await ct.post("counts/trends.json", {"event_name": "Bought", "groups": groups})
    assert (answer["days"], answer["people"]) == ({"20231114": 7}, {"202311": 7})
    assert await ct.post("now.json", {}) == {"status": "success", "count": 0}


# --- people -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {"identities": []}, {"identities": [["bob"]]}, {"identities": {}}, {"identities": ["bob"] * 101}],
)
async def test_a_demerge_of_nothing_that_can_be_taken_apart(ct: Account, body: Any) -> None:
    await ct.take(event())
    response = await ct.call("POST", "demerge/profiles.json", json=body)
    assert (response.status_code, response.json()["status"], response.json()["code"]) == (400, "fail", 400)
    assert await ct.names(identity="bob") == ["bob"]


async def test_demerge_says_what_happened_to_each(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.take(profile(identity="robert"))
    dry = await ct.post("demerge/profiles.json", {"identities": "bob", "dry_run": True})
    assert (dry["status"], dry["dry_run"], dry["results"][0]["outcome"]) == ("success", True, "demerged")
    assert await ct.names(identity="bob") == ["bob", "robert"]
    answer = await ct.post("demerge/profiles.json", {"identities": ["bob", "robert", "nobody", "null"]})
    outcomes = [(r["identity"], r["outcome"]) for r in answer["results"]]
    assert outcomes == [
        ("bob", "demerged"),
        ("robert", "demerged"),
        ("nobody", "not_found"),
        ("null", "not_found"),
    ]
    assert answer["results"][0]["op_id"] == answer["results"][1]["op_id"]
    undone = await ct.driver.api("POST", f"/v1/operations/{answer['results'][0]['op_id']}/undo")
    assert undone.json()["outcome"] == "undone"
    assert await ct.devices(identity="robert") == ["d1"]


@pytest.mark.parametrize(
    "body", [{}, [], {"identity": "bob", "guid": "d1"}, {"identity": []}, {"guid": [{}]}, {"identity": ["bob"] * 101}]
)
async def test_a_deletion_of_nobody_in_particular(ct: Account, body: Any) -> None:
    await ct.attach("d1", "bob")
    response = await ct.call("POST", "delete/profiles.json", json=body)
    assert (response.status_code, response.json()["status"]) == (400, "fail")
    assert await ct.names(identity="bob") == ["bob"]


async def test_deletions_by_guid_and_by_identity(ct: Account) -> None:
    await ct.attach("d1", "bob")
    await ct.attach("d2", "eve")
    assert (await ct.post("delete/profiles.json", {"guid": "d1"}))["status"] == "success"
    answer = await ct.post("delete/profiles.json", {"identity": ["eve", "nobody"]})
    assert [r["outcome"] for r in answer["results"]] == ["deleted", "not_found"]
    assert await ct.missing(identity="bob")
    assert await ct.missing(objectId="d2")


async def test_disassociate_refuses_record_by_record(ct: Account) -> None:
    await ct.take(profile(Phone="+491701234567"))
    records = [
        {"type": "phone", "value": "+491701234567"},
        {"type": "phone", "value": "+491709999999"},
        {"type": "email", "value": "x@x.io"},
        5,
    ]
    answer = await ct.post("disassociate", {"d": records})
    assert (answer["status"], answer["processed"], [u["code"] for u in answer["unprocessed"]]) == (
        "partial",
        1,
        [555] * 3,
    )
    assert "phone" not in await ct.record(identity="bob")


async def test_subscriptions(ct: Account) -> None:
    await ct.take(profile(Email="bob@x.io", Phone="+491701234567"))
    records = [
        {"type": "email", "value": "BOB@x.io", "status": "Unsubscribe"},
        {"type": "phone", "value": "+491701234567", "status": "Unsubscribe"},
        {"type": "whatsapp", "value": "+491701234567", "status": "Resubscribe"},
        {"type": "email", "value": "later@x.io", "status": "Unsubscribe"},
        {"type": "phone", "value": "+491709999999", "status": "Unsubscribe"},
        {"type": "email", "value": "bob@x.io", "status": "Perhaps"},
        {"type": "pigeon", "value": "bob@x.io", "status": "Unsubscribe"},
        {"type": "email", "value": "+491701234567", "status": "Unsubscribe"},
    ]
    answer = await ct.post("subscribe", {"d": records})
    assert (answer["processed"], [u["error"][-1] for u in answer["unprocessed"]]) == (4, ["5", "6", "7", "8"])
    shown = (await ct.record(identity="bob"))["profileData"]
    assert shown == {"MSG-email": False, "MSG-sms": False, "MSG-whatsapp": True}
    for who in ("u:bob", "u:later@x.io"):
        assert (await ct.driver.find(who) or {})["subscribed"] is False
    await ct.take(profile(**{"MSG-email": True}))
    assert (await ct.driver.find("u:bob") or {})["subscribed"] is True


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
