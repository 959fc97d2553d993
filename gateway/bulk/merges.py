"""`gateway merge` and `gateway duplicates`: many merges under one batch id, by which all of them can be taken back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.bulk.table import Row, Table
from gateway.commands import identity
from gateway.context import Gateway
from gateway.errors import BadRequest, GatewayError, NotFound, Unavailable
from gateway.exports import Exports, Whole
from gateway.identity import rules
from gateway.identity.ledger import JOINED
from gateway.identity.requests import Operation, Person
from gateway.model import Site

MAX_ERRORS = 100
RULES = ("newest", "customer-number")
DONE = (*JOINED, "noop", "undone", "nothing_to_undo")
"""Outcomes after which nothing is left to do."""


@dataclass(slots=True)
class Merged:
    """How a batch went. `repeated`: rows that had been carried out before, with the outcome of then."""

    batch: str
    dry_run: bool = False
    rows: int = 0
    repeated: int = 0
    failed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """One row's outcome; `message` says why it was not carried out."""

    line: int
    source: str
    target: str
    outcome: str
    message: str = ""
    repeated: bool = False

    @property
    def failed(self) -> bool:
        """Whether somebody should look at it."""
        return self.outcome not in DONE


@dataclass(slots=True)
class Group:
    """Profiles that show one email address, and what a rule makes of them: a target, or why there is none."""

    email: str
    profiles: list[str]
    target: str = ""
    reason: str = ""


def check_batch(batch: str) -> str:
    """A batch id. Raises BadRequest for one that cannot be part of an op id."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", batch):
        raise BadRequest(f"a batch cannot be called {batch[:60]!r}", "use up to 40 letters, digits, - and _")
    return batch


def reason_of(batch: str) -> str:
    """What the facts of a batch give as their reason."""
    return f"batch {batch}"


def pair_columns(header: Sequence[str]) -> tuple[int, int]:
    """Where `old` and `new` are. Raises BadRequest if the header does not name them."""
    names = [c.lower() for c in header]
    if "old" not in names or "new" not in names:
        raise BadRequest(f"the columns are {', '.join(header)}", "the first line must name the columns old and new")
    return names.index("old"), names.index("new")


async def merge_file(
    gateway: Gateway, site: Site, table: Table, batch: str, hear: Callable[[Result], object], *, dry_run: bool = False
) -> Merged:
    """Makes every `old` of a file the same person as its `new`, in order; a row done before is not done again.

    With `dry_run` each row is decided by itself, on what is there now, and nothing is kept. Raises Unavailable when the
    database cannot be written; what was carried out is answered as it was when the same batch is run again.
    """
    old_column, new_column = pair_columns(table.header)
    merged = Merged(batch, dry_run)
    for row in table.rows():
        result = await merge_row(gateway, site, batch, row, old_column, new_column, dry_run=dry_run)
        count(merged, result)
        hear(result)
    return merged


async def merge_row(
    gateway: Gateway, site: Site, batch: str, row: Row, old_column: int, new_column: int, *, dry_run: bool
) -> Result:
    """One row: a reidentify."""
    if row.problem:
        return Result(row.line, "", "", "not_read", row.problem)
    old_text, new_text = row.cells[old_column].strip(), row.cells[new_column].strip()
    result = Result(row.line, old_text, new_text, "")
    (old, blocked_old), (new, blocked_new) = identity(old_text), identity(new_text)
    if old is None or new is None:
        result.outcome, result.message = "refused_blocked", blocked_old or blocked_new or "not an id"
        return result
    people = [Person(key=new), Person(key=old)]
    op_id = f"{batch}-{row.line}"
    return await carry_out(
        gateway, Operation(site, "reidentify", op_id, people, reason=reason_of(batch), dry_run=dry_run), result
    )


async def carry_out(gateway: Gateway, operation: Operation, result: Result) -> Result:
    """Runs one operation and notes its outcome. Raises Unavailable."""
    try:
        answer = await gateway.writer.operation(operation)
    except Unavailable:
        raise
    except GatewayError as error:
        result.outcome, result.message = error.code, error.message
    else:
        result.outcome, result.repeated = answer.outcome, bool(answer.extra.get("repeated"))
    return result


def count(merged: Merged, result: Result) -> None:
    """Adds a row to the sums; the first hundred that failed are kept."""
    merged.rows += 1
    merged.repeated += result.repeated
    merged.outcomes[result.outcome] += 1
    if result.failed:
        merged.failed += 1
        if len(merged.errors) < MAX_ERRORS:
            row = {"line": result.line, "old": result.source, "new": result.target}
            merged.errors.append(row | {"outcome": result.outcome, "message": result.message})


async def undo_batch(
    gateway: Gateway,
    site: Site,
    batch: str,
    hear: Callable[[Result], object],
    *,
    actor: str = "server",
    dry_run: bool = False,
    tell: Callable[[int, int], object] = lambda done, total: None,
) -> Merged:
    """Takes back what a batch joined, the last first. Raises NotFound for a batch that never was.

    `tell` hears how many are done, and of how many. With `dry_run` each is decided by itself, on what is there now, and
    nothing is kept.
    """
    merged = Merged(batch, dry_run)
    op_ids = [o async for o in operations_of(gateway, site, batch)]
    if not op_ids:
        raise NotFound(f"there is no batch {batch!r}", "gateway merge prints the id of its batch")
    for done, (op_id, open_still) in enumerate(op_ids):
        tell(done, len(op_ids))
        if not open_still:
            merged.rows += 1
            continue
        number = op_id.rpartition("-")[2]
        result = Result(int(number), op_id, "", "")
        operation = Operation(site, "undo", "", of=op_id, reason=reason_of(batch), actor=actor, dry_run=dry_run)
        count(merged, await carry_out(gateway, operation, result))
        hear(result)
    return merged


async def operations_of(gateway: Gateway, site: Site, batch: str) -> AsyncIterator[tuple[str, bool]]:
    """The op ids of a batch, the last first, and whether each joined something that is still joined."""
    sql = (
        "/* ledger.batch */ select op_id, outcome, undone_by from ledger where site_id = $1 and op_id >= $2"
        " and op_id < $3 and device_id = 0 and kind <> 'undo' and reason = $4 order by seq desc"
    )
    names = (f"{batch}-", f"{batch}.")
    for row in await gateway.store.read(sql, site.site_id, *names, reason_of(batch)):
        yield row["op_id"], row["outcome"] in JOINED and row["undone_by"] is None


# --- duplicates -------------------------------------------------------------------------------------------------------


async def duplicates(gateway: Gateway, site: Site, rule: str = "") -> list[Group]:
    """Groups of profiles that show one address; with a rule, the one that the others would be merged into."""
    if rule and rule not in RULES:
        raise BadRequest(f"there is no rule {rule!r}", f"use one of {', '.join(RULES)}")
    found = await gateway.lists(site).duplicates()
    groups = [Group(d["email"], d["profiles"]) for d in found["duplicates"]]
    exports = Exports(gateway, site)
    for group in groups if rule else ():
        people = await exports.people([int(p) for p in group.profiles])
        group.target, group.reason = target_of(rule, people.values())
    return groups


def target_of(rule: str, people: Iterable[Whole]) -> tuple[str, str]:
    """(the profile to keep, "") or ("", why the rule does not choose one)."""
    people = list(people)
    numbers = {w.profile_id: {i.key for i in w.identities if rules.is_customer_number(i.key)} for w in people}
    named = [p for p, keys in numbers.items() if keys]
    if len(named) > 1:
        return "", "several have a customer number: they may be different people"
    if rule == "newest":
        return str(max(people, key=lambda w: (w.first_seen, w.profile_id)).profile_id), ""
    return (str(named[0]), "") if named else ("", "none has a customer number")


async def merge_groups(
    gateway: Gateway,
    site: Site,
    groups: Iterable[Group],
    batch: str,
    hear: Callable[[Result], object],
    *,
    actor: str = "server",
    tell: Callable[[int, int], object] = lambda done, total: None,
) -> Merged:
    """Merges every group that has a target into it; `tell` hears how many groups are done, and of how many."""
    merged = Merged(batch)
    groups = [g for g in groups if g.target]
    number = 0
    for done, group in enumerate(groups):
        tell(done, len(groups))
        for source in group.profiles:
            if source == group.target:
                continue
            number += 1
            people = [Person(profile_id=int(group.target)), Person(profile_id=int(source))]
            operation = Operation(site, "merge", f"{batch}-{number}", people, reason=reason_of(batch), actor=actor)
            result = await carry_out(gateway, operation, Result(number, source, group.target, ""))
            count(merged, result)
            hear(result)
    return merged
