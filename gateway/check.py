"""`gateway check`: folds a site's whole ledger again and compares the result with the tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import Progress

from gateway.identity.ledger import World, refold
from gateway.model import Device, Fact, Site, Visitor
from gateway.store.base import Store
from gateway.store.sql import COLUMNS, FACT_COLUMNS, device_from, fact_from, identity_from, profile_from, visitor_from

SHOWN = 20


async def check_site(store: Store, site: Site, console: Console | None = None) -> list[str]:
    """What differs between the ledger folded again and the tables of a site, in words; empty if nothing does."""
    with Progress(console=console, transient=True, disable=not (console and console.is_terminal)) as progress:
        task = progress.add_task(f"folding {site.name}", total=None)
        world = await fold_again(store, site, lambda done, total: progress.update(task, completed=done, total=total))
        return await compare(store, site, world)


async def fold_again(store: Store, site: Site, report: Callable[[int, int], object] | None = None) -> World:
    """A world made from nothing but the ledger, the list of devices, and the devices each link token was seen on."""
    sql = f"/* check.devices */ select {COLUMNS['devices']} from devices where site_id = $1"
    devices = [device_from(list(r.values())) async for r in store.stream(sql, site.site_id)]
    fresh = [Device(d.device_id, d.server, d.created_at) for d in devices]
    sql = "/* check.size */ select count(*) as n from ledger where site_id = $1"
    total = (await store.read(sql, site.site_id))[0]["n"]
    sql = f"/* check.ledger */ select {FACT_COLUMNS} from ledger where site_id = $1 order by seq"
    facts: list[Fact] = []
    async for row in store.stream(sql, site.site_id):
        facts.append(fact_from(list(row.values())))
        if report and len(facts) % 500 == 0:
            report(len(facts), total)
    sql = "/* check.tokens */ select token from link_tokens where site_id = $1 group by token having count(*) > $2"
    void = [r["token"] async for r in store.stream(sql, site.site_id, site.token_cap)]
    return refold(site, fresh, facts, void)


async def compare(store: Store, site: Site, world: World) -> list[str]:
    """Every row of the identity tables against the folded world, and the counters against the events."""
    found: list[str] = []
    sql = f"/* check.visitors */ select {COLUMNS['visitors']} from visitors where site_id = $1"
    stored = {v.visitor_id: v async for v in _visitors(store, sql, site)}
    folded = {v.visitor_id: v for d in world.devices.values() for v in d.turns}
    found += _differ("visitor", {i: _claim(v) for i, v in stored.items()}, {i: _claim(v) for i, v in folded.items()})
    sql = f"/* check.identities */ select {COLUMNS['identities']} from identities where site_id = $1"
    named = [identity_from(list(r.values())) async for r in store.stream(sql, site.site_id)]
    found += _differ(
        "identity",
        {i.key: (i.home, i.proof, i.since, i.server_device) for i in named},
        {k: (i.home, i.proof, i.since, i.server_device) for k, i in world.identities.items()},
    )
    for visitor in folded.values():
        if visitor.visitor_id in stored:
            visitor.first_seen = stored[visitor.visitor_id].first_seen
    sql = f"/* check.profiles */ select {COLUMNS['profiles']} from profiles where site_id = $1"
    profiles = [profile_from(list(r.values())) async for r in store.stream(sql, site.site_id)]
    found += _differ(
        "profile",
        {p.profile_id: (p.root, p.live, p.primary) for p in profiles if p.live or p.root != p.profile_id},
        {n: _profile(world, n) for n in world.roots if world.root(n) != n or world.live(n)},
    )
    sql = "/* check.exclusions */ select profile_a, profile_b from exclusions where site_id = $1"
    pairs = {(r["profile_a"], r["profile_b"]): "kept apart" async for r in store.stream(sql, site.site_id)}
    apart = {(a, b): "kept apart" for a, others in world.exclusions.items() for b in others}
    found += _differ("pair", pairs, apart)
    return found + await _count(store, site)


async def _visitors(store: Store, sql: str, site: Site) -> AsyncIterator[Visitor]:
    async for row in store.stream(sql, site.site_id):
        yield visitor_from(list(row.values()))


def _claim(v: Visitor) -> tuple[object, ...]:
    return (v.device_id, v.started_at, v.ended_at, v.claim, v.home, v.proof, v.tentative)


def _profile(world: World, node: int) -> tuple[object, ...]:
    root = world.root(node)
    is_root = root == node
    live = is_root and world.live(node)
    return (root, live, world.primary(node) if is_root else None)


def _differ(what: str, stored: Mapping[Any, object], folded: Mapping[Any, object]) -> list[str]:
    """The rows that are not the same on both sides."""
    found: list[str] = []
    for key in sorted(stored.keys() | folded.keys(), key=str):
        if stored.get(key) != folded.get(key):
            found.append(f"{what} {key}: the table says {stored.get(key)}, the ledger says {folded.get(key)}")
    return found[:SHOWN] + ([f"… and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])


async def _count(store: Store, site: Site) -> list[str]:
    """Visitors whose number of events is not what the events say."""
    sql = (
        "/* check.counts */ select v.visitor_id, v.events,"
        " (select count(*) from events e where e.device_id = v.device_id and e.site_id = v.site_id"
        " and e.occurred_at >= v.started_at and e.occurred_at < v.ended_at) as counted"
        " from visitors v where v.site_id = $1"
    )
    wrong = [r async for r in store.stream(sql, site.site_id) if r["events"] != r["counted"]]
    return [f"visitor {r['visitor_id']}: counts {r['events']} events, there are {r['counted']}" for r in wrong[:SHOWN]]
