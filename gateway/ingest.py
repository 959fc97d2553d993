"""POST /v1/commands: what pages and servers push, kept durably before it is answered.

This is the one path that every page view takes, so it is plain ASGI: no request and response objects, the headers read
once, a verified cookie remembered.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import msgspec
from starlette.types import Receive, Scope, Send

from gateway.commands import MAX_BODY, Body, Parser, decode_body, identity
from gateway.context import Gateway
from gateway.cookies import (
    FORGET_LINK,
    OPT_OUT,
    PENDING_LINK,
    REFRESH_AFTER,
    cookie_name,
    opted_out,
    read_cookies,
    set_cookie,
)
from gateway.errors import BadRequest, BadToken, Forbidden, GatewayError, TooLarge, Unauthorized
from gateway.identity.requests import Batch, Command, Login, Operation, Person, Reidentify, ServerBatch, Writes
from gateway.limits import Limits
from gateway.model import Key, Site, now
from gateway.observe import Pushed, Turned
from gateway.privacy import KEPT_NOTHING, wishes
from gateway.signing import device_token, read_device_token
from gateway.web import error_body, leaked, refuse_coding

log = logging.getLogger("gateway.ingest")

PATH = "/v1/commands"
PREFLIGHT_SECONDS = 7200
REMEMBERED_COOKIES = 50_000
REMEMBERED_SECONDS = 3600

_encode = msgspec.json.encode


@dataclass(slots=True)
class Caller:
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
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def add(self, name: str, value: str) -> None:
        """Adds a header."""
        self.headers.append((name.encode(), value.encode("latin-1", "replace")))


@dataclass(slots=True)
class Shown:
    """The device tokens a browser showed: the one to use, when its cookie was signed, and a second valid one."""

    device_id: int = 0
    signed_at: int = 0
    by_cookie: bool = False
    other: int = 0


def caller(scope: Scope) -> Caller:
    """Reads the headers once."""
    found = Caller(scope["scheme"], client=scope.get("client"))
    for name, value in scope["headers"]:
        if name == b"cookie":
            found.cookie = f"{found.cookie}; {value.decode('latin-1')}" if found.cookie else value.decode("latin-1")
        elif name == b"host":
            found.host = value.decode("latin-1")
        elif name == b"origin":
            found.origin, found.browser = value.decode("latin-1"), True
        elif name == b"sec-fetch-site":
            found.browser = True
        elif name == b"sec-gpc":
            found.gpc = value == b"1"
        elif name == b"sec-purpose":  # a page that is being prerendered: nobody has seen it yet
            found.unseen = b"prefetch" in value
        elif name == b"authorization":
            found.authorization = value.decode("latin-1")
        elif name == b"content-encoding":
            found.coding = value.decode("latin-1").lower()
        elif name == b"content-length":
            found.length = int(value) if value.isdigit() else 0
    return found


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


class Ingest:
    """The endpoint and its preflight as an ASGI application."""

    def __init__(self, gateway: Gateway, limits: Limits) -> None:
        self.gateway = gateway
        self.limits = limits
        self.third_party = gateway.settings.cookie_mode == "third_party"
        self.tally = gateway.writer.tally
        self.cookies: dict[tuple[int, str], tuple[int, int, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = caller(scope)
        try:
            reply = await self._answer(scope["method"], asked, receive)
        except GatewayError as error:
            reply = Reply(error.status, error_body(error.code, error.message, error.hint))
            if error.retry_after is not None:
                reply.add("retry-after", str(error.retry_after))
            self.tally.refuse(error.code)
            for observer in self.gateway.observers:
                observer.turned(Turned(asked.body, error, asked.origin))
        except Exception:
            log.exception("%s %s failed", scope["method"], PATH)
            reply = Reply(500, error_body("bug", "the gateway failed on this request", "the log says where"))
        self.tally.respond("commands", reply.status)
        allow_origin(reply, asked.origin)
        body = b"" if reply.data is None else _encode(reply.data)
        if reply.data is not None:
            reply.headers.append((b"content-type", b"application/json"))
            reply.headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, method: str, asked: Caller, receive: Receive) -> Reply:
        if method == "OPTIONS":
            return preflight()
        if method != "POST":
            refused = Reply(405, error_body("method_not_allowed", f"{method} is not possible here", "send a POST"))
            refused.add("allow", "POST, OPTIONS")
            return refused
        self.limits.address(asked.client)
        refuse_coding(asked.coding)
        asked.body = raw = await body_of(receive, asked.length)
        if asked.authorization:
            return await from_server(self.gateway, self.limits, asked, raw)
        return await self.from_page(asked, raw)

    # --- pages ------------------------------------------------------------------------------------------------------

    async def from_page(self, asked: Caller, raw: bytes) -> Reply:
        """Keeps a page's commands on its device; the reply is the same whatever the gateway knew."""
        gateway = self.gateway
        received = now()
        body = decode_body(raw)
        site = await gateway.sites.by_api_key(body.key)
        check_origin(site, asked.origin)
        name = cookie_name(asked.scheme, asked.host)
        wanted = wishes(site, gpc=asked.gpc, opted_out=OPT_OUT in asked.cookie and opted_out(asked.cookie))
        if wanted.declined:
            return self.declined(asked, name, len(body.commands))
        shown = self.shown_device(site, asked, name, body)
        self.limits.device(site.site_id, shown.device_id, len(body.commands))
        self.limits.address(asked.client, max(len(body.commands) - 1, 0))
        self.limits.site(site.site_id, len(body.commands))
        parser = Parser(site, gateway.signer, private=wanted.private)
        commands: list[Command] = []
        for entry in body.commands:
            parsed = parser.entry(entry)
            if parsed is not None:
                commands += parsed[1]
        follows = PENDING_LINK in asked.cookie and not asked.unseen
        pending = read_cookies(asked.cookie, PENDING_LINK) if follows else []
        if pending and commands:
            commands = [*confirmed(parser, pending[0], commands), *commands]
        measured = received - int(body.sent_at * 1000) if body.sent_at and 0 < body.sent_at < 2**52 else None
        device_id, outcomes = shown.device_id, list[str]()
        if commands:
            batch = Batch(site, device_id, commands, received, measured, shown.other, private=wanted.private)
            done = await gateway.writer.commands(batch)
            device_id, outcomes = done.device_id, done.outcomes
        for observer in gateway.observers:
            link = pending[0] if pending else None
            kept = (body, commands, outcomes, parser.skipped, device_id, received, measured, shown.other, link)
            observer.pushed(Pushed(site, *kept, private=wanted.private))
        return self.taken(site, name, shown, device_id, parser, had_pending=bool(pending))

    def shown_device(self, site: Site, asked: Caller, name: str | None, body: Body) -> Shown:
        """The device a browser proves to be: by its cookie, else by the token it was given while it had none."""
        shown = Shown()
        for value in read_cookies(asked.cookie, name) if name and asked.cookie else ():
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

    def taken(
        self, site: Site, name: str | None, shown: Shown, device_id: int, parser: Parser, *, had_pending: bool
    ) -> Reply:
        """202 for a page; sets or renews the cookie, and gives the token to a browser that has not shown the cookie."""
        data = {"status": "ok"}
        reply = Reply(202, data, [(b"cache-control", b"no-store")])
        fresh = shown.by_cookie and time.time() - shown.signed_at < REFRESH_AFTER
        if device_id and not fresh:
            token = device_token(self.gateway.signer, site.site_id, device_id)
            if name:
                reply.add("set-cookie", set_cookie(name, token, third_party=self.third_party))
            if not shown.by_cookie:
                data["device"] = token
        if had_pending:
            reply.add("set-cookie", FORGET_LINK)
        if parser.skipped:
            self.tally.skip(parser.skipped)
            # The body stays the same for everybody; whoever embeds the snippet finds the reason in the network panel.
            reason = "".join(filter(str.isprintable, parser.skipped[0].reason.encode("ascii", "replace").decode()))
            reply.add("x-gateway-skipped", f"{len(parser.skipped)}; {reason[:300]}")
        return reply

    def declined(self, asked: Caller, name: str | None, commands: int) -> Reply:
        """The usual answer for a browser of which nothing is to be kept; it forgets what it was given before."""
        reply = Reply(202, {"status": "ok"}, [(b"cache-control", b"no-store")])
        if name and read_cookies(asked.cookie, name):
            reply.add("set-cookie", set_cookie(name, "", third_party=self.third_party, max_age=0))
        if read_cookies(asked.cookie, PENDING_LINK):
            reply.add("set-cookie", FORGET_LINK)
        self.tally.skipped["declined"] += commands
        reply.add("x-gateway-skipped", f"{commands}; {KEPT_NOTHING}")
        return reply


def preflight() -> Reply:
    """What a browser asks before it sends JSON to another origin."""
    reply = Reply(204, None)
    reply.add("access-control-allow-methods", "POST, OPTIONS")
    reply.add("access-control-allow-headers", "content-type")
    reply.add("access-control-max-age", str(PREFLIGHT_SECONDS))
    return reply


def allow_origin(reply: Reply, origin: str) -> None:
    """Lets a page read the answer. Whether its commands were taken was decided by the site's own list of origins."""
    if origin:
        reply.add("access-control-allow-origin", origin)
        reply.add("access-control-allow-credentials", "true")
        reply.add("access-control-expose-headers", "Retry-After, X-Gateway-Skipped")
    reply.headers.append((b"vary", b"Origin"))


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


# --- servers ----------------------------------------------------------------------------------------------------------


async def from_server(gateway: Gateway, limits: Limits, asked: Caller, raw: bytes) -> Reply:
    """Keeps a server's commands, each about an identity or a device, with proof `server`."""
    received = now()
    kind, _, secret = asked.authorization.partition(" ")
    if kind.lower() != "bearer":
        raise Unauthorized("this call needs the site's secret key", "send Authorization: Bearer SECRET_KEY")
    site = await gateway.sites.by_secret(secret.strip())
    if asked.browser:
        raise leaked(site)
    body = decode_body(raw)
    limits.site(site.site_id, len(body.commands))
    parser = Parser(site, gateway.signer, server=True)
    outcomes: list[str] = []
    for raw_entry in body.commands:
        parsed = parser.entry(raw_entry)
        if parsed is None:
            outcomes.append("skipped")
            continue
        entry, commands = parsed
        try:
            device = entry.device or body.device
            outcomes += [await keep(gateway, site, c, entry.identity, device, received) for c in commands]
        except BadRequest as error:
            parser.skipped.append(parser.refusal(entry, error))
            outcomes.append("skipped")
    gateway.writer.tally.skip(parser.skipped)
    skipped = [{"command": s.command, "reason": s.reason} for s in parser.skipped]
    return Reply(202, {"status": "ok", "outcomes": outcomes, "skipped": skipped})


async def keep(gateway: Gateway, site: Site, command: Command, named: object, device: str | None, received: int) -> str:
    """Keeps one server command; returns its outcome. Raises BadRequest if it does not say whom it is about."""
    if device is not None:
        device_id = gateway.device_id(site, device)
        batch = Batch(site, device_id, [command], received, actor="server")
        return (await gateway.writer.commands(batch)).outcomes[0]
    if isinstance(command, Reidentify):
        if command.new is None or command.old is None:
            raise BadRequest(command.blocked_new or command.blocked_old or "reidentify needs both ids here")
        people = [Person(key=command.new), Person(key=command.old)]
        operation = Operation(site, "reidentify", command.op_id, people)
        return (await gateway.writer.operation(operation)).outcome
    key = person_of(command, named)
    if isinstance(command, Login):
        command = Writes(command.op_id, command.sent_at, command.fingerprint, rows=command.rows)
    elif isinstance(command, Writes):
        command.target = None
    done = await gateway.writer.commands(ServerBatch(site, key, [command], received))
    return done.outcomes[0]


def person_of(command: Command, named: object) -> Key:
    """The identity a server's command is about."""
    if isinstance(named, dict):
        key, blocked = identity(named.get("value"), str(named.get("kind", "id")))
    elif named is not None:
        key, blocked = identity(named)
    elif isinstance(command, Login):
        key, blocked = command.key, command.blocked
    else:
        key, blocked = getattr(command, "target", None), None
    if key is None:
        raise BadRequest(blocked or "the entry does not say whom it is about", 'add "identity": ID or "device": TOKEN')
    return key
