"""What people look at: a profile, its events and ledger, what waits for an operator; in the native API's shapes."""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from gateway.errors import BadRequest
from gateway.identity import rules
from gateway.model import FOREVER, GONE, Fact, Key, Proof, Site, Visitor, iso
from gateway.store.base import Record, View
from gateway.store.sql import COLUMNS, FACT_COLUMNS, fact_from, identity_from, visitor_from

Json = dict[str, Any]

PAGE = 50
LAST_ID = 2**63 - 1
MAX_PAGE = 500
VISITORS_AT_ONCE = 50


def page_size(limit: int | None) -> int:
    """How many rows a list answers: 50 unless asked, at most 500."""
    return PAGE if limit is None else max(1, min(limit, MAX_PAGE))


P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound="Reader")


def from_one_commit(
    question: Callable[Concatenate[R, P], Awaitable[T]],
) -> Callable[Concatenate[R, P], Coroutine[Any, Any, T]]:
    """A question that takes several reads: nobody is shown half of a merge, or half of a person who was deleted."""

    @functools.wraps(question)
    async def asked(reader: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        async with reader.store.snapshot() as view:
            still = copy.copy(reader)
            still.store = view
            return await question(still, *args, **kwargs)

    return asked


class Reader:
    """Answers questions about one site."""

    def __init__(self, store: View, site: Site) -> None:
        self.store = store
        self.site = site
        self.site_id = site.site_id

    # --- finding a profile --------------------------------------------------------------------------------------

    async def root(self, node: int) -> int | None:
        """The live profile that a profile id resolves to, in one hop."""
        sql = (
            "/* profiles.root */ select r.profile_id from profiles n join profiles r"
            " on r.site_id = n.site_id and r.profile_id = n.root"
            " where n.site_id = $1 and n.profile_id = $2 and r.live = 1"
        )
        rows = await self.store.read(sql, self.site_id, node)
        return int(rows[0]["profile_id"]) if rows else None

    @from_one_commit
    async def by_identity(self, key: Key) -> Json | None:
        """The profile an identity names."""
        sql = "/* identities.home */ select home from identities where site_id = $1 and value = $2 and kind = $3"
        rows = await self.store.read(sql, self.site_id, key[1], key[0])
        return await self.profile(rows[0]["home"]) if rows else None

    @from_one_commit
    async def by_device(self, device_id: int) -> Json | None:
        """The profile of the person who is on a device now."""
        sql = "/* visitors.current */ select home from visitors where site_id = $1 and device_id = $2 and ended_at = $3"
        rows = await self.store.read(sql, self.site_id, device_id, FOREVER)
        return await self.profile(rows[0]["home"]) if rows else None

    async def nodes(self, root: int) -> list[int]:
        """All profile ids that resolve to a profile."""
        sql = "/* profiles.members */ select profile_id from profiles where site_id = $1 and root = $2"
        rows = await self.store.read(f"{sql} order by profile_id", self.site_id, root)
        return [r["profile_id"] for r in rows]

    # --- one profile --------------------------------------------------------------------------------------------

    @from_one_commit
    async def profile(self, profile_id: int) -> Json | None:
        """A profile as JSON; a merged-away id answers the survivor."""
        root = await self.root(profile_id)
        if root is None:
            return None
        nodes = await self.nodes(root)
        visitors, servers = await self.visitors(nodes)
        sql = f"/* identities.shown */ select {COLUMNS['identities']} from identities"
        sql += " where site_id = $1 and home = any($2)"
        identities = [identity_from(list(r.values())) for r in await self.store.read(sql, self.site_id, nodes)]
        properties, tags, subscribed = rules.fold_properties(await self.property_rows(visitors))
        sql = "/* profiles.primary */ select primary_value from profiles where site_id = $1 and profile_id = $2"
        primary = (await self.store.read(sql, self.site_id, root))[0]["primary_value"]
        shown = [v for v in visitors if v.first_seen is not None or v.claim is not None]
        first = [v.first_seen for v in shown if v.first_seen] + [i.since for i in identities]
        last = [v.last_seen for v in shown if v.last_seen] + [i.since for i in identities]
        return {
            "profile_id": str(root),
            "primary": primary,
            "identities": [
                {"kind": i.key[0], "value": i.key[1], "proof": i.proof.label, "since": iso(i.since)}
                for i in sorted(identities, key=lambda i: (i.since, i.key))
            ],
            "properties": properties,
            "tags": tags,
            "subscribed": subscribed,
            "tentative": any(v.tentative for v in shown),
            "visitors": [self._visitor(v, v.device_id in servers) for v in shown],
            "events": sum(v.events for v in visitors),
            "created_at": iso(min(first, default=0)),
            "updated_at": iso(max(last, default=0)),
        }

    async def visitors(self, nodes: Sequence[int]) -> tuple[list[Visitor], set[int]]:
        """The visitors that point at any of the profile ids, in order of time, and which devices are servers."""
        columns = ", ".join(f"v.{c.strip()}" for c in COLUMNS["visitors"].split(","))
        sql = (
            f"/* visitors.shown */ select {columns}, d.server from visitors v join devices d"
            " on d.site_id = v.site_id and d.device_id = v.device_id"
            " where v.site_id = $1 and v.home = any($2) order by coalesce(v.first_seen, v.started_at), v.visitor_id"
        )
        rows = [list(r.values()) for r in await self.store.read(sql, self.site_id, list(nodes))]
        return [visitor_from(r) for r in rows], {r[1] for r in rows if r[14]}

    @staticmethod
    def _visitor(v: Visitor, server: bool) -> Json:
        return {
            "visitor_id": str(v.visitor_id),
            "device_id": None if server else str(v.device_id),
            "proof": v.proof.label if v.proof else None,
            "tentative": v.tentative,
            "first_seen": iso(v.first_seen),
            "last_seen": iso(v.last_seen),
            "events": v.events,
        }

    async def property_rows(self, visitors: Sequence[Visitor]) -> list[rules.Row]:
        """The property, tag and subscription facts of visitors."""
        sql = (
            f"/* properties.shown */ select {COLUMNS['properties']} from properties"
            " where site_id = $1 and device_id = any($2) order by at, op_id"
        )
        stored = await self.store.read(sql, self.site_id, list({v.device_id for v in visitors}))
        stretches: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for v in visitors:
            stretches[v.device_id].append((v.started_at, v.ended_at))
        return [
            rules.Row(r["device_id"], r["kind"], r["key"], r["at"], r["op_id"], msgspec.json.decode(r["value"]))
            for r in stored
            if any(a <= r["at"] < b for a, b in stretches[r["device_id"]])
        ]

    async def together(self, profile_ids: Sequence[int]) -> Json:
        """The properties that profiles would show if they were one."""
        nodes = [n for p in profile_ids for n in await self.nodes(p)]
        visitors, _ = await self.visitors(nodes)
        return rules.fold_properties(await self.property_rows(visitors))[0]

    @from_one_commit
    async def conflicts(self, target: Json, source: Json) -> list[Json]:
        """Properties that two profiles have with different values, and the one that would show after a merge."""
        wins = await self.together([int(target["profile_id"]), int(source["profile_id"])])
        both = target["properties"].keys() & source["properties"].keys()
        return [
            {"key": k, "target": target["properties"][k], "source": source["properties"][k], "wins": wins.get(k)}
            for k in sorted(both)
            if target["properties"][k] != source["properties"][k]
        ]

    @from_one_commit
    async def events(self, profile_id: int, *, limit: int | None = None, before: str | None = None) -> Json | None:
        """A page of a profile's events, newest first."""
        root = await self.root(profile_id)
        if root is None:
            return None
        visitors, servers = await self.visitors(await self.nodes(root))
        size = page_size(limit)
        start = _cursor(before) if before else (FOREVER, LAST_ID)
        rows: list[tuple[Visitor, Record]] = []
        busy = sorted((v for v in visitors if v.events), key=lambda v: -(v.last_seen or 0))
        for n in range(0, len(busy), VISITORS_AT_ONCE):
            some = busy[n : n + VISITORS_AT_ONCE]
            if len(rows) > size and (some[0].last_seen or 0) < rows[size][1]["occurred_at"]:
                break
            rows += await self._latest(some, start, size + 1)
            rows.sort(key=lambda r: (-r[1]["occurred_at"], -r[1]["event_id"]))
        more = len(rows) > size
        shown = rows[:size]
        cursor = f"{shown[-1][1]['occurred_at']}-{shown[-1][1]['event_id']}" if more else None
        return {"events": [self.event_json(v, r, v.device_id in servers) for v, r in shown], "next": cursor}

    async def _latest(
        self, visitors: Sequence[Visitor], start: tuple[int, int], limit: int
    ) -> list[tuple[Visitor, Record]]:
        """The newest events of each visitor: one short index scan a visitor, never all of a profile's events."""
        scan = (
            f"select * from (select {COLUMNS['events']} from events where device_id = {{0}} and occurred_at >= {{1}}"
            f" and occurred_at < {{2}} and (occurred_at, event_id) < ($1, $2) and site_id = {self.site_id}"
            " order by occurred_at desc, event_id desc limit $3) as newest"
        )
        parts = [scan.format(v.device_id, v.started_at, v.ended_at) for v in visitors]
        sql = "/* events.latest */ " + " union all ".join(parts)
        found = await self.store.read(sql, *start, limit)
        by_device: dict[int, list[Visitor]] = defaultdict(list)
        for v in visitors:
            by_device[v.device_id].append(v)
        return [(rules.turn_at(by_device[r["device_id"]], r["occurred_at"]) or visitors[0], r) for r in found]

    @staticmethod
    def event_json(visitor: Visitor, row: Record, server: bool) -> Json:
        """An event as the APIs show it; `server`: it came without a browser, and its device is not shown."""
        event: Json = {
            "event_id": str(row["event_id"]),
            "message_id": row["message_id"],
            "name": row["name"],
            "data": msgspec.json.decode(row["data"]),
            "extras": msgspec.json.decode(row["extras"]) if row["extras"] else {},
            "occurred_at": iso(row["occurred_at"]),
            "received_at": iso(row["received_at"]),
            "device_id": None if server else str(row["device_id"]),
            "visitor_id": str(visitor.visitor_id),
            "tentative": visitor.tentative,
            "page": msgspec.json.decode(row["page"]) if row["page"] else None,
        }
        return event | ({"clamped": True} if row["clamped"] else {})

    # --- the ledger ---------------------------------------------------------------------------------------------

    @from_one_commit
    async def profile_ledger(self, profile_id: int) -> Json | None:
        """The facts and identity errors that made a profile: why these are one person."""
        root = await self.root(profile_id)
        if root is None:
            return None
        nodes = await self.nodes(root)
        visitors, _ = await self.visitors(nodes)
        facts = await self._facts_of(nodes, visitors)
        errors = await self._errors("and coalesce(h.root, e.home) = $2 order by e.at, e.op_id", root)
        return {"facts": await self.shown(facts), "identity_errors": errors, "next": None}

    async def _facts_of(self, nodes: Sequence[int], visitors: Sequence[Visitor]) -> list[Fact]:
        sql = (
            f"/* ledger.of_profile */ select {FACT_COLUMNS} from ledger where site_id = $1 and inert = 0 and erased = 0"
            " and (device_id = any($2) or seq in"
            " (select seq from ledger_refs where site_id = $1 and profile_id = any($3))) order by seq"
        )
        devices = list({v.device_id for v in visitors})
        rows = await self.store.read(sql, self.site_id, devices, list(nodes))
        mine = set(nodes)
        facts = (fact_from(list(r.values())) for r in rows)
        return [f for f in facts if self._concerns(f, mine, visitors)]

    @staticmethod
    def _concerns(fact: Fact, nodes: set[int], visitors: Sequence[Visitor]) -> bool:
        detail, parted = fact.detail, []
        if fact.kind in ("unlink", "demerge"):
            parted = [*detail.get("nodes", ()), *(anchor for anchor, _ in detail.get("released", {}).values())]
        if nodes & {*fact.homes, *detail.get("turns", ()), *detail.get("severed", ()), *parted}:
            return True
        return any(v.device_id == fact.device_id and v.started_at <= fact.at <= v.ended_at for v in visitors)

    async def ledger(
        self, *, kind: str | None = None, outcome: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Json:
        """A page of the site's ledger, oldest first; what changed nothing only if its outcome is asked for."""
        sql = f"/* ledger.list */ select {FACT_COLUMNS} from ledger where site_id = $1 and seq > $2"
        arguments: list[object] = [self.site_id, number_of(after or "0")]
        for column, value in (("kind", kind), ("outcome", outcome)):
            if value is not None:
                arguments.append(value)
                sql += f" and {column} = ${len(arguments)}"
        if outcome is None:
            sql += " and inert = 0"
        size = page_size(limit)
        rows = await self.store.read(f"{sql} order by seq limit {size + 1}", *arguments)
        facts = [fact_from(list(r.values())) for r in rows]
        cursor = str(facts[size - 1].seq) if len(facts) > size else None
        return {"facts": await self.shown(facts[:size]), "next": cursor}

    async def fact(self, op_id: str) -> Json | None:
        """One fact by its op id; a server's before a browser's of the same id."""
        sql = f"/* ledger.one */ select {FACT_COLUMNS} from ledger where site_id = $1 and op_id = $2 order by device_id"
        rows = await self.store.read(sql, self.site_id, op_id)
        return (await self.shown([fact_from(list(rows[0].values()))]))[0] if rows else None

    async def shown(self, facts: Iterable[Fact]) -> list[Json]:
        """Facts as JSON."""
        facts = list(facts)
        sql = "/* devices.servers */ select device_id from devices"
        sql += " where site_id = $1 and device_id = any($2) and server = 1"
        devices = list({f.device_id for f in facts if f.device_id})
        servers = {r["device_id"] for r in await self.store.read(sql, self.site_id, devices)} if devices else set()
        return [self._fact(f, server=f.device_id in servers) for f in facts]

    @staticmethod
    def _fact(fact: Fact, *, server: bool) -> Json:
        return {
            "op_id": fact.op_id,
            "kind": fact.kind,
            "outcome": fact.outcome,
            "actor": fact.actor,
            "proof": Proof(fact.proof).label if fact.proof else None,
            "at": iso(fact.at),
            "device_id": str(fact.device_id) if fact.device_id and not server else None,
            "identities": [{"kind": k[0], "value": k[1]} for k in fact.identities if k and k[0] != GONE],
            "moved": {"visitors": fact.moved_visitors, "identities": fact.moved_identities},
            "undone_by": fact.undone_by,
            "resolved_by": fact.resolved_by or None,
            "reason": fact.reason,
        }

    @from_one_commit
    async def held(self) -> Json:
        """The merges that browsers asked for and could not prove, oldest first, each pair once."""
        sql = (
            f"/* ledger.held */ select {FACT_COLUMNS} from ledger where site_id = $1 and outcome = 'held' and inert = 0"
            " and erased = 0 and undone_by is null and resolved_by is null order by seq limit 1000"
        )
        facts = [fact_from(list(r.values())) for r in await self.store.read(sql, self.site_id)]
        roots = await self.roots({h for f in facts for h in f.homes})
        waiting: dict[tuple[int, int], Fact] = {}
        for fact in facts:
            pair = (roots.get(fact.homes[0], 0), roots.get(fact.homes[1], 0))
            if 0 not in pair and pair[0] != pair[1]:
                waiting.setdefault(pair, fact)
        shown = await self.shown(waiting.values())
        for fact_json, (target, source) in zip(shown, waiting, strict=True):
            fact_json |= {"target": str(target), "source": str(source)}
        return {"held": shown, "next": None}

    async def roots(self, nodes: Iterable[int]) -> dict[int, int]:
        """Which profile each id resolves to."""
        sql = "/* profiles.roots */ select profile_id, root from profiles where site_id = $1 and profile_id = any($2)"
        return {r["profile_id"]: r["root"] for r in await self.store.read(sql, self.site_id, list(set(nodes)))}

    async def identity_errors(
        self, *, code: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Json:
        """A page of identity errors, oldest first."""
        start = _cursor(after) if after else (-1, 0)
        size = page_size(limit)
        more = "and (e.at, e.device_id) > ($2, $3)" + (" and e.code = $4" if code else "")
        arguments = [*start, code] if code else [*start]
        rows = await self._errors(f"{more} order by e.at, e.device_id limit {size + 1}", *arguments, cursor=True)
        cursor = rows[size - 1]["cursor"] if len(rows) > size else None
        for row in rows:
            row.pop("cursor")
        return {"identity_errors": rows[:size], "next": cursor}

    async def _errors(self, condition: str, *arguments: object, cursor: bool = False) -> list[Json]:
        """Identity errors; one that is about two profiles is shown while they are two."""
        sql = (
            "/* identity_errors.list */ select e.*, coalesce(h.root, e.home) as root, coalesce(d.server, 0) as server"
            " from identity_errors e"
            " left join profiles h on h.site_id = e.site_id and h.profile_id = e.home"
            " left join profiles o on o.site_id = e.site_id and o.profile_id = e.other"
            " left join devices d on d.site_id = e.site_id and d.device_id = e.device_id"
            " where e.site_id = $1 and (e.other = 0 or coalesce(h.root, e.home) <> coalesce(o.root, e.other)) "
        )
        rows = await self.store.read(sql + condition, self.site_id, *arguments)
        return [
            {
                "code": r["code"],
                "op_id": r["op_id"],
                "at": iso(r["at"]),
                "profile_id": str(r["root"]) if r["home"] else None,
                "device_id": str(r["device_id"]) if r["device_id"] and not r["server"] else None,
                "message": r["message"],
                "count": r["seen"],
            }
            | ({"cursor": f"{r['at']}-{r['device_id']}"} if cursor else {})
            for r in rows
        ]

    async def server_messages(self, key: Key, message_ids: Sequence[str]) -> dict[str, int]:
        """Which of a server's messages about an identity are kept, and when they came."""
        sql = "/* identities.server */ select server_device from identities"
        rows = await self.store.read(f"{sql} where site_id = $1 and value = $2 and kind = $3", self.site_id, *key[::-1])
        if not rows:
            return {}
        sql = (
            "/* events.kept */ select message_id, received_at from events"
            " where device_id = $1 and message_id = any($2) and site_id = $3"
        )
        found = await self.store.read(sql, rows[0]["server_device"], list(message_ids), self.site_id)
        return {r["message_id"]: r["received_at"] for r in found}

    @from_one_commit
    async def export(self, profile_id: int) -> Json | None:
        """Everything held about a person that is in force: profile, events, property facts, ledger."""
        profile = await self.profile(profile_id)
        if profile is None:
            return None
        root = int(profile["profile_id"])
        nodes = await self.nodes(root)
        visitors, _ = await self.visitors(nodes)
        events: list[Json] = []
        cursor: str | None = None
        while page := await self.events(root, limit=MAX_PAGE, before=cursor):
            events += page["events"]
            cursor = page["next"]
            if cursor is None:
                break
        facts = [f for f in await self._facts_of(nodes, visitors) if f.undone_by is None and f.kind != "undo"]
        rows = await self.property_rows(visitors)
        return {
            "profile": profile,
            "profile_ids": [str(n) for n in nodes],
            "events": events,
            "facts": await self.shown(facts),
            "properties": [
                {"kind": r.kind, "key": r.key, "value": r.value, "at": iso(r.at), "op_id": r.op_id} for r in rows
            ],
        }


def number_of(cursor: str) -> int:
    """The id that a cursor is. Raises BadRequest."""
    if not (cursor.isascii() and cursor.isdigit()) or len(cursor) > 19 or int(cursor) > LAST_ID:
        raise BadRequest(
            "this cursor is not one of ours", "send `next` of the page before as it was", code="bad_cursor"
        )
    return int(cursor)


def _cursor(cursor: str) -> tuple[int, int]:
    first, _, second = cursor.partition("-")
    return number_of(first), number_of(second)
