"""Many sites of a running gateway, made at once: a process for each would cost a test more than the test itself."""

import asyncio
from collections.abc import Iterator

from gateway.app import opened
from gateway.cli import site_keys
from gateway.settings import load
from tests.server import GatewayServer, Site


def many(server: GatewayServer, at_once: int = 40) -> Iterator[Site]:
    """New sites, without end."""
    number = 0
    while True:
        names = [f"many-{n}" for n in range(number, number + at_once)]
        yield from asyncio.run(make(server, names))
        number += at_once


async def make(server: GatewayServer, names: list[str]) -> list[Site]:
    """Makes sites next to the server's own process, as the command line does."""
    async with opened(load({}, database=server.database)) as gateway:
        return [site_keys(await gateway.sites.create(name, gateway.new_id(), origins=[])) for name in names]
