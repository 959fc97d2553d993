"""The console's users, their sessions and the audit log: the statements, and nothing of who may do what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from gateway.store.base import Record, Store
from gateway.store.database import SqlStore
from gateway.store.sql import SqlTransaction

USER_COLUMNS = "user_id, name, password, role, sites, created_at"
AUDIT_COLUMNS = "audit_id, at, user_id, user_name, address, site_id, action, subject, detail"


@dataclass(slots=True)
class User:
    """Somebody who may use the console. `sites` are the ids of those they may see; an admin sees all."""

    user_id: int
    name: str
    password: str
    role: str
    sites: list[int] = field(default_factory=list)
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """One login. `digest` is all that is kept of the cookie's value."""

    digest: str
    user_id: int
    created_at: int
    seen_at: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log: who did what to whom; `site_id` 0 concerns no site in particular."""

    audit_id: int
    at: int
    user_id: int
    user_name: str
    address: str
    site_id: int
    action: str
    subject: str = ""
    detail: str = ""


class Accounts:
    """Reads and writes the tables of the console."""

    def __init__(self, store: Store) -> None:
        self.store = cast(SqlStore, store)

    # --- users --------------------------------------------------------------------------------------------------

    async def users(self) -> list[User]:
        """Everybody, by name."""
        sql = f"/* console_users.all */ select {USER_COLUMNS} from console_users order by name"
        return [_user(r) for r in await self.store.read(sql)]

    async def user(self, name: str) -> User | None:
        """The user with this name."""
        sql = f"/* console_users.named */ select {USER_COLUMNS} from console_users where name = $1"
        rows = await self.store.read(sql, name)
        return _user(rows[0]) if rows else None

    async def save_user(self, user: User) -> None:
        """Makes or changes a user."""
        sites = msgspec.json.encode(user.sites).decode()
        row = (user.user_id, user.name, user.password, user.role, sites, user.created_at)
        tail = (
            "on conflict (user_id) do update set name = excluded.name, password = excluded.password,"
            " role = excluded.role, sites = excluded.sites"
        )
        await self.store.run(lambda tx: tx.insert("console_users", USER_COLUMNS, [row], tail))

    async def remove_user(self, user_id: int) -> None:
        """Removes a user and whatever they are logged in with; what they did stays in the audit log."""

        async def work(tx: SqlTransaction) -> None:
            await tx.execute("/* console_users.remove */ delete from console_users where user_id = $1", user_id)
            await tx.execute("/* console_sessions.of */ delete from console_sessions where user_id = $1", user_id)

        await self.store.run(work)

    # --- sessions -----------------------------------------------------------------------------------------------

    async def open_session(self, session: Session, expired_before: int) -> None:
        """Keeps a new session, and clears away those that nobody has used for long."""
        row = (session.digest, session.user_id, session.created_at, session.seen_at)
        columns = "digest, user_id, created_at, seen_at"

        async def work(tx: SqlTransaction) -> None:
            await tx.execute(
                "/* console_sessions.expire */ delete from console_sessions where seen_at < $1", expired_before
            )
            await tx.insert("console_sessions", columns, [row], "")

        await self.store.run(work)

    async def session(self, digest: str) -> tuple[Session, User] | None:
        """A session and whose it is."""
        sql = (
            "/* console_sessions.get */ select s.created_at as opened_at, s.seen_at, u.* from console_sessions s"
            " join console_users u on u.user_id = s.user_id where s.digest = $1"
        )
        rows = await self.store.read(sql, digest)
        if not rows:
            return None
        row = rows[0]
        return Session(digest, row["user_id"], row["opened_at"], row["seen_at"]), _user(row)

    async def touch_session(self, digest: str, at: int) -> None:
        """Notes that a session is in use."""
        sql = "/* console_sessions.touch */ update console_sessions set seen_at = $2 where digest = $1"
        await self.store.run(lambda tx: tx.execute(sql, digest, at))

    async def close_session(self, digest: str) -> None:
        """Ends one session."""
        sql = "/* console_sessions.close */ delete from console_sessions where digest = $1"
        await self.store.run(lambda tx: tx.execute(sql, digest))

    async def close_sessions(self, user_id: int, but: str = "") -> None:
        """Ends all sessions of a user but one."""
        sql = "/* console_sessions.close_all */ delete from console_sessions where user_id = $1 and digest <> $2"
        await self.store.run(lambda tx: tx.execute(sql, user_id, but))

    # --- the setup token ----------------------------------------------------------------------------------------

    async def spend(self, name: str, value: str) -> bool:
        """Takes a kept value away; False if somebody else has, or it was never kept."""
        sql = "/* config.spend */ delete from config where name = $1 and value = $2 returning name"
        return bool(await self.store.run(lambda tx: tx.fetch(sql, name, value)))

    # --- the audit log ------------------------------------------------------------------------------------------

    async def note(self, entry: Entry) -> None:
        """Appends a line to the audit log."""
        row = tuple(getattr(entry, c) for c in AUDIT_COLUMNS.split(", "))
        await self.store.run(lambda tx: tx.insert("console_audit", AUDIT_COLUMNS, [row], ""))

    async def audit(self, *, before: int, limit: int, user: str = "", action: str = "") -> list[Entry]:
        """Lines of the audit log, newest first."""
        sql = f"/* console_audit.list */ select {AUDIT_COLUMNS} from console_audit where audit_id < $1"
        arguments: list[object] = [before]
        for column, value in (("user_name", user), ("action", action)):
            if value:
                arguments.append(value)
                sql += f" and {column} = ${len(arguments)}"
        rows = await self.store.read(f"{sql} order by audit_id desc limit {int(limit)}", *arguments)
        return [Entry(**r) for r in rows]

    async def noted(self, action: str, subject: str) -> Entry | None:
        """The newest line of one action about one subject."""
        sql = (
            f"/* console_audit.about */ select {AUDIT_COLUMNS} from console_audit"
            " where action = $1 and subject = $2 order by at desc limit 1"
        )
        rows = await self.store.read(sql, action, subject)
        return Entry(**rows[0]) if rows else None

    async def failures(self, action: str, since: int, address: str, user_id: int) -> tuple[int, int, int]:
        """How often an action was noted lately: from one address, for one user, and for that user from there."""
        sql = (
            "/* console_audit.failures */ select address, user_id, count(*) as times from console_audit"
            " where action = $1 and at > $2 and (address = $3 or user_id = $4) group by address, user_id"
        )
        rows = await self.store.read(sql, action, since, address, user_id)
        near = sum(r["times"] for r in rows if r["address"] == address)
        same = sum(r["times"] for r in rows if r["user_id"] == user_id)
        both = sum(r["times"] for r in rows if r["address"] == address and r["user_id"] == user_id)
        return near, same, both


def _user(row: Record) -> User:
    sites: list[Any] = msgspec.json.decode(row["sites"])
    return User(row["user_id"], row["name"], row["password"], row["role"], sites, row["created_at"])
