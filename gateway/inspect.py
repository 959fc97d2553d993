"""`gateway serve --inspect`: what arrived, over HTTP, for tests in any language. For this machine only.

| call | answer |
|---|---|
| `GET /inspect/all` | `{"total", "good", "bad"}` |
| `GET /inspect/good`, `POST` with a filter | commands that were taken, newest first |
| `GET /inspect/bad`, `POST` with a filter | commands that were refused, with `errors`, newest first |
| `GET /inspect/people`, `POST` with a filter | profiles |
| `POST /inspect/reset`, `GET` | forgets everything; answers as `all` |
| `GET /inspect/site` | the keys to use, and the HTML that embeds the snippet |
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.arrivals import Bad, Inspector, Report, differences, is_person
from gateway.context import Gateway
from gateway.cookies import is_local
from gateway.errors import BadRequest, Forbidden, GatewayError, SettingError
from gateway.model import Site, now
from gateway.reads import Json
from gateway.settings import Settings
from gateway.signing import new_secret
from gateway.sites import auth_token
from gateway.web import answer, body_of, error_answer

MAX_FILTER = 64 * 1024
API_KEY = hashlib.sha1(b"gateway serve --inspect").hexdigest()
SECRET_KEY = hashlib.sha256(b"gateway serve --inspect").hexdigest()
"""Keys of the site in a temporary database: always the same, so that a build of the pages can hold them."""

GOOD_FILTER = ("event_type", "name", "data", "person", "page", "outcome", "limit")
BAD_FILTER = ("command", "code", "why", "limit")
PEOPLE_FILTER = ("person", "limit")

Opened = Callable[[Settings], AbstractAsyncContextManager[Gateway]]
MakeApp = Callable[[Gateway, list[BaseRoute]], ASGIApp]


def check_inspectable(host: str, workers: int = 1) -> None:
    """Raises SettingError for an address that other machines can reach: what is shown is everything there is."""
    if workers != 1:
        raise SettingError("--inspect keeps what arrives in one process", "leave --workers out")
    try:
        local = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        local = host.lower() == "localhost"
    if not local:
        raise SettingError(
            f"--inspect shows everything to whoever asks, so it does not listen on {host}",
            "leave --host out, or write --host 127.0.0.1",
        )


def snippet_html(url: str, api_key: str, **options: Any) -> str:
    """The HTML that embeds the snippet. `options` are further options of `init`."""
    init = json.dumps(["init", {"api_key": api_key} | options]).replace("<", "\\u003c")
    return (
        f"<script>var _veroq = window._veroq || []; _veroq.push({init});</script>\n"
        f'<script async src="{url}/veroq.js"></script>'
    )


def keys_of(site: Site, url: str) -> dict[str, str]:
    """What a test needs to use a site."""
    keys = {"site": site.name, "api_key": site.api_key, "secret_key": site.secret_keys[-1]}
    return keys | {"auth_token": auth_token(site), "url": url, "snippet_html": snippet_html(url, site.api_key)}


class Inspected:
    """An ASGI application: a gateway with a site to test on and everything that arrived.

    Without a database of its own it uses a temporary one, which `reset` replaces by a new one.
    """

    def __init__(self, settings: Settings, opened: Opened, make_app: MakeApp, *, database: bool = False) -> None:
        self.settings = settings
        self.opened = opened
        self.make_app = make_app
        self.keeps = database
        self.inspector = Inspector()
        self.site = Site(0, "test", API_KEY, [SECRET_KEY], {}, now())
        self.gateway: Gateway | None = None
        self._app: ASGIApp | None = None
        self._stack = AsyncExitStack()
        self._folder: Path | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._app is not None, "it must be opened before"
        await self._app(scope, receive, send)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Opens a gateway, on a new database unless one was given."""
        stack = AsyncExitStack()
        settings = replace(self.settings, rate_address=0, rate_site=0, rate_device=0)  # tests come all at once
        if not self.keeps:
            folder = Path(tempfile.mkdtemp(prefix="gateway-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            self.settings.signing_keys = self.settings.signing_keys or [new_secret()]
            keys = self.settings.signing_keys
            settings = replace(settings, database=f"sqlite:///{folder / 'gateway.db'}", signing_keys=keys)
        try:
            gateway = await stack.enter_async_context(self.opened(settings))
            if not self.keeps:
                self.site = replace(self.site, site_id=self.site.site_id or gateway.new_id())
                await gateway.sites.save(self.site)
        except BaseException:
            await stack.aclose()
            raise
        self.inspector.clear()
        self.inspector.watch(gateway)
        self.gateway, self._stack = gateway, stack
        self._app = self.make_app(gateway, self.routes())

    async def close(self) -> None:
        """Closes the gateway; a temporary database goes with it."""
        await self._stack.aclose()

    async def reset(self) -> None:
        """Forgets what arrived. A temporary database is replaced by a new one, with the same keys."""
        if self.keeps:
            self.inspector.clear()
            return
        before = self._stack
        await self.open()
        await before.aclose()

    @property
    def report(self) -> Report:
        """What arrived."""
        assert self.gateway is not None
        return Report(self.gateway, self.inspector)

    # --- HTTP -------------------------------------------------------------------------------------------------------

    def routes(self) -> list[BaseRoute]:
        """The calls under /inspect."""
        calls: dict[str, Callable[[Json], Awaitable[Any]]] = {
            "all": self._all,
            "good": self._good,
            "bad": self._bad,
            "people": self._people,
            "reset": self._reset,
        }
        found: list[BaseRoute] = [
            Route(f"/inspect/{name}", local_only(call), methods=["GET", "POST"]) for name, call in calls.items()
        ]
        return [*found, Route("/inspect/site", self._site)]

    async def _all(self, asked: Json) -> Any:
        good, bad = len(await self.report.good()), len(await self.report.refused())
        return {"total": good + bad, "good": good, "bad": bad}

    async def _good(self, asked: Json) -> Any:
        check_filter(asked, GOOD_FILTER)
        return limited([g for g in await self.report.good() if is_wanted(g, asked)], asked)

    async def _bad(self, asked: Json) -> Any:
        check_filter(asked, BAD_FILTER)
        return limited([b.as_json() for b in await self.report.refused() if is_wanted_bad(b, asked)], asked)

    async def _people(self, asked: Json) -> Any:
        check_filter(asked, PEOPLE_FILTER)
        people = await self.report.people()
        if "person" in asked:
            named = {p["profile_id"]: {"identities": [i["value"] for i in p["identities"]]} for p in people}
            people = [p for p in people if is_person(named[p["profile_id"]], asked["person"])]
        return limited(people, asked)

    async def _reset(self, asked: Json) -> Any:
        await self.reset()
        return {"total": 0, "good": 0, "bad": 0}

    async def _site(self, request: Request) -> Response:
        try:
            check_local(request)
        except GatewayError as error:
            return error_answer(error)
        if self.keeps:
            message = "with a database of your own the keys are its sites'"
            return error_answer(BadRequest(message, "gateway site list --json, gateway site create NAME --json"))
        return answer(keys_of(self.site, str(request.base_url).rstrip("/")))


def local_only(call: Callable[[Json], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    """A call as an endpoint: the filter is the JSON body, and nobody but this machine may ask."""

    async def endpoint(request: Request) -> Response:
        try:
            check_local(request)
            asked = await body_of(request, MAX_FILTER)
            return answer(await call(filter_of(asked)))
        except GatewayError as error:
            return error_answer(error)

    return endpoint


def check_local(request: Request) -> None:
    """Raises Forbidden for a request from elsewhere: another machine, a page of another site, a foreign host name."""
    client = request.client.host if request.client else ""
    try:
        near = not client or ipaddress.ip_address(client).is_loopback
    except ValueError:
        near = client == "testclient"
    foreign = request.headers.get("sec-fetch-site") == "cross-site"
    if not near or foreign or not is_local(request.headers.get("host", "")):
        raise Forbidden("/inspect answers this machine only", "ask http://localhost from your tests")


def filter_of(body: bytes) -> Json:
    """The filter in a request's body. Raises BadRequest if it is not an object."""
    try:
        asked = msgspec.json.decode(body) if body.strip() else {}
    except msgspec.DecodeError as error:
        raise BadRequest(f"the filter is not JSON: {error}", 'send {"name": "Purchased"}') from error
    if not isinstance(asked, dict):
        raise BadRequest("the filter must be an object", 'send {"name": "Purchased"}')
    return asked


def check_filter(asked: Json, known: tuple[str, ...]) -> None:
    """Raises BadRequest for a field that would be ignored."""
    unknown = [key for key in asked if key not in known]
    if unknown:
        raise BadRequest(f"there is no filter {unknown[0]!r} here", f"use {', '.join(known)}")
    if not isinstance(asked.get("limit", 0), int):
        raise BadRequest("limit must be a number", 'send {"limit": 10}')


def is_wanted(good: Json, asked: Json) -> bool:
    """Whether a good command is what a filter asks for."""
    page = good["page"] or {}
    return (
        asked.get("event_type", good["eventType"]) == good["eventType"]
        and asked.get("name", good["name"]) == good["name"]
        and asked.get("outcome", good["outcome"]) == good["outcome"]
        and not differences(asked.get("data", ...), good["data"])
        and ("person" not in asked or is_person(good["person"], asked["person"]))
        and ("page" not in asked or str(asked["page"]) in str(page.get("url", "")))
    )


def is_wanted_bad(bad: Bad, asked: Json) -> bool:
    """Whether a refused command is what a filter asks for."""
    name = bad.command[0] if isinstance(bad.command, list) and bad.command else None
    fits = asked.get("code", bad.code) == bad.code and str(asked.get("why", "")) in bad.why
    return fits and ("command" not in asked or asked["command"] == name)


def limited(found: list[Any], asked: Json) -> list[Any]:
    """The first of what was found, if the filter has a limit."""
    return found[: asked["limit"]] if "limit" in asked else found
