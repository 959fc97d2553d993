"""POST /v1/commands: what pages and servers push, kept durably before it is answered."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.commands import MAX_BODY, Body, Parser, decode_body, identity
from gateway.context import Gateway
from gateway.cookies import PENDING_LINK, REFRESH_AFTER, cookie_name, read_cookies, set_cookie
from gateway.errors import BadRequest, BadToken, Forbidden, GatewayError
from gateway.identity.requests import Batch, Command, Login, Operation, Person, Reidentify, ServerBatch, Writes
from gateway.model import Key, Site, now
from gateway.signing import device_token, read_device_token
from gateway.web import answer, bearer, body_of, check_not_a_browser, error_answer

PREFLIGHT_SECONDS = 7200


@dataclass(slots=True)
class Shown:
    """The device tokens a browser showed: the one to use, when its cookie was signed, and a second valid one."""

    device_id: int = 0
    signed_at: int = 0
    by_cookie: bool = False
    other: int = 0


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The ingest endpoint and its preflight."""

    async def commands(request: Request) -> Response:
        origin = request.headers.get("origin", "")
        try:
            raw = await body_of(request, MAX_BODY)
            if "authorization" in request.headers:
                return await from_server(gateway, request, raw)
            response = await from_page(gateway, request, raw)
        except GatewayError as error:
            response = error_answer(error)
        allow_origin(response, origin)
        return response

    async def preflight(request: Request) -> Response:
        response = Response(status_code=204)
        allow_origin(response, request.headers.get("origin", ""))
        response.headers["Access-Control-Allow-Methods"] = "POST, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = "content-type"
        response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
        return response

    return [
        Route("/v1/commands", commands, methods=["POST"]),
        Route("/v1/commands", preflight, methods=["OPTIONS"]),
    ]


def allow_origin(response: Response, origin: str) -> None:
    """Lets a page read the answer. Whether its commands were taken was decided by the site's own list of origins."""
    if origin:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
    response.headers["Vary"] = "Origin"


# --- pages ------------------------------------------------------------------------------------------------------------


async def from_page(gateway: Gateway, request: Request, raw: bytes) -> Response:
    """Keeps a page's commands on its device; the reply is the same whatever the gateway knew."""
    received = now()
    body = decode_body(raw)
    site = await gateway.sites.by_api_key(body.key)
    check_origin(site, request.headers.get("origin", ""))
    shown = shown_device(gateway, site, request, body)
    parser = Parser(site, gateway.signer)
    commands = [c for entry in body.commands if (parsed := parser.entry(entry)) for c in parsed[1]]
    pending = pending_link(parser, request, commands, received)
    measured = received - int(body.sent_at * 1000) if body.sent_at and 0 < body.sent_at < 2**52 else None
    device_id = shown.device_id
    if commands or shown.other:
        batch = Batch(site, device_id, [*pending, *commands], received, measured, shown.other)
        device_id = (await gateway.writer.commands(batch)).device_id
    return reply(gateway, site, request, shown, device_id, parser, had_pending=bool(pending))


def check_origin(site: Site, origin: str) -> None:
    """Raises Forbidden for a page of an origin that the site does not list."""
    if origin and site.origins and origin.lower() not in site.origins:
        hint = f"add it: gateway site set {site.name} --origin {origin[:200]}"
        raise Forbidden(f"pages of {origin[:200]} may not use this key", hint, code="unknown_origin")


def shown_device(gateway: Gateway, site: Site, request: Request, body: Body) -> Shown:
    """The device a browser proves to be: by its cookie, else by the token it was given while it had none."""
    shown = Shown()
    name = cookie_name(request.url.scheme, request.headers.get("host", ""))
    for value in read_cookies(request.headers.get("cookie", ""), name) if name else ():
        try:
            shown.device_id, shown.signed_at = read_device_token(gateway.signer, site.site_id, value)
            shown.by_cookie = True
            break
        except BadToken:
            continue
    if body.device:
        try:
            device_id, _ = read_device_token(gateway.signer, site.site_id, body.device)
        except BadToken:
            return shown
        if shown.device_id and device_id != shown.device_id:
            shown.other = device_id
        shown.device_id = shown.device_id or device_id
    return shown


def pending_link(parser: Parser, request: Request, commands: list[Command], received: int) -> list[Command]:
    """The link that a redirect left in a cookie: a page that pushes commands confirms it."""
    values = read_cookies(request.headers.get("cookie", ""), PENDING_LINK)
    if not values or not commands:
        return []
    at = min(c.sent_at for c in commands) // 1000
    entry = {"id": f"link-{values[0][-32:]}", "at": at, "command": ["link", values[0]]}
    parsed = parser.entry(msgspec.json.encode(entry))
    return parsed[1] if parsed else []


def reply(
    gateway: Gateway, site: Site, request: Request, shown: Shown, device_id: int, parser: Parser, *, had_pending: bool
) -> Response:
    """202 for a page; sets or renews the cookie, and gives the token to a browser that has not shown the cookie."""
    data: dict[str, str] = {"status": "ok"}
    headers: list[str] = []
    name = cookie_name(request.url.scheme, request.headers.get("host", ""))
    third_party = gateway.settings.cookie_mode == "third_party"
    fresh = shown.by_cookie and time.time() - shown.signed_at < REFRESH_AFTER
    if device_id and not fresh:
        token = device_token(gateway.signer, site.site_id, device_id)
        if name:
            headers.append(set_cookie(name, token, third_party=third_party))
        if not shown.by_cookie:
            data["device"] = token
    if had_pending or read_cookies(request.headers.get("cookie", ""), PENDING_LINK):
        headers.append(f"{PENDING_LINK}=; Path=/; Max-Age=0")
    response = answer(data, 202, {"Cache-Control": "no-store"})
    for header in headers:
        response.headers.append("Set-Cookie", header)
    if parser.skipped:
        # The body stays the same for everybody; whoever embeds the snippet finds the reason in the network panel.
        reason = parser.skipped[0].reason.encode("ascii", "replace").decode()
        response.headers["X-Gateway-Skipped"] = (
            f"{len(parser.skipped)}; {''.join(filter(str.isprintable, reason))[:300]}"
        )
        response.headers["Access-Control-Expose-Headers"] = "X-Gateway-Skipped"
    return response


# --- servers ----------------------------------------------------------------------------------------------------------


async def from_server(gateway: Gateway, request: Request, raw: bytes) -> Response:
    """Keeps a server's commands, each about an identity or a device, with proof `server`."""
    received = now()
    site = await gateway.sites.by_secret(bearer(request))
    check_not_a_browser(request, site)
    body = decode_body(raw)
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
    skipped = [{"command": s.command, "reason": s.reason} for s in parser.skipped]
    return answer({"status": "ok", "outcomes": outcomes, "skipped": skipped}, 202)


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
