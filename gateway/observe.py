"""What whoever watches a gateway is told about the ingest path: what pages pushed, and what was refused outright."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from gateway.commands import Skipped, decode_body
from gateway.errors import GatewayError
from gateway.identity.requests import Command
from gateway.model import Site


@dataclass(slots=True)
class Pushed:
    """One answered request of a page, with its body as it came.

    `outcomes` are those of `commands` in order; `link` came from a redirect.
    """

    site: Site
    raw: bytes
    commands: list[Command]
    outcomes: list[str]
    skipped: list[Skipped]
    device_id: int
    received_at: int
    measured: int | None = None
    other_device: int = 0
    link: str | None = None
    private: bool = False

    @property
    def entries(self) -> list[msgspec.Raw]:
        """What the page pushed, entry by entry."""
        return decode_body(self.raw).commands


@dataclass(slots=True)
class Turned:
    """A request that was refused as a whole: what it said, as far as it was read, and why."""

    raw: bytes
    error: GatewayError
    origin: str = ""


class Observer(Protocol):
    """Is told after each answer is decided; must be quick and must not raise."""

    def pushed(self, pushed: Pushed) -> None:
        """A page's request was taken."""

    def turned(self, turned: Turned) -> None:
        """A request was refused as a whole."""
