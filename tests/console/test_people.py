"""Finding people, and a person's page: what is shown, where it comes from, why."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.console.desk import Desk, desk_of


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """alice on a laptop and a phone, bob later on the same laptop, and a visitor nobody knows."""
    async with desk_of(tmp_path) as desk:
        await stage(desk)
        yield await desk.log_in(role="editor")


async def stage(desk: Desk) -> None:
    pushed = [
        ("laptop", ["track", "Landed", {"from": "news"}]),
        ("laptop", ["user", {"id": "alice@x.io", "email": "alice@x.io", "plan": "free"}]),
        ("laptop", ["reidentify", "42", "alice@x.io"]),
        ("laptop", ["user", {"id": "42", "plan": "pro", "name": "Alice"}]),
        ("laptop", ["tags", {"add": ["vip"]}]),
        ("laptop", ["unsubscribe", "42"]),
        ("laptop", ["track", "Purchased", {"total": 12}]),
        ("phone", ["user", {"id": "42"}]),
        ("laptop", ["user", {"id": "bob"}]),
        ("laptop", ["track", "Looked"]),
        ("kiosk", ["track", "Browsed"]),
        ("kiosk", ["user", {"id": "null"}]),
    ]
    for n, (device, command) in enumerate(pushed):
        await desk.driver.push(device, command, f"op{n}", desk.driver.time(None))


async def id_of(desk: Desk, who: str) -> str:
    profile = await desk.driver.find(who)
    assert profile is not None
    return str(profile["profile_id"])


async def test_people_are_found_by_all_that_is_known_of_them(database: str) -> None:
    async with desk_of(database) as desk:
        await stage(desk)
        await desk.log_in(role="viewer")
        alice = await id_of(desk, "u:42")
        device = desk.driver.gateway.device_id(desk.driver.site, desk.driver.tokens["phone"])
        for query in ("42", "alice@x.io", "ALICE@x.io", "ali", "pro", alice, str(device), desk.driver.tokens["phone"]):
            await desk.client.get(f"{desk.site}/people", params={"q": query})
            await desk.get(f"people?q={query}")
            assert f"/people/{alice}" in desk.page, query
        await desk.get("people?q=nobody-here")
        assert "Nobody fits “nobody-here”" in desk.text


async def test_people_come_in_lists(desk: Desk) -> None:
    await desk.get("people?list=known")
    assert "Alice" in desk.text and "bob" in desk.text and "Visitor" not in desk.text
    await desk.get("people?list=anonymous")
    assert "Alice" not in desk.text and "Visitor" in desk.text
    await desk.get("people")
    assert desk.text.index("Visitor") < desk.text.index("bob") < desk.text.index("Alice")


async def test_lists_have_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.console.people.PEOPLE", 2)
    await desk.get("people?list=all")
    seen = re.findall(r"/people/(\d+)\"", desk.page)
    older = re.search(r'href="([^"]*)" rel="next"', desk.page)
    assert older is not None and len(seen) == 2
    await desk.get(older[1].replace("&amp;", "&"))
    seen += re.findall(r"/people/(\d+)\"", desk.page)
    assert len(seen) == len(set(seen)) == 3


async def test_a_site_that_nobody_visited_says_what_to_do(tmp_path: Path) -> None:
    async with desk_of(tmp_path) as desk:
        await desk.log_in()
        await desk.get("people")
        assert "Nobody has been here yet" in desk.text and desk.driver.site.api_key in desk.text
        assert 'src="https://gateway.test/veroq.js"' in desk.text


async def test_a_person_is_shown_with_everything_known(desk: Desk) -> None:
    await desk.get(f"people/{await id_of(desk, 'u:42')}")
    for line in (
        "Alice",
        "alice@x.io",
        "42 primary a page said so",
        "2 devices, 3 visitors, 2 events",
        "unsubscribed since",
        "vip",
        "Device B here now",
        "Purchased",
        "total: 12",
    ):
        assert line in desk.text, (line, desk.text)


async def test_properties_say_where_they_come_from_and_what_they_replaced(desk: Desk) -> None:
    await desk.get(f"people/{await id_of(desk, 'u:42')}")
    row = desk.text[desk.text.index("Properties Property") :]
    assert re.search(r"plan pro Device A \S+ \w+ \d+, \S+ UTC 1 value free Device A", row), row
    assert re.search(r"name Alice Device A [^|]*? nothing", row)


async def test_a_value_that_was_said_again_replaced_nothing(desk: Desk) -> None:
    await desk.driver.push("phone", ["user", {"id": "42", "plan": "pro", "name": "Alice"}], "again", time.time())
    await desk.get(f"people/{await id_of(desk, 'u:42')}")
    row = desk.text[desk.text.index("Properties Property") :]
    assert re.search(r"name Alice Device B [^|]*? nothing plan pro Device B [^|]*? 1 value free Device A", row), row


async def test_the_time_line_shows_who_else_used_the_device(desk: Desk) -> None:
    await desk.get(f"people/{await id_of(desk, 'u:42')}")
    assert desk.page.count('<rect class="mine"') == 3
    assert desk.page.count('<rect class="other"') == 1
    assert re.search(r'<a href="[^"]*/people/\d+">bob</a>', desk.page)


async def test_the_ledger_is_a_story(desk: Desk) -> None:
    await desk.get(f"people/{await id_of(desk, 'u:42')}")
    story = desk.text[desk.text.index("Why these are one person") :]
    for sentence in (
        "Device A logged in as alice@x.io. All that this visitor did before became theirs.",
        "Device A said that alice@x.io is called 42 from now on.",
        "Device B logged in as 42",
    ):
        assert sentence in story, story


async def test_events_come_in_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.console.people.EVENTS", 1)
    await desk.get(f"people/{await id_of(desk, 'u:42')}")
    assert "Purchased" in desk.text and "Landed" not in desk.text
    older = re.search(r'href="([^"]*)#events" rel="next"', desk.page)
    assert older is not None
    await desk.get(older[1])
    assert "Landed" in desk.text and "Purchased" not in desk.text


async def test_a_merged_away_id_leads_to_the_survivor(desk: Desk) -> None:
    alice, bob = await id_of(desk, "u:42"), await id_of(desk, "u:bob")
    await desk.driver.api("POST", "/v1/merges", {"target": "42", "source": "bob"})
    assert (await desk.get(f"people/{bob}")).url.path.endswith(alice)


@pytest.mark.parametrize("wrong", ["1", "0", "x", "99999999999999999999", "-1", "%00"])
async def test_nobody_behind_an_id_is_a_readable_answer(desk: Desk, wrong: str) -> None:
    response = await desk.get(f"people/{wrong}")
    assert response.status_code in (400, 404)
    assert "<h1>" in response.text


async def test_looking_at_a_person_is_noted(desk: Desk) -> None:
    alice = await id_of(desk, "u:42")
    await desk.get(f"people/{alice}")
    await desk.get(f"people/{alice}/export")
    lines = await desk.access.accounts.audit(before=2**63 - 1, limit=2)
    assert [(e.user_name, e.action, e.subject) for e in lines] == [
        ("ann", "exported", f"profile {alice}"),
        ("ann", "looked at", f"profile {alice}"),
    ]
    assert not any("alice@x.io" in str(line) for line in lines)


async def test_the_export_is_a_file_with_everything(desk: Desk) -> None:
    response = await desk.get(f"people/{await id_of(desk, 'u:42')}/export")
    assert response.headers["content-disposition"].startswith("attachment")
    held = json.loads(response.content)
    assert {e["name"] for e in held["events"]} == {"Landed", "Purchased"}


async def test_blocked_values_are_listed(desk: Desk) -> None:
    await desk.get("blocked")
    assert "'null' is a placeholder, not somebody's id 1 1" in desk.text


async def test_a_viewer_finds_no_buttons(desk: Desk) -> None:
    async with desk.colleague("vic", "viewer") as vic:
        await vic.get(f"people/{await id_of(desk, 'u:42')}")
        assert "Alice" in vic.text
        for word in ("Merge with", "Undo…", "Delete", "Export"):
            assert word not in vic.text
