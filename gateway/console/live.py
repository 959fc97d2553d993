"""What arrives, as it arrives: commands that were kept from the database, those that were refused from this process."""

from __future__ import annotations

import re
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response

from gateway.advice import HOW_IDENTITY, REFUSED, how_to_write
from gateway.console.calls import Asked, Page
from gateway.console.recent import Recent
from gateway.context import Gateway
from gateway.model import GONE, Fact, now
from gateway.observe import Pushed, Turned
from gateway.sites import Sites

SHOWN = 100
DAY = 24 * 3600 * 1000
KEPT = 100
"""How many refusals of each site are remembered, and how many kinds of requests that were refused as a whole."""
READ = 4096
NOTED_FOR = 12 * 3600
AGAIN = 2000
KEY = re.compile(rb'"key"\s*:\s*"([0-9a-f]{40})"')
NO_SITE = 0


@dataclass(slots=True)
class Line:
    """One thing that arrived `at`. `tone` is good, plain, guess or bad; `times` how often it did.

    Whose it is depends on when it happened on its device, the `moment`: as it arrived, if it does not say.
    """

    at: int
    what: str
    outcome: str
    tone: str = "plain"
    why: str = ""
    how: str = ""
    where: str = ""
    device_id: int = 0
    op_id: str = ""
    times: int = 1
    moment: int = 0

    @property
    def where_and_when(self) -> tuple[int, int]:
        """The device, and when it happened there."""
        return self.device_id, self.moment or self.at


@dataclass(slots=True)
class Refusals:
    """What this process did not keep, by site: entries that were skipped, and requests that were refused whole.

    Requests are counted by what is wrong with them, so that one page in a loop does not hide all others.
    """

    sites: Sites
    skipped: dict[int, deque[Line]] = field(default_factory=dict)
    turned_away: OrderedDict[tuple[int, str, str], Line] = field(default_factory=OrderedDict)

    def pushed(self, pushed: Pushed) -> None:
        """A page's request was taken; some entries may have been left out."""
        if not pushed.skipped:
            return
        lines = self.skipped.setdefault(pushed.site.site_id, deque(maxlen=KEPT))
        for entry in pushed.skipped[:KEPT]:
            how, why = how_to_write(entry.command), entry.reason[:300]
            lines.append(Line(pushed.received_at, _name(entry.command), "skipped", "bad", why, how[:300],
                              device_id=pushed.device_id))  # fmt: skip

    def turned(self, turned: Turned) -> None:
        """A request was refused as a whole."""
        found = KEY.search(turned.raw[:READ])
        site = self.sites.known(found[1].decode()) if found else None
        error, origin = turned.error, turned.origin[:200]
        kind = (site.site_id if site else NO_SITE, error.code, origin)
        line = self.turned_away.pop(kind, None) or Line(0, "a whole request", "refused", "bad", where=origin, times=0)
        line.at, line.why, line.how, line.times = now(), error.message[:300], error.hint[:300], line.times + 1
        self.turned_away[kind] = line
        if len(self.turned_away) > KEPT:
            self.turned_away.popitem(last=False)

    def of(self, site_id: int) -> list[Line]:
        """What was refused of a site; of site 0 what named none."""
        turned = [line for (site, _, _), line in self.turned_away.items() if site == site_id]
        return [*self.skipped.get(site_id, ()), *turned]


def _name(command: Any) -> str:
    """What a command is called, as far as it is one."""
    first = command[0] if isinstance(command, list) and command else command
    return first[:60] if isinstance(first, str) else "not a command"


def watch(gateway: Gateway) -> Refusals:
    """Begins to remember what a gateway refuses."""
    refusals = Refusals(gateway.sites)
    gateway.observers.append(refusals)
    return refusals


# --- what was kept ----------------------------------------------------------------------------------------------------


TONES = {"held": "guess", "tentative": "guess", "ghost": "guess", "ignored_known": "plain", "noop": "plain"}


def of_event(row: Mapping[str, Any]) -> Line:
    """An event that was kept."""
    page = msgspec.json.decode(row["page"]) if row["page"] else {}
    where = "your server" if row["server"] else _shown(page.get("url"))
    return Line(row["received_at"], row["name"], "kept", "good", where=where, device_id=row["device_id"],
                op_id=row["message_id"], moment=row["occurred_at"])  # fmt: skip


def _shown(url: object) -> str:
    """An address without what follows its path: that may hold anything."""
    return re.split(r"[?#]", url)[0][:200] if isinstance(url, str) else ""


def of_fact(fact: Fact) -> Line:
    """What the ledger says about identities."""
    tone = "bad" if fact.outcome.startswith("refused") else TONES.get(fact.outcome, "good")
    named = " <- ".join(key[1] for key in fact.identities if key and key[0] != GONE)[:200]
    why = REFUSED.get(fact.outcome, "")
    return Line(fact.committed_at, f"{fact.kind} {named}".strip(), fact.outcome, tone, why, where=_by(fact.actor),
                device_id=fact.device_id, op_id=fact.op_id, moment=fact.at)  # fmt: skip


def _by(actor: str) -> str:
    """Who else than a page asked."""
    if actor == "page":
        return ""
    return f"{actor.removeprefix('console:')}, here" if actor.startswith("console:") else "your server"


async def lines(recent: Recent, refused: list[Line]) -> tuple[list[Line], dict[tuple[int, int], tuple[int, str]]]:
    """The latest lines, newest first, and (profile, name) of whose turn it was on each one's device then."""
    kept = [*map(of_event, await recent.latest_events(SHOWN, DAY)), *map(of_fact, await recent.latest_facts(SHOWN))]
    found = [*kept, *refused]
    errors = {e["op_id"]: e for e in await recent.latest_errors(SHOWN)}
    for line in found:
        if (error := errors.get(line.op_id)) is not None and line.op_id:
            line.why, line.how, line.tone = error["message"], HOW_IDENTITY.get(error["code"], ""), "bad"
            del errors[line.op_id]
    found += [Line(e["at"], "identity error", e["code"], "bad", e["message"], HOW_IDENTITY.get(e["code"], ""),
                   device_id=e["device_id"], times=e["seen"]) for e in errors.values()]  # fmt: skip
    newest = sorted(found, key=lambda line: -line.at)[:SHOWN]
    return newest, await recent.who_was({line.where_and_when for line in newest if line.device_id})


async def live(asked: Asked) -> Response:
    """The latest, asked for again by the page itself until it is paused."""
    console = asked.console
    await note_once(asked)
    refused = console.refusals.of(asked.site.site_id)
    only = asked.query.get("show") == "trouble"
    shown, people = await lines(Recent(asked.gateway, asked.site), refused)
    if only:
        shown = [line for line in shown if line.tone in ("bad", "guess")]
    return await asked.show(
        "live.html",
        lines=shown,
        people=people,
        only=only,
        nobodys=console.refusals.of(NO_SITE) if asked.may("admin") else [],
        paused=asked.query.get("paused") == "1",
        again=AGAIN,
    )


async def note_once(asked: Asked) -> None:
    """Whoever watches is noted when they begin to, not with every look."""
    seen, at = asked.console.watching, time.monotonic()
    who = (asked.cookie, asked.site.site_id)
    opened = asked.request.headers.get("sec-fetch-dest", "document") != "empty"
    if not opened and at - seen.get(who, -NOTED_FOR) < NOTED_FOR:
        return
    for old in [w for w, since in seen.items() if at - since > NOTED_FOR]:
        del seen[old]
    seen[who] = at
    asked.about("live view")


PAGES = (Page("GET", "/s/{site}/live", live, action="looked at", nav="Live"),)
