"""A running gateway: started and ended, asked what arrived and who somebody is, used as a server would use it."""

from __future__ import annotations

import json
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import make_app, opened
from gateway.arrivals import Bad, is_person
from gateway.commands import identity
from gateway.context import Gateway
from gateway.errors import BadRequest
from gateway.inspect import Inspected, snippet_html
from gateway.links import make_link
from gateway.model import Key
from gateway.reads import Json, Reader
from gateway.record import Replay, Replayed, read_lines, recording
from gateway.settings import load
from gateway.signing import new_secret
from gateway.sites import TRUST, auth_token, check_origin
from gateway.testing.server import Background, Pages, leave, listen
from gateway.testing.wanted import story

T = TypeVar("T")

SITE_OPTIONS = ("trust", "origins", "device_cap", "token_cap", "link_param", "identity_kinds", "time_zone")


@dataclass(frozen=True, slots=True)
class GatewaySite:
    """The site that a test's gateway has: what pages and servers need to use it."""

    name: str
    api_key: str
    secret_key: str
    auth_token: str
    url: str


class Person:
    """Whoever has an identity, as the gateway knows them at the moment of each question."""

    def __init__(self, gateway: Running, key: Key) -> None:
        self._gateway = gateway
        self.key = key

    def __repr__(self) -> str:
        return f"<person {self.key[1]!r}>"

    @property
    def profile(self) -> Json | None:
        """The profile as the API shows it, None if nobody has this identity."""
        return self._gateway.ask(lambda reader: reader.by_identity(self.key))

    def _known(self) -> Json:
        profile = self.profile
        if profile is None:
            raise AssertionError(f"nobody is known as {self.key[1]!r}\n{self._gateway.received()}")
        return profile

    @property
    def exists(self) -> bool:
        """Whether anybody has this identity."""
        return self.profile is not None

    @property
    def profile_id(self) -> str:
        """The id of the profile."""
        return str(self._known()["profile_id"])

    @property
    def identities(self) -> list[str]:
        """All ids of this person, oldest first."""
        return [i["value"] for i in self._known()["identities"]]

    @property
    def properties(self) -> dict[str, Any]:
        """What is known about this person."""
        return dict(self._known()["properties"])

    @property
    def tags(self) -> list[str]:
        """The tags this person has."""
        return list(self._known()["tags"])

    @property
    def subscribed(self) -> bool:
        """Whether this person may get messages."""
        return bool(self._known()["subscribed"])

    @property
    def tentative(self) -> bool:
        """Whether a part of this person rests on nothing but a followed link."""
        return bool(self._known()["tentative"])

    @property
    def devices(self) -> list[str]:
        """The ids of this person's browsers, in the order in which they were first seen."""
        found = [v["device_id"] for v in self._known()["visitors"] if v["device_id"]]
        return list(dict.fromkeys(found))

    @property
    def events(self) -> list[Json]:
        """This person's events, oldest first, at most 500."""
        profile_id = int(self.profile_id)
        page = self._gateway.ask(lambda reader: reader.events(profile_id, limit=500))
        return list(reversed(page["events"])) if page else []


@dataclass(slots=True, repr=False)
class Running:
    """A gateway that runs: its start and end, what it is asked, what a test makes with it."""

    background: Background
    site_options: Mapping[str, Any] = field(default_factory=dict)
    url: str = ""
    site: GatewaySite = field(init=False)
    requests: Counter[str] = field(default_factory=Counter)
    started_in: float = 0
    _inspected: Inspected = field(init=False)
    _servers: list[uvicorn.Server] = field(default_factory=list)
    _news: threading.Event = field(default_factory=threading.Event)

    def __repr__(self) -> str:
        return f"<gateway at {self.url}>"

    def __enter__(self) -> Self:
        began = time.perf_counter()
        self.background.do(self._start())
        self.started_in = time.perf_counter() - began
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.background.do(self._stop())

    async def _start(self) -> None:
        settings = load({}, database="sqlite:///unused")
        inspected = self._inspected = Inspected(settings, opened, make_app)
        inspected.site.settings = checked(self.site_options)
        inspected.site.api_key, inspected.site.secret_keys = secrets.token_hex(20), [new_secret()]
        inspected.inspector.changed = self._news.set
        await inspected.open()
        self.url = await self._listen(self.serve)
        site = inspected.site
        keys = (site.name, site.api_key, site.secret_keys[-1], auth_token(site), self.url)
        self.site = GatewaySite(*keys)

    async def _listen(self, app: ASGIApp) -> str:
        server, url = await listen(app)
        self._servers.append(server)
        return url

    async def _stop(self) -> None:
        for server in self._servers:
            await leave(server)
        await self._inspected.close()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, which counts what is asked for."""
        self.requests[scope.get("path", "")] += 1
        await self._inspected(scope, receive, send)

    # --- reading ----------------------------------------------------------------------------------------------------

    @property
    def _gateway(self) -> Gateway:
        gateway = self._inspected.gateway
        assert gateway is not None
        return gateway

    def ask(self, question: Callable[[Reader], Coroutine[Any, Any, T]]) -> T:
        """The answer of a reader of this site."""
        return self.background.do(question(self._gateway.reader(self._inspected.site)))

    def taken(self) -> list[Json]:
        """All commands that were taken, oldest first, with what became of them."""
        return self.background.do(self._inspected.report.good())[::-1]

    def refused(self) -> list[Bad]:
        """All commands that were refused or left a doubt, oldest first: `.command`, `.why`, `.how`, `.code`."""
        return self.background.do(self._inspected.report.refused())[::-1]

    def events(self, name: str | None = None, *, person: object = None) -> list[Json]:
        """The events that arrived, oldest first."""
        return [
            taken
            for taken in self.taken()
            if taken["event"] is not None
            and (name is None or taken["name"] == name)
            and (person is None or is_person(taken["person"], person))
        ]

    def person(self, value: object, kind: str = "id") -> Person:
        """Whoever has this identity; nobody need have it yet."""
        return Person(self, key_of(value, kind))

    def people(self) -> list[Json]:
        """All profiles, newest first."""
        return self.background.do(self._inspected.report.people())

    def identity_errors(self, code: str | None = None) -> list[Json]:
        """Refused and doubtful facts about who is who, oldest first."""
        return list(self.ask(lambda reader: reader.identity_errors(code=code, limit=500))["identity_errors"])

    def received(self) -> str:
        """Everything that arrived, for people."""
        return story(self.url, self.taken(), self.refused(), self.requests)

    # --- making -----------------------------------------------------------------------------------------------------

    def snippet_html(self, **options: Any) -> str:
        """The HTML that embeds the snippet; `options` are further options of `init`."""
        return snippet_html(self.url, self.site.api_key, **options)

    def serve_pages(self, folder: str | Path) -> str:
        """Serves the files of a folder on an origin of their own, with the snippet in every HTML page.

        Raises BadRequest if the folder is not there.
        """
        if not Path(folder).is_dir():
            raise BadRequest(f"there is no folder {folder}", f"it is looked for in {Path.cwd()}")
        return self.background.do(self._listen(Pages(Path(folder), self.snippet_html())))

    def link_for(self, person: object, url: str, *, campaign: str = "", expires_in: int | None = None) -> str:
        """The link that an email to `person` would hold: `url` with the signed parameter."""
        options: Any = {"gateway_url": self.url, "campaign": campaign, "expires_in": expires_in}
        return make_link(self._gateway.signer, self._inspected.site, key_of(person), url, **options)["url"]

    def call(self, method: str, path: str, body: object = None) -> Any:
        """A call of the server API with the secret key: `call("POST", "/v1/merges", {"target": "1", "source": "2"})`.

        Raises AssertionError with the gateway's words when it is refused.
        """
        headers = {"Authorization": f"Bearer {self.site.secret_key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + quote(path, safe="/?=&%"), data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            raise AssertionError(f"{method} {path}: {error.code} {said}") from None

    @contextmanager
    def recording(self, path: str | Path) -> Iterator[None]:
        """Writes down what arrives meanwhile, as `gateway record` does."""
        context = recording(self._gateway, Path(path))
        self.background.do(context.__aenter__())
        try:
            yield
        finally:
            self.background.do(context.__aexit__(None, None, None))

    def replay(self, path: str | Path) -> Replayed:
        """Plays a recording: what pages sent elsewhere, with its order, times and people."""
        return self.background.do(Replay(self._gateway, self._inspected.site).play(read_lines(Path(path))))

    def reset(self) -> None:
        """Forgets everything, people and events too; the keys stay. A browser keeps its cookie and is a new device."""
        self.background.do(self._inspected.reset())
        self.requests.clear()


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """A site's settings. Raises BadRequest for one that does not exist or cannot be."""
    unknown = [name for name in options if name not in SITE_OPTIONS]
    if unknown:
        raise BadRequest(f"a site has no setting {unknown[0]!r}", f"use one of {', '.join(SITE_OPTIONS)}")
    if options.get("trust", "guarded") not in TRUST:
        raise BadRequest(f"trust cannot be {options['trust']!r}", f"use one of {', '.join(TRUST)}")
    return dict(options) | {"origins": [check_origin(o) for o in options.get("origins", ())]}


def key_of(value: object, kind: str = "id") -> Key:
    """An identity. Raises BadRequest for a value that can never be one."""
    key, blocked = identity(value, kind)
    if key is None:
        raise BadRequest(f"{value!r} cannot be anybody's identity: {blocked}")
    return key
