"""Retention: what goes, what stays, that the ledger still says what the tables say, and that nobody has to wait."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway import retention
from gateway.check import check_site
from gateway.errors import Unavailable
from gateway.model import now
from gateway.retention import Before, Removed, Retention, months_ago
from gateway.store import retention as statements
from gateway.store.base import Changes
from tests.driver import Driver, driving
from tests.test_bulk import Shell

ALL = ("events", "anonymous", "repeats", "link_tokens", "first_messages")


@pytest.fixture
async def driver(database: str) -> AsyncIterator[Driver]:
    async with driving(database) as driver:
        yield driver


def micros(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000_000)


def before(at: int, *kinds: str) -> Before:
    """Everything of the given kinds that is older than `at`."""
    return Before(**{kind: at if kind in kinds else 0 for kind in ALL})


async def removed(driver: Driver, limits: Before) -> Removed:
    """What went, which must be what was announced."""
    plan = Retention(driver.gateway, limits)
    announced = await plan.would_remove(driver.site)
    done = await plan.remove(driver.site)
    assert await check_site(driver.gateway.store, driver.site) == []
    assert done == announced
    return done


async def rows(driver: Driver, table: str) -> int:
    found = await driver.gateway.store.read(f"select count(*) as n from {table}")
    return int(found[0]["n"])


@pytest.mark.parametrize(
    ("months", "at", "earlier"),
    [
        (1, "2026-03-31 12:00", "2026-02-28 12:00"),
        (13, "2026-01-15 00:00", "2024-12-15 00:00"),
        (12, "2024-02-29 01:00", "2023-02-28 01:00"),
    ],
)
def test_months_are_those_of_the_calendar(months: int, at: str, earlier: str) -> None:
    assert months_ago(months, micros(at)) == micros(earlier)


# --- events -----------------------------------------------------------------------------------------------------------


async def test_old_events_go_and_their_people_stay_and_are_counted_exactly(driver: Driver) -> None:
    day = 24 * 3600
    start = time.time()
    for n in range(4):
        await driver.push("1", ["track", f"Old {n}"], f"o{n}", start - 5 * day + n)
    await driver.push("1", ["user", {"id": "42", "plan": "pro"}], "u", start - 4 * day)
    await driver.push("1", ["track", "Older"], "p", start - 3 * day)
    await driver.push("1", ["track", "New"], "n", start - 1 * day)
    await driver.server_push("42", ["track", "Paid long ago"], "s", start - 400 * day)
    await driver.server_push("42", ["track", "Paid"], "t", start)
    done = await removed(driver, before(int((start - 2 * day) * 1_000_000), "events"))
    assert done == Removed(events=6)
    profile = await driver.find("u:42")
    assert profile is not None
    assert (profile["events"], profile["properties"]) == (2, {"plan": "pro"})
    assert await driver.events("u:42") == ["New", "Paid"]
    assert await removed(driver, before(int((start - 2 * day) * 1_000_000), "events")) == Removed()


async def test_many_events_go_in_small_bites(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "AT_ONCE", 7)
    monkeypatch.setattr(statements, "PAGE", 3)
    at = time.time() - 100
    for device in range(5):
        entries = [{"id": f"{device}-{n}", "at": (at + n) * 1000, "command": ["track", "E"]} for n in range(10)]
        await driver.client.post("/v1/commands", json={"key": driver.site.api_key, "commands": entries})
    bites: list[int] = []
    plan = Retention(driver.gateway, before(now(), "events"))
    done = await plan.remove(driver.site, lambda so_far: bites.append(so_far.events))
    assert done.events == 50
    assert max(b - a for a, b in zip([0, *bites], bites, strict=False)) == 7
    assert await check_site(driver.gateway.store, driver.site) == []


# --- anonymous profiles -----------------------------------------------------------------------------------------------


async def test_a_passer_by_leaves_nothing_and_is_new_when_they_come_back(driver: Driver) -> None:
    at = time.time()
    await driver.push("1", ["track", "Landed"], "a", at - 60)
    await driver.push("1", ["logout"], "b", at - 50)
    await driver.push("2", ["user", {"id": "42"}], "c", at - 60)
    tables = ("devices", "visitors", "profiles", "events", "ledger", "ledger_refs", "births")
    found = await driver.gateway.store.read("select device_id from events")
    device = found[0]["device_id"]
    done = await removed(driver, before(now(), "anonymous"))
    assert done == Removed(anonymous_profiles=1)
    for table in tables:
        column = "profile_id" if table in ("profiles", "ledger_refs") else "device_id"
        left = await driver.gateway.store.read(f"select * from {table} where {column} = $1", device)
        assert left == [], table
    assert await driver.find("u:42")
    assert await driver.push("1", ["track", "Back"], "d", time.time()) == "accepted"
    profile = await driver.find("d:1")
    assert profile is not None
    assert profile["events"] == 1
    assert profile["visitors"][0]["device_id"] == str(device)
    assert await check_site(driver.gateway.store, driver.site) == []


async def test_who_was_seen_since_stays_and_so_does_everybody_with_a_name(driver: Driver) -> None:
    at = time.time()
    await driver.push("1", ["track", "Old"], "a", at - 60)
    await driver.push("1", ["track", "Here again"], "b", at)
    await driver.push("2", ["link", "jo@x.io"], "c", at - 60)
    await driver.server_push("7", ["user", {"id": "7"}], "d", at - 60)
    assert await removed(driver, before(int((at - 30) * 1_000_000), "anonymous")) == Removed()


async def test_anonymous_profiles_with_a_history_go_like_anybody(driver: Driver) -> None:
    at = time.time()
    await driver.push("1", ["user", {"id": "42"}], "a", at - 60)
    await driver.push("1", ["logout"], "b", at - 50)
    await driver.push("1", ["track", "Somebody else?"], "c", at - 40)
    for n in (2, 3):
        await driver.push(f"{n}", ["track", "Landed"], f"d{n}", at - 60)
    await driver.api("POST", "/v1/merges", {"target": driver.ref("d:2"), "source": driver.ref("d:3"), "op_id": "m"})
    done = await removed(driver, before(now(), "anonymous"))
    assert done == Removed(anonymous_profiles=2)
    assert await driver.events("u:42") == []
    profile = await driver.find("u:42")
    assert profile is not None
    assert len(profile["visitors"]) == 1
    assert await rows(driver, "events") == 0
    await driver.push("1", ["user", {"id": "43"}], "e", time.time())
    await driver.check_differ("u:42", "u:43")
    assert await check_site(driver.gateway.store, driver.site) == []


async def test_who_comes_back_in_that_moment_stays(driver: Driver) -> None:
    await driver.push("1", ["user", {"id": "42"}], "a", time.time() - 60)
    await driver.push("1", ["logout"], "b", time.time() - 50)
    await driver.push("1", ["track", "Landed"], "c", time.time() - 40)
    cutoff = int((time.time() - 10) * 1_000_000)
    pages = [page async for page in statements.idle_profiles(driver.gateway.store, driver.site.site_id, now())]
    await driver.push("1", ["track", "Back"], "d", time.time())
    plan = Retention(driver.gateway, before(cutoff, "anonymous"))
    assert not await plan._bite(lambda tx: plan._delete(tx, driver.site, pages[0][0]))
    assert await plan._bite(lambda tx: statements.drop_passers_by(tx, driver.site.site_id, pages[0], cutoff)) == []
    assert await rows(driver, "events") == 2


# --- the ledger and links ---------------------------------------------------------------------------------------------


async def test_repeated_logins_go_but_the_last_and_a_late_fact_still_finds_who_is_there(driver: Driver) -> None:
    at = time.time()
    for n in range(6):
        await driver.push("1", ["user", {"id": "42", "plan": "pro"}], f"u{n}", at - 60 + n)
    for n in range(3):
        await driver.push("1", ["user", {"id": "undefined"}], f"bad{n}", at - 40 + n)
    await driver.push("1", ["track", "Paid"], "p", at - 30)
    done = await removed(driver, before(now(), "repeats"))
    assert done.repeats == 4 + 2
    assert await driver.errors() == ["blocked_identity"]
    await driver.push("1", ["user", {"id": "43"}], "late", at - 58.5)
    await driver.check_events("u:42", ["Paid"])
    assert await check_site(driver.gateway.store, driver.site) == []


async def test_operators_decisions_are_kept(driver: Driver) -> None:
    at = time.time()
    await driver.push("1", ["user", {"id": "a@x.io"}], "a", at - 9)
    await driver.push("2", ["user", {"id": "a@x.io"}], "b", at - 8)
    await driver.push("1", ["reidentify", "42", "a@x.io"], "held", at - 7)
    held = (await driver.api("GET", "/v1/held")).json()["held"]
    assert len(held) == 1
    await driver.api("POST", f"/v1/held/{held[0]['op_id']}/reject", {})
    await removed(driver, before(now(), *ALL))
    fact = (await driver.api("GET", f"/v1/ledger/{held[0]['op_id']}")).json()
    assert fact["resolved_by"]
    assert (await driver.api("GET", f"/v1/ledger/{fact['resolved_by']}")).status_code == 200


async def test_link_tokens_go_when_their_links_have_expired_but_not_the_quarantined(driver: Driver) -> None:
    driver.site.settings["token_cap"] = 2
    await driver.gateway.sites.save(driver.site)
    for who, devices in (("jo@x.io", 1), ("leaked@x.io", 3)):
        for n in range(devices):
            await driver.do_link(f"{who}{n}", time.time() - 9 + n, f"{who}{n}", who, "link")
    assert await removed(driver, before(now(), "link_tokens")) == Removed(link_tokens=1)
    assert await rows(driver, "link_tokens") == 3
    assert await driver.find("u:jo@x.io")
    assert await driver.find("u:leaked@x.io") is None
    assert await removed(driver, before(0, "link_tokens")) == Removed()


async def test_the_messages_that_made_browsers_are_forgotten_and_the_names_of_devices_are_not(driver: Driver) -> None:
    for n in range(4):
        await driver.push(f"{n}", ["track", "A"], f"m{n}", time.time())
    site_id = driver.site.site_id
    await driver.gateway.store.run(lambda tx: tx.save(site_id, Changes(births=[("objectId\nphone", 5), ("late", 6)])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "AT_ONCE", 2)
        limits = before(now() + 1_000_000, "first_messages")
        assert await removed(driver, limits) == Removed(first_messages=5)
    kept = await driver.gateway.store.read("select message_id, device_id from births")
    assert kept == [{"message_id": "objectId\nphone", "device_id": 5}]
    assert await removed(driver, limits) == Removed()


# --- any history ------------------------------------------------------------------------------------------------------


async def people(driver: Driver) -> list[Any]:
    """Everybody with a name, without what retention may change."""
    found = [p for p in await driver.profiles() if p["identities"]]
    for profile in found:
        profile["visitors"] = [v["visitor_id"] for v in profile["visitors"]]
        profile.pop("events")
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_history_nobody_with_a_name_is_changed(driver: Driver, seed: int) -> None:
    choose = random.Random(seed)
    at = time.time() - 3000
    ids = ["1", "2", "a@x.io", "b@x.io"]
    done: list[str] = []
    for n in range(60):
        device, who, other = f"{choose.randrange(5)}", choose.choice(ids), choose.choice(ids)
        at += choose.uniform(0.1, 9)
        when = at - choose.choice((0, 0, 0, 60))
        kind = choose.choice(("track", "track", "user", "user", "logout", "link", "reidentify", "merge", "undo"))
        if kind == "merge":
            body = {"target": who, "source": other, "op_id": f"m{n}"}
            done += [f"m{n}"] if (await driver.api("POST", "/v1/merges", body)).status_code == 201 else []
        elif kind == "undo" and done:
            await driver.api("POST", f"/v1/operations/{choose.choice(done)}/undo", {})
        elif kind != "undo":
            command: dict[str, list[Any]] = {
                "track": ["track", f"E{n}"], "user": ["user", {"id": who}], "logout": ["logout"],
                "link": ["link", who], "reidentify": ["reidentify", who, other],
            }  # fmt: skip
            await driver.push(device, command[kind], f"c{n}", when)
    assert await check_site(driver.gateway.store, driver.site) == []
    was = await people(driver)
    await removed(driver, before(now(), *ALL))
    assert await people(driver) == was
    assert await rows(driver, "events") == 0
    for op in done:
        await driver.api("POST", f"/v1/operations/{op}/undo", {})
    assert await check_site(driver.gateway.store, driver.site) == []


# --- by itself, and on the command line -------------------------------------------------------------------------------


async def test_one_gateway_does_a_pass_a_day(driver: Driver) -> None:
    at = now()
    assert [await retention.due(driver.gateway, at) for _ in range(3)] == [True, False, False]
    assert not await retention.due(driver.gateway, at + 22 * 3600 * 1_000_000)
    assert await retention.due(driver.gateway, at + 24 * 3600 * 1_000_000)


async def test_it_works_in_the_background_and_says_what_it_did(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.01)
    caplog.set_level("INFO")
    driver.gateway.settings.keep_events = 1
    month = 33 * 24 * 3600
    await driver.server_push("42", ["track", "Paid"], "a", time.time() - month)
    await driver.server_push("42", ["track", "Paid"], "b", time.time())
    async with retention.retained(driver.gateway):
        for _ in range(500):
            if report := await driver.gateway.store.config(retention.REPORT):
                break
            await asyncio.sleep(0.01)
    assert report is not None
    assert json.loads(report)["removed"]["shop"]["events"] == 1
    assert driver.gateway.writer.tally.removed == {"events": 1}
    assert "retention removed of shop: 1 events" in caplog.text


@pytest.mark.parametrize("error", [Unavailable("the disk is full"), ZeroDivisionError()])
async def test_a_pass_that_fails_is_not_the_last(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.01)
    asked = asyncio.Semaphore(0)

    async def due(*given: Any) -> bool:
        asked.release()
        raise error

    monkeypatch.setattr(retention, "due", due)
    async with retention.retained(driver.gateway):
        for _ in range(3):
            await asyncio.wait_for(asked.acquire(), 10)


async def test_a_pass_that_is_broken_off_goes_on_and_does_not_wait_for_the_next_day(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.01)
    begun = asyncio.Semaphore(0)

    async def one_pass(*given: Any) -> None:
        begun.release()
        raise Unavailable("the database went away")

    monkeypatch.setattr(retention, "one_pass", one_pass)
    async with retention.retained(driver.gateway):
        for _ in range(3):
            await asyncio.wait_for(begun.acquire(), 10)


async def test_what_went_is_not_in_the_files_any_more(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        month = 33 * 24 * 3600
        await driver.server_push("42", ["track", "Paid", {"card": "a-secret-of-old"}], "a", time.time() - month)
        driver.gateway.settings.keep_events = 1

        def files() -> bytes:
            return b"".join(f.read_bytes() for f in tmp_path.glob("gateway.db*"))

        assert b"a-secret-of-old" in files()
        await retention.one_pass(driver.gateway, rest=0)
        assert b"a-secret-of-old" not in files()


def test_retention_as_a_user_meets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Shell(tmp_path, monkeypatch)
    gateway("site", "create", "shop")
    gateway.write("people.csv", "id\n42\n")
    gateway("import", "shop", "people.csv")
    planned = gateway.json("retention", "--dry-run", "--keep-events", "13")
    assert planned == {"dry_run": True, "removed": {"shop": dict.fromkeys(Removed.__slots__, 0)}}
    done = gateway("retention")
    assert "events: kept for ever" in done.stdout
    assert "shop: gone: nothing" in done.stdout
    assert "GATEWAY_KEEP_EVENTS" in gateway("retention", "--keep-events", "5000").stderr
