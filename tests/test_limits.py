"""What one process takes on: rates, sizes, times and numbers of connections, and what the refused are told."""

import contextlib
import fcntl
import json
import re
import socket
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import SettingError, TooMany
from gateway.limits import MAX_KNOWN, Limits, Rate, block
from gateway.protocol import MAX_PIPELINED
from gateway.settings import SETTINGS, load
from tests.server import ROOT, GatewayServer, Site, wait_for

SHORT = {
    "GATEWAY_HEADER_TIMEOUT": "1",
    "GATEWAY_BODY_TIMEOUT": "2",
    "GATEWAY_IDLE_TIMEOUT": "1",
    "GATEWAY_SEND_TIMEOUT": "1",
    "GATEWAY_MAX_CONNECTIONS": "20",
    "GATEWAY_MAX_HELD": "2MiB",
    "GATEWAY_RATE_ADDRESS": "0",
    "GATEWAY_RATE_DEVICE": "5",
    "GATEWAY_RATE_SITE": "20",
}


class Clock:
    """A clock that a test turns."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAccept-Encoding: identity\r\n\r\n"


def reading_nothing(server: GatewayServer) -> socket.socket:
    """A connection with little room for answers."""
    connection = connect(server)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return connection


def unread(connection: socket.socket) -> int:
    """Bytes that have arrived."""
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)), sys.byteorder)


# --- rates ------------------------------------------------------------------------------------------------------------


def test_a_sender_may_burst_and_then_gets_its_rate() -> None:
    clock = Clock()
    rate = Rate(10, clock)
    assert [rate.take("a") for _ in range(200)] == [0] * 200
    wait = rate.take("a")
    assert wait == pytest.approx(0.1)
    assert rate.take("b") == 0
    clock.now += wait
    assert rate.take("a") == 0
    assert rate.take("a") > 0


def test_a_batch_is_never_cut_and_its_debt_is_paid_first() -> None:
    clock = Clock()
    rate = Rate(1, clock)
    assert rate.take("a", 500) == 0
    assert rate.take("a") == pytest.approx(481)
    clock.now += 481
    assert rate.take("a") == 0


def test_no_rate_is_no_limit_and_remembers_nobody() -> None:
    rate = Rate(0)
    assert not any(rate.take(n, 10**9) for n in range(100))
    assert not rate.full_at


def test_however_many_senders_come_memory_is_bounded() -> None:
    rate = Rate(1, Clock())
    for n in range(MAX_KNOWN + 1000):
        rate.take(n)
    assert len(rate.full_at) == MAX_KNOWN
    assert MAX_KNOWN + 999 in rate.full_at and 0 not in rate.full_at


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_addresses_count_by_the_network_one_sender_can_hold(host: str, network: str) -> None:
    assert block(host) == network


def test_a_refusal_says_how_long_to_wait_and_that_is_true() -> None:
    clock = Clock()
    limits = Limits(load({}, rate_address=2), clock)
    for _ in range(40):
        limits.address(("10.0.0.1", 1))
    with pytest.raises(TooMany) as refused:
        limits.address(("10.0.0.200", 1), 5)
    limits.address(("10.0.1.1", 1))
    assert refused.value.retry_after is not None
    clock.now += refused.value.retry_after
    limits.address(("10.0.0.1", 1))


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MAX_HELD", "12"), ("MAX_HELD", "x"), ("RATE_SITE", "-1"), ("IDLE_TIMEOUT", "nan"), ("MAX_CONNECTIONS", "0")],
)
def test_a_limit_that_cannot_be_is_named_at_the_start(variable: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"GATEWAY_{variable}.*write"):
        load({f"GATEWAY_{variable}": value})


def test_sizes_are_written_as_people_write_them() -> None:
    assert load({"GATEWAY_MAX_HELD": "3 MiB", "GATEWAY_MAX_HEADER": "65536"}).max_held == 3 * 1024**2


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    """A gateway with little patience."""
    with GatewayServer(tmp_path_factory.mktemp("limits"), environment=SHORT) as running:
        yield running


@pytest.fixture
def site(server: GatewayServer) -> Site:
    return server.site()


def connect(server: GatewayServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def request(site: Site, *entries: Any, head: str = "", length: int | None = None) -> bytes:
    """A page's request on the wire."""
    body = json.dumps({"key": site["api_key"], "commands": entries}).encode()
    length = len(body) if length is None else length
    lines = f"POST /v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{head}\r\n"
    return lines.encode() + body


def track(message: str) -> dict[str, Any]:
    return {"id": message, "at": time.time() * 1000, "command": ["track", "Seen"]}


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of the next answer; status 0 when the connection was closed without one."""
    stream = connection.makefile("rb")
    line = stream.readline()
    if not line:
        return 0, {}, b""
    headers: dict[str, str] = {}
    while (text := stream.readline().strip().decode("latin-1")) != "":
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    return int(line.split()[1]), headers, stream.read(int(headers.get("content-length", "0")))


def closed(connection: socket.socket) -> bool:
    """Whether the gateway closes the connection; waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_connection_that_says_nothing_is_closed(server: GatewayServer) -> None:
    with connect(server) as connection:
        assert closed(connection)


@pytest.mark.parametrize("start", [b"P", b"POST /v1/commands HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_headers_that_do_not_end_are_408(server: GatewayServer, start: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(start)
        status, headers, _ = answer(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert closed(connection)


def test_a_body_that_does_not_end_is_408_and_a_page_can_read_it(server: GatewayServer, site: Site) -> None:
    with connect(server) as connection:
        connection.sendall(request(site, track("slow"), head="Origin: https://a.example\r\n", length=5000))
        status, headers, body = answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (408, "too_slow")
        assert headers["access-control-allow-origin"] == "https://a.example"
        assert "Retry-After" in headers["access-control-expose-headers"]
        assert closed(connection)


def test_a_body_sent_drop_by_drop_does_not_live_longer(server: GatewayServer, site: Site) -> None:
    with connect(server) as connection:
        connection.sendall(request(site, length=5000))
        started = time.monotonic()
        connection.settimeout(0.1)
        while time.monotonic() - started < 8:
            try:
                connection.sendall(b" ")
                if connection.recv(1):
                    break
            except TimeoutError:
                continue
        assert time.monotonic() - started < 5


def test_an_idle_connection_is_closed_also_if_it_sends_line_ends(server: GatewayServer, site: Site) -> None:
    with connect(server) as connection:
        connection.sendall(request(site, track("idle")))
        assert answer(connection)[0] == 202
        connection.sendall(b"\r\n")
        assert closed(connection)


def test_one_connection_serves_many_requests(server: GatewayServer, site: Site) -> None:
    with connect(server) as connection:
        for n in range(30):
            connection.sendall(request(site, track(f"many-{n}")))
            assert answer(connection)[0] == 202


@pytest.mark.parametrize(
    "head",
    [
        "X-Long: " + "x" * 40_000 + "\r\n",
        "".join(f"X-{n}: 1\r\n" for n in range(200)),
        "Cookie: " + "a=b; " * 9000 + "\r\n",
    ],
)
def test_headers_over_the_limit_are_431(server: GatewayServer, site: Site, head: str) -> None:
    with connect(server) as connection:
        connection.sendall(request(site, track("431"), head=head))
        assert answer(connection)[0] == 431
        assert closed(connection)


def test_a_request_before_too_large_a_head_is_not_told_that_its_own_was(server: GatewayServer, site: Site) -> None:
    with connect(server) as connection:
        connection.sendall(request(site, track("before")) + request(site, track("431"), head=f"X: {'x' * 40_000}\r\n"))
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
    assert b" 431 " not in received


def test_a_request_before_a_body_that_does_not_end_is_not_told_that_its_own_did_not(
    server: GatewayServer, site: Site
) -> None:
    waits = f"GET /v1/feed?wait=20 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site['secret_key']}\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(waits.encode() + request(site, length=5000))
        assert connection.recv(65536) == b""


def test_trailers_over_the_limit_are_431(server: GatewayServer) -> None:
    with connect(server) as connection:
        connection.sendall(
            b"POST /v1/commands HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        )
        connection.sendall(b"".join(b"X-%d: %b\r\n" % (n, b"x" * 1000) for n in range(40)))
        assert answer(connection)[0] == 431
        assert closed(connection)


def test_a_header_without_end_is_431_before_it_fills_memory(server: GatewayServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        with pytest.raises(OSError):  # noqa: PT012 - the gateway closes while this is sending
            for _ in range(10_000):
                connection.sendall(b"x" * 10_000)


def test_a_body_over_the_limit_is_413_at_once_and_the_rest_is_not_waited_for(server: GatewayServer, site: Site) -> None:
    with connect(server) as connection:
        connection.sendall(request(site, track("413"), length=10**9))
        assert answer(connection)[0] == 413
        with pytest.raises(OSError):  # noqa: PT012 - the gateway closes while this is sending
            for _ in range(10_000):
                connection.sendall(b"x" * 10_000)


def test_chunks_are_counted_too(server: GatewayServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"POST /v1/commands HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(60):
            connection.sendall(b"%x\r\n%b\r\n" % (10_000, b" " * 10_000))
        assert answer(connection)[0] == 413


def test_compressed_bodies_are_415(server: GatewayServer, site: Site) -> None:
    with connect(server) as connection:
        connection.sendall(request(site, track("gz"), head="Content-Encoding: gzip\r\n"))
        assert answer(connection)[0] == 415


def test_a_device_that_is_too_fast_is_429_and_right_again_when_it_was_told(server: GatewayServer, site: Site) -> None:
    with connect(server) as connection:
        connection.sendall(request(site, track("first")))
        cookie = answer(connection)[1]["set-cookie"].split(";")[0]
        head = f"Cookie: {cookie}\r\nOrigin: https://a.example\r\n"
        connection.sendall(request(site, *(track(f"r-{n}") for n in range(102)), head=head))
        assert answer(connection)[0] == 202
        connection.sendall(request(site, track("r-x"), head=head))
        status, headers, body = answer(connection)
        assert (status, json.loads(body)["error"]["code"]) == (429, "too_many_requests")
        assert headers["access-control-allow-origin"] == "https://a.example"
        assert "Retry-After" in headers["access-control-expose-headers"]
        time.sleep(int(headers["retry-after"]))
    with connect(server) as connection:
        connection.sendall(request(site, track("r-x"), head=head))
        assert answer(connection)[0] == 202


def test_a_site_that_is_too_fast_is_429_and_other_sites_are_not(server: GatewayServer, site: Site) -> None:
    other = server.site()
    with connect(server) as connection:
        for n in range(2):
            connection.sendall(request(site, *(track(f"s-{n}-{m}") for m in range(450))))
            status = answer(connection)[0]
        assert status == 429
        connection.sendall(request(other, track("other")))
        assert answer(connection)[0] == 202


def test_when_there_is_no_room_the_longest_silent_connection_makes_some(server: GatewayServer, site: Site) -> None:
    silent = [connect(server) for _ in range(20)]
    try:
        with connect(server) as connection:
            connection.sendall(request(site, track("room")))
            assert answer(connection)[0] == 202
        assert closed(silent[0])
    finally:
        for connection in silent:
            connection.close()


def test_when_all_connections_send_a_newcomer_is_503(server: GatewayServer, site: Site) -> None:
    sending = [connect(server) for _ in range(20)]
    try:
        for connection in sending:
            connection.sendall(request(site, length=5000))
        time.sleep(0.3)
        with connect(server) as newcomer:
            status, headers, _ = answer(newcomer)
            assert status == 503 and int(headers["retry-after"]) > 0
    finally:
        for connection in sending:
            connection.close()


def test_bodies_that_are_never_finished_cost_no_more_memory_than_is_allowed(server: GatewayServer, site: Site) -> None:
    stalled = [connect(server) for _ in range(10)]
    try:
        for connection in stalled:
            connection.sendall(request(site, length=500_000) + b" " * 300_000)
        with connect(server) as connection:
            connection.sendall(request(site, track("held")))
            assert answer(connection)[0] == 202
        statuses = [answer(connection)[0] for connection in stalled]
        assert 503 in statuses and set(statuses) <= {503, 408}
    finally:
        for connection in stalled:
            connection.close()


@pytest.mark.parametrize("pause", [0, 0.01])
def test_answers_that_nobody_reads_are_given_up(server: GatewayServer, pause: float) -> None:
    """Requests that come at once are too many to keep; slowly, one waits for an answer that cannot be sent."""
    with reading_nothing(server) as connection, pytest.raises(OSError):  # noqa: PT012 - closed while this is sending
        for _ in range(2000):
            connection.sendall(LARGE)
            time.sleep(pause)


def test_a_client_that_reads_nothing_does_not_keep_a_gateway_from_stopping(tmp_path: Path) -> None:
    with GatewayServer(tmp_path) as server, reading_nothing(server) as connection:
        connection.sendall(LARGE * MAX_PIPELINED)
        wait_for(lambda: (before := unread(connection)) and server.is_ready() and before == unread(connection))
        server.stop()
        server.start()
    assert "timeout graceful shutdown exceeded" not in server.log.read_text()


def test_bytes_that_are_no_http_are_400_in_the_shape_of_every_error(server: GatewayServer) -> None:
    for noise in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        with connect(server) as connection:
            connection.sendall(noise)
            status, _, body = answer(connection)
            assert (status, json.loads(body)["error"]["code"]) == (400, "bad_request")


def test_the_documented_limits_are_those_in_force() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = [s for s in SETTINGS if s.name.startswith(("max_", "rate_")) or s.name.endswith("_timeout")]
    for setting in rows:
        (row,) = [line for line in text.splitlines() if f"`{setting.variable}` |" in line]
        size = {"max_header": 1024, "max_held": 1024**2}.get(setting.name, 1)
        assert re.search(rf"\b{setting.default / size:g}\b", row.replace(",", "")), row
