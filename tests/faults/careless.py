"""A gateway that does not wait for its disk: `careless.py -m gateway ARGUMENTS`. The tests must find it out."""

import sys

from gateway.cli import main
from gateway.store import sqlite

sqlite.PRAGMAS = tuple("synchronous = off" if p.startswith("synchronous") else p for p in sqlite.PRAGMAS)
sys.argv = sys.argv[2:]
main()
