"""The ledger of a person as a story: one sentence a fact, who said it, and whether it can be undone. Pure."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.console.words import PROOFS, count
from gateway.identity.decide import UNDOABLE

Json = dict[str, Any]
Part = tuple[str, str]
"""(text, "") for our words, (value, "value") for what somebody typed."""

# (kind, outcome) -> what happened. {who} is the device or whoever asked, {0} and {1} the identities of the fact.
FACTS = {
    ("login", "attached"): "{who} logged in as {0}. All that this visitor did before became theirs.",
    (
        "login",
        "switched",
    ): "{who} logged in as {0} where somebody else was known. A new visitor began.",
    ("login", "noop"): "{who} logged in as {0} once more.",
    ("login", "tentative"): "{who} said {0}. Not believed until an identity token confirms it.",
    ("login", "ghost"): "{who} logged in as {0}, who has too many devices. The events are kept apart.",
    ("login", "refused_blocked"): "{who} tried to log in with a value that names nobody.",
    ("link", "tentative"): "{who} opened a link meant for {0}. A guess until somebody logs in.",
    ("link", "ignored_known"): "{who} opened a link meant for {0}. Somebody was known there already.",
    ("link", "noop"): "{who} opened a link meant for {0} again.",
    ("link", "ghost"): "{who} opened a link meant for {0}, who has too many devices.",
    ("link", "refused_blocked"): "{who} opened a link that names nobody.",
    (
        "link",
        "refused_limit",
    ): "{who} opened a link meant for {0} that was seen too often. It counts for nothing.",
    ("logout", "switched"): "{who} logged out. Whoever came next was a stranger.",
    ("logout", "noop"): "{who} logged out, but nobody was logged in.",
    ("reidentify", "attached"): "{who} became {0}. All that this visitor did before became theirs.",
    ("reidentify", "switched"): "{who} became {0} where somebody else was known. A new visitor began.",
    ("reidentify", "noop"): "{who} said that {1} is {0}, which was known.",
    ("reidentify", "renamed"): "{who} said that {1} is called {0} from now on. Same person, same history.",
    ("reidentify", "merged"): "{who} said that {1} is {0}: the two were merged. Came along: {visitors}.",
    ("reidentify", "aliased"): "{who} became {0}. Nobody was called {1} yet: kept as one more name.",
    ("reidentify", "reserved"): "{who} said that {1} is {0}. Nobody was called {1} yet: kept as one more name.",
    ("reidentify", "held"): "{who} became {0} and added that this is {1}, without proof.",
    ("reidentify", "ghost"): "{who} became {0}, who has too many devices. The events are kept apart.",
    ("reidentify", "refused_blocked"): "{who} asked to join a value that names nobody. Refused.",
    ("reidentify", "refused_excluded"): "{who} said that {1} is {0}. They were taken apart on purpose and stay apart.",
    ("reidentify", "refused_limit"): "{who} said that {1} is {0}. Together they would have too many devices.",
    ("merge", "merged"): "{who} merged {1} into {0}. Came along: {visitors}, {identities}.",
    ("merge", "noop"): "{who} merged {1} and {0}, who were one person already.",
    ("demerge", "demerged"): "{who} reset the identities of {0}: every device became a stranger of its own.",
    ("unlink", "unlinked"): "{who} took a device off this person. Left with it: {visitors}.",
    ("undo", "undone"): "{who} undid what had joined {1} and {0}: as if it had never happened.",
    ("delete", "deleted"): "{who} deleted a person.",
}
ONE_NAME = {
    ("merge", "merged"): "{who} merged two profiles. Came along: {visitors}, {identities}.",
    ("undo", "undone"): "{who} undid it: as if it had never happened.",
    ("unlink", "unlinked"): "{who} took the identity {0} off this person.",
}
"""Sentences for facts that name fewer identities than usual."""
SERVER = {("login", "attached"): "{who} told the gateway about {0}.", ("login", "noop"): "{who} spoke of {0} again."}


@dataclass(frozen=True, slots=True)
class Chapter:
    """One fact as it is told. `tone` is plain, joined, apart, guess, held or undone."""

    op_id: str
    at: str
    parts: list[Part]
    because: str
    tone: str
    undoable: bool
    undone: bool
    reason: str
    waits: bool


def tell(facts: Iterable[Json], devices: Mapping[str, str], waiting: Collection[str] = ()) -> list[Chapter]:
    """The story, the newest chapter first; `devices` are their names on the page, `waiting` the held merges' op ids."""
    ordered = sorted(facts, key=lambda f: (f["at"], f["op_id"]), reverse=True)
    return [chapter(fact, devices, waiting) for fact in ordered]


def chapter(fact: Json, devices: Mapping[str, str], waiting: Collection[str] = ()) -> Chapter:
    """One fact as a sentence. A held merge may have been decided since, or the two became one without anybody."""
    kind, outcome, undone = fact["kind"], fact["outcome"], fact["undone_by"] is not None
    waits = fact["op_id"] in waiting
    undoable = kind in ("merge", "reidentify", "demerge", "unlink") and outcome in UNDOABLE and not undone
    return Chapter(
        fact["op_id"],
        fact["at"],
        _fill(_template(fact), fact, devices) + ([(" A merge waits for a decision.", "")] if waits else []),
        PROOFS.get(fact["proof"] or "", "") if kind in ("login", "link", "reidentify") else "",
        _tone(kind, outcome, undone),
        undoable,
        undone,
        fact["reason"] or "",
        waits,
    )


def _template(fact: Json) -> str:
    key = (fact["kind"], fact["outcome"])
    if fact["device_id"] is None and key in SERVER:
        return SERVER[key]
    template = FACTS.get(key, f"{{who}}: {fact['kind']}, {fact['outcome']}.")
    wanted = 2 if "{1}" in template else 1 if "{0}" in template else 0
    names = len(fact["identities"])
    if key == ("unlink", "unlinked"):
        return ONE_NAME[key] if names else template
    return ONE_NAME.get(key, template) if names < wanted else template


def _tone(kind: str, outcome: str, undone: bool) -> str:
    if undone:
        return "undone"
    if outcome == "held" or outcome.startswith("refused"):
        return "held"
    if outcome in ("tentative", "ghost", "ignored_known"):
        return "guess"
    if kind in ("undo", "demerge", "unlink", "delete"):
        return "apart"
    return "joined" if outcome in ("merged", "renamed", "aliased", "reserved") else "plain"


def who(fact: Json, devices: Mapping[str, str]) -> str:
    """Who said or did it: a device by its name on the page, a user of the console, a server."""
    actor = str(fact["actor"])
    if fact["device_id"] is not None:
        return devices.get(fact["device_id"], "Another device")
    if actor.startswith("console:"):
        return actor.removeprefix("console:")
    return "A page" if actor == "page" else "Your server"


def _fill(template: str, fact: Json, devices: Mapping[str, str]) -> list[Part]:
    names = [str(i["value"]) for i in fact["identities"]]
    moved = fact["moved"]
    parts: list[Part] = []
    for text, name, _, _ in string.Formatter().parse(template):
        if text:
            parts.append((text, ""))
        if name == "who":
            parts.append((who(fact, devices), ""))
        elif name == "visitors":
            parts.append((count(moved["visitors"], "visitor"), ""))
        elif name == "identities":
            parts.append((count(moved["identities"], "identity", "identities"), ""))
        elif name is not None:
            place = int(name)
            parts.append((names[place], "value") if place < len(names) else ("somebody", ""))
    return parts
