"""When what a sender says happened is taken to have happened: its clock, corrected where it is wrong, within limits."""

from __future__ import annotations

from gateway.identity.requests import Batch, ServerBatch
from gateway.model import Proof

MAX_PAST = 7 * 24 * 3600 * 1_000_000
MAX_FUTURE = 5 * 60 * 1_000_000
CLOCK_TOLERANCE = 10 * 1_000_000


def trusted(batch: Batch | ServerBatch) -> bool:
    """Whether the times in a batch are those of a server with the secret key: right, and as old as it says."""
    return batch.actor == "server" and not (isinstance(batch, ServerBatch) and batch.proof < Proof.SERVER)


def span(batch: Batch | ServerBatch) -> tuple[int, int]:
    """The earliest and the latest time that is believed."""
    return 0 if trusted(batch) else batch.received_at - MAX_PAST, batch.received_at + MAX_FUTURE


def jumped(clock_offset: int, batch: Batch | ServerBatch) -> bool:
    """Whether the browser's clock, or ours, is not what it was when the device's correction was measured."""
    if isinstance(batch, ServerBatch) or batch.measured is None:
        return False
    return abs(batch.measured - clock_offset) > CLOCK_TOLERANCE


def nth(sent_at: int, n: int) -> int:
    """Commands of a batch carry milliseconds: within one they follow each other by microseconds."""
    return sent_at + (n if n < 999 else 999)
