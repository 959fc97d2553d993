"""Puts what the gateway knows about a browser into words for the live panel: pure, no I/O.

Sentences are lists of parts, `{"text": …}` and `{"value": …}`; a value was typed by somebody and is never markup.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]
Sentence = list[dict[str, str]]

PROOFS = {
    "link_raw": "unsigned mail link",
    "link": "signed mail link",
    "claimed": "the page said so",
    "verified": "identity token",
    "server": "your server said so",
}

# (kind, outcome) -> what happened. {0} is the first identity of the fact, {1} the second, {visitors} what moved.
FACTS = {
    ("login", "attached"): "Logged in as {0}. All that this visitor did before is theirs now.",
    ("login", "switched"): "{0} logged in where somebody else was known. A new turn begins; the two stay apart.",
    ("login", "noop"): "Logged in as {0} once more. Nothing to change.",
    ("login", "tentative"): "The page says {0}. Not believed until an identity token confirms it.",
    ("login", "ghost"): "{0} has too many devices. The visit is kept, the name is not taken.",
    ("login", "refused_blocked"): "The page tried to log in a name that names nobody in particular. It is no identity.",
    ("link", "tentative"): "Opened a mail link for {0}. A guess until somebody logs in.",
    ("link", "ignored_known"): "Opened a mail link for {0}. Somebody is known here already, so it changes nothing.",
    ("link", "noop"): "Opened a mail link for {0} again.",
    ("link", "ghost"): "Opened a mail link for {0}, who has too many devices.",
    ("link", "refused_blocked"): "Opened a mail link that names nobody.",
    ("link", "refused_limit"): "The mail link for {0} was opened on too many devices. It counts for nothing now.",
    ("logout", "switched"): "Logged out. Whoever comes next starts as a stranger.",
    ("logout", "noop"): "Logged out, but nobody was logged in.",
    ("reidentify", "attached"): "This visitor is {0}. All that they did before is theirs now.",
    ("reidentify", "switched"): "{0} logged in where somebody else was known. A new turn begins; the two stay apart.",
    ("reidentify", "noop"): "{0} and {1} were one person already.",
    ("reidentify", "renamed"): "{1} is called {0} from now on. Same profile, same history.",
    ("reidentify", "merged"): "{1} and {0} are one person. Came along: {visitors}.",
    ("reidentify", "aliased"): "Logged in as {0}. Nobody was ever called {1}: kept as one more name.",
    ("reidentify", "reserved"): "Logged in as {0}. Nobody was ever called {1}: kept as one more name.",
    ("reidentify", "held"): "Logged in as {0}. The page adds that this is {1}, and cannot prove it.",
    ("reidentify", "ghost"): "{0} has too many devices. The visit is kept, the name is not taken.",
    ("reidentify", "refused_blocked"): "The page asked to join a name that names nobody. Refused.",
    ("reidentify", "refused_excluded"): "{0} and {1} were taken apart on purpose. They stay apart.",
    ("reidentify", "refused_limit"): "{0} and {1} together would have too many devices.",
    ("merge", "merged"): "{1} and {0} were merged. Came along: {visitors}.",
    ("merge", "noop"): "{0} and {1} were one person already.",
    ("undo", "undone"): "Taken back: {1} and {0} are as if they had never met.",
}

SERVER_FACTS = {
    ("login", "attached"): "Your server told the gateway about {0}.",
    ("login", "noop"): "Your server told the gateway about {0} again.",
}

ERRORS = {
    "blocked_identity": "A name that names nobody",
    "device_limit": "Too many devices",
    "needs_proof": "A claim without proof",
    "excluded_pair": "Kept apart by hand",
    "link_contradicted": "The mail link was wrong",
    "link_for_other_user": "Somebody else's mail link",
    "conflicting_links": "Two mail links disagree",
    "token_quarantined": "A mail link seen too often",
    "bad_identity_token": "A bad identity token",
    "spoofed_system_event": "A system event from a page",
}


def describe(panel: Json) -> Json:
    """The live panel: who this browser is, its turns, the ledger as sentences, notes, and the latest events."""
    profile, turns, device_id = panel["profile"], panel["turns"], panel["device_id"]
    return {
        "who": _who(profile, tentative=bool(turns) and turns[-1]["tentative"]),
        "profile": profile and _facts_of(profile),
        "turns": [_turn(turn) for turn in turns] if len(turns) > 1 else [],
        "story": [tell(fact) for fact in sorted(panel["facts"], key=_order, reverse=True)],
        "notes": [*_held(panel["held"]), *_errors(panel["identity_errors"])],
        "events": [_event(event, device_id) for event in panel["events"]],
    }


def _order(fact: Json) -> tuple[str, str]:
    return fact["at"], fact["op_id"]


def _who(profile: Json | None, *, tentative: bool) -> Json:
    if profile is None:
        return _nobody("unseen", "a new browser", "It has no cookie of the gateway yet.")
    if not profile["identities"]:
        return _nobody("anonymous", "a stranger", "Known by its cookie only. Nobody logged in.")
    primary, title = str(profile["primary"] or "somebody"), _title(profile)
    names = len(profile["identities"])
    line = "Known by one name." if names == 1 else f"One person, {names} names."
    return {
        "state": "tentative" if tentative else "known",
        "title": title,
        "primary": primary if primary != title else "",
        "initial": title[0].upper(),
        "line": "Only a guess, from a mail link, until somebody logs in." if tentative else line,
    }


def _title(profile: Json) -> str:
    """What a person is called: by name if there is one, else by the primary identity."""
    name = profile["properties"].get("name") or profile["properties"].get("first_name")
    return name if isinstance(name, str) else str(profile["primary"] or "somebody")


def _turn(turn: Json) -> Json:
    profile = turn["profile"]
    known = profile is not None and profile["identities"]
    return {
        "title": _title(profile) if known else "a stranger",
        "line": ", ".join(filter(None, (turn["name"], "{number} {noun}".format(**_count(turn["events"], "event"))))),
        "state": "tentative" if turn["tentative"] else "known" if known else "anonymous",
    }


def _nobody(state: str, title: str, line: str) -> Json:
    return {"state": state, "title": title, "primary": "", "initial": "?", "line": line}


def _facts_of(profile: Json) -> Json:
    visitors = profile["visitors"]
    devices = {visitor["device_id"] for visitor in visitors if visitor["device_id"]}
    return {
        "identities": [
            {**identity, "because": PROOFS.get(identity["proof"], identity["proof"])}
            for identity in profile["identities"]
        ],
        "primary": profile["primary"],
        "counts": [
            _count(len(devices), "browser"),
            _count(len(visitors), "visitor"),
            _count(profile["events"], "event"),
        ],
        "server_side": any(visitor["device_id"] is None for visitor in visitors),
        "subscribed": profile["subscribed"],
        "properties": {key: str(value)[:120] for key, value in list(profile["properties"].items())[:8]},
        "tags": profile["tags"][:8],
    }


def _count(number: int, noun: str) -> Json:
    return {"number": number, "noun": noun if number == 1 else f"{noun}s"}


def tell(fact: Json) -> Json:
    """One fact of the ledger as a sentence."""
    kind, outcome = fact["kind"], fact["outcome"]
    server = SERVER_FACTS.get((kind, outcome)) if fact["proof"] == "server" else None
    template = server or FACTS.get((kind, outcome)) or f"{kind}: {outcome}"
    return {
        "op_id": fact["op_id"],
        "at": fact["at"],
        "kind": kind,
        "outcome": outcome,
        "because": PROOFS.get(fact["proof"] or "", ""),
        "sentence": _fill(template, fact),
        "tone": _tone(outcome, fact["undone_by"]),
    }


def _tone(outcome: str, undone_by: str | None) -> str:
    if undone_by:
        return "undone"
    if outcome == "held" or outcome.startswith("refused"):
        return "held"
    if outcome in ("tentative", "ghost", "ignored_known"):
        return "guess"
    if outcome in ("merged", "renamed", "aliased", "reserved"):
        return "joined"
    return "plain"


def _fill(template: str, fact: Json) -> Sentence:
    values = [_value(identity) for identity in fact["identities"]]
    visitors = fact["moved"]["visitors"]
    parts: Sentence = []
    for text, name, _, _ in string.Formatter().parse(template):
        if text:
            parts.append({"text": text})
        if name == "visitors":
            parts.append({"text": f"{visitors} visitor{'' if visitors == 1 else 's'}"})
        elif name is not None:
            place = int(name)
            parts.append({"value": values[place] if place < len(values) else "somebody"})
    return parts


def _value(identity: Any) -> str:
    return str(identity["value"]) if isinstance(identity, dict) else str(identity)


def _held(held: Iterable[Json]) -> list[Json]:
    return [
        {
            "tone": "held",
            "title": "Held merge",
            "sentence": _fill("Is {1} the same person as {0}? Nothing moves until an operator says so.", fact),
        }
        for fact in held
    ]


def _errors(errors: Iterable[Json]) -> list[Json]:
    return [
        {
            "tone": "error",
            "title": ERRORS.get(error["code"], error["code"]),
            "code": error["code"],
            "sentence": [{"text": f"{error['message'][:1].upper()}{error['message'][1:]}."}],
        }
        for error in errors
    ]


def _event(event: Json, device_id: str | None) -> Json:
    where = "" if event["device_id"] == device_id else "from your server" if event["device_id"] is None else "elsewhere"
    return {
        "event_id": event["event_id"],
        "at": event["occurred_at"],
        "name": event["name"],
        "detail": _detail(event),
        "where": where,
    }


def _detail(event: Json) -> str:
    """The first few plain values of an event, an address without its host."""
    data = {key: value for key, value in (event["data"] or {}).items() if isinstance(value, str | int | float)}
    if "url" in data:
        return urlsplit(str(data["url"])).path[:120]
    return ", ".join(f"{key} {value}" for key, value in list(data.items())[:3])[:120]
