"""gateway backup and gateway restore: under load, over what exists, and of files that are no backups."""

import sqlite3
import stat
from pathlib import Path

import pytest

from tests.faults.swarm import UNLIMITED, Swarm, check_nothing_lost
from tests.server import GatewayServer


def events_in(database: Path) -> set[str]:
    connection = sqlite3.connect(database)
    try:
        return {row[0] for row in connection.execute("select message_id from events")}
    finally:
        connection.close()


def refused(server: GatewayServer, *arguments: str) -> str:
    """What a command that must fail says."""
    done = server.command(*arguments, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return " ".join(done.stderr.split())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "monday.db"


def test_a_backup_under_load_has_everything_from_before_it_began(tmp_path: Path, copy: Path) -> None:
    with GatewayServer(tmp_path, environment=UNLIMITED) as server:
        with Swarm(server.port, server.site()) as swarm:
            for n in range(5):
                swarm.wait_for_more(50)
                before = swarm.tracked
                server.command("backup", str(copy), "--force")
                assert before <= events_in(copy), n
            swarm.wait_for_more(50)
        server.stop()
        lost = events_in(tmp_path / "gateway.db") - events_in(copy)
        assert lost, "the load went on after the backup"
        server.command("restore", str(copy), "--verify", "--force")
        assert events_in(tmp_path / "gateway.db") == events_in(copy)
        server.start()
        server.command("check")
        with Swarm(server.port, server.site(), seed=2) as again:
            again.wait_for_more(50)
        check_nothing_lost(tmp_path / "gateway.db", again)
    assert set(swarm.statuses) == {202}


def test_a_backup_is_one_file_that_only_its_owner_reads(tmp_path: Path, copy: Path) -> None:
    with GatewayServer(tmp_path) as server:
        server.site()
        server.command("backup", str(copy))
        assert [file.name for file in copy.parent.iterdir()] == [copy.name]
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert "exists" in refused(server, "backup", str(copy))


def test_a_restore_overwrites_only_when_told_and_never_a_database_in_use(tmp_path: Path, copy: Path) -> None:
    with GatewayServer(tmp_path) as server:
        server.site("before")
        server.command("backup", str(copy))
        server.site("after")
        assert "--force" in refused(server, "restore", str(copy))
        for command in ("backup", "restore"):
            assert "the database itself" in refused(server, command, "gateway.db", "--force")
        assert "stop the gateway" in refused(server, "restore", str(copy), "--force")
        assert "after" in server.command("site", "list").stdout
        server.stop()
        server.command("restore", str(copy), "--force")
        assert "after" not in server.command("site", "list").stdout
        server.start()
        elsewhere = f"sqlite:///{tmp_path / 'new' / 'gateway.db'}"
        server.command("restore", str(copy), "--verify", "--database", elsewhere)
        assert "before" in server.command("site", "list", "--database", elsewhere).stdout


def test_what_is_no_whole_backup_is_refused_and_the_database_stays(tmp_path: Path, copy: Path) -> None:
    with GatewayServer(tmp_path, environment=UNLIMITED) as server:
        with Swarm(server.port, server.site("shop")) as swarm:
            swarm.wait_for_more(100)
        server.command("backup", str(copy))
        server.stop()
        whole = copy.read_bytes()
        damaged = {"empty": b"", "text": b"hello " * 5000, "torn": whole[: len(whole) // 2], "page": bytearray(whole)}
        damaged["page"][4096 * 20 : 4096 * 21] = b"\xff" * 4096  # type: ignore[index]
        for name, content in damaged.items():
            file = tmp_path / name
            file.write_bytes(content)
            said = refused(server, "restore", str(file), "--force")
            assert "damaged" in said or "not a database" in said or "not a gateway's" in said, (name, said)
        assert "no file" in refused(server, "restore", str(tmp_path / "nowhere"))
        server.start()
        assert events_in(tmp_path / "gateway.db") >= swarm.tracked
        assert not list(tmp_path.glob("*.restoring*"))


def test_a_backup_whose_tables_are_not_its_ledger_is_found_out(tmp_path: Path, copy: Path) -> None:
    with GatewayServer(tmp_path, environment=UNLIMITED) as server:
        with Swarm(server.port, server.site("shop")) as swarm:
            swarm.wait_for_more(100)
        server.command("backup", str(copy))
        server.stop()
        changed = sqlite3.connect(copy)
        changed.execute("update visitors set home = visitor_id, events = events + 1")
        changed.commit()
        changed.close()
        assert "nothing was changed" in refused(server, "restore", str(copy), "--verify", "--force")
        assert events_in(tmp_path / "gateway.db") >= swarm.tracked
        server.start()


def test_postgresql_is_sent_to_its_own_tools(tmp_path: Path) -> None:
    with GatewayServer(tmp_path) as server:
        assert "pg_dump" in refused(server, "backup", "x.db", "--database", "postgresql://localhost/x")
