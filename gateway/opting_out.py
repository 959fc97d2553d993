"""/privacy: a page for visitors that says whether this browser is known, and lets it opt out and in again.

Plain HTML without a script. The choice is a cookie, so it is this browser's only; whoever has it is kept nothing of.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.context import Gateway
from gateway.cookies import FORGET_LINK, OPT_OUT, cookie_name, opted_out, read_devices, set_cookie
from gateway.errors import BadToken, Forbidden
from gateway.signing import DEVICE_MAX_AGE, read_device_token
from gateway.web import body_of

PATH = "/privacy"
CHOICES = ("out", "in")


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The page and its form."""

    async def show(request: Request) -> Response:
        return await page(gateway, request)

    async def choose(request: Request) -> Response:
        check_own_form(request)
        given = parse_qs((await body_of(request, 1024)).decode("latin-1"))
        choice = given.get("choice", [""])[0]
        if choice not in CHOICES:
            return await page(gateway, request, status=400)
        response = Response(status_code=303, headers={"Location": "privacy", "Cache-Control": "no-store"})
        for cookie in cookies_for(gateway, request, out=choice == "out"):
            response.headers.append("Set-Cookie", cookie)
        return response

    return [Route(PATH, show, methods=["GET"]), Route(PATH, choose, methods=["POST"])]


def check_own_form(request: Request) -> None:
    """Raises Forbidden unless the form was sent from this very page: no other site decides for its visitors."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "")
    own = site == "same-origin" if site else bool(origin) and urlsplit(origin).netloc == request.headers.get("host")
    if not own:
        raise Forbidden("this form was sent from another page", "open the page and choose there", code="other_page")


def cookies_for(gateway: Gateway, request: Request, *, out: bool) -> list[str]:
    """The Set-Cookie headers of a choice; opting out also takes away what the browser had."""
    third_party = gateway.settings.cookie_mode == "third_party"
    secure = request.url.scheme == "https"
    site = "SameSite=None; Partitioned" if third_party and secure else "SameSite=Lax"
    attributes = f"Path=/; Max-Age={DEVICE_MAX_AGE if out else 0}{'; Secure' if secure else ''}; HttpOnly; {site}"
    cookies = [f"{OPT_OUT}={int(out)}; {attributes}"]
    name = cookie_name(request.url.scheme, request.headers.get("host", ""))
    if out and name:
        cookies += [set_cookie(name, "", third_party=third_party, max_age=0), FORGET_LINK]
    return cookies


async def known_since(gateway: Gateway, request: Request) -> int | None:
    """When this browser's cookie was last signed, in seconds since the epoch; None if it has none of ours."""
    name = cookie_name(request.url.scheme, request.headers.get("host", ""))
    for value in read_devices(request.headers.get("cookie", ""), name) if name else ():
        for site in await gateway.sites.all():
            try:
                return read_device_token(gateway.signer, site.site_id, value)[1]
            except BadToken:
                continue
    return None


async def page(gateway: Gateway, request: Request, status: int = 200) -> Response:
    """The page, as this browser should see it."""
    out = opted_out(request.headers.get("cookie", ""))
    since = await known_since(gateway, request)
    if out:
        state = "This browser has opted out. Nothing that it sends is kept."
    elif since is not None:
        day = datetime.fromtimestamp(since, UTC).strftime("%-d %B %Y")
        state = f"This browser is known here by a random number in a cookie, renewed on {day}."
    else:
        state = "This browser is not known here: it has no cookie of ours."
    if request.headers.get("sec-gpc") == "1":
        state += " It sends Global Privacy Control."
    choice, label = ("in", "Take part again") if out else ("out", "Opt out")
    body = PAGE.format(style=STYLE, state=state, choice=choice, label=label)
    sites = await gateway.sites.all()
    origins = {origin for site in sites for origin in site.origins or ["*"]}  # as for the key: no list means any
    hashed = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{hashed}'; form-action 'self'; base-uri 'none'"
    frames = " ".join(["'self'", *sorted(origins)])  # a site may show it inside its own privacy page
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": f"{policy}; frame-ancestors {frames}",
        "Referrer-Policy": "same-origin",  # with no-referrer the form would be sent with `Origin: null`
        "X-Robots-Tag": "noindex",
    }
    return HTMLResponse(body, status, headers)


STYLE = """
:root { color-scheme: light dark; }
body { font: 17px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 3rem auto; padding: 0 1rem; }
button { font: inherit; padding: .5rem 1rem; border-radius: 6px; border: 1px solid currentColor; cursor: pointer; }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Your privacy here</title><style>{style}</style></head><body>
<h1>Your privacy here</h1>
<p role="status">{state}</p>
<form method="post"><input type="hidden" name="choice" value="{choice}"><button>{label}</button></form>
<p>What you choose counts for this browser, for as long as it keeps cookies (at most 400 days). It does not delete what
was kept before: ask the site for that.</p>
</body></html>"""
