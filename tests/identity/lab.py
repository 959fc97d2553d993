"""A laboratory for the engine: real SQL on SQLite in memory, without threads, HTTP or a real clock.

Operations are decided and saved by the same code as in a running gateway; ids and times are counted, so that two runs
of one history are the same to the byte.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from gateway.check import check_site
from gateway.errors import Conflict, NotFound
from gateway.identity import events, save
from gateway.identity.decide import Answer
from gateway.identity.engine import Engine, Reply, Request
from gateway.identity.requests import (
    Batch,
    Command,
    Link,
    Login,
    Logout,
    Operation,
    Person,
    Reidentify,
    ServerBatch,
    Track,
    Writes,
)
from gateway.lists import Lists
from gateway.model import Key, Proof, Site
from gateway.store.base import Record, View
from gateway.store.database import migrations
from gateway.store.sqlite import SqliteStore, _bind, translate

T = TypeVar("T")
Json = dict[str, Any]

SECOND = 1_000_000
START = 1_700_000_000 * SECOND


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits for anything."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("the laboratory has no event loop")


class MemoryStore(SqliteStore):
    """SQLite in memory: one connection writes and reads."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=512)
        self._writer = self.db

    async def open(self) -> None:
        for _, sql in migrations("sqlite"):
            self.db.executescript(sql)

    async def close(self) -> None:
        self.db.close()

    async def threaded(self, work: Callable[[], T]) -> T:
        return work()

    async def read(self, statement: str, *arguments: object) -> list[Record]:
        cursor = self.db.execute(translate(statement), _bind(arguments))
        names = [d[0] for d in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[View]:
        yield self

    async def stream(self, statement: str, *arguments: object) -> AsyncIterator[Record]:
        for row in await self.read(statement, *arguments):
            yield row


class Clock:
    """The time of the laboratory: every operation is a second later than the one before."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> int:
        return self.at

    def tick(self) -> int:
        """The next second."""
        self.at += SECOND
        return self.at


def name(value: object) -> Key:
    """The identity of kind `id` with a value."""
    return ("id", str(value))


class Counted:
    """Ids that are counted."""

    def __init__(self, first: int) -> None:
        self.left = itertools.count(first)

    def __call__(self) -> int:
        return next(self.left)

    def many(self, number: int) -> list[int]:
        return list(itertools.islice(self.left, number))


class Lab:
    """Two sites in one database, and everything that pages and servers can ask of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None, **settings: Any) -> None:
        self.store = MemoryStore()
        run(self.store.open())
        self.clock = Clock()
        self.ids = Counted(10_000_001)
        self.engine = Engine(self.ids)
        self.sites = [Site(n, f"site{n}", f"key{n}", [f"secret{n}"], dict(settings)) for n in (1, 2)]
        for site in self.sites:
            run(self.store.save_site(site))
        self.site = self.sites[0]
        self.made = 0
        self.tables: list[str] = []
        self.patch = pytest.MonkeyPatch() if monkeypatch is None else monkeypatch
        for module in (save, events):
            self.patch.setattr(module, "now", self.clock)

    def close(self) -> None:
        """Gives the real clock back."""
        self.patch.undo()
        self.store.db.close()

    # --- asking ---

    def ask(self, *requests: Request) -> list[Reply]:
        """Decides requests in one transaction."""

        async def work() -> list[Reply]:
            async with self.store.transaction() as tx:
                return await self.engine.run(tx, requests)

        return run(work())

    def op(self) -> str:
        """A new operation id."""
        self.made += 1
        return f"op{self.made:05}"

    def send(self, device: int, command: Command, *, site: Site | None = None, actor: str = "page") -> str:
        """One command of a browser; its outcome."""
        batch = Batch(site or self.site, device, [command], self.clock(), actor=actor)
        (done,) = self.ask(batch)
        return done.outcomes[0]  # type: ignore[union-attr]

    def serve(self, key: Key, command: Command, *, site: Site | None = None) -> str:
        """One command of a server about an identity; its outcome."""
        (done,) = self.ask(ServerBatch(site or self.site, key, [command], self.clock()))
        return done.outcomes[0]  # type: ignore[union-attr]

    def operate(self, kind: str, *people: Person, site: Site | None = None, **more: Any) -> str:
        """An operation of a server; its outcome, or the code of its refusal."""
        try:
            return self.answer(kind, *people, site=site, **more).outcome
        except (NotFound, Conflict) as refusal:
            return refusal.code

    def answer(self, kind: str, *people: Person, site: Site | None = None, **more: Any) -> Answer:
        """The answer to an operation of a server."""
        op_id = more.pop("op", "") or self.op()
        (answer,) = self.ask(Operation(site or self.site, kind, op_id, list(people), **more))
        assert isinstance(answer, Answer)
        return answer

    # --- the words of the scenarios ---

    def _head(self, op: str, at: int | None) -> tuple[str, int, str]:
        self.clock.tick()
        return op or self.op(), self.clock() if at is None else at, ""

    def track(self, device: int, event: str = "e", *, at: int | None = None, op: str = "", **kw: Any) -> str:
        return self.send(device, Track(*self._head(op, at), event), **kw)

    def login(
        self, device: int, who: object, proof: Proof = Proof.CLAIMED, *, at: int | None = None, op: str = "",
        aliases: Sequence[object] = (), wait: bool = False, **kw: Any,
    ) -> str:  # fmt: skip
        command = Login(*self._head(op, at), name(who), proof=proof, aliases=[name(a) for a in aliases], wait=wait)
        return self.send(device, command, **kw)

    def link(
        self, device: int, who: object, *, token: str | None = None, at: int | None = None, op: str = "", **kw: Any
    ) -> str:
        proof = Proof.LINK if token else Proof.LINK_RAW
        return self.send(device, Link(*self._head(op, at), name(who), proof=proof, token=token), **kw)

    def logout(self, device: int, *, at: int | None = None, op: str = "", **kw: Any) -> str:
        return self.send(device, Logout(*self._head(op, at)), **kw)

    def page_reidentify(
        self, device: int, new: object, old: object | None = None, *, at: int | None = None, op: str = "", **kw: Any
    ) -> str:
        command = Reidentify(*self._head(op, at), name(new), name(old) if old is not None else None)
        return self.send(device, command, **kw)

    def put(
        self,
        device: int,
        *rows: tuple[str, str, Any],
        at: int | None = None,
        op: str = "",
        about: object = None,
        **kw: Any,
    ) -> str:
        written = [(kind, key, json.dumps(value)) for kind, key, value in rows]
        target = name(about) if about is not None else None
        return self.send(device, Writes(*self._head(op, at), written, target), **kw)

    def server_track(self, who: object, event: str = "s", *, at: int | None = None, op: str = "", **kw: Any) -> str:
        return self.serve(name(who), Track(*self._head(op, at), event), **kw)

    def server_put(
        self, who: object, *rows: tuple[str, str, Any], at: int | None = None, op: str = "", **kw: Any
    ) -> str:
        written = [(kind, key, json.dumps(value)) for kind, key, value in rows]
        return self.serve(name(who), Writes(*self._head(op, at), written), **kw)

    def reidentify(self, new: object, old: object, **more: Any) -> str:
        self.clock.tick()
        return self.operate("reidentify", Person(name(new)), Person(name(old)), **more)

    def merge(self, target: object, source: object, **more: Any) -> str:
        """Merges people named by identity, or by device if they are numbers."""
        self.clock.tick()
        return self.operate("merge", self.person(target), self.person(source), **more)

    def demerge(self, who: object, **more: Any) -> str:
        self.clock.tick()
        return self.operate("demerge", Person(name(who)), **more)

    def unlink(self, device: int, **more: Any) -> str:
        self.clock.tick()
        return self.operate("unlink", Person(device_id=device), **more)

    def undo(self, of: str, **more: Any) -> str:
        self.clock.tick()
        return self.operate("undo", of=of, **more)

    def delete(self, who: object, **more: Any) -> str:
        self.clock.tick()
        return self.operate("delete", self.person(who), **more)

    @staticmethod
    def person(who: object) -> Person:
        return Person(device_id=who) if isinstance(who, int) else Person(name(who))

    # --- looking ---

    def reader(self, site: Site | None = None) -> Lists:
        return Lists(self.store, site or self.site)

    def profile(self, who: object, site: Site | None = None) -> Json | None:
        """The profile of an identity, or of the person on a device now."""
        reader = self.reader(site)
        return run(reader.by_device(who)) if isinstance(who, int) else run(reader.by_identity(name(who)))

    def same(self, *people: object) -> bool:
        """Whether all are one live profile."""
        found = [self.profile(p) for p in people]
        return all(found) and len({p["profile_id"] for p in found if p}) == 1

    def events(self, who: object) -> list[str]:
        """The names of a person's events, oldest first."""
        profile = self.profile(who)
        return self.events_of(profile["profile_id"]) if profile else []

    def events_of(self, profile_id: str) -> list[str]:
        page = run(self.reader().events(int(profile_id), limit=500))
        return [e["name"] for e in reversed(page["events"])] if page else []

    def export(self, who: object) -> Json | None:
        """Everything held about a person."""
        profile = self.profile(who)
        return run(self.reader().export(int(profile["profile_id"]))) if profile else None

    def errors(self) -> list[str]:
        """The codes of the identity errors that show."""
        return [e["code"] for e in run(self.reader().identity_errors(limit=500))["identity_errors"]]

    def fact(self, op: str) -> Json | None:
        return run(self.reader().fact(op))

    def rows(self, sql: str, *arguments: object) -> list[Any]:
        return self.store.db.execute(sql, arguments).fetchall()

    def check(self, site: Site | None = None) -> None:
        """The ledger folded again says what the tables say."""
        for one in [site] if site else self.sites:
            found = run(check_site(self.store, one))
            assert found == [], "\n".join(found)

    def dump(self, site: Site) -> str:
        """Every row of a site, as text."""
        if not self.tables:
            names = [r[0] for r in self.rows("select name from sqlite_master where type = 'table' order by name")]
            columns = {name: [r[1] for r in self.rows(f"pragma table_info({name})")] for name in names}
            self.tables = [name for name in names if "site_id" in columns[name]]
        rows = "select * from {} where site_id = ? order by 1, 2, 3"
        return repr([(table, self.rows(rows.format(table), site.site_id)) for table in self.tables])
