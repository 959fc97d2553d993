"""CleverTap's own Node client against a running gateway, changed in nothing but the base URL."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.programs import required
from tests.server import GatewayServer, Site

CLIENTS = Path(__file__).parent / "clients"
Json = dict[str, Any]
SUCCESS = {"status": "success"}


def run(server: GatewayServer, site: Site, *steps: list[Any], passcode: str = "") -> list[Any]:
    """The client's answers to calls made one after the other."""
    asked = {
        "endpoint": f"{server.url}/1",
        "account": site["api_key"],
        "passcode": passcode or site["secret_key"],
        "steps": steps,
    }
    command = [required("node"), CLIENTS / "clevertap.mjs"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


@pytest.fixture
def site(gateway_server: GatewayServer) -> Site:
    made = gateway_server.site()
    gateway_server.command("site", "set", made["site"], "--identity-kind", "email", "--identity-kind", "phone")
    return made


def jack() -> list[Json]:
    return [
        {"type": "event", "objectId": "obj1", "evtName": "Viewed", "evtData": {"x": 1}},
        {"type": "profile", "objectId": "obj1", "profileData": {"Name": "Jack", "identity": "u1", "Email": "a@b.c"}},
        {"type": "event", "identity": "u1", "evtName": "Bought", "evtData": {"Amount": 12.5}, "ts": 1700000000},
        {"type": "profile", "FBID": "fb1", "profileData": {"plan": "pro"}},
        {"type": "profile", "GPID": "gp1", "profileData": {}},
    ]


def test_upload_and_read_back(gateway_server: GatewayServer, site: Site) -> None:
    uploaded, by_email, by_identity, by_object = run(
        gateway_server,
        site,
        ["upload", jack()],
        ["profile", {"email": "a@b.c"}],
        ["profile", {"identity": "u1"}],
        ["profile", {"objectId": "obj1"}],
    )
    assert uploaded == {"status": "success", "processed": 5, "unprocessed": []}
    assert by_email == by_identity == by_object
    record = by_email["record"]
    assert (record["identity"], record["email"], record["name"]) == ("u1", "a@b.c", "Jack")
    assert record["events"]["Bought"] == {"count": 1, "first_seen": 1700000000, "last_seen": 1700000000}
    assert record["events"]["Viewed"]["count"] == 1
    assert record["platformInfo"] == [{"platform": "Web", "objectId": "obj1"}]


def test_more_than_one_batch_of_a_hundred(gateway_server: GatewayServer, site: Site) -> None:
    records: list[Json] = [{"type": "profile", "identity": f"u{n}", "profileData": {"n": n}} for n in range(250)]
    records[7]["profileData"]["Email"] = "nonsense"
    [answers, found] = run(gateway_server, site, ["upload", records], ["profile", {"identity": "u249"}])
    assert [a["processed"] for a in answers] == [99, 100, 50]
    assert answers[0]["status"] == "partial"
    text = "Profile data is incorrect. Email is not valid.Skipped record number : 8"
    assert answers[0]["unprocessed"] == [{"status": "fail", "code": 515, "error": text, "record": records[7]}]
    assert found["record"]["profileData"] == {"n": 249}


def test_queries_page_by_page(gateway_server: GatewayServer, site: Site) -> None:
    records = [
        {"type": "event", "identity": f"u{n}", "evtName": "App Opened", "evtData": {"n": n}, "ts": 1513987200 + n}
        for n in range(7)
    ]
    query = {"event_name": "App Opened", "from": 20171201, "to": 20171225}
    _, profiles, events, none, count, events_count = run(
        gateway_server,
        site,
        ["upload", records],
        ["profiles", query, {"batchSize": 3}],
        ["events", query, {"batchSize": 3}],
        ["profiles", query | {"from": 20180101, "to": 20180102}],
        ["getProfilesCount", query],
        ["getEventsCount", query],
    )
    assert [p["identity"] for p in profiles] == [f"u{n}" for n in range(7)]
    assert [e["event_props"]["n"] for e in events] == list(range(7))
    assert events[0]["ts"] == 20171223000000
    assert none == []
    assert count == events_count == {"status": "success", "count": 7}


def test_demerge_delete_disassociate_and_subscribe(gateway_server: GatewayServer, site: Site) -> None:
    phone = "+919213231415"
    devices = ("d1", "d2")
    two: list[Json] = [{"type": "event", "objectId": d, "evtName": d, "evtData": {}} for d in devices]
    two += [{"type": "profile", "objectId": d, "profileData": {"identity": "u1", "Phone": phone}} for d in devices]
    _, gone, wish, phoneless, apart, first, again, deleted, nobody = run(
        gateway_server,
        site,
        ["upload", two],
        ["disassociate", {"d": [{"type": "phone", "value": phone}]}],
        ["subscribe", {"d": [{"type": "email", "value": "a@b.c", "status": "Unsubscribe"}]}],
        ["profile", {"identity": "u1"}],
        ["demerge", {"identities": ["u1", "u2"]}],
        ["profile", {"objectId": "d1"}],
        ["upload", two[2:]],
        ["delete", {"identity": ["u1"]}],
        ["profile", {"identity": "u1"}],
    )
    assert gone == wish == {"status": "success", "processed": 1, "unprocessed": []}
    assert phoneless["record"]["all_identities"] == ["u1"]
    assert (apart["status"], [r["outcome"] for r in apart["results"]]) == ("success", ["demerged", "not_found"])
    assert (first["record"]["all_identities"], first["record"]["events"]["d1"]["count"]) == ([], 1)
    assert again["processed"] == 2
    assert deleted["status"] == "success"
    assert nobody == {"status": "fail", "error": "Profile not found", "code": 404}


def test_tokens_and_what_is_not_offered(gateway_server: GatewayServer, site: Site) -> None:
    token = {"type": "token", "tokenData": {"id": "t1", "type": "apns"}, "objectId": "-g1"}
    uploaded, found, now, top, trend, report, targets = run(
        gateway_server,
        site,
        ["uploadDeviceTokens", [token, {"type": "event", "objectId": "-g1", "evtName": "Seen", "evtData": {"c": "x"}}]],
        ["profile", {"objectId": "-g1"}],
        ["realTimeCounts", {"user_type": False}],
        ["topPropertyCounts", {"event_name": "Seen", "groups": {"a": {"name": "c"}}}],
        ["trends", {"event_name": "Seen", "groups": {"a": {"trend_type": "daily"}}}],
        ["getMessageReports", {"from": 20171101, "to": 20171225}],
        ["targets", "list", {"from": 20160101, "to": 20160131}],
    )
    assert uploaded["processed"] == 2
    assert found["record"]["platformInfo"] == [{"platform": "iOS", "objectId": "-g1", "push_token": "t1"}]
    assert now == {"status": "success", "count": 1}
    assert top["a"] == {"STR": {"x": 1}}
    assert list(trend["a"].values()) == [1]
    assert report["code"] == targets["code"] == 404


def test_wrong_keys(gateway_server: GatewayServer, site: Site) -> None:
    [wrong_passcode] = run(gateway_server, site, ["upload", jack()], passcode="wrong")
    assert wrong_passcode == {"status": "fail", "error": "Invalid Credentials", "code": 401}
    [wrong_account] = run(gateway_server, {**site, "api_key": "0" * 40}, ["upload", jack()])
    assert wrong_account == {"status": "fail", "error": "Account ID is not valid", "code": 401}
    [nothing_kept] = run(gateway_server, site, ["profile", {"identity": "u1"}])
    assert nothing_kept["error"] == "Profile not found"
