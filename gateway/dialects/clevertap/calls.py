"""What every call shares: who asks, the body as JSON, and refusals in CleverTap's shape."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.commands import storable
from gateway.context import Gateway
from gateway.dialects.clevertap.auth import site_of
from gateway.dialects.clevertap.messages import RecordError
from gateway.errors import BadRequest, GatewayError
from gateway.exports import Exports
from gateway.model import Site
from gateway.web import answer, body_of

Json = dict[str, Any]

MAX_BODY = 10 * 1024 * 1024
BODY_SECONDS = 30
SUCCESS = {"status": "success"}


@dataclass(slots=True)
class Asked:
    """One request of a site's server. `body` is None if there was none."""

    gateway: Gateway
    site: Site
    request: Request
    body: Any

    @property
    def exports(self) -> Exports:
        """Reads of the site."""
        return Exports(self.gateway, self.site)

    def parameter(self, name: str) -> str | None:
        """A parameter of the query string."""
        value = self.request.query_params.get(name)
        if not storable(value):
            raise BadRequest(f"{name} holds NUL or half a character")
        return value


Handler = Callable[[Asked], Awaitable[Json]]


def endpoint(gateway: Gateway, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A call as the framework takes it."""

    async def handle(request: Request) -> Response:
        try:
            site = await site_of(gateway, request)
            return answer(await handler(Asked(gateway, site, request, await body(request))))
        except GatewayError as error:
            return refusal(error)

    return handle


async def body(request: Request) -> Any:
    """The body as JSON. Raises BadRequest for anything else, TooLarge."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await body_of(request, MAX_BODY)
    except TimeoutError:
        raise BadRequest(f"the body did not arrive within {BODY_SECONDS} seconds") from None
    if not raw.strip():
        return None
    try:
        return msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def refusal(error: GatewayError) -> Response:
    """A refusal in CleverTap's shape."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    message = f"{error.message}: {error.hint}" if error.hint else error.message
    return answer({"status": "fail", "error": message, "code": error.status}, error.status, headers)


def records_of(asked: Asked, most: int) -> list[Any]:
    """The list `d` of a body. Raises BadRequest if there is none or it is too long: then nothing is processed."""
    given = asked.body.get("d") if isinstance(asked.body, dict) else None
    if not isinstance(given, list):
        raise BadRequest('the body must be {"d": [record, ...]}')
    if len(given) > most:
        raise BadRequest(f"d holds {len(given)} records, send at most {most} at a time")
    return given


def unprocessed(records: Sequence[Any], refused: Mapping[int, RecordError]) -> Json:
    """How many records were taken, and why each of the others was not: `refused` is by place."""
    processed = len(records) - len(refused)
    told = [
        {
            "status": "fail",
            "code": error.code,
            "error": f"{error.text}Skipped record number : {n + 1}",
            "record": records[n],
        }
        for n, error in sorted(refused.items())
    ]
    status = "success" if not refused else "partial" if processed else "fail"
    return {"status": status, "processed": processed, "unprocessed": told}


def values_of(given: Any, name: str, most: int) -> list[Any]:
    """A list of identities, or one alone. Raises BadRequest for anything else, and for more than `most`."""
    values = given if isinstance(given, list) else [given]
    if given is None or not values:
        raise BadRequest(f"{name} has to be a list of 1 to {most}")
    if len(values) > most:
        raise BadRequest(f"{name} has to be a list of at most {most}, these are {len(values)}")
    if any(isinstance(v, (dict, list, bool)) or v is None or not storable(v) for v in values):
        raise BadRequest(f"{name} must hold strings")
    return values
