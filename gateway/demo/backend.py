"""The demo's only way into the gateway's core: its site, what the panel shows, and what a shop's server would send."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.commands import identity, rows_of
from gateway.context import Gateway
from gateway.cookies import COOKIE, DEV_COOKIE, PENDING_LINK, cookie_name, read_devices, set_cookie
from gateway.errors import BadRequest, BadToken
from gateway.identity.requests import ServerBatch, Track, Writes
from gateway.links import make_link, with_parameter
from gateway.model import Key, Site, now
from gateway.reads import Json, Reader
from gateway.signing import read_device_token

SITE = "demo"
EVENTS = 12
TURNS = 6
HOUR = 3_600_000_000


async def ensure_site(gateway: Gateway) -> Site:
    """The site "demo", made if this gateway has none yet."""
    return await gateway.sites.by_name(SITE) or await gateway.sites.create(SITE, gateway.new_id(), origins=[])


def device_of(gateway: Gateway, site: Site, request: Request) -> int | None:
    """The device that the request's cookie names; None without a cookie that the gateway signed."""
    name = cookie_name(request.url.scheme, request.headers.get("host", ""))
    for value in read_devices(request.headers.get("cookie", ""), name) if name else ():
        try:
            return read_device_token(gateway.signer, site.site_id, value)[0]
        except BadToken:
            continue
    return None


async def panel(gateway: Gateway, site: Site, request: Request) -> Json:
    """What the gateway knows about the browser that asks: its profile and how that came about."""
    reader = gateway.reader(site)
    device_id = device_of(gateway, site, request)
    profile = await reader.by_device(device_id) if device_id is not None else None
    if device_id is None or profile is None:
        nothing: Json = {key: [] for key in ("turns", "events", "facts", "identity_errors", "held")}
        return nothing | {"device_id": None, "profile": None}
    profile_id = int(profile["profile_id"])
    events = await reader.events(profile_id, limit=EVENTS) or {"events": []}
    ledger = await reader.profile_ledger(profile_id) or {"facts": [], "identity_errors": []}
    held = (await reader.held())["held"]
    return {
        "device_id": str(device_id),
        "profile": profile,
        "turns": await turns(gateway, reader, device_id),
        "events": events["events"],
        "facts": ledger["facts"],
        "identity_errors": await errors(reader, device_id, ledger["identity_errors"]),
        "held": [fact for fact in held if profile["profile_id"] in (fact["target"], fact["source"])],
    }


async def errors(reader: Reader, device_id: int, mine: list[Json]) -> list[Json]:
    """A profile's identity errors, and those that its browser caused on other profiles."""
    # Device ids begin with their time in milliseconds: nothing that a device did is much older than that.
    born = max((device_id >> 22) * 1000 - HOUR, 0)
    recent = await reader.identity_errors(after=f"{born}-0", limit=500)
    known = {(error["code"], error["op_id"]) for error in mine}
    caused = [error for error in recent["identity_errors"] if error["device_id"] == str(device_id)]
    return mine + [error for error in caused if (error["code"], error["op_id"]) not in known]


async def turns(gateway: Gateway, reader: Reader, device_id: int) -> list[Json]:
    """The last visitors on a device, oldest first: the profile each belongs to, and the name it was known by."""
    sql = (
        "/* demo.turns */ select home, claim_value, tentative, events from visitors"
        f" where site_id = $1 and device_id = $2 order by started_at desc limit {TURNS}"
    )
    rows = await gateway.store.read(sql, reader.site_id, device_id)
    return [
        {
            "profile": await reader.profile(row["home"]),
            "name": row["claim_value"],
            "tentative": bool(row["tentative"]),
            "events": row["events"],
        }
        for row in reversed(rows)
    ]


async def any_known(gateway: Gateway, site: Site, values: Iterable[str]) -> bool:
    """Whether any of the values names a profile already."""
    reader = gateway.reader(site)
    for value in values:
        if await reader.by_identity(key_of(value)) is not None:
            return True
    return False


async def import_person(gateway: Gateway, site: Site, email: str, properties: dict[str, Any]) -> None:
    """What a shop's server sends for one row of its CSV file: properties, and the event "Imported"."""
    received = now()
    data = msgspec.json.encode({"source": "csv"}).decode()
    commands = [
        Writes(str(uuid.uuid4()), received, rows=rows_of(properties)),
        Track(str(uuid.uuid4()), received, name="Imported", data=data),
    ]
    await gateway.writer.commands(ServerBatch(site, key_of(email), commands, received))


def link(gateway: Gateway, site: Site, value: str, url: str) -> dict[str, str]:
    """A signed link for the person called `value`, on this very host. Raises BadRequest for a value that is blocked."""
    parts = urlsplit(url)
    return make_link(gateway.signer, site, key_of(value), url, gateway_url=f"{parts.scheme}://{parts.netloc}")


def raw_link(site: Site, value: str, url: str) -> str:
    """The link as Vero makes it: the bare identity in the parameter."""
    return with_parameter(url, site.link_param, value)


def forget_browser(response: Response) -> None:
    """Remove the gateway's cookies from the browser, as if it had never been here."""
    for cookie in (set_cookie(DEV_COOKIE, "", max_age=0), set_cookie(COOKIE, "", max_age=0)):
        response.headers.append("Set-Cookie", cookie)
    response.headers.append("Set-Cookie", f"{PENDING_LINK}=; Path=/; Max-Age=0")


def key_of(value: str) -> Key:
    """The identity called `value`. Raises BadRequest if it cannot be one."""
    key, blocked = identity(value)
    if key is None:
        raise BadRequest(blocked or "this value cannot be an identity")
    return key
