"""The server's clock jumps: ids stay in order, the order of what people did is kept, nobody becomes somebody else."""

import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.driver import driving
from tests.faults.swarm import UNLIMITED, Swarm, check_all
from tests.server import GatewayServer, Site, api_answer

WRONG_CLOCK = Path(__file__).with_name("wrong_clock.py")
HOUR = 3600
JUMPS = (0, HOUR, -HOUR, 2 * HOUR, 0)


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The file that says by how many seconds the gateway's clock is off."""
    file = tmp_path / "clock"
    set_clock(file, 0)
    return file


@pytest.fixture
def server(tmp_path: Path, clock: Path) -> Iterator[GatewayServer]:
    program = tmp_path / "gateway-with-wrong-clock"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {WRONG_CLOCK} {clock} "$@"\n')
    program.chmod(0o700)
    with GatewayServer(tmp_path, environment=UNLIMITED, python=program) as running:
        yield running


def set_clock(file: Path, seconds: int) -> None:
    """Turns the gateway's clock at once, so that it never reads half a number."""
    fresh = file.with_suffix(".new")
    fresh.write_text(str(seconds))
    fresh.replace(file)


class Page:
    """A browser with a clock of its own, which is right."""

    def __init__(self, server: GatewayServer, site: Site) -> None:
        self.client, self.site, self.sent = httpx.Client(base_url=server.url), site, 0

    def push(self, *command: Any) -> None:
        self.sent += 1
        entry = {"id": f"p{self.sent}", "at": time.time() * 1000, "command": command}
        body = {"key": self.site["api_key"], "sent_at": time.time() * 1000, "commands": [entry]}
        assert self.client.post("/v1/commands", json=body).status_code == 202


def test_ids_stay_in_order_and_nothing_is_lost(server: GatewayServer, clock: Path) -> None:
    with Swarm(server.port, server.site(), browsers=4) as swarm:
        for seconds in JUMPS:
            set_clock(clock, seconds)
            swarm.wait_for_more()
    check_all(server, swarm)
    database = sqlite3.connect(server.folder / "gateway.db")
    ids = [row[0] for row in database.execute("select event_id from events order by rowid")]
    database.close()
    assert ids == sorted(ids) and len(ids) == len(set(ids))
    assert set(swarm.statuses) == {202}


def test_a_page_stays_the_same_browser_and_its_people_stay_apart(server: GatewayServer, clock: Path) -> None:
    site = server.site()
    page = Page(server, site)
    for seconds, person in zip(JUMPS, ("bob", "adam", "carl", "dora", "emil"), strict=True):
        set_clock(clock, seconds)
        page.push("user", {"id": person})
        page.push("track", f"Seen by {person}")
    page.client.close()
    with server.api(site) as api:
        profiles = [
            api_answer(api.get("/v1/profiles", params={"identity": p})) for p in ("bob", "adam", "carl", "dora", "emil")
        ]
        names = [
            [e["name"] for e in api_answer(api.get(f"/v1/profiles/{p['profile_id']}/events"))["events"]]
            for p in profiles
        ]
    assert names == [[f"Seen by {p}"] for p in ("bob", "adam", "carl", "dora", "emil")]
    assert len({v["device_id"] for p in profiles for v in p["visitors"]}) == 1


def test_a_clock_put_right_by_hours_costs_nobody_his_cookie(server: GatewayServer, clock: Path) -> None:
    site = server.site()
    set_clock(clock, 5 * HOUR)
    page = Page(server, site)
    page.push("user", {"id": "bob"})
    server.stop()
    set_clock(clock, 0)
    server.start()
    page.client.base_url = httpx.URL(server.url)
    page.push("track", "Back")
    page.client.close()
    bob = api_answer(server.api(site).get("/v1/profiles", params={"identity": "bob"}))
    assert len({v["device_id"] for v in bob["visitors"]}) == 1
    assert sum(v["events"] for v in bob["visitors"]) == 1, "the event came from another browser"


@pytest.mark.parametrize("seed", [36, 1, 2, 3])
async def test_the_tables_say_what_the_ledger_says_whatever_a_browsers_clock_does(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    token: str | None = None
    async with driving(tmp_path) as driver:
        for n in range(12):
            clock = (time.time() - chance.choice((0, 0, HOUR, -HOUR, -2 * HOUR))) * 1000
            entries = []
            for m in range(chance.randint(1, 3)):
                kind, person = (
                    chance.choice(("track", "track", "user", "logout", "reidentify")),
                    f"p{chance.randrange(3)}",
                )
                rest = {"track": ["Seen"], "user": [{"id": person, "plan": n}], "reidentify": [person, f"{person}@x"]}
                entries.append({"id": f"m{n}-{m}", "at": clock + m, "command": [kind, *rest.get(kind, [])]})
            body = {"key": driver.site.api_key, "device": token, "sent_at": clock + 5, "commands": entries}
            answer = await driver.client.post("/v1/commands", json=body)
            token = answer.json().get("device", token)
            await driver.check_refold()
