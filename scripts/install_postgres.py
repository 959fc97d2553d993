"""Finds PostgreSQL, pgbouncer and nats-server for the tests, or installs Debian's packages as root.

TEST_DATABASE_URL stands for the first two.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("postgresql-15", "pgbouncer", "nats-server")


def main() -> int:
    if missing() == []:
        return 0
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        install(missing())
    if still := missing():
        print(
            f"The tests need {' and '.join(still)} (Debian's packages), or TEST_DATABASE_URL for a database.",
            file=sys.stderr,
        )
        return 1
    return 0


def missing() -> list[str]:
    """The packages whose programs are nowhere to be found."""
    given = bool(os.environ.get("TEST_DATABASE_URL"))
    postgres = given or any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or shutil.which("initdb")
    pgbouncer = given or shutil.which("pgbouncer") or Path("/usr/sbin/pgbouncer").exists()
    nats = shutil.which("nats-server") or Path("/usr/sbin/nats-server").exists()
    return [name for name, found in zip(PACKAGES, (postgres, pgbouncer, nats), strict=True) if not found]


def install(packages: list[str]) -> None:
    """Installs packages without starting their servers; when that fails, the last lines say why."""
    print(f"Installing Debian's {' and '.join(packages)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    # Debian would make and start a cluster of its own at once: the tests make theirs where nobody else looks.
    settings = Path("/etc/postgresql-common/createcluster.conf")
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text("create_main_cluster = false\n")
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120"]
    keep = ["-o", "DPkg::Options::=--force-confold"]
    for command in ([*apt, "update"], [*apt, *keep, "install", "-y", "--no-install-recommends", *packages]):
        try:
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
            )
        except subprocess.TimeoutExpired:
            print(f"  gave up: {' '.join(command)}")
            return
        if done.returncode:
            print("  not possible here: " + " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:]))
            return
    # Debian starts these with the package; the tests start their own.
    for service in {"pgbouncer", "nats-server"} & set(packages):
        if shutil.which("invoke-rc.d"):
            subprocess.run(["invoke-rc.d", service, "stop"], stdin=subprocess.DEVNULL, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
