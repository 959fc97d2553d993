"""What all decisions have in common: a world, the facts and errors they leave, and how these are made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.identity.ledger import World
from gateway.model import SERVER_DEVICE, Device, Fact, IdentityError, Key, Proof, Visitor


@dataclass(slots=True)
class Op:
    """Who asks, under which id, and when: device time for a browser's commands, else the commit time."""

    op_id: str
    at: int
    actor: str = "server"
    proof: Proof = Proof.SERVER
    device_id: int = SERVER_DEVICE
    request_hash: str = ""
    reason: str | None = None


@dataclass(slots=True)
class Answer:
    """The outcome of an operation and the profile it is about (any of its profile ids), with extra fields to show."""

    op_id: str
    outcome: str
    node: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def value_hash(site_id: int, key: Key) -> str:
    """What a tombstone keeps of a deleted identity."""
    return hashlib.sha256(f"{site_id}\0{key[0]}\0{key[1]}".encode()).hexdigest()


Stretch = tuple[int, int, int, Key | None, Proof | None, bool]


class Decision:
    """Decides operations one after the other on one world and collects the facts and errors they leave."""

    def __init__(self, world: World, *, now: int, new_id: Callable[[], int]) -> None:
        self.world = world
        self.now = now
        self.new_id = new_id
        self.last_seq = 0
        self.facts: list[Fact] = []
        self.errors: list[IdentityError] = []
        self.checked_links: dict[int, set[str]] = {}
        self.resolved: dict[int, str] = {}
        self.undone: dict[int, str] = {}
        self.deleted: list[Visitor] = []
        self.deleted_nodes: set[int] = set()
        self.tombstones: list[str] = []

    def next_seq(self) -> int:
        """The next place in the ledger: time-ordered, and behind everything committed even if the clock went back."""
        self.last_seq = max(self.last_seq + 1, self.new_id())
        return self.last_seq

    def _fact(
        self,
        op: Op,
        kind: str,
        identities: Sequence[Key | None],
        *,
        homes: list[int] | None = None,
        detail: dict[str, Any] | None = None,
    ) -> Fact:
        if homes is None:
            homes = []
            for key in identities:
                home = (self.world.home_of(key) or self.new_id()) if key else 0
                homes.append(home)
                if key and key not in self.world.identities:
                    self.world.homes[key] = home
        return Fact(
            seq=self.next_seq(),
            op_id=op.op_id,
            kind=kind,
            outcome="",
            device_id=op.device_id,
            actor=op.actor,
            proof=op.proof,
            at=op.at,
            committed_at=self.now,
            identities=list(identities),
            homes=homes,
            visitor_id=self.new_id() if op.device_id else 0,
            detail=detail or {},
            reason=op.reason,
            request_hash=op.request_hash,
        )

    def _record(self, fact: Fact) -> list[Stretch]:
        """Folds a fact; returns the time line of its device as it was before."""
        self.facts.append(fact)
        before = self._stretches(self.world.devices[fact.device_id]) if fact.device_id else []
        self.world.apply(fact)
        return before

    @staticmethod
    def _stretches(device: Device) -> list[Stretch]:
        return [(v.started_at, v.ended_at, v.home, v.claim, v.proof, v.tentative) for v in device.turns]

    def _inert(
        self,
        op: Op,
        kind: str,
        outcome: str,
        identities: Sequence[Key | None],
        *,
        reason: str | None = None,
        node: int = 0,
    ) -> Answer:
        """Keeps the answer of an operation that changed nothing, so that a repeat gets the same one."""
        fact = Fact(self.next_seq(), op.op_id, kind, outcome, op.device_id, op.actor, op.proof, op.at, self.now)
        fact.identities = list(identities)
        fact.homes = [node] if node else []
        fact.reason = reason or op.reason
        fact.request_hash = op.request_hash
        fact.inert = True
        self.facts.append(fact)
        return Answer(op.op_id, outcome, node)

    def _pin_join(self, fact: Fact, outcome: str) -> str:
        new, old = fact.homes[:2]
        target, source = (old, new) if outcome == "renamed" else (new, old)
        fact.detail |= {"join": outcome, "target": target, "source": source, "primary": list(fact.identities[0] or ())}
        if outcome == "merged" and fact.device_id:
            self._count(fact, old)
        return outcome

    def _count(self, fact: Fact, source: int) -> None:
        fact.moved_visitors = len(self.world.visitors(source))
        fact.moved_identities = len(self.world.identities_of(source))

    def _pending(self, fact: Fact) -> bool:
        """Whether the same pair already waits for an operator, or one has decided about it: pages say it every time."""
        pair = fact.homes[:2]
        held = (f for f in self.world.graph_facts.values() if f.kind == "reidentify" and f.outcome == "held")
        held = (f for f in held if f.undone_by is None and not f.idle)
        return any(f.homes[:2] == pair for f in held)

    def nodes_of(self, fact: Fact) -> list[int]:
        """The profile ids that a fact joined, parted or led to, in the order of its parts."""
        detail = fact.detail
        anchors = [anchor for anchor, _ in detail.get("released", {}).values()]
        given = [row[2] for name in ("dropped", "rehomed") for row in detail.get(name, ())]
        pinned = [*detail.get("nodes", ()), *detail.get("brought", ())]
        return [n for n in (*fact.homes, *pinned, *anchors, *given, detail.get("target"), detail.get("source")) if n]

    def _explain(self, fact: Fact, outcome: str, homes: list[int], blocked: str | None) -> None:
        """Keeps an identity error for a refused reidentify on the profile it concerns."""
        if outcome == "held":
            message = "a page asked to bring this profile along and could not prove that it may: approve or reject it"
            self._error("needs_proof", fact, message, home=homes[1], other=homes[0], subject=f"{homes}")
        elif outcome == "refused_excluded":
            message = "these two were taken apart on purpose; merge them with force to lift that"
            self._error("excluded_pair", fact, message, home=homes[0], other=homes[1], subject=f"{homes}")
        elif outcome == "refused_blocked":
            self._error("blocked_identity", fact, blocked or "", home=homes[0], subject=blocked or "")
        elif outcome == "refused_limit":
            self._device_limit(fact, homes[0])

    def _device_limit(self, fact: Fact, home: int) -> None:
        message = f"this profile has its {self.world.site.device_cap} devices; what came now stays on its own"
        self._error("device_limit", fact, message, home=home, subject=f"{home}")

    def _error(self, code: str, fact: Fact, message: str, *, home: int, other: int = 0, subject: str = "") -> None:
        device_id = fact.device_id
        self.errors.append(IdentityError(code, fact.op_id, fact.at, home, device_id, message, other, subject))
