"""The calls about receivers of the feed: webhooks and NATS streams, and what they did not take."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from gateway.api import shapes
from gateway.api.calls import Asked, Call
from gateway.context import Gateway
from gateway.delivery import dead_range, is_nats, new_receiver
from gateway.errors import NotFound
from gateway.feed import Cursor
from gateway.model import Site, iso
from gateway.reads import Json
from gateway.store.receivers import DeadLetter, Receiver, Receivers


def receiver_json(receiver: Receiver) -> Json:
    """A receiver as it is shown: without its secret, and without a password in its URL."""
    parts = urlsplit(receiver.url)
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return {
        "receiver_id": str(receiver.receiver_id),
        "url": url,
        "subject": receiver.subject if is_nats(receiver.url) else None,
        "after": str(Cursor(receiver.position, receiver.entries)),
        "attempts": receiver.attempts,
        "max_attempts": receiver.max_attempts,
        "retry_at": iso(receiver.retry_at) if receiver.attempts else None,
        "error": receiver.error,
        "delivered_at": iso(receiver.delivered_at),
        "created_at": iso(receiver.created_at),
    }


def dead_letter_json(dead: DeadLetter) -> Json:
    """A dead letter: the stretch of the feed it is about, to be read with GET /v1/feed."""
    after, until = dead_range(dead)
    shown = {"after": str(after), "until": str(until), "attempts": dead.attempts, "at": iso(dead.at)}
    return shown | {"error": dead.error, "again": bool(dead.again)}


async def receiver_named(gateway: Gateway, site: Site, receiver_id: str) -> Receiver:
    """A receiver of a site by its id. Raises NotFound."""
    for receiver in await Receivers(gateway.store).of_site(site.site_id):
        if str(receiver.receiver_id) == receiver_id:
            return receiver
    raise NotFound(f"there is no receiver {receiver_id[:40]!r}", "GET /v1/receivers lists them")


async def get_receivers(asked: Asked) -> tuple[int, Any]:
    receivers = await Receivers(asked.gateway.store).of_site(asked.site.site_id)
    return 200, {"receivers": [receiver_json(r) for r in receivers], "next": None}


async def add_receiver(asked: Asked) -> tuple[int, Any]:
    body = asked.body
    options = {"subject": body.subject, "secret": body.secret, "attempts": body.max_attempts, "oldest": body.oldest}
    made = await new_receiver(asked.gateway, asked.site, body.url, **options)
    return 201, receiver_json(made) | {"secret": made.secret}


async def remove_receiver(asked: Asked) -> tuple[int, Any]:
    receiver = await receiver_named(asked.gateway, asked.site, asked.path["receiver_id"])
    await Receivers(asked.gateway.store).remove(receiver.site_id, receiver.receiver_id)
    return 200, receiver_json(receiver)


async def get_dead_letters(asked: Asked) -> tuple[int, Any]:
    receiver = await receiver_named(asked.gateway, asked.site, asked.path["receiver_id"])
    dead = await Receivers(asked.gateway.store).dead(receiver.site_id, receiver.receiver_id)
    return 200, {"dead_letters": [dead_letter_json(d) for d in dead], "next": None}


async def redeliver(asked: Asked) -> tuple[int, Any]:
    receiver = await receiver_named(asked.gateway, asked.site, asked.path["receiver_id"])
    places = [Cursor.read(asked.body.after)] if asked.body.after else []
    number = await Receivers(asked.gateway.store).send_again(receiver.site_id, receiver.receiver_id, places)
    if places and not number:
        raise NotFound("there is no dead letter that begins there", "take `after` from the list of dead letters")
    return 200, {"dead_letters": number}


CALLS = (
    Call("GET", "/v1/receivers", get_receivers, "The webhooks and NATS streams that are sent the feed",
         {200: shapes.ReceiversShown}),
    Call("POST", "/v1/receivers", add_receiver, "Send the feed to a webhook, or to NATS JetStream",
         {201: shapes.NewReceiver}, body=shapes.AddReceiver),
    Call("DELETE", "/v1/receivers/{receiver_id}", remove_receiver, "Send it there no more",
         {200: shapes.ReceiverShown}, errors=(404,)),
    Call("GET", "/v1/receivers/{receiver_id}/dead-letters", get_dead_letters, "What a receiver did not take",
         {200: shapes.DeadLetters}, errors=(404,)),
    Call("POST", "/v1/receivers/{receiver_id}/redeliver", redeliver, "Send dead letters once more",
         {200: shapes.Redelivered}, body=shapes.Redeliver, body_optional=True, errors=(404,)),
)  # fmt: skip
