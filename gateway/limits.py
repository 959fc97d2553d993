"""How much one process takes on: rates per address block, site and device, connections, bytes and time.

What is refused here is refused before its body is read, or at the latest before its commands are parsed. All numbers
are settings; a rate of 0 is no limit. Each process counts for itself.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from gateway.errors import TooMany
from gateway.settings import Settings

BURST_SECONDS = 20
"""How many seconds' worth may come at once: what an offline browser kept, or a room that opens one page."""
MAX_KNOWN = 50_000
"""How many addresses, sites or devices are counted at a time; the ones longest unseen are forgotten first."""


class Rate:
    """A token bucket for each of many senders, kept as the time at which it will be full again.

    A sender that has anything left may take any amount and is then in debt: a batch is never cut in two.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self.clock = clock
        self.full_at: OrderedDict[object, float] = OrderedDict()

    def take(self, sender: object, amount: int = 1) -> float:
        """0 if the amount was granted and taken, else the seconds until something will be."""
        if not self.per_second:
            return 0
        now = self.clock()
        full_at = max(self.full_at.get(sender, now), now)
        wait = full_at - now - BURST_SECONDS
        if wait >= 0:
            return wait + 1 / self.per_second
        self.full_at[sender] = full_at + amount / self.per_second
        self.full_at.move_to_end(sender)
        if len(self.full_at) > MAX_KNOWN:
            self.full_at.popitem(last=False)
        return 0


@lru_cache(maxsize=10_000)
def block(host: str) -> str:
    """The network one sender can be expected to hold: /24 of IPv4, /64 of IPv6; anything else is itself."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return str(ipaddress.ip_network((address, 24), strict=False))


class Limits:
    """The rates of this process. Each method takes a share or raises TooMany with a truthful retry_after."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.addresses = Rate(settings.rate_address, clock)
        self.sites = Rate(settings.rate_site, clock)
        self.devices = Rate(settings.rate_device, clock)

    def address(self, client: tuple[str, int] | None, amount: int = 1) -> None:
        """A request's share of its address block, before anything of it is read; later its commands' share."""
        if client is not None and self.addresses.per_second:
            self._take(self.addresses, block(client[0]), amount, "this network")

    def site(self, site_id: int, amount: int) -> None:
        """Commands of a site."""
        self._take(self.sites, site_id, amount, "this site")

    def device(self, site_id: int, device_id: int, amount: int = 1) -> None:
        """Commands of a device; a browser without one yet is only known by its address."""
        if device_id:
            self._take(self.devices, (site_id, device_id), amount, "this device")

    @staticmethod
    def _take(rate: Rate, sender: object, amount: int, who: str) -> None:
        wait = rate.take(sender, amount)
        if wait:
            message = f"{who} sends more than {rate.per_second:g} commands a second"
            raise TooMany(message, "wait as long as Retry-After says", retry_after=math.ceil(wait))
