"""`gateway serve --inspect`: what arrived over HTTP, in the shapes of Snowplow Micro, for this machine only."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.app import make_app, opened
from gateway.cli import app
from gateway.errors import SettingError
from gateway.inspect import API_KEY, Inspected, check_inspectable
from gateway.observe import Pushed
from gateway.settings import load
from gateway.testing import RunningGateway
from tests.kit.conftest import Push

Ask = Callable[..., Any]
LOGIN = ["user", {"id": 42, "email": "jo@x.io"}]
PURCHASE = ["track", "Purchased", {"total": 12}]


@pytest.fixture
def ask(gateway: RunningGateway) -> Ask:
    """`ask("good", {"name": "Purchased"})`: a GET, or a POST if there is a filter; the answer as JSON."""

    def ask(call: str, wanted: object = None, **headers: str) -> Any:
        data = None if wanted is None else json.dumps(wanted).encode()
        request = urllib.request.Request(f"{gateway.url}/inspect/{call}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return json.loads(error.read()) | {"status": error.code}

    return ask


def test_counts(push: Push, ask: Ask) -> None:
    assert ask("all") == {"total": 0, "good": 0, "bad": 0}
    push(LOGIN, PURCHASE, ["trakc"])
    assert ask("all") == {"total": 3, "good": 2, "bad": 1}


def test_good_commands_are_shown_newest_first_with_who_did_them(push: Push, ask: Ask) -> None:
    push(LOGIN, PURCHASE, page="http://shop/pay")
    purchase, login = ask("good")
    assert purchase["eventType"] == "track"
    assert (purchase["name"], purchase["data"]) == ("Purchased", {"total": 12})
    assert purchase["person"]["identities"] == ["42"]
    assert purchase["page"] == {"url": "http://shop/pay"}
    assert purchase["rawEvent"]["command"] == PURCHASE
    assert purchase["event"]["device_id"] == purchase["device_id"]
    assert (login["eventType"], login["outcome"], login["event"]) == ("user", "attached", None)


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ({}, 3),
        ({"event_type": "track"}, 2),
        ({"name": "Purchased"}, 1),
        ({"name": "Purchased", "data": {"total": 12}}, 1),
        ({"name": "Purchased", "data": {"total": 13}}, 0),
        ({"person": "42"}, 2),
        ({"person": 42, "event_type": "user"}, 1),
        ({"page": "/pay"}, 2),
        ({"outcome": "attached"}, 1),
        ({"limit": 2}, 2),
    ],
    ids=str,
)
def test_good_commands_are_filtered_by_a_posted_body(push: Push, ask: Ask, wanted: object, number: int) -> None:
    push(LOGIN, PURCHASE, page="http://shop/pay")
    push(["track", "Viewed"])
    assert len(ask("good", wanted)) == number


def test_bad_commands_say_what_why_and_how(push: Push, ask: Ask) -> None:
    push(["track", {"total": 12}], ["user", {"id": "undefined"}])
    typed, blocked = sorted(ask("bad"), key=lambda bad: bad["pushed"])
    assert typed["pushed"] == '_veroq.push(["track", {"total": 12}])'
    assert typed["why"] == "track needs the name of the event first"
    assert typed["how"] == "_veroq.push(['track', 'Purchased', {total: 12}])"
    assert typed["errors"] == [f"{typed['why']}. {typed['how']}"]
    assert typed["rawEvent"]["command"] == ["track", {"total": 12}]
    assert blocked["code"] == "blocked_identity"
    assert len(ask("bad", {"command": "track"})) == len(ask("bad", {"code": "blocked_identity"})) == 1


def test_a_request_that_was_refused_as_a_whole_is_bad(gateway: RunningGateway, ask: Ask) -> None:
    for body in (b'{"key":"wrong","commands":[{"id":"1","command":["track","Viewed"]}]}', b"not json"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{gateway.url}/v1/commands", body, timeout=10)
        refused.value.close()
    assert {bad["pushed"]: bad["code"] for bad in ask("bad")} == {
        '_veroq.push(["track", "Viewed"])': "unknown_key",
        "not json": "bad_request",
    }


@pytest.mark.gateway(origins=["https://shop.example"])
def test_a_page_of_an_unknown_origin_is_bad(gateway: RunningGateway, ask: Ask) -> None:
    body = json.dumps({"key": gateway.site.api_key, "commands": [{"id": "1", "command": PURCHASE}]}).encode()
    request = urllib.request.Request(f"{gateway.url}/v1/commands", body, {"Origin": "http://localhost:3000"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    refused.value.close()
    (bad,) = ask("bad")
    assert bad["code"] == "unknown_origin"
    assert "--origin http://localhost:3000" in bad["how"]


def test_what_servers_send_is_shown_too(gateway: RunningGateway, ask: Ask) -> None:
    entry = {"id": "1", "at": 1, "command": PURCHASE, "identity": "42"}
    gateway.call("POST", "/v1/commands", {"commands": [entry]})
    (good,) = ask("good")
    assert (good["actor"], good["name"], good["person"]["primary"]) == ("server", "Purchased", "42")


def test_what_another_systems_client_sends_is_shown_too(gateway: RunningGateway, ask: Ask) -> None:
    """Also with the public key alone, which has a browser's rights but no browser's device."""
    for token in (gateway.site.auth_token, gateway.site.api_key):
        body = {"auth_token": token, "identity": {"id": "42"}, "event_name": "Purchased", "data": {"total": 12}}
        gateway.call("POST", "/api/v2/events/track", body)
    assert [(g["name"], g["device_id"]) for g in ask("good", {"person": "42"})] == [("Purchased", None)] * 2


def test_people(push: Push, ask: Ask) -> None:
    push(LOGIN)
    push(["track", "Viewed"])
    assert len(ask("people")) == 2
    (jo,) = ask("people", {"person": "42"})
    assert jo["properties"] == {"email": "jo@x.io"}


def test_reset(push: Push, ask: Ask) -> None:
    push(LOGIN, ["trakc"])
    assert ask("reset", {}) == {"total": 0, "good": 0, "bad": 0}
    assert ask("good") == ask("bad") == ask("people") == []


def test_an_unknown_filter_is_refused_rather_than_ignored(ask: Ask) -> None:
    refused = ask("good", {"event": "Purchased"})
    assert refused["status"] == 400
    assert refused["error"]["message"] == "there is no filter 'event' here"


@pytest.mark.parametrize("call", ["all", "good", "bad", "people", "reset", "site"])
@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"X-Forwarded-For": "192.0.2.1"}],
    ids=str,
)
def test_no_page_of_another_site_and_no_other_machine_may_ask(ask: Ask, call: str, headers: dict[str, str]) -> None:
    assert ask(call, **headers)["status"] == 403


def test_it_does_not_listen_where_others_could_ask() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.9"):
        check_inspectable(host)
    for host in ("0.0.0.0", "::", "192.168.1.1", "shop.example"):
        with pytest.raises(SettingError, match="does not listen on"):
            check_inspectable(host)


@pytest.mark.parametrize("options", [["--host", "0.0.0.0"], ["--workers", "2"]])
def test_serve_refuses_to_start_like_that(options: list[str]) -> None:
    result = CliRunner().invoke(app, ["serve", "--inspect", *options])
    assert isinstance(result.exception, SettingError)


async def test_a_database_of_your_own_is_kept(tmp_path: Path) -> None:
    settings = load({}, database=f"sqlite:///{tmp_path / 'mine.db'}")
    async with Inspected(settings, opened, make_app, database=True) as inspected:
        assert inspected.gateway is not None
        before = inspected.gateway
        site = await before.sites.create("shop", before.new_id(), origins=[])
        body = json.dumps({"commands": [{"id": "1", "command": PURCHASE}]}).encode()
        assert site.api_key != API_KEY
        inspected.inspector.pushed(Pushed(site, body, [], [], [], 0, 1))
        assert len(await inspected.report.good()) == 1
        await inspected.reset()
        assert await inspected.report.good() == []
        assert inspected.gateway is before
        assert await before.sites.by_name("test") is None


def test_without_inspect_there_is_nothing_to_ask(gateway_server: Any) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(f"{gateway_server.url}/inspect/all", timeout=10)
    refused.value.close()
