"""The short way into ingest answers as the application does, whatever arrives however."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from gateway.app import Application, Front
from gateway.ingest import MAX_ORIGIN, PATH, Ingest
from gateway.protocol import Protocol
from gateway.settings import load
from tests.server import free_port

DIRECT, BY_APPLICATION = PATH, f"{PATH}?a-query-is-for-the-application"
ORIGIN = "Origin: https://shop.example\r\n"


class Running:
    """A gateway served by uvicorn in this process, and which way its requests took."""

    def __init__(self, port: int, api_key: str) -> None:
        self.port, self.api_key = port, api_key
        self.ways: list[str] = []

    async def send(self, *pieces: bytes, answers: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
        """Writes the pieces one after the other, and reads so many answers."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if len(pieces) > 1:
                    await asyncio.sleep(0)
            return [await self._answer(reader) for _ in range(answers)]
        finally:
            writer.close()

    @staticmethod
    async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if head.startswith("HTTP/1.1 100"):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            headers = dict(sorted(line.lower().split(": ", 1) for line in lines[1:] if line))
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(lines[0].split()[1]), headers, body


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    settings = load({}, database=f"sqlite:///{tmp_path / 'gateway.db'}", trusted_proxies="127.0.0.1")
    application = Application(settings)
    port = free_port()
    config = uvicorn.Config(
        application, host="127.0.0.1", port=port, http="gateway.protocol:Protocol", ws="none", log_level="error"
    )
    config.access_log = False
    server = uvicorn.Server(config)
    monkeypatch.setattr(server, "capture_signals", contextlib.nullcontext)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
    front = application.app
    assert isinstance(front, Front)
    gateway = front.gateway
    site = await gateway.sites.create("shop", gateway.new_id(), origins=["https://shop.example"])
    await gateway.sites.all(fresh=True)
    found = Running(port, site.api_key)
    direct, by_application = Ingest.direct, Ingest.__call__

    def noted(self: Ingest, *given: Any) -> bool:
        taken = direct(self, *given)
        found.ways += ["direct"] if taken else []
        return taken

    async def noted_too(self: Ingest, *given: Any) -> None:
        found.ways.append("application")
        await by_application(self, *given)

    monkeypatch.setattr(Ingest, "direct", noted)
    monkeypatch.setattr(Ingest, "__call__", noted_too)
    yield found
    server.should_exit = True
    await task


def body(running: Running, *commands: Any, **more: Any) -> bytes:
    entries = [{"id": f"m{n}-{time.time_ns()}", "at": time.time() * 1000, "command": c} for n, c in enumerate(commands)]
    return json.dumps({"key": running.api_key, "sent_at": time.time() * 1000, "commands": entries} | more).encode()


def post(path: str, content: bytes, headers: str = ORIGIN, method: str = "POST", version: str = "1.1") -> bytes:
    head = f"{method} {path} HTTP/{version}\r\nHost: localhost\r\n{headers}Content-Length: {len(content)}\r\n\r\n"
    return head.encode("latin-1") + content


def without_tokens(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, dict[str, str], bytes]:
    """An answer without what differs from device to device and second to second."""
    status, headers, content = answer
    headers = {k: re.sub(r"(vq_dev|-vq)=[^;]+", r"\1=…", v) for k, v in headers.items() if k != "date"}
    headers.pop("content-length", None)
    return status, headers, re.sub(rb'"device":"[^"]+"', b'"device":"\xe2\x80\xa6"', content)


TRACK = ["track", "Seen", {"n": 1}]
REQUESTS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "an event": ([TRACK], {}, ORIGIN),
    "no origin": ([TRACK], {}, ""),
    "another origin": ([TRACK], {}, "Origin: https://other.example\r\n"),
    "another key": ([TRACK], {"key": "0" * 40}, ORIGIN),
    "nothing to do": ([], {}, ORIGIN),
    "a bad entry among good ones": ([TRACK, ["nonsense"], TRACK], {}, ORIGIN),
    "a cookie that was not signed": ([TRACK], {}, ORIGIN + "Cookie: vq_dev=1-2.x.y\r\n"),
    "a link that waits": ([TRACK], {}, ORIGIN + "Cookie: a=b; vq_link=token\r\n"),
    "cookies in two headers": ([TRACK], {}, ORIGIN + "Cookie: a=b\r\nCookie: vq_link=token\r\n"),
    "global privacy control": ([TRACK], {}, ORIGIN + "Sec-GPC: 1\r\n"),
    "opted out": ([TRACK], {}, ORIGIN + "Cookie: vq_optout=1\r\n"),
    "a coding": ([TRACK], {}, ORIGIN + "Content-Encoding: gzip\r\n"),
    "behind a proxy": ([TRACK], {}, ORIGIN + "X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n"),
    "closing": ([TRACK], {}, ORIGIN + "Connection: close\r\n"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_both_ways_answer_alike(running: Running, name: str) -> None:
    commands, more, headers = REQUESTS[name]
    answers = []
    for path in (DIRECT, BY_APPLICATION):
        answers += await running.send(post(path, body(running, *commands, **more), headers))
    assert without_tokens(answers[0]) == without_tokens(answers[1])
    # A key that is not known may be new: the application looks.
    assert running.ways == (["application"] * 2 if name == "another key" else ["direct", "application"])
    assert "x-gateway-skipped" in answers[0][1] or name not in ("a bad entry among good ones", "opted out")


async def test_who_does_not_read_the_answers_takes_the_way_that_waits(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, connections = Protocol.connection_made, []

    def unread(self: Protocol, transport: asyncio.Transport) -> None:
        made(self, transport)
        self.pause_writing()
        connections.append(self)

    monkeypatch.setattr(Protocol, "connection_made", unread)
    answer = asyncio.create_task(running.send(post(DIRECT, body(running, TRACK))))
    async with asyncio.timeout(10):
        while not running.ways:  # noqa: ASYNC110 - what waits below it tells nobody
            await asyncio.sleep(0.01)
        assert running.ways == ["application"]
        connections[0].resume_writing()
        assert (await answer)[0][0] == 202


async def test_what_is_remembered_of_an_origin_is_bounded(running: Running) -> None:
    long = f"Origin: https://{'x' * 5000}.example\r\n"
    (answer,) = await running.send(post(DIRECT, body(running, TRACK), long))
    assert answer[0] == 403
    assert len(answer[1]["access-control-allow-origin"]) == MAX_ORIGIN


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"key": 1}', b"\xff\xfe", b'{"commands": {}}', b" "])
async def test_both_ways_refuse_alike(running: Running, content: bytes) -> None:
    answers = [(await running.send(post(path, content)))[0] for path in (DIRECT, BY_APPLICATION)]
    assert without_tokens(answers[0]) == without_tokens(answers[1])
    assert 400 <= answers[0][0] < 500 and running.ways == ["direct", "application"]


async def test_what_is_not_plain_takes_the_usual_way(running: Running) -> None:
    event = body(running, TRACK)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (event[:20], event[20:])) + b"0\r\n\r\n"
    chunked = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{ORIGIN}Transfer-Encoding: chunked\r\n\r\n".encode()
    for request, status in (
        (post(PATH, event, ORIGIN + "Expect: 100-continue\r\n"), 202),
        (post(PATH, event, ORIGIN + "Authorization: Bearer nobody\r\n"), 401),
        (post(PATH, event, version="1.0"), 202),
        (post(PATH, b"x" * (512 * 1024 + 1)), 413),
        (post(PATH, b"", method="OPTIONS"), 204),
        (post(PATH, b"", method="PUT"), 405),
        (chunked + chunks, 202),
    ):
        (answer,) = await running.send(request)
        assert answer[0] == status, request[:200]
    assert running.ways == ["application"] * 7


async def test_a_request_may_come_in_pieces_and_several_at_once(running: Running) -> None:
    request = post(DIRECT, body(running, TRACK))
    (answer,) = await running.send(*(request[i : i + 7] for i in range(0, len(request), 7)))
    assert answer[0] == 202
    many = [post(DIRECT, body(running, TRACK)) for _ in range(4)]
    answers = await running.send(b"".join([*many, post(DIRECT, b"{")]), answers=5)
    assert [a[0] for a in answers] == [202, 202, 202, 202, 400]
    assert "direct" in running.ways


async def test_whoever_hangs_up_costs_nobody_an_answer(running: Running) -> None:
    _, gone = await asyncio.open_connection("127.0.0.1", running.port)
    gone.write(post(DIRECT, body(running, TRACK)))
    await gone.drain()
    gone.transport.abort()
    (answer,) = await running.send(post(DIRECT, body(running, TRACK)))
    assert answer[0] == 202


async def test_a_bug_on_the_short_way_is_a_500_and_is_logged(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Ingest, "_kept", lambda *_: 1 / 0)
    (answer,) = await running.send(post(DIRECT, body(running, TRACK)))
    assert answer[0] == 500 and json.loads(answer[2])["error"]["code"] == "bug"
    assert "ZeroDivisionError" in caplog.text and running.ways == ["direct"]
