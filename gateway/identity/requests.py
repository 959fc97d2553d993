"""What the engine can be asked: the commands of a page or a server, and the operations of the APIs."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from gateway.model import Key, Proof, Site


class Command(msgspec.Struct):
    """One entry of a queue. `sent_at` is the sender's clock in microseconds; the engine turns it into device time."""

    op_id: str
    sent_at: int
    fingerprint: str = ""


class Track(Command, gc=False):
    """An event; `data`, `extras` and `page` are JSON.

    Events of one site with equal `folded` are shown under the name that was seen first.
    """

    name: str = ""
    data: str = "{}"
    extras: str | None = None
    page: str | None = None
    folded: str = ""


class Writes(Command):
    """Properties, tags or a subscription: (kind, key, JSON value). `target`: about this identity, not the visitor.

    Kinds: set, once, tag, subscription; add (a number), append and remove (a list) change what the profile shows.
    """

    rows: list[tuple[str, str, str]] = msgspec.field(default_factory=list)
    target: Key | None = None


class Login(Command):
    """Somebody is here. `blocked` says why the id was refused; the properties are kept all the same."""

    key: Key | None = None
    blocked: str | None = None
    proof: Proof = Proof.CLAIMED
    wait: bool = False
    aliases: list[Key] = msgspec.field(default_factory=list)
    rows: list[tuple[str, str, str]] = msgspec.field(default_factory=list)


class Link(Command):
    """A link was followed. `token` is the digest of a signed link, None for a raw one.

    `ignored` says why it identifies nobody; whom it names is not kept then.
    """

    key: Key | None = None
    blocked: str | None = None
    proof: Proof = Proof.LINK_RAW
    token: str | None = None
    ignored: str | None = None


class Logout(Command):
    """The person left."""


class Reidentify(Command):
    """`old` is `new` from now on; without `old` the device's current identity is meant."""

    new: Key | None = None
    old: Key | None = None
    blocked_new: str | None = None
    blocked_old: str | None = None
    proof: Proof = Proof.CLAIMED


class Context(Command):
    """What the browser said about itself, as JSON."""

    data: str = "{}"


class Refused(Command):
    """A command that is kept only as an identity error: a bad identity token, a forged system event."""

    code: str = ""
    message: str = ""
    kind: str = "login"


class Batch(msgspec.Struct):
    """Commands of one browser. `device_id` 0: it has shown no valid token yet. `other_device`: it showed two.

    `measured` is the arrival minus the sender's clock in microseconds, None if the sender did not say. `name` is what
    another system calls the device, whose first batch under that name makes it; a character in it that no message id
    can hold keeps pages from taking such a name.

    Here and in the other requests: `private` asks to be left out of feeds and webhooks; of what is `declined` the
    writer keeps nothing.
    """

    site: Site
    device_id: int
    commands: list[Command]
    received_at: int
    measured: int | None = None
    other_device: int = 0
    actor: str = "page"
    name: str = ""
    private: bool = False
    declined: bool = False


class ServerBatch(msgspec.Struct):
    """Commands about one identity without a browser; they are kept on that identity's server visitor.

    `proof` is `server` with the secret key and `claimed` with the public key alone. Of a batch whose `receipt` was kept
    in the last five minutes the events are not kept again; what sets a state is, for another may have been set between.
    `known_only`: nothing is kept about somebody who was never seen.
    """

    site: Site
    key: Key
    commands: list[Command]
    received_at: int
    actor: str = "server"
    proof: Proof = Proof.SERVER
    receipt: str = ""
    known_only: bool = False
    private: bool = False
    declined: bool = False


@dataclass(frozen=True, slots=True)
class Person:
    """How a request names a person: by exactly one of identity, profile id or device id."""

    key: Key | None = None
    profile_id: int | None = None
    device_id: int | None = None

    def __str__(self) -> str:
        if self.key:
            return repr(self.key[1])
        return f"profile {self.profile_id}" if self.profile_id is not None else f"device {self.device_id}"


@dataclass(slots=True)
class Operation:
    """One operation of an API.

    `kind` is reidentify, merge, preview, demerge, unlink, drop (one identity leaves its profile), delete, undo, approve
    or reject. With proof `claimed` (the public key alone) a reidentify brings nothing along that anybody could miss;
    with `hold` it never merges two profiles that are there already but leaves that to an operator.
    """

    site: Site
    kind: str
    op_id: str
    people: list[Person] = field(default_factory=list)
    of: str = ""
    force: bool = False
    hold: bool = False
    dry_run: bool = False
    plan_hash: str | None = None
    reason: str | None = None
    actor: str = "server"
    blocked: str | None = None
    proof: Proof = Proof.SERVER
    private: bool = False
    declined: bool = False
