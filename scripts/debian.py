"""Installs Debian's packages, where it may: debian.py PACKAGE..."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

APT = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]
UPDATE = [*APT, "-o", "APT::Update::Error-Mode=any", "update"]
INSTALL = [*APT, "-o", "Dpkg::Options::=--force-confold", "install", "-y", "--no-install-recommends"]
JOURNAL = Path("/var/lib/dpkg/updates")  # not empty where dpkg was interrupted
POLICY = Path("/usr/sbin/policy-rc.d")
# Without a word in it, PostgreSQL's package makes a cluster; the tests make theirs where nobody else looks.
CLUSTERS = Path("/etc/postgresql-common/createcluster.conf")


def install(packages: Sequence[str]) -> bool:
    """Installs those packages that there are, starting none of their servers.

    False for who is not root on Debian, and where not all of it worked, which prints the reason.
    """
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return False
    print(f"Installing Debian's {', '.join(packages)}", flush=True)
    if JOURNAL.exists() and any(JOURNAL.iterdir()):
        run(["dpkg", "--configure", "-a"])
    if "postgresql" in packages and not CLUSTERS.exists():
        CLUSTERS.parent.mkdir(parents=True, exist_ok=True)
        CLUSTERS.write_text("create_main_cluster = false\n")
    with no_service_started():
        # Twice, since a mirror may change between the two. An update that fails may still be good enough.
        for _ in range(2):
            outdated = run(UPDATE)
            unknown = [package for package in packages if run(["apt-cache", "show", package])]
            failed = run([*INSTALL, *(package for package in packages if package not in unknown)])
            if not failed and not unknown:
                return True
    reasons = outdated + failed + [f"there is no package {package} here" for package in unknown]
    print("\n".join(f"  {line}" for line in reasons), file=sys.stderr)
    return False


@contextmanager
def no_service_started() -> Iterator[None]:
    """Debian would start servers with their packages, on ports that others may want. An owner's own policy stays."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()


def run(command: list[str]) -> list[str]:
    """Runs it quietly; when it fails, returns its last lines."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=1200,
        )
    except subprocess.TimeoutExpired:
        return [f"{command[0]} has not ended in 20 minutes"]
    return [f"{command[0]} failed:", *done.stdout.strip().splitlines()[-5:]] if done.returncode else []


if __name__ == "__main__":
    sys.exit(not install(sys.argv[1:]))
