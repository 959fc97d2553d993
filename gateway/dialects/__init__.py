"""Other products' server APIs over the one engine: their shape in, the same engine, their words out."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response
from starlette.routing import BaseRoute

from gateway.context import Gateway
from gateway.dialects.clevertap import calls as clevertap_calls
from gateway.dialects.clevertap import routes as clevertap
from gateway.dialects.suprsend import calls as suprsend_calls
from gateway.dialects.suprsend import routes as suprsend
from gateway.dialects.vero import routes as vero
from gateway.errors import GatewayError

REFUSALS: dict[str, Callable[[GatewayError], Response]] = {
    "vero": vero.refusal,
    "clevertap": clevertap_calls.refusal,
    "suprsend": suprsend_calls.refusal,
}
"""How each dialect, by the name of its door, refuses what none of its calls was asked."""


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The routes of every dialect."""
    return [*vero.routes(gateway), *suprsend.routes(gateway), *clevertap.routes(gateway)]
