"""Vero's own clients against a running gateway: nothing in them is changed but the address."""

import base64
import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from vero import VeroEndpoints, VeroEventLogger, client

from tests.programs import required
from tests.server import GatewayServer, Site

Json = dict[str, Any]

CLIENTS = Path(__file__).parent / "clients"
SUCCESS = b'{"status":200,"message":"Success."}'
REPEATED = b'{"status":200,"message":"Request already received."}'
UNAUTHORIZED = (
    b'{"status":401,"message":"Invalid authentication: You must provide a valid auth_token to access this resource."}'
)


class Shop:
    """One site of the running gateway, and what its native API knows."""

    def __init__(self, server: GatewayServer) -> None:
        self.site: Site = server.site()
        self.url = server.url
        self.base = f"{server.url}/api/v2"
        self.api: httpx.Client = server.api(self.site)

    def profile(self, identity: object) -> Json | None:
        response = self.api.get("/v1/profiles", params={"identity": str(identity)})
        assert response.status_code in (200, 404), response.text
        return response.json() if response.status_code == 200 else None

    def known(self, identity: object) -> Json:
        profile = self.profile(identity)
        assert profile is not None, f"nobody is {identity}"
        return profile

    def events(self, identity: object) -> list[Json]:
        path = f"/v1/profiles/{self.known(identity)['profile_id']}/events"
        return list(reversed(self.api.get(path).json()["events"]))


@pytest.fixture
def shop(gateway_server: GatewayServer) -> Shop:
    return Shop(gateway_server)


# --- PyPI vero 2.0.1 --------------------------------------------------------------------------------------------------


@pytest.fixture
def logger(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[VeroEventLogger]:
    monkeypatch.setenv("NO_PROXY", "localhost")
    for name, endpoint in list(vars(VeroEndpoints).items()):
        if isinstance(endpoint, client.Endpoint):
            url = endpoint.url.replace("https://api.getvero.com/api/v2", shop.base)
            monkeypatch.setattr(VeroEndpoints, name, endpoint._replace(url=url))
    return VeroEventLogger(shop.site["auth_token"])


def assert_same(response: Any, status: int, body: bytes) -> None:
    """The status, body and content type of an answer that a client shows, to the byte."""
    assert (response.status_code, response.content) == (status, body)
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Content-Length"] == str(len(body))


def test_python_every_call(shop: Shop, logger: VeroEventLogger) -> None:
    assert logger.heartbeat()
    assert_same(logger.add_user("anon-1", {}), 200, SUCCESS)
    assert_same(logger.add_event("Visited Website", {"page": "/"}, "anon-1"), 200, SUCCESS)
    assert_same(logger.reidentify_user("anon-1", 42), 200, SUCCESS)
    jane = {"first_name": "Jane", "plan": None, "n": 1.5}
    assert_same(logger.add_user(42, jane, user_email="jane@example.com"), 200, SUCCESS)
    assert_same(logger.edit_user(42, {"age": 25, "email": "new@example.com"}), 200, SUCCESS)
    assert_same(logger.add_tags(42, ["blue", "red"]), 200, SUCCESS)
    assert_same(logger.remove_tags(42, ["red"]), 200, SUCCESS)
    assert_same(logger.add_event("Bought", {"sku": "Ä1"}, 42, user_email="new@example.com"), 200, SUCCESS)
    assert_same(logger.unsubscribe_user(42), 200, SUCCESS)

    profile = shop.known(42)
    assert profile == shop.known("anon-1")
    assert profile["primary"] == "42"
    assert profile["properties"] == {"first_name": "Jane", "n": 1.5, "age": 25, "email": "new@example.com"}
    assert (profile["tags"], profile["subscribed"]) == (["blue"], False)
    events = [(e["name"], e["data"]) for e in shop.events(42)]
    assert events == [("Visited Website", {"page": "/"}), ("Bought", {"sku": "Ä1"})]

    assert_same(logger.resubscribe_user(42), 200, SUCCESS)
    assert shop.known(42)["subscribed"] is True
    assert_same(logger.delete_user(42), 200, SUCCESS)
    assert shop.profile(42) is None
    assert shop.profile("anon-1") is None


def test_python_repetitions_and_refusals(shop: Shop, logger: VeroEventLogger) -> None:
    assert_same(logger.add_user(42, {"a": 1}), 200, SUCCESS)
    assert_same(logger.add_user(42, {"a": 1}), 200, REPEATED)
    assert_same(logger.add_event("Visited Website", {}, 42), 200, SUCCESS)
    assert_same(logger.add_event("visited_website", {}, 42), 200, REPEATED)
    assert len(shop.events(42)) == 1
    assert_same(VeroEventLogger("x").add_user(43, {}), 401, UNAUTHORIZED)
    assert logger.add_user(None, {}).status_code == 400
    assert logger.add_event("", {}, 42).status_code == 400
    assert logger.add_user(43, {}, user_email="user@my.").json()["status"] == 400
    assert shop.profile(43) is None


def test_python_a_merge_is_undone_through_the_native_api(shop: Shop, logger: VeroEventLogger) -> None:
    logger.add_user(1, {"a": 1})
    logger.add_event("One", {}, 1)
    logger.add_user(2, {"b": 2})
    logger.add_event("Two", {}, 2)
    logger.reidentify_user(1, 2)
    assert [e["name"] for e in shop.events(2)] == ["One", "Two"]
    [fact] = shop.api.get("/v1/ledger", params={"kind": "reidentify"}).json()["facts"]
    assert shop.api.post(f"/v1/operations/{fact['op_id']}/undo", json={}).json()["outcome"] == "undone"
    assert ([e["name"] for e in shop.events(1)], [e["name"] for e in shop.events(2)]) == (["One"], ["Two"])
    assert (shop.known(1)["properties"], shop.known(2)["properties"]) == ({"a": 1}, {"b": 2})


# --- npm @getvero/tracking 2.1.0 in Node ------------------------------------------------------------------------------


def in_node(shop: Shop, key: str, calls: list[Any]) -> list[str | None]:
    """What each call of the SDK threw, None for nothing."""
    command = [required("node"), str(CLIENTS / "vero_tracking.mjs"), shop.url, key, json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    results: list[str | None] = json.loads(done.stdout)
    return results


SDK_CALLS: list[Any] = [
    ["user.identify", {"id": "anon-1", "email": "jane@example.com", "data": {"first_name": "Jane"}}],
    ["event.track", {"identity": {"userId": "anon-1", "email": "jane@example.com"}, "eventName": "Visited"}],
    ["user.alias", {"userId": "anon-1", "newId": "42"}],
    ["tag.edit", {"userId": "42", "add": ["blue", "red"]}],
    ["tag.edit", {"userId": "42", "remove": ["red"]}],
    ["user.unsubscribe", {"userId": "42"}],
    [
        "event.track",
        {
            "identity": {"userId": "42", "email": "jane@example.com"},
            "eventName": "Bought",
            "data": {"sku": "A1"},
            "extras": {"source": "till", "createdAt": "2026-01-02T03:04:05.678Z", "veroConv": "c0nv"},
        },
    ],
]


def test_sdk_in_node_with_the_servers_token(shop: Shop) -> None:
    assert in_node(shop, shop.site["auth_token"], SDK_CALLS) == [None] * len(SDK_CALLS)
    profile = shop.known(42)
    assert profile == shop.known("anon-1")
    assert profile["properties"] == {"first_name": "Jane", "email": "jane@example.com"}
    assert (profile["tags"], profile["subscribed"]) == (["blue"], False)
    bought, visited = shop.events(42)
    assert (visited["name"], bought["name"], bought["data"]) == ("Visited", "Bought", {"sku": "A1"})
    assert bought["occurred_at"] == "2026-01-02T03:04:05.678Z"
    assert bought["extras"] == {"source": "till", "created_at": "2026-01-02T03:04:05.678Z", "vero_conv": "c0nv"}

    calls = [["user.resubscribe", {"userId": "42"}], ["user.delete", {"userId": "42"}]]
    assert in_node(shop, shop.site["auth_token"], calls) == [None, None]
    assert shop.profile(42) is None


def test_sdk_in_node_with_the_public_key(shop: Shop) -> None:
    identify, track, _, *rest = SDK_CALLS
    assert in_node(shop, shop.site["api_key"], [identify, track, *rest]) == [None] * 6
    assert {shop.known(i)["identities"][0]["proof"] for i in ("anon-1", 42)} == {"claimed"}
    refused = "Unable to make the request - server returned Unauthorized 401, expected 2xx"
    assert in_node(shop, shop.site["api_key"], [["user.delete", {"userId": "42"}]]) == [refused]
    assert in_node(shop, "x", [["user.unsubscribe", {"userId": "42"}]]) == [refused]
    shop.known(42)


# --- curl, as the documentation has it --------------------------------------------------------------------------------


def curl(*arguments: str) -> tuple[int, bytes]:
    """Status and body of a request made by curl."""
    command = [required("curl"), "--silent", "--noproxy", "*", "--write-out", "\n%{http_code}", *arguments]
    body, _, status = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.rpartition(b"\n")
    return int(status), body


def test_curl_with_json_inside_a_form(shop: Shop) -> None:
    form = (
        f"auth_token={shop.site['auth_token']}"
        '&identity={"id": 1234, "email": "james@getvero.com", "age": 28}&event_name=Visited homepage'
        '&data={"product_name": "Red T-shirt", "product_url": "http://www.yourdomain.com/products/red-t-shirt"}'
    )
    assert curl("-d", form, f"{shop.base}/events/track") == (200, SUCCESS)
    assert curl("-d", form, f"{shop.base}/events/track.json") == (200, REPEATED)
    [event] = shop.events(1234)
    assert (event["name"], event["data"]["product_name"]) == ("Visited homepage", "Red T-shirt")
    tags = f'auth_token={shop.site["auth_token"]}&id=1234&add=["prospect"]&remove=[]'
    assert curl("-X", "PUT", "-d", tags, f"{shop.base}/users/tags/edit") == (200, SUCCESS)
    assert shop.known(1234)["tags"] == ["prospect"]


def test_curl_with_brackets(shop: Shop) -> None:
    fields = {"auth_token": shop.site["auth_token"], "identity[id]": "7", "identity[age]": "28", "data[sku]": "A1"}
    encoded = [a for k, v in fields.items() for a in ("--data-urlencode", f"{k}={v}")]
    assert curl(*encoded, "-d", "event_name=Bought", f"{shop.base}/events/track.json") == (200, SUCCESS)
    assert [e["data"] for e in shop.events(7)] == [{"sku": "A1"}]
    assert shop.known(7)["properties"] == {"age": "28"}


def test_curl_with_a_multipart_form(shop: Shop) -> None:
    fields = {"auth_token": shop.site["auth_token"], "id": "8", "email": "j@x.io", "data": '{"plan": "pro"}'}
    parts = [a for k, v in fields.items() for a in ("--form-string", f"{k}={v}")]
    assert curl(*parts, f"{shop.base}/users/track") == (200, SUCCESS)
    assert shop.known(8)["properties"] == {"email": "j@x.io", "plan": "pro"}


def test_curl_with_the_key_in_the_query(shop: Shop) -> None:
    url = f"{shop.base}/users/track?auth_token={shop.site['auth_token']}"
    assert curl("--json", '{"id": 9, "data": {"plan": "pro"}}', url) == (200, SUCCESS)
    assert curl("-X", "DELETE", "-d", '{"id": 9}', url.replace("users/track", "users/delete")) == (200, SUCCESS)
    assert shop.profile(9) is None
    assert curl("-d", "id=9", f"{shop.base}/users/track?auth_token=x") == (401, UNAUTHORIZED)
    assert curl(f"{shop.base}/heartbeat") == (200, SUCCESS)


# --- bytes on the socket ----------------------------------------------------------------------------------------------


def on_a_socket(shop: Shop, *parts: bytes, close: bool = False) -> bytes:
    """Everything the gateway says on one connection until it ends it; `close`: this side ends it first."""
    host, _, port = shop.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        if close:
            return b""
        return connection.makefile("rb").read()


def head(length: int, path: str = "users/track") -> bytes:
    return f"POST /api/v2/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


def whole_body(shop: Shop, identity: object) -> bytes:
    body = {"id": identity, "email": "j@x.io", "data": {"name": "Jürgen Müller"}, "auth_token": shop.site["auth_token"]}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def test_a_body_longer_than_it_says_is_refused_and_the_connection_ends(shop: Shop) -> None:
    """hubdoc's client counts letters, not bytes: the end of its body would be read as the next request."""
    body = whole_body(shop, 1)
    letters = len(body.decode())
    for parts in ((head(letters) + body,), (head(letters), body), (head(letters), body[:letters])):
        answer = on_a_socket(shop, *parts)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert answer.count(b"HTTP/1.1") == 1
        assert b'\r\n\r\n{"status":400,"message":"Bad Request: the body is not JSON' in answer
    assert shop.profile(1) is None


def test_a_body_that_breaks_off_changes_nothing(shop: Shop) -> None:
    body = whole_body(shop, 2)
    on_a_socket(shop, head(len(body)), body[:-10], close=True)
    assert shop.profile(2) is None


def test_an_oversized_body_is_refused_before_it_is_read(shop: Shop) -> None:
    answer = on_a_socket(shop, head(10**9))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'{"status":413,"message":' in answer


def test_many_calls_on_one_connection(shop: Shop) -> None:
    connection = http.client.HTTPConnection(shop.url.removeprefix("http://"), timeout=10)
    for n in range(20):
        body = {"identity": {"id": 3}, "event_name": "Visited", "data": {"n": n}}
        if n % 3 == 0:
            body["identity"] = {"id": True}
        connection.request("POST", f"/api/v2/events/track?auth_token={shop.site['auth_token']}", json.dumps(body))
        response = connection.getresponse()
        assert (response.status, len(response.read()) > 0) == (400 if n % 3 == 0 else 200, True)
    connection.close()
    assert [e["data"]["n"] for e in shop.events(3)] == [n for n in range(20) if n % 3]


def test_after_a_crash_a_retry_is_recognised(tmp_path: Path) -> None:
    with GatewayServer(tmp_path) as server:
        shop = Shop(server)
        body = {"auth_token": shop.site["auth_token"], "identity": {"id": 42}, "event_name": "Bought", "data": {"n": 1}}
        assert httpx.post(f"{shop.base}/events/track", json=body, trust_env=False).content == SUCCESS
        server.kill()
        server.start()
        again = httpx.post(f"{server.url}/api/v2/events/track", json=body, trust_env=False)
        assert again.content == REPEATED
        shop.api = server.api(shop.site)
        assert len(shop.events(42)) == 1


def test_the_documented_token_is_made_of_both_keys(shop: Shop) -> None:
    pair = f"{shop.site['api_key']}:{shop.site['secret_key']}"
    assert base64.b64decode(shop.site["auth_token"]).decode() == pair
