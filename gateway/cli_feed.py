"""`gateway receiver …` and `gateway deliver`: who is sent the feed, and sending it from a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Annotated, Any

import typer
from rich.table import Table

from gateway.api.receivers import dead_letter_json, receiver_json, receiver_named
from gateway.context import Gateway
from gateway.delivery import MAX_ATTEMPTS, delivering, new_receiver
from gateway.settings import load
from gateway.store.receivers import Receivers
from gateway.terminal import AsJson, Database, out, print_json, site_named, with_gateway

app = typer.Typer(no_args_is_help=True, help="Webhooks and NATS streams that are sent the feed of a site.")


@app.command("add")
def add(
    site: str,
    url: Annotated[str, typer.Argument(help="https://… for a webhook, nats://… for NATS JetStream")],
    subject: Annotated[str, typer.Option(help="NATS: publish under SUBJECT.event and SUBJECT.identity")] = "",
    max_attempts: Annotated[int, typer.Option(min=1, max=1000, help="then it is a dead letter")] = MAX_ATTEMPTS,
    oldest: Annotated[
        bool, typer.Option("--oldest", help="from the oldest entry that is kept, not from now on")
    ] = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Send the feed of SITE to URL; prints the secret that signs it."""

    async def work(gateway: Gateway) -> dict[str, Any]:
        options: dict[str, Any] = {"subject": subject, "secret": None, "attempts": max_attempts, "oldest": oldest}
        made = await new_receiver(gateway, await site_named(gateway, site), url, **options)
        return receiver_json(made) | {"secret": made.secret}

    made = with_gateway(load(database=database), work)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"receiver {made['receiver_id']}\nsecret   {made['secret']}")


@app.command("list")
def list_(site: str, as_json: AsJson = False, database: Database = None) -> None:
    """List the receivers of SITE."""

    async def work(gateway: Gateway) -> list[dict[str, Any]]:
        found = await site_named(gateway, site)
        return [receiver_json(r) for r in await Receivers(gateway.store).of_site(found.site_id)]

    receivers = with_gateway(load(database=database), work)
    if as_json:
        print_json(receivers)
        return
    table = Table("receiver", "url", "delivered", "attempts", "error")
    for r in receivers:
        table.add_row(r["receiver_id"], r["url"], r["delivered_at"] or "", str(r["attempts"]), r["error"] or "")
    out.print(table if receivers else "No receiver yet: gateway receiver add SITE URL")


@app.command("remove")
def remove(site: str, receiver: str, database: Database = None) -> None:
    """Send the feed of SITE to RECEIVER no more."""

    async def work(gateway: Gateway) -> None:
        found = await receiver_named(gateway, await site_named(gateway, site), receiver)
        await Receivers(gateway.store).remove(found.site_id, found.receiver_id)

    with_gateway(load(database=database), work)


@app.command("dead")
def dead(
    site: str,
    receiver: str,
    redeliver: Annotated[bool, typer.Option("--redeliver", help="send all of them once more")] = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """List what RECEIVER did not take, or have it sent once more."""

    async def work(gateway: Gateway) -> list[dict[str, Any]]:
        found = await receiver_named(gateway, await site_named(gateway, site), receiver)
        receivers = Receivers(gateway.store)
        if redeliver:
            await receivers.send_again(found.site_id, found.receiver_id)
        return [dead_letter_json(d) for d in await receivers.dead(found.site_id, found.receiver_id)]

    letters = with_gateway(load(database=database), work)
    if as_json:
        print_json(letters)
        return
    table = Table("after", "until", "attempts", "at", "error", "again")
    for d in letters:
        table.add_row(d["after"], d["until"], str(d["attempts"]), d["at"], d["error"], "yes" if d["again"] else "")
    out.print(table if letters else "It took everything.")


def deliver(database: Database = None) -> None:
    """Send the feed to its receivers until stopped; `gateway serve` does so too unless GATEWAY_DELIVER is off."""

    async def work(gateway: Gateway) -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with delivering(gateway):
            await stopped.wait()

    with_gateway(load(database=database), work)
