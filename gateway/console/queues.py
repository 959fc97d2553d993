"""What waits for an operator: held merges, duplicates, values that were blocked or quarantined."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from gateway.bulk.merges import (
    RULES,
    Group,
    Merged,
    duplicates,
    merge_groups,
    operations_of,
    target_of,
    undo_batch,
)
from gateway.console.calls import Asked, Page
from gateway.console.changes import reason_of, said
from gateway.console.words import count
from gateway.errors import BadRequest, NotFound
from gateway.identity.rules import is_customer_number
from gateway.store.accounts import Entry

log = logging.getLogger("gateway.console")

GROUPS = 50
HELD = 20
STARTED, UNDONE, ENDED = "started a batch", "undid a batch", "ended a batch"


# --- held merges ------------------------------------------------------------------------------------------------------


async def held(asked: Asked) -> Response:
    """Merges that a browser asked for and could not prove."""
    waiting = (await asked.reader.held())["held"]
    shown = waiting[:HELD]
    people = await asked.reader.people({int(h[side]) for h in shown for side in ("target", "source")})
    pairs = [(h, people[int(h["target"])], people[int(h["source"])]) for h in shown
             if int(h["target"]) in people and int(h["source"]) in people]  # fmt: skip
    return await asked.show("held.html", pairs=pairs, left=len(waiting) - len(shown))


async def decide(asked: Asked) -> Response:
    """An operator's word on one of them."""
    what, op_id = asked.form.get("what", ""), asked.form.get("op", "")
    if what not in ("approve", "reject"):
        raise BadRequest("approve or reject it", "press one of the two buttons")
    answer = await asked.operate(what, of=op_id, reason=reason_of(asked))
    root = await asked.reader.root(answer.node) if answer.node else None
    asked.about(f"profile {root}" if root else "", f"{what}: {answer.outcome}, {op_id}")
    line, tone = said(answer.outcome) if what == "approve" else ("Rejected. The two stay apart.", "good")
    return asked.back(asked.to("held"), line, tone)


# --- duplicates -------------------------------------------------------------------------------------------------------


async def find_duplicates(asked: Asked) -> Response:
    """People who show one address."""
    groups = await duplicates(asked.gateway, asked.site)
    shown = groups[:GROUPS]
    people = await asked.reader.people({int(p) for g in shown for p in g.profiles})
    listed = []
    for group in shown:
        members = [people[int(p)] for p in group.profiles if int(p) in people]
        numbers = [w for w in members if any(is_customer_number(i.key) for i in w.identities)]
        keep = (numbers or sorted(members, key=lambda w: (w.first_seen, w.profile_id)))[:1]
        if len(members) > 1:
            listed.append((group.email, members, keep[0].profile_id, len(numbers) > 1))
    return await asked.show("duplicates.html", groups=listed, total=len(groups))


async def ticked(asked: Asked) -> list[Group]:
    """The groups of the form that were ticked, each with whom to keep."""
    known = {g.email: g for g in await duplicates(asked.gateway, asked.site)}
    groups: list[Group] = []
    for n in asked.form.getlist("group"):
        group, keep = known.get(asked.form.get(f"email-{n}", "")), asked.form.get(f"keep-{n}", "")
        if group is not None and keep in group.profiles:
            groups.append(Group(group.email, group.profiles, keep))
    return groups


async def by_rule(asked: Asked, rule: str) -> list[Group]:
    """All groups for which a rule says whom to keep."""
    if rule not in RULES:
        raise BadRequest("there is no such rule", "choose one of the list")
    groups = await duplicates(asked.gateway, asked.site)
    people = await asked.reader.people({int(p) for g in groups for p in g.profiles})
    for group in groups:
        members = [people[int(p)] for p in group.profiles if int(p) in people]
        group.target = target_of(rule, members)[0] if members else ""
    return [g for g in groups if g.target]


async def merge_duplicates(asked: Asked) -> Response:
    """Begins a batch of the ticked groups, or of all that a rule decides; its page shows how far it is."""
    rule = asked.form.get("rule", "")
    groups = await (by_rule(asked, rule) if rule else ticked(asked))
    if not groups:
        hint = "decide them one by one" if rule else "tick those that are one person"
        raise BadRequest("the rule decides about none of them" if rule else "no group was ticked", hint)
    batch, total = f"console-{secrets.token_hex(6)}", sum(len(g.profiles) - 1 for g in groups)
    asked.about(f"batch {batch}", count(total, "merge"))

    async def work() -> Merged:
        actor = f"console:{asked.user.name}"
        return await merge_groups(asked.gateway, asked.site, groups, batch, lambda _: None, actor=actor)

    await in_background(asked, batch, work)
    return asked.back(asked.to(f"batches/{batch}"))


async def in_background(asked: Asked, batch: str, work: Callable[[], Awaitable[Merged]]) -> None:
    """Does long work after the answer; the audit log says how it ended, which is also what the batch's page reads."""

    await asked.note()

    async def run() -> None:
        try:
            done = await work()
            detail = ", ".join(f"{outcome}: {n}" for outcome, n in sorted(done.outcomes.items()))
        except Exception as error:
            log.exception("a batch of the console broke off")
            detail = f"broke off: {type(error).__name__}"
        await asked.console.log(asked, ENDED, f"batch {batch}", detail)

    task = asyncio.create_task(run())
    asked.console.tasks.add(task)
    task.add_done_callback(asked.console.tasks.discard)


async def begun(asked: Asked, name: str) -> Entry:
    """The line of the audit log that began a batch of this site. Raises NotFound."""
    started = await asked.console.access.accounts.noted(STARTED, f"batch {name}")
    if started is None or started.site_id != asked.site.site_id:
        raise NotFound("there is no such batch", "batches are begun under Duplicates")
    return started


async def batch(asked: Asked) -> Response:
    """How far a batch is, from the ledger: any process of the gateway can tell."""
    name, accounts = asked.path["batch"], asked.console.access.accounts
    started = await begun(asked, name)
    undone = await accounts.noted(UNDONE, f"batch {name}")
    ended = await accounts.noted(ENDED, f"batch {name}")
    latest = undone or started
    operations = [o async for o in operations_of(asked.gateway, asked.site, name)]
    return await asked.show(
        "batch.html",
        batch=name,
        total=int(started.detail.partition(" ")[0].replace(",", "")),
        done=len(operations),
        joined=sum(still for _, still in operations),
        undoing=undone is not None,
        ended=ended if ended is not None and ended.at >= latest.at else None,
    )


async def undo_whole_batch(asked: Asked) -> Response:
    """Takes a batch back, the last merge first."""
    name = asked.path["batch"]
    asked.about(f"batch {name}", (await begun(asked, name)).detail)

    async def work() -> Merged:
        return await undo_batch(asked.gateway, asked.site, name, lambda _: None, actor=f"console:{asked.user.name}")

    await in_background(asked, name, work)
    return asked.back(asked.to(f"batches/{name}"))


# --- blocked and quarantined ------------------------------------------------------------------------------------------


async def blocked(asked: Asked) -> Response:
    """Values that never become identities, and links that were seen too often."""
    reader = asked.reader
    values, links = [await reader.refused_values(c) for c in ("blocked_identity", "token_quarantined")]
    homes = await reader.roots({r["home"] for r in links})
    people = await reader.called(set(homes.values()))
    owners = {r["subject"]: (homes[r["home"]], people.get(homes[r["home"]])) for r in links if r["home"] in homes}
    return await asked.show("blocked.html", values=values, links=links, owners=owners)


PAGES = (
    Page("GET", "/s/{site}/held", held, nav="Held merges", action="looked at"),
    Page("POST", "/s/{site}/held", decide, role="editor", action="decided a held merge"),
    Page("GET", "/s/{site}/duplicates", find_duplicates, nav="Duplicates", action="looked at"),
    Page("POST", "/s/{site}/duplicates", merge_duplicates, role="editor", action=STARTED),
    Page("GET", "/s/{site}/batches/{batch}", batch),
    Page("POST", "/s/{site}/batches/{batch}", undo_whole_batch, role="editor", action=UNDONE),
    Page("GET", "/s/{site}/blocked", blocked, nav="Blocked"),
)
