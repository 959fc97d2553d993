"""`gateway status`: what it says when all is well, and when it is not."""

from __future__ import annotations

import time
from collections import namedtuple
from pathlib import Path

import httpx
import pytest

from gateway import status
from gateway.settings import load
from gateway.status import BAD, NOTE, WELL, Status, address_of, amount, judged, span, summed
from tests.server import GatewayServer
from tests.test_bulk import Shell

Usage = namedtuple("Usage", "total used free")


def test_a_gateway_at_work_is_well_and_a_stopped_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(tmp_path, monkeypatch)
    api_key = shell.json("site", "create", "shop")["api_key"]
    with GatewayServer(tmp_path) as server:
        entry = {"id": "a", "at": time.time() * 1000, "command": ["track", "Visited"]}
        body = {"key": api_key, "commands": [entry]}
        assert httpx.post(f"{server.url}/v1/commands", json=body, trust_env=False).status_code == 202
        said = shell.json("status", "--url", server.url)
        assert said["ok"]
        states = {line["what"]: (line["state"], line["said"]) for line in said["lines"]}
        assert states["gateway"][1].startswith(f"ready at {server.url}")
        assert states["site shop"][0] == WELL
        assert states["commands"][1] == "1 of 1 accepted are durable"
        assert said["numbers"]["sites"]["shop"]["held_merges"] == 0
        assert said["numbers"]["database_bytes"] > 0
        assert "All is well." in shell("status", "--url", server.url).stdout
    said = shell.json("status", "--url", server.url, code=1)
    assert not said["ok"]
    assert "does not answer" in said["lines"][0]["said"]


def test_without_a_database_it_says_so_and_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Shell(tmp_path, monkeypatch).json("status", "--url", "http://127.0.0.1:1", code=1)
    assert [line["state"] for line in said["lines"]] == [BAD, BAD]
    assert not (tmp_path / "gateway.db").exists()


@pytest.mark.parametrize("address", ["x", "http://x:99999", "http://[x"])
def test_what_is_no_address_is_told(address: str) -> None:
    found = Status()
    status.look_at_gateway(found, load({}), address)
    assert "not an http(s) address" in found.lines[0].said
    assert not found.ok


def test_counters_are_judged() -> None:
    lines = list(
        judged(
            summed(
                "gateway_writer_queue_requests 5000\n"
                'gateway_groups_rolled_back_total{reason="unavailable"} 3\n'
                'gateway_groups_rolled_back_total{reason="bug"} 1\n'
                'gateway_requests_refused_total{reason="leaked_secret_key"} 2\n'
                "gateway_commit_seconds_count 2\ngateway_commit_seconds_sum 4\n"
            )
        )
    )
    assert [(line.what, line.state) for line in lines] == [
        ("queue", BAD), ("commits", NOTE), ("commits", NOTE), ("commits", BAD), ("keys", BAD), ("commands", WELL)
    ]  # fmt: skip


@pytest.mark.parametrize(("free", "state"), [(1 << 20, BAD), (5 << 30, NOTE), (50 << 30, WELL)])
def test_little_room_on_the_disk_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    (tmp_path / "gateway.db").write_bytes(b"x")
    monkeypatch.setattr(status.shutil, "disk_usage", lambda path: Usage(100 << 30, 0, free))
    found = Status()
    status.look_at_disk(found, load({}, database=f"sqlite:///{tmp_path / 'gateway.db'}"))
    assert [line.state for line in found.lines if line.what == "disk"] == [state]


def test_metrics_behind_a_token_are_asked_for_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def ask(url: str, token: str = "") -> tuple[int, str]:
        asked.append((url, token))
        return (200, "{}") if url.endswith("/ready") else (401, '{"error": {"message": "metrics need their token"}}')

    monkeypatch.setattr(status, "ask", ask)
    found = Status()
    status.look_at_gateway(found, load({}, metrics_token="t0ken"), "http://x")
    assert asked == [("http://x/ready", ""), ("http://x/metrics", "t0ken")]
    assert (found.lines[1].state, found.lines[1].said) == (NOTE, "/metrics is refused: metrics need their token")


def test_what_people_read() -> None:
    assert [amount(n) for n in (5, 2048, 3.5 * 1024**3)] == ["5 B", "2.0 KiB", "3.5 GiB"]
    assert [span(n) for n in (5, 600, 7200, 200_000)] == ["5 seconds", "10 minutes", "2 hours", "2 days"]
    assert address_of(load({}, host="0.0.0.0", port="81")) == "http://127.0.0.1:81"
