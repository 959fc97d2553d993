"""Who is calling: a server with the secret key (Bearer, or an HMAC over the request), or a page with the public key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from starlette.requests import Request
from starlette.types import Scope

from gateway.context import Gateway
from gateway.errors import Forbidden, Unauthorized
from gateway.model import Proof, Site
from gateway.privacy import NONE, Wishes
from gateway.signing import same
from gateway.web import check_not_a_browser, wishes_of

DATE_WINDOW = 15 * 60
"""Seconds that the Date header of a signed request may differ from our clock."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The site a request is for, and whether only its public key was shown: then it has a browser's rights."""

    site: Site
    public: bool = False
    wishes: Wishes = NONE

    @property
    def proof(self) -> Proof:
        """How well what this caller says about people is proven."""
        return Proof.CLAIMED if self.public else Proof.SERVER

    @property
    def prefix(self) -> str:
        """What comes before a page's message ids: a page that guesses a server's id must not make that a repeat."""
        return "page-" if self.public else ""

    @property
    def actor(self) -> str:
        """Who the ledger names."""
        return "page" if self.public else "server"


async def caller_of(gateway: Gateway, request: Request, body: bytes) -> Caller:
    """The caller of a request. Raises Unauthorized, and Forbidden for an origin or browser that may not use the key."""
    header = request.headers.get("authorization", "").strip()
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer" and value.strip():
        return await _by_bearer(gateway, request, value.strip())
    key, signed, signature = header.partition(":")
    if signed:
        site = await _site(gateway, key)
        check_signature(request, site, body, signature, time.time())
        check_not_a_browser(request, site)
        return Caller(site)
    if not header:
        message = "Authorization header is missing"
        raise Unauthorized(message, "send Bearer SECRET_KEY, or API_KEY:SIGNATURE as the SDKs do")
    return _page(request, await _site(gateway, header))


async def _by_bearer(gateway: Gateway, request: Request, key: str) -> Caller:
    try:
        site = await gateway.sites.by_secret(key)
    except Unauthorized:
        return _page(request, await _site(gateway, key))
    check_not_a_browser(request, site)
    return Caller(site)


async def _site(gateway: Gateway, api_key: str) -> Site:
    try:
        return await gateway.sites.by_api_key(api_key)
    except Forbidden as error:
        raise Unauthorized("invalid API key or workspace key", error.hint) from error


def _page(request: Request, site: Site) -> Caller:
    origin = request.headers.get("origin", "")
    if origin and site.origins and origin.lower() not in site.origins:
        hint = f"add it: gateway site set {site.name} --origin {origin[:200]}"
        raise Forbidden(f"pages of {origin[:200]} may not use this key", hint, code="unknown_origin")
    return Caller(site, public=True, wishes=wishes_of(site, request))


def check_signature(request: Request, site: Site, body: bytes, signature: str, at: float) -> None:
    """Checks the SDKs' signature over method, body, content type, date and path. Raises Unauthorized, saying why.

    The body counts as the bytes that arrived and the path as it was sent: each SDK writes its JSON in its own way.
    """
    date = request.headers.get("date", "")
    sent_at = date_of(date)
    if sent_at is None:
        raise Unauthorized("a signed request needs a Date header", "send it as Sun, 22 Nov 2026 12:30:09 GMT")
    if abs(sent_at - at) > DATE_WINDOW:
        message = f"the request was signed more than {DATE_WINDOW // 60} minutes away from now"
        raise Unauthorized(message, "set the clock of the calling machine")
    text = string_to_sign(request, body, date)
    for secret in site.secret_keys:
        digest = hmac.digest(secret.encode(), text, hashlib.sha256)
        if same(base64.b64encode(digest).decode(), signature):
            return
    raise Unauthorized("the signature does not match", "sign with the site's secret_key, and send the body as signed")


def string_to_sign(request: Request, body: bytes, date: str) -> bytes:
    """What a request's signature is made over."""
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest() if body and request.method != "GET" else ""
    path = raw_path(request.scope) + (b"?" + request.scope["query_string"] if request.scope["query_string"] else b"")
    parts = [request.method, md5, request.headers.get("content-type", ""), date]
    return "\n".join(parts).encode("latin-1", "replace") + b"\n" + path


def raw_path(scope: Scope) -> bytes:
    """The path as it was sent, percent-encoding and all."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return path.partition(b"?")[0]


def date_of(text: str) -> float | None:
    """Seconds since the epoch from an HTTP date or ISO 8601, None for anything else."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            found = parse(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return None
