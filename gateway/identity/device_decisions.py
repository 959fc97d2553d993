"""What devices do, decided on a loaded world: logins, links, logouts, and a page's own reidentify."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.identity import rules
from gateway.identity.decision import Answer, Decision, Op, Stretch
from gateway.model import APPEND, GHOST, IGNORED, TENTATIVE, Device, Fact, Key, Proof, Visitor


class DeviceDecisions(Decision):
    """What a device says about who is on it."""

    def login(self, op: Op, key: Key, *, wait: bool = False, aliases: Sequence[Key] = ()) -> Answer:
        """The person `key` is on the device: their visitor from here, or from its beginning if nobody was known."""
        device = self.world.devices[op.device_id]
        turn = rules.turn_at(device.turns, op.at)
        if turn is None:
            return self._inert(op, "login", "noop", [key], reason="older than the deletion of this person")
        fact = self._fact(op, "login", [key], detail={"wait": True} if wait else {})
        known, held_by = turn.known, turn.home
        if aliases:
            fact.detail["aliases"] = [list(a) for a in aliases]
        before = self._record(fact)
        outcome = self._login_outcome(fact, known, held_by)
        self._conclude(fact, outcome, before)
        fact.moved_visitors = int(outcome == "attached")
        self._check_links(device)
        return Answer(op.op_id, outcome, self._node_on(device, op.at, fact.homes[0]))

    def _login_outcome(self, fact: Fact, known: bool, held_by: int) -> str:
        if fact.flags & GHOST:
            self._device_limit(fact, fact.homes[0])
            return "ghost"
        if fact.flags & TENTATIVE and not (known and held_by == fact.homes[0]):
            return "tentative"
        if known:
            return "noop" if self.world.root(held_by) == self.world.root(fact.homes[0]) else "switched"
        return "switched" if fact.flags & APPEND else "attached"

    def link(self, op: Op, key: Key, token: str | None) -> Answer:
        """A click on a link for `key`: a tentative visitor if nobody is known on the device, else nothing."""
        device = self.world.devices[op.device_id]
        turn = rules.turn_at(device.turns, op.at)
        if turn is None:
            return self._inert(op, "link", "noop", [key], reason="older than the deletion of this person")
        held_by = turn.home
        fact = self._fact(op, "link", [key], detail={"token": token} if token else {})
        before = self._record(fact)
        outcome = self._link_outcome(fact, rules.turn_at(device.turns, op.at), held_by)
        self._conclude(fact, outcome, before)
        fact.moved_visitors = int(outcome == "tentative")
        self._check_links(device)
        return Answer(op.op_id, fact.outcome, self._node_on(device, op.at, fact.homes[0]))

    def _link_outcome(self, fact: Fact, turn: Visitor | None, held_by: int) -> str:
        if fact.detail.get("token") in self.world.void:
            message = f"this link was opened on more than {self.world.site.token_cap} devices: it identifies nobody now"
            self._error("token_quarantined", fact, message, home=fact.homes[0], subject=fact.detail["token"])
            return "refused_limit"
        if fact.flags & GHOST:
            self._device_limit(fact, fact.homes[0])
            return "ghost"
        if turn is None or fact.flags & IGNORED:
            return "ignored_known"
        if turn.known:
            return "noop" if self.world.root(turn.home) == self.world.root(fact.homes[0]) else "ignored_known"
        return "tentative" if turn.home == fact.homes[0] != held_by else "noop"

    def logout(self, op: Op) -> Answer:
        """The person leaves: the next visitor on the device is anonymous."""
        device = self.world.devices[op.device_id]
        turn = rules.turn_at(device.turns, op.at)
        if turn is None:
            return self._inert(op, "logout", "noop", [], reason="older than the deletion of this person")
        held_by = turn.home
        fact = self._fact(op, "logout", [])
        before = self._record(fact)
        self._conclude(fact, "noop" if before == self._stretches(device) else "switched", before)
        self._check_links(device)
        return Answer(op.op_id, fact.outcome, held_by)

    def ignored(self, op: Op, kind: str, reason: str) -> Answer:
        """A command that identifies nobody here: only that it came is kept, and why it did nothing."""
        return self._inert(op, kind, "noop", [], reason=reason)

    def blocked(self, op: Op, kind: str, reason: str, home: int = 0) -> Answer:
        """An identity value that must not become one: nothing is linked, the refusal is kept where it can be seen."""
        answer = self._inert(op, kind, "refused_blocked", [], reason=reason, node=home)
        device = self.world.devices.get(op.device_id)
        turn = rules.turn_at(device.turns, op.at) if device else None
        self._error("blocked_identity", self.facts[-1], reason, home=home or (turn.home if turn else 0), subject=reason)
        return answer

    def page_reidentify(self, op: Op, new: Key, old: Key | None, *, blocked: str | None = None) -> Answer:
        """`old` is `new`, says a page: the device is `new`'s from here; what else comes along needs authority."""
        world, device = self.world, self.world.devices[op.device_id]
        turn = rules.turn_at(device.turns, op.at)
        if turn is None:
            return self._inert(op, "reidentify", "noop", [new, old], reason="older than the deletion of this person")
        if new == old:
            return self._inert(op, "reidentify", "noop", [new, old], reason="one id twice", node=turn.home)
        if old is None and not blocked and turn.claim != new:
            old = turn.claim
        target, source = world.identities.get(new), world.identities.get(old) if old else None
        together = target is not None and source is not None and world.root(target.home) == world.root(source.home)
        known, held_by = turn.known, turn.home
        fact = self._fact(op, "reidentify", [new, old])
        brought = 0
        if old is None:
            outcome = "" if not blocked else "refused_blocked"
        else:
            outcome = "" if together else self._authority(fact, device, turn, new, old)
        if "brought" in fact.detail:
            brought = sum(v.home in fact.detail["brought"] and v.claim is not None for v in device.turns)
        waits = outcome == "held" and known and held_by == fact.homes[0] and self._pending(fact)
        before = self._record(fact)
        self._conclude(fact, outcome or self._login_outcome(fact, known, held_by), before, again=waits)
        fact.moved_visitors += brought
        self._explain(fact, fact.outcome, fact.homes, blocked)
        self._check_links(device)
        return Answer(op.op_id, fact.outcome, self._node_on(device, op.at, fact.homes[0]))

    def _authority(self, fact: Fact, device: Device, turn: Visitor, new: Key, old: Key) -> str:
        """Decides whether `old`'s profile comes along, and pins it in the fact."""
        world = self.world
        target, source = world.identities.get(new), world.identities.get(old)
        if world.excluded(*fact.homes[:2]):
            return "refused_excluded"
        if source is None:
            return self._pin_join(fact, "aliased" if target else "reserved")
        visitors = world.visitors(source.home)
        identities = tuple(world.identities_of(source.home))
        server_side = any(world.devices[v.device_id].server for v in visitors)
        profile = rules.OldProfile(
            frozenset(world.browsers(source.home)),
            identities,
            server_side or any(i.proof == Proof.SERVER for i in identities),
            others=any(v.device_id != device.device_id for v in visitors),
        )
        allowed = rules.may_bring(
            profile,
            device.device_id,
            signed_link=self._signed_link(device, turn, source.home, target.home if target else 0),
            token_names_both=self._token_names_both(device, new, old),
            trust=world.site.trust,
        )
        if not allowed:
            own = any(v.device_id == device.device_id and v.claim is not None for v in visitors)
            if own and not profile.proven_customer:
                fact.detail["brought"] = sorted(world.component(source.home))
            return "held"
        browsers = profile.devices | {device.device_id} | (world.browsers(target.home) if target else set())
        if len(browsers) > world.site.device_cap:
            return "refused_limit"
        if target is None:
            return self._pin_join(fact, "renamed")
        return self._pin_join(fact, "merged" if visitors else "aliased")

    def _signed_link(self, device: Device, current: Visitor, old: int, new: int) -> bool:
        """Whether the device holds a signed, unquarantined link for `old` on a turn that is theirs or `new`'s."""
        world = self.world
        for fact in device.facts:
            if fact.kind != "link" or fact.proof != Proof.LINK or fact.detail.get("token") in world.void:
                continue
            turn = rules.turn_at(device.turns, fact.at)
            if turn is None or world.root(fact.homes[0]) != world.root(old):
                continue
            if turn is current or world.root(turn.home) in (world.root(old), world.root(new)):
                return True
        return False

    def _token_names_both(self, device: Device, new: Key, old: Key) -> bool:
        for fact in device.facts:
            named = (
                {fact.identities[0], *((k, v) for k, v in fact.detail.get("aliases", ()))}
                if fact.identities
                else {None}
            )
            if fact.kind == "login" and (fact.proof or 0) >= Proof.VERIFIED and {new, old} <= named:
                return True
        return False

    def _conclude(self, fact: Fact, outcome: str, before: list[Stretch], *, again: bool = False) -> None:
        """The outcome of what a device said: idle if it changed nothing, or was refused before in the same words.

        What waits for an operator is idle only if it waits already (`again`).
        """
        device = self.world.devices[fact.device_id]
        fact.outcome = outcome
        if "join" not in fact.detail and before == self._stretches(device):
            said = (f for f in device.facts if f is not fact and not f.idle and f.outcome == outcome != "held")
            same = any((f.kind, f.identities) == (fact.kind, fact.identities) for f in said)
            fact.idle = again or outcome == "noop" or same

    def _node_on(self, device: Device, at: int, otherwise: int) -> int:
        turn = rules.turn_at(device.turns, at)
        return turn.home if turn else otherwise

    def _check_links(self, device: Device) -> None:
        """Says again which of the device's links are contradicted by what is known now."""
        links = [f for f in device.facts if f.kind == "link" and f.detail.get("token") not in self.world.void]
        if not links:
            return
        self.errors = [
            e
            for e in self.errors
            if e.device_id != device.device_id
            or e.code not in ("link_contradicted", "link_for_other_user", "conflicting_links")
        ]
        self.checked_links[device.device_id] = {f.op_id for f in links}
        claimed_at = {f.seq: f.at for f in device.facts}
        for fact in links:
            turn = rules.turn_at(device.turns, fact.at)
            home = fact.homes[0]
            if turn is None or turn.home == home:
                continue
            if fact.flags & IGNORED or (turn.known and claimed_at.get(turn.claim_seq, 0) <= fact.at):
                message = "somebody else's link was opened by a known person: ignored"
                self._error("link_for_other_user", fact, message, home=turn.home, other=home, subject=fact.op_id)
            elif turn.known:
                message = "the person who opened this link logged in as somebody else: the visit is theirs"
                self._error("link_contradicted", fact, message, home=home, other=turn.home, subject=fact.op_id)
            elif turn.tentative:
                message = "two links name different people for one visit: the better proven, then the earlier one holds"
                self._error("conflicting_links", fact, message, home=turn.home, other=home, subject=fact.op_id)
