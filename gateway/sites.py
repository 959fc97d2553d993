"""The sites of this gateway: made, listed, and found by their keys without asking the database for each request."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.errors import BadRequest, Forbidden, Unauthorized
from gateway.model import OPTIONAL_KINDS, Site, now
from gateway.privacy import check_gpc
from gateway.signing import new_secret, same
from gateway.store.base import Store

FRESH_SECONDS = 2.0
TRUST = ("guarded", "strict", "open")
MAX_CAP = 10_000


class Sites:
    """All sites, read again from the database when they may have changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sites: list[Site] = []
        self._by_api_key: dict[str, Site] = {}
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    @property
    def fresh(self) -> bool:
        """Whether what is known was read within the last two seconds."""
        return time.monotonic() - self._read_at <= FRESH_SECONDS

    def known(self, api_key: str) -> Site | None:
        """The site with this public key, as of the last reading."""
        return self._by_api_key.get(api_key)

    async def all(self, *, fresh: bool = False) -> list[Site]:
        """All sites, at most two seconds old, or read now."""
        if fresh or not self.fresh:
            async with self._reading:  # one reads for all who wait
                if fresh or not self.fresh:
                    self._sites = await self._store.sites()
                    self._by_api_key = {s.api_key: s for s in self._sites}
                    self._read_at = time.monotonic()
        return self._sites

    async def by_api_key(self, api_key: str) -> Site:
        """The site with this public key. Raises Forbidden if there is none."""
        await self.all()
        if api_key not in self._by_api_key:
            await self.all(fresh=True)
        site = self._by_api_key.get(api_key)
        if site is None:
            raise Forbidden("no site has this key", "take api_key from `gateway site list`", code="unknown_key")
        return site

    async def by_secret(self, secret: str) -> Site:
        """The site with this secret key. Raises Unauthorized if there is none."""
        for fresh in (False, True):
            for site in await self.all(fresh=fresh):
                if any(same(key, secret) for key in site.secret_keys):
                    return site
        raise Unauthorized("this secret key belongs to no site", "send Authorization: Bearer SECRET_KEY")

    async def by_name(self, name: str) -> Site | None:
        """The site called `name`."""
        return next((s for s in await self.all(fresh=True) if s.name == name), None)

    async def save(self, site: Site) -> Site:
        """Keeps a site and what it is set to."""
        await self._store.save_site(site)
        self._read_at = 0.0
        return site

    async def create(self, name: str, site_id: int, *, origins: list[str], trust: str = "guarded", **more: Any) -> Site:
        """Makes a site with two new keys. Raises BadRequest for a name that is taken or a setting that is unknown."""
        if not name.strip() or len(name) > 100:
            raise BadRequest("a site needs a name of 1 to 100 characters")
        if await self.by_name(name):
            raise BadRequest(f"there is a site {name!r} already", "choose another name, or use it: gateway site list")
        settings = {"origins": [check_origin(o) for o in origins], "trust": check_trust(trust), **more}
        return await self.save(Site(site_id, name, secrets.token_hex(20), [new_secret()], settings, now()))

    async def change(self, site: Site, **given: Any) -> Site:
        """Sets a site's settings; None leaves one as it is. Raises BadRequest for a value that cannot be."""
        settings = {name: CHECKS[name](value) for name, value in given.items() if value is not None}
        return await self.save(replace(site, settings=site.settings | settings))

    async def rotate(self, site: Site) -> Site:
        """Makes a new secret key; the one before keeps working until the next rotation."""
        return await self.save(replace(site, secret_keys=[*site.secret_keys[-1:], new_secret()]))

    async def retire(self, site: Site) -> Site:
        """Stops all secret keys but the newest."""
        return await self.save(replace(site, secret_keys=site.secret_keys[-1:]))


def check_trust(trust: str) -> str:
    """A trust mode. Raises BadRequest for another."""
    if trust not in TRUST:
        raise BadRequest(f"trust cannot be {trust!r}", f"use one of {', '.join(TRUST)}")
    return trust


def check_cap(cap: int) -> int:
    """How many devices something may have. Raises BadRequest for none, and for what is no limit any more."""
    if not 1 <= cap <= MAX_CAP:
        raise BadRequest(f"a limit of {cap} devices cannot be", f"use 1 to {MAX_CAP:,}")
    return cap


def check_origin(origin: str) -> str:
    """An origin as browsers send it. Raises BadRequest for anything else, with the form it should have."""
    scheme, _, rest = origin.rstrip("/").partition("://")
    if scheme not in ("http", "https") or not rest or "/" in rest or "@" in rest or "*" in rest:
        raise BadRequest(f"{origin!r} is not an origin", "write it as https://www.shop.example")
    return f"{scheme}://{rest}".lower()


def check_link_param(name: str) -> str:
    """A name for the link parameter. Raises BadRequest for one that needs encoding or means something else."""
    if not re.fullmatch(r"[A-Za-z0-9_.~-]{1,64}", name) or name in ("vero_conv", "conv_id"):
        raise BadRequest(f"the link parameter cannot be called {name!r}", "use letters, digits and _, such as vid")
    return name


def check_kind(kind: str) -> str:
    """A kind of identity that can be turned on. Raises BadRequest for another."""
    if kind not in OPTIONAL_KINDS:
        raise BadRequest(f"identities of the kind {kind!r} cannot be turned on", f"use {' or '.join(OPTIONAL_KINDS)}")
    return kind


def check_time_zone(name: str) -> str:
    """The name of a time zone. Raises BadRequest for one that is not known here."""
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadRequest(f"there is no time zone {name!r}", "write it as Europe/Berlin or UTC") from error


CHECKS: dict[str, Callable[[Any], Any]] = {
    "origins": lambda origins: [check_origin(o) for o in origins],
    "trust": check_trust,
    "link_param": check_link_param,
    "device_cap": check_cap,
    "token_cap": check_cap,
    "identity_kinds": lambda kinds: [check_kind(k) for k in kinds],
    "time_zone": check_time_zone,
    "gpc": check_gpc,
}
"""The settings of a site, and what makes sure of a value."""


def auth_token(site: Site) -> str:
    """The token that clients of Vero's server API use: both keys in base64."""
    return base64.b64encode(f"{site.api_key}:{site.secret_keys[-1]}".encode()).decode()
