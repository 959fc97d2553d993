"""CleverTap's calls that read, take apart and delete: pages, cursors, filters, counts and people."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.dialects.clevertap_account import Account, Json, account


@pytest.fixture
async def ct(database: str) -> AsyncIterator[Account]:
    async with account(database) as made:
        yield made


def profile(**data: Any) -> Json:
    return {"type": "profile", "identity": "bob", "profileData": data}


def event(**more: Any) -> Json:
    return {"type": "event", "identity": "bob", "evtName": "Bought", "evtData": {}, **more}


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


async def test_days_and_times_are_the_projects_own(database: str) -> None:
    async with account(database, time_zone="Asia/Kolkata") as ct:
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


async def test_debug_events_can_be_asked_for_and_never_uploaded(database: str) -> None:
    async with account(database, identity_kinds=["email"]) as ct:
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
    assert undone.json().get("outcome") == "undone", undone.text
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
