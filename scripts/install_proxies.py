"""Finds nginx, Caddy and systemd-analyze for the tests of deploy/, or installs Debian's packages as root."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("nginx-light", "caddy", "systemd")
PROGRAMS = {"nginx-light": "nginx", "caddy": "caddy", "systemd": "systemd-analyze"}


def main() -> int:
    if missing() and os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        install(missing())
    if still := missing():
        print(f"The tests run {' and '.join(still)}: install Debian's packages, then try again.", file=sys.stderr)
        return 1
    return 0


def missing() -> list[str]:
    """The packages whose programs are nowhere to be found."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    return [name for name in PACKAGES if shutil.which(PROGRAMS[name], path=path) is None]


def install(packages: list[str]) -> None:
    """Installs packages without starting their servers; when that fails, the last lines say why."""
    print(f"Installing Debian's {' and '.join(packages)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120"]
    policy = Path("/usr/sbin/policy-rc.d")  # Debian would start both at once, on port 80
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for command in ([*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
            )
            if done.returncode:
                print("  not possible here: " + " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:]))
                return
    except subprocess.TimeoutExpired as late:
        print(f"  gave up: {late}")
    finally:
        if ours:
            policy.unlink()


if __name__ == "__main__":
    sys.exit(main())
