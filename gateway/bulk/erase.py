"""`gateway erase`: deletes people by a list, and signs a receipt that names them only by the digests of their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from gateway.commands import identity
from gateway.context import Gateway
from gateway.errors import BadRequest, BadToken
from gateway.exports import Exports
from gateway.identity.decide import value_hash
from gateway.identity.requests import Operation, Person
from gateway.model import Identity, Key, Site, iso, now

PURPOSE = "erasure"
FOREVER_SECONDS = 100 * 365 * 24 * 3600


@dataclass(slots=True)
class Erased:
    """One person: digests of the ids they had, and what was removed. `not_found`: nobody has the id."""

    asked: str
    outcome: str
    at: str | None
    identities: list[str] = field(default_factory=list)
    deleted: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Receipt:
    """What was erased and when. A digest is SHA-256 of `SITE_ID NUL KIND NUL VALUE`."""

    site: str
    site_id: str
    begun_at: str | None
    people: list[Erased] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)


def names_in(path: Path) -> list[str]:
    """One id a line; a first line that says `id` or `email` is a header. Raises BadRequest."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} cannot be read: {error}", "write one id a line, as UTF-8") from error
    names = [line.strip().strip('"') for line in lines if line.strip()]
    return names[1:] if names and names[0].lower() in ("id", "email") else names


def keys_of(names: Iterable[str]) -> list[Key]:
    """The identities that names stand for, each once. Raises BadRequest for one that cannot be an identity."""
    found: dict[Key, None] = {}
    for name in names:
        key, blocked = identity(name)
        if key is None:
            raise BadRequest(f"{name[:60]!r} is not an id: {blocked}", "nobody was erased")
        found[key] = None
    return list(found)


def begun(site: Site) -> Receipt:
    """An empty receipt."""
    return Receipt(site.name, str(site.site_id), iso(now()))


async def erase(gateway: Gateway, site: Site, keys: Sequence[Key], receipt: Receipt) -> None:
    """Erases the people that have any of the identities, one after the other; the receipt says whom so far.

    Raises Unavailable if the database cannot be written.
    """
    exports = Exports(gateway, site)
    for key in keys:
        root = (await exports.roots_of({key})).get(key)
        whole = (await exports.people([root])).get(root) if root else None
        held: list[Identity] = whole.identities if whole else []
        erased = Erased(value_hash(site.site_id, key), "not_found", None)
        if root:
            operation = Operation(site, "delete", "", [Person(key=key)])
            answer = await gateway.writer.operation(operation)
            erased.outcome, erased.at = answer.outcome, iso(now())
            erased.deleted = answer.extra.get("deleted", {})
            erased.identities = sorted(value_hash(site.site_id, i.key) for i in held)
        receipt.people.append(erased)
        receipt.outcomes[erased.outcome] = receipt.outcomes.get(erased.outcome, 0) + 1


async def keys_again(gateway: Gateway, site: Site, receipt: Receipt) -> list[Key]:
    """The identities that are here although a receipt says that they were erased: a backup was restored.

    Raises BadRequest for the receipt of another site.
    """
    if receipt.site_id != str(site.site_id):
        raise BadRequest(f"the receipt is of the site {receipt.site!r}", "nobody was erased: name that site")
    digests = {d for p in receipt.people for d in (p.asked, *p.identities)}
    sql = "/* identities.all */ select kind, value from identities where site_id = $1"
    found = []
    async for row in gateway.store.stream(sql, site.site_id):
        key = (row["kind"], row["value"])
        if value_hash(site.site_id, key) in digests:
            found.append(key)
    return found


# --- the receipt as a file --------------------------------------------------------------------------------------------


def signed(gateway: Gateway, receipt: Receipt) -> dict[str, Any]:
    """A receipt with its signature by this gateway's key."""
    data: dict[str, Any] = msgspec.to_builtins(receipt)
    return data | {"signature": gateway.signer.sign(PURPOSE, digest(data))}


def read_receipt(gateway: Gateway, path: Path) -> Receipt:
    """A receipt that this gateway signed. Raises BadRequest for any other, or one that was changed."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", "name the file that erase wrote") from error
    try:
        data = msgspec.json.decode(text, type=dict[str, Any])
        said, _ = gateway.signer.unsign(PURPOSE, str(data.pop("signature")), FOREVER_SECONDS)
        if said != digest(data):
            raise BadToken("changed")
        return msgspec.convert(data, Receipt)
    except (KeyError, BadToken, msgspec.MsgspecError) as error:
        raise BadRequest(f"{path} is not a receipt of this gateway", "it may have been changed") from error


def digest(data: dict[str, Any]) -> str:
    """What is signed: SHA-256 of the receipt as JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(data, order="sorted")).hexdigest()


def file_name() -> str:
    """Where a receipt is written unless it is told."""
    return f"erasure-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json"
