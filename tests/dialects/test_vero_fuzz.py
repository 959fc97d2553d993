"""Whatever is sent to Vero's calls is taken or refused in their shape, and leaves the database whole."""

import json
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.vero.routes import CALLS
from tests.server import GatewayServer, Site

PEOPLE = [42, "42", "anon-1", "Jane@x.io", " 7 ", "null", "", None]
NAMES = ["id", "new_id", "email", "data", "changes", "add", "remove", "identity", "event_name", "extras", "channels",
         "created_at", "update_only", "check_id", "phone_number", "preferences", "a", ""]  # fmt: skip
VALUES = [*PEOPLE, "jane@x.io", "Visited", "true", 10**30, 1e300, -0.0, True, "[1]", '{"a": 1}', "[", 1457161309, "Ä\0"]

scalars = st.sampled_from(VALUES) | st.text(max_size=5) | st.integers() | st.floats(allow_nan=False)
names = st.sampled_from(NAMES) | st.text(max_size=5)
things: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
people = st.sampled_from(PEOPLE)
objects = st.dictionaries(names, things, max_size=4)
params = st.fixed_dictionaries(
    {"id": people},
    optional={
        "new_id": people,
        "email": st.sampled_from(["jane@x.io", "x"]) | scalars,
        "identity": st.fixed_dictionaries({"id": people}, optional={"email": scalars, "age": things}) | things,
        "event_name": st.sampled_from(["Visited", "visited", "Identity Set"]) | scalars,
        "data": objects | things,
        "changes": objects | things,
        "add": st.lists(scalars) | things,
        "remove": st.lists(scalars) | things,
        "channels": things,
        "extras": st.fixed_dictionaries({}, optional={"created_at": scalars, "update_only": scalars}) | things,
    },
)
flat = st.lists(st.tuples(names | st.sampled_from(["data[a]", "add[]", "data[a][][b]", "identity[id]"]), st.text()))
bodies = st.one_of(
    (params | objects).map(lambda body: (json.dumps(body).encode(), "application/json")),
    flat.map(lambda pairs: (urlencode(pairs, errors="replace").encode(), "application/x-www-form-urlencoded")),
    st.tuples(
        st.binary(max_size=60) | st.just(b"--b\r\n") | st.just(b'--b\r\nContent-Disposition: form-data; name="id"\r\n'),
        st.sampled_from(["", "text/plain", "application/json", "multipart/form-data; boundary=b"]),
    ),
)
calls = st.sampled_from([(method, path) for path, methods, _ in CALLS for method in methods])


@pytest.fixture(scope="module")
def site(gateway_server: GatewayServer) -> Site:
    return gateway_server.site()


@pytest.fixture(scope="module")
def api(gateway_server: GatewayServer, site: Site) -> httpx.Client:
    return gateway_server.api(site)


@settings(max_examples=300)
@given(call=calls, body=bodies, key=st.sampled_from(["auth_token", "api_key"]))
def test_anything(api: httpx.Client, site: Site, call: tuple[str, str], body: tuple[bytes, str], key: str) -> None:
    method, path = call
    content, kind = body
    url = f"/api/v2/{path}?{urlencode({'auth_token': site[key]})}"
    response = api.request(method, url, content=content, headers={"Content-Type": kind} if kind else {})
    assert response.status_code in (200, 400, 401), (method, path, body, response.text)
    assert response.json()["status"] == response.status_code
    assert response.headers["content-type"] == "application/json"
