"""`gateway bench stores` on a PostgreSQL server of its own, with fsync on: `python -m scripts.bench_stores`."""

import subprocess
import sys

from tests.postgres import SAFE, Cluster


def main() -> int:
    with Cluster(SAFE) as cluster:
        return subprocess.run(
            [sys.executable, "-m", "gateway", "bench", "stores", cluster.url(), *sys.argv[1:]]
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
