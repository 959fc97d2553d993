"""`gateway move`: everything from one database into another, SQLite or PostgreSQL, while the gateway goes on.

Both databases are read in the order of a key they share, and what differs is written: a pass that broke off is done
again, and a later pass brings what came meanwhile. Which tables there are is asked of the databases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Annotated, Any, cast

import typer
from rich.progress import Progress

from gateway.app import make_store
from gateway.backup import check_unused, sqlite_file
from gateway.check import check_site
from gateway.errors import BadRequest, Conflict, NotFound
from gateway.settings import Settings, load
from gateway.store.base import Store
from gateway.store.catalog import Key, Table, change, count_from, counted, number_of_rows, rows, tables
from gateway.store.database import MOVED, MOVING, SqlStore
from gateway.terminal import AsJson, err, out, print_json

AT_ONCE = 1000

MARKS = (MOVED, MOVING, "move_id", "node")
"""Values of a database's own: whether it is being moved, and the number of its last process."""

Report = Callable[[int], object]


@dataclass(slots=True)
class Moved:
    """What a pass did: rows looked at, written and deleted, by table; whether it was the last one."""

    rows: dict[str, int] = field(default_factory=dict)
    written: int = 0
    deleted: int = 0
    finished: bool = False


class Move:
    """A move from one open database into another."""

    def __init__(self, source: SqlStore, target: SqlStore) -> None:
        self.source = source
        self.target = target

    async def begin(self, *, resume: bool) -> None:
        """Marks the target, so that nobody serves it half full. Raises Conflict if it holds something else."""
        move_id = await self.source.set_config("move_id", token_hex(16), only_if_absent=True)
        under_way = await self.target.config(MOVING)
        if under_way == move_id:
            if not resume:
                raise Conflict("this move has begun already", "add --resume to go on with it")
            return
        if await self.source.config(MOVED) is not None:
            raise Conflict("SOURCE was moved already", "take the database it was moved into")
        if under_way is not None or await self._holds_something():
            raise Conflict("TARGET is not empty", "a move needs a new database")
        await self.target.set_config(MOVING, move_id)

    async def _holds_something(self) -> bool:
        found = [t for t in (await tables(self.target)).values() if t.name != "config"]
        return any([await rows(self.target, t, t.keys[0], after=None, limit=1) for t in found])

    async def copy(self, report: Report = lambda done: None) -> Moved:
        """One pass over all tables; `report` hears how many rows it has looked at."""
        moved = Moved()
        theirs = await tables(self.target)
        for table in (await tables(self.source)).values():
            there = theirs.get(table.name)
            if there is None or set(there.columns) != set(table.columns):
                raise Conflict(f"the table {table.name} is not the same in both", "use one version of the gateway")
            key = next((k for k in table.keys if k in there.keys), None)
            if key is None:
                raise Conflict(f"the table {table.name} has no key that both know")
            await self._table(table, key, moved, report)
            if table.counter:
                await count_from(self.target, there, await counted(self.source, table))
        return moved

    async def _table(self, table: Table, key: tuple[str, ...], moved: Moved, report: Report) -> None:
        after: Key | None = None
        moved.rows[table.name] = 0
        while True:
            mine = await rows(self.source, table, key, after=after, limit=AT_ONCE)
            last = next(reversed(mine)) if len(mine) == AT_ONCE else None  # of the last rows, all that is behind
            theirs = await rows(self.target, table, key, after=after, until=last)
            for mark in MARKS if table.name == "config" else ():
                mine.pop((mark,), None)
                theirs.pop((mark,), None)
            put = [row for k, row in mine.items() if theirs.get(k) != row]
            gone = [k for k in theirs if k not in mine]
            if put or gone:
                await change(self.target, table, key, put, gone)
            moved.rows[table.name] += len(mine)
            moved.written, moved.deleted = moved.written + len(put), moved.deleted + len(gone)
            report(len(mine))
            if last is None:
                return
            after = last

    async def total(self) -> int:
        """How many rows there are to look at."""
        return sum([await number_of_rows(self.source, t) for t in (await tables(self.source)).values()])

    async def verify(self) -> None:
        """Counts the rows of both, and folds every ledger of the target again. Raises Conflict if they differ."""
        for table in (await tables(self.source)).values():
            mine, theirs = [await self._count(store, table) for store in (self.source, self.target)]
            if mine != theirs:
                message = f"{table.name} has {mine} rows in SOURCE and {theirs} in TARGET: SOURCE is still written to"
                raise Conflict(message, "stop every gateway on SOURCE, and go on with --resume --finish")
        for site in await self.target.sites():
            if differences := await check_site(cast(Store, self.target), site, err):
                raise Conflict(f"the tables of {site.name} are not what the ledger says: {differences[0]}")

    async def _count(self, store: SqlStore, table: Table) -> int:
        number = await number_of_rows(store, table)
        return number - len(await self._marks(store)) if table.name == "config" else number

    @staticmethod
    async def _marks(store: SqlStore) -> Collection[Any]:
        sql = "/* config.marks */ select name from config where name = any($1)"
        return await store.read(sql, list(MARKS))

    async def finish(self) -> None:
        """From now on the target is the one to serve, and the source is not."""
        await self.source.set_config(MOVED, "1")
        await self.target.run(_unmark)


async def _unmark(tx: Any) -> None:
    await tx.execute("/* config.unmark */ delete from config where name = $1", MOVING)


async def run(source: Settings, target: Settings, *, resume: bool, finish: bool, progress: Progress) -> Moved:
    """Carries out one pass of a move, the last one if it is to `finish`."""
    if source.database == target.database:
        raise BadRequest("SOURCE and TARGET are the same database")
    if source.database.startswith("sqlite:"):
        if not sqlite_file(source).exists():
            raise NotFound(f"there is no database {sqlite_file(source)}", "SOURCE comes first")
        if finish:
            check_unused(sqlite_file(source))
    stores: list[Store] = [make_store(source), make_store(target)]
    try:
        for store in stores:
            await store.open()
        assert isinstance(stores[0], SqlStore)
        assert isinstance(stores[1], SqlStore)
        move = Move(stores[0], stores[1])
        await move.begin(resume=resume)
        end = await stores[0].settled()
        task = progress.add_task("moving", total=await move.total())
        moved = await move.copy(lambda done: progress.advance(task, done))
        if finish:
            await move.verify()
            if (await stores[0].settled())[1] != end[1]:
                raise Conflict("SOURCE is still written to", "stop its gateways, and go on with --resume --finish")
            await move.finish()
            moved.finished = True
        return moved
    finally:
        for store in stores:
            await store.close()


def move(
    source: Annotated[str, typer.Argument(help="sqlite:///path or postgresql://…")],
    target: Annotated[str, typer.Argument(help="a new database, of either kind")],
    resume: Annotated[bool, typer.Option("--resume", help="go on with a move that has begun")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="SOURCE is stopped: verify, and open TARGET")] = False,
    as_json: AsJson = False,
) -> None:
    """Move everything from SOURCE to TARGET. Run it while SOURCE is served, then stop that and --resume --finish."""
    settings = load(database=source), load(database=target)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        done = asyncio.run(run(*settings, resume=resume, finish=finish, progress=progress))
    if as_json:
        print_json(done)
        return
    out.print(f"{sum(done.rows.values())} rows, of which {done.written} were new or changed, and {done.deleted} gone")
    if done.finished:
        out.print("TARGET holds what SOURCE held, counted and folded again: serve it. SOURCE is closed.")
    else:
        out.print("TARGET stays closed. Stop the gateways on SOURCE, then the same with --resume --finish")
