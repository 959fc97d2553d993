"""Drives the real application over its public HTTP interface with the words of the scenarios.

`u:x` is the identity x, `d:y` the device y. Browsers are devices that keep the token they were given; what a server
does goes through the native API. Every operation has an id, so that its outcome can be looked up in the ledger.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt

from gateway.app import make_app, opened
from gateway.check import check_site
from gateway.settings import load

Json = dict[str, Any]


class Driver:
    """One site of one running gateway, and the browsers and servers that talk to it."""

    def __init__(self, gateway: Any, client: httpx.AsyncClient, site: Any) -> None:
        self.gateway, self.client, self.site = gateway, client, site
        self.tokens: dict[str, str] = {}
        self.links: dict[tuple[str, str], str] = {}
        self.outcomes: list[str] = []
        self.base = 0.0
        self.latest = -1.0
        self.scripted = False
        self.calls = 0

    # --- HTTP -------------------------------------------------------------------------------------------

    async def api(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        """A call of the native API with the secret key."""
        headers = {"Authorization": f"Bearer {self.site.secret_keys[-1]}"}
        self.calls += 1
        return await self.client.request(method, path, json=body, headers=headers)

    async def push(self, device: str, command: list[Any], op: str, at: float, *, server: bool = False) -> str:
        """One command of a browser (or of a server about that browser); returns its outcome."""
        self.calls += 1
        body: Json = {"key": self.site.api_key, "commands": [{"id": op, "at": at * 1000, "command": command}]}
        if device in self.tokens:
            body["device"] = self.tokens[device]
        headers = {"Authorization": f"Bearer {self.site.secret_keys[-1]}"} if server else {}
        response = await self.client.post("/v1/commands", json=body, headers=headers)
        assert response.status_code == 202, response.text
        if server:
            return str(response.json()["outcomes"][0])
        if "device" in response.json():
            self.tokens[device] = response.json()["device"]
        fact = await self.api("GET", f"/v1/ledger/{op}")
        return str(fact.json()["outcome"]) if fact.status_code == 200 else "accepted"

    async def server_push(self, identity: Any, command: list[Any], op: str, at: float) -> str:
        """One command of a server about an identity."""
        self.calls += 1
        entry = {"id": op, "at": at * 1000, "command": command, "identity": identity}
        headers = {"Authorization": f"Bearer {self.site.secret_keys[-1]}"}
        response = await self.client.post("/v1/commands", json={"commands": [entry]}, headers=headers)
        assert response.status_code == 202, response.text
        return str(response.json()["outcomes"][0])

    # --- operations of the scenarios -----------------------------------------------------------------------------

    async def run(self, ops: list[Any]) -> None:
        """Carries out operations in order."""
        self.scripted = any("t" in arguments for _, arguments in ops)
        deleted = [a["t"] for k, a in ops if k == "delete" and "t" in a]
        self.base = time.time() - (deleted[0] if deleted else 3600)
        for n, (kind, arguments) in enumerate(ops):
            given = dict(arguments)
            at = self.time(given.pop("t", None))
            op = given.pop("op", f"op{n}")
            self.outcomes.append(await getattr(self, f"do_{kind}")(op, at, **given))

    def time(self, t: float | None) -> float:
        """Seconds since the epoch for a scenario's time; without one, later than everything before."""
        if not self.scripted:
            self.latest = max(time.time(), self.latest + 0.001)
            return self.latest
        t = self.latest + 1 if t is None else t
        self.latest = max(self.latest, t)
        return self.base + t

    async def do_track(self, op: str, at: float, device: str, name: str) -> str:
        return await self.push(device, ["track", name], op, at)

    async def do_login(self, op: str, at: float, device: str, identity: Any, proof: str) -> str:
        if proof == "server":
            return await self.push(device, ["user", {"id": identity}], op, at, server=True)
        if proof == "verified" and isinstance(identity, str):
            now = int(time.time())
            claims = {"sub": identity, "iat": now, "exp": now + 600}
            token = jwt.encode(claims, self.site.secret_keys[-1], algorithm="HS256")
            return await self.push(device, ["verify", token], op, at)
        return await self.push(device, ["user", {"id": identity}], op, at)

    async def do_link(self, op: str, at: float, device: str, identity: str, proof: str, token: str = "") -> str:
        value = identity
        if proof == "link":
            if (token, identity) not in self.links:
                body = {"identity": identity, "url": "https://shop.example/"}
                made = await self.api("POST", "/v1/links", body)
                self.links[token, identity] = made.json().get("token", identity)
            value = self.links[token, identity]
        return await self.push(device, ["link", value], op, at)

    async def do_logout(self, op: str, at: float, device: str) -> str:
        return await self.push(device, ["logout"], op, at)

    async def do_set(self, op: str, at: float, props: Json, once: bool, device: str = "", identity: Any = None) -> str:
        command = ["user", props, {"set_once": once}]
        if device:
            return await self.push(device, command, op, at)
        return await self.server_push(identity, command, op, at)

    async def do_server_event(self, op: str, at: float, identity: Any, name: str) -> str:
        return await self.server_push(identity, ["track", name], op, at)

    async def do_reidentify(self, op: str, at: float, new: Any, old: Any, origin: str) -> str:
        if origin != "server":
            return await self.push(origin, ["reidentify", new, old], op, at)
        return await self.outcome("POST", "/v1/reidentify", {"new": new, "old": old, "op_id": op})

    async def do_merge(self, op: str, at: float, target: str, source: str, force: bool = False) -> str:
        body = {"target": self.ref(target), "source": self.ref(source), "op_id": op, "force": force}
        return await self.outcome("POST", "/v1/merges", body)

    async def do_demerge(self, op: str, at: float, who: str) -> str:
        response = await self.api("POST", "/v1/demerge", {"identities": [self.ref(who)]})
        return str(response.json()["results"][0]["outcome"])

    async def do_unlink(self, op: str, at: float, device: str) -> str:
        return await self.outcome("POST", f"/v1/devices/{self.tokens[device]}/unlink", {"op_id": op})

    async def do_undo(self, op: str, at: float, of: str) -> str:
        return await self.outcome("POST", f"/v1/operations/{of}/undo", {"op_id": op})

    async def do_delete(self, op: str, at: float, who: str) -> str:
        recorded = await self.api("GET", f"/v1/ledger/{op}")
        if recorded.status_code == 200:  # a repeat of the same request: the id of the profile is not known any more
            return str(recorded.json()["outcome"])
        profile = await self.find(who)
        if profile is None:
            return "not_found"
        return await self.outcome("DELETE", f"/v1/profiles/{profile['profile_id']}?op_id={op}", None)

    async def outcome(self, method: str, path: str, body: Json | None) -> str:
        """The outcome of an operation, or the code of its refusal."""
        response = await self.api(method, path, body)
        data = response.json()
        assert response.status_code < 500, data
        return str(data["outcome"] if "outcome" in data else data["error"]["code"])

    # --- looking -------------------------------------------------------------------------------------------------

    def ref(self, who: str) -> Any:
        """How the API names a person of the scenarios."""
        kind, _, name = who.partition(":")
        return name if kind == "u" else {"device_id": self.tokens[name]}

    async def find(self, who: str) -> Json | None:
        """A profile by u:identity or d:device, None if there is none."""
        kind, _, name = who.partition(":")
        if kind == "d" and name not in self.tokens:
            return None
        query = {"identity": name} if kind == "u" else {"device_id": self.tokens[name]}
        headers = {"Authorization": f"Bearer {self.site.secret_keys[-1]}"}
        response = await self.client.get("/v1/profiles", params=query, headers=headers)
        assert response.status_code in (200, 404), response.text
        return response.json() if response.status_code == 200 else None

    async def profiles(self) -> list[Json]:
        """All live profiles."""
        found: list[Json] = []
        after = ""
        while True:
            page = (await self.api("GET", f"/v1/profiles?q=&limit=500{after}")).json()
            found += page["profiles"]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"

    async def events(self, who: str) -> list[str]:
        """The names of a profile's events, sorted."""
        profile = await self.find(who)
        if profile is None:
            return []
        names: list[str] = []
        before = ""
        while True:
            page = (await self.api("GET", f"/v1/profiles/{profile['profile_id']}/events?limit=500{before}")).json()
            names += [e["name"] for e in page["events"]]
            if page["next"] is None:
                return sorted(names)
            before = f"&before={page['next']}"

    async def errors(self) -> list[str]:
        """The codes of all identity errors."""
        return [e["code"] for e in (await self.api("GET", "/v1/identity-errors?limit=500")).json()["identity_errors"]]

    async def check(self, check: list[Any]) -> None:
        """Asserts one check of a scenario."""
        kind, *rest = check
        await getattr(self, f"check_{kind.replace('<=', '_at_most')}")(*rest)

    async def check_out(self, n: int, outcome: str) -> None:
        assert self.outcomes[n] == outcome, f"operation {n}: {self.outcomes}"

    async def check_events(self, who: str, names: list[str]) -> None:
        assert await self.events(who) == sorted(names)

    async def check_ids(self, who: str, ids: list[str]) -> None:
        profile = await self.find(who)
        assert sorted(i["value"] for i in profile["identities"]) == sorted(ids) if profile else ids == []

    async def check_props(self, who: str, properties: Json) -> None:
        profile = await self.find(who)
        assert profile is not None and profile["properties"] == properties

    async def check_profiles(self, number: int) -> None:
        assert len(await self.profiles()) == number

    async def check_same(self, *people: str) -> None:
        found = [await self.find(p) for p in people]
        assert all(found), people
        assert len({p["profile_id"] for p in found if p}) == 1

    async def check_differ(self, a: str, b: str) -> None:
        first, second = await self.find(a), await self.find(b)
        assert first is not None and second is not None
        assert first["profile_id"] != second["profile_id"]

    async def check_primary(self, who: str, value: str) -> None:
        profile = await self.find(who)
        assert profile is not None and profile["primary"] == value

    async def check_tentative(self, who: str, tentative: bool) -> None:
        profile = await self.find(who)
        assert profile is not None and profile["tentative"] is tentative

    async def check_gone(self, who: str) -> None:
        assert await self.find(who) is None

    async def check_error(self, code: str) -> None:
        assert code in await self.errors()

    async def check_noerror(self) -> None:
        assert await self.errors() == []

    async def check_devices(self, who: str, devices: list[str]) -> None:
        profile = await self.find(who)
        assert profile is not None
        expected = {str(self.gateway.device_id(self.site, self.tokens[d])) for d in devices}
        assert {v["device_id"] for v in profile["visitors"] if v["device_id"]} == expected

    async def check_moved_at_most(self, number: int) -> None:
        facts = (await self.api("GET", "/v1/ledger?limit=500")).json()["facts"]
        assert sum(f["moved"]["visitors"] for f in facts) <= number

    async def check_refold(self) -> None:
        """The ledger folded again says what the tables say."""
        assert await check_site(self.gateway.store, self.site) == []


@asynccontextmanager
async def driving(database: str | Path, **settings: Any) -> Any:
    """A driver on a fresh database: its URL, or the folder for a SQLite file."""
    url = database if isinstance(database, str) else f"sqlite:///{database / 'gateway.db'}"
    async with opened(load({}, database=url)) as gateway:
        site = await gateway.sites.create("shop", gateway.new_id(), origins=[], **settings)
        transport = httpx.ASGITransport(app=make_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
            yield Driver(gateway, client, site)
