"""GET /metrics: names, types and values after known traffic, and who may see them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import make_app, opened
from gateway.metrics import PATH, door
from gateway.settings import load
from gateway.tally import Spread
from tests.driver import Driver, driving

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def driver(database: str) -> AsyncIterator[Driver]:
    async with driving(database) as driver:
        yield driver


async def scrape(driver: Driver) -> tuple[dict[str, str], Samples]:
    """(type by family, value by sample name and labels)."""
    response = await driver.client.get(PATH)
    assert response.status_code == 200
    families = list(text_string_to_metric_families(response.text))
    samples = {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}
    return {f.name: f.type for f in families}, samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


async def push(driver: Driver, *entries: Any, key: str = "") -> httpx.Response:
    body = {"key": key or driver.site.api_key, "commands": list(entries)}
    return await driver.client.post("/v1/commands", json=body)


def entry(op: str, *command: Any) -> dict[str, Any]:
    return {"id": op, "at": time.time() * 1000, "command": list(command)}


async def test_known_traffic_gives_known_numbers(driver: Driver) -> None:
    device = (await push(driver, entry("a", "track", "Landed"), entry("b", "nonsense"), 7)).json()["device"]
    again = {"key": driver.site.api_key, "device": device, "commands": [entry("a", "track", "Landed")]}
    await driver.client.post("/v1/commands", json=again)
    login = again | {"commands": [entry("c", "user", {"id": "42"})]}
    await driver.client.post("/v1/commands", json=login)
    await driver.client.post("/v1/commands", json=login)
    await push(driver, entry("d", "track", "Lost"), key="0" * 40)
    await driver.server_push("43", ["track", "Paid"], "e", time.time())
    await driver.api("POST", "/v1/merges", {"target": "42", "source": "43"})
    await driver.client.get("/made/up/path")

    types, got = await scrape(driver)
    assert types["gateway_commands_accepted"] == types["gateway_outcomes"] == "counter"
    assert types["gateway_commit_seconds"] == types["gateway_commit_group_requests"] == "histogram"
    assert types["gateway_writer_queue_requests"] == types["gateway_database_bytes"] == "gauge"
    assert value(got, "gateway_commands_accepted_total", actor="page") == 4
    assert value(got, "gateway_commands_durable_total", actor="page") == 4
    assert value(got, "gateway_commands_durable_total", actor="server") == 1
    assert value(got, "gateway_commands_deduplicated_total") == 2
    assert value(got, "gateway_entries_skipped_total", reason="unknown_command") == 1
    assert value(got, "gateway_entries_skipped_total", reason="not_an_entry") == 1
    assert value(got, "gateway_requests_refused_total", reason="unknown_key") == 1
    assert value(got, "gateway_outcomes_total", kind="login", outcome="attached") == 2
    assert value(got, "gateway_outcomes_total", kind="track", outcome="accepted") == 3
    assert value(got, "gateway_outcomes_total", kind="merge", outcome="merged") == 1
    assert value(got, "gateway_responses_total", door="commands", status="202") == 5
    assert value(got, "gateway_responses_total", door="commands", status="403") == 1
    assert value(got, "gateway_responses_total", door="native", status="201") == 1
    assert value(got, "gateway_responses_total", door="other", status="404") == 1
    assert value(got, "gateway_commit_seconds_count") == 6
    assert value(got, "gateway_commit_group_requests_bucket", le="1.0") == 6
    assert 0 < value(got, "gateway_commit_seconds_sum") < 60
    assert value(got, "gateway_writer_queue_requests") == 0
    assert value(got, "gateway_database_bytes") + value(got, "gateway_wal_bytes") > 10_000


async def test_every_metric_is_documented_and_none_names_a_person(driver: Driver) -> None:
    await push(driver, entry("a", "user", {"id": "42", "email": "bob@x.io"}), entry("b", "nonsense bob@x.io"))
    _, samples = await scrape(driver)
    text = DOCUMENT.read_text()
    names = {n for n, _ in samples if n.startswith("gateway_")}
    shown = {n.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for n in names}
    assert [n for n in shown if f"`{n}`" not in text] == []
    assert not any("bob" in v or driver.site.api_key in v for _, labels in samples for _, v in labels)


async def test_two_gateways_in_one_process_count_apart(tmp_path: Path) -> None:
    async with driving(tmp_path / "a") as one, driving(tmp_path / "b") as other:
        await push(one, entry("a", "track", "Landed"))
        assert value((await scrape(one))[1], "gateway_commands_durable_total", actor="page") == 1
        assert value((await scrape(other))[1], "gateway_commands_durable_total", actor="page") == 0


@pytest.mark.parametrize(
    ("token", "client", "headers", "status"),
    [
        ("", "127.0.0.1", {}, 200),
        ("", "::1", {}, 200),
        ("", "192.0.2.7", {}, 403),
        ("", "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
        ("", "127.0.0.1", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("metrics-token", "127.0.0.1", {}, 401),
        ("metrics-token", "192.0.2.7", {"Authorization": "Bearer metrics-token"}, 200),
        ("metrics-token", "192.0.2.7", {"Authorization": "Bearer other"}, 401),
    ],
)
async def test_who_may_see_them(tmp_path: Path, token: str, client: str, headers: dict[str, str], status: int) -> None:
    settings = load({"GATEWAY_METRICS_TOKEN": token}, database=f"sqlite:///{tmp_path / 'gateway.db'}")
    async with opened(settings) as gateway:
        transport = httpx.ASGITransport(app=make_app(gateway), client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as http:
            response = await http.get(PATH, headers=headers)
    assert response.status_code == status
    assert ("gateway_build_info" in response.text) == (status == 200)


def test_doors_are_few_whatever_the_path() -> None:
    assert door("/v1/profiles/7") == "native"
    assert door("/v1/user/jo") == "suprsend"
    assert door("/api/v2/users/track") == "vero"
    assert door("/1/upload") == "clevertap"
    assert door("/../etc/passwd") == "other"


def test_a_value_on_a_bound_counts_as_up_to_it() -> None:
    spread = Spread((1.0, 5.0))
    for number in (1, 2, 9):
        spread.add(number)
    assert spread.buckets() == [("1.0", 1.0), ("5.0", 2.0), ("+Inf", 3.0)]
    assert spread.sum == 12


async def test_the_dashboard_asks_for_metrics_that_there_are(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        await push(driver, entry("a", "track", "Landed"))
        text = (await driver.client.get(PATH)).text
    families = list(text_string_to_metric_families(text))
    known = {s.name for f in families for s in f.samples}
    # A counter with labels has no sample before it counts something: then it is known by its description.
    known |= {f"{f.name}_total" for f in families if f.type == "counter"}
    dashboard = json.loads((DOCUMENT.parent.parent / "deploy" / "grafana" / "gateway.json").read_text())
    queries = [t["expr"] for p in dashboard["panels"] for t in p["targets"]]
    queries += [a["expr"] for a in dashboard["annotations"]["list"]]
    asked = {name for q in queries for name in re.findall(r"\b(?:gateway|process)_\w+", q)}
    assert asked - known == set()
    assert len(asked) > 15
    labels = {label for q in queries for label in re.findall(r"[{,](\w+)(?:=~?|!=)", q)}
    assert labels <= {"instance", "reason", "status", "outcome", "actor", "kind"}
