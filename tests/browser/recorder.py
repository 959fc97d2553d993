"""A stand-in for the gateway where a test needs it to fail or to be slow: serves pages and the snippet, records what
`/v1/commands` gets, and answers as told. What the gateway makes of it is tested with the gateway itself."""

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from gateway import snippet
from tests.browser.pages import Page, SiteHost
from tests.server import wait_for


@dataclass
class Answer:
    status: int = 202
    body: dict[str, Any] = field(default_factory=lambda: {"status": "ok"})
    retry_after: int | None = None


@dataclass(frozen=True)
class Batch:
    """One request for /v1/commands, and what it is or will be answered."""

    path: str
    headers: dict[str, str]
    size: int
    body: dict[str, Any]
    at: float
    answer: Answer

    @property
    def is_beacon(self) -> bool:
        return self.headers.get("sec-fetch-mode") == "no-cors"

    @property
    def ids(self) -> list[str]:
        return [entry["id"] for entry in self.body["commands"]]

    @property
    def commands(self) -> list[list[Any]]:
        return [entry["command"] for entry in self.body["commands"]]


class Recorder(SiteHost):
    """Answers with `answers` in turn, with `always` when none are left, and not at all while it is `held`.

    `clear()` changes the key, so that what pages of earlier tests send while they close is not taken for the next
    one's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.key = f"{0:040x}"
        self.batches: list[Batch] = []
        self.preflights = 0
        self.answers: deque[Answer] = deque()
        self.always = Answer()
        self.held = False
        self.most_in_flight = 0
        self._open: list[Batch] = []
        self._snippet = Starlette(routes=[Mount("/t", routes=snippet.routes()), *snippet.routes()])

    def clear(self) -> None:
        super().clear()
        self.key = f"{int(self.key, 16) + 1:040x}"
        self.batches.clear()
        self.answers.clear()
        self.always, self.held, self.preflights = Answer(), False, 0
        self.most_in_flight = 0
        self._open = []

    # what a test does with it

    def page(self, html: str, path: str = "/", **headers: str) -> str:
        """Serves a page at `path`, API_KEY in it replaced, and says its URL."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = Page(
            f"<!doctype html><meta charset=utf-8><title>A page</title>{html.replace('API_KEY', self.key)}", 200, named
        )
        return self.url(path)

    @property
    def in_flight(self) -> int:
        return len(self._open)

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """Entries of the requests that were answered with success, in order of arrival and without repeats."""
        entries = [entry for batch in self.batches if batch.answer.status < 300 for entry in batch.body["commands"]]
        return list({entry["id"]: entry for entry in entries}.values())

    def commands(self, *names: str) -> list[list[Any]]:
        """The accepted commands, without `context` unless it is asked for by name."""
        commands = [entry["command"] for entry in self.accepted]
        return [command for command in commands if (command[0] in names if names else command[0] != "context")]

    def wait_for_commands(self, count: int, *names: str, timeout: float = 10) -> list[list[Any]]:
        wait_for(
            lambda: len(self.commands(*names)) >= count,
            timeout,
            f"{count} commands; the batches were {[batch.commands for batch in self.batches]}",
        )
        return self.commands(*names)

    def wait_for_batches(self, count: int, timeout: float = 10) -> list[Batch]:
        wait_for(lambda: len(self.batches) >= count, timeout, f"{count} requests; there were {len(self.batches)}")
        return self.batches

    # the server's side

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path.endswith(".js"):
            await self._snippet(scope, receive, send)
        elif path.endswith("/v1/commands"):
            await self.take(Request(scope, receive), send)
        else:
            await super().__call__(scope, receive, send)

    async def take(self, request: Request, send: Send) -> None:
        origin = {"Access-Control-Allow-Origin": request.headers.get("origin", "*")}
        cors = origin | {"Access-Control-Allow-Credentials": "true", "Access-Control-Expose-Headers": "Retry-After"}
        if request.method == "OPTIONS":
            self.preflights += 1
            await Response(status_code=204, headers=cors)(request.scope, request.receive, send)
            return
        body = await request.body()
        if json.loads(body).get("key") != self.key:
            await Response('{"status":"ok"}', 202, cors)(request.scope, request.receive, send)
            return
        answer = self.answers.popleft() if self.answers else self.always
        batch = Batch(request.url.path, dict(request.headers), len(body), json.loads(body), time.monotonic(), answer)
        unanswered = self._open
        unanswered.append(batch)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.batches.append(batch)
        while self.held:  # noqa: ASYNC110 - set by the test's thread
            await asyncio.sleep(0.01)
        unanswered.remove(batch)
        if answer.retry_after is not None:
            cors["Retry-After"] = str(answer.retry_after)
        response = Response(json.dumps(answer.body), answer.status, cors, "application/json")
        await response(request.scope, request.receive, send)
