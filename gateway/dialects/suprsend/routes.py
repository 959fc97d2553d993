"""SuprSend's paths: matched as they were sent, since an id in them may hold any letter."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from gateway.context import Gateway
from gateway.dialects.suprsend import events, users
from gateway.dialects.suprsend.auth import caller_of, raw_path
from gateway.dialects.suprsend.calls import Asked, Handler, refusal
from gateway.errors import BadRequest, Forbidden, GatewayError, MethodNotAllowed
from gateway.web import body_of

MAX_BODY = 800 * 1024

ID = rb"([^/]*)"
USERS: tuple[tuple[bytes, dict[str, Handler]], ...] = (
    (rb"/v1/user/?", {"GET": users.list_users}),
    (rb"/v1/bulk/user/?", {"DELETE": users.delete_many}),
    (
        rb"/v1/user/" + ID + rb"/?",
        {"POST": users.upsert, "GET": users.get, "PATCH": users.edit, "DELETE": users.delete},
    ),
    (rb"/v1/user/" + ID + rb"/merge/?", {"POST": users.merge}),
    (rb"/v1/user/.*", dict.fromkeys(("GET", "POST", "PATCH", "DELETE"), users.not_here)),
)
EVENTS: tuple[tuple[bytes, dict[str, Handler]], ...] = (
    (rb"/event/?", {"POST": events.events}),
    (rb"/v2/event/?", {"POST": events.event}),
    (rb"/v2/bulk/event/?", {"POST": events.bulk_events}),
)


class RawRoute(Route):
    """A route that matches the path as it was sent: an id may hold a slash, percent-encoded."""

    def __init__(self, pattern: bytes, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__("/" + pattern.decode("ascii", "replace").strip("/"), endpoint)
        self.methods = None  # each: the call itself refuses the wrong ones, in this dialect's words
        self.pattern = re.compile(pattern, re.DOTALL)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the path as it was sent is this call's; the id in it stays encoded."""
        found = self.pattern.fullmatch(raw_path(scope)) if scope["type"] == "http" else None
        if found is None:
            return Match.NONE, {}
        value = found.group(1) if found.groups() else b""
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {"value": value}}


def endpoint(
    gateway: Gateway, handlers: dict[str, Handler], *, pages: bool
) -> Callable[[Request], Awaitable[Response]]:
    """Checks who calls and answers; `pages`: the public key is enough, and pages of other origins may call."""

    async def serve(request: Request) -> Response:
        if pages and request.method == "OPTIONS":
            return preflight(request)
        try:
            response = await called(request)
        except GatewayError as error:
            response = refusal(error)
        response.headers["Cache-Control"] = "no-store"
        if pages and (origin := request.headers.get("origin")):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Vary"] = "Origin"
        return response

    async def called(request: Request) -> Response:
        body = await body_of(request, MAX_BODY)
        caller = await caller_of(gateway, request, body)
        if caller.public and not pages:
            raise Forbidden("this call needs the secret key", "send Authorization: Bearer SECRET_KEY from a server")
        handler = handlers.get(request.method)
        if handler is None:
            return refusal(MethodNotAllowed(f"{request.method} is not possible here"), {"Allow": ", ".join(handlers)})
        asked = Asked(gateway, caller, text_of(request.path_params["value"]), request.query_params, body)
        return await handler(asked)

    return serve


def text_of(segment: bytes) -> str:
    """The id that a path segment stands for. Raises BadRequest if it is not UTF-8."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise BadRequest("the distinct_id in the path is not UTF-8", "percent-encode it") from error


def preflight(request: Request) -> Response:
    """What a browser asks before it sends an Authorization header elsewhere."""
    headers = {
        "Access-Control-Allow-Origin": request.headers.get("origin", "*"),
        "Access-Control-Allow-Methods": "POST, OPTIONS",
        "Access-Control-Allow-Headers": "authorization, content-type, x-ss-signature",
        "Access-Control-Max-Age": "7200",
        "Vary": "Origin",
    }
    return Response(status_code=204, headers=headers)


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The calls as routes."""
    doors = [(USERS, False), (EVENTS, True)]
    return [
        RawRoute(pattern, endpoint(gateway, handlers, pages=pages))
        for calls, pages in doors
        for pattern, handlers in calls
    ]
