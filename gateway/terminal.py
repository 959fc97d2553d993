"""What every command of the command line uses: where it prints, the options it shares, an open gateway to work with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from gateway.app import opened
from gateway.context import Gateway
from gateway.errors import NotFound
from gateway.model import Site
from gateway.settings import Settings

T = TypeVar("T")

out = Console()
err = Console(stderr=True)

Database = Annotated[str | None, typer.Option(help="sqlite:///path; default: GATEWAY_DATABASE or sqlite:///gateway.db")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]


def with_gateway(settings: Settings, work: Callable[[Gateway], Awaitable[T]]) -> T:
    """Opens the gateway's parts, does `work`, closes them."""

    async def run() -> T:
        async with opened(settings) as gateway:
            return await work(gateway)

    return asyncio.run(run())


def print_json(data: Any) -> None:
    """Prints JSON, indented."""
    typer.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


async def site_named(gateway: Gateway, name: str) -> Site:
    """A site by its name. Raises NotFound."""
    site = await gateway.sites.by_name(name)
    if site is None:
        raise NotFound(f"there is no site {name!r}", "gateway site list shows them all")
    return site


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how much is done, and how much there is; nothing where nobody looks."""
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
