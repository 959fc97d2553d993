"""Pages about sites: their keys and settings, the snippet to paste, and whether it is alive."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from gateway.console.calls import Asked, Page
from gateway.console.recent import Recent
from gateway.errors import BadRequest, Conflict, GatewayError
from gateway.model import OPTIONAL_KINDS, Site
from gateway.privacy import GPC
from gateway.sites import TRUST, auth_token
from gateway.snippet import loader

TEXTS = ("trust", "link_param", "gpc", "time_zone")
CAPS = ("device_cap", "token_cap")
CHOICES = {"trusts": TRUST, "gpcs": GPC, "kinds": OPTIONAL_KINDS}


def gateway_url(asked: Asked) -> str:
    """The gateway as browsers reach it: as it is set, else as this one did."""
    return asked.gateway.settings.public_url or str(asked.request.base_url).rstrip("/")


def mark(site: Site) -> str:
    """What tells the newest secret key from others without telling it."""
    return hashlib.sha256(site.secret_keys[-1].encode()).hexdigest()[:16]


# --- all sites --------------------------------------------------------------------------------------------------------


async def sites(asked: Asked) -> Response:
    """The sites of a user, and the form for another."""
    return await _sites(asked)


async def _sites(asked: Asked, status: int = 200, error: GatewayError | None = None) -> Response:
    found = await asked.console.sites(asked.user, fresh=True)
    given = {name: asked.form.get(name, "") for name in ("name", "origins", "trust")}
    return await asked.show("sites.html", status, all_sites=found, given=given, error=error, trusts=TRUST)


async def add_site(asked: Asked) -> Response:
    """Makes a site and shows its secret key, this once."""
    form, gateway = asked.form, asked.gateway
    try:
        origins = form.get("origins", "").split()
        made = await gateway.sites.create(
            form.get("name", ""), gateway.new_id(), origins=origins, trust=form.get("trust", "")
        )
    except GatewayError as error:
        asked.about("", f"refused: {error.code}")
        return await _sites(asked, error.status, error)
    asked.site_ = made
    asked.about(f"site {made.name}", f"trust {made.trust}")
    return await asked.show("secret.html", new=True, auth_token=auth_token(made))


# --- one site ---------------------------------------------------------------------------------------------------------


async def site(asked: Asked) -> Response:
    """Keys, settings and the snippet of one site."""
    return await _site(asked, asked.site)


async def _site(asked: Asked, shown: Site, status: int = 200, error: GatewayError | None = None) -> Response:
    consent = asked.query.get("consent") == "required"
    last, other = await Recent(asked.gateway, shown).last_pushed()
    return await asked.show(
        "site.html",
        status,
        settings=_typed(asked) if error and asked.form.get("what") == "settings" else _settings(shown),
        snippet=loader(shown, gateway_url(asked), sri=False, consent=consent),
        pinned=loader(shown, gateway_url(asked), sri=True, consent=consent),
        consent=consent,
        ends=[key[-4:] for key in reversed(shown.secret_keys)],
        mark=mark(shown),
        last=last,
        other=other,
        error=error,
        **CHOICES,
    )


def _settings(site: Site) -> dict[str, Any]:
    """What a site is set to, as its form shows it."""
    kinds = [k for k in OPTIONAL_KINDS if k in site.identity_kinds]
    shown = {"origins": site.origins, "identity_kinds": kinds, "time_zone": site.time_zone.key}
    return shown | {name: getattr(site, name) for name in ("trust", "link_param", "gpc", *CAPS)}


def _typed(asked: Asked) -> dict[str, Any]:
    """What somebody typed into that form."""
    form = asked.form
    lists = {"origins": form.get("origins", "").split(), "identity_kinds": form.getlist("identity_kinds")}
    return lists | {name: form.get(name, "") for name in (*TEXTS, *CAPS)}


def given(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Typed settings as they are kept. Raises BadRequest for a limit that is no number."""
    numbers = {}
    for name in CAPS:
        if not (typed[name].isascii() and typed[name].isdigit() and len(typed[name]) < 10):
            raise BadRequest(f"{typed[name][:40]!r} is not a number of devices", "type digits, such as 50")
        numbers[name] = int(typed[name])
    return {**typed, **numbers}


async def change_site(asked: Asked) -> Response:
    """Changes the settings, makes a new secret key, or stops the older one."""
    what, now_set = asked.form.get("what", ""), asked.site
    asked.about(f"site {now_set.name}", what[:20])
    # What this process knows may be two seconds old: another may have changed the site since.
    fresh = next(s for s in await asked.gateway.sites.all(fresh=True) if s.site_id == now_set.site_id)
    asked.site_ = fresh
    try:
        if what == "settings":
            return await _change_settings(asked, fresh)
        if what in ("rotate", "retire"):
            return await _change_keys(asked, fresh, what)
        raise BadRequest("there is nothing of this kind to change", "open the page again")
    except GatewayError as error:
        asked.detail = f"{what[:20]} refused: {error.code}"
        return await _site(asked, fresh, error.status, error)


async def _change_settings(asked: Asked, before: Site) -> Response:
    wanted = given(_typed(asked))
    changed = await asked.gateway.sites.change(before, **wanted)
    old, new = _settings(before), _settings(changed)
    names = [name for name in new if new[name] != old[name]]
    asked.about(f"site {changed.name}", "; ".join(f"{n}: {_plain(old[n])} -> {_plain(new[n])}" for n in names))
    return asked.back(asked.to("site"), "The site was changed." if names else "Nothing was different.")


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


async def _change_keys(asked: Asked, before: Site, what: str) -> Response:
    """A form that is sent twice must not rotate twice: that would stop the key that everything still uses."""
    if asked.form.get("mark") != mark(before):
        raise Conflict("there is a newer secret key since this page was opened", "look whether that one is yours")
    if what == "retire":
        await asked.gateway.sites.retire(before)
        return asked.back(asked.to("site"), "The older secret key does not work any more.")
    asked.site_ = await asked.gateway.sites.rotate(before)
    return await asked.show("secret.html", new=False, auth_token=auth_token(asked.site))


PAGES = (
    Page("GET", "/sites", sites),
    Page("POST", "/sites", add_site, role="admin", action="made a site"),
    Page("GET", "/s/{site}/site", site, nav="Site"),
    Page("POST", "/s/{site}/site", change_site, role="admin", action="changed a site"),
)
