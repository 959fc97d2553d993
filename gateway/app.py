"""The composition root: opens the store, makes the parts, and puts the front doors into one ASGI application."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import dialects, ingest, metrics, opting_out, probe, redirect, snippet
from gateway.api import docs, native
from gateway.console import routes as console
from gateway.console.access import Access
from gateway.context import Gateway
from gateway.cookies import maybe_one_site
from gateway.delivery import delivering
from gateway.demo import backend, shop
from gateway.errors import Conflict, GatewayError, NotFound, SettingError
from gateway.extras import extra_module
from gateway.identity.engine import Engine
from gateway.inspect import Inspected
from gateway.limits import Limits
from gateway.logs import RequestLog
from gateway.model import IdGenerator
from gateway.protocol import Guard
from gateway.record import recording
from gateway.retention import retained
from gateway.serving import tell_supervisor
from gateway.settings import Settings
from gateway.settings import load as settings_from_environment
from gateway.signing import Signer, new_secret
from gateway.sites import Sites
from gateway.store.base import Store
from gateway.store.database import MOVED, MOVING
from gateway.store.sqlite import SqliteStore
from gateway.web import answer, error_answer, error_body, on_bug, on_gateway_error, on_http_error
from gateway.writer import Writer

log = logging.getLogger("gateway.app")


def make_store(settings: Settings) -> Store:
    """The store a database URL names."""
    if settings.database.startswith("sqlite:///"):
        return SqliteStore(settings.database.removeprefix("sqlite:///"))
    message = "GATEWAY_DATABASE: PostgreSQL needs asyncpg"
    postgres = extra_module("gateway.store.postgres", "asyncpg", "postgres", message, SettingError)
    store: Store = postgres.PostgresStore(settings.database)
    return store


def make_traces(settings: Settings) -> Any:
    """`gateway.traces.Traces` where a setting wants them. Raises SettingError without OpenTelemetry."""
    if not settings.otlp_endpoint:
        return None
    message = "GATEWAY_OTLP_ENDPOINT: traces need OpenTelemetry"
    traces = extra_module("gateway.traces", "opentelemetry", "otel", message, SettingError)
    return traces.Traces(traces.exporter(settings))


async def signing_keys(settings: Settings, store: Store) -> list[str]:
    """The keys that sign cookies and links: those given, else the database's own, made on the first start."""
    if settings.signing_keys:
        return settings.signing_keys
    fresh = msgspec.json.encode([new_secret()]).decode()
    kept = await store.set_config("signing_keys", fresh, only_if_absent=True)
    return msgspec.json.decode(kept, type=list[str])


async def check_not_moved(store: Store) -> None:
    """Raises Conflict for a database that is not, or no longer, the one to serve: see `gateway move`."""
    if await store.config(MOVING) is not None:
        hint = "stop the gateways on the other one, then: gateway move SOURCE TARGET --resume --finish"
        raise Conflict("a database is being moved into this one, and not all of it is here yet", hint)
    if await store.config(MOVED) is not None:
        raise Conflict("this database was moved into another", "set GATEWAY_DATABASE to that one")


@asynccontextmanager
async def opened(settings: Settings, tracing: Any = None) -> AsyncIterator[Gateway]:
    """The parts of a gateway, open and at work; closed in order at the end, after the last commit.

    `tracing`: a `gateway.traces.Traces`, where traces are wanted.
    """
    store = make_store(settings)
    await store.open()
    try:
        await check_not_moved(store)
        new_id = IdGenerator(await store.lease_node())
        writer = tracing.writer(store, Engine(new_id)) if tracing else Writer(store, Engine(new_id))
        gateway = Gateway(settings, store, writer, Signer(await signing_keys(settings, store)), Sites(store), new_id)
        gateway.tracing = tracing
        writer.start()
        try:
            yield gateway
        finally:
            await writer.close()
    finally:
        await store.close()


HEALTH = ("/health", "/ready")
UNLIMITED = (*HEALTH, metrics.PATH)
"""Paths that are answered however fast their sender is: they tell why everything else is not."""


def health_routes(gateway: Gateway) -> list[BaseRoute]:
    """Whether the process lives, and whether it can keep what it is sent."""

    async def health(request: Request) -> Response:
        return answer({"status": "ok"})

    async def ready(request: Request) -> Response:
        try:
            await gateway.store.config("ready")
        except Exception as error:
            return answer(error_body("unavailable", f"the database cannot be read: {error}"), 503, {"Retry-After": "5"})
        return answer({"status": "ok"})

    return [Route(path, endpoint) for path, endpoint in zip(HEALTH, (health, ready), strict=True)]


def routes(gateway: Gateway) -> list[BaseRoute]:
    """Every front door but the ingest path."""
    doors: list[list[BaseRoute]] = [
        native.routes(gateway),
        dialects.routes(gateway),
        redirect.routes(gateway),
        opting_out.routes(gateway),
        probe.routes(gateway),
        health_routes(gateway),
        metrics.routes(gateway),
        docs.routes(),
        console.routes(gateway),
        list(snippet.routes()),
    ]
    return [route for door in doors for route in door]


class Front:
    """The application of an opened gateway. What pages push goes straight to ingest, everything else by the routes."""

    def __init__(self, gateway: Gateway, extra: list[BaseRoute] | None = None) -> None:
        handlers = {GatewayError: on_gateway_error, HTTPException: on_http_error, Exception: on_bug}
        self.gateway = gateway
        self.prefix = gateway.settings.prefix
        self.limits = Limits(gateway.settings)
        self.ingest = ingest.Ingest(gateway, self.limits)
        self.routed = Starlette(routes=[*routes(gateway), *(extra or [])], exception_handlers=handlers)
        self.routed.router.redirect_slashes = False
        self.routed.state.gateway = gateway
        self.watched = watched(self._answered, gateway)
        self.is_watched = self.watched != self._answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.watched(self._at_the_top(scope), receive, send)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == ingest.PATH:
            await self.ingest(scope, receive, send)
            return
        send = self._counted(scope, send)
        try:
            if scope["type"] == "http" and scope["path"] not in UNLIMITED:
                self.limits.address(scope.get("client"))
            if "\0" in scope.get("path", "") and not self._says_itself(scope["path"]):
                raise NotFound("no address holds NUL", "look how the address was put together")
        except GatewayError as refused:
            self.gateway.writer.tally.refuse(refused.code)
            refusal = dialects.REFUSALS.get(metrics.door(scope["path"]), error_answer)
            await refusal(refused)(scope, receive, send)
            return
        await self.routed(scope, receive, send)

    @staticmethod
    def _says_itself(path: str) -> bool:
        """Whether what answers a path refuses names with NUL, which PostgreSQL does not take, in words of its own."""
        return path.startswith(console.ROOT) or metrics.door(path) in dialects.REFUSALS

    def _at_the_top(self, scope: Scope) -> Scope:
        """The request as if the gateway had the host for itself, also behind a proxy that leaves the path as it is."""
        if self.prefix and scope["type"] == "http" and scope["path"].startswith(f"{self.prefix}/"):
            raw = scope.get("raw_path")
            cut = raw.removeprefix(self.prefix.encode()) if raw else raw
            return {**scope, "path": scope["path"].removeprefix(self.prefix), "raw_path": cut}
        return scope

    def _counted(self, scope: Scope, send: Send) -> Send:
        """`send`, which also counts the answer."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.gateway.writer.tally.respond(metrics.door(scope["path"]), message["status"])
            await send(message)

        return counted


def watched(app: ASGIApp, gateway: Gateway) -> ASGIApp:
    """The application as it is traced and logged, each only where a setting wants it."""
    if gateway.settings.log_requests != "none":
        app = RequestLog(app, gateway.settings.log_requests)
    return gateway.tracing.requests(app) if gateway.tracing else app


def make_app(gateway: Gateway, extra: list[BaseRoute] | None = None) -> Front:
    """The application of an opened gateway; `extra` routes come last."""
    return Front(gateway, extra)


async def warn_of_other_sites(gateway: Gateway) -> None:
    """Says which sites' pages will not send the cookie. The same gateway may have an address on each site's own host,
    of which the public URL is only one, so this stops nothing."""
    public = urlsplit(gateway.settings.public_url).hostname
    if public is None or gateway.settings.cookie_mode == "third_party":
        return
    for site in await gateway.sites.all():
        hosts = [urlsplit(origin).hostname or "" for origin in site.origins]
        if hosts and not any(maybe_one_site(public, host) for host in hosts):
            message = "%s: its pages are another site than %s, and browsers do not send its cookie from there"
            log.warning(
                f"{message}; a path of their own host or GATEWAY_COOKIE_MODE=third_party would", site.name, public
            )


class Application:
    """An ASGI application that opens its gateway when the server starts it and closes it when the server stops."""

    def __init__(self, settings: Settings, *, demo: bool = False, inspect: str = "", record: str = "") -> None:
        self.settings = settings
        self.demo = demo
        self.inspect = inspect
        self.record = record
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            assert self.app is not None, "the server must run the lifespan"
            await self.app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        guard = Guard(self.settings)
        scope.setdefault("state", {})["guard"] = guard  # uvicorn hands it to every connection
        guard.start()
        try:
            async with self._served() as self.app:
                if type(self.app) is Front and not self.app.is_watched:  # nothing else wants to see every request
                    guard.hand_over(self.app.ingest, self.app.prefix)
                await send({"type": "lifespan.startup.complete"})
                tell_supervisor("READY=1")
                await receive()
                tell_supervisor("STOPPING=1")
        except GatewayError as error:
            await send({"type": "lifespan.startup.failed", "message": f"{error.message}. {error.hint}".strip()})
            return
        finally:
            guard.close()
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def _served(self) -> AsyncIterator[ASGIApp]:
        """What answers requests: a gateway, in a temporary database if it is only there to be inspected."""
        if self.inspect:
            async with Inspected(self.settings, opened, make_app, database=self.inspect == "database") as inspected:
                yield inspected
            return
        async with AsyncExitStack() as stack:
            if (tracing := make_traces(self.settings)) is not None:
                stack.push_async_callback(asyncio.to_thread, tracing.close)
            gateway = await stack.enter_async_context(opened(self.settings, tracing))
            await Access(gateway).announce()
            await warn_of_other_sites(gateway)
            await stack.enter_async_context(delivering(gateway, deliver=self.settings.deliver == "on"))
            if self.record:
                await stack.enter_async_context(recording(gateway, Path(self.record)))
            await stack.enter_async_context(retained(gateway))
            yield make_app(gateway, await self._extra(gateway))

    async def _extra(self, gateway: Gateway) -> list[BaseRoute]:
        if not self.demo:
            return []
        await backend.ensure_site(gateway)
        return list(shop.routes(gateway))


def create() -> Application:
    """What the server imports: settings from the environment."""
    # What was imported stays, and little of what a request leaves behind is garbage that refers to itself: looking for
    # it as often as Python does by default was a sixth of the time an event cost.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    inspect, record = os.environ.get("GATEWAY_INSPECT", ""), os.environ.get("GATEWAY_RECORD", "")
    demo = os.environ.get("GATEWAY_DEMO") == "1"
    return Application(settings_from_environment(), demo=demo, inspect=inspect, record=record)
