"""CleverTap's calls below /1/: their shape in, the same engine, their words out."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from gateway.context import Gateway
from gateway.dialects.clevertap import lists, people
from gateway.dialects.clevertap.calls import Asked, Handler, Json, endpoint, records_of, unprocessed
from gateway.dialects.clevertap.messages import MAX_RECORDS
from gateway.dialects.clevertap.uploads import Upload
from gateway.errors import MethodNotAllowed, NotFound

BASE = "/1"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def upload(asked: Asked) -> Json:
    """POST /1/upload: profiles, events and device tokens, mixed."""
    under_way = Upload(asked.gateway, asked.site, records_of(asked, MAX_RECORDS))
    if (asked.parameter("dryRun") or "0").lower() in ("1", "true"):
        under_way.parse()
    else:
        await under_way.keep()
    return unprocessed(under_way.raw, under_way.refused)


CALLS: tuple[tuple[str, tuple[str, ...], Handler], ...] = (
    ("upload", ("POST",), upload),
    ("profile.json", ("GET",), people.profile),
    ("profiles.json", ("GET", "POST"), lists.profiles),
    ("events.json", ("GET", "POST"), lists.events),
    ("demerge/profiles.json", ("POST",), people.demerge),
    ("delete/profiles.json", ("POST",), people.delete),
    ("disassociate", ("POST",), people.disassociate),
    ("subscribe", ("POST",), people.subscribe),
    ("counts/profiles.json", ("GET", "POST"), lists.count_profiles),
    ("counts/events.json", ("GET", "POST"), lists.count_events),
    ("counts/top.json", ("GET", "POST"), lists.top),
    ("counts/trends.json", ("GET", "POST"), lists.trends),
    ("now.json", ("GET", "POST"), lists.active_now),
)


def routes(gateway: Gateway) -> list[BaseRoute]:
    """Every call, and their answer for everything else below the base path."""
    found = [Route(f"{BASE}/{path}", endpoint(gateway, call), methods=list(methods)) for path, methods, call in CALLS]
    return [*found, Route(BASE + "/{path:path}", endpoint(gateway, elsewhere), methods=METHODS)]


async def elsewhere(asked: Asked) -> Json:
    """What is asked with the wrong method, does not exist, or is about campaigns, which the gateway does not send."""
    path = asked.request.url.path.removeprefix(f"{BASE}/")
    methods = next((m for p, m, _ in CALLS if p == path), None)
    if methods is not None:
        raise MethodNotAllowed(f"send {' or '.join(methods)}")
    raise NotFound("there is nothing at this path")
