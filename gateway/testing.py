"""A gateway for the tests of a website: started in milliseconds, asked in words, answering with a diff.

The pytest plugin (`gateway.pytest_plugin`) offers it as the fixture `gateway`. It is a real server on a free port with
a database of its own, in a thread of the test's process, so it serves any browser that any library drives.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import anyio.to_thread
import uvicorn
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import make_app, opened
from gateway.arrivals import Bad, differences, is_person, show, written
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

T = TypeVar("T")

TIMEOUT = 5.0
QUIET = 0.3
TICK = 0.05
NEAREST = 3
SHOWN = 20
SITE_OPTIONS = ("trust", "origins", "device_cap", "token_cap", "link_param", "identity_kinds", "time_zone")


@dataclass(frozen=True, slots=True)
class GatewaySite:
    """The site that a test's gateway has: what pages and servers need to use it."""

    name: str
    api_key: str
    secret_key: str
    auth_token: str
    url: str


class Background:
    """An event loop in a thread: the gateways of a test session run there, whatever the tests do with theirs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="gateway", daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` there and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


class Person:
    """Whoever has an identity, as the gateway knows them at the moment of each question."""

    def __init__(self, gateway: RunningGateway, key: Key) -> None:
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
class RunningGateway:
    """A gateway that runs for one test.

    While a helper waits, it offers `pause` the time in slices; a false answer means that it did not take it.
    """

    background: Background
    site_options: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = TIMEOUT
    pause: Callable[[float], bool] = lambda seconds: False
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
        """Serves an application on a free port; returns its address."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        quiet: Any = {"log_config": None, "access_log": False}
        config = uvicorn.Config(app, interface="asgi3", lifespan="off", ws="none", **quiet)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        self._servers.append(server)
        return f"http://localhost:{listener.getsockname()[1]}"

    async def _stop(self) -> None:
        # What uvicorn does at its end, without its waiting: the test is over and its browser may still hold on.
        for server in self._servers:
            for listening in server.servers:
                listening.close()
            for connection in list(server.server_state.connections):
                connection.shutdown()
        await asyncio.sleep(0)
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

    # --- making -----------------------------------------------------------------------------------------------------

    def snippet_html(self, **options: Any) -> str:
        """The HTML that embeds the snippet; `options` are further options of `init`."""
        return snippet_html(self.url, self.site.api_key, **options)

    def serve_pages(self, folder: str | Path) -> str:
        """Serves the files of a folder on an origin of their own, with the snippet in every HTML page."""
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
        with recording(Path(path)) as recorder:
            recorder.watch(self._gateway)
            yield
            recorder.leave(self._gateway)

    def replay(self, path: str | Path) -> Replayed:
        """Plays a recording: what pages sent elsewhere, with its order, times and people."""
        return self.background.do(Replay(self._gateway, self._inspected.site).play(read_lines(Path(path))))

    def reset(self) -> None:
        """Forgets everything, people and events too; the keys stay. A browser keeps its cookie and is a new device."""
        self.background.do(self._inspected.reset())
        self.requests.clear()

    # --- waiting ----------------------------------------------------------------------------------------------------

    def wait_for(self, check: Callable[[], T], timeout: float | None = None) -> T:
        """The first true answer of `check`, asked again whenever something arrives, or its last one at the deadline."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            self._news.clear()
            answer = check()
            left = deadline - time.monotonic()
            if answer or left <= 0:
                return answer
            self._wait(left)

    def _wait(self, left: float) -> None:
        """Until something arrives, or for a while."""
        if not self._news.is_set() and not self.pause(min(left, TICK)):
            self._news.wait(min(left, 5 * TICK))

    def expect_event(
        self,
        name: str,
        data: Mapping[str, Any] | None = None,
        *,
        person: object = None,
        page: str | None = None,
        count: int | None = None,
        timeout: float | None = None,
    ) -> Json:
        """Waits for an event and returns it; `event["data"]`, `event["person"]`, `event["page"]`.

        `data` may name a part of what the event holds; a compiled pattern matches a text, `...` anything. `page` is a
        part of the page's URL. With `count` there must be exactly so many such events.
        """
        __tracebackhide__ = True
        wanted = Wanted(name, data or {}, person, page)
        enough = 1 if count is None else count
        found = self.wait_for(lambda: some(wanted.among(self.events()), enough), timeout) if enough else []
        if count is not None and found:
            self._let_pass(QUIET)
        found = wanted.among(self.events()) if count is not None or not found else found
        if not found or (count is not None and len(found) != count):
            waited = self.timeout if timeout is None else timeout
            many = "no" if not found else f"{len(found)} times instead of {count} the"
            raise AssertionError(f"{many} event {wanted} within {waited:g} s\n{self.near(wanted)}")
        return found[0]

    def expect_no_event(
        self,
        name: str,
        data: Mapping[str, Any] | None = None,
        *,
        person: object = None,
        page: str | None = None,
        within: float = QUIET,
    ) -> None:
        """Waits `within` seconds and fails if such an event is or becomes known."""
        __tracebackhide__ = True
        wanted = Wanted(name, data or {}, person, page)
        found = self.wait_for(lambda: wanted.among(self.events()), within)
        if found:
            shown = "\n".join(f"  {line(e)}" for e in found[:SHOWN])
            raise AssertionError(f"there should be no event {wanted}, but it arrived:\n{shown}")

    def expect_person(
        self,
        value: object,
        properties: Mapping[str, Any] | None = None,
        *,
        devices: int | None = None,
        timeout: float | None = None,
    ) -> Person:
        """Waits until somebody has this identity, these properties (a part is enough) and so many browsers."""
        __tracebackhide__ = True
        who = self.person(value)

        def lacking() -> list[str]:
            if not who.exists:
                return [f"nobody is known as {who.key[1]!r}"]
            found = differences(dict(properties or {}), who.properties)
            if devices is not None and len(who.devices) != devices:
                found.append(f"devices: expected {devices}, got {len(who.devices)}: {', '.join(who.devices)}")
            return found

        self.wait_for(lambda: not lacking(), timeout)
        if problems := lacking():
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise AssertionError(f"the person {value!r} is not as expected:\n{lines}\n{self.received()}")
        return who

    def expect_merged(self, *values: object, timeout: float | None = None) -> Person:
        """Waits until all these identities name one person."""
        __tracebackhide__ = True
        people = [self.person(v) for v in values]

        def one() -> bool:
            found = [p.profile for p in people]
            return all(found) and len({p["profile_id"] for p in found if p}) == 1

        if not self.wait_for(one, timeout):
            names = " and ".join(repr(v) for v in values)
            raise AssertionError(f"{names} are not one person\n{self.who_is_who(people)}\n{self.received()}")
        return people[0]

    def expect_separate(self, *values: object, within: float = QUIET) -> None:
        """Waits `within` seconds and fails if any two of these identities name one person."""
        __tracebackhide__ = True
        people = [self.person(v) for v in values]

        def joined() -> bool:
            found = [p["profile_id"] for p in (person.profile for person in people) if p]
            return len(set(found)) < len(found)

        if self.wait_for(joined, within):
            names = " and ".join(repr(v) for v in values)
            raise AssertionError(f"{names} should be different people\n{self.who_is_who(people)}")

    def expect_no_errors(self, *, within: float = QUIET) -> None:
        """Waits `within` seconds and fails if any command was refused or left a doubt about who is who."""
        __tracebackhide__ = True
        if self.wait_for(self.refused, within):
            raise AssertionError("commands were refused\n" + "\n".join(self._refusals()))

    def _let_pass(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not self.pause(min(left, TICK)):
                time.sleep(left)

    # --- what a failure shows ---------------------------------------------------------------------------------------

    def near(self, wanted: Wanted) -> str:
        """The events that come nearest to what was expected, and in what they differ."""
        events = self.events()
        if not events:
            return self.received()
        nearest = sorted(events, key=wanted.distance)[:NEAREST]
        lines = [f"the nearest of {len(events)} events that arrived:" if len(events) > 1 else "one event arrived:"]
        for event in nearest:
            lines.append(f"  {line(event)}")
            lines += [f"      {difference}" for difference in wanted.lacking(event)]
        return "\n".join([*lines, *self._refusals()])

    def received(self) -> str:
        """Everything that arrived, for people."""
        taken = self.taken()
        lines = [f"{plural(len(taken), 'command')} arrived at {self.url}" + (":" if taken else "")]
        lines += [f"  {line(t)}" for t in taken[-SHOWN:]]
        refusals = self._refusals()
        if not taken and not refusals:
            lines += ["  " + hint for hint in self._silence()]
        return "\n".join([*lines, *refusals])

    def _silence(self) -> Iterator[str]:
        """Why nothing may have arrived."""
        scripts = sum(n for path, n in self.requests.items() if path.endswith(".js"))
        posts = self.requests["/v1/commands"]
        if not scripts and not posts:
            yield "no page asked for the script: put gateway.snippet_html() into the page's <head>"
        elif not posts:
            yield "the script was loaded, but sent nothing: does the page push `init` with an api_key?"
        else:
            yield "the script is at work, but the page pushed no command that does anything"
        others = [path for path in self.requests if path != "/v1/commands" and not path.endswith(".js")]
        if others:
            yield f"it was asked for {', '.join(others[:SHOWN])}"

    def _refusals(self) -> list[str]:
        refused = self.refused()
        lines = [f"{plural(len(refused), 'command')} refused or in doubt:"] if refused else []
        for bad in refused[-SHOWN:]:
            lines.append(f"  {written(bad.command)}")
            lines.append(f"      why: {bad.why}")
            lines += [f"      how: {bad.how}"] if bad.how else []
        return lines

    def who_is_who(self, people: list[Person]) -> str:
        """Whom each identity names, and the facts that made it so."""
        lines = []
        for person in people:
            profile = person.profile
            if profile is None:
                lines.append(f"  nobody is known as {person.key[1]!r}")
                continue
            names = ", ".join(f"{i['value']} ({i['proof']})" for i in profile["identities"])
            count = len({v["device_id"] for v in profile["visitors"]})
            lines.append(f"  {person.key[1]!r} is profile {profile['profile_id']}: {names}; {plural(count, 'device')}")
        for fact in self.ask(lambda reader: reader.ledger(limit=500))["facts"][-SHOWN:]:
            names = ", ".join(i["value"] for i in fact["identities"])
            lines.append(
                f"  {fact['kind']} {names}: {fact['outcome']}" + (f" ({fact['reason']})" * bool(fact["reason"]))
            )
        return "\n".join(lines)

    @property
    def aio(self) -> AsyncHelpers:
        """The helpers that wait, for async tests: `await gateway.aio.expect_event("Purchased")`."""
        return AsyncHelpers(self)


class AsyncHelpers:
    """Each helper of a RunningGateway as a coroutine, which leaves the test's event loop free while it waits."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway = gateway

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        helper = getattr(self._gateway, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            return await anyio.to_thread.run_sync(lambda: helper(*arguments, **options))

        return call


class Pages:
    """A website made of files. The snippet comes first in each page, so that what the page pushes finds it."""

    def __init__(self, folder: Path, snippet: str) -> None:
        self.folder = folder.resolve()
        self.snippet = snippet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self.folder / scope["path"].lstrip("/")
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file() or not path.resolve().is_relative_to(self.folder):
            await Response(status_code=404)(scope, receive, send)
        elif path.suffix not in (".html", ".htm"):
            await FileResponse(path)(scope, receive, send)
        else:
            await HTMLResponse(self.with_snippet(path.read_text(encoding="utf-8")))(scope, receive, send)

    def with_snippet(self, html: str) -> str:
        """A page with the snippet after `<head>`, or after the doctype where it has none."""
        places = (re.search(tag, html, re.IGNORECASE) for tag in ("<head[^>]*>", "<html[^>]*>", "<!doctype[^>]*>"))
        at = next((place.end() for place in places if place), 0)
        return f"{html[:at]}\n{self.snippet}\n{html[at:]}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The event that a test expects."""

    name: str
    data: Mapping[str, Any]
    person: object = None
    page: str | None = None

    def __str__(self) -> str:
        parts = [repr(self.name)]
        if self.data:
            parts.append("with {" + ", ".join(f"{show(k)}: {show(v)}" for k, v in self.data.items()) + "}")
        if self.person is not None:
            parts.append(f"by {self.person!r}")
        if self.page is not None:
            parts.append(f"on {self.page!r}")
        return " ".join(parts)

    def lacking(self, event: Json) -> list[str]:
        """In what an event differs, in words."""
        found = [] if event["name"] == self.name else [f"name: expected {show(self.name)}, got {show(event['name'])}"]
        found += differences(dict(self.data), event["data"])
        if self.person is not None and not is_person(event["person"], self.person):
            found.append(f"person: expected {show(self.person)}, got {who(event['person'])}")
        url = str((event["page"] or {}).get("url", ""))
        if self.page is not None and self.page not in url:
            found.append(f"page: expected {show(self.page)} in {show(url)}")
        return found

    def among(self, events: list[Json]) -> list[Json]:
        """The events that are as expected."""
        return [event for event in events if not self.lacking(event)]

    def distance(self, event: Json) -> tuple[float, int]:
        """How far an event is from what is expected: first by its name, then by the number of differences."""
        alike = SequenceMatcher(None, self.name.casefold(), str(event["name"]).casefold()).ratio()
        return -round(alike, 1), len(self.lacking(event))


def some(found: list[Json], enough: int) -> list[Json]:
    """What was found, if it is enough."""
    return found if len(found) >= enough else []


def plural(number: int, what: str) -> str:
    """`1 command`, `2 commands`."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def who(person: Json | None) -> str:
    """Somebody in a few words."""
    if person is None:
        return "nobody"
    names = ", ".join(person["identities"]) or "an anonymous person"
    return names + (" (tentative)" if person["tentative"] else "")


def line(taken: Json) -> str:
    """A command that was taken, on one line."""
    url = (taken["page"] or {}).get("url")
    where = f" on {url}" if url else ""
    if taken["event"] is not None:
        return f"{taken['name']} {show(taken['data'])} by {who(taken['person'])}{where}"
    return f"{written(taken['rawEvent']['command'])} -> {taken['outcome']}{where}"


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
