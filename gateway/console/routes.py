"""The console as routes: around every page its session, rights, headers, errors and audit line."""

from __future__ import annotations

import asyncio
import hashlib
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import msgspec
from itsdangerous.encoding import base64_decode, base64_encode
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from gateway.console import changes, links, live, overview, people, queues, sites, users, words
from gateway.console.access import Access
from gateway.console.calls import (
    Asked,
    Page,
    SignedOut,
    check_same_origin,
    check_storable,
    form_of,
    number,
    with_query,
)
from gateway.context import Gateway
from gateway.cookies import is_local, read_cookies
from gateway.errors import BadRequest, BadToken, Forbidden, GatewayError, NotFound
from gateway.limits import block
from gateway.model import Site, now
from gateway.signing import same
from gateway.store.accounts import Entry, User

HERE = Path(__file__).parent
ROOT = "/console"
COOKIE, DEV_COOKIE = "__Host-vq_console", "vq_console_dev"
FLASH = "vq_console_said"
FLASH_AGE = 60
PAGES: tuple[Page, ...] = (
    *users.PAGES,
    *people.PAGES,
    *changes.PAGES,
    *queues.PAGES,
    *overview.PAGES,
    *live.PAGES,
    *links.PAGES,
    *sites.PAGES,
)
NAV = [p for p in PAGES if p.nav]
CONTENT_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
    " 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: then browsers would send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
HSTS = "max-age=31536000"


@cache
def static_file(name: str) -> tuple[bytes, str]:
    """A file of ours and its tag."""
    body = (HERE / "static" / name).read_bytes()
    return body, hashlib.sha256(body).hexdigest()[:16]


STATIC = frozenset(f.name for f in (HERE / "static").iterdir() if f.suffix in CONTENT_TYPES)


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The console of a gateway."""
    console = Console(gateway)
    return [
        Route(ROOT, console.root),
        Route(f"{ROOT}/static/{{name}}", console.static),
        *(console.route(page) for page in PAGES),
        Route(f"{ROOT}/{{rest:path}}", console.nowhere),
    ]


class Console:
    """The console of one gateway: what its pages share."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.access = Access(gateway)
        self.tasks: set[Any] = set()
        self.counting: dict[int, asyncio.Task[None]] = {}
        self.refusals = live.watch(gateway)
        self.watching: dict[tuple[str, int], float] = {}
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.templates.filters |= words.FILTERS
        self.templates.globals["static"] = lambda name: f"static/{name}?v={static_file(name)[1]}"

    # --- routes -------------------------------------------------------------------------------------------------

    async def root(self, request: Request) -> Response:
        """/console without the slash."""
        return RedirectResponse(self.address(request, "/"), 303)

    async def static(self, request: Request) -> Response:
        """The stylesheet and the script; their address changes with their content."""
        name = request.path_params["name"]
        if name not in STATIC:
            return await self.nowhere(request)
        body, tag = static_file(name)
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return Response(body, 200, headers | {"ETag": f'"{tag}"'}, CONTENT_TYPES[Path(name).suffix])

    async def nowhere(self, request: Request) -> Response:
        """Any other path."""
        asked = Asked(self, request, Page("GET", "", people.find, role=""))
        return await self.refuse(asked, NotFound("there is no such page", "the address may be old, or mistyped"))

    def route(self, page: Page) -> Route:
        """The route of one page."""

        async def endpoint(request: Request) -> Response:
            asked = Asked(self, request, page)
            try:
                await self.check(asked)
                response = await page.handler(asked)
            except SignedOut:
                return await self.signed_out(asked)
            except GatewayError as error:
                if page.method == "POST" and asked.user_ is not None:
                    asked.detail = f"refused: {error.code}"
                    await self.note(asked)
                return await self.refuse(asked, error)
            await self.note(asked)
            return response

        endpoint.__name__ = page.handler.__name__
        return Route(ROOT + page.path, endpoint, methods=[page.method])

    # --- who asks -----------------------------------------------------------------------------------------------

    async def check(self, asked: Asked) -> None:
        """Finds out who asks, and raises what keeps them from it."""
        request, page = asked.request, asked.page
        check_storable(request.query_params)
        if any("\0" in str(part) for part in request.path_params.values()):
            raise NotFound("there is no such page", "the address may be mistyped")
        name = self.cookie_name(request)
        values = read_cookies(request.headers.get("cookie", ""), name) if name else []
        asked.cookie = values[0] if values else ""
        asked.user_ = await self.access.session(asked.cookie)
        if asked.user_ is None:
            asked.cookie = ""
            if page.role:
                raise SignedOut
        if page.method == "POST":
            check_same_origin(request, self.origins(request))
            asked.form = await form_of(request)
            if page.role and not same(asked.form.get("csrf", ""), asked.csrf):
                raise Forbidden("this form is from an earlier login", "open the page again and send it from there")
        if page.role and not asked.may(page.role):
            raise Forbidden(f"only {words.ROLES_ALLOWED[page.role]} may do this", "ask an admin for the role")
        if "site" in request.path_params:
            asked.site_ = await self.site(asked.user, request.path_params["site"])

    async def site(self, user: User, site_id: str) -> Site:
        """A site that a user may see; any other does not exist for them."""
        wanted = number(site_id, "site")
        for fresh in (False, True):
            for site in await self.sites(user, fresh=fresh):
                if site.site_id == wanted:
                    return site
        raise NotFound("there is no such site", "it may have been removed, or is not one of yours")

    async def sites(self, user: User, *, fresh: bool = False) -> list[Site]:
        """The sites that a user may see, by name."""
        sites = await self.gateway.sites.all(fresh=fresh)
        return sorted((s for s in sites if user.role == "admin" or s.site_id in user.sites), key=lambda s: s.name)

    async def note(self, asked: Asked) -> None:
        """The audit line of a request: of every form, and of every page that says whom it shows."""
        page = asked.page
        wanted = page.action and (page.method == "POST" or asked.subject)
        if asked.user_ is None or asked.noted or not wanted:
            return
        await self.log(asked, page.action, asked.subject, asked.detail)

    async def log(self, asked: Asked, action: str, subject: str = "", detail: str = "") -> None:
        """Writes a line into the audit log."""
        user, site = asked.user, asked.site_.site_id if asked.site_ else 0
        who = (user.user_id, user.name, self.network(asked.request))
        await self.access.accounts.note(Entry(self.gateway.new_id(), now(), *who, site, action, subject, detail))

    @staticmethod
    def network(request: Request) -> str:
        """Where a request comes from, as coarsely as rates are counted."""
        return block(request.client.host) if request.client else ""

    # --- answering ----------------------------------------------------------------------------------------------

    def address(self, request: Request, path: str, **query: Any) -> str:
        """The address of a page of the console, also where a proxy serves the gateway below a path."""
        public = urlsplit(self.gateway.settings.public_url)
        below = public.path if public.netloc == request.headers.get("host") else ""
        return with_query(f"{below}{ROOT}{path}", query)

    def origins(self, request: Request) -> set[str]:
        """The console's own origins, for browsers that only send `Origin`."""
        public = urlsplit(self.gateway.settings.public_url)
        return {f"{request.url.scheme}://{request.headers.get('host', '')}", f"{public.scheme}://{public.netloc}"}

    async def render(self, asked: Asked, template: str, status: int = 200, **context: Any) -> Response:
        """A page under the strict policy."""
        request = asked.request
        said = self.flash(request)
        shared = {
            "asked": asked,
            "user": asked.user_,
            "site": asked.site_,
            "sites": await self.sites(asked.user_) if asked.user_ else [],
            "nav": [p for p in NAV if asked.may(p.role)],
            "base": self.address(request, "/"),
            "here": request.url.path,
            "said": said,
        }
        html = self.templates.get_template(template).render(shared | context)
        response = HTMLResponse(html, status, self.headers(request))
        if said:
            response.delete_cookie(FLASH, path="/")
        return response

    @staticmethod
    def headers(request: Request) -> dict[str, str]:
        """The headers of every page."""
        return HEADERS | ({"Strict-Transport-Security": HSTS} if request.url.scheme == "https" else {})

    async def refuse(self, asked: Asked, error: GatewayError) -> Response:
        """An error as a page."""
        response = await self.render(asked, "refused.html", error.status, error=error)
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    async def signed_out(self, asked: Asked) -> Response:
        """The login page. Who comes by a link elsewhere brings no Strict cookie: their browser asks once more."""
        request = asked.request
        if request.method == "GET" and request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return await self.render(asked, "again.html")
        wanted = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
        below = self.address(request, "").removesuffix(ROOT)
        return RedirectResponse(
            self.address(request, "/login", next=below + wanted if request.method == "GET" else ""), 303
        )

    # --- cookies ------------------------------------------------------------------------------------------------

    @staticmethod
    def cookie_name(request: Request) -> str:
        """The session cookie's name on this connection; "" where no cookie is safe."""
        if request.url.scheme == "https":
            return COOKIE
        return DEV_COOKIE if is_local(request.headers.get("host", "")) else ""

    async def log_in(self, asked: Asked, user: User, to: str) -> Response:
        """Opens a session and leads to a page. Raises BadRequest where no cookie is safe."""
        name = self.cookie_name(asked.request)
        if not name:
            raise BadRequest("the console needs https", "open it through https, or at http://localhost")
        response = RedirectResponse(to, 303)
        value = await self.access.open_session(user)
        secure = name == COOKIE
        response.set_cookie(name, value, path="/", secure=secure, httponly=True, samesite="strict")
        asked.user_ = user
        return response

    def log_out(self, request: Request, to: str) -> Response:
        """Forgets the session's cookie."""
        response = RedirectResponse(to, 303)
        name = self.cookie_name(request)
        response.delete_cookie(name, path="/", secure=name == COOKIE, httponly=True, samesite="strict")
        response.headers["Clear-Site-Data"] = '"cache"'
        return response

    def keep_flash(self, request: Request, response: Response, text: str, tone: str) -> None:
        """Keeps a line for the next page, signed, so that nobody else puts words into the console's mouth."""
        said = base64_encode(msgspec.json.encode([text[:500], tone])).decode()
        value = self.gateway.signer.sign("console.said", said)
        secure = request.url.scheme == "https"
        response.set_cookie(FLASH, value, FLASH_AGE, path="/", secure=secure, httponly=True, samesite="strict")

    def flash(self, request: Request) -> tuple[str, str] | None:
        """(text, tone) of the line that the page before left."""
        for value in read_cookies(request.headers.get("cookie", ""), FLASH):
            try:
                payload, _ = self.gateway.signer.unsign("console.said", value, FLASH_AGE)
                return msgspec.json.decode(base64_decode(payload), type=tuple[str, str])
            except (BadToken, msgspec.DecodeError):
                continue
        return None
