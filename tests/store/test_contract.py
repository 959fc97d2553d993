"""What `store.base` promises, on every database: what is missing is not in the answer, and saving twice is once."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.app import make_store
from gateway.errors import SettingError, Unavailable
from gateway.model import (
    FOREVER,
    Device,
    Erasure,
    Event,
    Fact,
    Identity,
    IdentityError,
    Profile,
    Proof,
    Seen,
    Site,
    Visitor,
)
from gateway.model import Write as Property
from gateway.settings import load
from gateway.store.base import Changes, Store, Transaction

SITE = 7
LAPTOP, PHONE = 101, 102
ALICE, BOB = ("id", "alice"), ("id", "bob")


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = make_store(load({}, database=database))
    await store.open()
    yield store
    await store.close()


async def do(store: Store, name: str, *arguments: Any) -> Any:
    """Calls one method in a transaction of its own."""

    async def work(tx: Transaction) -> Any:
        return await getattr(tx, name)(SITE, *arguments)

    return await store.run(work)


async def save(store: Store, **changes: Any) -> None:
    await do(store, "save", Changes(**changes))


def event(event_id: int, message_id: str, at: int = 10, device_id: int = LAPTOP) -> Event:
    return Event(SITE, event_id, device_id, message_id, "Viewed", '{"price":1.5}', None, None, at, at + 1, 0)


def fact(seq: int, op_id: str, **more: Any) -> Fact:
    return Fact(seq, op_id, **({"kind": "merge", "outcome": "merged", "request_hash": "h"} | more))


# --- transactions -----------------------------------------------------------------------------------------------------


async def test_what_work_returns_is_the_answer_and_is_committed(store):
    assert await do(store, "save", Changes(devices=[Device(LAPTOP)])) is None
    assert [d.device_id for d in await do(store, "devices", {LAPTOP})] == [LAPTOP]


async def test_work_that_raises_leaves_nothing_behind(store):
    async def work(tx: Transaction) -> None:
        await tx.save(SITE, Changes(devices=[Device(LAPTOP)]))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.run(work)
    assert await do(store, "devices", {LAPTOP}) == []


async def test_work_sees_what_it_saved_before(store):
    async def work(tx: Transaction) -> list[Device]:
        await tx.save(SITE, Changes(devices=[Device(LAPTOP)]))
        return await tx.devices(SITE, {LAPTOP})

    assert len(await store.run(work)) == 1


async def test_readers_see_the_last_commit(store):
    seen = []

    async def work(tx: Transaction) -> None:
        await tx.save(SITE, Changes(devices=[Device(LAPTOP)]))
        seen.append(len(await store.read("select * from devices")))

    await store.run(work)
    seen.append(len(await store.read("select * from devices")))
    assert seen == [0, 1]


async def test_readers_see_the_last_commit_also_while_others_are_reading(store):
    """A read that begins while another one is under way must not share the older view of the database with it."""
    await save(store, devices=[Device(n) for n in range(1000, 1500)])
    over = False

    async def read_on() -> None:
        while not over:
            await store.read("select * from devices")

    others = [asyncio.create_task(read_on()) for _ in range(4)]
    try:
        for n in range(1, 101):
            await store.set_config("number", str(n))
            assert await store.config("number") == str(n)
    finally:
        over = True
        await asyncio.gather(*others)


async def test_a_snapshot_is_one_commit_and_what_comes_after_it_is_seen_again(store):
    await store.set_config("number", "1")
    sql = "select value from config where name = 'number'"
    async with store.snapshot() as view:
        before = await view.read(sql)
        await store.set_config("number", "2")
        async with view.snapshot() as same:
            assert await same.read(sql) == await view.read(sql) == before
        assert await store.config("number") == "2"
    async with store.snapshot() as view:
        assert await view.read(sql) != before


async def test_a_snapshot_that_is_given_up_while_it_is_opened_holds_nothing(store):
    async def look() -> None:
        async with store.snapshot() as view:
            await view.read("select * from config")

    for steps in range(1, 20):
        given_up = [asyncio.create_task(look()) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        await store.set_config("number", str(steps))
        assert await asyncio.gather(*(store.config("number") for _ in range(8))) == [str(steps)] * 8


async def test_a_number_that_no_column_holds_does_not_make_the_database_unavailable(store):
    mistake = (OverflowError, asyncpg.DataError)
    with pytest.raises(mistake):
        await store.read("select name from sites where site_id = $1", 2**70)
    with pytest.raises(mistake):
        await save(store, devices=[Device(2**70)])


async def test_locking_what_does_not_exist_makes_nobody(store):
    async def work(tx: Transaction) -> None:
        await tx.lock(SITE, {LAPTOP, 999})
        await tx.lock(SITE, {LAPTOP})
        await tx.save(SITE, Changes(devices=[Device(LAPTOP)]))

    await store.run(work)
    assert [p for p in await do(store, "profiles", {LAPTOP, 999}) if p.live or p.root != p.profile_id] == []


async def test_many_at_once_count_right(store):
    """Read, add one, write: with the profile locked first no addition is lost."""
    await save(store, profiles=[Profile(1, 1)], visitors=[Visitor(1, 1, home=1)])

    async def add(tx: Transaction) -> None:
        await tx.lock(SITE, {1})
        (visitor,) = await tx.visitors_on(SITE, {1}, -1)
        visitor.events += 1
        await tx.save(SITE, Changes(visitors=[visitor]))

    if "sqlite" in type(store).__name__.lower():
        for _ in range(20):  # one writer: the gateway queues its groups
            await store.run(add)
    else:
        await asyncio.gather(*(store.run(add) for _ in range(20)))
    assert (await do(store, "visitors_on", {1}, -1))[0].events == 20


# --- rows -------------------------------------------------------------------------------------------------------------


async def test_nothing_is_found_in_an_empty_database(store):
    assert await do(store, "last_seq") == 0
    for name, *arguments in (
        ("devices", {1}),
        ("visitors_on", {1}, -1),
        ("visitors_at", {1}),
        ("identities_named", {ALICE}),
        ("identities_at", {1}),
        ("profiles", {1}),
        ("members", {1}),
        ("device_facts", {1}),
        ("graph_facts", {1}),
        ("recorded", {"op"}),
        ("facts_about", {1}, {1}),
        ("exclusions", {1}),
        ("tokens", {"t"}),
        ("writes", {1}, {"name"}),
    ):
        assert await do(store, name, *arguments) == [], name
    for name in ("births", "tombstones"):
        assert await do(store, name, {"x"}) == {}, name


@pytest.mark.parametrize("times", [1, 2])
async def test_devices(store, times):
    device = Device(LAPTOP, True, 5, -7, '{"language":"de"}', [Erasure(1, 2, 3)])
    for _ in range(times):
        await save(store, devices=[device])
    assert await do(store, "devices", {LAPTOP, PHONE}) == [device]
    await save(store, devices=[replace(device, context=None)])
    assert (await do(store, "devices", [LAPTOP]))[0].context is None


@pytest.mark.parametrize("times", [1, 2])
async def test_visitors(store, times):
    first = Visitor(LAPTOP, LAPTOP, 0, 50, ALICE, 11, Proof.CLAIMED, False, 3, 10, 20, 2)
    second = Visitor(202, LAPTOP, 50, FOREVER, home=202)
    for _ in range(times):
        await save(store, visitors=[second, first])
    assert await do(store, "visitors_on", {LAPTOP}, -1) == [first, second]
    assert await do(store, "visitors_on", {LAPTOP}, 50) == [second]
    assert await do(store, "visitors_at", {11}) == [first]
    await save(store, visitors_gone=[second])
    assert await do(store, "visitors_on", {LAPTOP}, -1) == [first]


async def test_what_events_need_of_visitors(store):
    first = Visitor(LAPTOP, LAPTOP, 0, 50, ALICE, 11, Proof.CLAIMED, False, 3, 10, 20, 30, 2)
    second = Visitor(202, LAPTOP, 50, FOREVER, home=202)
    visitors = [second, first, Visitor(PHONE, PHONE, 0, FOREVER, first_seen=4, last_seen=4)]
    await save(store, devices=[Device(LAPTOP), Device(PHONE, clock_offset=-7)], visitors=visitors)
    laptop, phone = await do(store, "stretches", {LAPTOP, PHONE, 999}, 50)
    assert laptop == (LAPTOP, 0, 202, 50, FOREVER, None)
    assert phone == (PHONE, -7, PHONE, 0, FOREVER, 4)
    assert len(await do(store, "stretches", {LAPTOP}, -1)) == 2
    many = [Seen(LAPTOP, LAPTOP, 3, 15, 25), Seen(PHONE, PHONE, 1, 9, 9), Seen(LAPTOP, 202, 0, 60, 60)]
    await do(store, "seen", many)
    await do(store, "seen", [Seen(PHONE, 999, 1, 1, 1)])
    found = await do(store, "visitors_on", {LAPTOP, PHONE}, -1)
    assert [(v.visitor_id, v.events, v.first_seen, v.last_seen) for v in found][::2] == [
        (LAPTOP, first.events + 3, 15, 30),
        (PHONE, 1, 4, 9),
    ]


async def test_identities(store):
    alice = Identity(ALICE, 11, Proof.VERIFIED, 5, 0)
    await save(store, identities_new=[alice, Identity(("email", "alice"), 12, Proof.LINK, 6)])
    assert await do(store, "identities_named", {ALICE, BOB}) == [alice]
    assert await do(store, "identities_at", {11}) == [alice]
    for _ in range(2):
        await save(store, identities=[replace(alice, home=13)])
    assert (await do(store, "identities_named", {ALICE}))[0].home == 13
    await save(store, identities_gone=[ALICE])
    await save(store, identities_gone=[ALICE])
    assert await do(store, "identities_named", {ALICE}) == []
    assert len(await do(store, "identities_named", {("email", "alice")})) == 1


async def test_profiles(store):
    rows = [Profile(1, 1, True, ALICE), Profile(2, 1)]
    for _ in range(2):
        await save(store, profiles=rows)
    assert sorted(await do(store, "profiles", {1, 2, 3}), key=lambda p: p.profile_id) == rows
    assert sorted(await do(store, "members", {1}), key=lambda p: p.profile_id) == rows
    await save(store, profiles_gone=[2])
    assert await do(store, "members", {1}) == rows[:1]


async def test_facts(store):
    login = fact(1, "a", kind="login", outcome="attached", device_id=LAPTOP, identities=[ALICE], homes=[11], at=3)
    merge = fact(2, "b", identities=[ALICE, None], homes=[11, 12], detail={"target": 11}, proof=Proof.SERVER)
    nothing = fact(3, "c", kind="login", outcome="noop", device_id=LAPTOP, inert=True)
    await save(store, facts=[login, merge, nothing], refs=[(11, 2), (12, 2), (11, 1)])
    assert await do(store, "last_seq") == 3
    assert await do(store, "device_facts", {LAPTOP}) == [login]
    assert await do(store, "graph_facts", {11, 12}) == [merge]
    assert await do(store, "recorded", {"c", "d"}) == [nothing]
    assert await do(store, "facts_about", {12}, {LAPTOP}) == [login, merge, nothing]
    await save(store, facts_changed=[replace(merge, undone_by="u")], refs=[(11, 2)])
    assert await do(store, "graph_facts", {11}) == []
    assert (await do(store, "recorded", {"b"}))[0].undone_by == "u"


async def test_the_same_op_id_on_two_devices_is_two_facts(store):
    await save(store, facts=[fact(1, "a", device_id=LAPTOP), fact(2, "a", device_id=PHONE)])
    assert len(await do(store, "recorded", {"a"})) == 2


async def test_exclusions(store):
    for _ in range(2):
        await save(store, excluded=[(1, 2, 9), (2, 1, 9), (1, 2, 9)])
    assert await do(store, "exclusions", {1}) == [(1, 2)]
    await save(store, included=[(1, 2)])
    assert await do(store, "exclusions", {1}) == []
    assert await do(store, "exclusions", {2}) == [(2, 1)]


async def test_tokens_births_and_tombstones(store):
    for _ in range(2):
        await save(store, tokens=[("t", LAPTOP, 11, 1), ("t", PHONE, 11, 2)], tombstones=[("hash", 5)])
    await save(store, births=[("m1", LAPTOP)])
    assert sorted(await do(store, "tokens", {"t", "u"})) == [("t", LAPTOP), ("t", PHONE)]
    assert await do(store, "births", {"m1", "m2"}) == {"m1": LAPTOP}
    assert await do(store, "births", {"m0", "m2"}) == {}
    assert await do(store, "tombstones", {"hash"}) == {"hash": 5}
    await save(store, tombstones=[("hash", 6)])
    assert await do(store, "tombstones", {"hash"}) == {"hash": 6}


async def test_births_are_found_among_very_many_of_the_same_moment(store):
    await save(store, births=[(f"m{n}", n) for n in range(1000)])
    assert await do(store, "births", {"m7", "m99", "m991", "M5", "mé", "m5 "}) == {"m7": 7, "m99": 99, "m991": 991}
    assert await do(store, "births", {"", "m1", "\U0001f600"}) == {"m1": 1}


async def test_writes_come_oldest_first_and_at_one_time_by_op_id(store):
    rows = [Property(LAPTOP, "set", "name", at, op, '"x"') for at, op in ((1, "b"), (2, "B"), (2, "_"), (2, "a"))]
    for _ in range(2):
        await save(store, writes=rows[::-1])
    assert await do(store, "writes", {LAPTOP, PHONE}, {"name", "plan"}) == rows
    await save(store, writes_gone=rows[:1])
    assert await do(store, "writes", {LAPTOP}, {"name"}) == rows[1:]


async def test_a_row_given_twice_in_one_save_counts_as_the_last(store):
    first = Property(LAPTOP, "set", "name", 1, "a", '"x"')
    await save(store, writes=[first, replace(first, value='"y"')], profiles=[Profile(1, 1), Profile(1, 1, True)])
    assert [w.value for w in await do(store, "writes", {LAPTOP}, {"name"})] == ['"y"']
    assert await do(store, "profiles", {1}) == [Profile(1, 1, True)]


async def test_identity_errors_are_counted(store):
    error = IdentityError("needs_proof", "op", 5, 11, LAPTOP, "message", 12, "subject")
    for _ in range(2):
        await save(store, errors=[error])
    rows = await store.read("select seen, home from identity_errors where site_id = $1", SITE)
    assert rows == [{"seen": 2, "home": 11}]
    await save(store, errors_gone=[("needs_proof", "op", LAPTOP)])
    assert await store.read("select seen from identity_errors") == []


async def test_events_are_kept_once(store):
    assert await do(store, "add_events", [event(1, "m1"), event(2, "m2"), event(3, "m1")]) == {1, 2}
    assert await do(store, "add_events", [event(4, "m2"), event(5, "m3"), event(6, "m3", device_id=PHONE)]) == {5, 6}
    rows = await store.read("select event_id, data from events order by event_id")
    assert rows == [{"event_id": i, "data": '{"price":1.5}'} for i in (1, 2, 5, 6)]


async def test_an_event_with_extras_among_others_keeps_them(store):
    events = [event(n, f"m{n}")._replace(extras='{"a":1}' if n == 5 else None) for n in range(1, 12)]
    await do(store, "add_events", events)
    rows = await store.read("select event_id, extras, page from events order by event_id")
    assert [(r["event_id"], r["extras"], r["page"]) for r in rows] == [(e.event_id, e.extras, e.page) for e in events]


async def test_counting_a_stretch(store):
    await do(store, "add_events", [event(1, "m1", 10), event(2, "m2", 20), event(3, "m3", 30)])
    await save(store, writes=[Property(LAPTOP, "set", "name", 5, "a", '"x"')])
    assert await do(store, "count_events", Visitor(LAPTOP, LAPTOP, 0, 30)) == (2, 5, 20)
    assert await do(store, "count_events", Visitor(LAPTOP, LAPTOP, 31, FOREVER)) == (0, None, None)


async def test_erasing_takes_everything_of_the_visitors_and_nothing_else(store):
    await do(store, "add_events", [event(1, "m1", 10), event(2, "m2", 20), event(3, "m3", 10, PHONE)])
    await save(
        store,
        devices=[Device(LAPTOP, context="{}")],
        writes=[Property(LAPTOP, "set", "name", at, "a", '"x"') for at in (10, 20)],
        errors=[IdentityError("needs_proof", "op", 5, 11, LAPTOP, "message")],
        tokens=[("t", LAPTOP, 11, 1)],
        births=[("m1", LAPTOP)],
        excluded=[(11, 12, 1), (12, 11, 1), (13, 14, 1)],
    )
    for _ in range(2):
        await do(store, "erase", [Visitor(LAPTOP, LAPTOP, 0, 15)], {11})
    assert [r["event_id"] for r in await store.read("select event_id from events order by event_id")] == [2, 3]
    assert [w.at for w in await do(store, "writes", {LAPTOP}, {"name"})] == [20]
    assert await do(store, "exclusions", {11, 12, 13}) == [(13, 14)]
    assert await do(store, "tokens", {"t"}) == []
    assert await do(store, "births", {"m1"}) == {}
    assert (await do(store, "devices", {LAPTOP}))[0].context is None
    assert await store.read("select * from identity_errors") == []


async def test_sites_do_not_see_each_other(store):
    await save(store, devices=[Device(LAPTOP)], profiles=[Profile(1, 1)], facts=[fact(1, "a")])

    async def other(tx: Transaction) -> list[Any]:
        return [
            await tx.devices(8, {LAPTOP}),
            await tx.profiles(8, {1}),
            await tx.recorded(8, {"a"}),
            await tx.last_seq(8),
        ]

    assert await store.run(other) == [[], [], [], 0]


# --- reading, sites, configuration ------------------------------------------------------------------------------------


async def test_reading_and_streaming_give_the_same_rows(store):
    await save(store, profiles=[Profile(i, i) for i in range(1200)])
    sql = "select profile_id, root from profiles where site_id = $1 and profile_id = any($2) order by profile_id"
    rows = await store.read(sql, SITE, [1, 5, 1100, 5000])
    assert rows == [{"profile_id": i, "root": i} for i in (1, 5, 1100)]
    assert [r async for r in store.stream(sql, SITE, [1, 5, 1100, 5000])] == rows
    assert len([r async for r in store.stream("select * from profiles")]) == 1200


async def test_sites_are_made_and_changed(store):
    site = Site(1, "shop", "public", ["secret"], {"trust": "strict"}, 5)
    await store.save_site(site)
    await store.save_site(replace(site, name="store"))
    assert await store.sites() == [replace(site, name="store")]


async def test_configuration(store):
    assert await store.config("color") is None
    assert await store.set_config("color", "red", only_if_absent=True) == "red"
    assert await store.set_config("color", "blue", only_if_absent=True) == "red"
    assert await store.set_config("color", "green") == "green"
    assert await store.config("color") == "green"


async def test_every_process_gets_a_number_of_its_own(store):
    numbers = [await store.lease_node() for _ in range(5)]
    assert len(set(numbers)) == 5
    assert all(0 <= n < 1024 for n in numbers)


async def test_it_opens_again_with_what_was_committed(store, database):
    await save(store, devices=[Device(LAPTOP)])
    await store.close()
    await store.open()
    assert len(await do(store, "devices", {LAPTOP})) == 1


async def test_a_closed_store_is_unavailable(store):
    await store.close()
    await store.close()
    with pytest.raises(Unavailable):
        await store.read("select 1")
    with pytest.raises(Unavailable):
        await do(store, "last_seq")


@pytest.mark.parametrize("url", ["sqlite:////proc/nowhere/x.db", "postgresql://postgres@127.0.0.1:1/x"])
async def test_a_database_that_cannot_be_opened_is_unavailable(url, tmp_path: Path):
    store = make_store(load({}, database=url))
    with pytest.raises(Unavailable):
        await store.open()


def test_an_option_of_the_url_that_cannot_be_used_is_named():
    with pytest.raises(SettingError, match="pool_size"):
        make_store(load({}, database="postgresql://localhost/x?pool_size=many"))


@pytest.mark.parametrize(
    "address", ["postgresql://u:x@h:sec/ret", "postgresql://127.0.0.1:99999/x", "postgresql://[::1"]
)
async def test_what_is_no_address_of_a_database_is_told_without_repeating_it(address: str):
    with pytest.raises(SettingError, match="no address of a database") as refused:
        await make_store(load({}, database=address)).open()
    assert "sec" not in refused.value.message


async def test_a_parameter_or_user_that_postgresql_refuses_is_named(postgres_url: str):
    store = make_store(load({}, database=f"{postgres_url}?nonsense=1"))
    with pytest.raises(SettingError, match='"nonsense"'):
        await store.open()
    connection = await asyncpg.connect(postgres_url)
    role = f"reader_{uuid.uuid4().hex}"
    try:
        await connection.execute("drop schema if exists bare cascade")
        await connection.execute(f"create schema bare; create role {role} login; grant usage on schema bare to {role}")
        other = f"postgresql://{role}@{postgres_url.rpartition('@')[2]}?search_path=bare"
        with pytest.raises(SettingError, match="permission denied") as refused:
            await make_store(load({}, database=other)).open()
        assert "grant create" in refused.value.hint
    finally:
        await connection.execute(f"drop schema bare cascade; drop role {role}")
        await connection.close()
