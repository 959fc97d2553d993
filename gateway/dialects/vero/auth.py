"""Who calls: the site and its rights, by whichever of its keys a client sends under whichever name."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from gateway.context import Gateway
from gateway.errors import Forbidden, Unauthorized
from gateway.ingest import check_origin
from gateway.model import Proof, Site
from gateway.privacy import NONE, Wishes
from gateway.signing import same
from gateway.web import check_not_a_browser, wishes_of

NAMES = ("auth_token", "tracking_api_key", "api_key")
"""The parameters that carry a key; the first one sent decides. Newer clients send the server's token as the second."""

REFUSED = "Invalid authentication: You must provide a valid auth_token to access this resource."


@dataclass(frozen=True, slots=True)
class Caller:
    """A site's server, or with the public key alone anybody's browser."""

    site: Site
    server: bool
    wishes: Wishes = NONE

    @property
    def proof(self) -> Proof:
        """What this caller's word is worth."""
        return Proof.SERVER if self.server else Proof.CLAIMED

    @property
    def actor(self) -> str:
        """Who the ledger says it was."""
        return "server" if self.server else "page"


async def caller_of(gateway: Gateway, request: Request, params: dict[str, Any]) -> Caller:
    """The caller. Raises Unauthorized for a bad key, Forbidden for a leaked secret or an origin that is not listed."""
    key = next((params[name] for name in NAMES if params.get(name) not in (None, "")), None)
    if not isinstance(key, str):
        raise Unauthorized(REFUSED)
    caller = await _known(gateway, key)
    if caller.server:
        check_not_a_browser(request, caller.site)
        return caller
    check_origin(caller.site, request.headers.get("origin", ""))
    return replace(caller, wishes=wishes_of(caller.site, request))


async def _known(gateway: Gateway, key: str) -> Caller:
    # A token wrapped by Ruby's Base64 has line breaks in it, and one in a query has lost its plus signs.
    key = key.strip().replace("\n", "").replace("\r", "").replace(" ", "+")
    pair = _pair(key)
    try:
        site = await gateway.sites.by_api_key(pair[0] if pair else key)
    except Forbidden:
        if pair is None:
            return await _by_secret(gateway, key)
        raise Unauthorized(REFUSED) from None
    if pair is None:
        return Caller(site, server=False)
    if not any(same(secret, pair[1]) for secret in site.secret_keys):
        raise Unauthorized(REFUSED)
    return Caller(site, server=True)


async def _by_secret(gateway: Gateway, secret: str) -> Caller:
    try:
        return Caller(await gateway.sites.by_secret(secret), server=True)
    except Unauthorized:
        raise Unauthorized(REFUSED) from None


def _pair(token: str) -> tuple[str, str] | None:
    """The public and the secret key inside an auth_token; None for anything else."""
    try:
        padded = token.rstrip("=") + "=" * (-len(token.rstrip("=")) % 4)
        text = base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    public, found, secret = text.partition(":")
    return (public, secret) if found else None
