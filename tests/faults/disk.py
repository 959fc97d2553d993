"""What a disk may hold after the power went: a recording of a process's writes, cut anywhere.

Durable is what was written before a sync that had returned. Of what came later a disk may keep any part: each write, or
each sector of it, on its own and in any order.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "pwrite64,write,writev,sendto,sendmsg,fsync,fdatasync,ftruncate,openat,unlink"
RECORD = f"strace -f -D --seccomp-bpf -yy -xx -s 1000000 -e trace={CALLS} -o {{trace}}"
SECTOR = 512

_call = re.compile(r"^(\d+) +(\w+)\((.*?)(?: <unfinished \.\.\.>|\) += +(-?\d+).*)?$")
_resumed = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>.*\) += +(-?\d+)")
_text = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_answered = re.compile(r":(\d+)\]?>")


@dataclass(slots=True)
class Write:
    """Bytes at an offset; without bytes the file ends there."""

    offset: int
    data: bytes | None


@dataclass(slots=True)
class Step:
    """One thing that happened: a write, a sync that returned (and how many writes it covers), or an answer sent."""

    file: str = ""
    write: Write | None = None
    synced: int | None = None
    port: int = 0


def steps_of(trace: Path, names: set[str]) -> list[Step]:
    """A recording as steps; `names` are the files that count."""
    steps: list[Step] = []
    begun: dict[str, tuple[str, int]] = {}  # by thread: the file it syncs, and how much was written before
    written: Counter[str] = Counter()
    for line in trace.read_text().splitlines():
        if resumed := _resumed.match(line):
            if resumed[2] in ("fsync", "fdatasync") and resumed[1] in begun and resumed[3] == "0":
                file, covered = begun.pop(resumed[1])
                steps.append(Step(file, synced=covered))
            continue
        call = _call.match(line)
        if call is None:
            continue
        thread, name, arguments, result = call.groups()
        first = arguments.split(",", 1)[0]
        if name in ("write", "writev", "sendto", "sendmsg") and "TCP" in first:
            if any(_bytes(text).startswith(b"HTTP/1.1 202") for text in _text.findall(arguments)):
                steps.append(Step(port=int(_answered.findall(first)[-1])))
            continue
        file = _file(first)
        if file not in names:
            continue
        if name == "pwrite64":
            data, rest = _text.search(arguments), arguments.rsplit(",", 1)
            assert data is not None, line[:200]
            steps.append(Step(file, Write(int(rest[1]), _bytes(data[1]))))
            written[file] += 1
        elif name == "ftruncate":
            steps.append(Step(file, Write(int(arguments.rsplit(",", 1)[1]), None)))
            written[file] += 1
        elif name in ("fsync", "fdatasync"):
            if result == "0":
                steps.append(Step(file, synced=written[file]))
            else:
                begun[thread] = (file, written[file])
    return steps


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _file(argument: str) -> str:
    path = re.search(r"<((?:\\x[0-9a-f]{2})+)>", argument)
    return _bytes(path[1]).decode().rsplit("/", 1)[-1] if path else ""


@dataclass(slots=True)
class Disk:
    """The files as they are for certain, and what was written since."""

    durable: dict[str, bytearray]
    pending: dict[str, list[Write]] = field(default_factory=dict)
    synced: Counter[str] = field(default_factory=Counter)

    def take(self, step: Step) -> None:
        """Moves on by one step."""
        if step.write is not None:
            self.pending.setdefault(step.file, []).append(step.write)
        elif step.synced is not None:
            number = step.synced - self.synced[step.file]
            pending = self.pending.get(step.file, [])
            for write in pending[:number]:
                _apply(self.durable.setdefault(step.file, bytearray()), write)
            self.pending[step.file] = pending[number:]
            self.synced[step.file] = step.synced

    def after_power_loss(self, chance: random.Random) -> dict[str, bytes]:
        """One of the states in which the power may have left the files."""
        kept = chance.choice((0.0, 0.5, 0.9, 1.0))
        files = {name: bytearray(content) for name, content in self.durable.items()}
        for name, pending in self.pending.items():
            content = files.setdefault(name, bytearray())
            for write in pending:
                for part in sectors(write) if chance.random() < 0.5 else (write,):
                    if chance.random() < kept:
                        _apply(content, part)
        return {name: bytes(content) for name, content in files.items()}


def sectors(write: Write) -> Iterator[Write]:
    """A write as what a disk writes at once."""
    if write.data is None:
        yield write
        return
    start = 0
    while start < len(write.data):
        end = min(len(write.data), start + SECTOR - (write.offset + start) % SECTOR)
        yield Write(write.offset + start, write.data[start:end])
        start = end


def _apply(content: bytearray, write: Write) -> None:
    end = write.offset + len(write.data or b"")
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if write.data is None:
        del content[write.offset :]
    else:
        content[write.offset : end] = write.data
