"""Channel lists. An entry is a property of its own, `$email:a@b.c`, so that a merge is the union of both people's
entries and an undo takes each one home. One that bounced is kept under `$email!:a@b.c`: it outlives active ones until
it is removed.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

from gateway.commands import MAX_VALUE
from gateway.errors import BadRequest
from gateway.identity import rules

Json = dict[str, Any]
Row = tuple[str, str, str]

TEXT_CHANNELS = ("$email", "$sms", "$whatsapp", "$inbox", "$androidpush", "$iospush")
CHANNELS = (*TEXT_CHANNELS, "$webpush", "$slack", "$ms_teams")
PUSH_CHANNELS = ("$androidpush", "$iospush", "$webpush")
DETAILS = {"$id_provider": "id_provider", "$bundle_id": "bundle_id"}

MAX_READABLE = 100

_encode = msgspec.json.encode


def fresh_inbox() -> list[Row]:
    """The inbox id that every user has from the start; of two users that become one, the older one's stays."""
    entry = {
        "value": secrets.token_urlsafe(32),
        "id_provider": "suprsend",
        "status": "active",
        "perma_status": "active",
    }
    return [("once", "$inbox:", _encode(entry).decode())]


def entry_row(channel: str, value: Any, details: Json) -> Row:
    """One entry of a channel as a fact: a plain value, or an object as this API shows it."""
    entry = {"value": value, "status": "active", "perma_status": "active"}
    if channel in PUSH_CHANNELS:
        entry |= details
    if isinstance(value, dict) and "value" in value and "status" in value:
        entry |= {k: v for k, v in value.items() if k in entry or k in ("id_provider", "bundle_id")}
    entry["value"] = _channel_value(channel, entry["value"])
    encoded = _encode(entry).decode()
    if len(encoded) > MAX_VALUE:
        raise BadRequest(f"an entry of {channel} is larger than {MAX_VALUE // 1024} KiB")
    if not isinstance(entry["status"], str) or not isinstance(entry["perma_status"], str):
        raise BadRequest(f"{channel}: status and perma_status are active, inactive or disabled")
    good, bad = _entry_keys(channel, entry["value"])
    is_good = entry["status"] == entry["perma_status"] == "active"
    return "set", good if is_good else bad, encoded


def entry_gone(channel: str, value: Any) -> list[Row]:
    """What removes an entry, bounced or not."""
    bare = value["value"] if isinstance(value, dict) and "value" in value and "status" in value else value
    return [("set", name, "null") for name in _entry_keys(channel, _channel_value(channel, bare))]


def _channel_value(channel: str, value: Any) -> Any:
    if channel not in TEXT_CHANNELS and isinstance(value, dict) and value:
        return value
    if not isinstance(value, str) or not value.strip():
        what = "text" if channel in TEXT_CHANNELS else "an object"
        raise BadRequest(f"{channel} takes {what}, not {type(value).__name__}")
    if channel == "$email" and not rules.looks_like_email(value.strip()):
        raise BadRequest(f"$email: {value[:80]!r} is not an email address")
    return value.strip()


def _entry_keys(channel: str, value: Any) -> tuple[str, str]:
    """The property names of an entry: while it is active, and after it bounced."""
    text = value if isinstance(value, str) and len(value) <= MAX_READABLE else digest(_encode(value, order="sorted"))
    text = text.lower() if channel == "$email" else text
    return f"{channel}:{text}", f"{channel}!:{text}"


def details_of(mapping: Json) -> Json:
    """The provider and app of push tokens, which travel next to the channel they are about."""
    return {ours: mapping[theirs] for theirs, ours in DETAILS.items() if isinstance(mapping.get(theirs), str)}


def channel_of(name: str) -> str | None:
    """The channel whose entry a property is, None for every other property."""
    channel, colon, _ = name.partition(":")
    channel = channel.removesuffix("!")
    return channel if colon and channel in CHANNELS else None


def digest(data: bytes) -> str:
    """A short name for something long."""
    return hashlib.sha256(data).hexdigest()[:32]


def lists_of(properties: Json) -> tuple[Json, Json]:
    """A profile's properties as (the plain ones, the channel lists), a bounced entry in place of an active one."""
    plain: Json = {}
    entries: dict[str, dict[str, Json]] = {}
    for name, value in properties.items():
        channel = channel_of(name)
        if channel is None or not isinstance(value, dict):
            plain[name] = value
            continue
        text = name.partition(":")[2]
        if name.startswith(f"{channel}!:"):
            entries.setdefault(channel, {})[text] = value
        else:
            entries.setdefault(channel, {}).setdefault(text, value)
    return plain, {channel: list(entries[channel].values()) for channel in CHANNELS if channel in entries}
