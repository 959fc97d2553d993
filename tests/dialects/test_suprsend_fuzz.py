"""Whatever JSON is sent to SuprSend's calls is understood or refused in their shape, and leaves the database whole."""

import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.suprsend.channels import CHANNELS
from gateway.dialects.suprsend.messages import OPERATORS, OWN_EVENTS, OWN_PROPERTIES
from tests.server import GatewayServer

PEOPLE = ["alice", "bob", "a/b", "ALICE@shop.example", 42, "null"]
NAMES = [*CHANNELS, *OPERATORS, *OWN_PROPERTIES, "operations", "distinct_id", "event", "properties", "from_user_id",
         "distinct_ids", "$insert_id", "$idempotency_key", "$time", "$user_operations", "$identified_id", "$anon_id",
         "$id_provider", "value", "status", "perma_status", "name", "n", ""]  # fmt: skip
VALUES = [*PEOPLE, *OWN_EVENTS, "a@b.example", "1e9", "active", "disabled", 10**30, 1e300, -0.0, True, None]

scalars = st.sampled_from(VALUES) | st.text(max_size=5) | st.integers() | st.floats(allow_nan=False)
names = st.sampled_from(NAMES) | st.text(max_size=5)
things = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
people = st.sampled_from(PEOPLE)
changes = st.dictionaries(
    st.sampled_from([*OPERATORS]), st.dictionaries(names, scalars, max_size=3) | things, min_size=1, max_size=3
)
edits = st.fixed_dictionaries({"operations": st.lists(changes, max_size=4)})
records = st.fixed_dictionaries(
    {"distinct_id": people},
    optional={
        "event": st.sampled_from(["Viewed", "$identify"]) | scalars,
        "properties": st.fixed_dictionaries({}, optional={"$identified_id": people, "$anon_id": people, "x": things}),
        "$user_operations": st.lists(changes, max_size=3),
        "$insert_id": st.sampled_from(["one", "two"]) | scalars,
        "$idempotency_key": st.sampled_from(["one", "two"]) | scalars,
        "$time": st.integers(0, 2**53) | scalars,
    },
)
calls = st.one_of(
    st.tuples(st.just("POST"), people, st.just(""), things | st.dictionaries(names, things, max_size=4)),
    st.tuples(st.just("PATCH"), people, st.just(""), edits | things),
    st.tuples(st.just("POST"), people, st.just("merge/"), st.fixed_dictionaries({"from_user_id": people}) | things),
    st.tuples(st.sampled_from(["GET", "DELETE"]), people, st.just(""), st.none()),
    st.tuples(st.just("POST"), st.sampled_from(["/event/", "/v2/event/"]), st.none(), records | things),
    st.tuples(st.just("POST"), st.sampled_from(["/event/", "/v2/bulk/event/"]), st.none(), st.lists(records | things)),
)


@pytest.fixture(scope="module")
def api(gateway_server: GatewayServer) -> httpx.Client:
    return gateway_server.api(gateway_server.site())


@settings(max_examples=100)
@given(calls=st.lists(calls, min_size=1, max_size=4))
def test_any_json(api: httpx.Client, calls: list[tuple[str, object, str | None, object]]) -> None:
    for method, who, rest, body in calls:
        path = str(who) if rest is None else f"/v1/user/{str(who).replace('/', '%2F')}/{rest}"
        content = json.dumps(body).encode() if method in ("POST", "PATCH") else b""
        response = api.request(method, path, content=content)
        assert response.status_code < 500, (method, path, body, response.text)
        if response.status_code >= 400:
            assert response.json()["code"] == response.status_code
        elif response.status_code in (200, 201) and rest is not None:
            assert response.json()["distinct_id"]
