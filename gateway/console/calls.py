"""A page of the console: one declaration that routes it, checks who asks, and writes the audit log."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.commands import storable
from gateway.console.access import ROLES
from gateway.console.reads import ConsoleReader
from gateway.context import Gateway
from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.identity.decide import Answer
from gateway.identity.requests import Operation
from gateway.model import Site
from gateway.store.accounts import User
from gateway.web import body_of

if TYPE_CHECKING:
    from gateway.console.routes import Console

MAX_FORM = 256 * 1024


class SignedOut(Exception):
    """Nobody is logged in; the login page leads back to where they wanted to go."""


@dataclass(slots=True)
class Asked:
    """One request, checked: who asks, about which site, and what the form says."""

    console: Console
    request: Request
    page: Page
    cookie: str = ""
    user_: User | None = None
    site_: Site | None = None
    form: QueryParams = field(default_factory=QueryParams)
    subject: str = ""
    detail: str = ""
    noted: bool = False

    @property
    def gateway(self) -> Gateway:
        """The gateway behind the console."""
        return self.console.gateway

    @property
    def user(self) -> User:
        """Who is logged in."""
        assert self.user_ is not None, "only pages without a role are for everybody"
        return self.user_

    @property
    def site(self) -> Site:
        """The site that the page is about."""
        assert self.site_ is not None, "the path names no site"
        return self.site_

    @property
    def reader(self) -> ConsoleReader:
        """Reads of that site."""
        return ConsoleReader(self.gateway, self.site)

    @property
    def query(self) -> QueryParams:
        """The parameters of the address."""
        return self.request.query_params

    @property
    def path(self) -> Mapping[str, Any]:
        """The parts of the path."""
        return self.request.path_params

    @property
    def csrf(self) -> str:
        """What forms of this session carry, and no other site can know."""
        return hmac.digest(self.cookie.encode(), b"gateway.console.form", "sha256").hex() if self.cookie else ""

    def may(self, role: str) -> bool:
        """Whether the user's role includes another."""
        return self.user_ is not None and ROLES.index(self.user_.role) >= ROLES.index(role)

    def to(self, path: str = "", **query: Any) -> str:
        """The address of a page of the same site."""
        return self.console.address(self.request, f"/s/{self.site.site_id}/{path}", **query)

    def about(self, subject: str, detail: str = "") -> None:
        """What the audit log says of this request. It names profiles and operations by id, never by what they hold."""
        self.subject, self.detail = subject[:200], detail[:500]

    async def note(self) -> None:
        """Writes the audit line now instead of after the answer: what is begun here may end before that."""
        self.noted = True
        await self.console.log(self, self.page.action, self.subject, self.detail)

    async def show(self, template: str, status: int = 200, **context: Any) -> Response:
        """The answer: a page."""
        return await self.console.render(self, template, status, **context)

    def back(self, to: str, said: str = "", tone: str = "good") -> Response:
        """The answer to a form: the page that follows it, with a line that says what was done."""
        response = RedirectResponse(to, 303)
        if said:
            self.console.keep_flash(self.request, response, said, tone)
        return response

    async def operate(self, kind: str, **more: Any) -> Answer:
        """Carries out one operation in the name of the user."""
        operation = Operation(self.site, kind, more.pop("op_id", ""), actor=f"console:{self.user.name}", **more)
        return await self.gateway.writer.operation(operation)


Handler = Callable[[Asked], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Page:
    """Method, path below /console, handler; `role` is the least that may ask, "" everybody.

    `action` is the word of the audit log: every POST is noted under it, and a GET whose handler says what it is about.
    `nav` is its place in the navigation of a site.
    """

    method: str
    path: str
    handler: Handler
    role: str = "viewer"
    action: str = ""
    nav: str = ""


def number(value: object, what: str = "page") -> int:
    """One of our ids. Raises NotFound for what cannot be one."""
    text = str(value)
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) >= 2**63:
        raise NotFound(f"there is no such {what}", "the address may have been cut short")
    return int(text)


def check_same_origin(request: Request, own: set[str]) -> None:
    """Raises Forbidden for a form that another site sends. Every browser of today says where a form comes from."""
    site = request.headers.get("sec-fetch-site")
    allowed = site == "same-origin" if site is not None else request.headers.get("origin", "") in own
    if not allowed:
        raise Forbidden("this form did not come from the console", "open the page again and send it from there")


async def form_of(request: Request) -> QueryParams:
    """The fields of a form. Raises BadRequest for text that cannot be kept."""
    text = (await body_of(request, MAX_FORM)).decode("utf-8", "replace")
    form = QueryParams(text)
    check_storable(form)
    return form


def check_storable(fields: QueryParams) -> None:
    """Raises BadRequest for NUL and half characters, which no database keeps."""
    if not storable([list(pair) for pair in fields.multi_items()]):
        raise BadRequest("a field holds NUL or half a character", "type it again")


def with_query(path: str, query: Mapping[str, Any]) -> str:
    """A path with those parameters that have a value."""
    given = {k: v for k, v in query.items() if v not in (None, "")}
    return quote(path, safe="/:@-._~") + (f"?{urlencode(given)}" if given else "")
