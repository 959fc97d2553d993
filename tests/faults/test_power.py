"""Power loss: the writes of a real gateway, cut at random points, keep all that was acknowledged before the cut."""

import asyncio
import random
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from gateway.app import opened
from gateway.check import check_site
from gateway.settings import load
from tests.faults.disk import RECORD, Disk, Step, steps_of
from tests.faults.swarm import UNLIMITED, Swarm, stored
from tests.programs import required
from tests.server import GatewayServer

NAMES = ("gateway.db", "gateway.db-wal")
CARELESS = Path(__file__).with_name("careless.py")


def record(folder: Path, messages: int, *extra: str) -> tuple[Disk, list[Step], Swarm]:
    """The disk before, everything that a gateway under load did to it, and who was answered when."""
    required("strace")
    program = folder / "recorded"
    command = [*RECORD.format(trace=folder / "trace").split(), sys.executable, *extra]
    program.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
    program.chmod(0o700)
    with GatewayServer(folder, environment=UNLIMITED) as server:
        site = server.site()
        server.stop()
        before = Disk({NAMES[0]: bytearray((folder / NAMES[0]).read_bytes())})
        server.python = str(program)
        server.start()
        with Swarm(server.port, site) as swarm:
            swarm.wait_for_more(messages)
        server.stop()
        server.python = sys.executable
        server.start()
        server.command("check")
    return before, steps_of(folder / "trace", set(NAMES)), swarm


def lost_after_cuts(folder: Path, disk: Disk, steps: list[Step], swarm: Swarm, cuts: int) -> int:
    """Cuts the power so often, and returns how often something acknowledged or the database itself was gone."""
    chance = random.Random(cuts)
    answers = {port: iter(requests) for port, requests in swarm.requests.items()}
    at = set(chance.sample(range(len(steps)), min(cuts, len(steps))))
    acknowledged: set[str] = set()
    lost = 0
    for n, step in enumerate(steps):
        if step.port:
            acknowledged |= next(answers[step.port])
        else:
            disk.take(step)
        if n in at:
            lost += not survived(folder / f"cut-{n}", disk.after_power_loss(chance), acknowledged)
    assert acknowledged == swarm.kept, "every answer is in the recording"
    return lost


def survived(folder: Path, files: dict[str, bytes], acknowledged: set[str]) -> bool:
    """Whether a database that lost its power opens, is whole, and has what was acknowledged."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        found = stored(folder / NAMES[0])
        assert acknowledged <= found.keys()
        assert max(found.values(), default=0) <= 1
        asyncio.run(check(folder))
    except (sqlite3.DatabaseError, AssertionError):
        return False
    shutil.rmtree(folder)
    return True


async def check(folder: Path) -> None:
    """The ledger folded again says what the tables say."""
    async with opened(load({}, database=f"sqlite:///{folder / NAMES[0]}")) as gateway:
        for site in await gateway.sites.all():
            assert await check_site(gateway.store, site) == []


def cut(folder: Path, messages: int, cuts: int) -> None:
    """Records, cuts, and finds nothing lost; the gateway that does not wait for its disk is found out."""
    lost = {}
    for name, extra in (("careful", ()), ("careless", (str(CARELESS),))):
        (folder / name).mkdir()
        disk, steps, swarm = record(folder / name, messages, *extra)
        lost[name] = lost_after_cuts(folder / name, disk, steps, swarm, cuts)
        print(
            f"{name}: {len(swarm.acknowledged)} acknowledged, {len(steps)} steps, {lost[name]} of {cuts} cuts lost some"
        )
    assert lost["careful"] == 0
    assert lost["careless"] > 0, "this test would not notice a gateway that loses data"


def test_what_was_acknowledged_survives_a_loss_of_power(tmp_path: Path) -> None:
    cut(tmp_path, messages=250, cuts=20)


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_loss_of_power_at_five_hundred_points(tmp_path: Path) -> None:
    cut(tmp_path, messages=4000, cuts=500)
