"""A restart under load refuses nobody, where a supervisor holds the listening socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.serving import inherited_sockets, tell_supervisor
from tests.server import GatewayServer, gateway_environment, wait_for

LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "gateway", "serve", *sys.argv[2:]])
"""
"""What systemd does between fork and exec for a service with a socket."""


class Supervisor:
    """Holds the listening socket and starts one gateway after the other, as systemd does."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.arguments = arguments
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listening.getsockname()[1]
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.settimeout(30)
        self.process: subprocess.Popen[bytes] | None = None
        database = f"sqlite:///{folder / 'gateway.db'}"
        rates = {f"GATEWAY_RATE_{what}": "0" for what in ("ADDRESS", "DEVICE", "SITE")}
        self.environment = gateway_environment() | {"GATEWAY_DATABASE": database} | rates

    def start(self) -> None:
        number = self.listening.fileno()
        command = [sys.executable, "-c", LAUNCH, str(number), *self.arguments]
        told = self.environment | {"NOTIFY_SOCKET": str(self.folder / "notify")}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=told, pass_fds=(number,), stdout=log, stderr=log
            )
        self.hear("READY=1")

    def hear(self, state: str) -> None:
        while self.notify.recv(100).decode() != state:
            pass

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        self.hear("STOPPING=1")
        assert self.process.wait(15) in (0, -signal.SIGTERM)

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.listening.close()
        self.notify.close()


@contextmanager
def supervised(folder: Path, *arguments: str) -> Iterator[Supervisor]:
    supervisor = Supervisor(folder, *arguments)
    try:
        supervisor.start()
        yield supervisor
    finally:
        supervisor.close()


class Connection(http.client.HTTPConnection):
    """A connection to this machine, whatever the host is called; with `tls` an encrypted one."""

    tls: ssl.SSLContext | None = None

    def connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        self.sock = self.tls.wrap_socket(plain, server_hostname=self.host) if self.tls else plain


class Visitors:
    """Threads that push one event after the other: some on a new connection each time, some on one they keep.

    As browsers and proxies do, a request on a kept connection that was closed meanwhile is sent again on a new one.
    """

    def __init__(self, port: int, api_key: str, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.port = port
        self.api_key = api_key
        self.tls = tls
        self.host = host
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        self.again = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.visit, args=(n % 2 == 0,)) for n in range(6)]

    def visit(self, keeping: bool) -> None:
        connection = Connection(self.host, self.port, timeout=30)
        connection.tls = self.tls
        used = False
        while not self.stopping.is_set():
            entry = {"id": str(uuid.uuid4()), "at": time.time() * 1000, "command": ["track", "Visited"]}
            body = json.dumps({"key": self.api_key, "commands": [entry]})
            try:
                status, last = self.post(connection, body)
            except (ConnectionError, http.client.RemoteDisconnected) as error:
                connection.close()
                if used:
                    used = False
                    with self.lock:
                        self.again += 1
                    continue
                self.failures.append(repr(error))
                return
            with self.lock:
                self.statuses[status] += 1
            used = keeping and not last
            if not used:
                connection.close()
        connection.close()

    def post(self, connection: http.client.HTTPConnection, body: str) -> tuple[int, bool]:
        connection.request("POST", "/v1/commands", body)
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("connection") == "close"

    @property
    def answered(self) -> int:
        with self.lock:
            return self.statuses.total()

    def __enter__(self) -> Visitors:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def restarted_under_load(folder: Path, times: int, *arguments: str) -> Visitors:
    with supervised(folder, *arguments) as gateway:
        command = [sys.executable, "-m", "gateway", "site", "create", "shop", "--json"]
        made = subprocess.run(command, cwd=folder, env=gateway.environment, capture_output=True, check=True, timeout=60)
        with Visitors(gateway.port, json.loads(made.stdout)["api_key"]) as visitors:
            for _ in range(times):
                before = visitors.answered
                wait_for(lambda before=before: visitors.answered > before + 50 or visitors.failures, timeout=30)  # type: ignore[misc]
                gateway.stop()
                gateway.start()
            before = visitors.answered
            wait_for(lambda: visitors.answered > before + 50 or visitors.failures, timeout=30)
        gateway.stop()
        log = (folder / "log").read_text()
    assert "Traceback" not in log, log
    return visitors


def kept(folder: Path) -> int:
    with sqlite3.connect(folder / "gateway.db") as connection:
        return int(connection.execute("select count(*) from events").fetchone()[0])


def test_a_restart_under_load_refuses_nobody_and_loses_nothing(tmp_path: Path) -> None:
    visitors = restarted_under_load(tmp_path, 1)
    assert visitors.failures == []
    assert set(visitors.statuses) == {202}
    assert visitors.answered <= kept(tmp_path) <= visitors.answered + visitors.again


@pytest.mark.slow
def test_twenty_restarts_of_two_workers_refuse_nobody(tmp_path: Path) -> None:
    visitors = restarted_under_load(tmp_path, 20, "--workers", "2")
    assert visitors.failures == []
    assert set(visitors.statuses) == {202}


def test_a_connection_without_a_request_yet_is_not_turned_away_by_a_stop(tmp_path: Path) -> None:
    with GatewayServer(tmp_path) as server:
        process = server.process
        assert process
        with socket.create_connection(("127.0.0.1", server.port)) as silent:
            wait_for(server.is_ready)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: "Shutting down" in server.log_tail())
            silent.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = silent.makefile("rb").read().decode()
        assert answer.startswith("HTTP/1.1 200")
        assert "connection: close" in answer
        assert process.wait(10) in (0, -signal.SIGTERM)
        server._forget()


def test_sockets_meant_for_somebody_else_are_left_alone() -> None:
    told = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid() + 1)}
    assert inherited_sockets(told) == []
    assert told == {}  # nor does a child of ours take them
    assert inherited_sockets({}) == []


def test_a_supervisor_is_told_also_where_its_socket_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"gateway-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        tell_supervisor("READY=1")
        assert hears.recv(100) == b"READY=1"


def test_what_fails_at_the_start_does_not_listen(tmp_path: Path) -> None:
    broken = """
from gateway import app, serving, settings

async def announce(self):
    raise ZeroDivisionError("at the start")

app.Access.announce = announce
serving.run_server(settings.load(port=0), 1)
"""
    command = [sys.executable, "-c", broken]
    done = subprocess.run(command, cwd=tmp_path, env=gateway_environment(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "ZeroDivisionError" in done.stderr
    assert "running on" not in done.stderr
