"""What a site's own server sees: the people, events and facts that pages made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from tests.server import GatewayServer, api_answer, wait_for

Json = dict[str, Any]


class Backend:
    """A new site of a gateway, asked with its secret key."""

    def __init__(self, gateway: GatewayServer, **settings: str) -> None:
        self.gateway = gateway
        self.site = gateway.site(**settings)
        self.backend: httpx.Client = gateway.api(self.site)

    def person(self, identity: str) -> Json | None:
        response = self.backend.get("/v1/profiles", params={"identity": identity})
        return response.json() if response.status_code == 200 else None

    def people(self) -> list[Json]:
        return list(api_answer(self.backend.get("/v1/profiles", params={"q": ""}))["profiles"])

    def events(self, identity: str) -> list[str]:
        """The names of a person's events, oldest first."""
        person = self.person(identity)
        if person is None:
            return []
        page = api_answer(self.backend.get(f"/v1/profiles/{person['profile_id']}/events", params={"limit": 500}))
        return [e["name"] for e in reversed(page["events"])]

    def expect(self, check: Callable[[], Any], message: str = "") -> None:
        wait_for(check, 10, message)

    def expect_events(self, identity: str, *names: str) -> None:
        def arrived() -> bool:
            assert self.events(identity) == list(names)
            return True

        wait_for(arrived, 10, f"{identity} to have {names}")

    def facts(self, **query: str) -> list[Json]:
        return list(api_answer(self.backend.get("/v1/ledger", params=query))["facts"])

    def server(self, identity: str, command: list[Any], op_id: str = "") -> None:
        """What the site's backend says about a person."""
        entry = {"id": op_id or f"s-{command[0]}-{identity}", "command": command, "identity": identity}
        response = self.backend.post("/v1/commands", json={"commands": [entry]})
        assert response.json()["skipped"] == [], response.text

    def link_to(self, identity: str, url: str) -> str:
        """The signed link of an email."""
        body = {"identity": identity, "url": url}
        return str(api_answer(self.backend.post("/v1/links", json=body))["url"])
