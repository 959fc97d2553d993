"""Finds the programs and browsers that the tests run, or installs them: for root on Debian its packages, else browsers
by Playwright's own download. What is left is for the user to install.
"""

import os
import shutil
import sys
from glob import glob

import browsers
import debian

PROGRAMS = {  # by Debian's package
    "postgresql": "initdb",
    "pgbouncer": "pgbouncer",
    "nats-server": "nats-server",
    "nginx-light": "nginx",
    "caddy": "caddy",
    "systemd": "systemd-analyze",
    "curl": "curl",
    "strace": "strace",
    "chromium-driver": "chromedriver",
}
if os.environ.get("TEST_DATABASE_URL"):  # stands for these two
    del PROGRAMS["postgresql"], PROGRAMS["pgbouncer"]


def main() -> int:
    wanted = missing()
    for install in (debian.install, browsers.download):
        if wanted:
            install(wanted)
            wanted = missing()
    if wanted:
        print(f"The tests need what Debian calls {' '.join(wanted)}: install that, then try again.", file=sys.stderr)
    return 1 if wanted else 0


def missing() -> list[str]:
    """The packages of what is nowhere to be found."""
    programs = [package for package, program in PROGRAMS.items() if not shutil.which(program, path=path())]
    return programs + browsers.missing()


def path() -> str:
    """Debian keeps some out of a user's PATH, and PostgreSQL's out of everybody's."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *glob("/usr/lib/postgresql/*/bin")])


if __name__ == "__main__":
    sys.exit(main())
