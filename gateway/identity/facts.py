"""What a fact of the ledger says: whom it names, how well, and what it means for a device."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gateway.model import GHOST, GONE, SERVER_DEVICE, TENTATIVE, Device, Fact, Identity, Key, Proof, Release, Visitor

DEVICE_KINDS = ("login", "link", "logout", "reidentify")
GRAPH_KINDS = ("merge", "reidentify", "demerge", "unlink", "undo", "delete")
JOINED = ("merged", "renamed", "aliased", "reserved")


def mentions(fact: Fact) -> list[tuple[int, Proof]]:
    """Which of a fact's identities exist because of it, and how well it proves them: (position, proof).

    What stayed a ghost names nobody. A link names somebody only as long as a visitor is held by it: see `only_linked`.
    """
    proof = fact.proof or Proof.CLAIMED
    said = fact.kind in ("login", "reidentify") and fact.device_id != SERVER_DEVICE and not fact.flags & GHOST
    found: list[int] = []
    if fact.kind == "merge":
        found, proof = [0, 1], Proof.CLAIMED
    elif fact.kind == "reidentify" and fact.detail.get("join") in JOINED:
        found = [0, 1]
    elif said or (fact.kind == "reidentify" and fact.device_id == SERVER_DEVICE and fact.outcome == "held"):
        found = [0]  # what waits is between two profiles that exist
    names = fact.identities
    return [(n, proof) for n in found if n < len(names) and (key := names[n]) is not None and key[0] != GONE]


def only_linked(key: Key, home: int, visitors: Iterable[Visitor]) -> Identity | None:
    """The identity that links alone give, None if no visitor is held by one (any more)."""
    holders = [v for v in visitors if v.claim == key]
    if not holders:
        return None
    proof = max(v.proof or Proof.LINK_RAW for v in holders)
    return Identity(key, home, proof, min(v.claim_at for v in holders))


def release(fact: Fact, device_id: int, dead: Collection[int]) -> Release | None:
    """What a demerge or unlink means for a device. A demerge holds for devices that nobody knew of at the time, too.

    Where the turns that left were given to somebody who is `dead` by now, each that is still there is by itself.
    """
    released = fact.detail.get("released", {})
    if str(device_id) in released:
        anchor, at = released[str(device_id)]
    elif fact.kind == "demerge":
        anchor, at = 0, fact.at
    else:
        return None
    return Release(at, fact.seq, frozenset(fact.detail["nodes"]), 0 if anchor in dead else anchor)


def established(facts: Iterable[Fact], servers: dict[int, bool] | None = None) -> dict[Key, Identity]:
    """The identities that facts in force give, each with its best proof, since its first mention.

    `servers` tells the pseudo-devices of server-side traffic, so that each identity is given its own.
    """
    steps: list[tuple[int, int, Fact]] = []
    for fact in facts:
        named = fact.detail.get("named", fact.seq)
        steps.append((fact.seq, 0, fact))
        if named != fact.seq:  # it took hold later, when the time line was cut again
            steps.append((named, 1, fact))
    found: dict[Key, Identity] = {}
    for seq, _, fact in sorted(steps, key=lambda s: s[:2]):
        for kind, value, _ in fact.detail.get("dropped", ()):
            found.pop((kind, value), None)
        for n, proof in mentions(fact):
            key = fact.identities[n]
            assert key is not None
            if seq != fact.seq and n:
                continue
            identity = found.setdefault(key, Identity(key, fact.homes[n], proof, fact.at))
            identity.proof, identity.since = max(identity.proof, proof), min(identity.since, fact.at)
            serves = fact.kind == "login" and not fact.flags & TENTATIVE
            if serves and servers and servers.get(fact.device_id):
                identity.server_device = fact.device_id
    return found


def outside(device: Device) -> list[Fact]:
    """A device's facts without those in the stretches of deleted people."""
    return [f for f in device.facts if not erased(device, f)]


def erased(device: Device, fact: Fact) -> bool:
    """Whether a fact lies in the stretch of a deleted person: then only what it says about others counts."""
    return any(e.started_at <= fact.at < e.ended_at for e in device.erasures)


def about(device: Device, nodes: set[int]) -> bool:
    """Whether a device belongs to any of the profile ids, or something was said on it about them."""
    return any(v.home in nodes for v in device.turns) or any(
        nodes & {*f.homes, *joined_through(f)} for f in device.facts
    )


def joined_through(fact: Fact) -> set[int]:
    """The profile ids through which the visitor of a device fact was somebody else's."""
    return {n for _, *nodes in fact.detail.get("through", {}).get("edges", ()) for n in nodes}
