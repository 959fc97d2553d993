"""Every call of the native API, asked as a site's backend would."""

import time
from collections.abc import AsyncIterator

import pytest

from tests.driver import Driver, driving


@pytest.fixture
async def shop(database: str) -> AsyncIterator[Driver]:
    """alice on one browser with a purchase, bob on another, and a visitor nobody knows."""
    async with driving(database) as driver:
        pushed = [
            ("laptop", ["track", "Landed"]),
            ("laptop", ["user", {"id": "alice", "email": "jo@x.io", "plan": "pro"}]),
            ("laptop", ["track", "Purchased"]),
            ("phone", ["user", {"id": "bob", "email": "jo@x.io", "plan": "free"}]),
            ("kiosk", ["track", "Browsed"]),
        ]
        for n, (device, command) in enumerate(pushed):
            await driver.push(device, command, f"op{n}", driver.time(None))
        yield driver


async def id_of(driver: Driver, who: str) -> str:
    profile = await driver.find(who)
    assert profile is not None
    return str(profile["profile_id"])


async def test_a_profile_is_found_by_identity_device_token_and_search(shop: Driver) -> None:
    alice = await id_of(shop, "u:alice")
    assert await id_of(shop, "d:laptop") == alice
    device = shop.gateway.device_id(shop.site, shop.tokens["laptop"])
    assert (await shop.api("GET", f"/v1/profiles?device_id={device}")).json()["profile_id"] == alice
    assert [p["profile_id"] for p in (await shop.api("GET", "/v1/profiles?q=ali")).json()["profiles"]] == [alice]
    assert len((await shop.api("GET", "/v1/profiles?q=jo@x")).json()["profiles"]) == 2
    assert (await shop.api("GET", "/v1/profiles?q=100%25")).json()["profiles"] == []


async def test_a_profile_shows_everything_known(shop: Driver) -> None:
    profile = (await shop.api("GET", f"/v1/profiles/{await id_of(shop, 'u:alice')}")).json()
    assert profile["primary"] == "alice"
    assert [(i["kind"], i["value"], i["proof"]) for i in profile["identities"]] == [("id", "alice", "claimed")]
    assert profile["properties"] == {"plan": "pro", "email": "jo@x.io"}
    assert (profile["tags"], profile["subscribed"], profile["tentative"], profile["events"]) == ([], True, False, 2)
    (visitor,) = profile["visitors"]
    assert visitor["events"] == 2
    assert visitor["first_seen"] <= visitor["last_seen"]


async def test_lists_come_in_pages(shop: Driver) -> None:
    for n in range(5):
        await shop.push("laptop", ["track", f"e{n}"], f"e{n}", time.time() + n / 100)
    alice = await id_of(shop, "u:alice")
    names, before = [], ""
    while True:
        page = (await shop.api("GET", f"/v1/profiles/{alice}/events?limit=2{before}")).json()
        names += [e["name"] for e in page["events"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert names == ["e4", "e3", "e2", "e1", "e0", "Purchased", "Landed"]
    first = (await shop.api("GET", "/v1/ledger?limit=1")).json()
    second = (await shop.api("GET", f"/v1/ledger?limit=1&after={first['next']}")).json()
    assert [f["kind"] for f in first["facts"] + second["facts"]] == ["login", "login"]
    profiles = (await shop.api("GET", "/v1/profiles?q=&limit=2")).json()
    rest = (await shop.api("GET", f"/v1/profiles?q=&limit=2&after={profiles['next']}")).json()
    assert len(profiles["profiles"]) == 2
    assert len(rest["profiles"]) == 1


async def test_a_merge_is_previewed_carried_out_explained_and_undone(shop: Driver) -> None:
    alice, bob = await id_of(shop, "u:alice"), await id_of(shop, "u:bob")
    before = (await shop.api("GET", f"/v1/profiles/{alice}/export")).content
    plan = (await shop.api("POST", "/v1/merges/preview", {"target": "alice", "source": "bob"})).json()
    assert plan["allowed"] is True
    assert plan["moves"] == {"visitors": 1, "identities": 1, "events": 0}
    assert plan["conflicts"] == [{"key": "plan", "target": "pro", "source": "free", "wins": "free"}]
    body = {"target": "alice", "source": {"profile_id": bob}, "op_id": "m1", "plan_hash": plan["plan_hash"]}
    merged = await shop.api("POST", "/v1/merges", body | {"reason": "same address"})
    assert (merged.status_code, merged.json()["outcome"]) == (201, "merged")
    assert merged.json()["profile"]["profile_id"] == alice
    assert (await shop.api("GET", f"/v1/profiles/{bob}")).json()["profile_id"] == alice
    why = (await shop.api("GET", f"/v1/profiles/{alice}/ledger")).json()
    assert [f["kind"] for f in why["facts"]] == ["login", "login", "merge"]
    assert why["facts"][-1]["reason"] == "same address"
    fact = (await shop.api("GET", "/v1/ledger/m1")).json()
    assert (fact["outcome"], fact["moved"]) == ("merged", {"visitors": 1, "identities": 1})
    undone = await shop.api("POST", "/v1/operations/m1/undo")
    assert undone.json()["outcome"] == "undone"
    assert (await shop.api("GET", f"/v1/profiles/{alice}/export")).content == before
    assert (await shop.api("GET", "/v1/ledger/m1")).json()["undone_by"] == undone.json()["op_id"]
    assert (await shop.api("POST", "/v1/operations/m1/undo")).json()["outcome"] == "nothing_to_undo"


async def test_a_stale_preview_and_a_reused_op_id_are_conflicts(shop: Driver) -> None:
    plan = (await shop.api("POST", "/v1/merges/preview", {"target": "alice", "source": "bob"})).json()
    await shop.push("tablet", ["user", {"id": "bob"}], "t1", time.time())
    body = {"target": "alice", "source": "bob", "plan_hash": plan["plan_hash"], "op_id": "m1"}
    stale = await shop.api("POST", "/v1/merges", body)
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "stale_preview")
    assert (
        await shop.api("POST", "/v1/merges", {"target": "alice", "source": "bob", "op_id": "m1"})
    ).status_code == 201
    reused = await shop.api("POST", "/v1/merges", {"target": "bob", "source": "alice", "op_id": "m1"})
    assert (reused.status_code, reused.json()["error"]["code"]) == (409, "op_id_conflict")
    again = await shop.api("POST", "/v1/merges", {"target": "alice", "source": "bob", "op_id": "m1"})
    assert (again.status_code, again.json()["outcome"]) == (201, "merged")


async def test_a_preview_says_what_a_merge_would_refuse(database: str) -> None:
    async with driving(database, device_cap=1) as driver:
        for n, (device, who) in enumerate((("laptop", "alice"), ("phone", "bob"))):
            await driver.push(device, ["user", {"id": who}], f"op{n}", driver.time(None))
        pair = {"target": "alice", "source": "bob"}
        plan = (await driver.api("POST", "/v1/merges/preview", pair)).json()
        assert plan["allowed"] is False and "more than 1 devices" in plan["reasons"][0]
        assert (await driver.api("POST", "/v1/merges", pair)).json()["outcome"] == "refused_limit"


async def test_a_merge_names_who_is_missing(shop: Driver) -> None:
    response = await shop.api("POST", "/v1/merges", {"target": "alice", "source": "nobody"})
    assert response.status_code == 404
    assert "'nobody'" in response.json()["error"]["message"]


async def test_bulk_merges_have_an_outcome_each(shop: Driver) -> None:
    rows = [
        {"target": "alice", "source": "bob"},
        {"target": "alice", "source": "bob"},
        {"target": "x", "source": "bob"},
    ]
    results = (await shop.api("POST", "/v1/merges/bulk", {"merges": rows})).json()["results"]
    assert [r["outcome"] for r in results] == ["merged", "noop", "not_found"]
    assert results[0]["profile_id"] == await id_of(shop, "u:bob")


async def test_a_held_merge_is_listed_and_approved_or_rejected(shop: Driver) -> None:
    await shop.push("kiosk", ["reidentify", "mallory", "alice"], "h1", time.time())
    (held,) = (await shop.api("GET", "/v1/held")).json()["held"]
    assert (held["op_id"], held["outcome"]) == ("h1", "held")
    assert held["source"] == await id_of(shop, "u:alice")
    assert (await shop.api("POST", "/v1/held/h1/reject")).json()["outcome"] == "noop"
    assert (await shop.api("GET", "/v1/held")).json()["held"] == []
    assert (await shop.api("POST", "/v1/held/h1/approve")).status_code == 404
    await shop.push("kiosk", ["reidentify", "mallory", "bob"], "h2", time.time())
    approved = await shop.api("POST", "/v1/held/h2/approve", {"reason": "she called"})
    assert approved.json()["outcome"] == "merged"
    assert await id_of(shop, "u:bob") == await id_of(shop, "u:mallory")


async def test_profiles_with_one_address_are_duplicates(shop: Driver) -> None:
    (group,) = (await shop.api("GET", "/v1/duplicates?by=email")).json()["duplicates"]
    assert group["email"] == "jo@x.io"
    assert sorted(group["profiles"]) == sorted([await id_of(shop, "u:alice"), await id_of(shop, "u:bob")])


async def test_demerge_and_unlink(shop: Driver) -> None:
    await shop.api("POST", "/v1/merges", {"target": "alice", "source": "bob"})
    token = shop.tokens["phone"]
    assert (await shop.api("POST", f"/v1/devices/{token}/unlink")).json()["outcome"] == "unlinked"
    await shop.check_differ("d:phone", "d:laptop")
    body = {"identities": ["alice", "nobody"], "dry_run": True}
    dry = (await shop.api("POST", "/v1/demerge", body)).json()
    assert (dry["dry_run"], [r["outcome"] for r in dry["results"]]) == (True, ["demerged", "not_found"])
    assert await shop.find("u:alice") is not None
    done = (await shop.api("POST", "/v1/demerge", body | {"dry_run": False})).json()
    assert done["results"][0]["identities"] == [{"kind": "id", "value": "alice"}, {"kind": "id", "value": "bob"}]
    assert await shop.find("u:alice") is None
    assert (await shop.api("POST", f"/v1/operations/{done['results'][0]['op_id']}/undo")).json()["outcome"] == "undone"
    assert await shop.find("u:alice") is not None


async def test_a_deleted_person_is_gone(shop: Driver) -> None:
    alice = await id_of(shop, "u:alice")
    answer = (await shop.api("DELETE", f"/v1/profiles/{alice}")).json()
    assert answer["deleted"] == {"visitors": 1, "identities": 1, "events": 2}
    for path in ("", "/events", "/ledger", "/export"):
        assert (await shop.api("GET", f"/v1/profiles/{alice}{path}")).status_code == 404
    assert (await shop.api("DELETE", f"/v1/profiles/{alice}")).status_code == 404


async def test_links_are_made_for_the_sites_own_pages_only(shop: Driver) -> None:
    shop.site.settings["origins"] = ["https://www.shop.example"]
    await shop.gateway.sites.save(shop.site)
    body = {"identity": "jo@x.io", "url": "https://www.shop.example/a?b=1&vero_id=old#c", "campaign": "welcome"}
    made = (await shop.api("POST", "/v1/links", body)).json()
    assert made["url"] == f"https://www.shop.example/a?b=1&vero_id={made['token']}#c"
    assert made["redirect"] == f"http://gateway.test/r/{made['token']}"
    elsewhere = ["https://evil.example/", "//evil.example", "javascript:alert(1)", " https://www.shop.example/"]
    elsewhere += ["https://www.shop.example@evil.example/", "https://www.shop.example\\@evil.example/"]
    for url in [*elsewhere, "https://www.shop.example:99x/", "https://www.shop.example.evil.example/", "/path"]:
        assert (await shop.api("POST", "/v1/links", body | {"url": url})).status_code == 400, url


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/profiles", None),
        ("GET", "/v1/profiles?identity=a&device_id=1", None),
        ("GET", "/v1/profiles?nope=1", None),
        ("GET", "/v1/profiles?identity=undefined", None),
        ("GET", "/v1/profiles?q=&limit=0", None),
        ("GET", "/v1/profiles?q=&after=x", None),
        ("GET", "/v1/duplicates?by=shoe", None),
        ("POST", "/v1/merges", {}),
        ("POST", "/v1/merges", {"target": "a", "source": {"kind": "id"}}),
        ("POST", "/v1/merges", {"target": "a", "source": {"kind": "shoe", "value": "x"}}),
        ("POST", "/v1/merges", {"target": "a", "source": "b", "extra": 1}),
        ("POST", "/v1/demerge", {"identities": ["a"] * 101}),
        ("POST", "/v1/links", {"identity": "{{ id }}", "url": "https://shop.example/"}),
    ],
)
async def test_what_cannot_be_understood_is_a_400_that_says_what_to_change(
    shop: Driver, method: str, path: str, body: dict[str, object] | None
) -> None:
    response = await shop.api(method, path, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["message"]
    assert error["hint"]


@pytest.mark.parametrize("path", ["/v1/ledger/{}", "/v1/profiles/{}", "/console/s/1/batches/{}", "/api/v2/{}"])
async def test_an_address_that_no_database_can_hold_is_no_bug(shop: Driver, path: str) -> None:
    answer = await shop.api("GET", path.format("%00"))
    assert answer.status_code == 404
    answer = await shop.api("POST", "/v1/operations/a%00b/undo")
    assert answer.status_code == 404 and "NUL" in answer.text


async def test_without_the_secret_key_nothing_is_answered(shop: Driver) -> None:
    for headers in ({}, {"Authorization": "Bearer nope"}, {"Authorization": f"Bearer {shop.site.api_key}"}):
        response = await shop.client.get("/v1/profiles?q=", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    headers = {"Authorization": f"Bearer {shop.site.secret_keys[-1]}", "Origin": "https://shop.example"}
    assert (await shop.client.get("/v1/profiles?q=", headers=headers)).json()["error"]["code"] == "leaked_secret_key"


async def test_one_site_never_sees_another(shop: Driver) -> None:
    other = await shop.gateway.sites.create("other", shop.gateway.new_id(), origins=[])
    alice = await id_of(shop, "u:alice")
    headers = {"Authorization": f"Bearer {other.secret_keys[-1]}"}
    paths = [f"/v1/profiles/{alice}", "/v1/profiles?identity=alice", f"/v1/profiles/{alice}/events", "/v1/ledger/op1"]
    for path in paths:
        assert (await shop.client.get(path, headers=headers)).status_code == 404, path
    for path, key in (("/v1/profiles?q=", "profiles"), ("/v1/ledger", "facts"), ("/v1/duplicates", "duplicates")):
        assert (await shop.client.get(path, headers=headers)).json()[key] == [], path
    assert (await shop.client.delete(f"/v1/profiles/{alice}", headers=headers)).status_code == 404
