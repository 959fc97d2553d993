"""The device cookie: which name and attributes fit how the gateway is reached, reading it, setting it.

| reached over | name | attributes |
| https, first party | `__Host-Http-vq` | Path=/; Secure; HttpOnly; SameSite=Lax |
| https, third party | `__Host-Http-vq` | Path=/; Secure; HttpOnly; SameSite=None; Partitioned |
| http on localhost | `vq_dev` | Path=/; HttpOnly; SameSite=Lax |
| http elsewhere | none: browsers drop a Secure cookie there; the device token in the reply takes its place |
"""

from __future__ import annotations

import re
from functools import lru_cache

from gateway.errors import BadToken
from gateway.signing import DEVICE_MAX_AGE, Signer, device_token, site_of

COOKIE = "__Host-Http-vq"
DEV_COOKIE = "vq_dev"
PENDING_LINK = "vq_link"
OPT_OUT = "vq_optout"
FORGET_LINK = f"{PENDING_LINK}=; Path=/; Max-Age=0"
BETWEEN_SITES = "~"
MAX_SITES = 8
"""Of how many sites on one host a browser is known at a time; the longest not renewed go first."""
REFRESH_AFTER = 24 * 3600


def is_local(host: str) -> bool:
    """Whether a Host header names this machine."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]").lower().rstrip(".")
    return name in ("localhost", "127.0.0.1", "::1") or name.endswith(".localhost")


def maybe_one_site(a: str, b: str) -> bool:
    """Whether two hosts may be one site to a browser: the same, or with two labels in common at the end."""
    if a == b:
        return True
    if any(re.fullmatch(r"[\d.]+|.*:.*", host) for host in (a, b)):
        return False
    ends = [host.rstrip(".").lower().split(".")[-2:] for host in (a, b)]
    return ends[0] == ends[1] and len(ends[0]) == 2


@lru_cache(maxsize=1024)
def cookie_name(scheme: str, host: str) -> str | None:
    """The name of the device cookie on this connection; None where no cookie can work."""
    if scheme == "https":
        return COOKIE
    return DEV_COOKIE if is_local(host) else None


def read_cookies(header: str, name: str) -> list[str]:
    """The values a Cookie header has for `name`."""
    return [value.strip().strip('"') for value in _pattern(name).findall(header)]


@lru_cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|;)\s*{re.escape(name)}=([^;]*)")


def read_devices(header: str, name: str) -> list[str]:
    """The device tokens of a Cookie header: one a site, where several sites share the gateway's host."""
    return [token for value in read_cookies(header, name) for token in value.split(BETWEEN_SITES)]


def device_value(signer: Signer, site_id: int, device_id: int, shown: list[str]) -> str:
    """The device cookie's value: this site's token, and those that the browser showed of other sites on the host."""
    others: dict[str, str] = {}
    for token in shown:
        try:
            others.setdefault(site_of(signer, token), token)
        except BadToken:
            continue
    others.pop(str(site_id), None)
    kept = list(others.values())[: MAX_SITES - 1]
    return BETWEEN_SITES.join([device_token(signer, site_id, device_id), *kept])


def opted_out(header: str) -> bool:
    """Whether a Cookie header says that nothing is to be kept of this browser."""
    return "1" in read_cookies(header, OPT_OUT)


def set_cookie(name: str, value: str, *, third_party: bool = False, max_age: int = DEVICE_MAX_AGE) -> str:
    """The Set-Cookie header for a value; `max_age` 0 removes it."""
    secure = "" if name.endswith("_dev") else "; Secure"
    site = "; SameSite=None; Partitioned" if third_party and secure else "; SameSite=Lax"
    return f"{name}={value}; Path=/; Max-Age={max_age}{secure}; HttpOnly{site}"
