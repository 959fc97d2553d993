"""The calls that bring events and edits in the background, one or many; the good records of a call are kept."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import asdict
from typing import Any

from starlette.responses import PlainTextResponse, Response

from gateway.dialects.suprsend import messages
from gateway.dialects.suprsend.calls import Asked, problem
from gateway.dialects.suprsend.channels import Json
from gateway.dialects.suprsend.messages import Record
from gateway.errors import BadRequest, Conflict, GatewayError, NotFound
from gateway.identity.requests import Command, Operation, Person, ServerBatch
from gateway.model import Key, now
from gateway.web import answer

MAX_RECORDS = 400
DAY = 24 * 3600 * 1_000_000


async def events(asked: Asked) -> Response:
    """`/event/`: one record or an array of them; the answer is the text OK."""
    body = messages.decode(asked.body, object)
    results = await keep_records(asked, body if isinstance(body, list) else [body])
    refused = [r for r in results if isinstance(r, GatewayError)]
    if refused and len(refused) == len(results):
        raise refused[0]
    response = PlainTextResponse("OK", 202)
    if refused:
        reason = "".join(filter(str.isprintable, refused[0].message.encode("ascii", "replace").decode()))
        response.headers["X-Gateway-Skipped"] = f"{len(refused)}; {reason[:300]}"
    return response


async def event(asked: Asked) -> Response:
    """`/v2/event/`: one record; the answer is JSON with its message id."""
    (result,) = await keep_records(asked, [messages.decode(asked.body)])
    if isinstance(result, GatewayError):
        raise result
    return answer({"status": "success", "message_id": result}, 202)


async def bulk_events(asked: Asked) -> Response:
    """`/v2/bulk/event/`: an array of records, an answer each."""
    results = await keep_records(asked, messages.decode(asked.body, list))
    records = [
        {"status": "error", "status_code": r.status, "error": problem(r)}
        if isinstance(r, GatewayError)
        else {"status": "success", "status_code": 202, "message_id": r}
        for r in results
    ]
    mixed = any(isinstance(r, GatewayError) for r in results)
    return answer({"status": "success", "records": records}, 207 if mixed else 202)


async def keep_records(asked: Asked, entries: list[Any]) -> list[str | GatewayError]:
    """Keeps the good records of a call; each one's message id, or why it was refused. Raises if nothing can be kept."""
    if not entries or len(entries) > MAX_RECORDS:
        raise BadRequest(f"{len(entries)} records in one request", f"send 1 to {MAX_RECORDS}")
    received = now()
    results: list[str | GatewayError] = []
    people: dict[Key, list[tuple[int, Record]]] = defaultdict(list)
    for n, entry in enumerate(entries):
        try:
            record = messages.record_of(entry, received, str(asked.gateway.new_id()))
            record.op_id = asked.caller.prefix + record.op_id
            people[record.key].append((n, record))
            results.append(record.op_id)
        except BadRequest as error:
            results.append(error)
    about = [keep_about(asked, key, records, received) for key, records in people.items()]
    for kept in await asyncio.gather(*about):
        for n, result in kept.items():
            results[n] = result
    return results


async def keep_about(
    asked: Asked, key: Key, records: list[tuple[int, Record]], received: int
) -> dict[int, str | GatewayError]:
    """Keeps the records about one person in their order, as few commits as that takes."""
    caller = asked.caller
    results: dict[int, str | GatewayError] = {}
    waiting: list[Command] = []

    async def commit() -> None:
        if waiting:
            who = (caller.site, key, list(waiting), received, caller.actor, caller.proof)
            batch = ServerBatch(*who, **asdict(caller.wishes))
            waiting.clear()
            await asked.gateway.writer.commands(batch)

    for n, record in records:
        if record.needs_state:
            await commit()
        try:
            results[n], commands = await commands_of(asked, record, received)
        except (Conflict, NotFound) as error:
            results[n] = error
            continue
        waiting += commands
    await commit()
    return results


async def commands_of(asked: Asked, record: Record, received: int) -> tuple[str, list[Command]]:
    """The message id and commands of a record; no commands for one that is kept already."""
    op_id = record.op_id
    shown: Json = {}
    if record.merge:
        await identify(asked, record, record.merge)
    if record.unsets_channel:
        profile = await asked.profile(record.key)
        shown = profile["properties"] if profile else {}
    if record.idempotency_key:
        # Kept on the day it came: a key counts for 24 hours, so that of today or yesterday may still be in force.
        ids = [f"{asked.caller.prefix}idem-{record.idempotency_key}-{received // DAY - n}" for n in (0, 1)]
        known = await asked.gateway.reader(asked.caller.site).server_messages(record.key, ids)
        for op_id in ids:
            if received - known.get(op_id, 0) < DAY:
                return op_id, []
        op_id = ids[0]
    return op_id, record.commands(op_id, shown)


async def identify(asked: Asked, record: Record, anonymous: Key) -> None:
    """`$identify` with an `$anon_id`: what was anonymous is this person from now on."""
    if anonymous == record.key:
        return
    people = [Person(key=record.key), Person(key=anonymous)]
    caller = asked.caller
    rights = {"actor": caller.actor, "proof": caller.proof, **asdict(caller.wishes)}
    operation = Operation(caller.site, "reidentify", record.op_id, people, **rights)
    await asked.gateway.writer.operation(operation)
