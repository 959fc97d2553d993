"""Other products' server APIs over the one engine: their shape in, the same engine, their words out."""

from __future__ import annotations

from starlette.routing import BaseRoute

from gateway.context import Gateway
from gateway.dialects.clevertap import routes as clevertap
from gateway.dialects.suprsend import routes as suprsend
from gateway.dialects.vero import routes as vero


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The routes of every dialect."""
    return [*vero.routes(gateway), *suprsend.routes(gateway), *clevertap.routes(gateway)]
