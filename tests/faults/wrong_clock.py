"""A gateway whose clock is off by the seconds in a file: `wrong_clock.py FILE -m gateway ARGUMENTS`."""

import sys
import time
from pathlib import Path

true_time, true_time_ns = time.time, time.time_ns
file = Path(sys.argv[1])


def offset() -> float:
    return float(file.read_text() or 0)


time.time = lambda: true_time() + offset()
time.time_ns = lambda: true_time_ns() + int(offset() * 1e9)

from gateway.cli import main  # noqa: E402 - after the clock was changed, for whoever imports it by name

sys.argv = sys.argv[3:]
main()
