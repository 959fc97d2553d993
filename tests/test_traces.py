"""OpenTelemetry: a span a request, the commit it waited for, and nobody's data in either."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway import extras
from gateway.app import make_app, make_traces, opened
from gateway.errors import SettingError
from gateway.settings import load
from gateway.traces import Traces
from tests.driver import Driver

SECRET = "mia.secret@x.io"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def driver(database: str, spans: InMemorySpanExporter) -> AsyncIterator[Driver]:
    traces = Traces(SimpleSpanProcessor(spans))
    async with opened(load({}, database=database), traces) as gateway:
        site = await gateway.sites.create("shop", gateway.new_id(), origins=[])
        transport = httpx.ASGITransport(app=make_app(gateway))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
            yield Driver(gateway, client, site)
    traces.close()


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [s for s in spans if s.name == name]


async def test_a_request_leads_to_the_commit_that_made_it_durable(driver: Driver, spans: InMemorySpanExporter) -> None:
    bodies = [
        {"key": driver.site.api_key, "commands": [{"id": f"{n}", "at": time.time() * 1000, "command": ["track", "E"]}]}
        for n in range(5)
    ]
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    await asyncio.gather(*(driver.client.post("/v1/commands", json=b, headers=headers) for b in bodies))
    done = spans.get_finished_spans()
    requests, durable, commits = (named(done, n) for n in ("POST /v1/commands", "durable", "group commit"))
    assert (len(requests), len(durable)) == (5, 5)
    assert {f"{s.context.trace_id:032x}" for s in requests} == {trace}
    assert {s.parent.span_id for s in durable if s.parent} == {s.context.span_id for s in requests}
    assert {link.context.span_id for s in commits for link in s.links} == {s.context.span_id for s in durable}
    assert sum(s.attributes["gateway.requests"] for s in commits if s.attributes) == 5  # type: ignore[misc]
    assert all(s.attributes and s.attributes["http.response.status_code"] == 202 for s in requests)
    assert driver.gateway.writer.spans == {}  # type: ignore[attr-defined]


async def test_no_span_holds_anybodys_data(driver: Driver, spans: InMemorySpanExporter) -> None:
    await driver.push("1", ["user", {"id": SECRET, "email": SECRET}], "a", time.time())
    await driver.server_push(SECRET, ["track", "Paid", {"to": SECRET}], "b", time.time())
    profile = await driver.find(f"u:{SECRET}")
    assert profile is not None
    await driver.api("GET", f"/v1/profiles?q={SECRET}")
    await driver.api("DELETE", f"/v1/profiles/{profile['profile_id']}")
    await driver.client.get(f"/{SECRET}")
    done = spans.get_finished_spans()
    text = "".join(s.to_json() for s in done)
    names = {s.name for s in done}
    assert {"GET /v1/profiles", "DELETE /v1/profiles/{profile_id}", "GET other", "durable"} <= names
    assert [s for s in (SECRET, profile["profile_id"], driver.site.api_key, "gateway.test") if s in text] == []


async def test_a_refusal_and_a_failure_can_be_told_apart(
    driver: Driver, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await driver.client.get("/v1/profiles")

    async def broken(name: str) -> str:
        raise ValueError(SECRET)

    monkeypatch.setattr(driver.gateway.store, "config", broken)
    await driver.client.get("/ready")
    statuses = {s.name: s.status.is_ok for s in spans.get_finished_spans()}
    assert statuses == {"GET /v1/profiles": True, "GET /ready": False}
    assert SECRET not in json.dumps([s.to_json() for s in spans.get_finished_spans()])


def test_without_a_setting_nothing_is_traced_and_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_traces(load({})) is None

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name="opentelemetry.sdk")

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(SettingError, match="need OpenTelemetry"):
        make_traces(load({}, otlp_endpoint="http://localhost:4318"))
