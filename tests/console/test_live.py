"""The live view: what arrives, what is refused and why, and who may see it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.console import live
from tests.console.desk import Desk, desk_of


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(tmp_path) as desk:
        await desk.log_in()
        yield desk


async def send(desk: Desk, *commands: Any, key: str = "", **headers: str) -> httpx.Response:
    """What a page sends, whatever it is."""
    entries = [{"id": f"m{time.time_ns()}-{n}", "at": time.time() * 1000, "command": c} for n, c in enumerate(commands)]
    body = {"key": key or desk.driver.site.api_key, "commands": entries}
    return await desk.driver.client.post("/v1/commands", json=body, headers=headers)


async def test_events_and_identity_facts_come_with_their_outcome(database: str) -> None:
    async with desk_of(database) as desk:
        await desk.log_in()
        await desk.get("live")
        assert "Nothing has arrived for a day." in desk.text
        url = "https://shop.example/lamp?email=jo@x.io"
        await send(desk, ["track", "Purchased", {"card": "4111"}], ["user", {"id": "42"}])
        entry = {"id": "p1", "at": time.time() * 1000, "command": ["track", "Looked"], "page": {"url": url}}
        await desk.driver.client.post("/v1/commands", json={"key": desk.driver.site.api_key, "commands": [entry]})
        await desk.driver.server_push("42", ["track", "Paid"], "s1", time.time())
        await desk.get("live")
        assert "Purchased kept 42" in desk.text and "login 42 attached 42" in desk.text
        assert "Looked kept a stranger https://shop.example/lamp" in desk.text
        assert "Paid kept" in desk.text and "your server" in desk.text
        assert "4111" not in desk.text and "jo@x.io" not in desk.text  # the person's own page shows these


async def test_who_did_it_is_who_had_the_device_then(database: str) -> None:
    async with desk_of(database) as desk:
        await desk.log_in()
        said = (["user", {"id": "bob"}], ["track", "Looked"], ["user", {"id": "adam"}], ["track", "Played"])
        for n, command in enumerate(said):
            await desk.driver.push("laptop", command, f"op{n}", desk.driver.time(None))
        await desk.get("live")
        assert "login bob attached bob" in desk.text and "Looked kept bob" in desk.text
        assert "login adam switched adam" in desk.text and "Played kept adam" in desk.text


async def test_identity_errors_say_why_and_what_to_change(database: str) -> None:
    async with desk_of(database) as desk:
        await desk.log_in()
        await send(desk, ["user", {"id": "undefined"}])
        await send(desk, ["user", {"id": "42"}])
        await desk.get("live?show=trouble")
        assert "'undefined' is a placeholder, not somebody's id" in desk.text
        assert "Push the person's own id" in desk.text
        assert "login 42" not in desk.text


async def test_skipped_entries_and_refused_requests_are_told(desk: Desk) -> None:
    site = desk.driver.site
    await desk.driver.gateway.sites.change(site, origins=["https://shop.example"])
    await send(desk, ["trak", "Purchased"], ["track", "Fine"])
    for _ in range(3):
        assert (await send(desk, ["track", "Lost"], Origin="https://evil.test")).status_code == 403
    await desk.get("live?show=trouble")
    assert "trak skipped" in desk.text and "Did you mean" in desk.text
    assert "a whole request 3 times refused" in desk.text and "https://evil.test" in desk.text
    assert "Fine" not in desk.text


async def test_what_names_no_site_is_for_admins_only(desk: Desk) -> None:
    await send(desk, ["track", "A"], key="0" * 40, Origin="https://typo.example")
    assert "For no site at all" in (await desk.get("live")).text and "https://typo.example" in desk.text
    async with desk.colleague("vic", "editor") as vic:
        await vic.get("live")
        assert "typo" not in vic.text


async def test_a_site_sees_only_its_own(desk: Desk) -> None:
    gateway = desk.driver.gateway
    other = await gateway.sites.create("other", gateway.new_id(), origins=["https://other.example"])
    await send(desk, ["track", "Theirs"], ["oops", 1], key=other.api_key)
    await send(desk, ["track", "Theirs"], key=other.api_key, Origin="https://evil.test")
    await desk.get("live")
    assert "Nothing has arrived for a day." in desk.text and "evil" not in desk.page
    await desk.get(f"/console/s/{other.site_id}/live")
    assert "Theirs" in desk.text and "oops" in desk.text and "evil" in desk.text


async def test_what_is_remembered_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEPT", 5)
    refusals = live.Refusals(desk.driver.gateway.sites)
    desk.driver.gateway.observers[:] = [refusals]
    await desk.driver.gateway.sites.change(desk.driver.site, origins=["https://shop.example"])
    for n in range(9):
        await send(desk, *[[f"bad {n}"]] * 9, Origin="https://shop.example")
        await send(desk, ["track", "A"], Origin=f"https://evil-{n}.test")
    found = refusals.of(desk.driver.site.site_id)
    assert [line.what for line in found if line.outcome == "skipped"] == ["bad 8"] * 5
    assert [line.where for line in found if line.outcome == "refused"] == [
        f"https://evil-{n}.test" for n in range(4, 9)
    ]


async def test_a_request_that_is_no_json_does_no_harm(desk: Desk) -> None:
    for body in (b"", b"\xff\x00", b'{"key": "' + b"a" * 10_000, b"[" * 5000):
        answer = await desk.driver.client.post("/v1/commands", content=body)
        assert answer.status_code == 400
    assert (await desk.get("live")).status_code == 200


async def test_watching_is_noted_once(desk: Desk) -> None:
    async def noted() -> int:
        lines = await desk.access.accounts.audit(before=2**63 - 1, limit=50)
        return sum(e.subject == "live view" for e in lines)

    again = {"Sec-Fetch-Dest": "empty"}
    await desk.get("live", **again)  # not even by a script is it watched unseen
    assert await noted() == 1
    for _ in range(3):
        await desk.get("live", **again)
    assert await noted() == 1
    await desk.get("live")
    assert await noted() == 2
