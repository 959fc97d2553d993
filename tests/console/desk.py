"""The console as an operator's browser sees it, without one: pages are asked for, their forms are sent as they are."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway.console.access import Access
from tests.driver import Driver, driving

PASSWORD = "seven quiet otters"
SENT_FROM_HERE = {"Sec-Fetch-Site": "same-origin"}


class Desk:
    """One browser at the console of a driver's gateway."""

    def __init__(self, driver: Driver, client: httpx.AsyncClient) -> None:
        self.driver = driver
        self.client = client
        self.access = Access(driver.gateway)
        self.page = ""

    @property
    def site(self) -> str:
        """Where the pages of the driver's site are."""
        return f"/console/s/{self.driver.site.site_id}"

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """A page, redirects followed; `path` is below the site unless it begins with a slash."""
        path = path if path.startswith(("/", "http")) else f"{self.site}/{path}"
        response = await self.client.get(path, headers=headers, follow_redirects=True)
        self.page = response.text
        return response

    async def post(self, path: str, form: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        """Sends a form with the page's own hidden token, and follows to the page behind it."""
        path = path if path.startswith(("/", "http")) else f"{self.site}/{path}"
        token = re.search(r'name="csrf" value="(\w*)"', self.page)
        fields = {"csrf": token[1] if token else ""} | form
        response = await self.client.post(path, data=fields, headers=headers or SENT_FROM_HERE, follow_redirects=True)
        self.page = response.text
        return response

    async def log_in(self, name: str = "ann", role: str = "admin", sites: list[int] | None = None) -> Desk:
        """Makes a user and logs in as them."""
        await self.access.create(name, PASSWORD, role, [self.driver.site.site_id] if sites is None else sites)
        response = await self.post("/console/login", {"name": name, "password": PASSWORD})
        assert response.status_code == 200, response.text
        return self

    @asynccontextmanager
    async def colleague(self, name: str, role: str, sites: list[int] | None = None) -> AsyncIterator[Desk]:
        """Somebody else, in a browser of their own."""
        transport = self.client._transport
        async with httpx.AsyncClient(transport=transport, base_url=self.client.base_url) as client:
            yield await Desk(self.driver, client).log_in(name, role, sites)

    @property
    def text(self) -> str:
        """What can be read on the page."""
        body = self.page.partition("<main")[2]
        words = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body.partition(">")[2])).split())
        return re.sub(r" ([.,:;])", r"\1", words)


@asynccontextmanager
async def desk_of(database: str | Path, **settings: Any) -> AsyncIterator[Desk]:
    """A desk on a fresh database, over https."""
    async with driving(database, **settings) as driver:
        transport = httpx.ASGITransport(app=driver.client._transport.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway.test") as client:
            yield Desk(driver, client)
