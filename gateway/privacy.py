"""What a visitor asked not to be done: Global Privacy Control, and the cookie of the opt-out page."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import BadRequest
from gateway.model import Site

GPC = ("respect", "strict", "ignore")
"""What a site may do about Global Privacy Control."""
GPC_IGNORES_LINKS = "this browser sends Global Privacy Control"
KEPT_NOTHING = "this browser asked that nothing be kept"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What follows for one request. `private`: kept, but left out of feeds and webhooks, and links identify nobody.

    `declined`: nothing of it is kept.
    """

    private: bool = False
    declined: bool = False


NONE = Wishes()


def wishes(site: Site, *, gpc: bool, opted_out: bool = False) -> Wishes:
    """What the site does for a visitor who sends `Sec-GPC: 1`, or has opted out on the gateway's own page."""
    if not gpc and not opted_out:
        return NONE
    asked = gpc and site.gpc != "ignore"
    return Wishes(private=asked or opted_out, declined=opted_out or (asked and site.gpc == "strict"))


def check_gpc(value: str) -> str:
    """A value of the site setting. Raises BadRequest for another."""
    if value not in GPC:
        raise BadRequest(f"gpc cannot be {value!r}", f"use one of {', '.join(GPC)}")
    return value
