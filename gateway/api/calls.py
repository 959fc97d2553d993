"""A call of the native API: one declaration that routes, checks and documents it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api import shapes
from gateway.commands import MAX_BODY, storable
from gateway.context import Gateway
from gateway.errors import BadRequest, GatewayError
from gateway.model import Site
from gateway.web import answer, bearer, body_of, check_not_a_browser, error_answer


@dataclass(slots=True)
class Asked:
    """One request, checked: the site whose key was sent, the path's ids, query and body in their declared shapes."""

    gateway: Gateway
    site: Site
    request: Request
    path: Mapping[str, str]
    query: Any
    body: Any


Handler = Callable[[Asked], Awaitable[tuple[int, Any]]]


@dataclass(frozen=True, slots=True)
class Call:
    """Method, path, and the shapes of what goes in and out. `answers` maps a status to its shape, or to several."""

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, type[Any] | tuple[type[Any], ...]]
    query: type[Any] = shapes.NoQuery
    body: type[Any] | None = None
    body_optional: bool = False
    errors: tuple[int, ...] = field(default=())

    def route(self, gateway: Gateway) -> Route:
        """The Starlette route that serves it."""

        async def endpoint(request: Request) -> Response:
            try:
                asked = await self._check(gateway, request)
                status, data = await self.handler(asked)
            except GatewayError as error:
                return error_answer(error)
            return answer(data, status, {"Cache-Control": "no-store"})

        endpoint.__name__ = self.handler.__name__
        return Route(self.path, endpoint, methods=[self.method])

    async def _check(self, gateway: Gateway, request: Request) -> Asked:
        site = await gateway.sites.by_secret(bearer(request))
        check_not_a_browser(request, site)
        query = self._query(request)
        body = None
        if self.body is not None:
            raw = await body_of(request, MAX_BODY)
            if not raw.strip() and not self.body_optional:
                raise BadRequest("the body is empty", "send a JSON object; /docs shows its fields")
            body = self._body(raw)
        return Asked(gateway, site, request, request.path_params, query, body)

    def _query(self, request: Request) -> Any:
        given = dict(request.query_params)
        known = {f.name for f in msgspec.structs.fields(self.query)}
        unknown = sorted(given.keys() - known)
        if unknown:
            raise BadRequest(f"there is no parameter {unknown[0][:60]!r}", f"this call takes {sorted(known) or 'none'}")
        if not storable(given):
            raise BadRequest("a parameter holds NUL or half a character")
        try:
            return msgspec.convert(given, self.query, strict=False)
        except msgspec.ValidationError as error:
            raise BadRequest(f"a parameter cannot be used: {error}", "see /docs") from error

    def _body(self, raw: bytes) -> Any:
        try:
            if not storable(msgspec.json.decode(raw or b"{}")):
                raise BadRequest("the body holds NUL, half a character, or a number that is not finite")
            return shapes.decode(raw, self.body or shapes.NoQuery)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body cannot be used: {error}", "see /docs for its fields") from error
