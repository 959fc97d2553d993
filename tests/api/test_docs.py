"""The OpenAPI document says what the API does: a generated client's requests never find it wrong."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gateway.api.calls import Call
from gateway.api.native import CALLS
from tests.server import GatewayServer

EXAMPLES = {"sqlite": 15, "postgres": 5}


@pytest.fixture(scope="module", params=EXAMPLES)
def gateway_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    """A running gateway, once on each kind of database."""
    environment = {}
    if request.param == "postgres":
        environment["GATEWAY_DATABASE"] = request.getfixturevalue("postgres").new_database()
    with GatewayServer(tmp_path_factory.mktemp("gateway"), environment=environment) as server:
        yield server
        server.command("check")


@pytest.fixture(scope="module")
def described(gateway_server: GatewayServer) -> schemathesis.BaseSchema:
    site = gateway_server.site("described")
    headers = {"Authorization": f"Bearer {site['secret_key']}"}
    for n, who in enumerate(("alice", "bob")):
        entry = {"id": f"seed{n}", "command": ["user", {"id": who, "email": "jo@x.io"}]}
        httpx.post(f"{gateway_server.url}/v1/commands", json={"commands": [entry]}, headers=headers).raise_for_status()
    schema = schemathesis.openapi.from_url(f"{gateway_server.url}/openapi.json")
    schema.config.update(headers=headers)
    return schema


@pytest.mark.parametrize("call", CALLS, ids=[f"{c.method} {c.path}" for c in CALLS])
def test_every_answer_is_as_described(
    described: schemathesis.BaseSchema, call: Call, request: pytest.FixtureRequest
) -> None:
    operation = described[call.path][call.method]
    examples = EXAMPLES[request.node.callspec.params["gateway_server"]]

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def validate(case: schemathesis.Case) -> None:
        # Whether an id names anybody, or may be one at all, no schema can say: a refusal with a hint is a good answer.
        case.call_and_validate(timeout=10, excluded_checks=[positive_data_acceptance])

    validate()


def test_the_document_is_openapi_3_1_and_names_every_call(gateway_server: GatewayServer) -> None:
    document = httpx.get(f"{gateway_server.url}/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    described = {(m.upper(), p) for p, operations in document["paths"].items() for m in operations}
    assert described == {(c.method, c.path) for c in CALLS}


def test_the_readable_page_needs_no_outside_host(gateway_server: GatewayServer) -> None:
    page = httpx.get(f"{gateway_server.url}/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://localhost", "")
    assert "https://" not in page.text
    assert all(f"<code>{c.path}</code>" in page.text for c in CALLS)
