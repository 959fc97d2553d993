"""How the console puts things: times, numbers, names of people and devices. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from gateway.exports import Whole

ROLES_ALLOWED = {"viewer": "users", "editor": "editors and admins", "admin": "admins"}
MAX_SHOWN = 400
MAX_TITLE = 80

PROOFS = {
    "link_raw": "an unsigned link",
    "link": "a signed link",
    "claimed": "a page said so",
    "verified": "an identity token",
    "server": "your server said so",
}
"""How well an identity is proven, weakest first."""

ERRORS = {
    "blocked_identity": "A value that names nobody",
    "device_limit": "Too many devices",
    "needs_proof": "A claim without proof",
    "excluded_pair": "Kept apart on purpose",
    "link_contradicted": "A link was wrong",
    "link_for_other_user": "Somebody else's link",
    "conflicting_links": "Two links disagree",
    "token_quarantined": "A link seen too often",
    "bad_identity_token": "A bad identity token",
    "spoofed_system_event": "A forged system event",
}
"""What the codes of identity errors mean."""


def instant(at: int | str) -> datetime:
    """A time from microseconds or ISO 8601."""
    if isinstance(at, int):
        return datetime.fromtimestamp(at / 1_000_000, UTC)
    return datetime.fromisoformat(at).astimezone(UTC)


def when(at: int | str | None, empty: str = "never") -> Markup:
    """A time for people: UTC as it stands, in the reader's zone once the script has run."""
    if not at:
        return escape(empty)
    moment = instant(at)
    exact = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}">{} UTC</time>').format(exact, moment.strftime("%-d %b %Y, %H:%M"))


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: 1 device, 2 devices, 12,000 events."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def value(shown: Any) -> str:
    """A property's value: text as it is, anything else as JSON; long ones are cut."""
    text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def sentence(text: str) -> str:
    """The first letter made a capital; code begins as it is."""
    return text if text.startswith("_") else text[:1].upper() + text[1:]


def pretty(shown: Any) -> str:
    """JSON, indented."""
    return json.dumps(shown, ensure_ascii=False, indent=2)


def name_of(properties: Mapping[str, Any]) -> str:
    """What a person is called by their properties, "" if they do not say."""
    for key in ("name", "full_name", "first_name"):
        given = properties.get(key)
        if isinstance(given, str) and given.strip():
            last = properties.get("last_name") if key == "first_name" else None
            return f"{given} {last}".strip() if isinstance(last, str) else given
    return ""


def title(person: Whole) -> str:
    """What a person is called: their name, else their primary identity, else what can be said."""
    primary = person.primary[1] if person.primary else ""
    text = name_of(person.properties) or primary or f"Visitor …{str(person.profile_id)[-6:]}"
    return text if len(text) <= MAX_TITLE else text[:MAX_TITLE] + "…"


def device_label(context: Mapping[str, Any] | None) -> str:
    """What a browser said about itself, in a few words; "" if nothing."""
    if not context:
        return ""
    ua = context.get("ua")
    hints: Mapping[str, Any] = ua if isinstance(ua, dict) else context
    brands = hints.get("brands")
    named = [b.get("brand") for b in brands if isinstance(b, dict)] if isinstance(brands, list) else []
    browser = next((b for b in reversed(named) if isinstance(b, str) and "Not" not in b), "")
    mobile = "mobile" if hints.get("mobile") is True else ""
    words = [browser, hints.get("platform"), mobile, context.get("screen"), context.get("timezone")]
    return ", ".join(w[:60] for w in words if isinstance(w, str) and w)


def letters(number: int) -> str:
    """A, B … Z, AA, AB: how devices are told apart on a page."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(65 + digit) + text
    return text


FILTERS = {
    "when": when,
    "count": count,
    "value": value,
    "pretty": pretty,
    "sentence": sentence,
    "proof": lambda label: PROOFS.get(label or "", label or ""),
    "error_title": lambda code: ERRORS.get(code, code),
    "title_of": title,
}
