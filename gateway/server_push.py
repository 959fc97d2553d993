"""What servers push to POST /v1/commands with the secret key: each entry about an identity or a device."""

from __future__ import annotations

from typing import Any

from gateway.commands import Parser, decode_body, identity
from gateway.context import Gateway
from gateway.errors import BadRequest, Unauthorized
from gateway.identity.requests import Batch, Command, Login, Operation, Person, Reidentify, ServerBatch, Writes
from gateway.limits import Limits
from gateway.model import Key, Site, now
from gateway.web import leaked

Json = dict[str, Any]


async def from_server(gateway: Gateway, limits: Limits, authorization: str, raw: bytes, *, browser: bool) -> Json:
    """Keeps a server's commands with proof `server` and says what became of each.

    Raises Unauthorized without the secret key, Forbidden if it came from a browser, BadRequest, TooMany, Unavailable.
    """
    received = now()
    kind, _, secret = authorization.partition(" ")
    if kind.lower() != "bearer":
        raise Unauthorized("this call needs the site's secret key", "send Authorization: Bearer SECRET_KEY")
    site = await gateway.sites.by_secret(secret.strip())
    if browser:
        raise leaked(site)
    body = decode_body(raw)
    limits.site(site.site_id, len(body.commands))
    parser = Parser(site, gateway.signer, server=True)
    outcomes: list[str] = []
    for raw_entry in body.commands:
        parsed = parser.entry(raw_entry)
        if parsed is None:
            outcomes.append("skipped")
            continue
        entry, commands = parsed
        try:
            device = entry.device or body.device
            outcomes += [await keep(gateway, site, c, entry.identity, device, received) for c in commands]
        except BadRequest as error:
            parser.skipped.append(parser.refusal(entry, error))
            outcomes.append("skipped")
    gateway.writer.tally.skip(parser.skipped)
    skipped = [{"command": s.command, "reason": s.reason} for s in parser.skipped]
    return {"status": "ok", "outcomes": outcomes, "skipped": skipped}


async def keep(gateway: Gateway, site: Site, command: Command, named: object, device: str | None, received: int) -> str:
    """Keeps one server command; returns its outcome. Raises BadRequest if it does not say whom it is about."""
    if device is not None:
        device_id = gateway.device_id(site, device)
        batch = Batch(site, device_id, [command], received, actor="server")
        return (await gateway.writer.commands(batch)).outcomes[0]
    if isinstance(command, Reidentify):
        if command.new is None or command.old is None:
            raise BadRequest(command.blocked_new or command.blocked_old or "reidentify needs both ids here")
        people = [Person(key=command.new), Person(key=command.old)]
        operation = Operation(site, "reidentify", command.op_id, people)
        return (await gateway.writer.operation(operation)).outcome
    key = person_of(command, named)
    if isinstance(command, Login):
        command = Writes(command.op_id, command.sent_at, command.fingerprint, rows=command.rows)
    elif isinstance(command, Writes):
        command.target = None
    done = await gateway.writer.commands(ServerBatch(site, key, [command], received))
    return done.outcomes[0]


def person_of(command: Command, named: object) -> Key:
    """The identity a server's command is about."""
    if isinstance(named, dict):
        key, blocked = identity(named.get("value"), str(named.get("kind", "id")))
    elif named is not None:
        key, blocked = identity(named)
    elif isinstance(command, Login):
        key, blocked = command.key, command.blocked
    else:
        key, blocked = getattr(command, "target", None), None
    if key is None:
        raise BadRequest(blocked or "the entry does not say whom it is about", 'add "identity": ID or "device": TOKEN')
    return key
