"""One person is one profile in every dialect and in the native API: merged through one, read through all, undone."""

import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.driver import Driver, driving

Json = dict[str, Any]

SHOP_NUMBER, VISITOR = "42", "visitor-1"


class Doors:
    """The four front doors of one site."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.client = driver, driver.client
        public, secret = driver.site.api_key, driver.site.secret_keys[-1]
        self.bearer = {"Authorization": f"Bearer {secret}"}
        self.token = base64.b64encode(f"{public}:{secret}".encode()).decode()
        self.passcode = {"X-CleverTap-Account-Id": public, "X-CleverTap-Passcode": secret}

    async def vero(self, path: str, body: Json, method: str = "POST") -> None:
        sent = {"auth_token": self.token} | body
        response = await self.client.request(method, f"/api/v2/{path}", json=sent)
        assert response.status_code == 200, response.text

    async def clevertap(self, method: str, path: str, **more: Any) -> Json:
        response = await self.client.request(method, f"/1/{path}", headers=self.passcode, **more)
        answer: Json = response.json()
        return answer

    async def upload(self, record: Json) -> None:
        answer = await self.clevertap("POST", "upload", json={"d": [record]})
        assert answer["status"] == "success", answer

    async def suprsend(self, method: str, path: str, body: Json | None = None) -> Any:
        response = await self.client.request(method, path, json=body, headers=self.bearer)
        return response.json() if response.content else None

    async def native(self, method: str, path: str, body: Json | None = None) -> Json:
        response = await self.driver.api(method, path, body)
        assert response.status_code < 300, response.text
        answer: Json = response.json()
        return answer

    # who somebody is, as each door tells it: (name, plan, names of events where the door shows them)

    async def seen_natively(self, identity: str) -> Json:
        return await self.native("GET", f"/v1/profiles?identity={identity}")

    async def seen_in_clevertap(self, identity: str) -> Json:
        answer = await self.clevertap("GET", "profile.json", params={"identity": identity})
        record: Json = answer["record"]
        return record

    async def seen_in_suprsend(self, identity: str) -> Json:
        user: Json = await self.suprsend("GET", f"/v1/user/{identity}/")
        return user

    async def assert_one(self) -> None:
        """Both ids are one person with everything that either ever had, whoever is asked."""
        natively = await self.seen_natively(VISITOR)
        assert natively == await self.seen_natively(SHOP_NUMBER)
        assert natively["primary"] == SHOP_NUMBER
        assert {i["value"] for i in natively["identities"]} >= {SHOP_NUMBER, VISITOR}
        assert natively["properties"].items() >= {"name": "Alice", "plan": "pro", "colour": "red"}.items()
        for identity in (SHOP_NUMBER, VISITOR):
            record = await self.seen_in_clevertap(identity)
            assert (record["identity"], record["name"]) == (SHOP_NUMBER, "Alice")
            assert record["profileData"].items() >= {"plan": "pro", "colour": "red"}.items()
            assert {"Bought", "Viewed", "Opened"} <= record["events"].keys()
        user = await self.seen_in_suprsend(SHOP_NUMBER)
        assert user["properties"].items() >= {"name": "Alice", "plan": "pro", "colour": "red"}.items()
        assert [e["value"] for e in user["$email"]] == ["alice@shop.example"]
        assert (await self.seen_in_suprsend(VISITOR))["code"] == 404
        assert (await self.suprsend("GET", "/v1/user/"))["meta"]["count"] == 1

    async def assert_two(self) -> None:
        """As before the merge, whoever is asked."""
        assert (await self.seen_natively(SHOP_NUMBER))["properties"].keys() & {"plan", "colour", "name"} == {"name"}
        visitor = await self.seen_natively(VISITOR)
        assert [i["value"] for i in visitor["identities"]] == [VISITOR]
        assert visitor["properties"].items() >= {"plan": "pro", "colour": "red"}.items()
        bought, viewed = [(await self.seen_in_clevertap(i))["events"].keys() for i in (SHOP_NUMBER, VISITOR)]
        assert ({"Bought"} <= bought, {"Viewed", "Opened"} <= viewed, {"Viewed", "Opened"} & bought) == (
            True, True, set()
        )  # fmt: skip
        users = [await self.seen_in_suprsend(i) for i in (SHOP_NUMBER, VISITOR)]
        assert [u["distinct_id"] for u in users] == [SHOP_NUMBER, VISITOR]
        assert (await self.suprsend("GET", "/v1/user/"))["meta"]["count"] == 2


@pytest.fixture
async def doors(database: str) -> AsyncIterator[Doors]:
    """Alice, known by her number, and a visitor; each of the dialects told something of them."""
    async with driving(database) as driver:
        doors = Doors(driver)
        await doors.vero("users/track", {"id": int(SHOP_NUMBER), "data": {"name": "Alice"}})
        await doors.suprsend("POST", f"/v1/user/{SHOP_NUMBER}/", {"$email": ["alice@shop.example"]})
        await doors.upload({"type": "event", "identity": SHOP_NUMBER, "evtName": "Bought", "evtData": {"total": 12}})
        await doors.vero("events/track", {"identity": {"id": VISITOR}, "event_name": "Viewed"})
        await doors.upload({"type": "profile", "identity": VISITOR, "profileData": {"plan": "pro"}})
        edit = {"distinct_id": VISITOR, "$user_operations": [{"$set": {"colour": "red"}}]}
        await doors.client.post("/event/", json=edit, headers=doors.bearer)
        await doors.client.post("/v2/event/", json={"distinct_id": VISITOR, "event": "Opened"}, headers=doors.bearer)
        await doors.assert_two()
        yield doors
        await driver.check_refold()


async def merge_in_vero(doors: Doors) -> None:
    await doors.vero("users/reidentify", {"id": VISITOR, "new_id": SHOP_NUMBER}, "PUT")


async def merge_in_suprsend(doors: Doors) -> None:
    user = await doors.suprsend("POST", f"/v1/user/{SHOP_NUMBER}/merge/", {"from_user_id": VISITOR})
    assert user["distinct_id"] == SHOP_NUMBER


async def merge_natively(doors: Doors) -> None:
    await doors.native("POST", "/v1/merges", {"target": SHOP_NUMBER, "source": VISITOR})


async def merge_by_identify(doors: Doors) -> None:
    properties = {"$identified_id": SHOP_NUMBER, "$anon_id": VISITOR}
    event = {"event": "$identify", "properties": properties, "$time": int(time.time() * 1000)}
    response = await doors.client.post("/v2/event/", json=event, headers=doors.bearer)
    assert response.status_code == 202, response.text


MERGES = [merge_in_vero, merge_in_suprsend, merge_natively, merge_by_identify]


@pytest.mark.parametrize("merge", MERGES)
async def test_merged_through_one_door_read_through_all_and_undone(doors: Doors, merge: Any) -> None:
    await merge(doors)
    await doors.assert_one()
    (fact,) = (await doors.native("GET", "/v1/ledger?outcome=merged"))["facts"]
    assert (await doors.native("POST", f"/v1/operations/{fact['op_id']}/undo"))["outcome"] == "undone"
    await doors.assert_two()


@pytest.mark.parametrize("merge", MERGES)
async def test_what_comes_late_under_the_old_id_lands_on_the_one_person(doors: Doors, merge: Any) -> None:
    await merge(doors)
    await doors.vero("events/track", {"identity": {"id": VISITOR}, "event_name": "Late by Vero"})
    await doors.upload({"type": "event", "identity": VISITOR, "evtName": "Late by CleverTap"})
    await doors.client.post("/event/", json={"distinct_id": VISITOR, "event": "Late"}, headers=doors.bearer)
    events = (await doors.seen_in_clevertap(SHOP_NUMBER))["events"]
    assert {"Late by Vero", "Late by CleverTap", "Late"} <= events.keys()
    await doors.assert_one()


async def test_taken_apart_in_clevertap_they_are_gone_from_suprsend(doors: Doors) -> None:
    await merge_in_suprsend(doors)
    answer = await doors.clevertap("POST", "demerge/profiles.json", json={"identities": [SHOP_NUMBER]})
    assert answer["status"] == "success", answer
    for identity in (SHOP_NUMBER, VISITOR):
        assert (await doors.seen_in_suprsend(identity))["code"] == 404
        assert await doors.driver.find(f"u:{identity}") is None
    (fact,) = (await doors.native("GET", "/v1/ledger?kind=demerge"))["facts"]
    await doors.native("POST", f"/v1/operations/{fact['op_id']}/undo")
    await doors.assert_one()


@pytest.mark.parametrize("door", ["vero", "clevertap", "suprsend"])
async def test_deleted_through_one_door_gone_from_all(doors: Doors, door: str) -> None:
    await merge_in_vero(doors)
    if door == "vero":
        await doors.vero("users/delete", {"id": SHOP_NUMBER})
    elif door == "clevertap":
        await doors.clevertap("POST", "delete/profiles.json", json={"identity": [SHOP_NUMBER]})
    else:
        await doors.suprsend("DELETE", f"/v1/user/{SHOP_NUMBER}/")
    for identity in (SHOP_NUMBER, VISITOR):
        assert await doors.driver.find(f"u:{identity}") is None
        assert (await doors.seen_in_suprsend(identity))["code"] == 404
        assert (await doors.clevertap("GET", "profile.json", params={"identity": identity}))["status"] == "fail"
