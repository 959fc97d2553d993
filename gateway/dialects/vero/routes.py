"""Vero's Track API, each path with and without `.json`: parameters in, one request to the engine, their words out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway.commands import MAX_BODY
from gateway.context import Gateway
from gateway.dialects.vero import auth, messages
from gateway.dialects.vero.auth import Caller, caller_of
from gateway.dialects.vero.bodies import Params, Unreadable, params_of
from gateway.dialects.vero.messages import Call, Deleted, Message, Renamed, Said
from gateway.errors import BadRequest, GatewayError, NotFound, TooLarge, Unauthorized
from gateway.identity.requests import Operation, Person, Refused, ServerBatch, Track
from gateway.model import now
from gateway.web import answer, body_of

BASE = "/api/v2"
BODY_SECONDS = 30
PREFLIGHT_SECONDS = 7200

SUCCESS = {"status": 200, "message": "Success."}
REPEATED = {"status": 200, "message": "Request already received."}

CALLS: tuple[tuple[str, tuple[str, ...], Callable[[Call], Message]], ...] = (
    ("users/track", ("POST",), messages.users_track),
    ("users/edit", ("PUT", "POST"), messages.users_edit),
    ("users/tags/edit", ("PUT", "POST"), messages.tags_edit),
    ("users/unsubscribe", ("POST",), messages.unsubscribe),
    ("users/resubscribe", ("POST",), messages.resubscribe),
    ("users/reidentify", ("PUT", "POST"), messages.reidentify),
    ("users/delete", ("POST", "DELETE"), messages.delete),
    ("events/track", ("POST",), messages.events_track),
)


def routes(gateway: Gateway) -> list[BaseRoute]:
    """Every call, and their answer for everything else below the base path."""
    found: list[BaseRoute] = []
    for path, methods, parse in CALLS:
        found += both(path, endpoint(gateway, parse), methods)
    return [*found, *both("heartbeat", heartbeat, ("GET",)), Route(BASE + "/{path:path}", elsewhere, methods=METHODS)]


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def both(path: str, handler: Callable[[Request], Awaitable[Response]], methods: tuple[str, ...]) -> list[BaseRoute]:
    """A call under both of its spellings."""
    return [Route(f"{BASE}/{path}{suffix}", handler, methods=list(methods)) for suffix in ("", ".json")]


def endpoint(gateway: Gateway, parse: Callable[[Call], Message]) -> Callable[[Request], Awaitable[Response]]:
    """One call as a handler."""

    async def handle(request: Request) -> Response:
        try:
            params = await received(request)
            if not params:
                raise Unauthorized(auth.REFUSED)
            # Vero looks at the parameters first, at the key second.
            message = parse(Call(params, now(), gateway.new_id))
            caller = await caller_of(gateway, request, params)
            repeated = await carried_out(gateway, caller, message)
        except GatewayError as error:
            return refusal(error)
        return readable(answer(REPEATED if repeated else SUCCESS))

    return handle


async def received(request: Request) -> Params:
    """The call's parameters. A body that does not arrive is refused after a while."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await body_of(request, MAX_BODY)
    except TimeoutError:
        raise Unreadable(f"the body did not arrive within {BODY_SECONDS} seconds") from None
    return params_of(request.url.query, request.headers.get("content-type", ""), raw)


async def carried_out(gateway: Gateway, caller: Caller, message: Message) -> bool:
    """Asks the engine, in one transaction; whether the answer is that the request was received before."""
    if isinstance(message, Said):
        return await said(gateway, caller, message)
    if isinstance(message, Renamed):
        people = [Person(key=message.new), Person(key=message.old)]
        rights = {"actor": caller.actor, "proof": caller.proof, "blocked": message.blocked, **asdict(caller.wishes)}
        await gateway.writer.operation(Operation(caller.site, "reidentify", "", people, **rights))
        if message.blocked:
            raise BadRequest(message.blocked)
    if isinstance(message, Deleted):
        if not caller.server:
            raise Unauthorized(auth.REFUSED)
        await gateway.writer.operation(Operation(caller.site, "delete", "", [Person(key=message.key)]))
    return False


async def said(gateway: Gateway, caller: Caller, message: Said) -> bool:
    """Keeps what was said about a person."""
    commands = message.commands
    for n, command in enumerate(commands):
        if isinstance(command, Track) and messages.is_system_event(command.name):
            reason = f"the event {command.name!r} is made by the gateway only"
            if caller.server:
                raise BadRequest(reason)
            commands[n] = Refused(command.op_id, command.sent_at, code="spoofed_system_event", message=reason)
    receipt = f"{message.receipt}-{caller.actor}" if message.receipt else ""
    who = (caller.site, message.key, commands, now(), caller.actor, caller.proof)
    done = await gateway.writer.commands(ServerBatch(*who, receipt, message.known_only, **asdict(caller.wishes)))
    # A page must not learn whether somebody else sent the same.
    return done.repeated and caller.server


async def heartbeat(request: Request) -> Response:
    """Whether the service is up."""
    return readable(answer(SUCCESS))


async def elsewhere(request: Request) -> Response:
    """The preflight of every call, and what is asked with the wrong method or does not exist."""
    path = request.url.path.removeprefix(f"{BASE}/").removesuffix(".json")
    methods = {"heartbeat": ("GET",)} | {p: m for p, m, _ in CALLS}
    if path not in methods:
        return refusal(NotFound("there is nothing at this path"))
    allowed = ", ".join([*methods[path], "OPTIONS"])
    if request.method != "OPTIONS":
        refused = answer({"status": 405, "message": f"send {' or '.join(methods[path])}"}, 405, {"Allow": allowed})
        return readable(refused)
    response = readable(Response(status_code=204))
    response.headers["Access-Control-Allow-Methods"] = allowed
    response.headers["Access-Control-Allow-Headers"] = "content-type, accept"
    response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    return response


def refusal(error: GatewayError) -> Response:
    """A refusal in Vero's shape. After a body of which nobody knows where it ends, the connection ends too."""
    message = error.message
    if error.status == 400:
        message = f"Bad Request: {message}"
    elif error.hint and not isinstance(error, Unauthorized):
        message = f"{message}: {error.hint}"
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if isinstance(error, (Unreadable, TooLarge)):
        headers["Connection"] = "close"
    return readable(answer({"status": error.status, "message": message}, error.status, headers))


def readable(response: Response) -> Response:
    """Lets any page read the answer: it says nothing, and no cookie plays a part."""
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response
