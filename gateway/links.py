"""Links for emails: a signed value of the link parameter, and the redirect that survives clients which strip it."""

from __future__ import annotations

import re
import time
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from gateway.errors import BadRequest
from gateway.model import Key, Site
from gateway.signing import LinkPayload, Signer, link_token

MAX_URL = 2048
HOST = r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]"
WHOLE = re.compile(rf"(https?)://({HOST})(?::(\d{{1,5}}))?(?=[/?#]|$)", re.IGNORECASE | re.ASCII)
ASCII = "".join(map(chr, range(0x21, 0x7F)))


def check_target(url: str, site: Site) -> str:
    """A link's target, in ASCII. Raises BadRequest for anything but http(s) on one of the site's own origins.

    Only what every browser reads as we do is taken: no user name, backslash, space or control character, and a host of
    plain letters (a name in another script as xn--…).
    """
    found = WHOLE.match(url)
    if found is None or not url.isprintable() or "\\" in url or " " in url or len(url) > MAX_URL:
        raise BadRequest("the link's url must be a whole http(s) address", "write it as https://www.shop.example/path")
    scheme, host, port = (part and part.lower() for part in found.groups())
    default = {"http": 80, "https": 443}[scheme]
    origin = f"{scheme}://{host}" + (f":{int(port)}" if port and int(port) != default else "")
    if site.origins and origin not in site.origins:
        hint = f"add its origin to the site: gateway site set {site.name} --origin {origin}"
        raise BadRequest(f"{origin} is not one of this site's origins", hint)
    return quote(url, safe=ASCII)


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
