"""`gateway check`: folds a site's whole ledger again and compares the result with the tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import Progress

from gateway.identity.ledger import World
from gateway.model import Device, Site, Visitor
from gateway.store.base import Store
from gateway.store.sql import COLUMNS, FACT_COLUMNS, device_from, fact_from, identity_from, profile_from, visitor_from

SHOWN = 20


async def check_site(store: Store, site: Site, console: Console | None = None) -> list[str]:
    """What differs between the ledger folded again and the tables of a site, in words; empty if nothing does."""
    with Progress(console=console, transient=True, disable=console is None) as progress:
        task = progress.add_task(f"folding {site.name}", total=None)
        world = await refold(store, site, lambda done, total: progress.update(task, completed=done, total=total))
        return await compare(store, site, world)


async def refold(store: Store, site: Site, report: Callable[[int, int], object] | None = None) -> World:
    """A world made from nothing but the ledger and the list of devices."""
    world = World(site)
    sql = f"/* check.devices */ select {COLUMNS['devices']} from devices where site_id = $1"
    async for row in store.stream(sql, site.site_id):
        device = device_from(list(row.values()))
        world.add_device(Device(device.device_id, device.server, device.created_at), new=True)
    total = (await store.read("/* check.size */ select count(*) as n from ledger where site_id = $1", site.site_id))[0][
        "n"
    ]
    sql = f"/* check.ledger */ select {FACT_COLUMNS} from ledger where site_id = $1 order by seq"
    done = 0
    async for row in store.stream(sql, site.site_id):
        fact = fact_from(list(row.values()))
        if fact.undone_by is None:
            world.apply(fact)
        done += 1
        if report and done % 500 == 0:
            report(done, total)
    return world


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
        " (select count(*) from events e where e.device_id = v.device_id"
        " and e.occurred_at >= v.started_at and e.occurred_at < v.ended_at) as counted"
        " from visitors v where v.site_id = $1"
    )
    wrong = [r async for r in store.stream(sql, site.site_id) if r["events"] != r["counted"]]
    return [f"visitor {r['visitor_id']}: counts {r['events']} events, there are {r['counted']}" for r in wrong[:SHOWN]]
