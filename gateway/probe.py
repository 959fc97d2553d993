"""GET /v1/probe: how a request looks when it arrives here, for `gateway doctor`; nothing of it is kept."""

from __future__ import annotations

import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import __version__
from gateway.context import Gateway
from gateway.cookies import cookie_name, read_cookies, set_cookie
from gateway.web import answer

PATH = "/v1/probe"
SECONDS = 60


class Seen(msgspec.Struct):
    """What is answered: how the request looked. `cookie` is the name of the device cookie on this connection, None if
    there is none; `echoed` is the value that came back in the probe's own."""

    version: str = ""
    time: float = 0
    scheme: str = ""
    host: str = ""
    client: str = ""
    forwarded: bool = False
    origin: str | None = None
    gpc: bool = False
    cookie_mode: str = ""
    public_url: str = ""
    cookie: str | None = None
    echoed: str | None = None


def probe_cookie(name: str) -> str:
    """A cookie beside the device cookie, which browsers treat the same."""
    return name.replace("vq", "vq-probe")


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The probe."""

    async def probe(request: Request) -> Response:
        host = request.headers.get("host", "")
        name = cookie_name(request.url.scheme, host)
        shown = read_cookies(request.headers.get("cookie", ""), probe_cookie(name)) if name else []
        seen = Seen(
            version=__version__,
            time=time.time(),
            scheme=request.url.scheme,
            host=host,
            client=request.client.host if request.client else "",
            forwarded="x-forwarded-for" in request.headers,
            origin=request.headers.get("origin"),
            gpc=request.headers.get("sec-gpc") == "1",
            cookie_mode=gateway.settings.cookie_mode,
            public_url=gateway.settings.public_url,
            cookie=name,
            echoed=shown[0] if shown else None,
        )
        response = answer(seen, headers={"Cache-Control": "no-store"})
        value = request.query_params.get("value", "")
        if name and value.isalnum() and len(value) <= 32:
            third_party = gateway.settings.cookie_mode == "third_party"
            cookie = set_cookie(probe_cookie(name), value, third_party=third_party, max_age=SECONDS)
            response.headers.append("Set-Cookie", cookie)
        return response

    return [Route(PATH, probe, methods=["GET"])]
