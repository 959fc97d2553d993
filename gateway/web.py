"""Small shared things of HTTP: answers and errors as JSON, bounded bodies, who is calling."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.cookies import opted_out
from gateway.errors import BadRequest, Forbidden, GatewayError, TooLarge, Unauthorized, UnsupportedCoding
from gateway.model import Site
from gateway.privacy import Wishes, wishes

log = logging.getLogger("gateway.web")

CODES = {404: "not_found", 405: "method_not_allowed", 400: "bad_request"}
HINTS = {
    404: "GET /docs lists the calls",
    405: "GET /docs lists the calls with their methods",
}


def answer(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`data` as JSON."""
    return Response(msgspec.json.encode(data), status, headers, media_type="application/json")


def error_body(code: str, message: str, hint: str = "") -> dict[str, Any]:
    """The one shape of every error."""
    return {"error": {"code": code, "message": message, "hint": hint}}


def error_answer(error: GatewayError) -> Response:
    """A refusal as HTTP."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return answer(error_body(error.code, error.message, error.hint), error.status, headers)


async def on_gateway_error(request: Request, error: Exception) -> Response:
    """Exception handler for everything the gateway refuses."""
    assert isinstance(error, GatewayError)
    return error_answer(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Exception handler for what the framework refuses: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    message = {404: "there is nothing at this path", 405: f"{request.method} is not possible here"}.get(
        error.status_code, str(error.detail)
    )
    code = CODES.get(error.status_code, "refused")
    body = error_body(code, message, HINTS.get(error.status_code, ""))
    return answer(body, error.status_code, dict(error.headers or {}))


async def on_bug(request: Request, error: Exception) -> Response:
    """Exception handler for what should never happen: logged with its traceback, told apart from a refusal."""
    route = request.scope.get("route")  # not the path: it may hold a token or somebody's id
    log.error("%s %s failed", request.method, getattr(route, "path", "?"), exc_info=error)
    return answer(error_body("bug", "the gateway failed on this request", "the log says where"), 500)


def refuse_coding(coding: str) -> None:
    """Raises UnsupportedCoding for a body that says it is compressed: there is nothing to unpack, so no bomb either."""
    if coding not in ("", "identity"):
        raise UnsupportedCoding(f"bodies encoded as {coding[:40]!r} are not taken", "send the body as it is")


async def body_of(request: Request, limit: int) -> bytes:
    """The request's body. Raises TooLarge as soon as more than `limit` bytes arrive, BadRequest if it breaks off."""
    refuse_coding(request.headers.get("content-encoding", ""))
    too_large = TooLarge(f"the body is larger than {limit // 1024} KiB", "send fewer or smaller entries at a time")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
    except ClientDisconnect as error:
        raise BadRequest("the body broke off") from error
    return b"".join(parts)


def bearer(request: Request) -> str:
    """The secret key of an Authorization header. Raises Unauthorized without one, Forbidden if a browser sends it."""
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise Unauthorized("this call needs the site's secret key", "send Authorization: Bearer SECRET_KEY")
    return secret.strip()


def wishes_of(site: Site, request: Request) -> Wishes:
    """What the browser that sent a request asked not to be done."""
    gpc, cookie = request.headers.get("sec-gpc") == "1", request.headers.get("cookie", "")
    return wishes(site, gpc=gpc, opted_out=opted_out(cookie))


def check_not_a_browser(request: Request, site: Site) -> None:
    """Raises Forbidden for a secret key that comes from a browser."""
    if "origin" in request.headers or "sec-fetch-site" in request.headers:
        raise leaked(site)


def leaked(site: Site) -> Forbidden:
    """The refusal of a secret key that came from a browser; the log says so too."""
    log.warning("the secret key of site %s came from a browser: rotate it (gateway site rotate-key)", site.name)
    message = "a secret key must never be used in a browser: it has leaked"
    return Forbidden(message, "rotate it: gateway site rotate-key", code="leaked_secret_key")
