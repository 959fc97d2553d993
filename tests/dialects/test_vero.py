"""Vero's Track API on the wire: every encoding, every answer byte for byte, every refusal in their shape."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest

from gateway.dialects.vero import routes
from gateway.identity import save
from gateway.identity.batches import RECEIPT_WINDOW
from tests.driver import Driver, driving

Json = dict[str, Any]

SUCCESS = b'{"status":200,"message":"Success."}'
REPEATED = b'{"status":200,"message":"Request already received."}'
UNAUTHORIZED = (
    b'{"status":401,"message":"Invalid authentication: You must provide a valid auth_token to access this resource."}'
)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Vero:
    """The Track API of one site, and what the native API says came of a call."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        site = driver.site
        self.public, self.secret = site.api_key, site.secret_keys[-1]
        self.auth_token = base64.b64encode(f"{self.public}:{self.secret}".encode()).decode()

    async def raw(self, method: str, path: str, **request: Any) -> httpx.Response:
        return await self.driver.client.request(method, f"/api/v2/{path}", **request)

    async def send(self, path: str, body: Json, method: str = "POST", **request: Any) -> httpx.Response:
        """A call with the auth_token, as JSON."""
        return await self.raw(method, path, json={"auth_token": self.auth_token} | body, **request)

    async def ok(self, path: str, body: Json, method: str = "POST", **request: Any) -> None:
        """A call that must succeed, and not as a repetition."""
        assert_answer(await self.send(path, body, method, **request), 200, SUCCESS)

    async def profile(self, identity: object) -> Json:
        profile = await self.driver.find(f"u:{identity}")
        assert profile is not None, f"nobody is {identity}"
        return profile

    async def events(self, identity: object) -> list[Json]:
        """Somebody's events, oldest first."""
        profile = await self.profile(identity)
        page = await self.driver.api("GET", f"/v1/profiles/{profile['profile_id']}/events")
        return list(reversed(page.json()["events"]))


@pytest.fixture
async def vero(tmp_path: Path) -> AsyncIterator[Vero]:
    async with driving(tmp_path) as driver:
        yield Vero(driver)
        await driver.check_refold()


def assert_answer(response: httpx.Response, status: int, body: bytes) -> None:
    assert (response.status_code, response.content) == (status, body)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(body))


def assert_refused(response: httpx.Response, status: int, *words: str) -> None:
    """A refusal in Vero's shape that says why."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    said = response.json()
    assert list(said) == ["status", "message"]
    assert said["status"] == status
    assert all(word in said["message"] for word in words), said


# --- every call -------------------------------------------------------------------------------------------------------

CALLS = [
    ("POST", "users/track", {"id": 42, "email": "jane@example.com", "data": {"first_name": "Jane"}}),
    ("PUT", "users/edit", {"id": 42, "changes": {"age": 25}}),
    ("PUT", "users/tags/edit", {"id": 42, "add": ["blue"]}),
    ("POST", "users/unsubscribe", {"id": 42}),
    ("POST", "users/resubscribe", {"id": 42}),
    ("PUT", "users/reidentify", {"id": "anon-1", "new_id": 42}),
    ("POST", "users/reidentify", {"id": "anon-1", "new_id": 42}),
    ("POST", "users/delete", {"id": 42}),
    ("DELETE", "users/delete", {"id": 42}),
    ("POST", "events/track", {"identity": {"id": 42}, "event_name": "Visited"}),
]


@pytest.mark.parametrize("suffix", ["", ".json"])
@pytest.mark.parametrize(("method", "path", "body"), CALLS, ids=[f"{m} {p}" for m, p, _ in CALLS])
async def test_every_call_answers_the_recorded_bytes(
    vero: Vero, method: str, path: str, body: Json, suffix: str
) -> None:
    assert len(SUCCESS) == 35
    await vero.ok(path + suffix, body, method)


@pytest.mark.parametrize("suffix", ["", ".json"])
async def test_heartbeat_needs_no_key(vero: Vero, suffix: str) -> None:
    assert_answer(await vero.raw("GET", f"heartbeat{suffix}"), 200, SUCCESS)


async def test_a_user_is_created_and_updated(vero: Vero) -> None:
    await vero.ok("users/track", {"id": 42, "email": "jane@example.com", "data": {"plan": "free", "n": 1.5}})
    await vero.ok("users/track", {"id": "42", "data": {"plan": "pro", "n": None}})
    jane = await vero.profile(42)
    assert jane["properties"] == {"email": "jane@example.com", "plan": "pro"}
    assert [(i["value"], i["proof"]) for i in jane["identities"]] == [("42", "server")]


@pytest.mark.parametrize(
    ("method", "path", "body"), CALLS[:5] + CALLS[9:], ids=[p for _, p, _ in CALLS[:5] + CALLS[9:]]
)
async def test_without_an_id_the_email_is_the_id(vero: Vero, method: str, path: str, body: Json) -> None:
    body = body | {"id": None, "email": "Jane@Example.com", "identity": {"id": "", "email": "Jane@Example.com"}}
    await vero.ok("users/track", {"email": "jane@example.com"})
    await vero.ok(path, body, method)
    assert (await vero.profile("jane@example.com"))["primary"] == "jane@example.com"


async def test_an_email_with_an_id_is_a_property_and_joins_nobody(vero: Vero) -> None:
    await vero.ok("users/track", {"email": "jane@example.com"})
    await vero.ok("users/track", {"id": 42, "email": "jane@example.com"})
    assert len(await vero.driver.profiles()) == 2


async def test_channels_come_as_a_list_or_as_one_object(vero: Vero) -> None:
    channel = {"type": "push", "address": "token", "platform": "ios", "device": "iPhone"}
    await vero.ok("users/track", {"id": 1, "channels": [channel], "phone_number": "+15550100"})
    await vero.ok("users/track", {"id": 2, "channels": channel})
    await vero.ok("users/track", {"id": 2, "channels": []})
    assert (await vero.profile(1))["properties"] == {"channels": [channel], "phone_number": "+15550100"}
    assert (await vero.profile(2))["properties"] == {"channels": [channel]}


async def test_edit_and_update_only_create_nobody(vero: Vero) -> None:
    await vero.ok("users/edit", {"id": 42, "changes": {"age": 25}}, "PUT")
    await vero.ok("users/track", {"id": 42, "data": {"age": 25}, "extras": {"update_only": "true"}})
    await vero.ok("users/track", {"id": 42, "data": {"age": 25}, "extras": {"update_only": True}})
    assert await vero.driver.find("u:42") is None
    await vero.ok("users/track", {"id": 42})
    await vero.ok("users/edit", {"id": 42, "changes": {"age": 25, "email": "new@example.com"}}, "PUT")
    await vero.ok("users/track", {"id": 42, "data": {"plan": "pro"}, "extras": {"update_only": "true"}})
    assert (await vero.profile(42))["properties"] == {"age": 25, "email": "new@example.com", "plan": "pro"}


async def test_a_change_older_than_what_is_stored_is_rejected(vero: Vero) -> None:
    await vero.ok("users/track", {"id": 42, "data": {"plan": "pro"}, "extras": {"created_at": "2023-05-30T04:46:31Z"}})
    await vero.ok("users/track", {"id": 42, "data": {"plan": "free"}, "extras": {"created_at": 1457161309}})
    assert (await vero.profile(42))["properties"] == {"plan": "pro"}


@pytest.mark.parametrize(
    ("created_at", "shown"),
    [
        ("2023-05-30T04:46:31+0000", "2023-05-30T04:46:31.000Z"),
        ("2023-05-30T04:46:31.250Z", "2023-05-30T04:46:31.250Z"),
        ("2023-05-30T06:46:31+02:00", "2023-05-30T04:46:31.000Z"),
        ("2023-05-30 04:46:31 UTC", "2023-05-30T04:46:31.000Z"),
        (1457161309, "2016-03-05T07:01:49.000Z"),
        ("1457161309", "2016-03-05T07:01:49.000Z"),
        (1457161309250, "2016-03-05T07:01:49.250Z"),
    ],
)
async def test_an_event_happened_when_its_sender_says(vero: Vero, created_at: object, shown: str) -> None:
    body = {"identity": {"id": 42}, "event_name": "Signed up", "extras": {"created_at": created_at, "source": "import"}}
    await vero.ok("events/track", body)
    [event] = await vero.events(42)
    assert event["occurred_at"] == shown
    assert event["extras"] == {"created_at": created_at, "source": "import"}


async def test_an_event_creates_its_user_with_the_properties_beside_the_id(vero: Vero) -> None:
    who = {"id": 7, "email": "u@x.io", "name": "U", "_user_type": "User"}
    await vero.ok("events/track", {"identity": who, "event_name": "Bare", "data": None, "extras": None})
    assert (await vero.profile(7))["properties"] == {"email": "u@x.io", "name": "U", "_user_type": "User"}
    assert [(e["name"], e["data"]) for e in await vero.events(7)] == [("Bare", {})]


async def test_a_missing_email_does_not_clear_the_stored_one(vero: Vero) -> None:
    await vero.ok("users/track", {"id": 42, "email": "jane@example.com"})
    await vero.ok("users/track", {"id": 42, "email": None, "data": {}})
    await vero.ok("events/track", {"identity": {"id": 42, "email": None}, "event_name": "Visited"})
    assert (await vero.profile(42))["properties"] == {"email": "jane@example.com"}


@pytest.mark.parametrize(
    ("add", "remove", "tags"),
    [
        (["blue", "red"], None, ["blue", "red"]),
        (["blue", "red"], ["red"], ["blue"]),
        ("blue", "red", ["blue"]),
        ('["chewbacca", "han"]', None, ["chewbacca", "han"]),
        (["", "", "a", "b"], None, ["a", "b"]),
        ([7], [], ["7"]),
        ([], [], []),
    ],
)
async def test_tags_in_every_form(vero: Vero, add: object, remove: object, tags: list[str]) -> None:
    await vero.ok("users/tags/edit", {"id": 42, "add": add, "remove": remove}, "PUT")
    assert (await vero.profile(42))["tags"] == tags


async def test_unsubscribe_holds_until_resubscribe(vero: Vero) -> None:
    await vero.ok("users/unsubscribe", {"id": 42, "extras": {"source": "segment"}, "email": "jane@example.com"})
    assert (await vero.profile(42))["subscribed"] is False
    await vero.ok("users/resubscribe", {"id": 42})
    assert (await vero.profile(42))["subscribed"] is True
    await vero.ok("users/unsubscribe", {"id": 42, "extras": {"source": "segment"}, "email": "jane@example.com"})
    assert (await vero.profile(42))["subscribed"] is False


async def test_reidentify_takes_the_old_id_first(vero: Vero) -> None:
    await vero.ok("users/track", {"id": "anon-1", "data": {"first_name": "Jane"}})
    await vero.ok("users/tags/edit", {"id": "anon-1", "add": ["new"]}, "PUT")
    await vero.ok("users/reidentify", {"id": "anon-1", "new_id": 42}, "PUT")
    jane = await vero.profile(42)
    assert (jane["primary"], jane["properties"], jane["tags"]) == ("42", {"first_name": "Jane"}, ["new"])
    assert (await vero.profile("anon-1"))["profile_id"] == jane["profile_id"]


async def test_reidentify_merges_two_users_and_repeats_as_nothing(vero: Vero) -> None:
    await vero.ok("users/track", {"id": 1, "data": {"a": 1}})
    await vero.ok("users/track", {"id": 2, "data": {"b": 2}})
    for _ in range(3):
        await vero.ok("users/reidentify", {"id": 1, "new_id": 2}, "PUT")
    assert (await vero.profile(2))["properties"] == {"a": 1, "b": 2}
    assert len(await vero.driver.profiles()) == 1


async def test_reidentify_of_an_unknown_or_the_same_id_succeeds(vero: Vero) -> None:
    await vero.ok("users/reidentify", {"id": "nobody", "new_id": 42}, "PUT")
    await vero.ok("users/reidentify", {"id": 42, "new_id": "42"}, "PUT")


async def test_a_deleted_user_is_gone_and_may_come_back(vero: Vero) -> None:
    body = {"id": 42, "email": "jane@example.com"}
    await vero.ok("users/track", body)
    await vero.ok("users/delete", {"id": 42})
    assert await vero.driver.find("u:42") is None
    await vero.ok("users/delete", {"id": 42}, "DELETE")
    await vero.ok("users/track", body)
    assert (await vero.profile(42))["properties"] == {"email": "jane@example.com"}


# --- encodings --------------------------------------------------------------------------------------------------------

EVENT = {"identity": {"id": 42, "email": "jane@example.com"}, "event_name": "Bought", "data": {"sku": "A1", "n": 2}}


async def assert_bought(vero: Vero, response: httpx.Response, data: Json) -> None:
    assert_answer(response, 200, SUCCESS)
    assert (await vero.profile(42))["properties"]["email"] == "jane@example.com"
    assert [(e["name"], e["data"]) for e in await vero.events(42)] == [("Bought", data)]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {},
        {"Content-Type": "application/json; encoding=utf-8"},
        {"Content-Type": "json"},
        {"Content-Type": "text/plain;charset=UTF-8"},
        FORM,
    ],
    ids=["E1", "E2", "E3", "json", "text", "curl -d"],
)
async def test_json_under_any_content_type(vero: Vero, headers: dict[str, str]) -> None:
    body = json.dumps({"auth_token": vero.auth_token} | EVENT).encode()
    await assert_bought(vero, await vero.raw("POST", "events/track", content=body, headers=headers), EVENT["data"])


@pytest.mark.parametrize("encoded", [False, True])
async def test_e4_a_form_with_json_inside(vero: Vero, encoded: bool) -> None:
    fields = {
        "auth_token": vero.auth_token,
        "identity": '{"id": 42, "email": "jane@example.com"}',
        "event_name": "Bought",
        "data": '{"sku": "A1", "n": 2}',
    }
    body = urlencode(fields) if encoded else "&".join(f"{k}={v}" for k, v in fields.items())
    await assert_bought(vero, await vero.raw("POST", "events/track", content=body, headers=FORM), EVENT["data"])


@pytest.mark.parametrize("encoded", [False, True])
async def test_e5_a_form_with_brackets(vero: Vero, encoded: bool) -> None:
    fields = {
        "auth_token": vero.auth_token,
        "identity[id]": "42",
        "identity[email]": "jane@example.com",
        "identity[age]": "28",
        "event_name": "Bought",
        "data[sku]": "A1",
        "data[nested][a][0]": "1",
        "data[nested][a][1]": "2",
        "data[list][]": "x",
        "data[rows][][a]": "1",
    }
    body = urlencode(fields) if encoded else "&".join(f"{k}={v}" for k, v in fields.items())
    body += (
        "&data[rows][][b]=2&data[rows][][a]=3" if not encoded else f"&{quote('data[rows][][b]')}=2&data[rows][][a]=3"
    )
    response = await vero.raw("POST", "events/track", content=body, headers=FORM)
    rows = [{"a": "1", "b": "2"}, {"a": "3"}]
    await assert_bought(vero, response, {"sku": "A1", "nested": {"a": ["1", "2"]}, "list": ["x"], "rows": rows})
    assert (await vero.profile(42))["properties"]["age"] == "28"


async def test_e4_and_e5_tags(vero: Vero) -> None:
    for n, tags in enumerate(
        ('add=["prospect"]&remove=[]', "add[]=prospect", "add[0]=prospect&add[1]=", "add=prospect")
    ):
        body = f"auth_token={vero.auth_token}&id={n + 1}&{tags}"
        assert_answer(await vero.raw("PUT", "users/tags/edit", content=body, headers=FORM), 200, SUCCESS)
        assert (await vero.profile(n + 1))["tags"] == ["prospect"]


async def test_e6_multipart_with_json_inside(vero: Vero) -> None:
    fields = {
        "auth_token": vero.auth_token,
        "identity": '{"id": 42, "email": "jane@example.com"}',
        "event_name": "Bought",
        "data": '{"sku": "Ä1\\n"}',
    }
    files = {name: (None, value.encode()) for name, value in fields.items()}
    await assert_bought(vero, await vero.raw("POST", "events/track", files=files), {"sku": "Ä1\n"})


@pytest.mark.parametrize("name", ["auth_token", "tracking_api_key"])
async def test_e7_the_key_in_the_query(vero: Vero, name: str) -> None:
    await assert_bought(
        vero, await vero.raw("POST", "events/track", params={name: vero.auth_token}, json=EVENT), EVENT["data"]
    )


async def test_parameters_may_all_be_in_the_query(vero: Vero) -> None:
    response = await vero.raw("POST", f"users/track?auth_token={vero.auth_token}&id=42&data[plan]=pro")
    assert_answer(response, 200, SUCCESS)
    assert (await vero.profile(42))["properties"] == {"plan": "pro"}


async def test_data_nests_five_levels_deep(vero: Vero) -> None:
    await vero.ok("users/track", {"id": 1, "data": {"a": [[[[1]]]]}})
    assert (await vero.profile(1))["properties"] == {"a": [[[[1]]]]}


async def test_an_empty_php_array_is_an_empty_object(vero: Vero) -> None:
    await vero.ok("users/track", {"id": "1", "data": []})
    await vero.ok("users/edit", {"id": "1", "changes": None}, "PUT")
    assert (await vero.profile(1))["properties"] == {}


# --- names and repetitions --------------------------------------------------------------------------------------------


async def test_the_spellings_of_an_event_are_one_under_the_first(vero: Vero) -> None:
    for n, name in enumerate(("Purchased item", "purchased_item", "PURCHASED-ITEM", "Purchased  Item")):
        await vero.ok("events/track", {"identity": {"id": 42}, "event_name": name, "data": {"n": n}})
    await vero.ok("events/track", {"identity": {"id": 42}, "event_name": "Purchased items"})
    assert [e["name"] for e in await vero.events(42)] == ["Purchased item"] * 4 + ["Purchased items"]


async def test_the_first_spelling_counts_for_one_site_only(vero: Vero, tmp_path: Path) -> None:
    await vero.ok("events/track", {"identity": {"id": 42}, "event_name": "viewed_page"})
    gateway = vero.driver.gateway
    other = Vero(Driver(gateway, vero.driver.client, await gateway.sites.create("other", gateway.new_id(), origins=[])))
    await other.ok("events/track", {"identity": {"id": 42}, "event_name": "Viewed page"})
    assert [e["name"] for e in await other.events(42)] == ["Viewed page"]


async def test_a_repeated_event_is_answered_as_such_and_kept_once(vero: Vero) -> None:
    assert len(REPEATED) == 52
    await vero.ok("events/track", EVENT)
    for name in ("Bought", "bought", "BOUGHT"):
        assert_answer(await vero.send("events/track.json", EVENT | {"event_name": name}), 200, REPEATED)
    assert len(await vero.events(42)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"event_name": "Sold"},
        {"identity": {"id": 43}},
        {"data": {"sku": "A1", "n": 3}},
        {"data": {}},
        {"data": None, "extras": {"check_id": 1}},
    ],
)
async def test_another_name_person_or_data_is_another_event(vero: Vero, change: Json) -> None:
    await vero.ok("events/track", EVENT)
    await vero.ok("events/track", EVENT | change)


async def test_without_data_the_check_id_tells_events_apart(vero: Vero) -> None:
    bare = {"identity": {"id": 42}, "event_name": "Visited"}
    await vero.ok("events/track", bare)
    assert_answer(await vero.send("events/track", bare | {"extras": {"source": "x"}}), 200, REPEATED)
    await vero.ok("events/track", bare | {"extras": {"check_id": "a"}})
    await vero.ok("events/track", bare | {"extras": {"check_id": "b"}})
    assert_answer(await vero.send("events/track", bare | {"extras": {"check_id": "a"}}), 200, REPEATED)
    with_data = bare | {"data": {"n": 1}}
    await vero.ok("events/track", with_data | {"extras": {"check_id": "c"}})
    assert_answer(await vero.send("events/track", with_data | {"extras": {"check_id": "d"}}), 200, REPEATED)
    assert len(await vero.events(42)) == 4


async def test_of_equal_events_at_once_one_is_kept(vero: Vero) -> None:
    answers = await asyncio.gather(*(vero.send("events/track", EVENT) for _ in range(20)))
    assert sorted(a.content for a in answers) == [REPEATED] * 19 + [SUCCESS]
    assert len(await vero.events(42)) == 1


async def test_every_database_keeps_an_event_once_and_its_first_name(database: str) -> None:
    async with driving(database) as driver:
        vero = Vero(driver)
        await vero.ok("events/track", EVENT | {"data": {"n": 1}})
        same = EVENT | {"event_name": "BOUGHT"}
        answers = await asyncio.gather(*(vero.send("events/track", same) for _ in range(5)))
        assert sorted(a.content for a in answers) == [REPEATED] * 4 + [SUCCESS]
        assert [e["name"] for e in await vero.events(42)] == ["Bought", "Bought"]
        await vero.ok("users/edit", {"id": "nobody", "changes": {"a": 1}}, "PUT")
        await vero.ok("users/delete", {"id": 42}, "DELETE")
        await vero.ok("events/track", same)
        await driver.check_refold()


async def test_after_five_minutes_the_same_event_happened_again(vero: Vero, monkeypatch: pytest.MonkeyPatch) -> None:
    real = save.now
    assert RECEIPT_WINDOW == 5 * 60 * 1_000_000
    await vero.ok("events/track", EVENT)
    monkeypatch.setattr(save, "now", lambda: real() + RECEIPT_WINDOW - 5_000_000)
    assert_answer(await vero.send("events/track", EVENT), 200, REPEATED)
    monkeypatch.setattr(save, "now", lambda: real() + RECEIPT_WINDOW + 1)
    await vero.ok("events/track", EVENT)
    assert len(await vero.events(42)) == 2


async def test_a_repeated_user_is_answered_as_such_and_what_it_says_holds(vero: Vero) -> None:
    free, pro = ({"id": 42, "data": {"plan": plan}} for plan in ("free", "pro"))
    await vero.ok("users/track", free)
    assert_answer(await vero.send("users/track.json", free), 200, REPEATED)
    await vero.ok("users/track", pro)
    assert_answer(await vero.send("users/track", free), 200, REPEATED)
    assert (await vero.profile(42))["properties"] == {"plan": "free"}


async def test_a_repetition_is_known_by_content_not_by_encoding(vero: Vero) -> None:
    await vero.ok("users/track", {"id": 42, "email": "jane@example.com", "data": {"a": 1, "b": 2}})
    body = f'auth_token={vero.auth_token}&data={{"b":2,"a":1}}&id=42&email=jane@example.com'
    assert_answer(await vero.raw("POST", "users/track", content=body, headers=FORM), 200, REPEATED)


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auth_token", "tracking_api_key", "api_key"])
@pytest.mark.parametrize("kind", ["auth_token", "secret", "wrapped", "unpadded"])
async def test_the_servers_key_has_server_rights_under_every_name(vero: Vero, name: str, kind: str) -> None:
    key = {
        "auth_token": vero.auth_token,
        "secret": vero.secret,
        "wrapped": base64.encodebytes(f"{vero.public}:{vero.secret}".encode()).decode(),
        "unpadded": vero.auth_token.rstrip("="),
    }[kind]
    assert_answer(await vero.raw("POST", "users/track", json={name: key, "id": 42}), 200, SUCCESS)
    assert (await vero.profile(42))["identities"][0]["proof"] == "server"
    assert_answer(await vero.raw("DELETE", "users/delete", json={name: key, "id": 42}), 200, SUCCESS)
    assert await vero.driver.find("u:42") is None


@pytest.mark.parametrize("key", [None, "", "x", 42, {"a": 1}, "eDp5", "öäü", "x" * 5000, "0" * 40])
async def test_a_bad_key_gets_the_recorded_refusal(vero: Vero, key: object) -> None:
    response = await vero.raw("POST", "users/track.json", json={"auth_token": key, "id": 42})
    assert_answer(response, 401, UNAUTHORIZED)
    assert await vero.driver.find("u:42") is None


async def test_the_keys_of_two_sites_do_not_mix(vero: Vero) -> None:
    gateway = vero.driver.gateway
    other = await gateway.sites.create("other", gateway.new_id(), origins=[])
    mixed = base64.b64encode(f"{other.api_key}:{vero.secret}".encode()).decode()
    assert_answer(await vero.raw("POST", "users/track", json={"auth_token": mixed, "id": 42}), 401, UNAUTHORIZED)


async def test_a_wrong_auth_token_is_not_saved_by_a_right_public_key(vero: Vero) -> None:
    body = {"auth_token": "x", "tracking_api_key": vero.public, "id": 42}
    assert_answer(await vero.raw("POST", "users/track", json=body), 401, UNAUTHORIZED)


async def test_nothing_at_all_is_refused_for_want_of_a_key(vero: Vero) -> None:
    assert_answer(await vero.raw("POST", "users/track"), 401, UNAUTHORIZED)


async def test_parameters_are_looked_at_before_the_key(vero: Vero) -> None:
    assert_refused(await vero.raw("POST", "users/track", json={"auth_token": "x"}), 400, "Bad Request")
    assert_refused(await vero.raw("PUT", "users/reidentify", json={"auth_token": "x", "new_id": 2}), 400, "Bad Request")
    assert_answer(await vero.raw("POST", "users/track", json={"auth_token": "x", "id": 1}), 401, UNAUTHORIZED)


@pytest.mark.parametrize("header", [{"Origin": "https://shop.example"}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize("name", ["auth_token", "tracking_api_key"])
async def test_a_secret_in_a_browser_has_leaked(vero: Vero, name: str, header: dict[str, str]) -> None:
    body = {name: vero.auth_token, "id": 42}
    assert_refused(await vero.raw("POST", "users/track", json=body, headers=header), 403, "leaked", "rotate-key")
    assert await vero.driver.find("u:42") is None


# --- the public key ---------------------------------------------------------------------------------------------------


async def test_the_public_key_has_a_browsers_rights(vero: Vero) -> None:
    page = {"tracking_api_key": vero.public}
    for method, path, body in CALLS[:5] + CALLS[9:]:
        assert_answer(await vero.raw(method, path, params=page, json=body), 200, SUCCESS)
    jane = await vero.profile(42)
    assert jane["identities"][0]["proof"] == "claimed"
    assert len(await vero.events(42)) == 1


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_the_public_key_deletes_nobody(vero: Vero, method: str) -> None:
    await vero.ok("users/track", {"id": 42})
    response = await vero.raw(method, "users/delete", params={"tracking_api_key": vero.public}, json={"id": 42})
    assert_answer(response, 401, UNAUTHORIZED)
    await vero.profile(42)


@pytest.mark.parametrize("known", [True, False])
async def test_the_public_key_merges_nobody_without_proof(vero: Vero, known: bool) -> None:
    await vero.ok("users/track", {"id": "victim", "data": {"card": "1"}})
    page = {"api_key": vero.public}
    if known:
        await vero.raw("POST", "users/track", json=page | {"id": "mallory"})
    body = page | {"id": "victim", "new_id": "mallory"}
    for _ in range(2):
        assert_answer(await vero.raw("PUT", "users/reidentify", json=body), 200, SUCCESS)
    assert (await vero.profile("victim"))["primary"] == "victim"
    assert (await vero.profile("mallory"))["properties"] == {}
    assert len((await vero.driver.api("GET", "/v1/held")).json()["held"]) == 1


async def test_a_page_does_not_learn_what_others_sent(vero: Vero) -> None:
    page = {"tracking_api_key": vero.public}
    for _ in range(3):
        assert_answer(await vero.raw("POST", "events/track", params=page, json=EVENT), 200, SUCCESS)
    assert len(await vero.events(42)) == 1
    await vero.ok("events/track", EVENT)


async def test_only_listed_origins_may_use_the_public_key(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        vero = Vero(driver)
        driver.site.settings["origins"] = ["https://shop.example"]
        await driver.gateway.sites.save(driver.site)
        asked = {"params": {"tracking_api_key": vero.public}, "json": {"id": 42}}
        evil = await vero.raw("POST", "users/track", headers={"Origin": "https://evil.example"}, **asked)
        assert_refused(evil, 403, "evil.example")
        good = await vero.raw("POST", "users/track", headers={"Origin": "https://shop.example"}, **asked)
        assert_answer(good, 200, SUCCESS)


async def test_nobody_forges_the_gateways_own_events(vero: Vero) -> None:
    body = {"identity": {"id": 42}, "event_name": "identity_set"}
    assert_refused(await vero.send("events/track", body), 400, "identity_set")
    assert await vero.driver.find("u:42") is None
    assert_answer(await vero.raw("POST", "events/track", params={"api_key": vero.public}, json=body), 200, SUCCESS)
    assert await vero.driver.errors() == ["spoofed_system_event"]
    assert await vero.events(42) == []


@pytest.mark.parametrize("path", ["users/track", "events/track.json", "users/reidentify", "users/delete", "heartbeat"])
async def test_browsers_may_ask_and_read(vero: Vero, path: str) -> None:
    asked = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = await vero.raw("OPTIONS", path, headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "content-type, accept"
    allowed = {"users/reidentify": "PUT, POST", "users/delete": "POST, DELETE", "heartbeat": "GET"}
    assert preflight.headers["access-control-allow-methods"] == f"{allowed.get(path, 'POST')}, OPTIONS"
    refused = await vero.raw("POST", "users/track", headers={"Origin": "https://shop.example"})
    assert refused.headers["access-control-allow-origin"] == "*"


# --- bad input --------------------------------------------------------------------------------------------------------

LONG = "x" * 255
WRONG = [
    ("users/track", {}),
    ("users/track", {"id": ""}),
    ("users/track", {"id": "  ", "email": ""}),
    ("users/track", {"id": None, "email": None}),
    ("users/track", {"id": True}),
    ("users/track", {"id": {"a": 1}}),
    ("users/track", {"id": [42], "email": "jane@example.com"}),
    ("users/track", {"id": LONG}),
    ("users/track", {"id": 10**400}),
    ("users/track", {"id": 10**4000}),
    ("users/track", {"id": "a\0b"}),
    ("users/track", {"id": "undefined"}),
    ("users/track", {"id": "{{user.id}}"}),
    ("users/track", {"email": "jane"}),
    ("users/track", {"email": "user@host"}),
    ("users/track", {"email": 42}),
    ("users/track", {"id": 1, "email": "not an address"}),
    ("users/track", {"id": 1, "email": f"{LONG}@example.com"}),
    ("users/track", {"id": 1, "data": "x"}),
    ("users/track", {"id": 1, "data": 7}),
    ("users/track", {"id": 1, "data": [1]}),
    ("users/track", {"id": 1, "data": {"a": "\0"}}),
    ("users/track", {"id": 1, "data": {"": 1}}),
    ("users/track", {"id": 1, "data": {"k" * 129: 1}}),
    ("users/track", {"id": 1, "data": {f"k{n}": n for n in range(300)}}),
    ("users/track", {"id": 1, "data": {"a": "x" * 9000}}),
    ("users/track", {"id": 1, "data": {"a": [[[[[[[[[[1]]]]]]]]]]}}),
    ("users/track", {"id": 1, "data": {"a": [[[[[1]]]]]}}),
    ("users/track", {"id": 1, "data": '{"a": [[[[[1]]]]]}'}),
    ("users/track", {"id": 1, "channels": "push"}),
    ("users/track", {"id": 1, "channels": [1]}),
    ("users/track", {"id": 1, "extras": "now"}),
    ("users/track", {"id": 1, "extras": {"created_at": "yesterday"}}),
    ("users/track", {"id": 1, "extras": {"created_at": [1]}}),
    ("users/track", {"id": 1, "extras": {"created_at": -1}}),
    ("users/track", {"id": 1, "extras": {"created_at": "9999999999999999"}}),
    ("users/edit", {"id": 1}),
    ("users/edit", {"id": 1, "changes": 7}),
    ("users/edit", {"id": 1, "changes": {"email": "x"}}),
    ("users/edit", {"changes": {"a": 1}}),
    ("users/tags/edit", {"id": 1}),
    ("users/tags/edit", {"id": 1, "add": None, "remove": None}),
    ("users/tags/edit", {"id": 1, "add": {"a": 1}}),
    ("users/tags/edit", {"id": 1, "add": [["a"]]}),
    ("users/tags/edit", {"id": 1, "add": "[broken"}),
    ("users/tags/edit", {"id": 1, "add": ["x" * 129]}),
    ("users/tags/edit", {"id": 1, "add": [str(n) for n in range(300)]}),
    ("users/tags/edit", {"add": ["a"]}),
    ("users/unsubscribe", {}),
    ("users/resubscribe", {"email": "x"}),
    ("users/reidentify", {"id": 1}),
    ("users/reidentify", {"new_id": 1}),
    ("users/reidentify", {"id": "", "new_id": 1}),
    ("users/reidentify", {"id": 1, "new_id": " "}),
    ("users/reidentify", {"id": [1], "new_id": 2}),
    ("users/reidentify", {"id": "undefined", "new_id": 2}),
    ("users/reidentify", {"id": 1, "new_id": LONG + "x"}),
    ("users/delete", {}),
    ("users/delete", {"id": "null"}),
    ("events/track", {"event_name": "Bought"}),
    ("events/track", {"identity": {}, "event_name": "Bought"}),
    ("events/track", {"identity": 42, "event_name": "Bought"}),
    ("events/track", {"identity": [42], "event_name": "Bought"}),
    ("events/track", {"identity": "42", "event_name": "Bought"}),
    ("events/track", {"identity": {"name": "x"}, "event_name": "Bought"}),
    ("events/track", {"identity": {"id": 1}}),
    ("events/track", {"identity": {"id": 1}, "event_name": " "}),
    ("events/track", {"identity": {"id": 1}, "event_name": 7}),
    ("events/track", {"identity": {"id": 1}, "event_name": LONG}),
    ("events/track", {"identity": {"id": 1}, "event_name": "Bought", "data": [1]}),
    ("events/track", {"identity": {"id": 1}, "event_name": "Bought", "data": {"a": "x" * 40_000}}),
    ("events/track", {"identity": {"id": 1}, "event_name": "Bought", "data": '{"a": "\\u0000"}'}),
]


@pytest.mark.parametrize(("path", "body"), WRONG, ids=[f"{p} {str(b)[:60]}" for p, b in WRONG])
async def test_wrong_parameters_are_refused_and_nothing_is_kept(vero: Vero, path: str, body: Json) -> None:
    method = "PUT" if path.startswith("users/reidentify") else "POST"
    assert_refused(await vero.send(path, body, method), 400, "Bad Request: ")
    assert await vero.driver.profiles() == []


async def test_a_blocked_id_in_a_reidentify_is_kept_as_an_identity_error(vero: Vero) -> None:
    assert_refused(await vero.send("users/reidentify", {"id": "undefined", "new_id": 2}, "PUT"), 400, "undefined")
    assert await vero.driver.errors() == ["blocked_identity"]


BROKEN = [
    (b'{"id": 1, ', {}),
    (b'{"id": 1}}', {}),
    (b"[1, 2]", {"Content-Type": "application/json"}),
    (b'"x"', {"Content-Type": "application/json"}),
    (b"id=1", {"Content-Type": "application/json"}),
    (b'{"id": "\xff"}', {}),
    (b'{"id": "\\ud800"}', {}),
    (b'{"id": 1, "data": {"n": NaN}}', {}),
    (b'{"id": 1, "data": {"n": 1e999}}', {}),
    (b'{"id": 1, "data": ' + b"[" * 100_000, {}),
    (b'{"id": 1, "data": {"n": ' + b"9" * 6000 + b"}}", {}),
    (b"id=%ff", FORM),
    (b"id=1&id[a]=2", FORM),
    (b"id[a]=1&id=2&id[b]=3", FORM),
    (b"data[a][b][c][d][e][f][g][h][i]=1", FORM),
    (b"&".join(b"k%d=1" % n for n in range(2000)), FORM),
    (b"x", {"Content-Type": "multipart/form-data"}),
    (b"x", {"Content-Type": "multipart/form-data; boundary=b"}),
    (b'--b\r\nContent-Disposition: form-data; name="id"\r\n\r\n1', {"Content-Type": "multipart/form-data; boundary=b"}),
    (b"--b\r\nContent-Type: text/plain\r\n\r\n1\r\n--b--", {"Content-Type": "multipart/form-data; boundary=b"}),
    (
        b'--b\r\nContent-Disposition: form-data; name="id"\r\n\r\n\xff\r\n--b--',
        {"Content-Type": "multipart/form-data; boundary=b"},
    ),
    (b"\x00\x01\x02", {}),
]


@pytest.mark.parametrize(("body", "headers"), BROKEN, ids=[str(b[:50]) for b, _ in BROKEN])
async def test_a_broken_body_is_refused_in_their_shape(vero: Vero, body: bytes, headers: dict[str, str]) -> None:
    query = {"auth_token": vero.auth_token}
    response = await vero.raw("POST", "users/track", params=query, content=body, headers=headers)
    assert_refused(response, 400, "Bad Request: ")
    assert await vero.driver.profiles() == []


async def test_a_body_cut_short_ends_the_connection(vero: Vero) -> None:
    """hubdoc's client counts letters instead of bytes: the rest of its body would become the next request."""
    whole = json.dumps(
        {"auth_token": vero.auth_token, "id": 1, "data": {"name": "Jürgen"}}, ensure_ascii=False
    ).encode()
    response = await vero.raw("POST", "users/track", content=whole[:-1])
    assert_refused(response, 400)
    assert response.headers["connection"] == "close"


async def test_a_body_that_never_ends_is_refused(vero: Vero, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "BODY_SECONDS", 0.05)

    async def half() -> AsyncIterator[bytes]:
        yield b'{"id": 1'
        await asyncio.sleep(5)

    response = await vero.raw("POST", "users/track", content=half())
    assert_refused(response, 400, "did not arrive")
    assert response.headers["connection"] == "close"


async def test_an_oversized_body_is_refused_in_their_shape(vero: Vero) -> None:
    response = await vero.send("users/track", {"id": 1, "data": {"a": "x" * 600_000}})
    assert_refused(response, 413, "larger than")
    assert await vero.driver.profiles() == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "users/track", 405),
        ("PUT", "events/track.json", 405),
        ("POST", "heartbeat", 405),
        ("PATCH", "users/edit", 405),
    ]
    + [("POST", "users", 404), ("GET", "", 404), ("POST", "users/track/", 404), ("OPTIONS", "nowhere", 404)],
)
async def test_what_does_not_exist_is_refused_in_their_shape(vero: Vero, method: str, path: str, status: int) -> None:
    assert_refused(await vero.raw(method, path), status)
