"""`gateway backup` and `gateway restore`: a copy of a SQLite database while it is written to, and back again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from gateway.errors import BadRequest, Conflict, NotFound, Unavailable
from gateway.settings import Settings

PAGES = 1024
"""Pages copied between two reports."""

Report = Callable[[int, int], object]
"""Is told how many pages are done, and of how many."""


def sqlite_file(settings: Settings) -> Path:
    """The file of the database. Raises BadRequest for PostgreSQL, which has tools of its own."""
    if not settings.database.startswith("sqlite:///"):
        hint = "use pg_dump and pg_restore, or your provider's snapshots"
        raise BadRequest("gateway backup and restore are for SQLite", hint)
    return Path(settings.database.removeprefix("sqlite:///"))


def backup(source: Path, target: Path, *, force: bool = False, report: Report | None = None) -> int:
    """Copies the last commit of a database into a file of its own; returns its size in bytes.

    Nobody has to wait for it: it reads one snapshot, and the writer goes on. The target is there only when it is whole.
    """
    if not source.exists():
        raise NotFound(f"there is no database {source}", "say which one: --database sqlite:///PATH")
    if target.exists() and not force:
        raise Conflict(f"{target} exists", "choose another name, or add --force")
    if target.exists() and target.samefile(source):
        raise Conflict(f"{target} is the database itself", "name another file for its copy")
    with beside(target) as part:
        with opened(source) as reader, opened(part) as copy:
            reader.execute("pragma query_only = 1")
            reader.execute("begin")  # one snapshot: without it every commit would start the copy again
            reader.execute("select count(*) from sqlite_master").fetchall()
            reader.backup(copy, pages=PAGES, progress=lambda _, left, total: report and report(total - left, total))
            copy.execute("pragma journal_mode = delete")  # one file, whatever was written beside it
        check_whole(part)
        os.chmod(part, 0o600)  # it holds the keys
    return target.stat().st_size


@contextmanager
def restoring(source: Path, target: Path, *, force: bool = False, report: Report | None = None) -> Iterator[Path]:
    """A checked copy of a backup beside the database, to be looked at; at the end it takes the database's place.

    Raises BadRequest for a file that is no whole database, Conflict if it would overwrite one or one is in use. Then,
    and when the block raises, nothing has changed.
    """
    if not source.exists():
        raise NotFound(f"there is no file {source}", "name the file that gateway backup wrote")
    if target.exists() and target.samefile(source):
        raise Conflict(f"{source} is the database itself", "name a backup of it")
    if target.exists():
        if not force:
            raise Conflict(f"there is a database {target} already", "add --force to replace it")
        check_unused(target)
    fresh = target.with_name(f"{target.name}.restoring")
    try:
        remove(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened(source) as reader, opened(fresh) as copy:
            reader.backup(copy, pages=PAGES, progress=lambda _, left, total: report and report(total - left, total))
        check_whole(fresh)
        os.chmod(fresh, 0o600)
        yield fresh
        settle(fresh)
        if target.exists():
            check_unused(target)  # its write-ahead log must not be found beside the new file
            remove(target, ("-wal", "-shm"))
        os.replace(fresh, target)
        sync(target.parent)
    except OSError as error:
        raise Unavailable(f"the copy could not be written: {error}") from error
    except sqlite3.OperationalError as error:
        raise Unavailable(f"the copy could not be made: {error}") from error
    except sqlite3.DatabaseError as error:
        raise BadRequest(f"{source} is not a database: {error}") from error
    finally:
        remove(fresh)


def check_whole(file: Path) -> None:
    """Raises BadRequest for a file that is damaged or no gateway's database."""
    try:
        with opened(file) as database:
            found = [row[0] for row in database.execute("pragma integrity_check(5)")]
            tables = {row[0] for row in database.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise BadRequest(f"{file} is not a database: {error}") from error
    if found != ["ok"]:
        raise BadRequest(f"{file} is damaged: {'; '.join(map(str, found))}", "take another backup")
    if not {"migrations", "sites", "ledger", "events"} <= tables:
        raise BadRequest(f"{file} is not a gateway's database")


def check_unused(file: Path) -> None:
    """Raises Conflict while another process has a database open; folds its write-ahead log into it otherwise."""
    try:
        with opened(file) as database:
            database.execute("pragma busy_timeout = 0")
            # Leaving WAL takes the file for itself alone, which fails as long as anybody else has it open.
            database.execute("pragma journal_mode = delete").fetchall()
    except sqlite3.OperationalError as error:
        raise Conflict(f"{file} is in use: {error}", "stop the gateway first") from error
    except sqlite3.DatabaseError:
        return  # damaged, which may be why it is to be replaced


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A file beside `target` that takes its place at the end, and is gone if something went wrong."""
    part = target.with_name(f"{target.name}.part")
    remove(part)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        settle(part)
        os.replace(part, target)
        sync(target.parent)
    except (sqlite3.OperationalError, OSError) as error:
        raise Unavailable(f"the copy could not be written: {error}") from error
    finally:
        remove(part)


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that is closed at the end."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        yield connection


def settle(file: Path) -> None:
    """Makes sure that one file holds everything and is on the disk."""
    with opened(file) as database:
        database.execute("pragma journal_mode = delete").fetchall()
    sync(file)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(file: Path, suffixes: tuple[str, ...] = ("", "-wal", "-shm", "-journal")) -> None:
    """Removes a database's files."""
    for suffix in suffixes:
        file.with_name(file.name + suffix).unlink(missing_ok=True)
