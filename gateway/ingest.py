"""POST /v1/commands: what pages and servers push, kept durably before it is answered.

This is the one path that every page view takes, so it is plain ASGI: no request and response objects, the headers read
once, a verified cookie remembered. `protocol.Protocol` hands it most of what pages send without even that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial

import msgspec
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.commands import MAX_BODY, Body, Parser, Tracks, decode_page_body, is_plain
from gateway.context import Gateway
from gateway.cookies import (
    FORGET_LINK,
    OPT_OUT,
    PENDING_LINK,
    REFRESH_AFTER,
    cookie_name,
    device_value,
    opted_out,
    read_cookies,
    read_devices,
    set_cookie,
)
from gateway.errors import BadRequest, BadToken, Forbidden, GatewayError, TooLarge
from gateway.identity.batches import Done
from gateway.identity.requests import Batch, Command
from gateway.limits import Limits
from gateway.model import Site, now
from gateway.observe import Pushed, Turned
from gateway.privacy import KEPT_NOTHING, wishes
from gateway.server_push import from_server
from gateway.signing import device_token, read_device_token
from gateway.web import error_body, refuse_coding

log = logging.getLogger("gateway.ingest")

PATH = "/v1/commands"
PREFLIGHT_SECONDS = 7200
MAX_ORIGIN = 300
"""Letters; no browser has a longer one. What is remembered for each origin must not grow with what somebody sends."""
REMEMBERED_COOKIES = 50_000
REMEMBERED_SECONDS = 3600

STATUS_OK: dict[str, str] = {"status": "ok"}
OK = b'{"status":"ok"}'
JSON = (b"content-type", b"application/json")
NO_STORE = (b"cache-control", b"no-store")
CLOSE = (b"connection", b"close")

Headers = list[tuple[bytes, bytes]]

_encode = msgspec.json.encode


class Caller(msgspec.Struct):
    """What a request's headers say, as text, and its body once it was read."""

    scheme: str = "http"
    host: str = ""
    cookie: str = ""
    origin: str = ""
    authorization: str = ""
    browser: bool = False
    gpc: bool = False
    unseen: bool = False
    coding: str = ""
    client: tuple[str, int] | None = None
    length: int = 0
    body: bytes = b""


@dataclass(slots=True)
class Reply:
    """What is answered: status, JSON, headers."""

    status: int
    data: object
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    _whole: bytes = b""
    _with: Headers | None = None

    def whole(self, more: Headers, *, close: bool = False) -> bytes:
        """The answer as it is sent, with more headers: the server's own, which are the same list for a second."""
        if self._with is not more or close:
            lines = [STATUS_LINE[self.status]]
            for name, value in (*more, *self.headers, *([CLOSE] if close else [])):
                lines += (name, b": ", value, b"\r\n")
            whole = b"".join([*lines, b"\r\n", self.body])
            if close:
                return whole
            self._whole, self._with = whole, more
        return self._whole

    def add(self, name: str, value: str) -> None:
        """Adds a header."""
        self.headers.append((name.encode(), value.encode("latin-1", "replace")))


class Shown(msgspec.Struct):
    """The device tokens a browser showed: the one to use, when its cookie was signed, and a second valid one."""

    device_id: int = 0
    signed_at: int = 0
    by_cookie: bool = False
    other: int = 0


def caller(scheme: str, client: tuple[str, int] | None, headers: Headers, said: dict[bytes, bytes]) -> Caller:
    """What the headers of a request say. `said` are these by name, the last of each."""
    cookie = said.get(b"cookie", b"")
    if len(said) != len(headers):  # cookies may come in several headers
        cookie = b"; ".join(value for name, value in headers if name == b"cookie")
    length = said.get(b"content-length", b"")
    return Caller(
        scheme,
        said.get(b"host", b"").decode("latin-1"),
        cookie.decode("latin-1"),
        said.get(b"origin", b"")[:MAX_ORIGIN].decode("latin-1"),
        said.get(b"authorization", b"").decode("latin-1"),
        b"origin" in said or b"sec-fetch-site" in said,
        said.get(b"sec-gpc") == b"1",
        b"prefetch" in said.get(b"sec-purpose", b""),  # a page that is being prerendered: nobody has seen it yet
        said.get(b"content-encoding", b"").decode("latin-1").lower(),
        client,
        int(length) if length.isdigit() else 0,
    )


async def body_of(receive: Receive, length: int) -> bytes:
    """The request's body. Raises TooLarge as soon as it is over the limit, BadRequest if it breaks off."""
    too_large = TooLarge(f"the body is larger than {MAX_BODY // 1024} KiB", "send fewer or smaller entries at a time")
    if length > MAX_BODY:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the body broke off")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise too_large
        if not message.get("more_body"):
            return bytes(body)


class Page(msgspec.Struct):
    """A page's request, read and checked: what is to be kept of it, and what its answer needs."""

    site: Site
    asked: Caller
    cookie: str | None
    shown: Shown
    parser: Parser
    batch: Batch
    link: str | None


class Ingest:
    """The endpoint and its preflight: an ASGI application, and a shorter way in for what pages push."""

    def __init__(self, gateway: Gateway, limits: Limits) -> None:
        self.gateway = gateway
        self.limits = limits
        self.third_party = gateway.settings.cookie_mode == "third_party"
        self.tally = gateway.writer.tally
        self.cookies: dict[tuple[int, str], tuple[int, int, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = caller(scope["scheme"], scope.get("client"), scope["headers"], dict(scope["headers"]))
        try:
            reply = await self._answer(scope["method"], asked, receive)
        except Exception as error:
            reply = self._refused(asked, error)
        reply = self._finish(asked, reply)
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body})

    def direct(self, asked: Caller, done: Callable[[Reply], None]) -> bool:
        """Takes a page's POST without a task of its own: `done` gets the answer, at once or after the commit.

        False, and nothing was done, if something else must be read first: that request takes the usual way.
        """
        if asked.authorization or not self.gateway.sites.fresh:
            return False

        try:
            self._admit(asked)
            body = decode_page_body(asked.body)
            site = self.gateway.sites.known(body.key)
            if site is None:  # it may be new
                return False
            page = self.read(asked, body, site)
            if isinstance(page, Page) and page.batch.commands:
                self.gateway.writer.submit(page.batch, partial(self._settle, page, done))
                return True
            reply = self._unkept(page)
        except Exception as error:
            reply = self._refused(asked, error)
        done(self._finish(asked, reply))
        return True

    def _settle(self, page: Page, done: Callable[[Reply], None], kept: object) -> None:
        """Answers a page when the writer is done with it."""
        try:
            if isinstance(kept, GatewayError):
                raise kept
            assert isinstance(kept, Done)
            reply = self._kept(page, kept)
        except Exception as error:
            reply = self._refused(page.asked, error)
        done(self._finish(page.asked, reply))

    async def _answer(self, method: str, asked: Caller, receive: Receive) -> Reply:
        if method == "OPTIONS":
            return preflight()
        if method != "POST":
            refused = Reply(405, error_body("method_not_allowed", f"{method} is not possible here", "send a POST"))
            refused.add("allow", "POST, OPTIONS")
            return refused
        self._admit(asked)
        asked.body = await body_of(receive, asked.length)
        if asked.authorization:
            given = (asked.authorization, asked.body)
            return Reply(202, await from_server(self.gateway, self.limits, *given, browser=asked.browser))
        body = decode_page_body(asked.body)
        page = self.read(asked, body, await self.gateway.sites.by_api_key(body.key))
        if isinstance(page, Page) and page.batch.commands:
            return self._kept(page, await self.gateway.writer.commands(page.batch))
        return self._unkept(page)

    def _admit(self, asked: Caller) -> None:
        """What is refused before the body is read."""
        self.limits.address(asked.client)
        refuse_coding(asked.coding)

    def _refused(self, asked: Caller, error: Exception) -> Reply:
        """The answer to a request that failed as a whole."""
        if not isinstance(error, GatewayError):
            log.error("POST %s failed", PATH, exc_info=error)
            return Reply(500, error_body("bug", "the gateway failed on this request", "the log says where"))
        reply = Reply(error.status, error_body(error.code, error.message, error.hint))
        if error.retry_after is not None:
            reply.add("retry-after", str(error.retry_after))
        self.tally.refuse(error.code)
        for observer in self.gateway.observers:
            observer.turned(Turned(asked.body, error, asked.origin))
        return reply

    def _finish(self, asked: Caller, reply: Reply) -> Reply:
        """Counts the answer and writes its body and last headers."""
        self.tally.respond("commands", reply.status)
        if reply is TAKEN:
            return taken(asked.origin)
        reply.headers += origin_headers(asked.origin)
        if reply.data is not None:
            reply.body = OK if reply.data is STATUS_OK else _encode(reply.data)
            reply.headers += (JSON, (b"content-length", b"%d" % len(reply.body)))
        return reply

    # --- pages ------------------------------------------------------------------------------------------------------

    def read(self, asked: Caller, body: Body | Tracks, site: Site) -> Page | Reply:
        """What is to be kept of a page's request; the answer, where nothing is to be kept of that browser.

        Raises Forbidden for a foreign origin, TooMany.
        """
        received = now()
        check_origin(site, asked.origin)
        name = cookie_name(asked.scheme, asked.host)
        wanted = wishes(site, gpc=asked.gpc, opted_out=OPT_OUT in asked.cookie and opted_out(asked.cookie))
        if wanted.declined:
            return self.declined(asked, name, len(body.commands))
        shown = self.shown_device(site, asked, name, body)
        self.limits.device(site.site_id, shown.device_id, len(body.commands))
        if len(body.commands) > 1:
            self.limits.address(asked.client, len(body.commands) - 1)
        self.limits.site(site.site_id, len(body.commands))
        parser = Parser(site, self.gateway.signer, private=wanted.private, plain=is_plain(asked.body))
        commands = parser.body(body, asked.body)
        follows = PENDING_LINK in asked.cookie and not asked.unseen
        link = next(iter(read_cookies(asked.cookie, PENDING_LINK)), None) if follows else None
        if link is not None and commands:
            commands = [*confirmed(parser, link, commands), *commands]
        measured = received - int(body.sent_at * 1000) if body.sent_at and 0 < body.sent_at < 2**52 else None
        batch = Batch(site, shown.device_id, commands, received, measured, shown.other, private=wanted.private)
        return Page(site, asked, name, shown, parser, batch, link)

    def _kept(self, page: Page, done: Done) -> Reply:
        """The answer to a page when its commands are durable, or when there were none: always the same."""
        batch, shown, skipped = page.batch, page.shown, page.parser.skipped
        for observer in self.gateway.observers:
            kept = (page.asked.body, batch.commands, done.outcomes, skipped, done.device_id, batch.received_at)
            observer.pushed(Pushed(page.site, *kept, batch.measured, shown.other, page.link, batch.private))
        if page.parser.denied:
            self.tally.skip(skipped)
            return self.forgetting(page.asked, page.cookie)
        fresh = shown.by_cookie and time.time() - shown.signed_at < REFRESH_AFTER
        if fresh and not skipped and page.link is None:
            return TAKEN
        reply = Reply(202, STATUS_OK, [NO_STORE])
        if done.device_id and not fresh:
            token = device_token(self.gateway.signer, page.site.site_id, done.device_id)
            if page.cookie:
                known = read_devices(page.asked.cookie, page.cookie) if page.asked.cookie else []
                value = device_value(self.gateway.signer, page.site.site_id, done.device_id, known) if known else token
                reply.add("set-cookie", set_cookie(page.cookie, value, third_party=self.third_party))
            if not shown.by_cookie:
                reply.data = STATUS_OK | {"device": token}
        if page.link is not None:
            reply.add("set-cookie", FORGET_LINK)
        if skipped:
            self.tally.skip(skipped)
            # The body stays the same for everybody; whoever embeds the snippet finds the reason in the network panel.
            reason = "".join(filter(str.isprintable, skipped[0].reason.encode("ascii", "replace").decode()))
            reply.add("x-gateway-skipped", f"{len(skipped)}; {reason[:300]}")
        return reply

    def _unkept(self, page: Page | Reply) -> Reply:
        """The answer where there is nothing to keep."""
        return page if isinstance(page, Reply) else self._kept(page, Done(page.shown.device_id))

    def shown_device(self, site: Site, asked: Caller, name: str | None, body: Body | Tracks) -> Shown:
        """The device a browser proves to be: by its cookie, else by the token it was given while it had none."""
        shown = Shown()
        for value in read_devices(asked.cookie, name) if name and asked.cookie else ():
            try:
                shown.device_id, shown.signed_at = self.verified(site, value)
                shown.by_cookie = True
                break
            except BadToken:
                continue
        if body.device:
            try:
                device_id, _ = self.verified(site, body.device)
            except BadToken:
                return shown
            if shown.device_id and device_id != shown.device_id:
                shown.other = device_id
            shown.device_id = shown.device_id or device_id
        return shown

    def verified(self, site: Site, token: str) -> tuple[int, int]:
        """(device id, when it was signed). A token verified within the hour is not verified again."""
        known = self.cookies.get((site.site_id, token))
        if known is not None and known[2] > time.monotonic():
            return known[0], known[1]
        device_id, signed_at = read_device_token(self.gateway.signer, site.site_id, token)
        if len(self.cookies) >= REMEMBERED_COOKIES:
            self.cookies.clear()
        self.cookies[site.site_id, token] = (device_id, signed_at, time.monotonic() + REMEMBERED_SECONDS)
        return device_id, signed_at

    def declined(self, asked: Caller, name: str | None, commands: int) -> Reply:
        """The usual answer for a browser of which nothing is to be kept; it forgets what it was given before."""
        reply = self.forgetting(asked, name)
        self.tally.skipped["declined"] += commands
        reply.add("x-gateway-skipped", f"{commands}; {KEPT_NOTHING}")
        return reply

    def forgetting(self, asked: Caller, name: str | None) -> Reply:
        """The usual answer, and the browser forgets what it was given before."""
        reply = Reply(202, STATUS_OK, [NO_STORE])
        if name and read_cookies(asked.cookie, name):
            reply.add("set-cookie", set_cookie(name, "", third_party=self.third_party, max_age=0))
        if read_cookies(asked.cookie, PENDING_LINK):
            reply.add("set-cookie", FORGET_LINK)
        return reply


def preflight() -> Reply:
    """What a browser asks before it sends JSON to another origin."""
    reply = Reply(204, None)
    reply.add("access-control-allow-methods", "POST, OPTIONS")
    reply.add("access-control-allow-headers", "content-type")
    reply.add("access-control-max-age", str(PREFLIGHT_SECONDS))
    return reply


TAKEN = Reply(202, STATUS_OK)
"""Stands for the answer to a browser that has its cookie, as almost all have; see `taken`."""


@lru_cache(maxsize=1024)
def taken(origin: str) -> Reply:
    """The usual answer to a page of an origin, made once. Nobody adds to it."""
    headers = [NO_STORE, *origin_headers(origin), JSON, (b"content-length", b"%d" % len(OK))]
    return Reply(202, STATUS_OK, headers, OK)


@lru_cache(maxsize=1024)
def origin_headers(origin: str) -> tuple[tuple[bytes, bytes], ...]:
    """Lets a page read the answer. Whether its commands were taken was decided by the site's own list of origins."""
    vary = (b"vary", b"Origin")
    if not origin:
        return (vary,)
    return (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", b"Retry-After, X-Gateway-Skipped"),
        vary,
    )


def check_origin(site: Site, origin: str) -> None:
    """Raises Forbidden for a page of an origin that the site does not list."""
    if origin and site.origins and origin.lower() not in site.origins:
        hint = f"add it: gateway site set {site.name} --origin {origin[:200]}"
        raise Forbidden(f"pages of {origin[:200]} may not use this key", hint, code="unknown_origin")


def confirmed(parser: Parser, token: str, commands: list[Command]) -> list[Command]:
    """The link that a redirect left in a cookie: a page that pushes commands confirms it."""
    at = min(c.sent_at for c in commands) // 1000
    parsed = parser.entry(_encode({"id": f"link-{token[-32:]}", "at": at, "command": ["link", token]}))
    return parsed[1] if parsed else []
