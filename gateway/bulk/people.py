"""`gateway import`: a CSV file of people, row by row into the writer, with many rows under way at once.

A row's id is made from the file's content and the line, its time from when the import was begun: a row that is sent
again says the same again and changes nothing. How far an import has come is kept with the database.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.bulk.table import Row, Table
from gateway.commands import identity, rows_of, storable
from gateway.context import Gateway
from gateway.errors import BadRequest, GatewayError, Unavailable
from gateway.exports import Exports
from gateway.identity.decide import value_hash
from gateway.identity.requests import ServerBatch, Writes
from gateway.model import Key, Site, now

CHUNK = 500
"""Rows that are under way at once, and so share a commit."""
PAUSE = 0.03
"""Seconds between commits: a gateway that serves pages from the same file gets its turn, and no page waits for long."""
SAVED_EVERY = 20
"""Chunks after which it is noted how far the import has come."""
MAX_ERRORS = 100


@dataclass(slots=True)
class Columns:
    """What the columns of a file mean: where the person's id and email are, and which properties the others are."""

    id: int | None
    email: int | None
    properties: list[tuple[int, str]]

    def shown(self, header: Sequence[str]) -> dict[str, str]:
        """Column name to what it is."""
        names = {header[i]: f"property {name}" for i, name in self.properties}
        for index, name in ((self.email, "email"), (self.id, "id")):
            if index is not None:
                names[header[index]] = name
        return names


@dataclass(slots=True)
class Imported:
    """How an import went. `imported` and `failed` include what earlier runs of the same import did."""

    file: str
    encoding: str
    encoding_guessed: bool
    delimiter: str
    columns: dict[str, str]
    dry_run: bool = False
    rows: int = 0
    imported: int = 0
    erased: int = 0
    failed: int = 0
    known: int = 0
    resumed_after_line: int = 0
    finished_before: bool = False
    seconds: float = 0.0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def error(self, line: int, message: str) -> None:
        """Counts a row that was not imported; the first hundred are kept."""
        self.failed += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"line": line, "message": message})


class State(msgspec.Struct):
    """How far an import has come: everything up to `line` is durable."""

    started_at: int
    line: int = 0
    rows: int = 0
    imported: int = 0
    erased: int = 0
    failed: int = 0
    done: bool = False


@dataclass(slots=True)
class Entry:
    """A row that can be imported."""

    line: int
    key: Key
    properties: list[tuple[str, str, str]]


@dataclass(slots=True)
class Ready:
    """A chunk that was looked at: its last line, how many rows it has, and what became of them."""

    line: int
    rows: int
    entries: list[Entry] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    erased: int = 0


def columns_of(header: Sequence[str], id_column: str = "", renamed: Mapping[str, str] | None = None) -> Columns:
    """The meaning of a header. Raises BadRequest if it names nobody, or a column that is not there."""
    renamed = dict(renamed or {})
    missing = sorted(({id_column} | renamed.keys()) - {"", *header})
    if missing:
        raise BadRequest(f"there is no column {missing[0]!r}", f"the file has {', '.join(filter(None, header))}")
    names = [renamed.get(c, c.lower() if c.lower() in ("id", "email") else c) for c in header]
    if id_column:
        names = ["id" if c == id_column else "" if n == "id" else n for c, n in zip(header, names, strict=True)]
    twice = sorted({n for n in names if n and names.count(n) > 1})
    if twice:
        raise BadRequest(f"two columns are {twice[0]!r}", "rename or leave out one: --map COLUMN=NAME, --map COLUMN=")
    found = {n: i for i, n in enumerate(names) if n}
    if "id" not in found and "email" not in found:
        raise BadRequest("no column says who the people are", "--id-column COLUMN, or name a column id or email")
    properties = [(i, n) for n, i in found.items() if n not in ("id", "email")]
    return Columns(found.get("id"), found.get("email"), properties)


def entry_of(row: Row, columns: Columns) -> Entry:
    """A row as a person with properties; empty cells say nothing. Raises BadRequest saying what is wrong with it."""
    if row.problem:
        raise BadRequest(row.problem)
    cells = [c.strip() for c in row.cells]
    email = cells[columns.email] if columns.email is not None else ""
    value = cells[columns.id] if columns.id is not None else ""
    if not value and not email:
        raise BadRequest("says neither id nor email")
    key, blocked = identity(value or email)
    if key is None:
        raise BadRequest(blocked or "not an id")
    properties = {"email": email} if email else {}
    properties |= {name: cells[i] for i, name in columns.properties if cells[i]}
    if not storable(properties):
        raise BadRequest("holds NUL or half a character")
    return Entry(row.line, key, rows_of(properties))


class Import:
    """One file on its way into one site."""

    def __init__(
        self, gateway: Gateway, site: Site, table: Table, columns: Columns, *, include_erased: bool = False
    ) -> None:
        self.gateway = gateway
        self.site = site
        self.table = table
        self.columns = columns
        self.include_erased = include_erased
        told = msgspec.json.encode([table.digest, table.encoding, table.delimiter, columns, include_erased])
        self.digest = hashlib.sha256(told).hexdigest()[:16]
        self.state = State(now())
        self.failed_before = 0
        meaning = columns.shown(table.header)
        self.report = Imported(str(table.path), table.encoding, table.guessed, table.delimiter, meaning)

    @property
    def record(self) -> str:
        """The name under which it is kept how far this import has come."""
        return f"import {self.site.site_id} {self.digest}"

    async def run(self, tell: Callable[[int, int], object] = lambda rows, position: None) -> Imported:
        """Imports what is not there yet. `tell` hears the rows done and the bytes read.

        Raises Unavailable if the database cannot be written; what was noted by then is not done again.
        """
        kept = await self.gateway.store.config(self.record)
        if kept:
            self.state = msgspec.json.decode(kept, type=State)
            self.failed_before = self.state.failed
        self.report.resumed_after_line = self.state.line
        self.report.finished_before = self.state.done
        started = time.monotonic()
        if not self.state.done:
            with rarely_collected():
                await self._all(tell)
            self.state.done = True
            await self._save()
        self.report.seconds = round(time.monotonic() - started, 3)
        for name in ("rows", "imported", "erased", "failed"):
            setattr(self.report, name, getattr(self.state, name))
        return self.report

    async def dry_run(self, tell: Callable[[int, int], object] = lambda rows, position: None) -> Imported:
        """What an import would do; changes nothing. `known`: rows about people who are there already."""
        started = time.monotonic()
        self.report.dry_run = True
        exports = Exports(self.gateway, self.site)
        for chunk in chunks(self.table.rows()):
            ready = await self._ready(chunk)
            self._count(ready)
            keys = [e.key for e in ready.entries]
            known = await exports.roots_of(set(keys))
            self.report.known += sum(k in known for k in keys)
            self.report.rows = self.state.rows
            tell(self.report.rows, self.table.position)
        self.report.erased = self.state.erased
        self.report.imported = self.report.rows - self.report.failed - self.report.erased
        self.report.seconds = round(time.monotonic() - started, 3)
        return self.report

    async def _all(self, tell: Callable[[int, int], object]) -> None:
        """Imports chunk by chunk; while one is committed, the next is read and checked."""
        await self._save()  # the time of the first run is the time of the rows
        under_way: asyncio.Task[None] | None = None
        for number, chunk in enumerate(chunks(self.table.rows(self.state.line))):
            ready = await self._ready(chunk)
            if under_way is not None:
                await under_way
                tell(self.state.rows, self.table.position)
                if number % SAVED_EVERY == 0:
                    await self._save()
                    gc.collect()
            under_way = asyncio.create_task(self._keep_all(ready))
        if under_way is not None:
            await under_way
            tell(self.state.rows, self.table.size)

    async def _save(self) -> None:
        """Notes how far it has come; nothing may be under way, for there is one writer."""
        self.state.failed = self.failed_before + self.report.failed
        await self.gateway.store.set_config(self.record, msgspec.json.encode(self.state).decode())

    async def _ready(self, chunk: Sequence[Row]) -> Ready:
        """Looks at a chunk: which rows can be imported. Counts nothing yet, for it is not done yet."""
        ready = Ready(chunk[-1].line, len(chunk))
        for row in chunk:
            try:
                ready.entries.append(entry_of(row, self.columns))
            except BadRequest as error:
                ready.problems.append((row.line, error.message))
        erased = await self._erased(ready.entries)
        ready.erased = sum(e.key in erased for e in ready.entries)
        ready.entries = [e for e in ready.entries if e.key not in erased]
        return ready

    def _count(self, ready: Ready) -> None:
        self.state.rows += ready.rows
        self.state.erased += ready.erased
        for line, message in ready.problems:
            self.report.error(line, message)

    async def _keep_all(self, ready: Ready) -> None:
        """Makes a chunk durable and counts it; then rests."""
        kept = await asyncio.gather(*(self._keep(e) for e in ready.entries))
        if kept and not any(kept):
            raise Unavailable("the import stopped: the database takes nothing", "the same command goes on from here")
        self._count(ready)
        self.state.imported += sum(kept)
        self.state.line = ready.line
        await asyncio.sleep(PAUSE)

    async def _erased(self, entries: Sequence[Entry]) -> set[Key]:
        """The people who were erased and have not come back by themselves."""
        if self.include_erased or not entries:
            return set()
        hashes = {value_hash(self.site.site_id, e.key): e.key for e in entries}
        sql = "/* tombstones.import */ select value_hash from tombstones where site_id = $1 and value_hash = any($2)"
        found = await self.gateway.store.read(sql, self.site.site_id, list(hashes))
        gone = {hashes[r["value_hash"]] for r in found}
        return gone - (await Exports(self.gateway, self.site).roots_of(gone)).keys()

    async def _keep(self, entry: Entry) -> bool:
        at = self.state.started_at + entry.line  # a later line about the same person is newer
        command = Writes(f"import-{self.digest}-{entry.line}", at, rows=entry.properties)
        try:
            done = await self.gateway.writer.commands(ServerBatch(self.site, entry.key, [command], now()))
        except GatewayError as error:
            self.report.error(entry.line, error.message)
            return False
        return bool(done.outcomes)


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Looking for cycles among the many objects of a row as often as usual costs a fifth of an import: it is done at
    each save instead, so that memory does not grow."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows, some at a time."""
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
