"""What the native API takes and answers, as types: requests are checked against them, OpenAPI shows them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Text = Annotated[str, Meta(max_length=2048)]
OpId = Annotated[str, Meta(min_length=1, max_length=64, description="your own id: a repeat gets the same answer")]
Limit = Annotated[int, Meta(ge=1, le=500, description="rows to answer, 50 unless given")]
Cursor = Annotated[str, Meta(pattern="^[0-9]{1,19}(-[0-9]{1,19})?$", description="`next` of the page before")]
Id = Annotated[str, Meta(pattern="^[0-9]{1,19}$")]


class Ref(Struct, forbid_unknown_fields=True):
    """A person by identity (kind and value), by profile id, or by device id or token. Give one of the three."""

    kind: Annotated[str, Meta(max_length=16)] = "id"
    value: str | int | None = None
    profile_id: str | int | None = None
    device_id: str | int | None = None


class IdentityRef(Struct, forbid_unknown_fields=True):
    """An identity by kind and value."""

    value: str | int
    kind: Annotated[str, Meta(max_length=16)] = "id"


PersonRef = Annotated[str | int | Ref, Meta(description="an id, or an object naming a person another way")]


class Reidentify(Struct, forbid_unknown_fields=True):
    """`old` is `new` from now on."""

    new: str | int
    old: str | int
    op_id: OpId | None = None


class Pair(Struct, forbid_unknown_fields=True):
    """The profile that stays and the one that joins it."""

    target: PersonRef
    source: PersonRef


class Merge(Struct, forbid_unknown_fields=True):
    """A merge; `plan_hash` of a preview makes sure it does what was shown, `force` lifts a cannot-link pair."""

    target: PersonRef
    source: PersonRef
    op_id: OpId | None = None
    plan_hash: Text | None = None
    force: bool = False
    reason: Text | None = None


class Merges(Struct, forbid_unknown_fields=True):
    """Merges that are carried out one after the other."""

    merges: Annotated[list[Merge], Meta(max_length=1000)]


class Demerge(Struct, forbid_unknown_fields=True):
    """Identities whose profiles are taken apart."""

    identities: Annotated[list[str | int | IdentityRef], Meta(max_length=100)]
    dry_run: bool = False


class Undo(Struct, forbid_unknown_fields=True):
    """Options of an operation that needs none."""

    op_id: OpId | None = None
    reason: Text | None = None


class Link(Struct, forbid_unknown_fields=True):
    """Whom a link identifies, where it leads, for which campaign, and for how many seconds it works."""

    identity: PersonRef
    url: Annotated[str, Meta(max_length=2048)]
    campaign: Annotated[str, Meta(max_length=128)] = ""
    expires_in: Annotated[int, Meta(ge=1, le=400 * 24 * 3600)] | None = None


class AddReceiver(Struct, forbid_unknown_fields=True):
    """Where the feed is to be sent, from now on or from the oldest entry that is kept; `subject` is for NATS."""

    url: Annotated[str, Meta(max_length=2048)]
    subject: Annotated[str, Meta(max_length=128)] = ""
    secret: Annotated[str, Meta(max_length=128)] | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=1000)] = 20
    oldest: bool = False


class Redeliver(Struct, forbid_unknown_fields=True):
    """Which dead letter: the one that begins at `after`, or all."""

    after: Cursor | None = None


# --- queries ----------------------------------------------------------------------------------------------------------


class FindProfile(Struct):
    """Exactly one of identity, device_id and q."""

    identity: Annotated[str, Meta(max_length=1024)] | None = None
    kind: Annotated[str, Meta(max_length=16)] = "id"
    device_id: Annotated[str, Meta(max_length=1024)] | None = None
    q: Annotated[str, Meta(max_length=256)] | None = None
    after: Cursor | None = None
    limit: Limit | None = None


class EventPage(Struct):
    """A page of events, newest first."""

    limit: Limit | None = None
    before: Cursor | None = None


class LedgerPage(Struct):
    """A page of the ledger."""

    kind: Annotated[str, Meta(max_length=32)] | None = None
    outcome: Annotated[str, Meta(max_length=32)] | None = None
    after: Cursor | None = None
    limit: Limit | None = None


class ErrorPage(Struct):
    """A page of identity errors."""

    code: Annotated[str, Meta(max_length=32)] | None = None
    after: Cursor | None = None
    limit: Limit | None = None


class DuplicateRule(Struct):
    """By what profiles are compared."""

    by: Annotated[str, Meta(pattern="^email$")] = "email"


class FeedPage(Struct):
    """A page of the feed; with `wait` the answer comes when there is something, after so many seconds at the latest."""

    after: Cursor | None = None
    limit: Limit | None = None
    wait: Annotated[int, Meta(ge=0, le=25, description="seconds to wait for something new")] = 0


class DeleteOptions(Struct):
    """Your own id for the deletion."""

    op_id: OpId | None = None


class NoQuery(Struct):
    """No parameters."""


# --- answers ----------------------------------------------------------------------------------------------------------


class IdentityShown(Struct):
    """A value that names the profile, how well it is proven, since when."""

    kind: str
    value: str
    proof: str
    since: str


class VisitorShown(Struct):
    """One turn of the person on one device; no device_id for server-side traffic."""

    visitor_id: Id
    device_id: Id | None
    proof: str | None
    tentative: bool
    first_seen: str | None
    last_seen: str | None
    events: int


class ProfileShown(Struct):
    """One person."""

    profile_id: Id
    primary: str | None
    identities: list[IdentityShown]
    properties: dict[str, Any]
    tags: list[str]
    subscribed: bool
    tentative: bool
    visitors: list[VisitorShown]
    events: int
    created_at: str
    updated_at: str


class EventShown(Struct):
    """Something that happened on a device."""

    event_id: Id
    message_id: str
    name: str
    data: dict[str, Any]
    extras: dict[str, Any]
    occurred_at: str
    received_at: str
    device_id: Id | None
    visitor_id: Id
    tentative: bool
    page: dict[str, Any] | None
    clamped: bool | UnsetType = UNSET


class Moved(Struct):
    """How much a fact moved."""

    visitors: int
    identities: int


class FactIdentity(Struct):
    """An identity that a fact names."""

    kind: str
    value: str


class FactShown(Struct):
    """One entry of the ledger."""

    op_id: str
    kind: str
    outcome: str
    actor: str
    proof: str | None
    at: str
    device_id: Id | None
    identities: list[FactIdentity]
    moved: Moved
    undone_by: str | None
    resolved_by: str | None
    reason: str | None
    target: Id | UnsetType = UNSET
    source: Id | UnsetType = UNSET


class ErrorShown(Struct):
    """A refused or doubtful identity fact; `count` says how often it came."""

    code: str
    op_id: str
    at: str
    profile_id: Id | None
    device_id: Id | None
    message: str
    count: int


class Profiles(Struct):
    """A page of profiles."""

    profiles: list[ProfileShown]
    next: str | None


class Events(Struct):
    """A page of events."""

    events: list[EventShown]
    next: str | None


class Facts(Struct):
    """A page of the ledger."""

    facts: list[FactShown]
    next: str | None


class ProfileLedger(Struct):
    """Why these are one person."""

    facts: list[FactShown]
    identity_errors: list[ErrorShown]
    next: str | None


class Errors(Struct):
    """A page of identity errors."""

    identity_errors: list[ErrorShown]
    next: str | None


class Held(Struct):
    """Merges that wait for an operator."""

    held: list[FactShown]
    next: str | None


class DuplicateGroup(Struct):
    """Profiles with one address."""

    email: str
    profiles: list[Id]


class Duplicates(Struct):
    """Groups of profiles with the same address."""

    duplicates: list[DuplicateGroup]
    next: str | None


class Outcome(Struct):
    """The answer of an operation."""

    op_id: str
    outcome: str
    profile: ProfileShown | None


class Deleted(Struct):
    """The answer of a deletion, with counts."""

    op_id: str
    outcome: str
    profile: None
    deleted: dict[str, int]


class MergeRow(Struct):
    """The outcome of one merge of many."""

    op_id: str | None
    outcome: str
    message: str | None
    profile_id: Id | None


class MergeRows(Struct):
    """The outcomes of a bulk merge, in order."""

    results: list[MergeRow]


class DemergeRow(Struct):
    """What a demerge did for one identity."""

    identity: FactIdentity
    op_id: str
    outcome: str
    devices: list[Id]
    identities: list[FactIdentity]


class DemergeRows(Struct):
    """A result per identity, in order."""

    dry_run: bool
    results: list[DemergeRow]


class Conflict(Struct):
    """A property that both profiles have with different values, and which one wins."""

    key: str
    target: Any
    source: Any
    wins: Any


class Moves(Struct):
    """What a merge would move."""

    visitors: int
    identities: int
    events: int


class Redirect(Struct):
    """A profile id that leads to another profile now; to itself when it stands for one again; to none if deleted."""

    profile_id: Id
    target: Id | None


class MovedStretch(Struct, rename={"start": "from"}):
    """Events of the visitor `was` with from <= micros < until are `visitor_id`'s now; null there: deleted."""

    was: Id
    visitor_id: Id | None
    start: int | None
    until: int | None
    source: Id | None
    target: Id | None


class EventEntry(Struct, tag="event", tag_field="type"):
    """An event, with the profile that it belongs to now; `micros` is when it happened, to compare with `moved`."""

    id: str
    at: str
    profile_id: Id
    micros: int
    event: EventShown


class IdentityEntry(Struct, tag="identity", tag_field="type"):
    """A change of who is who."""

    id: str
    at: str
    profile_id: Id | None
    fact: FactShown
    redirects: list[Redirect]
    moved: list[MovedStretch]


class FeedShown(Struct):
    """Entries in the order of commits; `next` goes back as `after`, also when there are none."""

    entries: list[EventEntry | IdentityEntry]
    next: str


class ReceiverShown(Struct):
    """Who is sent the feed, and how far it got; `error` is what the last attempt met with."""

    receiver_id: Id
    url: str
    subject: str | None
    after: str
    attempts: int
    max_attempts: int
    retry_at: str | None
    error: str | None
    delivered_at: str | None
    created_at: str


class NewReceiver(ReceiverShown):
    """The same, with the secret that signs: it is shown this once."""

    secret: str


class ReceiversShown(Struct):
    """All receivers of the site."""

    receivers: list[ReceiverShown]
    next: str | None


class DeadLetterShown(Struct):
    """A stretch of the feed, behind `after` and up to `until`; `again`: it will be sent once more."""

    after: str
    until: str
    attempts: int
    at: str
    error: str
    again: bool


class DeadLetters(Struct):
    """What a receiver did not take, in the order of the feed."""

    dead_letters: list[DeadLetterShown]
    next: str | None


class Redelivered(Struct):
    """How many dead letters will be sent again."""

    dead_letters: int


class Plan(Struct):
    """What a merge would do."""

    allowed: bool
    reasons: list[str]
    moves: Moves
    conflicts: list[Conflict]
    plan_hash: str
    target: Id
    source: Id


class Export(Struct):
    """Everything held about a person."""

    profile: ProfileShown
    profile_ids: list[Id]
    events: list[EventShown]
    facts: list[FactShown]
    properties: list[dict[str, Any]]


class LinkShown(Struct):
    """A link for one person, as a URL of the site and as a redirect through the gateway."""

    url: str
    redirect: str
    token: str


class ErrorDetail(Struct):
    """What is wrong and what to change."""

    code: str
    message: str
    hint: str


class Error(Struct):
    """The one shape of every error."""

    error: ErrorDetail


def decode(raw: bytes, shape: type[Any]) -> Any:
    """A request body as `shape`. Raises msgspec's errors, whose texts name the field."""
    return msgspec.json.decode(raw or b"{}", type=shape)
