"""A CleverTap account on the application itself: its calls as methods, its devices by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.driver import Driver, driving

Json = dict[str, Any]


class Account:
    """One site, as a server with its two keys sees it below /1/."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.headers = {
            "X-CleverTap-Account-Id": driver.site.api_key,
            "X-CleverTap-Passcode": driver.site.secret_keys[-1],
        }

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = self.headers | more.pop("headers", {})
        response = await self.driver.client.request(method, f"/1/{path}", headers=headers, **more)
        assert response.status_code < 500, response.text
        return response

    async def post(self, path: str, body: Any) -> Json:
        response = await self.call("POST", path, json=body)
        assert response.status_code == 200, response.text
        answer: Json = response.json()
        return answer

    async def upload(self, *records: Any) -> Json:
        return await self.post("upload", {"d": list(records)})

    async def take(self, *records: Any) -> None:
        """Uploads records that must all be taken."""
        assert await self.upload(*records) == {"status": "success", "processed": len(records), "unprocessed": []}

    async def refusal(self, record: Any) -> tuple[int, str]:
        """The code and text with which a record is refused, between two that are taken."""
        good = {"type": "event", "identity": "bystander", "evtName": "Seen"}
        answer = await self.upload(good, record, good)
        assert (answer["status"], answer["processed"]) == ("partial", 2)
        [refused] = answer["unprocessed"]
        assert refused.keys() == {"status", "code", "error", "record"}
        assert (refused["status"], refused["record"]) == ("fail", record)
        return refused["code"], refused["error"]

    async def event(self, name: str, **who: str) -> None:
        await self.take({"type": "event", "evtName": name, "evtData": {}, **who})

    async def attach(self, device: str, identity: str, **data: Any) -> None:
        """What an SDK's onUserLogin and profile.push are for a server: somebody is on a device."""
        await self.take({"type": "profile", "objectId": device, "profileData": {"identity": identity, **data}})

    async def record(self, **who: str) -> Json:
        """The profile that an identity, email or objectId names."""
        answer = (await self.call("GET", "profile.json", params=who)).json()
        assert answer["status"] == "success", answer
        found: Json = answer["record"]
        return found

    async def missing(self, **who: str) -> bool:
        answer = (await self.call("GET", "profile.json", params=who)).json()
        return bool(answer == {"status": "fail", "error": "Profile not found", "code": 404})

    async def names(self, **who: str) -> list[str]:
        return sorted((await self.record(**who))["all_identities"])

    async def devices(self, **who: str) -> list[str]:
        return sorted(p["objectId"] for p in (await self.record(**who))["platformInfo"])

    async def events(self, **who: str) -> list[str]:
        """The names of a profile's events, without what the gateway says itself."""
        return sorted(e for e in (await self.record(**who))["events"] if not e.startswith("Identity "))

    async def debug(self, **who: str) -> dict[str, int]:
        """How often the gateway said what about a profile's identities."""
        events = (await self.record(**who))["events"]
        return {n: e["count"] for n, e in events.items() if n.startswith("Identity ")}

    async def pages(self, path: str, query: Json, size: int = 100) -> list[list[Json]]:
        """All pages behind a query."""
        answer = await self.post(f"{path}?batch_size={size}", query)
        assert answer.keys() == {"status", "cursor"}
        cursor, pages = answer["cursor"], []
        while cursor:
            page = (await self.call("GET", path, params={"cursor": cursor})).json()
            assert page["status"] == "success", page
            pages.append(page["records"])
            cursor = page.get("next_cursor")
        return pages


@asynccontextmanager
async def account(database: str | Path, **settings: Any) -> AsyncIterator[Account]:
    """An account on a fresh database, a URL or a folder for a SQLite file; its tables and ledger agree at the end."""
    async with driving(database, **settings) as driver:
        yield Account(driver)
        await driver.check_refold()
