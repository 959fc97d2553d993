"""GET /r/<token>: the way of an email link through the gateway's own host, which no client strips.

Where it leads is fixed in the signed token, so it is no open redirect. It identifies nobody: scanners open links too.
It leaves the token in a cookie, beside that of the device, and the first commands of a page that a person really sees
confirm it; until then nothing is stored. Where the gateway is a third party, pages cannot send these cookies back:
there the token goes along as the link parameter.
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.context import Gateway
from gateway.cookies import PENDING_LINK, cookie_name, device_value, read_devices, set_cookie
from gateway.errors import BadToken, GatewayError, NotFound
from gateway.links import check_target, with_parameter
from gateway.model import Site
from gateway.signing import read_device_token, read_link_token
from gateway.web import error_answer, wishes_of

PENDING_SECONDS = 600
PURPOSES = ("sec-purpose", "purpose", "x-purpose", "x-moz")
"""Where browsers say that nobody sees the page yet: today's header, and what older ones sent."""


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The redirect."""

    async def follow(request: Request) -> Response:
        try:
            token = request.path_params["token"]
            return await redirect(gateway, token, request)
        except GatewayError as error:
            return error_answer(error)

    return [Route("/r/{token}", follow, methods=["GET"])]


def is_look(request: Request) -> bool:
    """Whether this is a machine having a look, not a person following a link."""
    said = " ".join(request.headers.get(name, "") for name in PURPOSES).lower()
    return request.method == "HEAD" or any(word in said for word in ("prefetch", "prerender", "preview"))


async def redirect(gateway: Gateway, token: str, request: Request) -> Response:
    """Leads to the target in the token. Raises NotFound for a token that is not ours or has expired."""
    try:
        link = read_link_token(gateway.signer, token, time.time())
    except BadToken as error:
        raise NotFound("this link does not work", "ask for a new one: it was changed, cut, or has expired") from error
    site = next((s for s in await gateway.sites.all() if s.site_id == link.site_id), None)
    if site is None or not link.url:
        raise NotFound("this link does not work", "its site is gone")
    target = check_target(link.url, site)
    bind = not is_look(request) and not wishes_of(site, request).private
    third_party = gateway.settings.cookie_mode == "third_party"
    headers = {
        "Location": with_parameter(target, site.link_param, token) if bind and third_party else target,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Robots-Tag": "noindex",
    }
    response = Response(status_code=302, headers=headers)
    if bind and not third_party:
        secure = request.url.scheme == "https"
        attributes = f"Path=/; Max-Age={PENDING_SECONDS}; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"
        response.headers.append("Set-Cookie", f"{PENDING_LINK}={token}; {attributes}")
        name = cookie_name(request.url.scheme, request.headers.get("host", ""))
        if name and not is_known(gateway, site, request, name):
            shown = read_devices(request.headers.get("cookie", ""), name)
            value = device_value(gateway.signer, site.site_id, gateway.new_id(), shown)
            response.headers.append("Set-Cookie", set_cookie(name, value))
    return response


def is_known(gateway: Gateway, site: Site, request: Request, name: str) -> bool:
    """Whether the browser shows a device cookie of this site."""
    for value in read_devices(request.headers.get("cookie", ""), name):
        try:
            read_device_token(gateway.signer, site.site_id, value)
        except BadToken:
            continue
        return True
    return False
