"""SuprSend's API as it travels: paths, signatures, keys, shapes of refusals, and what nobody should send."""

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from tests.dialects.sites import many
from tests.server import GatewayServer, Site, api_answer

Json = dict[str, Any]
JSON = "application/json; charset=utf-8"
NOBODY = {"code": 404, "message": "user [distinct_id: 'nobody'] not found"}


@pytest.fixture(scope="module")
def sites(gateway_server: GatewayServer) -> Iterator[Site]:
    return many(gateway_server)


@pytest.fixture
def site(sites: Iterator[Site]) -> Site:
    return next(sites)


@pytest.fixture
def api(gateway_server: GatewayServer, site: Site) -> httpx.Client:
    """A server with the secret key as Bearer token."""
    return gateway_server.api(site)


def signed(
    site: Site, method: str, path: str, body: bytes = b"", *, date: str = "", content_type: str = JSON, md5: str = ""
) -> dict[str, str]:
    """The headers of a request signed as the SDKs do it."""
    date = date or formatdate(usegmt=True)
    md5 = md5 or (hashlib.md5(body).hexdigest() if body else "")
    text = "\n".join([method, md5, content_type, date, path])
    digest = hmac.digest(site["secret_key"].encode(), text.encode(), "sha256")
    signature = base64.b64encode(digest).decode()
    return {"Date": date, "Content-Type": content_type, "Authorization": f"{site['api_key']}:{signature}"}


def is_refusal(response: httpx.Response, status: int) -> str:
    """Checks the shapes of a refusal that SDKs old and new read; returns its message."""
    assert response.status_code == status, response.text
    body = response.json()
    assert (body["code"], body["status"], body["records"]) == (status, "error", [])
    assert body["message"] == body["error"]["message"]
    assert body["detail"].startswith(body["message"])
    assert "hint" not in body
    return str(body["message"])


# --- who is calling ---------------------------------------------------------------------------------------------------


def test_a_signed_request_over_the_bytes_and_path_as_sent(gateway_server: GatewayServer, site: Site) -> None:
    for path, body in [
        ("/v1/user/a%2Fb%20%C3%A9@x/?tenant_id=t1", '{"name":  "Ål"}'.encode()),
        ("/v1/user/a%2fb%20%c3%a9%40x/", b'{ "name" : "\\u00c5l" }'),
    ]:
        response = httpx.post(gateway_server.url + path, content=body, headers=signed(site, "POST", path, body))
        assert response.status_code == 201, response.text
        assert (response.json()["distinct_id"], response.json()["properties"]) == ("a/b é@x", {"name": "Ål"})
    path = "/v1/user/a%2Fb%20%C3%A9@x/"
    assert httpx.get(gateway_server.url + path, headers=signed(site, "GET", path)).status_code == 200


@pytest.mark.parametrize("change", ["body", "path", "query", "method", "type", "date", "secret", "signature", "key"])
def test_a_signature_covers_everything(gateway_server: GatewayServer, site: Site, change: str) -> None:
    path, body, method = "/v1/user/alice/?a=1", b'{"name":"Alice"}', "POST"
    headers = signed(site | ({"secret_key": "other"} if change == "secret" else {}), method, path, body)
    key, _, signature = headers["Authorization"].partition(":")
    if change == "body":
        body = b'{"name": "Alice"}'
    elif change in ("path", "query"):
        path = path.replace("alice", "bob") if change == "path" else path + "&b=2"
    elif change == "method":
        method = "PATCH"
    elif change == "type":
        headers["Content-Type"] = "application/json"
    elif change == "date":
        headers["Date"] = formatdate(time.time() + 1, usegmt=True)
    elif change == "signature":
        headers["Authorization"] = f"{key}:{signature[:-4]}AAA="
    elif change == "key":
        headers["Authorization"] = f"{gateway_server.site()['api_key']}:{signature}"
    is_refusal(httpx.request(method, gateway_server.url + path, content=body, headers=headers), 401)


@pytest.mark.parametrize(
    ("date", "status"),
    [(0, 404), (-14 * 60, 404), (14 * 60, 404), (-16 * 60, 401), (16 * 60, 401), ("yesterday", 401), ("", 401)],
)
def test_a_signature_holds_for_a_quarter_of_an_hour(
    gateway_server: GatewayServer, site: Site, date: int | str, status: int
) -> None:
    text = formatdate(time.time() + date, usegmt=True) if isinstance(date, int) else date or "-"
    headers = signed(site, "GET", "/v1/user/nobody/", date=text)
    is_refusal(httpx.get(f"{gateway_server.url}/v1/user/nobody/", headers=headers), status)


def test_an_older_key_still_signs_until_it_is_withdrawn(gateway_server: GatewayServer) -> None:
    site = gateway_server.site("rotating")
    gateway_server.command("site", "rotate-key", "rotating", "--json")
    gateway_server.wait_for(
        lambda: (
            httpx.get(
                f"{gateway_server.url}/v1/user/nobody/", headers=signed(site, "GET", "/v1/user/nobody/")
            ).status_code
            == 404
        )
    )


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer nope", "nope", ":", "a:b", "Basic x", "Bearer \xe9", "é:é"]
)
def test_wrong_keys(gateway_server: GatewayServer, authorization: str) -> None:
    headers = [(b"Authorization", authorization.encode("latin-1"))] if authorization else []
    for method, path in [
        ("GET", "/v1/user/"),
        ("POST", "/v2/event/"),
        ("POST", "/v2/bulk/event/"),
        ("POST", "/event/"),
    ]:
        is_refusal(httpx.request(method, gateway_server.url + path, headers=headers), 401)


def test_a_secret_key_never_comes_from_a_browser(gateway_server: GatewayServer, site: Site) -> None:
    browser = {"Origin": "https://www.shop.example"}
    bearer = {"Authorization": f"Bearer {site['secret_key']}"}
    for headers in (bearer, signed(site, "GET", "/v1/user/alice/")):
        response = httpx.get(f"{gateway_server.url}/v1/user/alice/", headers=headers | browser)
        assert "leaked" in is_refusal(response, 403)


def test_one_sites_users_are_not_anothers(gateway_server: GatewayServer, api: httpx.Client) -> None:
    api.post("/v1/user/alice/", json={})
    assert gateway_server.api(gateway_server.site()).get("/v1/user/alice/").status_code == 404


# --- a page with the public key ---------------------------------------------------------------------------------------


def test_the_public_key_only_sends_events(gateway_server: GatewayServer, site: Site, api: httpx.Client) -> None:
    api.post("/v1/user/alice/", json={"name": "Alice"})
    for key in (site["api_key"], f"Bearer {site['api_key']}"):
        page = httpx.Client(base_url=gateway_server.url, headers={"Authorization": key})
        for method, path in [
            ("GET", "/v1/user/"),
            ("GET", "/v1/user/alice/"),
            ("POST", "/v1/user/alice/"),
            ("PATCH", "/v1/user/alice/"),
            ("DELETE", "/v1/user/alice/"),
            ("DELETE", "/v1/bulk/user/"),
            ("POST", "/v1/user/alice/merge/"),
        ]:
            is_refusal(page.request(method, path, json={"from_user_id": "bob", "distinct_ids": ["alice"]}), 403)
        page.close()
    assert api.get("/v1/user/alice/").json()["properties"] == {"name": "Alice"}


def test_a_page_of_the_web_sdk(gateway_server: GatewayServer, site: Site, api: httpx.Client) -> None:
    page = {"Authorization": site["api_key"], "Origin": "https://www.shop.example"}
    preflight = httpx.options(f"{gateway_server.url}/v2/event", headers=page)
    assert preflight.status_code == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    records = [
        {"event": "$identify", "properties": {"$identified_id": "alice"}},
        {"event": "Viewed", "distinct_id": "alice", "properties": {"page": "/"}},
        {"distinct_id": "alice", "$set": {"name": "Alice"}},
        {"distinct_id": "alice", "$append": {"$email": "alice@shop.example"}},
    ]
    for n, record in enumerate(records):
        record |= {"$insert_id": f"0b5e4c5a-2d6f-4d7e-9d3c-00000000000{n}", "$time": int(time.time() * 1000)}
        response = httpx.post(f"{gateway_server.url}/v2/event", headers=page, json=record)
        assert response.status_code == 202, response.text
        assert response.headers["access-control-allow-origin"] == "https://www.shop.example"
    user = api.get("/v1/user/alice/").json()
    assert (user["properties"], user["$email"][0]["value"]) == ({"name": "Alice"}, "alice@shop.example")


def test_a_page_brings_nobody_along(gateway_server: GatewayServer, site: Site, api: httpx.Client) -> None:
    for name in ("alice", "mallory"):
        api.post(f"/v1/user/{name}/", json={"name": name})
    identify = {"event": "$identify", "properties": {"$identified_id": "mallory", "$anon_id": "alice"}}
    response = httpx.post(f"{gateway_server.url}/v2/event", headers={"Authorization": site["api_key"]}, json=identify)
    assert response.status_code == 202
    assert api.get("/v1/user/alice/").json()["properties"] == {"name": "alice"}
    assert [h["identities"][1]["value"] for h in api_answer(api.get("/v1/held"))["held"]] == ["alice"]


def test_a_page_that_guesses_ids_keeps_no_servers_message_out(
    gateway_server: GatewayServer, site: Site, api: httpx.Client
) -> None:
    event = {"event": "Bought", "distinct_id": "alice"}
    for ids in ({"$insert_id": "order-1"}, {"$idempotency_key": "order-2"}):
        for _ in range(2):
            page = httpx.post(
                f"{gateway_server.url}/v2/event", headers={"Authorization": site["api_key"]}, json=event | ids
            )
            assert page.status_code == api.post("/v2/event/", json=event | ids).status_code == 202
    assert api_answer(api.get("/v1/profiles", params={"identity": "alice"}))["events"] == 4


def test_only_the_sites_own_pages(gateway_server: GatewayServer) -> None:
    site = gateway_server.site(origin="https://www.shop.example")
    page = {"Authorization": site["api_key"], "Origin": "https://evil.example"}
    event = {"event": "Viewed", "distinct_id": "alice"}
    is_refusal(httpx.post(f"{gateway_server.url}/v2/event", headers=page, json=event), 403)
    page["Origin"] = "https://www.shop.example"
    assert httpx.post(f"{gateway_server.url}/v2/event", headers=page, json=event).status_code == 202


# --- paths and methods ------------------------------------------------------------------------------------------------


def test_paths_with_and_without_the_last_slash(api: httpx.Client) -> None:
    assert api.post("/v1/user/alice", json={}).status_code == 201
    assert api.get("/v1/user/alice").json() == api.get("/v1/user/alice/").json()
    assert api.get("/v1/user").json()["meta"]["count"] == 1
    assert api.request("DELETE", "/v1/bulk/user", json={"distinct_ids": ["alice"]}).status_code == 204


@pytest.mark.parametrize("path", ["%FF", "%C3%28", "null", "%7B%7Buser.id%7D%7D", "a%00b", "0", "%20", "x" * 256])
def test_ids_that_name_nobody(api: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "PATCH", "DELETE"):
        is_refusal(api.request(method, f"/v1/user/{path}/", json={}), 400)
    is_refusal(api.post(f"/v1/user/{path}/merge/", json={"from_user_id": "bob"}), 400)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/user/alice/", "POST, GET, PATCH, DELETE"),
        ("POST", "/v1/user/", "GET"),
        ("GET", "/v1/user/alice/merge/", "POST"),
        ("POST", "/v1/bulk/user/", "DELETE"),
        ("GET", "/v2/event/", "POST"),
        ("DELETE", "/event/", "POST"),
    ],
)
def test_wrong_methods(api: httpx.Client, method: str, path: str, allowed: str) -> None:
    response = api.request(method, path)
    is_refusal(response, 405)
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("rest", ["preference/", "tenant/t1/", "subscribed_to/list/", "subscribed_to/object/", "x/y/z"])
def test_what_this_gateway_does_not_have(api: httpx.Client, rest: str) -> None:
    api.post("/v1/user/alice/", json={})
    assert "README" in api.get(f"/v1/user/alice/{rest}").json()["detail"]
    is_refusal(api.get(f"/v1/user/alice/{rest}"), 404)


# --- documented shapes ------------------------------------------------------------------------------------------------


def test_a_user_object_has_exactly_the_documented_fields(api: httpx.Client) -> None:
    user = {
        "$email": ["alice@shop.example"],
        "$sms": ["+491701234567"],
        "$whatsapp": ["+491701234567"],
        "$inbox": ["4nlPk4XXLcDxxxHQ70xx2Cx24"],
        "$webpush": [{"endpoint": "https://push.example/1", "keys": {"auth": "t"}}],
        "$androidpush": ["android-token"],
        "$iospush": ["ios-token"],
        "$slack": [{"user_id": "U01", "access_token": "xoxb-1"}],
        "$ms_teams": [{"user_id": "t1", "tenant_id": "t2", "service_url": "https://teams.example"}],
        "$timezone": "America/New_York",
        "$locale": "en_GB",
        "custom": "v",
    }
    made = api.post("/v1/user/alice/", json=user)
    assert made.status_code == 201
    shown = made.json()
    channels = {k: v for k, v in user.items() if isinstance(v, list)}
    assert shown.keys() == {"distinct_id", "properties", "created_at", "updated_at", *channels}
    assert shown["properties"] == {k: v for k, v in user.items() if k not in channels}
    for channel, sent in channels.items():
        assert shown[channel] == [{"value": sent[0], "status": "active", "perma_status": "active"}]
    edited = api.patch("/v1/user/alice/", json={"operations": [{"$unset": [*channels, "custom", "$locale"]}]})
    assert edited.status_code == 202
    assert edited.json().keys() == {"distinct_id", "properties", "created_at", "updated_at"}
    assert edited.json()["properties"] == {"$timezone": "America/New_York"}


def test_exact_not_found_bodies(api: httpx.Client) -> None:
    api.post("/v1/user/alice/", json={})
    operations = {"operations": [{"$set": {"a": 1}}]}
    for response in (
        api.get("/v1/user/nobody/"),
        api.delete("/v1/user/nobody/"),
        api.patch("/v1/user/nobody/", json=operations),
        api.post("/v1/user/nobody/merge/", json={"from_user_id": "alice"}),
    ):
        is_refusal(response, 404)
        assert response.json().items() >= NOBODY.items()
    response = api.post("/v1/user/alice/merge/", json={"from_user_id": "nobody"})
    assert is_refusal(response, 404) == "from_user_id: [distinct_id: 'nobody'] not found"


def test_deletes_have_no_body(api: httpx.Client) -> None:
    api.post("/v1/user/alice/", json={})
    response = api.delete("/v1/user/alice/")
    assert (response.status_code, response.content) == (204, b"")


def test_an_entry_that_bounced_stays_so_through_a_merge(api: httpx.Client) -> None:
    bounced = {"value": "a@shop.example", "status": "inactive", "perma_status": "disabled"}
    api.post("/v1/user/visitor-1/", json={"$email": [bounced]})
    api.post("/v1/user/alice/", json={"$email": ["A@shop.example", "b@shop.example"]})
    merged = api.post("/v1/user/alice/merge/", json={"from_user_id": "visitor-1"}).json()
    active = {"value": "b@shop.example", "status": "active", "perma_status": "active"}
    assert merged["$email"] == [bounced, active]
    api.patch("/v1/user/alice/", json={"operations": [{"$remove": {"$email": bounced}}]})
    again = api.patch("/v1/user/alice/", json={"operations": [{"$append": {"$email": ["a@shop.example"]}}]}).json()
    assert [(e["value"], e["perma_status"]) for e in again["$email"]] == [
        ("a@shop.example", "active"), ("b@shop.example", "active")
    ]  # fmt: skip


def test_an_exported_user_sent_to_another_site_is_the_same_user(
    gateway_server: GatewayServer, api: httpx.Client, sites: Iterator[Site]
) -> None:
    bounced = {"value": "a@shop.example", "status": "inactive", "perma_status": "disabled"}
    android = {"value": "token", "id_provider": "fcm", "status": "active", "perma_status": "active"}
    slack = {"email": "a@shop.example", "access_token": "x"}
    sent = {"$email": [bounced, "b@shop.example"], "$androidpush": [android], "$slack": [slack], "name": "Alice"}
    exported = api.post("/v1/user/alice/", json=sent).json()
    lists = {name: value for name, value in exported.items() if name.startswith("$")}
    there = gateway_server.api(next(sites))
    imported = there.post("/v1/user/alice/", json=lists | exported["properties"]).json()
    times = ("created_at", "updated_at")
    assert {k: v for k, v in imported.items() if k not in times} == {
        k: v for k, v in exported.items() if k not in times
    }


def test_the_answers_of_the_event_calls(api: httpx.Client) -> None:
    event = {"$insert_id": "0b5e4c5a-2d6f-4d7e-9d3c-000000000001", "event": "Viewed", "distinct_id": "alice"}
    old = api.post("/event/", json=event)
    assert (old.status_code, old.text) == (202, "OK")
    new = api.post("/v2/event/", json=event)
    assert (new.status_code, new.json()) == (202, {"status": "success", "message_id": event["$insert_id"]})
    bulk = api.post("/v2/bulk/event/", json=[event, event | {"event": "x"}])
    assert bulk.status_code == 207
    assert bulk.json()["records"] == [
        {"status": "success", "status_code": 202, "message_id": event["$insert_id"]},
        {
            "status": "error",
            "status_code": 400,
            "error": {"message": "an event name has 2 to 128 characters", "type": "ValidationError"},
        },
    ]
    assert api_answer(api.get("/v1/profiles", params={"identity": "alice"}))["events"] == 1


# --- repeats, order, concurrency --------------------------------------------------------------------------------------


def test_a_repeated_edit_counts_once(api: httpx.Client) -> None:
    edit = {
        "$schema": "2",
        "$insert_id": "0b5e4c5a-2d6f-4d7e-9d3c-000000000002",
        "distinct_id": "alice",
        "$user_operations": [{"$add": {"logins": 1}}, {"$add": {"logins": 1}}],
    }
    for _ in range(3):
        assert api.post("/event/", json=edit).status_code == 202
    api.post("/event/", json=[edit, edit])
    assert api.get("/v1/user/alice/").json()["properties"] == {"logins": 2}


def test_operations_work_in_order(api: httpx.Client) -> None:
    api.post("/v1/user/alice/", json={"n": 10, "$email": ["a@shop.example"]})
    operations = [
        {"$add": {"n": 1}},
        {"$set": {"n": 5}},
        {"$increment": {"n": "2"}},
        {"$unset": ["m"]},
        {"$set_once": {"m": 1}},
        {"$unset": ["$email"]},
        {"$append": {"$email": "b@shop.example"}},
        {"$append": {"list": ["x", "y", "x"]}, "$remove": {"list": "y"}},
    ]
    user = api.patch("/v1/user/alice/", json={"operations": operations}).json()
    assert user["properties"] == {"list": ["x"], "m": 1, "n": 7}
    assert [e["value"] for e in user["$email"]] == ["b@shop.example"]


def test_a_channel_appended_and_unset_in_one_bulk_is_gone(api: httpx.Client) -> None:
    edits = [
        {"distinct_id": "alice", "$user_operations": [{"$append": {"$email": "a@shop.example"}}]},
        {"distinct_id": "alice", "$user_operations": [{"$unset": ["$email"]}]},
    ]
    assert api.post("/event/", json=edits).status_code == 202
    assert "$email" not in api.get("/v1/user/alice/").json()


def test_no_increment_is_lost_among_many(gateway_server: GatewayServer, site: Site, api: httpx.Client) -> None:
    api.post("/v1/user/alice/", json={})

    def work() -> None:
        with httpx.Client(base_url=gateway_server.url, headers=api.headers, timeout=30) as client:
            for _ in range(10):
                client.patch("/v1/user/alice/", json={"operations": [{"$add": {"n": 1}}]}).raise_for_status()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert api.get("/v1/user/alice/").json()["properties"] == {"n": 80}


def test_of_merges_at_once_one_counts(gateway_server: GatewayServer, site: Site, api: httpx.Client) -> None:
    api.post("/v1/user/alice/", json={})
    api.post("/v1/user/bob/", json={})
    statuses: list[int] = []

    def work(primary: str, secondary: str) -> None:
        with httpx.Client(base_url=gateway_server.url, headers=api.headers, timeout=30) as client:
            body = {"from_user_id": secondary}
            statuses.append(client.post(f"/v1/user/{primary}/merge/", json=body).status_code)

    pairs = [("alice", "bob"), ("bob", "alice")] * 4
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [404] * 7
    assert api.get("/v1/user/").json()["meta"]["count"] == 1


# --- what nobody should send ------------------------------------------------------------------------------------------

BAD_USERS = [
    b"", b"[]", b"null", b"1", b'"x"', b"{", b"\xff", b'{"a": NaN}', b'{"a":"\\u0000"}', b'{"a":"\\ud800"}',
    b'{"$email":"not an address"}', b'{"$email":[1]}', b'{"$email":[""]}',
    b'{"$email":[{"value":"a@b.c","status":1}]}', b'{"$sms":[{}]}', b'{"$slack":[{}]}',
    b'{"$webpush":[5]}', b'{"$unknown":1}', b'{"ss_x":1}', b'{"":1}', json.dumps({"k" * 129: 1}).encode(),
    json.dumps({"big": "x" * 9000}).encode(), json.dumps({f"k{n}": n for n in range(256)}).encode(),
    b'{"a":' + b"[" * 50 + b"]" * 50 + b"}", b'{"a":' + b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_USERS, ids=lambda b: repr(b[:30]))
def test_bad_users_change_nothing(api: httpx.Client, body: bytes) -> None:
    response = api.post("/v1/user/alice/", content=body)
    if body == b"":
        assert response.status_code == 201
    else:
        is_refusal(response, 400)
        assert api.get("/v1/user/alice/").status_code == 404


BAD_EDITS: list[Any] = [
    [], 1, "x", {}, {"operations": {}}, {"operations": ["x"]}, {"operations": [{"$nope": {}}]},
    {"operations": [{"$set": []}]}, {"operations": [{"$set": {"a": 1}}, {"$add": {"n": "many"}}]},
    {"operations": [{"$set": {"a": 1}}, {"$increment": {"n": True}}]}, {"operations": [{"$add": {"$email": 1}}]},
    {"operations": [{"$set": {"a": 1}}, {"$unset": [1]}]}, {"operations": [{"$set": {"a": 1}, "$append": {"$x": 1}}]},
    {"operations": [{"$set": {"a": 1}}, {"$remove": {"$email": "x"}}]}, {"operations": [{"$set": {"a": 1}}] * 501},
    {"operations": [{"$add": {"n": 1e300}}]}, {"operations": [{"$add": {"n": "1e999"}}]},
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_EDITS, ids=lambda b: json.dumps(b)[:50])
def test_bad_edits_change_nothing(api: httpx.Client, body: Any) -> None:
    api.post("/v1/user/alice/", json={"n": 1})
    is_refusal(api.patch("/v1/user/alice/", json=body), 400)
    is_refusal(api.patch("/v1/user/alice/"), 400)
    assert api.get("/v1/user/alice/").json()["properties"] == {"n": 1}


@pytest.mark.parametrize("body", [{}, {"from_user_id": []}, {"from_user_id": {}}, {"from_user_id": "null"}, [], None])
def test_bad_merges(api: httpx.Client, body: Any) -> None:
    api.post("/v1/user/alice/", json={})
    is_refusal(api.post("/v1/user/alice/merge/", json=body), 400)


@pytest.mark.parametrize(
    "body", [{}, [], {"distinct_ids": "alice"}, {"distinct_ids": []}, {"distinct_ids": ["alice", None]},
             {"distinct_ids": ["alice", {}]}, {"distinct_ids": ["alice"] * 101}]
)  # fmt: skip
def test_bad_bulk_deletes_delete_nobody(api: httpx.Client, body: Any) -> None:
    api.post("/v1/user/alice/", json={})
    is_refusal(api.request("DELETE", "/v1/bulk/user/", json=body), 400)
    assert api.get("/v1/user/alice/").status_code == 200


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "limit=²", "limit=1e9", "after=x", "before=-1",
                                   "after=99999999999999999999", "before=9223372036854775808"])  # fmt: skip
def test_bad_pages(api: httpx.Client, query: str) -> None:
    is_refusal(api.get(f"/v1/user/?{query}"), 400)


def test_a_page_has_at_most_100_users(api: httpx.Client) -> None:
    assert api.get("/v1/user/?limit=100000").json()["meta"]["limit"] == 100


GOOD = {"event": "Good", "distinct_id": "alice"}
BAD_RECORDS: list[Any] = [
    None, 1, "x", [], {}, {"event": "No person"}, GOOD | {"distinct_id": ["x"]}, GOOD | {"distinct_id": "{{id}}"},
    GOOD | {"event": ""}, GOOD | {"event": 5}, GOOD | {"event": "x" * 129}, GOOD | {"event": "$secret"},
    GOOD | {"event": "ss_x"}, GOOD | {"event": "Identity Set"}, GOOD | {"properties": []}, GOOD | {"$time": "now"},
    GOOD | {"$time": -1}, GOOD | {"$time": 1e300}, GOOD | {"$insert_id": 5}, GOOD | {"$insert_id": "a\nb"},
    GOOD | {"$idempotency_key": "x" * 256}, GOOD | {"$idempotency_key": 1}, {"distinct_id": "bob", "$set": 1},
    {"distinct_id": "bob", "$user_operations": {}}, {"distinct_id": "bob", "$user_operations": [{"$x": 1}]},
    {"event": "$identify", "properties": {"$identified_id": "null"}},
    {"event": "$identify", "properties": {"$identified_id": "alice", "$anon_id": {}}},
]  # fmt: skip


def test_bad_records_never_cost_the_good_ones(api: httpx.Client) -> None:
    mixed = [r for n, bad in enumerate(BAD_RECORDS) for r in (bad, GOOD | {"$insert_id": f"good-{n}"})]
    records = api.post("/v2/bulk/event/", json=mixed).json()["records"]
    assert [r["status"] for r in records] == ["error", "success"] * len(BAD_RECORDS)
    assert api_answer(api.get("/v1/profiles", params={"identity": "alice"}))["events"] == len(BAD_RECORDS)
    old = api.post("/event/", json=mixed)
    assert (old.status_code, old.text) == (202, "OK")
    assert old.headers["x-gateway-skipped"].startswith(f"{len(BAD_RECORDS)}; a record must be an object")
    for bad in BAD_RECORDS:
        is_refusal(api.post("/v2/event/", json=bad), 400)
        is_refusal(api.post("/event/", json=[bad]), 400)
    assert api.get("/v1/user/bob/").status_code == 404
    assert api.get("/v1/user/").json()["meta"]["count"] == 1


def test_batches_that_are_too_big(api: httpx.Client) -> None:
    is_refusal(api.post("/v2/bulk/event/", json=[GOOD] * 401), 400)
    is_refusal(api.post("/v2/bulk/event/", json=[]), 400)
    is_refusal(api.post("/v2/bulk/event/", json=GOOD), 400)
    is_refusal(api.post("/event/", content=b"[" + b" " * 900_000 + b"]"), 413)
    is_refusal(api.post("/v1/user/alice/", content=b" " * 900_000), 413)


def test_a_body_that_breaks_off(gateway_server: GatewayServer, site: Site, api: httpx.Client) -> None:
    with socket.create_connection(("localhost", gateway_server.port)) as connection:
        head = f"POST /v2/event/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site['secret_key']}\r\n"
        connection.sendall(head.encode() + b'Content-Length: 100\r\n\r\n{"event": "Half", "distinct_id": "alice"')
    assert api.get("/v1/user/alice/").status_code == 404
