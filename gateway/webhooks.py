"""Webhooks as Standard Webhooks (standardwebhooks.com) has them: a signed POST that is answered with 2xx."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence

import httpx
import msgspec

from gateway import __version__
from gateway.errors import BadRequest
from gateway.reads import Json

SECONDS = 15
"""How long a receiver has for its answer."""

PREFIX = "whsec_"


class Failed(Exception):
    """A receiver did not take what it was sent. `counts`: not because it was away, so that trying is not endless."""

    def __init__(self, reason: str, *, counts: bool = True) -> None:
        super().__init__(reason)
        self.counts = counts


def new_secret() -> str:
    """What a webhook is signed with."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> str:
    """A secret that somebody brings along. Raises BadRequest unless it is `whsec_` and base64 of 24 to 64 bytes."""
    try:
        if secret.startswith(PREFIX) and 24 <= len(base64.b64decode(secret.removeprefix(PREFIX), validate=True)) <= 64:
            return secret
    except ValueError:
        pass
    raise BadRequest("this secret cannot be used", "send whsec_ and the base64 of 24 to 64 bytes, or leave it out")


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature: HMAC-SHA256 over id, time and body."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class Webhooks:
    """Sends to webhooks. Redirects are not followed: whoever is named in the URL is meant."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=SECONDS, follow_redirects=False)

    async def send(self, url: str, secret: str, message_id: str, entries: Sequence[Json], after: str) -> None:
        """POSTs a page of the feed. Raises Failed unless the answer is 2xx, within 15 seconds in all."""
        body, at = msgspec.json.encode({"entries": entries, "next": after}), int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": f"veroq-gateway/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(at),
            "webhook-signature": sign(secret, message_id, at, body),
        }
        try:
            async with (
                asyncio.timeout(SECONDS),
                self._client.stream("POST", url, content=body, headers=headers) as response,
            ):
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TimeoutError) as error:
            raise Failed(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        if not 200 <= status < 300:
            raise Failed(f"the answer was {status}")

    async def close(self) -> None:
        """Ends its connections."""
        await self._client.aclose()
