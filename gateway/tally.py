"""What happened in this process, in plain numbers: nothing is named, formatted or locked until somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from gateway.commands import Skipped
from gateway.identity.batches import Done
from gateway.identity.engine import Reply, Request
from gateway.identity.requests import Operation

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


@lru_cache
def _kind(command: type) -> str:
    return command.__name__.lower()


class Spread:
    """A histogram: how many values were at most each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, number of values up to it), as Prometheus shows them."""
        total, found = 0, []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Tally:
    """Counts of one process since it started. Operations are counted apart from commands."""

    def __init__(self) -> None:
        self.commands_accepted: Counter[str] = Counter()
        self.commands_durable: Counter[str] = Counter()
        self.repeated = 0
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.skipped: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.responses: Counter[tuple[str, int]] = Counter()
        self.rollbacks: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.commit_seconds = Spread(SECONDS)
        self.group_sizes = Spread(SIZES)

    # --- the writer ---------------------------------------------------------------------------------------------

    def accepted(self, request: Request) -> None:
        """A request waits for its commit."""
        if not isinstance(request, Operation):
            self.commands_accepted[request.actor] += len(request.commands)

    def committed(self, size: int, seconds: float, repeated: int) -> None:
        """A group of requests is durable; so many of its events and identity commands were there before."""
        self.group_sizes.add(size)
        self.commit_seconds.add(seconds)
        self.repeated += repeated

    def durable(self, request: Request, reply: Reply) -> None:
        """A request of a committed group."""
        if isinstance(request, Operation):
            if not request.dry_run and request.kind != "preview":
                assert not isinstance(reply, Done)
                self.outcomes[request.kind, reply.outcome] += 1
                self.repeated += bool(reply.extra.get("repeated"))
            return
        assert isinstance(reply, Done)
        self.commands_durable[request.actor] += len(request.commands)
        self.repeated += len(request.commands) - len(reply.outcomes)  # what was on the browser's other device already
        kinds, outcomes = set(map(type, request.commands)), set(reply.outcomes)
        if len(kinds) == len(outcomes) == 1:  # nothing but events, mostly
            self.outcomes[_kind(kinds.pop()), outcomes.pop()] += len(reply.outcomes)
            return
        for command, outcome in zip(request.commands, reply.outcomes, strict=False):
            self.outcomes[_kind(type(command)), outcome] += 1

    def rolled_back(self, code: str) -> None:
        """A group left nothing behind."""
        self.rollbacks[code] += 1

    # --- retention ----------------------------------------------------------------------------------------------

    def remove(self, removed: dict[str, int]) -> None:
        """Things were kept long enough."""
        self.removed.update({what: count for what, count in removed.items() if count})

    # --- the front doors ------------------------------------------------------------------------------------------

    def skip(self, skipped: Iterable[Skipped]) -> None:
        """Entries that were left out of a request that was taken."""
        for entry in skipped:
            self.skipped[entry.code] += 1

    def refuse(self, code: str) -> None:
        """A request was refused as a whole, before anything of it was kept."""
        self.refused[code] += 1

    def respond(self, door: str, status: int) -> None:
        """A request was answered."""
        self.responses[door, status] += 1
