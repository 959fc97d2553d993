"""`gateway check`: refolds a live database, says what differs, and tells by its exit code."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.errors import GatewayError
from tests.driver import driving


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database in which alice and bob are one person, and carol is another."""

    async def fill() -> None:
        async with driving(tmp_path) as driver:
            steps = []
            for device, who in (("d1", "alice"), ("d2", "bob"), ("d3", "carol")):
                steps += [["track", {"device": device, "name": "looked"}]]
                steps += [["login", {"device": device, "identity": who, "proof": "claimed"}]]
            steps += [["merge", {"target": "u:alice", "source": "u:bob"}]]
            await driver.run(steps)

    asyncio.run(fill())
    return tmp_path / "gateway.db"


def check(database: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", "--database", f"sqlite:///{database}", *options])
    return result.exit_code, result.output


def spoil(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()


def test_a_sound_database_exits_with_0(database: Path) -> None:
    code, output = check(database)
    assert (code, "the tables say what the ledger says" in output) == (0, True), output
    code, output = check(database, "--json")
    assert json.loads(output) == {"ok": True, "differences": {"shop": []}}


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("update visitors set home = home + 1 where claim_value = 'carol'", "visitor"),
        ("update visitors set claim_value = 'bob' where claim_value = 'carol'", "visitor"),
        ("update visitors set events = events + 1 where claim_value = 'carol'", "counts 2 events, there are 1"),
        ("delete from events where rowid = (select min(rowid) from events)", "counts 1 events, there are 0"),
        ("update identities set proof = 5 where value = 'carol'", "identity ('id', 'carol')"),
        ("delete from identities where value = 'bob'", "identity ('id', 'bob')"),
        ("update profiles set root = profile_id where root <> profile_id", "profile"),
        ("update profiles set primary_value = 'bob' where primary_value = 'alice'", "profile"),
        ("insert into exclusions select site_id, 1, 2, 3 from sites", "pair (1, 2)"),
        ("delete from ledger where kind = 'merge'", "profile"),
    ],
)
def test_what_was_changed_by_hand_is_named(database: Path, statement: str, named: str) -> None:
    spoil(database, statement)
    code, output = check(database)
    assert code == 1
    assert named in output.replace("\n", " "), output


def test_one_site_can_be_asked_for(database: Path) -> None:
    assert check(database, "--site", "shop")[0] == 0
    result = CliRunner().invoke(app, ["check", "--database", f"sqlite:///{database}", "--site", "none"])
    assert isinstance(result.exception, GatewayError)


async def test_it_runs_on_a_database_that_is_in_use(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        await driver.run([["login", {"device": "d1", "identity": "alice", "proof": "claimed"}]])
        code, output = await asyncio.to_thread(check, tmp_path / "gateway.db")
        assert code == 0, output
        await driver.run([["merge", {"target": "u:alice", "source": "d:d1"}]])
