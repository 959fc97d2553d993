"""Profiles and events in the shapes that CleverTap's clients read."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import msgspec

from gateway.dialects.clevertap.messages import PLAIN_NAMES
from gateway.exports import Whole, merged_counts
from gateway.store.base import Record

Json = dict[str, Any]

TOKEN_PLATFORMS = {"apns": "iOS", "fcm": "Android", "gcm": "Android", "wns": "Windows", "mpns": "Windows"}
UTM = ("utm_source", "utm_medium", "utm_campaign")


def profile_record(whole: Whole, bad: list[tuple[int, str]]) -> Json:
    """A profile, as GET /1/profile.json and each record of /1/profiles.json show it."""
    record = who(whole)
    record["all_identities"] = [i.key[1] for i in whole.identities]
    if bad:
        record["bad_identities"] = list(dict.fromkeys(value for _, value in bad))
    record["profileData"] = profile_data(whole)
    record["events"] = {
        name: {"count": c.count, "first_seen": c.first_at // 1_000_000, "last_seen": c.last_at // 1_000_000}
        for name, c in sorted(merged_counts(whole).items())
    }
    record["platformInfo"] = [device_info(whole, d, bad) for d in whole.browsers]
    return record


def who(whole: Whole) -> Json:
    """What names a person, in both shapes: identity, email, name, phone."""
    shown: Json = {}
    ids = [i.key[1] for i in whole.identities if i.key[0] == "id"]
    if whole.primary and whole.primary[0] == "id":
        ids.insert(0, whole.primary[1])
    values = {kind: next((i.key[1] for i in whole.identities if i.key[0] == kind), None) for kind in ("email", "phone")}
    if ids:
        shown["identity"] = ids[0]
    for name in ("email", "name", "phone"):
        value = whole.properties.get(name) or values.get(name)
        if value is not None:
            shown[name] = value
    return shown


def profile_data(whole: Whole) -> Json:
    """The properties that have no place of their own; a list that everything was removed from is no property."""
    return {k: v for k, v in whole.properties.items() if k not in PLAIN_NAMES.values() and v != []}


def device_info(whole: Whole, device_id: int, bad: list[tuple[int, str]]) -> Json:
    """One device of a profile: their CleverTap ID."""
    context = whole.contexts.get(device_id, {})
    tokens = [r for r in whole.rows if r.kind == "token" and r.device_id == device_id]
    info: Json = {"platform": context.get("platform", "Web"), "objectId": object_id(whole, device_id)}
    if tokens:
        newest = max(tokens, key=lambda r: (r.at, r.op_id))
        info["platform"] = TOKEN_PLATFORMS.get(newest.key, info["platform"])
        info["push_token"] = newest.value["id"]
    refused = [value for d, value in bad if d == device_id]
    return info | ({"badKs": refused} if refused else {})


def object_id(whole: Whole, device_id: int) -> str:
    """What a device is called in this API: as it was called in an upload, else by our own id."""
    return str(whole.contexts.get(device_id, {}).get("objectId", device_id))


def event_record(whole: Whole, row: Record, zone: ZoneInfo) -> Json:
    """One event with the person it belongs to now."""
    page = msgspec.json.decode(row["page"]) if row["page"] else {}
    return _event(whole, row["device_id"], msgspec.json.decode(row["data"]), row["occurred_at"], page, zone)


def said_record(whole: Whole, device_id: int, data: Json, at: int, zone: ZoneInfo) -> Json:
    """One event that the gateway made itself."""
    return _event(whole, device_id, data, at, {}, zone)


def _event(whole: Whole, device_id: int, data: Json, at: int, page: Json, zone: ZoneInfo) -> Json:
    profile = who(whole) | {"profileData": profile_data(whole), "df": {}, "events": {}}
    if device_id in whole.browsers:
        profile["objectId"] = object_id(whole, device_id)
        profile["platform"] = whole.contexts.get(device_id, {}).get("platform", "Web")
    return {"profile": profile, "ts": packed(at, zone), "event_props": data, "session_props": session(page)}


def session(page: Json) -> Json:
    """Where the visit came from, as far as the page's address tells."""
    found: Json = {}
    if page.get("referrer"):
        found["session_referrer"] = page["referrer"]
    try:
        query = parse_qs(urlsplit(page.get("url", "")).query)
    except ValueError:
        return found
    return found | {name: query[name][0] for name in UTM if name in query}


def packed(at: int, zone: ZoneInfo) -> int:
    """A time as the number yyyyMMddHHmmss in the project's time zone."""
    return int(datetime.fromtimestamp(at // 1_000_000, zone).strftime("%Y%m%d%H%M%S"))
