"""Parses what pages and servers push: raw queue entries become the engine's commands, bad ones become refusals.

An entry that cannot be understood is skipped with a reason; it never costs its neighbours.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.errors import BadRequest, BadToken
from gateway.identity import rules
from gateway.identity.requests import Command, Context, Link, Login, Logout, Refused, Reidentify, Track, Writes
from gateway.model import Key, Proof, Site
from gateway.privacy import GPC_IGNORES_LINKS
from gateway.signing import LINK_PREFIX, Signer, read_identity_token, read_link_token, token_digest

MAX_COMMANDS = 500
MAX_EVENT = 32 * 1024
MAX_PROPERTIES = 255
MAX_DEPTH = 5
MAX_NAME = 128
MAX_VALUE = 8 * 1024
MAX_ID = 64
MAX_BODY = 512 * 1024
NESTING = frozenset({dict, list})
LATEST = 2**52
"""Milliseconds."""

SYSTEM_EVENTS = frozenset({"identity set", "identity error", "identity reset"})
"""Events that only the gateway itself makes."""


class Entry(msgspec.Struct):
    """One entry of the queue as it travels."""

    command: list[Any]
    id: str
    at: float = 0
    page: dict[str, Any] | None = None
    identity: Any = None
    device: str | None = None


class Tracked(msgspec.Struct, array_like=True, tag="track", forbid_unknown_fields=True, gc=False):
    """`["track", NAME, DATA]` as almost all pages write it: flat data, no extras."""

    name: Annotated[str, Meta(max_length=MAX_NAME)]
    data: Annotated[dict[str, str | int | float | bool | None], Meta(max_length=MAX_PROPERTIES)]


class TrackEntry(msgspec.Struct, gc=False):
    """An entry of which nothing but its id and the event's name is left to be looked at."""

    command: Tracked
    id: Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
    at: Annotated[float, Meta(gt=0, le=LATEST)]
    page: dict[str, Annotated[str, Meta(max_length=MAX_VALUE)]] | None = None


class Body(msgspec.Struct):
    """The body of POST /v1/commands."""

    key: str = ""
    sent_at: float | None = None
    device: str | None = None
    commands: list[msgspec.Raw] = msgspec.field(default_factory=list)


class Tracks(msgspec.Struct):
    """The body of most requests: nothing but ordinary events."""

    commands: list[TrackEntry]
    key: str = ""
    sent_at: float | None = None
    device: str | None = None


BAD_VALUE = "bad_value"


@dataclass(slots=True)
class Skipped:
    """An entry that was left out, and why: in words for whoever wrote the page, and as one of a few codes."""

    command: Any
    reason: str
    code: str = BAD_VALUE


_entry = msgspec.json.Decoder(Entry)
_track_entry = msgspec.json.Decoder(TrackEntry)
_body = msgspec.json.Decoder(Body)
_tracks = msgspec.json.Decoder(Tracks)
_encode = msgspec.json.encode


def _text(value: object) -> str:
    return _encode(value).decode()


def is_plain(raw: bytes) -> bool:
    """Whether no entry in a body can be too large, or hold an escape or a control character."""
    return len(raw) <= MAX_EVENT and b"\\" not in raw and b"\x7f" not in raw  # the others are only taken as escapes


def decode_page_body(raw: bytes) -> Body | Tracks:
    """The body of a page's request, with its entries decoded already if all are ordinary events. Raises BadRequest."""
    if is_plain(raw):
        try:
            tracks = _tracks.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return decode_body(raw)
        if len(tracks.commands) <= MAX_COMMANDS:
            return tracks
    return decode_body(raw)


def decode_body(raw: bytes) -> Body:
    """The body of a request. Raises BadRequest saying what is wrong with it."""
    try:
        body = _body.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        mended = _mended(raw)
        if mended is None:
            hint = 'send {"key": API_KEY, "sent_at": ms, "commands": [{"id", "at", "command": ["track", NAME]}]}'
            raise BadRequest(f"the body is not a command batch: {error}", hint) from error
        body = mended
    if len(body.commands) > MAX_COMMANDS:
        raise BadRequest(f"{len(body.commands)} commands in one request", f"send at most {MAX_COMMANDS}")
    return body


def _mended(raw: bytes) -> Body | None:
    """A body in which some text holds half a character, as a page's substring() of an emoji does.

    The strict decoder refuses all of it for that; here only the broken characters are replaced.
    """
    try:
        loose = json.loads(raw)
        entries = loose.pop("commands", []) if isinstance(loose, dict) else None
        if not isinstance(entries, list):
            return None
        body = msgspec.convert(loose, Body)
        body.commands = [msgspec.Raw(json.dumps(e, ensure_ascii=False).encode(errors="replace")) for e in entries]
    except (ValueError, RecursionError):
        return None
    return body


class Parser:
    """Turns entries of one site into commands."""

    def __init__(
        self, site: Site, signer: Signer, *, server: bool = False, private: bool = False, plain: bool = False
    ) -> None:
        self.site = site
        self.signer = signer
        self.server = server
        self.private = private
        self.plain = plain
        """Whether the body as a whole is known to be small and without escapes; then no entry is looked at for that."""
        self.proof = Proof.SERVER if server else Proof.CLAIMED
        self.skipped: list[Skipped] = []
        self.denied = False
        """Whether the page said that consent is withdrawn, and did not take that back."""

    def body(self, body: Body | Tracks, raw: bytes) -> list[Command]:
        """The commands of all entries of a page's request that were not skipped; `raw` is what it was decoded from."""
        if isinstance(body, Body):
            return self.commands(body.commands)
        tracks = [track for entry in body.commands if (track := _track(entry)) is not None]
        if len(tracks) == len(body.commands):
            return [*tracks]
        return self.commands(decode_body(raw).commands)

    def commands(self, raws: Iterable[msgspec.Raw]) -> list[Command]:
        """The commands of all entries that were not skipped."""
        found: list[Command] = []
        for raw in raws:
            track = self._plain_track(raw) if self.plain else None
            if track is not None:
                found.append(track)
            elif (parsed := self.entry(raw)) is not None:
                found += parsed[1]
        return found

    @staticmethod
    def _plain_track(raw: msgspec.Raw) -> Track | None:
        """An entry that is an event and no more, decoded and checked in one step; None for any other."""
        try:
            return _track(_track_entry.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def entry(self, raw: msgspec.Raw | bytes) -> tuple[Entry, list[Command]] | None:
        """An entry with its commands (some are written as two), or None if it was skipped."""
        try:
            entry = _entry.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = bytes(raw)[:200].decode(errors="replace")
            self.skipped.append(Skipped(text, f"not an entry: {error}", "not_an_entry"))
            return None
        try:
            if not self.plain:
                self._check_text(entry, bytes(raw))
            commands = self._commands(entry)
        except BadRequest as error:
            self.skipped.append(self.refusal(entry, error))
            return None
        for command in commands:
            if type(command) is not Track:
                command.fingerprint = rules.fingerprint(entry.command)
        return entry, commands

    @staticmethod
    def refusal(entry: Entry, error: BadRequest) -> Skipped:
        """Why an entry that could be parsed was left out after all."""
        code = BAD_VALUE if error.code == BadRequest.code else error.code
        return Skipped(entry.command, f"{error.message}. {error.hint}".strip(), code)

    @staticmethod
    def _check_text(entry: Entry, raw: bytes) -> None:
        if len(raw) > MAX_EVENT:
            raise BadRequest(f"larger than {MAX_EVENT // 1024} KiB", code="too_large")
        if b"\\u" in raw and not (storable(entry.command) and storable(entry.page)):
            raise BadRequest("it holds NUL or half a character", code="bad_text")

    def _commands(self, entry: Entry) -> list[Command]:
        op_id, command = entry.id, entry.command
        if not op_id or len(op_id) > MAX_ID or not op_id.isprintable():
            raise BadRequest(f"its id must have 1 to {MAX_ID} printable characters", code="bad_id")
        if not command or not isinstance(command[0], str):
            raise BadRequest("a command starts with its name", "push(['track', NAME, DATA])")
        for argument in command:
            inside = argument.values() if type(argument) is dict else argument if type(argument) is list else ()
            if not NESTING.isdisjoint(map(type, inside)) and depth(command) > MAX_DEPTH + 1:
                raise BadRequest(f"nested more than {MAX_DEPTH} deep", code="too_deep")
        name = command[0]
        parse: Callable[[Entry, list[Any]], list[Command]] | None = getattr(self, _method(name[:MAX_NAME]), None)
        if parse is None:
            raise BadRequest(f"no command {name[:40]!r}", "the docs list them all", code="unknown_command")
        return parse(entry, command[1:])

    @staticmethod
    def _head(entry: Entry) -> tuple[str, int]:
        at = entry.at
        if not 0 < at <= LATEST:
            at = min(max(at, 0), LATEST) if at else time.time() * 1000
        return entry.id, int(at) * 1000

    # --- one method per command ---------------------------------------------------------------------------------

    def _on_track(self, entry: Entry, rest: list[Any]) -> list[Command]:
        given = len(rest)
        name = rest[0] if given else None
        if not isinstance(name, str) or not (name := name.strip()):
            raise BadRequest("track needs the name of the event first", "push(['track', 'Purchased', {total: 12}])")
        if len(name) > MAX_NAME:
            raise BadRequest(f"an event name has at most {MAX_NAME} characters")
        if not self.server and name.casefold() in SYSTEM_EVENTS:
            message = f"the event {name!r} is made by the gateway only"
            return [Refused(*self._head(entry), code="spoofed_system_event", message=message, kind="track")]
        data = _mapping(rest[1], "data") if given > 1 else {}
        return [self._track(entry, name, data, _mapping(rest[2], "extras") if given > 2 else None)]

    def _track(self, entry: Entry, name: str, data: dict[str, Any], extras: dict[str, Any] | None) -> Track:
        page = entry.page
        for value in page.values() if page else ():
            if type(value) is not str or len(value) > MAX_VALUE:
                page = {k: v for k, v in (entry.page or {}).items() if isinstance(v, str) and len(v) <= MAX_VALUE}
                break
        op_id, at = self._head(entry)
        return Track(op_id, at, "", name, _text(data), _text(extras) if extras else None, _text(page) if page else None)

    def _on_trackpageview(self, entry: Entry, rest: list[Any]) -> list[Command]:
        extras = next((r for r in rest if isinstance(r, dict)), {})
        url = (entry.page or {}).get("url", "")
        return [self._track(entry, "Viewed page", {"url": url} if isinstance(url, str) else {}, extras)]

    def _on_user(self, entry: Entry, rest: list[Any]) -> list[Command]:
        given = _mapping(rest[0] if rest else None, "the user")
        options = _mapping(rest[1] if len(rest) > 1 else None, "the options")
        named = "id" in given or "email" in given
        value = given.get("id")
        if value is None or value == "":
            value = given.get("email")
        rows = rows_of({k: v for k, v in given.items() if k != "id"}, once=bool(options.get("set_once")))
        head = self._head(entry)
        if not named:
            return [Writes(*head, rows=rows)]
        key, blocked = identity(value)
        return [Login(*head, key=key, blocked=blocked, proof=self.proof, wait=self._waits(), rows=rows)]

    def _waits(self) -> bool:
        return self.site.trust == "strict" and not self.server

    def _on_verify(self, entry: Entry, rest: list[Any]) -> list[Command]:
        head = self._head(entry)
        try:
            claims = read_identity_token(self.site, rest[0] if rest and isinstance(rest[0], str) else "")
        except BadToken as error:
            return [Refused(*head, code="bad_identity_token", message=error.message)]
        key, blocked = identity(claims["sub"])
        aliases = [k for k, _ in map(identity, claims.get("aliases", ())) if k and k != key]
        return [Login(*head, key=key, blocked=blocked, proof=max(Proof.VERIFIED, self.proof), aliases=aliases)]

    def _on_reidentify(self, entry: Entry, rest: list[Any]) -> list[Command]:
        new, old = [*rest, None, None][:2]
        if new is None:
            raise BadRequest("reidentify needs the new id first", "push(['reidentify', NEW, OLD])")
        new_key, blocked_new = identity(new)
        old_key, blocked_old = identity(old) if old is not None else (None, None)
        keys = {"new": new_key, "old": old_key, "blocked_new": blocked_new, "blocked_old": blocked_old}
        return [Reidentify(*self._head(entry), proof=self.proof, **keys)]  # type: ignore[arg-type]

    def _on_link(self, entry: Entry, rest: list[Any]) -> list[Command]:
        value = rest[0] if rest else None
        head = self._head(entry)
        if self.private:
            return [Link(*head, ignored=GPC_IGNORES_LINKS)]
        if isinstance(value, str):
            try:
                link = read_link_token(self.signer, value, time.time())
                if link.site_id == self.site.site_id:
                    key: Key = (link.kind, link.value)
                    return [Link(*head, key=key, proof=Proof.LINK, token=token_digest(value))]
            except BadToken:
                pass
            if looks_signed(value):
                raise BadRequest("the link's token is not valid here or has expired", code="bad_link")
        if self.site.trust == "strict":
            raise BadRequest("this site takes signed links only", code="bad_link")
        raw_key, blocked = identity(value)
        return [Link(*head, key=raw_key, blocked=blocked)]

    def _on_logout(self, entry: Entry, rest: list[Any]) -> list[Command]:
        return [Logout(*self._head(entry))]

    _on_reset = _on_logout

    def _on_tags(self, entry: Entry, rest: list[Any]) -> list[Command]:
        given = _mapping(rest[0] if rest else None, "tags")
        rows = [("tag", t, "true") for t in _names(given.get("add"))]
        rows += [("tag", t, "false") for t in _names(given.get("remove"))]
        if not rows:
            raise BadRequest("tags needs a list to add or to remove", "push(['tags', {add: ['vip']}])")
        return [Writes(*self._head(entry), rows=rows, target=self._target(given.get("id")))]

    def _on_unsubscribe(self, entry: Entry, rest: list[Any]) -> list[Command]:
        return self._subscription(entry, rest, "false")

    def _on_resubscribe(self, entry: Entry, rest: list[Any]) -> list[Command]:
        return self._subscription(entry, rest, "true")

    def _subscription(self, entry: Entry, rest: list[Any], value: str) -> list[Command]:
        given = rest[0] if rest else None
        if isinstance(given, dict):
            given = given.get("id") or given.get("email")
        rows = [("subscription", "", value)]
        return [Writes(*self._head(entry), rows=rows, target=self._target(given))]

    def _target(self, value: object) -> Key | None:
        if value is None:
            return None
        key, blocked = identity(value)
        if blocked:
            raise BadRequest(blocked)
        return key

    def _on_context(self, entry: Entry, rest: list[Any]) -> list[Command]:
        given = _mapping(rest[0] if rest else None, "the context")
        data = {k[:MAX_NAME]: v for k, v in list(given.items())[:20] if isinstance(v, (str, int, float, bool))}
        return [Context(*self._head(entry), data=_text(data)[:MAX_VALUE])]

    def _on_consent(self, entry: Entry, rest: list[Any]) -> list[Command]:
        self.denied = rest[:1] != ["granted"]  # as the snippet takes it
        if self.denied and rest[:1] != ["denied"]:
            raise BadRequest("consent is 'granted' or 'denied'", "anything else withdraws it, too")
        return []  # the snippet acts on it; what reaches the gateway was allowed

    def _on_init(self, entry: Entry, rest: list[Any]) -> list[Command]:
        return []  # the snippet acts on it

    def _on_cookie_domain(self, entry: Entry, rest: list[Any]) -> list[Command]:
        return []  # kept for pages that still push it: the cookie is bound to the gateway's host


def _track(entry: TrackEntry) -> Track | None:
    """An ordinary event; None if there is something odd about it after all."""
    name = entry.command.name.strip()
    if not name or name.casefold() in SYSTEM_EVENTS or not entry.id.isascii():  # which is printable in a plain body
        return None
    page = _text(entry.page) if entry.page else None
    return Track(entry.id, int(entry.at) * 1000, "", name, _text(entry.command.data), None, page)


@lru_cache(maxsize=256)
def _method(name: str) -> str:
    """The parser's method for a command, whichever way its name is capitalised."""
    return f"_on_{name.lower()}" if name.replace("_", "").isalnum() and name.isascii() else "?"


def identity(value: object, kind: str = "id") -> tuple[Key | None, str | None]:
    """(the identity, None), or (None, why the value cannot be one)."""
    try:
        return (kind, rules.normalise(value)), None
    except rules.BlockedError as error:
        return None, str(error)


def rows_of(properties: dict[str, Any], *, once: bool = False) -> list[tuple[str, str, str]]:
    """Properties as facts. Raises BadRequest over the limits."""
    if len(properties) > MAX_PROPERTIES:
        raise BadRequest(f"{len(properties)} properties", f"send at most {MAX_PROPERTIES} at a time")
    rows = []
    for key, value in properties.items():
        encoded = _text(value)
        if not key or len(key) > MAX_NAME:
            raise BadRequest(f"a property name has 1 to {MAX_NAME} characters")
        if len(encoded) > MAX_VALUE:
            raise BadRequest(f"the property {key[:40]!r} is larger than {MAX_VALUE // 1024} KiB")
        rows.append(("once" if once else "set", key, encoded))
    return rows


def _mapping(value: object, what: str) -> dict[str, Any]:
    if isinstance(value, dict):
        if len(value) > MAX_PROPERTIES:
            raise BadRequest(f"{what} has {len(value)} properties", f"send at most {MAX_PROPERTIES}")
        return value
    if value is None:
        return {}
    raise BadRequest(f"{what} must be an object, not {type(value).__name__}", "write {name: value}")


def _names(value: object) -> list[str]:
    values = [value] if isinstance(value, (str, int)) else value if isinstance(value, list) else []
    names = [str(v).strip() for v in values if isinstance(v, (str, int)) and not isinstance(v, bool)]
    return [n for n in names if n and len(n) <= MAX_NAME]


def looks_signed(value: str) -> bool:
    """Whether a link value is or was a signed token, so that a broken one is not taken for a raw id."""
    parts = value.split(".")
    return value.startswith(LINK_PREFIX) or (len(parts) == 3 and len(parts[2]) >= 40 and len(parts[0]) > 40)


def depth(value: object) -> int:
    """How deep lists and objects nest: 0 for a scalar. Not recursive: a body may nest deeper than Python calls."""
    levels, inside = 0, [value]
    while groups := [v for v in inside if isinstance(v, (dict, list))]:
        levels += 1
        inside = [v for group in groups for v in (group.values() if isinstance(group, dict) else group)]
    return levels


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(value: object) -> bool:
    """Whether every text in a value is whole Unicode without NUL, so that each database keeps it the same."""
    inside = [value]
    while inside:
        found = inside.pop()
        if isinstance(found, str):
            if _UNSTORABLE.search(found):
                return False
        elif isinstance(found, dict):
            inside += [*found, *found.values()]
        elif isinstance(found, list):
            inside += found
        elif isinstance(found, float) and not isfinite(found):
            return False
    return True
