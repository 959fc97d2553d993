"""Links for emails: a signed value of the link parameter, and the redirect that survives clients which strip it."""

from __future__ import annotations

import time
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from gateway.errors import BadRequest
from gateway.model import Key, Site
from gateway.signing import LinkPayload, Signer, link_token

MAX_URL = 2048


def check_target(url: str, site: Site) -> str:
    """A URL that a link may lead to. Raises BadRequest for anything but http(s) on one of the site's own hosts."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadRequest("the link's url cannot be read", "write it as https://www.shop.example/path") from error
    clean = url.isprintable() and not any(c in url for c in " \\\t\r\n") and len(url) <= MAX_URL
    if not clean or parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise BadRequest("the link's url must be a whole http(s) address", "write it as https://www.shop.example/path")
    default = {"http": 80, "https": 443}[parts.scheme]
    origin = f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port and port != default else "")
    if site.origins and origin not in site.origins:
        hint = f"add its origin to the site: gateway site set {site.name} --origin {origin}"
        raise BadRequest(f"{origin} is not one of this site's origins", hint)
    return url


def make_link(
    signer: Signer,
    site: Site,
    key: Key,
    url: str,
    *,
    gateway_url: str,
    campaign: str = "",
    expires_in: int | None = None,
) -> dict[str, str]:
    """A link for one person: `url` with the signed parameter, and `redirect` through the gateway.

    `expires_in` is in seconds, at most 400 days; without it the link works for 400 days.
    """
    target = check_target(url, site)
    expires_at = int(time.time()) + expires_in if expires_in else 0
    token = link_token(signer, LinkPayload(site.site_id, *key, target, campaign, expires_at))
    return {
        "url": with_parameter(target, site.link_param, token),
        "redirect": f"{gateway_url}/r/{token}",
        "token": token,
    }


def with_parameter(url: str, name: str, value: str) -> str:
    """`url` with a query parameter added; what is there stays as it is, but for an older value of the same name."""
    parts = urlsplit(url)
    query = [p for p in parts.query.split("&") if p and p.partition("=")[0] != name]
    query.append(urlencode({name: value}))
    return urlunsplit(parts._replace(query="&".join(query)))


def parameter(url: str, name: str) -> str | None:
    """The first value of a query parameter."""
    return next((v for k, v in parse_qsl(urlsplit(url).query) if k == name), None)
