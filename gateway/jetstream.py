"""NATS JetStream: each entry of the feed as a message, acknowledged by the stream. Needs the extra `nats`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import nats
from nats.errors import Error, MaxPayloadError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from gateway.reads import Json
from gateway.webhooks import Failed

SECONDS = 5


async def _nothing(error: Exception) -> None:
    """What goes wrong is seen by whoever waits for an acknowledgement."""


# Left to itself the client goes on trying for minutes: we try again ourselves, and say so meanwhile.
ONCE: dict[str, Any] = {
    "allow_reconnect": False,
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0,
    "connect_timeout": SECONDS,
    "error_cb": _nothing,
}


class JetStream:
    """Publishes to the streams of NATS servers, over one connection a server."""

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}
        self._streams: set[tuple[str, str]] = set()

    async def send(self, url: str, subject: str, entries: Sequence[Json]) -> None:
        """Publishes entries under `subject`.event and `subject`.identity, in order, with their ids as Nats-Msg-Id.

        Makes the stream if no stream takes the subject. Raises Failed unless every message was acknowledged.
        """
        try:
            stream = await self._stream(url, subject)
            sent = [
                stream.publish(
                    f"{subject}.{e['type']}", msgspec.json.encode(e), headers={"Nats-Msg-Id": e["id"]}, timeout=SECONDS
                )
                for e in entries
            ]
            async with asyncio.timeout(3 * SECONDS):
                answers = await asyncio.gather(*sent, return_exceptions=True)
            for error in (a for a in answers if isinstance(a, BaseException)):
                raise error
        except MaxPayloadError as error:
            raise Failed("an entry is larger than the server takes") from error
        except (Error, APIError, OSError, ValueError, TimeoutError) as error:
            await self._forget(url)
            refused = isinstance(error, APIError) and (error.code or 503) < 500
            raise Failed(f"{type(error).__name__}: {error}".rstrip(": "), counts=refused) from error

    async def _stream(self, url: str, subject: str) -> JetStreamContext:
        client = self._clients.get(url)
        if client is None or not client.is_connected:
            await self._forget(url)
            async with asyncio.timeout(SECONDS):
                client = self._clients[url] = await nats.connect(url, **ONCE)
        stream: JetStreamContext = client.jetstream(timeout=SECONDS)
        if (url, subject) not in self._streams:
            try:
                await stream.find_stream_name_by_subject(f"{subject}.event")
            except NotFoundError:
                name = "".join(c if c.isalnum() else "_" for c in subject)
                await stream.add_stream(name=name, subjects=[f"{subject}.*"])
            self._streams.add((url, subject))
        return stream

    async def _forget(self, url: str) -> None:
        self._streams = {s for s in self._streams if s[0] != url}
        client = self._clients.pop(url, None)
        if client is not None and not client.is_closed:
            await client.close()

    async def close(self) -> None:
        """Ends its connections."""
        for url in list(self._clients):
            await self._forget(url)
