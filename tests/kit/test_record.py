"""`gateway record` and `gateway replay`: what pages sent, played against another database."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from gateway.cli import app
from gateway.errors import BadRequest
from gateway.record import read_lines
from gateway.testing import Background, RunningGateway
from tests.kit.conftest import send
from tests.server import GatewayServer, gateway_environment

LOGIN = ["user", {"id": "42", "email": "jo@x.io"}]


@pytest.fixture
def first(gateway_background: Background) -> Iterator[RunningGateway]:
    with RunningGateway(gateway_background) as running:
        yield running


@pytest.fixture
def second(gateway_background: Background) -> Iterator[RunningGateway]:
    with RunningGateway(gateway_background) as running:
        yield running


def session(gateway: RunningGateway) -> None:
    """A laptop with a link and a login, a phone, a person who is somebody else, a server's event and a merge."""
    key = gateway.site.api_key
    link = gateway.link_for("jo@x.io", "http://shop/").partition("vero_id=")[2]
    laptop = send(gateway.url, key, ["link", link], ["track", "Viewed", {"sku": "A1"}])
    send(gateway.url, key, ["user", {"id": "42"}], ["reidentify", "42", "jo@x.io"], device=laptop)
    send(gateway.url, key, LOGIN, ["track", "Purchased", {"total": 12}])
    send(gateway.url, key, ["user", {"id": "bob"}], ["track", "Viewed"], ["trakc"], device=laptop)
    entry = {"id": "s1", "at": 1, "command": ["track", "Shipped"], "identity": "42"}
    gateway.call("POST", "/v1/commands", {"commands": [entry]})
    gateway.call("POST", "/v1/merges", {"target": "42", "source": "bob"})


def people(gateway: RunningGateway) -> list[Any]:
    """Everybody without the ids that a database gives."""
    found = []
    for profile in gateway.people():
        names = sorted((i["value"], i["proof"]) for i in profile["identities"])
        turns = [(v["proof"], v["first_seen"], v["last_seen"], v["events"]) for v in profile["visitors"]]
        found.append((names, profile["properties"], profile["tentative"], profile["events"], sorted(turns, key=str)))
    return sorted(found, key=str)


def test_a_replay_makes_the_same_people(first: RunningGateway, second: RunningGateway, tmp_path: Path) -> None:
    file = tmp_path / "session.jsonl"
    with first.recording(file):
        session(first)
    done = second.replay(file)
    assert (done.problems, done.other_outcomes) == ([], [])
    assert people(second) == people(first)
    assert (done.requests, done.devices, done.skipped) == (6, 3, 1)


def test_a_merge_of_profiles_by_their_ids_finds_the_same_people(
    first: RunningGateway, second: RunningGateway, tmp_path: Path
) -> None:
    file = tmp_path / "session.jsonl"
    with first.recording(file):
        send(first.url, first.site.api_key, LOGIN)
        device = send(first.url, first.site.api_key, ["track", "Viewed"])
        (nobody,) = [p for p in first.people() if not p["identities"]]
        source = {"profile_id": nobody["profile_id"]}
        target = {"profile_id": first.person("42").profile_id}
        merged = first.call("POST", "/v1/merges", {"target": target, "source": source})
        send(first.url, first.site.api_key, ["track", "Viewed"], device=device)
        first.call("POST", f"/v1/operations/{merged['op_id']}/undo", {})
    assert [sorted(line)[:2] for line in read_lines(file)][2] == ["at", "operation"]
    done = second.replay(file)
    assert (done.problems, done.other_outcomes) == ([], [])
    assert people(second) == people(first)


def test_a_second_replay_changes_nothing(first: RunningGateway, second: RunningGateway, tmp_path: Path) -> None:
    file = tmp_path / "session.jsonl"
    with first.recording(file):
        session(first)
    second.replay(file)
    before = people(second)
    second.replay(file)
    assert people(second) == before


def test_a_recording_holds_no_key_and_no_token(first: RunningGateway, tmp_path: Path) -> None:
    file = tmp_path / "session.jsonl"
    with first.recording(file):
        session(first)
    text = file.read_text()
    assert first.site.api_key not in text
    assert first.site.secret_key not in text
    assert "vq1_" not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_other_rules_are_seen_in_other_outcomes(
    first: RunningGateway, gateway_background: Background, tmp_path: Path
) -> None:
    """Would my pages still work with trust `strict`? A recording of them tells."""
    file = tmp_path / "session.jsonl"
    with first.recording(file):
        send(first.url, first.site.api_key, ["link", "jo@x.io"], ["track", "Viewed"])
    with RunningGateway(gateway_background, {"trust": "strict"}) as strict:
        done = strict.replay(file)
        (other,) = done.other_outcomes
    assert (other["command"][0], other["recorded"], other["replayed"]) == ("link", "tentative", "skipped")


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("\nhello\n")
    with pytest.raises(BadRequest, match="line 2 is not a line of a recording"):
        list(read_lines(file))
    file.write_text('{"recording": 1, "site": "shop", "device": "1"}')
    with pytest.raises(BadRequest, match="line 1 is not a line of a recording"):
        list(read_lines(file))
    for nothing in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(BadRequest, match="cannot be read"):
            list(read_lines(nothing))


def test_a_recording_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway", "record", "none/session.jsonl", "--port", "0"]
    done = subprocess.run(command, cwd=tmp_path, env=gateway_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "none/session.jsonl cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


class RecordingServer(GatewayServer):
    arguments = ("record", "session.jsonl", "--host", "127.0.0.1")


def test_the_commands(tmp_path: Path) -> None:
    with RecordingServer(tmp_path) as server:
        site = server.site("shop")
        send(server.url, site["api_key"], LOGIN, ["track", "Purchased", {"total": 12}])
    database = ["--database", f"sqlite:///{tmp_path / 'other.db'}"]

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, *database])

    file = str(tmp_path / "session.jsonl")
    assert run("site", "create", "shop", "--json").exit_code == 0
    done = json.loads(run("replay", file, "--json").stdout)
    assert (done["requests"], done["commands"], done["outcomes"]) == (1, 2, {"attached": 1, "accepted": 1})
    assert "1 requests with 2 commands" in run("replay", file, "--site", "shop").stdout
    assert "there is no site 'nobody'" in str(run("replay", file, "--site", "nobody").exception)
