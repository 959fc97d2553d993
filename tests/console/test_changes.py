"""Setting people right: every operation of the console, asked for as its forms do."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.console.desk import Desk, desk_of

both = pytest.mark.parametrize("kind", ["sqlite", "postgres"])
both_slowly = pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])


@pytest.fixture
def kind() -> str:
    """The database; a test marked `both` runs on each."""
    return "sqlite"


@pytest.fixture
async def desk(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    """alice, bob and carl with devices of their own; alice and bob show one address."""
    async with desk_of(tmp_path if kind == "sqlite" else request.getfixturevalue("postgres_url")) as desk:
        pushed = [
            ("laptop", ["user", {"id": "alice", "email": "jo@x.io", "plan": "pro"}]),
            ("laptop", ["track", "Purchased"]),
            ("phone", ["user", {"id": "bob", "email": "jo@x.io", "plan": "free", "size": "L"}]),
            ("phone", ["track", "Looked"]),
            ("tablet", ["user", {"id": "carl"}]),
        ]
        for n, (device, command) in enumerate(pushed):
            await desk.driver.push(device, command, f"op{n}", desk.driver.time(None))
        yield await desk.log_in(role="editor")
        await desk.driver.check_refold()


async def id_of(desk: Desk, who: str) -> str:
    profile = await desk.driver.find(who)
    assert profile is not None, who
    return str(profile["profile_id"])


def hidden(desk: Desk) -> dict[str, str]:
    """The hidden fields of the last form on the page."""
    form = desk.page.rpartition("<form")[2]
    return dict(re.findall(r'<input type="hidden" name="([\w-]+)" value="([^"]*)"', form))


async def newest_fact(desk: Desk) -> dict[str, object]:
    facts: list[dict[str, object]] = (await desk.driver.api("GET", "/v1/ledger?limit=500")).json()["facts"]
    return facts[-1]


async def last_line(desk: Desk) -> tuple[str, str, str]:
    (line,) = await desk.access.accounts.audit(before=2**63 - 1, limit=1)
    return line.action, line.subject, line.detail


async def merge(desk: Desk, target: str, source: str, **more: str) -> None:
    await desk.get(f"people/{target}/merge?with={source}")
    await desk.post(f"people/{target}/merge", hidden(desk) | more)


async def test_merge_shows_what_moves_and_what_wins_then_does_it(desk: Desk) -> None:
    alice, bob = await id_of(desk, "u:alice"), await id_of(desk, "u:bob")
    await desk.get(f"people/{alice}/merge")
    assert "These show the same email address: bob" in desk.text
    await desk.get(f"people/{alice}/merge?with={bob}")
    assert "1 visitor and 1 identity come along, and with them 1 event" in desk.text
    assert "plan pro free free size nothing L L" in desk.text
    await desk.post(f"people/{alice}/merge", hidden(desk) | {"reason": "called us"})
    assert "They are one person now." in desk.text
    assert "ann merged bob into alice. Came along: 1 visitor, 1 identity." in desk.text
    assert "reason: called us" in desk.text
    assert await id_of(desk, "u:bob") == alice
    assert (await newest_fact(desk))["actor"] == "console:ann"
    lines = await desk.access.accounts.audit(before=2**63 - 1, limit=5)
    assert [(e.action, e.subject) for e in lines if e.action == "merged"] == [("merged", f"profile {alice}")]


async def test_the_other_way_round_keeps_the_other(desk: Desk) -> None:
    alice, bob = await id_of(desk, "u:alice"), await id_of(desk, "u:bob")
    await desk.get(f"people/{alice}/merge?with={bob}&keep=other")
    await desk.post(f"people/{alice}/merge", hidden(desk))
    assert await id_of(desk, "u:alice") == bob


async def test_who_changed_since_the_preview_is_previewed_again(desk: Desk) -> None:
    alice, bob = await id_of(desk, "u:alice"), await id_of(desk, "u:bob")
    await desk.get(f"people/{alice}/merge?with={bob}")
    form = hidden(desk)
    await desk.driver.api("POST", "/v1/merges", {"target": "bob", "source": "carl"})
    response = await desk.post(f"people/{alice}/merge", form)
    assert response.status_code == 409
    assert "The profiles changed since the preview" in desk.text and "2 visitors and 2 identities" in desk.text
    await desk.post(f"people/{alice}/merge", hidden(desk))
    assert await id_of(desk, "u:carl") == alice


@both
async def test_a_merge_is_undone_and_only_force_merges_again(desk: Desk) -> None:
    alice, bob = await id_of(desk, "u:alice"), await id_of(desk, "u:bob")
    await merge(desk, alice, bob)
    undo = re.search(r'href="([^"]*/undo\?[^"]*)"', desk.page)
    assert undo is not None
    await desk.get(undo[1].replace("&amp;", "&"))
    assert "ann merged bob into alice" in desk.text and "as if this had never happened" in desk.text
    await desk.post("undo", hidden(desk))
    assert "Undone, as if it had never happened." in desk.text
    assert "ann undid what had joined bob and alice" in desk.text
    assert await id_of(desk, "u:bob") == bob
    await desk.get(undo[1].replace("&amp;", "&"))
    assert "There is nothing to undo" in desk.text
    await desk.get(f"people/{alice}/merge?with={bob}")
    assert "An undone merge keeps them apart" in desk.text
    await desk.post(f"people/{alice}/merge", hidden(desk))
    assert "Nothing was changed: an undone merge keeps them apart" in desk.text
    await merge(desk, alice, bob, force="yes")
    assert await id_of(desk, "u:bob") == alice


@both_slowly
async def test_one_device_is_taken_off(desk: Desk) -> None:
    alice, bob = await id_of(desk, "u:alice"), await id_of(desk, "u:bob")
    await merge(desk, alice, bob)
    device = desk.driver.gateway.device_id(desk.driver.site, desk.driver.tokens["phone"])
    await desk.get(f"devices/{device}/unlink")
    assert "1 visitor with 1 event leave" in desk.text and "1 other device, 2 identities" in desk.text
    await desk.post(f"devices/{device}/unlink", {"reason": "shared"})
    assert "The device is a stranger of its own now." in desk.text
    assert await desk.driver.events("u:alice") == ["Purchased"]
    assert await desk.driver.events("d:phone") == ["Looked"]


@both_slowly
async def test_reset_says_how_many_and_can_be_taken_back(desk: Desk) -> None:
    alice, bob = await id_of(desk, "u:alice"), await id_of(desk, "u:bob")
    await merge(desk, alice, bob)
    await desk.get(f"people/{alice}/reset")
    trial = (await desk.driver.api("POST", "/v1/demerge", {"identities": ["alice"], "dry_run": True})).json()
    assert [len(trial["results"][0][k]) for k in ("identities", "devices")] == [2, 2]
    assert "Reset 2 identities of alice?" in desk.text and "2 devices will each become a stranger" in desk.text
    assert await id_of(desk, "u:bob") == alice
    await desk.post(f"people/{alice}/reset", {})
    assert "Identities were reset" in desk.text
    assert await desk.driver.find("u:alice") is None
    undo = re.search(r'href="([^"]*/undo\?[^"]*)"', desk.page)
    assert undo is not None
    await desk.get(undo[1])
    await desk.post("undo", hidden(desk))
    assert await id_of(desk, "u:bob") == alice


@both
async def test_deletion_wants_the_name_typed(desk: Desk) -> None:
    bob = await id_of(desk, "u:bob")
    await desk.get(f"people/{bob}/delete")
    assert "Type bob to delete" in desk.text
    assert f"people/{bob}/export" in desk.page
    response = await desk.post(f"people/{bob}/delete", {"typed": "alice"})
    assert response.status_code == 400 and "nothing was deleted" in desk.text.lower()
    assert await id_of(desk, "u:bob") == bob
    await desk.post(f"people/{bob}/delete", {"typed": " bob "})
    assert "bob was deleted: 1 event and everything else" in desk.text
    assert await desk.driver.find("u:bob") is None
    action, subject, detail = await last_line(desk)
    assert (action, subject) == ("deleted", f"profile {bob}") and detail.startswith("deleted, delete-")
    assert (await desk.get(f"people/{bob}")).status_code == 404


async def story(desk: Desk, who: str) -> str:
    """Why a person is one, as their page tells it."""
    await desk.get(f"people/{await id_of(desk, f'u:{who}')}")
    return desk.text.partition("Why these are one person")[2].partition("Properties")[0]


async def hold(desk: Desk) -> None:
    """A kiosk logs in as dora and claims to be alice too."""
    await desk.driver.push("kiosk", ["reidentify", "dora", "alice"], "claim", desk.driver.time(None))


@both_slowly
@pytest.mark.parametrize("what", ["approve", "reject"])
async def test_held_merges_are_decided(desk: Desk, what: str) -> None:
    await desk.get("held")
    assert "Nothing waits." in desk.text
    await hold(desk)
    await desk.get(f"people/{await id_of(desk, 'u:alice')}")
    assert "A merge with dora waits for a decision." in desk.text
    assert "Device A became dora and added that this is alice, without proof. A merge waits" in await story(
        desk, "dora"
    )
    await desk.get("held")
    assert "a browser became dora and said that this is also alice" in desk.text
    await desk.post("held", {"op": "claim", "what": what, "reason": "phoned"})
    assert ("They are one person now." if what == "approve" else "Rejected. The two stay apart.") in desk.text
    assert "Nothing waits." in desk.text
    assert (await id_of(desk, "u:dora") == await id_of(desk, "u:alice")) is (what == "approve")
    assert "waits for a decision" not in await story(desk, "dora")
    await desk.get("undo?op=claim")
    assert "Everything will be as if this had never happened" in desk.text


async def test_a_held_merge_that_settled_itself_waits_no_more(desk: Desk) -> None:
    for n, device in enumerate(("one", "two")):
        await desk.driver.push(device, ["user", {"id": "jo@x.io"}], f"in{n}", desk.driver.time(None))
    await desk.driver.push("one", ["reidentify", "9", "jo@x.io"], "first", desk.driver.time(None))
    assert "A merge waits for a decision." in await story(desk, "9")
    await desk.driver.push("two", ["reidentify", "9", "jo@x.io"], "second", desk.driver.time(None))
    told = await story(desk, "9")
    assert "added that this is jo@x.io, without proof." in told
    assert "waits for a decision" not in told and "Decide" not in told


async def test_a_viewer_cannot_decide(desk: Desk) -> None:
    await hold(desk)
    async with desk.colleague("vic", "viewer") as vic:
        await vic.get("held")
        assert "dora" in vic.text and "Approve" not in vic.text
        assert (await vic.post("held", {"op": "claim", "what": "approve"})).status_code == 403
    assert await id_of(desk, "u:dora") != await id_of(desk, "u:alice")


@both
async def test_duplicates_are_merged_in_a_batch_and_all_taken_back(desk: Desk) -> None:
    alice, bob = await id_of(desk, "u:alice"), await id_of(desk, "u:bob")
    await desk.get("duplicates")
    assert "jo@x.io" in desk.text and "Several have a customer number" in desk.text
    assert (await desk.post("duplicates", {})).status_code == 400
    await desk.get("duplicates")
    response = await desk.post("duplicates", {"group": "1", "email-1": "jo@x.io", "keep-1": bob})
    assert "/batches/console-" in response.url.path
    await until_it_says(desk, response.url.path, "Done 1 of 1 merge carried out, 1 still stand. merged: 1")
    assert await id_of(desk, "u:alice") == bob
    assert (await newest_fact(desk))["actor"] == "console:ann"
    await desk.post(response.url.path, {})
    await until_it_says(desk, response.url.path, "Undone 0 merges of 1 still stand. undone: 1")
    assert await id_of(desk, "u:alice") == alice
    lines = await desk.access.accounts.audit(before=2**63 - 1, limit=10)
    told = [e.action for e in lines if e.subject.startswith("batch ")]
    assert told == ["ended a batch", "undid a batch", "ended a batch", "started a batch"]


async def until_it_says(desk: Desk, path: str, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in desk.text:
        assert time.monotonic() < deadline, desk.text
        await asyncio.sleep(0.02)
        await desk.get(path)


async def test_all_duplicates_are_merged_by_a_rule_which_leaves_what_is_doubtful(desk: Desk) -> None:
    for n, who in enumerate(("mail0@y.io", "7000", "mail1@y.io", "mail2@y.io")):
        command = ["user", {"id": who, "email": f"same{n // 2}@y.io"}]
        await desk.driver.push(f"more{n}", command, f"more{n}", desk.driver.time(None))
    await desk.get("duplicates")
    assert "All 3 groups at once" in desk.text
    response = await desk.post("duplicates", {"rule": "customer-number"})
    await until_it_says(desk, response.url.path, "Done 1 of 1 merge carried out")
    assert await id_of(desk, "u:mail0@y.io") == await id_of(desk, "u:7000")
    assert await id_of(desk, "u:alice") != await id_of(desk, "u:bob")
    await desk.get("duplicates")
    response = await desk.post("duplicates", {"rule": "newest"})
    await until_it_says(desk, response.url.path, "Done 1 of 1 merge carried out")
    assert await id_of(desk, "u:mail1@y.io") == await id_of(desk, "u:mail2@y.io")
    await desk.get("duplicates")
    assert (await desk.post("duplicates", {"rule": "newest"})).status_code == 400
    assert "The rule decides about none of them" in desk.text
    await desk.get("duplicates")
    assert (await desk.post("duplicates", {"rule": "oldest"})).status_code == 400


async def test_a_batch_of_another_site_is_not_shown(desk: Desk) -> None:
    bob = await id_of(desk, "u:bob")
    await desk.get("duplicates")
    response = await desk.post("duplicates", {"group": "1", "email-1": "jo@x.io", "keep-1": bob})
    await until_it_says(desk, response.url.path, "Done")
    other = await desk.driver.gateway.sites.create("other", desk.driver.gateway.new_id(), origins=[])
    async with desk.colleague("eve", "editor", [other.site_id]) as eve:
        await eve.get(f"/console/s/{other.site_id}/people")
        path = response.url.path.replace(str(desk.driver.site.site_id), str(other.site_id))
        assert (await eve.get(path)).status_code == 404
        assert (await eve.post(path, {})).status_code == 404


async def test_what_cannot_be_is_a_readable_answer(desk: Desk) -> None:
    alice = await id_of(desk, "u:alice")
    merging, batch = f"people/{alice}/merge", "batches/nothing"
    asked = [f"{merging}?with=1", f"{merging}?with={alice}", "undo?op=nothing", "devices/1/unlink", batch, "reset?op=x"]
    for path in asked:
        response = await desk.get(path)
        assert response.status_code in (400, 404) and "<h1>" in response.text, path
    sent: list[tuple[str, dict[str, str]]] = [
        (merging, {}),
        ("undo", {"op": "nothing"}),
        ("undo", {"op": "a\0b"}),
        ("held", {"op": "x", "what": "approve"}),
        ("held", {"op": "x", "what": "y"}),
        ("devices/1/unlink", {}),
        (batch, {}),
    ]
    for path, form in sent:
        await desk.get("people")
        response = await desk.post(path, form)
        assert response.status_code in (200, 400, 404) and "<h1>" in response.text, path


async def test_who_lost_a_device_and_the_device_both_tell_it_and_can_undo_it(desk: Desk) -> None:
    alice, bob = await id_of(desk, "u:alice"), await id_of(desk, "u:bob")
    await merge(desk, alice, bob)
    device = desk.driver.gateway.device_id(desk.driver.site, desk.driver.tokens["phone"])
    await desk.get(f"devices/{device}/unlink")
    await desk.post(f"devices/{device}/unlink", {"reason": "shared"})
    stranger = await id_of(desk, "d:phone")
    assert stranger not in (alice, bob)
    for who in (alice, stranger):
        await desk.get(f"people/{who}")
        assert "ann took a device off this person. Left with it: 1 visitor." in desk.text, who
        assert re.search(r"undo\?op=unlink-\d+", desk.page), who


async def test_a_rejected_merge_does_not_come_back_with_the_next_page_view(desk: Desk) -> None:
    await hold(desk)
    await desk.get("held")
    await desk.post("held", {"op": "claim", "what": "reject"})
    await desk.driver.push("kiosk", ["reidentify", "dora", "alice"], "again", desk.driver.time(None))
    await desk.get("held")
    assert "Nothing waits." in desk.text
