"""Random histories of everything that can be done, against the model and against the rules that always hold.

Each run says how many histories and operations it was (at the end of the run, or in the report's properties).
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.identity.requests import Batch, Command, Link, Login, Logout, Person, Track
from gateway.model import Proof
from tests.identity.lab import SECOND, Lab, name, run
from tests.identity.model import Model

PEOPLE = ("alice", "bob@x.io", "42", "77")
DEVICES = (1, 2, 3, 4)

people = st.sampled_from(PEOPLE)
devices = st.sampled_from(DEVICES)
lateness = st.one_of(st.just(0), st.integers(0, 15))
anybody = st.one_of(people, devices)
proofs = st.sampled_from([Proof.CLAIMED, Proof.VERIFIED, Proof.SERVER])

done: Counter[str] = Counter()


class Histories(RuleBasedStateMachine):
    """One lab with two sites; everything random happens on the first, the second must not notice."""

    def __init__(self) -> None:
        super().__init__()
        self.lab = Lab()
        self.model = Model()
        self.made = 0
        self.operations: list[str] = []
        self.seen: tuple[int, list[tuple[dict[str, Any], list[str]]]] = (-1, [])
        done["histories"] += 1

    def teardown(self) -> None:
        self.lab.close()

    @initialize()
    def somebody_on_another_site(self) -> None:
        """The same ids and devices on the second site, which nobody touches from now on."""
        other = self.lab.sites[1]
        for device in DEVICES:
            self.lab.track(device, "elsewhere", site=other)
        self.lab.login(1, "alice", site=other)
        self.lab.login(2, "42", Proof.SERVER, site=other)
        self.lab.merge("alice", "42", site=other)
        self.other_site = self.lab.dump(other)

    def op(self, kind: str) -> str:
        self.made += 1
        done[kind] += 1
        return f"{kind}-{self.made:03}"

    def now(self) -> int:
        """The time at which the next operation will be decided."""
        return self.lab.clock() + SECOND

    # --- what browsers do ---

    @rule(device=devices, late=lateness)
    def track(self, device: int, late: int) -> None:
        op, at = self.op("track"), self.now() - late * SECOND
        self.lab.track(device, op, at=at, op=op)
        self.model.track(op, at, device, op)

    @rule(device=devices, who=people, proof=proofs, late=lateness)
    def login(self, device: int, who: str, proof: Proof, late: int) -> None:
        op, at = self.op("login"), self.now() - late * SECOND
        self.lab.login(device, who, proof, at=at, op=op)
        self.model.login(op, at, device, who, int(proof))

    @rule(device=devices, who=people, signed=st.booleans(), late=lateness)
    def link(self, device: int, who: str, signed: bool, late: int) -> None:
        op, at = self.op("link"), self.now() - late * SECOND
        self.lab.link(device, who, token=f"token of {who} {op}" if signed else None, at=at, op=op)
        self.model.link(op, at, device, who, signed=signed)

    @rule(device=devices, late=lateness)
    def logout(self, device: int, late: int) -> None:
        op, at = self.op("logout"), self.now() - late * SECOND
        self.lab.logout(device, at=at, op=op)
        self.model.logout(op, at, device)

    @rule(device=devices, new=people, old=st.one_of(st.none(), people), late=lateness)
    def page_reidentify(self, device: int, new: str, old: str | None, late: int) -> None:
        op, at = self.op("reidentify-page"), self.now() - late * SECOND
        outcome = self.lab.page_reidentify(device, new, old, at=at, op=op)
        expected = self.model.page_reidentify(op, at, device, new, old)
        assert expected in (None, outcome), f"{outcome}, not {expected}"
        self.operations.append(op)

    @rule(
        device=devices,
        row=st.one_of(
            st.tuples(st.sampled_from(["set", "once"]), st.sampled_from(["plan", "city"]), st.integers(0, 9)),
            st.tuples(st.just("tag"), st.sampled_from(["vip", "new"]), st.booleans()),
            st.tuples(st.just("subscription"), st.just(""), st.booleans()),
        ),
        late=lateness,
    )
    def put(self, device: int, row: tuple[str, str, Any], late: int) -> None:
        op, at = self.op("put"), self.now() - late * SECOND
        self.lab.put(device, row, at=at, op=op)
        self.model.write(op, at, device, *row)

    @rule(
        said=st.lists(
            st.tuples(st.sampled_from(["login", "link", "logout", "track"]), devices, people, lateness),
            min_size=2,
            max_size=4,
        )
    )
    def wave(self, said: list[tuple[str, int, str, int]]) -> None:
        """What several browsers send at once is decided together, in one transaction."""
        batches = []
        for kind, device, who, late in said:
            op, at = self.op(kind), self.now() - late * SECOND
            command: Command
            if kind == "login":
                command = Login(op, at, key=name(who))
                self.model.login(op, at, device, who, int(Proof.CLAIMED))
            elif kind == "link":
                command = Link(op, at, key=name(who))
                self.model.link(op, at, device, who, signed=False)
            elif kind == "logout":
                command = Logout(op, at)
                self.model.logout(op, at, device)
            else:
                command = Track(op, at, name=op)
                self.model.track(op, at, device, op)
            batches.append(Batch(self.lab.site, device, [command], self.now()))
        self.lab.clock.tick()
        self.lab.ask(*batches)

    # --- what servers do ---

    @rule(who=people, late=lateness)
    def server_track(self, who: str, late: int) -> None:
        op, now = self.op("server-track"), self.now()
        self.lab.server_track(who, op, at=now - late * SECOND, op=op)
        self.model.server_track(op, now, now - late * SECOND, who, op)

    @rule(new=people, old=people)
    def reidentify(self, new: str, old: str) -> None:
        op, now = self.op("reidentify"), self.now()
        assert self.lab.reidentify(new, old, op=op) == self.model.reidentify(op, now, new, old)
        self.operations.append(op)

    @rule(into=anybody, source=anybody, force=st.booleans())
    def merge(self, into: Any, source: Any, force: bool) -> None:
        assume(not any(isinstance(p, int) and self.model.place(p) is None for p in (into, source)))
        op, now = self.op("merge"), self.now()
        touched = self.touched_by_merge(source)
        before, events = self.lab.store.db.total_changes, self.stored_events()
        outcome = self.lab.merge(into, source, op=op, force=force)
        rows = self.lab.store.db.total_changes - before
        assert rows <= 20 + 4 * touched, f"a merge of {touched} visitors and identities wrote {rows} rows"
        assert self.stored_events() == events
        assert outcome == self.model.merge(op, now, into, source, force=force)
        self.operations.append(op)

    @rule(into=people, source=people)
    def merge_and_back(self, into: str, source: str) -> None:
        """Undoing a merge leaves everybody byte for byte as they were; opposite and repeated it is the same merge."""
        op, now, before = self.op("merge"), self.now(), self.exports()
        outcome = self.lab.merge(into, source, op=op)
        assert outcome == self.model.merge(op, now, into, source, force=False)
        if outcome == "merged":
            assert self.lab.merge(source, into) == self.lab.merge(into, source) == "noop"
            back, now, events = self.op("undo"), self.now(), self.stored_events()
            assert self.lab.undo(op, op=back) == "undone"
            assert self.model.undo(back, now, op) == "undone"
            assert (self.exports(), self.stored_events()) == (before, events)

    def exports(self) -> str:
        return json.dumps([self.lab.export(who) for who in PEOPLE], sort_keys=True)

    def stored_events(self) -> list[Any]:
        return self.lab.rows("select * from events where site_id = 1 order by event_id")

    def touched_by_merge(self, source: Any) -> int:
        profile = self.lab.profile(source)
        if profile is None:
            return 0
        ids = self.lab.rows("select count(*) from profiles where site_id = 1 and root = ?", int(profile["profile_id"]))
        return len(profile["visitors"]) + len(profile["identities"]) + ids[0][0]

    @rule(who=people)
    def demerge(self, who: str) -> None:
        op, now = self.op("demerge"), self.now()
        profile = self.lab.profile(who)
        events = set(self.lab.events(who))
        assert self.lab.demerge(who, op=op) == self.model.demerge(op, now, who)
        self.operations.append(op)
        if profile is not None:
            self.apart(profile, events)

    def apart(self, before: dict[str, Any], events: set[str]) -> None:
        """After a demerge nobody of it has more than one device or a name, and no event is lost."""
        left: set[str] = set()
        turns = {v["visitor_id"] for v in before["visitors"]}
        for profile, shown in self.everybody():
            left |= set(shown)
            if turns & {v["visitor_id"] for v in profile["visitors"]}:
                assert len({v["device_id"] for v in profile["visitors"]}) == 1
                assert not profile["identities"]
        assert events <= left

    @rule(device=devices)
    def unlink(self, device: int) -> None:
        assume(self.model.place(device) is not None)
        op, now = self.op("unlink"), self.now()
        assert self.lab.unlink(device, op=op) == self.model.unlink(op, now, device)
        self.operations.append(op)

    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        assume(self.operations)
        of = data.draw(st.sampled_from(self.operations))
        op, now = self.op("undo"), self.now()
        outcome = self.lab.undo(of, op=op)
        assert (outcome == "undone") == (self.model.undo(op, now, of) == "undone"), outcome

    @rule(who=anybody)
    def delete(self, who: Any) -> None:
        assume(not isinstance(who, int) or self.model.place(who) is not None)
        op, now = self.op("delete"), self.now()
        assert self.lab.delete(who, op=op) == self.model.delete(op, now, who)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The same request once more changes nothing."""
        assume(self.operations)
        of = data.draw(st.sampled_from(self.operations))
        done["repeat"] += 1
        before = self.lab.dump(self.lab.site)
        recorded = self.lab.fact(of)
        if of.startswith("merge") and recorded and recorded["kind"] == "merge":
            outcome = self.lab.operate("merge", Person(("id", "alice")), Person(("id", "77")), op=of)
            assert outcome in (recorded["outcome"], "op_id_conflict")
        assert self.lab.dump(self.lab.site) == before

    # --- what always holds ---

    def everybody(self) -> list[tuple[dict[str, Any], list[str]]]:
        """All profiles with their events, read once after each step."""
        changes = self.lab.store.db.total_changes
        if self.seen[0] != changes:
            found = run(self.lab.reader().search("", limit=500))["profiles"]
            self.seen = changes, [(p, self.lab.events_of(p["profile_id"])) for p in found]
        return self.seen[1]

    @invariant()
    def as_the_model_says(self) -> None:
        shown = []
        for profile, events in self.everybody():
            names = sorted(i["value"] for i in profile["identities"])
            if names or events:
                shown.append((names, sorted(events), profile["properties"], profile["tags"], profile["subscribed"]))
        assert sorted(shown, key=repr) == self.model.people()

    @invariant()
    def every_event_is_in_exactly_one_profile(self) -> None:
        shown = [e for _, events in self.everybody() for e in events]
        stored = [r[0] for r in self.lab.rows("select name from events where site_id = 1")]
        assert sorted(shown) == sorted(stored)
        assert sorted(stored) == sorted(e for _, _, e in self.model.events)

    @invariant()
    def every_identity_is_in_at_most_one_profile(self) -> None:
        shown = Counter(i["value"] for p, _ in self.everybody() for i in p["identities"])
        assert all(n == 1 for n in shown.values())
        assert len(shown) == self.lab.rows("select count(*) from identities where site_id = 1")[0][0]

    @invariant()
    def redirects_take_one_hop(self) -> None:
        hops = self.lab.rows(
            "select p.profile_id from profiles p"
            " left join profiles r on r.site_id = p.site_id and r.profile_id = p.root"
            " where p.root <> p.profile_id and (r.root is null or r.root <> r.profile_id or p.live = 1)"
        )
        assert hops == []

    @invariant()
    def the_tables_are_the_ledger_folded(self) -> None:
        self.lab.check(self.lab.site)

    @invariant()
    def the_other_site_is_untouched(self) -> None:
        assert self.lab.dump(self.lab.sites[1]) == getattr(self, "other_site", self.lab.dump(self.lab.sites[1]))


def play(examples: int, steps: int) -> str:
    """Runs the machine; returns how much it did. SEED makes it other histories, SHRINK=0 leaves a failure as it is."""
    done.clear()
    chosen = os.environ.get("SEED")
    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=chosen is None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if os.environ.get("SHRINK", "1") == "1" else (Phase.generate,),
    )
    machine = type("Seeded", (Histories,), {})
    if chosen is not None:
        machine = seed(int(chosen))(machine)
    run_state_machine_as_test(machine, settings=options)  # type: ignore[no-untyped-call]
    histories = done.pop("histories")
    return f"{histories} histories, {done.total()} operations: {json.dumps(dict(sorted(done.items())))}"


def test_random_histories_go_as_the_model_says(record_property: Callable[[str, object], None]) -> None:
    record_property("ran", play(examples=60, steps=30))


@pytest.mark.slow
def test_many_random_histories_go_as_the_model_says(record_property: Callable[[str, object], None]) -> None:
    record_property("ran", play(examples=3000, steps=50))
