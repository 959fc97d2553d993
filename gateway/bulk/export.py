"""`gateway export`: all people or events of a site, line by line, with a cursor to go on from; as CSV or JSON Lines."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import IO, Any

import msgspec

from gateway.context import Gateway
from gateway.errors import BadRequest
from gateway.exports import Exports, Whole
from gateway.model import Site, iso
from gateway.reads import LAST_ID
from gateway.store.base import Record
from gateway.store.sql import COLUMNS

CHUNK = 500
WHAT = ("people", "events")
FORMATS = ("csv", "jsonl", "parquet")

PERSON = ("profile_id", "id", "identities", "subscribed", "tags", "events", "created_at", "updated_at")
EVENT = (
    "event_id", "name", "occurred_at", "received_at", "profile_id", "id", "device_id", "message_id", "data", "extras",
    "page",
)  # fmt: skip

Line = dict[str, Any]


def check_cursor(after: str) -> int:
    """The id behind which an export goes on. Raises BadRequest."""
    if not (after.isascii() and after.isdigit()) or int(after) > LAST_ID:
        raise BadRequest(f"--after {after[:40]!r} is no cursor", "take the one that the export before printed")
    return int(after)


class Export:
    """What a site holds, in the order of ids."""

    def __init__(self, gateway: Gateway, site: Site) -> None:
        self.store = gateway.store
        self.site_id = site.site_id
        self.exports = Exports(gateway, site)

    async def people(self, after: int) -> AsyncIterator[tuple[int, Line]]:
        """(cursor, person): live profiles behind a profile id."""
        while ids := await self.exports.profiles_after(after, CHUNK):
            found = await self.exports.people(ids)
            for profile_id in ids:
                if profile_id in found:
                    yield profile_id, person_line(found[profile_id])
            after = ids[-1]

    async def events(self, after: int) -> AsyncIterator[tuple[int, Line]]:
        """(cursor, event): events behind an event id, with the profile each belongs to now."""
        sql = f"/* events.bulk */ select {COLUMNS['events']} from events where site_id = $1 and event_id > $2"
        rows: list[Record] = []
        async for row in self.store.stream(f"{sql} order by event_id", self.site_id, after):
            rows.append(row)
            if len(rows) == CHUNK:
                for line in await self._placed(rows):
                    yield line
                rows = []
        for line in await self._placed(rows):
            yield line

    async def _placed(self, rows: Sequence[Record]) -> list[tuple[int, Line]]:
        roots = await self.exports.owners([(r["device_id"], r["occurred_at"]) for r in rows]) if rows else []
        names = await self._names(set(roots))
        servers = await self._servers({r["device_id"] for r in rows})
        pairs = zip(rows, roots, strict=True)
        return [(r["event_id"], event_line(r, root, names.get(root), r["device_id"] in servers)) for r, root in pairs]

    async def _names(self, roots: set[int]) -> dict[int, str | None]:
        sql = "/* profiles.names */ select profile_id, primary_value from profiles"
        rows = await self.store.read(f"{sql} where site_id = $1 and profile_id = any($2)", self.site_id, list(roots))
        return {r["profile_id"]: r["primary_value"] for r in rows}

    async def _servers(self, devices: set[int]) -> set[int]:
        sql = "/* devices.servers */ select device_id from devices where site_id = $1 and device_id = any($2)"
        rows = await self.store.read(f"{sql} and server = 1", self.site_id, list(devices))
        return {r["device_id"] for r in rows}

    async def property_names(self) -> list[str]:
        """Every property that anybody of the site ever had: the columns of a CSV."""
        sql = "/* properties.names */ select distinct key from properties where site_id = $1 and kind = 'set'"
        rows = await self.store.read(f"{sql} order by key", self.site_id)
        return [r["key"] for r in rows]


def person_line(whole: Whole) -> Line:
    """A profile as one line."""
    first = [v.first_seen for v in whole.visitors if v.first_seen] + [i.since for i in whole.identities]
    last = [v.last_seen for v in whole.visitors if v.last_seen] + [i.since for i in whole.identities]
    return {
        "profile_id": str(whole.profile_id),
        "id": whole.primary[1] if whole.primary else None,
        "identities": [{"kind": i.key[0], "value": i.key[1]} for i in whole.identities],
        "subscribed": whole.subscribed,
        "tags": whole.tags,
        "events": sum(v.events for v in whole.visitors),
        "created_at": iso(min(first, default=0)),
        "updated_at": iso(max(last, default=0)),
        "properties": whole.properties,
    }


def event_line(row: Record, root: int, name: str | None, server: bool) -> Line:
    """An event as one line."""
    return {
        "event_id": str(row["event_id"]),
        "name": row["name"],
        "occurred_at": iso(row["occurred_at"]),
        "received_at": iso(row["received_at"]),
        "profile_id": str(root) if root else None,
        "id": name,
        "device_id": None if server else str(row["device_id"]),
        "message_id": row["message_id"],
        "data": msgspec.json.decode(row["data"]),
        "extras": msgspec.json.decode(row["extras"]) if row["extras"] else {},
        "page": msgspec.json.decode(row["page"]) if row["page"] else None,
    }


# --- formats ----------------------------------------------------------------------------------------------------------


class JsonLines:
    """One JSON object a line."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, line: Line) -> None:
        """Writes one object."""
        self.file.write(msgspec.json.encode(line).decode() + "\n")


class Csv:
    """A table. Each property is a column; one that is called like a column of ours is `properties.NAME`."""

    def __init__(self, file: IO[str], columns: Sequence[str], properties: Sequence[str], *, header: bool) -> None:
        self.writer = csv.writer(file, lineterminator="\r\n")
        self.columns = columns
        self.properties = properties
        if header:
            self.writer.writerow([*columns, *(f"properties.{p}" if p in columns else cell(p) for p in properties)])

    def write(self, line: Line) -> None:
        """Writes one row."""
        properties: Mapping[str, Any] = line.get("properties", {})
        self.writer.writerow(
            [*(cell(line[c]) for c in self.columns), *(cell(properties.get(p)) for p in self.properties)]
        )


def cell(value: object) -> str:
    """A value as a cell. What a spreadsheet would take for a formula gets an apostrophe: pages can send anything."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return msgspec.json.encode(value).decode()
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") and not is_number(value) else value


def is_number(text: str) -> bool:
    """Whether a text is a plain number, such as a phone number or a difference."""
    return text[1:].replace(".", "", 1).replace(" ", "").isdigit() and text[0] in "+-"
