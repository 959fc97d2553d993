"""Loads the parts of a site that a decision needs, in set queries, and remembers the rows as they were."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any

from gateway.identity.ledger import World, erased
from gateway.model import (
    Fact,
    Identity,
    Key,
    Profile,
    Site,
    Visitor,
)
from gateway.store.base import Transaction

MANY_TURNS = 200


class Loader:
    """Loads parts of a site into a world, each only once, and remembers the rows as they were."""

    def __init__(self, tx: Transaction, site: Site) -> None:
        self.tx = tx
        self.site_id = site.site_id
        self.world = World(site)
        self.visitor_rows: dict[int, Visitor] = {}
        self.identity_rows: dict[Key, Identity] = {}
        self.profile_rows: dict[int, Profile] = {}
        self.folded: dict[int, tuple[int, bool, dict[str, Any]]] = {}
        self.home_rows: dict[Key, int] = {}
        self.exclusion_rows: set[tuple[int, int]] = set()
        self.facts: dict[int, Fact] = {}
        self.grouped: set[int] = set()
        self.missing: set[Key] = set()

    async def devices(self, ids: Iterable[int], since: int) -> None:
        """Devices with their visitors that ended after `since`, and what these point at."""
        wanted = {i for i in ids if i and i not in self.world.devices}
        if not wanted:
            return
        await self.tx.lock(self.site_id, wanted)
        for device in await self.tx.devices(self.site_id, wanted):
            self.world.add_device(device)
        await self._visitors(await self.tx.visitors_on(self.site_id, wanted, since))
        homes = {v.home for i in wanted & self.world.devices.keys() for v in self.world.devices[i].turns}
        await self._profiles(homes)

    async def identities(self, keys: Iterable[Key]) -> None:
        """Identities by name, and the profiles they belong to."""
        wanted = {k for k in keys if k not in self.world.identities and k not in self.missing}
        if not wanted:
            return
        found = await self.tx.identities_named(self.site_id, wanted)
        missing = wanted - {i.key for i in found}
        self.missing |= missing
        self._identities(found)
        if missing:
            self.home_rows |= await self.tx.homes(self.site_id, missing)
            self.world.homes |= {k: h for k, h in self.home_rows.items() if k in missing}
        homes = {self.world.homes[k] for k in missing if k in self.world.homes}
        await self.tx.lock(self.site_id, homes)  # whoever names the value again writes that profile's row
        await self._profiles({i.home for i in found} | homes)
        gone = {i.home for i in found} - self.profile_rows.keys()
        await self.tx.lock(self.site_id, gone)  # deleted a moment ago: to be looked at again
        if homes:
            await self.graph(homes)

    async def components(self, nodes: Iterable[int]) -> None:
        """Everything that decides about the profiles of the given ids: members, visitors, identities, merges."""
        nodes = [n for n in nodes if n]
        await self._profiles({n for n in nodes if n not in self.profile_rows})
        known = {n for n in nodes if n in self.profile_rows}
        roots = {self.profile_rows[n].root for n in known} - self.grouped
        if not roots:
            return
        self.grouped |= roots
        world = self.world
        members = await self.tx.members(self.site_id, roots)
        for profile in members:
            self._profile(profile)
        ids = {p.profile_id for p in members}
        await self.tx.lock(self.site_id, ids | roots | known)  # what was asked for may just have become another's
        self._identities(await self.tx.identities_at(self.site_id, ids))
        visitors = await self.tx.visitors_at(self.site_id, ids)
        new = {v.device_id for v in visitors if v.device_id not in world.devices}
        for device in await self.tx.devices(self.site_id, new) if new else ():
            world.add_device(device)
        await self._visitors(visitors)
        await self.graph(ids)

    async def graph(self, nodes: set[int]) -> None:
        """The facts that join and part the profile ids, folded into edges with those that were known before."""
        world = self.world
        facts = await self.tx.graph_facts(self.site_id, nodes)
        self.exclusion_rows |= set(await self.tx.exclusions(self.site_id, nodes))
        for fact in facts:
            world.graph_facts.setdefault(fact.seq, self.facts.setdefault(fact.seq, fact))
        world.edges.clear()
        world.calls.clear()
        for seq in sorted(world.graph_facts):
            world.fold_edges(world.graph_facts[seq])
        world.exclusions.clear()
        for a, b in self.exclusion_rows:
            if not {a, b} & world.dead:
                world.exclusions[a].add(b)

    async def complete(self, ids: Iterable[int]) -> None:
        """Devices with all their visitors and facts, so that their time line can be cut again."""
        wanted = {i for i in ids if i in self.world.devices and not self.world.devices[i].complete}
        if not wanted:
            return
        world = self.world
        await self.tx.lock(self.site_id, wanted)
        await self._visitors(await self.tx.visitors_on(self.site_id, wanted, -1))
        facts = await self.tx.device_facts(self.site_id, wanted)
        await self.identities({k for f in facts for k in f.identities[:1] if k})
        for fact in facts:
            fact = self.facts.setdefault(fact.seq, fact)
            self.folded[fact.seq] = (fact.flags, fact.idle, dict(fact.detail))
            device = world.devices[fact.device_id]
            if not erased(device, fact):
                device.facts.append(fact)
        tokens = {f.detail["token"] for f in facts if f.detail.get("token")}
        await self.tokens(tokens)
        for i in wanted:
            world.devices[i].complete = True
            world.devices[i].facts.sort(key=lambda f: (f.at, f.seq))
        own = {v.visitor_id for i in wanted for v in world.devices[i].turns[-MANY_TURNS:]}
        await self.graph(wanted | own | {f.homes[0] for f in facts if f.homes})
        left = (f.detail.get("released", {}) for f in world.graph_facts.values())
        anchors = {anchor for released in left for d, (anchor, _) in released.items() if int(d) in wanted}
        if anchors:
            await self.graph(anchors)  # whether whom they were given to has been deleted since
        await self.components(anchors | self._possible(wanted))

    def _possible(self, ids: set[int]) -> set[int]:
        """The profile ids that the devices' visitors have or may come to have; of very many, the recent ones."""
        nodes: set[int] = set()
        for device in (self.world.devices[i] for i in ids):
            for turn in device.turns[-MANY_TURNS:]:
                nodes |= {turn.home, turn.visitor_id}
            for fact in device.facts[-MANY_TURNS:]:
                nodes |= {fact.visitor_id, *fact.homes[:1]}
        return nodes

    async def tokens(self, tokens: Iterable[str]) -> None:
        """Where link tokens were seen; what is past the cap is void."""
        wanted = {t for t in tokens if t not in self.world.tokens}
        if not wanted:
            return
        for token, device_id in await self.tx.tokens(self.site_id, wanted):
            self.world.tokens[token].add(device_id)
        cap = self.world.site.token_cap
        self.world.void |= {t for t in wanted if len(self.world.tokens[t]) > cap}

    async def _profiles(self, ids: Iterable[int]) -> None:
        wanted = {i for i in ids if i not in self.profile_rows}
        for profile in await self.tx.profiles(self.site_id, wanted) if wanted else ():
            self._profile(profile)

    def _profile(self, profile: Profile) -> None:
        self.profile_rows.setdefault(profile.profile_id, profile)
        self.world.add_node(profile.profile_id, profile.root)

    def _identities(self, identities: Iterable[Identity]) -> None:
        for identity in identities:
            if identity.key not in self.identity_rows:  # what was forgotten since it was loaded stays so
                i = identity
                self.identity_rows[i.key] = Identity(i.key, i.home, i.proof, i.since, i.server_device)
                self.world.identities[i.key] = i
                self.world.named[i.home].add(i.key)

    async def _visitors(self, visitors: Iterable[Visitor]) -> None:
        for v in visitors:
            if v.visitor_id in self.visitor_rows:
                continue
            self.visitor_rows[v.visitor_id] = copy(v)
            self.world.add_visitor(v)
        for device in self.world.devices.values():
            device.turns.sort(key=lambda t: (t.started_at, t.ended_at))
