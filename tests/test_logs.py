"""What is logged: JSON that a machine reads, no personal data, a line a request where it is wanted."""

from __future__ import annotations

import json
import logging
import logging.config
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.logs import FIELDS, JsonLines, Lines, RequestLog, configuration
from gateway.settings import load
from tests.server import GatewayServer

SECRET = "mia.secret@x.io"


def record(error: BaseException | None = None, name: str = "gateway.test", message: str = "it failed") -> Any:
    given = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, (), given)


def raised() -> BaseException:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(f"no {SECRET}") from error
    except ValueError as error:
        return error


@pytest.mark.parametrize("kind", [Lines, JsonLines])
def test_an_error_tells_where_it_happened_and_not_whose_data_it_was(kind: type[Lines]) -> None:
    line = kind().format(record(raised()))
    assert "Traceback (most recent call last)" in line
    assert "in raised" in line
    assert line.index("KeyError") < line.index("ValueError")
    assert SECRET not in line
    assert SECRET in kind(texts=True).format(record(raised()))


def test_an_error_that_nobody_took_does_not_tell_either() -> None:
    said = f"Task exception was never retrieved\nfuture: <Task exception=KeyError('{SECRET}')>"
    assert SECRET not in Lines().format(record(name="asyncio", message=said))


def test_json_is_one_line_with_the_records_own_fields() -> None:
    one = record()
    setattr(one, FIELDS, {"status": 202, "ms": 1.5})
    line = JsonLines().format(one)
    told = json.loads(line)
    assert "\n" not in line
    assert (told["level"], told["logger"], told["message"]) == ("error", "gateway.test", "it failed")
    assert (told["status"], told["ms"], told["time"][-1]) == (202, 1.5, "Z")


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_configuration_is_one_that_logging_takes(form: str) -> None:
    settings = load({}, log_format=form)
    kept = (logging.root.handlers[:], logging.root.level)
    try:
        logging.config.dictConfig(configuration(settings))
        assert isinstance(logging.root.handlers[0].formatter, JsonLines if form == "json" else Lines)
    finally:
        logging.root.handlers[:], logging.root.level = kept


async def test_only_failures_are_logged_if_only_they_are_wanted(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": int(scope["path"][1:])})

    async def send(message: Any) -> None:
        pass

    caplog.set_level("INFO")
    for which in ("failed", "all"):
        for status in (200, 404):
            scope = {"type": "http", "method": "GET", "path": f"/{status}"}
            await RequestLog(app, which)(scope, send, send)
    assert [getattr(r, FIELDS)["status"] for r in caplog.records] == [404, 200, 404]


def test_a_gateways_log_is_json_and_holds_nobodys_data(tmp_path: Path) -> None:
    wanted = {"GATEWAY_LOG_FORMAT": "json", "GATEWAY_LOG_REQUESTS": "all"}
    with GatewayServer(tmp_path, environment=wanted) as server:
        site = server.site()
        made = server.api(site).post("/v1/links", json={"identity": SECRET, "url": "https://shop.example/"}).json()
        entry = {"id": "a", "at": 0, "command": ["user", {"id": SECRET, "phone": SECRET}]}
        bodies: list[Any] = [{"key": site["api_key"], "commands": [entry, SECRET, ["nonsense", SECRET]]}, SECRET]
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            client.post("/v1/commands", json=bodies[0])
            for body in bodies:
                client.post(f"/v1/commands?who={SECRET}", json=body, headers={"Cookie": f"vq_dev={SECRET}"})
            client.get(f"/v1/profiles?q={SECRET}")
            client.get(f"/r/{made['token']}")
            client.get(f"/{SECRET}/there?{SECRET}")
            client.patch(f"/v1/user/{SECRET}/", json={"$email": SECRET}, headers={"Authorization": f"Bearer {SECRET}"})
        server.api(site).get("/v1/profiles", params={"identity": SECRET})
    text = server.log.read_text()  # a request's line follows its answer: all are there once the gateway has ended
    lines = [json.loads(line) for line in text.splitlines()]
    assert sum(r.get("route") == "/v1/commands" for r in lines) == 3
    requests = {(r["method"], r["route"], r["status"]) for r in lines if r["logger"] == "gateway.requests"}
    assert requests >= {
        ("POST", "/v1/commands", 202), ("POST", "/v1/commands", 400), ("GET", "/v1/profiles", 401),
        ("GET", "/v1/profiles", 200), ("GET", "/r/{token}", 302), ("GET", "-", 404),
    }  # fmt: skip
    assert [s for s in (SECRET, made["token"], site["secret_key"], site["api_key"]) if s in text] == []
    assert all({"time", "level", "message"} <= line.keys() for line in lines)


def test_lines_for_people_are_the_default(tmp_path: Path) -> None:
    with GatewayServer(tmp_path) as server:
        httpx.get(f"{server.url}/health", trust_env=False)
    assert "INFO    Application startup complete" in server.log.read_text()
    assert "/health" not in server.log.read_text()
