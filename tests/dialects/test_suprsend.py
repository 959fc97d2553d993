"""SuprSend's own Python client in both of its auth modes, changed in nothing but the base URL."""

from collections.abc import Iterator
from typing import Any

import pytest
from suprsend import Event, Suprsend
from suprsend.exception import SuprsendAPIException

from tests.dialects.sites import many
from tests.server import GatewayServer, Site, api_answer

Json = dict[str, Any]
ACTIVE = {"status": "active", "perma_status": "active"}


class Shop:
    """A site, its SuprSend client, and what the native API knows about its people."""

    def __init__(self, server: GatewayServer, site: Site, client: Suprsend) -> None:
        self.server, self.site, self.client, self.users = server, site, client, client.users

    def native(self, identity: str) -> Json:
        return api_answer(self.server.api(self.site).get("/v1/profiles", params={"identity": identity}))

    def events(self, identity: str) -> list[Json]:
        path = f"/v1/profiles/{self.native(identity)['profile_id']}/events"
        return api_answer(self.server.api(self.site).get(path))["events"]

    def refusal(self, call: Any, *arguments: Any) -> tuple[int, str]:
        with pytest.raises(SuprsendAPIException) as caught:
            call(*arguments)
        return caught.value.status_code, caught.value.message


def sdk(server: GatewayServer, site: Site, mode: str) -> Suprsend:
    if mode == "signed":
        return Suprsend(site["api_key"], site["secret_key"], base_url=server.url)
    return Suprsend.with_workspace_api_key(site["api_key"], site["secret_key"], base_url=server.url)


@pytest.fixture(scope="module")
def sites(gateway_server: GatewayServer) -> Iterator[Site]:
    return many(gateway_server)


@pytest.fixture(params=["signed", "bearer"])
def shop(gateway_server: GatewayServer, sites: Iterator[Site], request: pytest.FixtureRequest) -> Shop:
    site = next(sites)
    return Shop(gateway_server, site, sdk(gateway_server, site, request.param))


def values(user: Json, channel: str) -> list[Any]:
    return [entry["value"] for entry in user.get(channel, ())]


# --- users ------------------------------------------------------------------------------------------------------------


def test_a_new_user_has_an_inbox_and_what_was_sent(shop: Shop) -> None:
    user = shop.users.upsert("alice", {"$email": ["alice@shop.example"], "$timezone": "Europe/Paris", "name": "Alice"})
    assert user["distinct_id"] == "alice"
    assert user["properties"] == {"$timezone": "Europe/Paris", "name": "Alice"}
    assert user["$email"] == [{"value": "alice@shop.example", **ACTIVE}]
    assert [(e["id_provider"], len(e["value"])) for e in user["$inbox"]] == [("suprsend", 43)]
    assert user["created_at"].endswith("+00:00")
    assert shop.users.get("alice") == user


def test_an_upsert_adds_channels_and_keeps_the_inbox(shop: Shop) -> None:
    first = shop.users.upsert("alice", {"$email": ["alice@shop.example"]})
    second = shop.users.upsert("alice", {"$email": ["a@work.example", "ALICE@shop.example"], "$sms": ["+491701234567"]})
    assert values(second, "$email") == ["a@work.example", "ALICE@shop.example"]
    assert values(second, "$sms") == ["+491701234567"]
    assert second["$inbox"] == first["$inbox"]


def test_an_upsert_without_a_body_makes_a_user(shop: Shop) -> None:
    assert shop.users.upsert("alice")["properties"] == {}


def test_objects_are_channel_entries_too(shop: Shop) -> None:
    slack = {"email": "alice@shop.example", "access_token": "xoxb-1"}
    webpush = {"endpoint": "https://push.example/" + "x" * 300, "keys": {"p256dh": "B", "auth": "t"}}
    user = shop.users.upsert("alice", {"$slack": [slack], "$webpush": [webpush]})
    assert (values(user, "$slack"), values(user, "$webpush")) == ([slack], [webpush])


def test_ids_of_any_letters(shop: Shop) -> None:
    for distinct_id in ("a/b", "x@y.example", "two words", "größe/Ü", "100%", "a+b", "ключ", "?q#f", "../up", "a//"):
        assert shop.users.upsert(distinct_id, {"n": 1})["distinct_id"] == distinct_id
        assert shop.users.get(distinct_id)["properties"] == {"n": 1}
        assert shop.native(distinct_id)["primary"] == distinct_id
        assert (
            shop.users.merge(distinct_id, shop.users.upsert("visitor-1")["distinct_id"])["distinct_id"] == distinct_id
        )
        assert shop.users.delete(distinct_id) == {"success": True, "status_code": 204}


def test_an_email_address_as_id_is_the_same_in_any_case(shop: Shop) -> None:
    assert shop.users.upsert("Alice@Shop.example", {"n": 1})["distinct_id"] == "alice@shop.example"
    assert shop.users.get("ALICE@shop.example")["properties"] == {"n": 1}


def test_an_edit_of_every_kind(shop: Shop) -> None:
    shop.users.upsert("alice", {"$sms": ["+1", "+2"], "$email": ["old@shop.example"], "name": "Al", "cart": ["hat"]})
    edit = shop.users.get_edit_instance("alice")
    edit.set({"plan": "pro", "name": "Alice"})
    edit.set_once("signed_up_with", "form")
    edit.set_once("name", "never")
    edit.increment({"logins": 2, "credit": -0.5})
    edit.increment("logins", 1)
    edit.append("cart", "shoe")
    edit.remove("cart", "hat")
    edit.add_email("new@shop.example")
    edit.remove_email("old@shop.example")
    edit.add_androidpush("token-1", "fcm")
    edit.unset(["$sms"])
    edit.set_locale("en_GB")
    user = shop.users.edit(edit)
    assert user["properties"] == {
        "$locale": "en_GB",
        "cart": ["shoe"],
        "credit": -0.5,
        "logins": 3,
        "name": "Alice",
        "plan": "pro",
        "signed_up_with": "form",
    }
    assert values(user, "$email") == ["new@shop.example"]
    assert user["$androidpush"] == [{"value": "token-1", "id_provider": "fcm", **ACTIVE}]
    assert "$sms" not in user
    assert shop.users.get("alice") == user


def test_an_edit_needs_the_user(shop: Shop) -> None:
    edit = shop.users.get_edit_instance("nobody")
    edit.set("name", "Nobody")
    assert shop.refusal(shop.users.edit, edit) == (404, "user [distinct_id: 'nobody'] not found")


def test_an_edit_in_the_background_makes_the_user(shop: Shop) -> None:
    edit = shop.users.get_edit_instance("alice")
    edit.add_email("alice@shop.example")
    edit.increment("logins", 1)
    done = shop.users.async_edit(edit)
    assert (done["success"], done["status_code"], done["message"]) == (True, 202, "OK")
    user = shop.users.get("alice")
    assert (values(user, "$email"), user["properties"]) == (["alice@shop.example"], {"logins": 1})


def test_edits_in_bulk(shop: Shop) -> None:
    bulk = shop.users.get_bulk_edit_instance()
    for n in range(450):
        edit = shop.users.get_edit_instance(f"user-{n % 90}")
        edit.increment("visits", 1)
        bulk.append(edit)
    response = bulk.save()
    assert (response.status, response.success) == ("success", 450)
    assert [shop.users.get(f"user-{n}")["properties"] for n in (0, 89)] == [{"visits": 5}] * 2


def test_the_older_subscriber_api(shop: Shop) -> None:
    subscriber = shop.client.user.get_instance("alice")
    subscriber.add_email("alice@shop.example")
    subscriber.set("name", "Alice")
    assert subscriber.save()["success"]
    assert values(shop.users.get("alice"), "$email") == ["alice@shop.example"]


def test_pages_of_users_both_ways(shop: Shop) -> None:
    for n in range(5):
        shop.users.upsert(f"user-{n}")
    first = shop.users.list({"limit": 2})
    assert first["meta"] | {"after": ""} == {
        "count": 5, "limit": 2, "has_prev": False, "before": None, "has_next": True, "after": ""
    }  # fmt: skip
    second = shop.users.list({"limit": 2, "after": first["meta"]["after"]})
    third = shop.users.list({"limit": 2, "after": second["meta"]["after"]})
    pages = [[u["distinct_id"] for u in page["results"]] for page in (first, second, third)]
    assert pages == [["user-4", "user-3"], ["user-2", "user-1"], ["user-0"]]
    assert (third["meta"]["has_prev"], third["meta"]["has_next"], third["meta"]["after"]) == (True, False, None)
    back = shop.users.list({"limit": 2, "before": third["meta"]["before"]})
    assert back == second
    assert shop.users.list({"limit": 2, "before": second["meta"]["before"]}) == first


def test_a_deleted_user_is_gone_and_comes_back_as_somebody_new(shop: Shop) -> None:
    first = shop.users.upsert("alice", {"name": "Alice"})
    assert shop.users.delete("alice") == {"success": True, "status_code": 204}
    gone = (404, "user [distinct_id: 'alice'] not found")
    assert shop.refusal(shop.users.get, "alice") == gone
    assert shop.refusal(shop.users.delete, "alice") == gone
    again = shop.users.upsert("alice")
    assert again["properties"] == {}
    assert again["$inbox"] != first["$inbox"]


def test_many_are_deleted_and_the_unknown_among_them_do_not_matter(shop: Shop) -> None:
    for name in ("alice", "bob", "carol"):
        shop.users.upsert(name)
    assert shop.users.bulk_delete({"distinct_ids": ["alice", "nobody", "bob"]})["status_code"] == 204
    assert [u["distinct_id"] for u in shop.users.list()["results"]] == ["carol"]


# --- merge ------------------------------------------------------------------------------------------------------------


def test_a_merge_keeps_the_primary_and_takes_everything_of_the_secondary(shop: Shop) -> None:
    shop.users.upsert("alice", {"$email": ["alice@shop.example"], "name": "Alice", "plan": "free"})
    shop.users.upsert("visitor-1", {"$email": ["a@home.example", "alice@shop.example"], "plan": "pro", "utm": "mail"})
    shop.client.track_event(Event("visitor-1", "Viewed", {"page": "/hats"}))
    user = shop.users.merge("alice", "visitor-1")
    assert user["distinct_id"] == "alice"
    assert user["properties"] == {"name": "Alice", "plan": "pro", "utm": "mail"}
    assert values(user, "$email") == ["a@home.example", "alice@shop.example"]
    assert shop.users.get("alice") == user
    assert [e["name"] for e in shop.events("alice")] == ["Viewed"]


def test_the_secondary_is_gone_here_and_resolves_in_the_native_api(shop: Shop) -> None:
    for name in ("alice", "visitor-1", "bob"):
        shop.users.upsert(name)
    shop.users.merge("alice", "visitor-1")
    gone = (404, "user [distinct_id: 'visitor-1'] not found")
    edit = shop.users.get_edit_instance("visitor-1")
    edit.set("name", "Ghost")
    assert shop.refusal(shop.users.get, "visitor-1") == gone
    assert shop.refusal(shop.users.edit, edit) == gone
    assert shop.refusal(shop.users.delete, "visitor-1") == gone
    assert shop.refusal(shop.users.merge, "visitor-1", "bob") == gone
    away = (404, "from_user_id: [distinct_id: 'visitor-1'] not found")
    assert shop.refusal(shop.users.merge, "alice", "visitor-1") == away
    assert shop.refusal(shop.users.merge, "bob", "visitor-1") == away
    assert shop.users.bulk_delete({"distinct_ids": ["visitor-1"]})["status_code"] == 204
    assert shop.native("visitor-1")["profile_id"] == shop.native("alice")["profile_id"]
    assert [u["distinct_id"] for u in shop.users.list()["results"]] == ["bob", "alice"]


def test_what_is_sent_for_the_secondary_later_lands_on_the_primary(shop: Shop) -> None:
    for name in ("alice", "visitor-1"):
        shop.users.upsert(name)
    shop.users.merge("alice", "visitor-1")
    assert shop.users.upsert("visitor-1", {"late": True})["distinct_id"] == "alice"
    shop.client.track_event(Event("visitor-1", "Late", {}))
    assert shop.users.get("alice")["properties"] == {"late": True}
    assert [e["name"] for e in shop.events("alice")] == ["Late"]


def test_both_users_of_a_merge_must_exist(shop: Shop) -> None:
    shop.users.upsert("alice")
    assert shop.refusal(shop.users.merge, "nobody", "alice") == (404, "user [distinct_id: 'nobody'] not found")
    secondary = (404, "from_user_id: [distinct_id: 'nobody'] not found")
    assert shop.refusal(shop.users.merge, "alice", "nobody") == secondary


def test_nobody_is_merged_into_himself(shop: Shop) -> None:
    shop.users.upsert("alice")
    assert shop.refusal(shop.users.merge, "alice", " alice ")[0] == 400
    assert shop.refusal(shop.users.merge, "alice", None)[0] == 400


def test_the_last_primary_names_the_user(shop: Shop) -> None:
    for name in ("alice", "bob", "carol"):
        shop.users.upsert(name)
    shop.users.merge("alice", "bob")
    assert shop.users.merge("carol", "alice")["distinct_id"] == "carol"
    assert [u["distinct_id"] for u in shop.users.list()["results"]] == ["carol"]


def test_an_undone_merge_brings_the_secondary_back(shop: Shop) -> None:
    shop.users.upsert("alice", {"$email": ["alice@shop.example"]})
    before = shop.users.upsert("visitor-1", {"$email": ["v@shop.example"], "plan": "pro"})
    shop.users.merge("alice", "visitor-1")
    api = shop.server.api(shop.site)
    (fact,) = api_answer(api.get("/v1/ledger", params={"kind": "merge"}))["facts"]
    assert api_answer(api.post(f"/v1/operations/{fact['op_id']}/undo"))["outcome"] == "undone"
    after = shop.users.get("visitor-1")
    assert (after["$email"], after["$inbox"], after["properties"]) == (
        before["$email"], before["$inbox"], {"plan": "pro"}
    )  # fmt: skip
    assert values(shop.users.get("alice"), "$email") == ["alice@shop.example"]
    status, message = shop.refusal(shop.users.merge, "alice", "visitor-1")
    assert (status, "force" in message) == (409, True)


# --- events -----------------------------------------------------------------------------------------------------------


def test_an_event_with_all_it_may_carry(shop: Shop) -> None:
    event = Event("alice", "Bought", {"total": 12.5, "items": ["hat"]}, idempotency_key="order-1", tenant_id="acme")
    done = shop.client.track_event(event)
    assert (done["success"], done["status_code"]) == (True, 202)
    (kept,) = shop.events("alice")
    assert (kept["name"], kept["data"]) == ("Bought", {"total": 12.5, "items": ["hat"]})
    assert kept["extras"]["tenant_id"] == "acme"
    assert kept["message_id"] == done["message"]


def test_an_idempotency_key_counts_once_per_person(shop: Shop) -> None:
    for person in ("alice", "alice", "bob", "alice"):
        assert shop.client.track_event(Event(person, "Bought", {}, idempotency_key="order-1"))["success"]
    assert [len(shop.events(p)) for p in ("alice", "bob")] == [1, 1]


def test_a_refused_event_says_why(shop: Shop) -> None:
    done = shop.client.track_event(Event("null", "Bought", {}))
    assert (done["success"], done["status_code"]) == (False, 400)
    assert "placeholder" in done["message"]


def test_events_in_bulk_and_the_bad_one_among_them(shop: Shop) -> None:
    bulk = shop.client.bulk_events.new_instance()
    bulk.append(*[Event(f"user-{n % 7}", "Opened", {"n": n}) for n in range(120)])
    bulk.append(Event("undefined", "Opened", {}))
    response = bulk.trigger()
    assert (response.status, response.total, response.success, response.failure) == ("partial", 121, 120, 1)
    (failed,) = response.failed_records
    assert (failed["record"]["distinct_id"], failed["code"]) == ("undefined", 400)
    assert sum(len(shop.events(f"user-{n}")) for n in range(7)) == 120


def test_identify_brings_the_anonymous_id_along(shop: Shop) -> None:
    shop.client.track_event(Event("visitor-1", "Viewed", {}))
    identify = Event("alice", "$identify", {"$identified_id": "alice", "$anon_id": "visitor-1"})
    assert shop.client.track_event(identify)["success"]
    assert sorted(e["name"] for e in shop.events("alice")) == ["$identify", "Viewed"]
    assert shop.refusal(shop.users.get, "visitor-1")[0] == 404


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["signed", "bearer"])
def test_a_wrong_secret_is_refused(gateway_server: GatewayServer, mode: str) -> None:
    site = gateway_server.site()
    client = sdk(gateway_server, site | {"secret_key": "wrong"}, mode)
    if mode == "bearer":
        client = Suprsend.with_workspace_api_key(site["api_key"], "wrong", base_url=gateway_server.url)
    with pytest.raises(SuprsendAPIException) as caught:
        client.users.upsert("alice")
    assert caught.value.status_code == 401
    done = client.track_event(Event("alice", "Bought", {}))
    assert (done["success"], done["status_code"]) == (False, 401)
    bulk = client.bulk_events.new_instance()
    bulk.append(Event("alice", "Bought", {}))
    response = bulk.trigger()
    assert (response.status, response.failed_records[0]["code"]) == ("fail", 401)
