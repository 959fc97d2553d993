"""The helpers of the fixture `gateway`: what they wait for, and what they say when it does not come."""

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from gateway.errors import BadRequest
from gateway.testing import Background, GatewaySite, RunningGateway
from tests.kit.conftest import Push, send

LOGIN = ["user", {"id": 42, "email": "jo@x.io"}]


def said(error: pytest.ExceptionInfo[AssertionError]) -> str:
    return str(error.value)


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_gateway_starts_in_a_fraction_of_a_second(gateway_background: Background) -> None:
    times = []
    for _ in range(5):
        with RunningGateway(gateway_background) as running:
            times.append(running.started_in)
    assert min(times) < 0.25


def test_each_gateway_has_its_own_port_keys_and_people(gateway_background: Background) -> None:
    with RunningGateway(gateway_background) as one, RunningGateway(gateway_background) as other:
        send(one.url, one.site.api_key, LOGIN)
        one.expect_person("42")
        assert not other.person("42").exists
        assert {one.url, one.site.api_key, one.site.secret_key}.isdisjoint(
            {other.url, other.site.api_key, other.site.secret_key}
        )


def test_a_device_of_another_gateway_is_a_new_device(gateway_background: Background) -> None:
    with RunningGateway(gateway_background) as one, RunningGateway(gateway_background) as other:
        token = send(one.url, one.site.api_key, LOGIN)
        assert send(other.url, other.site.api_key, LOGIN, device=token) != token


def test_the_site_fixture_holds_keys_and_address(gateway: RunningGateway, gateway_site: GatewaySite) -> None:
    assert gateway_site.url == gateway.url
    assert len(gateway_site.api_key) == 40
    assert gateway_site.api_key in gateway.snippet_html()


@pytest.mark.gateway(trust="strict", timeout=0.2)
def test_a_marker_sets_up_the_site(gateway: RunningGateway, push: Push) -> None:
    push(["link", "jo@x.io"])
    (refused,) = gateway.refused()
    assert refused.why == "this site takes signed links only"
    assert gateway.timeout == 0.2


def test_a_setting_that_does_not_exist_is_named(gateway_background: Background) -> None:
    with pytest.raises(BadRequest, match="no setting 'trsut'"), RunningGateway(gateway_background, {"trsut": "open"}):
        pass


# --- events -----------------------------------------------------------------------------------------------------------


def test_an_event_is_returned_as_soon_as_it_arrives(gateway: RunningGateway, push: Push) -> None:
    threading.Timer(0.2, push, [LOGIN, ["track", "Purchased", {"total": 12, "items": [{"sku": "A1"}]}]]).start()
    began = time.monotonic()
    event = gateway.expect_event("Purchased", {"total": 12}, person="42", page="http://shop")
    assert event["data"]["items"] == [{"sku": "A1"}]
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "data", [{"total": 12}, {"cart": {"sku": "A1"}}, {"sku": re.compile("A[0-9]")}, {"total": ...}, {}], ids=str
)
def test_a_part_of_the_data_is_enough(gateway: RunningGateway, push: Push, data: dict[str, object]) -> None:
    push(["track", "Purchased", {"total": 12, "sku": "A1", "cart": {"sku": "A1", "size": 4}}])
    gateway.expect_event("Purchased", data)


def test_a_missing_event_is_explained_by_the_nearest(gateway: RunningGateway, push: Push) -> None:
    push(LOGIN, ["track", "Viewed", {}], ["track", "Purchased", {"total": 12}], page="http://shop/pay")
    with pytest.raises(AssertionError) as failed:
        gateway.expect_event("Purchased", {"total": 13, "currency": "EUR"}, person="43", timeout=0.1)
    assert said(failed).splitlines()[:7] == [
        'no event \'Purchased\' with {"total": 13, "currency": "EUR"} by \'43\' within 0.1 s',
        "the nearest of 2 events that arrived:",
        '  Purchased {"total": 12} by 42 on http://shop/pay',
        "      total: expected 13, got 12",
        '      currency: expected "EUR", is not there',
        '      person: expected "43", got 42',
        "  Viewed {} by 42 on http://shop/pay",
    ]


def test_a_missing_event_is_explained_by_refused_commands(gateway: RunningGateway, push: Push) -> None:
    push(["trakc", "Purchased"], ["track"], ["user", {"id": "undefined"}], "nonsense")
    with pytest.raises(AssertionError) as failed:
        gateway.expect_event("Purchased", timeout=0.1)
    message = said(failed)
    assert "4 commands refused or in doubt:" in message
    assert '  _veroq.push(["trakc", "Purchased"])\n      why: no command \'trakc\'' in message
    assert "      how: did you mean _veroq.push(['track', 'Purchased', {total: 12}])?" in message
    assert "why: 'undefined' is a placeholder, not somebody's id" in message


def test_silence_is_explained(gateway: RunningGateway) -> None:
    with pytest.raises(AssertionError, match="no page asked for the script"):
        gateway.expect_event("Purchased", timeout=0.05)


def test_a_page_that_pushes_nothing_is_explained(gateway: RunningGateway, push: Push) -> None:
    push(["context", {"language": "en"}])
    with pytest.raises(AssertionError, match="the script is at work, but the page pushed no command"):
        gateway.expect_event("Purchased", timeout=0.05)


def test_a_wrong_key_is_explained(gateway: RunningGateway) -> None:
    with pytest.raises(Exception, match="403"):
        send(gateway.url, "not-the-key", ["track", "Purchased"])
    with pytest.raises(AssertionError, match="why: no site has this key"):
        gateway.expect_event("Purchased", timeout=0.05)


def test_events_are_counted(gateway: RunningGateway, push: Push) -> None:
    push(["track", "Viewed"], ["track", "Viewed"])
    gateway.expect_event("Viewed", count=2)
    with pytest.raises(AssertionError, match="2 times instead of 1"):
        gateway.expect_event("Viewed", count=1, timeout=0.1)


def test_an_event_that_must_not_come(gateway: RunningGateway, push: Push) -> None:
    push(["track", "Viewed", {"sku": "A1"}])
    gateway.expect_no_event("Viewed", {"sku": "B2"}, within=0.05)
    with pytest.raises(AssertionError, match="there should be no event 'Viewed'"):
        gateway.expect_no_event("Viewed")


def test_a_repeated_message_is_one_event(gateway: RunningGateway) -> None:
    body = b'{"key":"%s","commands":[{"id":"m1","at":1,"command":["track","Viewed"]}]}'
    for _ in range(2):
        urllib.request.urlopen(f"{gateway.url}/v1/commands", body % gateway.site.api_key.encode(), timeout=5).close()
    gateway.expect_event("Viewed", count=1)


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "before"),
    [("<!doctype html><head><title>", "<head>"), ("<!DOCTYPE html><h1>", "<!DOCTYPE html>"), ("<h1>", "")],
)
def test_a_served_page_has_the_snippet_before_anything_it_pushes(
    gateway: RunningGateway, tmp_path: Path, html: str, before: str
) -> None:
    (tmp_path / "index.html").write_text(html)
    with urllib.request.urlopen(f"{gateway.serve_pages(tmp_path)}/", timeout=10) as response:
        page = response.read().decode()
    assert page.partition(gateway.snippet_html())[0].strip() == html[: html.find(before) + len(before)]


def test_nothing_outside_the_folder_is_served(gateway: RunningGateway, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "site" / "style.css").write_text("h1 {}")
    url = gateway.serve_pages(tmp_path / "site")
    with urllib.request.urlopen(f"{url}/style.css", timeout=10) as response:
        assert response.headers["content-type"].startswith("text/css")
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "//etc/passwd", "/nothing.html"):
        with pytest.raises(urllib.error.HTTPError, match="404") as missing:
            urllib.request.urlopen(url + path, timeout=10)
        missing.value.close()


def test_a_folder_that_is_not_there_is_told(gateway: RunningGateway, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="there is no folder"):
        gateway.serve_pages(tmp_path / "sites")


def test_the_marker_takes_names_only(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.gateway('strict')\ndef test_it(gateway):\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "gateway.pytest_plugin", "-p", "no:cacheprovider"]
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "gateway(trust='strict'), not ('strict',)" in done.stdout


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_person_is_asked_about(gateway: RunningGateway, push: Push) -> None:
    push(["track", "Viewed"], LOGIN, ["tags", {"add": ["vip"]}])
    jo = gateway.expect_person(42, {"email": "jo@x.io"}, devices=1)
    assert (jo.tags, jo.subscribed, jo.tentative, jo.identities) == (["vip"], True, False, ["42"])
    assert [e["name"] for e in jo.events] == ["Viewed"]


def test_an_unknown_person_is_told_with_what_arrived(gateway: RunningGateway, push: Push) -> None:
    push(LOGIN)
    with pytest.raises(AssertionError, match=r"nobody is known as '43'\n(.|\n)*command arrived"):
        _ = gateway.person("43").devices
    with pytest.raises(AssertionError, match="devices: expected 2, got 1"):
        gateway.expect_person("42", devices=2, timeout=0.05)


def test_a_merge_is_awaited(gateway: RunningGateway, push: Push) -> None:
    push(["user", {"email": "jo@x.io"}], ["reidentify", "42", "jo@x.io"])
    assert sorted(gateway.expect_merged("42", "jo@x.io").identities) == ["42", "jo@x.io"]
    with pytest.raises(AssertionError, match="should be different people"):
        gateway.expect_separate("42", "jo@x.io", within=0.05)


def test_a_merge_that_does_not_come_shows_who_is_who(gateway: RunningGateway, push: Push) -> None:
    push(LOGIN)
    push(["user", {"id": "jo@x.io"}])
    gateway.expect_separate("42", "jo@x.io", within=0.05)
    with pytest.raises(AssertionError) as failed:
        gateway.expect_merged("42", "jo@x.io", timeout=0.05)
    assert "'42' and 'jo@x.io' are not one person" in said(failed)
    assert "  login jo@x.io: attached" in said(failed)


def test_a_held_merge_says_what_would_prove_it(gateway: RunningGateway, push: Push) -> None:
    push(["user", {"id": "42"}])
    push(["user", {"id": "43"}], ["reidentify", "43", "42"])
    (bad,) = [b for b in gateway.refused() if b.code == "needs_proof"]
    assert bad.command == ["reidentify", "43", "42"]
    assert "verify" in bad.how
    with pytest.raises(AssertionError, match="commands were refused"):
        gateway.expect_no_errors(within=0.05)


def test_a_link_names_whom_it_was_made_for(gateway: RunningGateway, push: Push) -> None:
    url = gateway.link_for("jo@x.io", "http://shop/?a=1")
    push(["link", url.partition("vero_id=")[2]], ["track", "Viewed"])
    assert gateway.expect_event("Viewed", person="jo@x.io")["person"]["tentative"]


def test_the_server_api_is_called_with_the_sites_key(gateway: RunningGateway, push: Push) -> None:
    push(LOGIN)
    push(["user", {"id": "jo@x.io"}])
    assert gateway.call("POST", "/v1/merges", {"target": "42", "source": "jo@x.io"})["outcome"] == "merged"
    assert len(gateway.expect_merged("42", "jo@x.io").devices) == 2
    with pytest.raises(AssertionError, match=r"POST /v1/merges: 404 .*nobody"):
        gateway.call("POST", "/v1/merges", {"target": "42", "source": "nobody"})


def test_a_reset_forgets_people_and_keeps_the_keys(gateway: RunningGateway, push: Push) -> None:
    device = push(LOGIN)
    gateway.reset()
    assert gateway.people() == []
    push(["track", "Viewed"], device=device)
    assert gateway.expect_event("Viewed")["person"]["identities"] == []


async def test_async_tests_wait_without_holding_up_their_loop(gateway: RunningGateway, push: Push) -> None:
    async def later() -> None:
        await asyncio.sleep(0.1)
        await asyncio.to_thread(push, LOGIN)

    task = asyncio.create_task(later())
    assert (await gateway.aio.expect_person("42", timeout=5)).exists
    await task
