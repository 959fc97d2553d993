"""Bytes that nobody means well with: no 5xx, neighbours kept, both databases answer alike, changed tokens are none."""

import json
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.errors import BadToken
from gateway.model import Site
from gateway.signing import (
    LinkPayload,
    Signer,
    device_token,
    link_token,
    new_secret,
    read_device_token,
    read_identity_token,
    read_link_token,
)
from tests.driver import Driver, driving
from tests.server import gateway_environment

COMMANDS = (
    "track", "trackPageview", "user", "reidentify", "tags", "unsubscribe", "resubscribe", "logout", "reset", "verify",
    "link", "context", "consent", "cookie_domain", "init", "constructor", "__class__", "_on_track", "",
)  # fmt: skip

odd_text = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Co", "Cn"]), max_size=8),
    st.sampled_from(["\0", "a\0b", "\ud800", "\udfff", "\ud83d\ude00", "__proto__", "id", "email", "$add", "x" * 9000]),
)
odd_number = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(
        [2**53, 2**63, -(2**63) - 1, 2**64, 10**400, -0.0, 1e308, float("nan"), float("inf"), -float("inf")]
    ),
)
odd = st.recursive(
    st.one_of(st.none(), st.booleans(), odd_number, odd_text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(odd_text, inner, max_size=4)),
    max_leaves=12,
)
command = st.one_of(st.lists(odd, max_size=4), st.tuples(st.sampled_from(COMMANDS), odd, odd).map(list), odd)
entry = st.one_of(
    odd,
    st.fixed_dictionaries(
        {"id": st.one_of(st.sampled_from(["a", "b", "c"]), odd), "command": command},
        optional={"at": st.one_of(odd_number, odd), "page": odd, "identity": odd, "device": odd, "extra": odd},
    ),
)
envelope = st.fixed_dictionaries({}, optional={"sent_at": odd, "device": odd, "more": odd})


class Pair:
    """The application on both databases, each driven with the same requests."""

    def __init__(self, portal: BlockingPortal, drivers: list[Driver]) -> None:
        self.portal, self.drivers, self.sent = portal, drivers, 0

    def ask(self, call: Callable[[Driver], Any]) -> list[httpx.Response]:
        """Each gateway's answer to a request; neither may be a bug, and both must be the same."""
        answers = [self.portal.call(call, driver) for driver in self.drivers]
        for response in answers:
            assert response.status_code < 500, (response.status_code, response.text)
        assert len({(r.status_code, r.headers.get("x-gateway-skipped"), said(r)) for r in answers}) == 1, answers
        return answers

    def push(self, raw: Callable[[Site], bytes], **headers: str) -> list[httpx.Response]:
        """POST /v1/commands with a body made for each gateway's site."""

        async def call(driver: Driver) -> httpx.Response:
            driver.client.cookies.clear()
            return await driver.client.post("/v1/commands", content=raw(driver.site), headers=headers)

        return self.ask(call)


def said(response: httpx.Response) -> str:
    """An answer without what is never the same twice."""
    if "json" not in response.headers.get("content-type", ""):
        return ""
    data = response.json()
    return json.dumps({k: v for k, v in data.items() if k in ("status", "error", "outcomes")}, sort_keys=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, postgres: Any) -> Iterator[Pair]:
    databases: list[str | Path] = [tmp_path_factory.mktemp("hostile"), postgres.emptied()]
    with start_blocking_portal() as portal:
        stack = AsyncExitStack()
        drivers = [portal.call(stack.enter_async_context, driving(d)) for d in databases]
        yield Pair(portal, drivers)
        for driver in drivers:
            portal.call(driver.check_refold)
        portal.call(stack.aclose)


usual = settings(max_examples=150, suppress_health_check=list(HealthCheck))
long = settings(max_examples=5000, suppress_health_check=list(HealthCheck))


def neighbours_are_kept(pair: Pair, envelope: dict[str, Any], entries: list[Any]) -> None:
    """Odd entries around a good one: that one is kept on both."""
    pair.sent += 1
    good = {"id": f"good-{pair.sent}", "at": time.time() * 1000, "command": ["track", "Good"]}
    half = len(entries) // 2
    body = envelope | {"commands": [*entries[:half], good, *entries[half:]]}
    answers = pair.push(lambda site: json.dumps(body | {"key": site.api_key}).encode())
    if answers[0].status_code != 202:  # the envelope itself could not be read
        assert not isinstance(envelope.get("sent_at", 0), (int, float)) or set(envelope) & {"sent_at", "device", "more"}
        return
    for driver in pair.drivers:
        sql = "select count(*) as n from events where message_id = $1"
        assert pair.portal.call(driver.gateway.store.read, sql, good["id"])[0]["n"] == 1


@usual
@given(envelope, st.lists(entry, max_size=5))
@example({}, [{"id": "x", "command": ["track", "a", {"\ud800": "\ud800"}]}])
@example({}, [{"id": "x", "at": float("nan"), "command": ["user", {"id": 10**400}]}])
@example({}, [{"id": "x", "command": ["tags", {"add": ["\0"]}]}, {"id": "x", "command": ["context", {"\0": "\0"}]}])
def test_odd_entries_cost_their_neighbours_nothing(pair: Pair, envelope: dict[str, Any], entries: list[Any]) -> None:
    neighbours_are_kept(pair, envelope, entries)


@pytest.mark.slow
@long
@given(envelope, st.lists(entry, max_size=5))
def test_many_odd_entries_cost_their_neighbours_nothing(
    pair: Pair, envelope: dict[str, Any], entries: list[Any]
) -> None:
    neighbours_are_kept(pair, envelope, entries)


def damaged(body: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """A body with pieces cut out and others put in."""
    for at, length, piece in edits:
        at %= len(body) + 1
        body = body[:at] + piece + body[at + length :]
    return body


PLAIN = [
    {"id": "d", "at": 1, "command": ["track", "Caf\u00e9", {"a": [1, {"b": "\u00e9"}]}], "page": {"url": "http://x/"}}
]
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 9), st.binary(max_size=6)), min_size=1, max_size=5)


def damage_is_understood(pair: Pair, edits: list[tuple[int, int, bytes]]) -> None:
    def raw(site: Site) -> bytes:
        head = json.dumps({"key": site.api_key})[:-1].encode()
        return head + damaged(json.dumps({"commands": PLAIN}, ensure_ascii=False).encode()[1:], edits)

    pair.push(raw)


@usual
@given(edits)
def test_damaged_bodies_are_refused_or_kept(pair: Pair, edits: list[tuple[int, int, bytes]]) -> None:
    damage_is_understood(pair, edits)


@pytest.mark.slow
@long
@given(edits)
def test_many_damaged_bodies_are_refused_or_kept(pair: Pair, edits: list[tuple[int, int, bytes]]) -> None:
    damage_is_understood(pair, edits)


@pytest.mark.parametrize(
    "body",
    [
        '{"key": KEY, "commands": [{"id": "t1", "id": "t2", "command": ["track", "x", {"a": 1, "a": 2}]}]}',
        '{"key": "no", "key": KEY, "commands": []}',
        '{"key": KEY, "commands": [{"id": "n", "command": ["track", "x", {"a": NaN, "b": Infinity, "c": 1e999}]}]}',
        '{"key": KEY, "sent_at": 1e400, "commands": [{"id": "h", "at": -1e300, "command": ["track", "x"]}]}',
        '{"key": KEY, "commands": [{"id": "d", "command": ' + "[" * 2000 + "]" * 2000 + "}]}",
        '{"key": KEY, "commands": [{"id": "e", "command": ["track", "x", ' + '{"a":' * 500 + "1" + "}" * 500 + "]}]}",
        '{"key": KEY, "commands": [{"id": "p", "command": ["reset"], "page": {"\\u00e9": '
        + "[" * 500
        + "]" * 500
        + "}}]}",
        '{"key": KEY, "commands": [{"id": "u", "command": ["track", "\\u0000\\ud800"]}]}',
        '\ufeff{"key": KEY, "commands": []}',
        '{"key": KEY, "commands": [{"id": "i", "command": ["user", {"id": ' + "9" * 5000 + "}]}]}",
    ],
)
def test_json_as_it_should_not_be(pair: Pair, body: str) -> None:
    pair.push(lambda site: body.replace("KEY", json.dumps(site.api_key)).encode())


header = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)


@usual
@given(cookie=header, origin=header, authorization=header)
def test_odd_headers_are_answered(pair: Pair, cookie: str, origin: str, authorization: str) -> None:
    headers = {"Cookie": f"__Host-Http-vq={cookie}; vq_link={cookie}", "Origin": origin}
    if authorization:
        headers["Authorization"] = authorization
    encoded = {k: v.encode("latin-1") for k, v in headers.items()}

    async def call(driver: Driver) -> httpx.Response:
        driver.client.cookies.clear()
        body = json.dumps({"key": driver.site.api_key, "commands": PLAIN})
        return await driver.client.post("/v1/commands", content=body, headers=encoded)  # type: ignore[arg-type]

    pair.ask(call)


PATHS = (
    "/v1/profiles", "/v1/profiles/1/events", "/v1/reidentify", "/v1/merges", "/v1/demerge", "/v1/links",
    "/api/v2/users/track", "/api/v2/users/reidentify", "/api/v2/events/track", "/api/v2/users/tags/edit",
    "/1/upload", "/1/profile.json", "/1/demerge/profiles.json", "/1/delete/profiles.json",
    "/event/", "/v2/event/", "/v1/user/merge/", "/v1/bulk/user/", "/v1/user/x/", "/r/x",
)  # fmt: skip


@usual
@given(st.sampled_from(("GET", "POST", "PATCH", "DELETE")), st.sampled_from(PATHS), odd, odd_text)
def test_odd_bodies_on_any_path_are_no_bug(pair: Pair, method: str, path: str, body: Any, query: str) -> None:
    text = query.encode("utf-8", "replace").decode()

    async def call(driver: Driver) -> httpx.Response:
        site = driver.site
        content = json.dumps(body).encode()
        if isinstance(body, dict):
            content = json.dumps({"auth_token": "x", "tracking_api_key": site.api_key} | body).encode()
        headers = {"X-CleverTap-Account-Id": site.api_key, "X-CleverTap-Passcode": site.secret_keys[-1]}
        headers |= {"Authorization": f"Bearer {site.secret_keys[-1]}", "Content-Type": "application/json"}
        params = {"identity": text, "q": text, "limit": text[:20]}
        return await driver.client.request(method, path, content=content, headers=headers, params=params)

    for driver in pair.drivers:
        response = pair.portal.call(call, driver)
        assert response.status_code < 500 or response.status_code == 503, (method, path, response.text)


# --- tokens -----------------------------------------------------------------------------------------------------------

ALPHABET = string.ascii_letters + string.digits + "-_.+/="


def edits_of(token: str) -> Iterator[str]:
    """Every change of one character to any other that a token may hold, every loss and every gain of one."""
    for n, old in enumerate(token):
        yield from (token[:n] + new + token[n + 1 :] for new in ALPHABET if new != old)
        yield token[:n] + token[n + 1 :]
        yield token[:n] + "A" + token[n:]
    yield from (token + new for new in ALPHABET)


def refused(read: Callable[[str], object], token: str) -> None:
    read(token)
    for other in edits_of(token):
        if other != token:
            with pytest.raises(BadToken):
                read(other)


def test_every_edit_of_a_cookie_is_refused() -> None:
    signer = Signer([new_secret()])
    refused(lambda t: read_device_token(signer, 7, t), device_token(signer, 7, 1 << 62))


def test_every_edit_of_a_link_is_refused() -> None:
    signer = Signer([new_secret()])
    token = link_token(signer, LinkPayload(7, "id", "jo@x.io", "https://x.io/"))
    refused(lambda t: read_link_token(signer, t, time.time()), token)


def test_every_edit_of_an_identity_token_is_refused() -> None:
    site = Site(7, "shop", "k", [new_secret()])
    claims = {"sub": "jo", "iat": int(time.time()), "exp": int(time.time()) + 600}
    refused(lambda t: read_identity_token(site, t), jwt.encode(claims, site.secret_keys[-1], algorithm="HS256"))


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "jo"},
        {"sub": "jo", "iat": 0},
        {"sub": None},
        {"sub": ["jo"]},
        {"sub": True},
        {"exp": 1e400},
        {"exp": 2**70},
        {"exp": float("nan")},
        {"iat": float("nan")},
        {"iat": "soon"},
        {"exp": None},
        {"iat": -1e308},
        {"aliases": "jo"},
        {"aliases": ["x"] * 11},
        {"nbf": 2**60},
    ],
)
def test_claims_as_they_should_not_be_are_refused_and_no_bug(claims: dict[str, Any]) -> None:
    site = Site(7, "shop", "k", [new_secret()])
    now = int(time.time())
    full = (
        ({"sub": "jo", "iat": now, "exp": now + 600} | claims) if set(claims) - {"sub"} or len(claims) == 1 else claims
    )
    if claims == {"sub": "jo"}:
        full = claims
    token = jwt.api_jws.encode(json.dumps(full).encode(), site.secret_keys[-1], algorithm="HS256")
    with pytest.raises(BadToken):
        read_identity_token(site, token)


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_identity_tokens_of_another_algorithm_are_refused(algorithm: str) -> None:
    site = Site(7, "shop", "k", [new_secret()])
    claims = {"sub": "jo", "iat": int(time.time()), "exp": int(time.time()) + 600}
    key = None if algorithm == "none" else site.secret_keys[-1]
    with pytest.raises(BadToken):
        read_identity_token(site, jwt.encode(claims, key, algorithm=algorithm))


# --- guided by coverage -----------------------------------------------------------------------------------------------


def fuzz(folder: Path, seconds: int) -> None:
    """Runs fuzz_decode.py so long; it stops at the first input that is a bug, and prints it."""
    if not find_spec("atheris"):
        pytest.skip("needs atheris, which has no build for this machine")
    program = Path(__file__).with_name("fuzz_decode.py")
    limits = [
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    command = [sys.executable, str(program), str(folder), *limits, f"-artifact_prefix={folder}/"]
    done = subprocess.run(command, env=gateway_environment(), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_bytes_guided_by_coverage_are_refused_or_understood(tmp_path: Path) -> None:
    fuzz(tmp_path, 5)


@pytest.mark.slow
def test_bytes_guided_by_coverage_for_five_minutes(tmp_path: Path) -> None:
    fuzz(tmp_path, 300)
