"""What every front door is given: settings, store, writer, signer and sites of this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import ASGIApp

from gateway.errors import BadRequest, BadToken
from gateway.lists import Lists
from gateway.model import IdGenerator, Site
from gateway.observe import Observer
from gateway.reads import Reader
from gateway.settings import Settings
from gateway.signing import Signer, read_device_token
from gateway.sites import Sites
from gateway.store.base import Store
from gateway.writer import Writer


class Tracing(Protocol):
    """Traces of this process, where a setting wants them; see `gateway.traces`."""

    def requests(self, app: ASGIApp) -> ASGIApp:
        """The application with a span around each request."""


@dataclass(slots=True)
class Gateway:
    """The parts of a running gateway. `observers` are told what pages push, taken or refused."""

    settings: Settings
    store: Store
    writer: Writer
    signer: Signer
    sites: Sites
    new_id: IdGenerator
    observers: list[Observer] = field(default_factory=list)
    tracing: Tracing | None = None

    def reader(self, site: Site) -> Reader:
        """Reads of one site."""
        return Reader(self.store, site)

    def lists(self, site: Site) -> Lists:
        """Lists of one site's profiles."""
        return Lists(self.store, site)

    def device_id(self, site: Site, value: str | int) -> int:
        """A device id from its digits or from a browser's signed token. Raises BadRequest for anything else."""
        text = str(value)
        if text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63:
            return int(text)
        try:
            return read_device_token(self.signer, site.site_id, text)[0]
        except BadToken as error:
            raise BadRequest("this is neither a device id nor a device token of this site") from error
