"""The real gateway as a process of its own, for tests that need one: started, asked, stopped by pid."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import httpx

from gateway.app import opened
from gateway.check import check_site
from gateway.cli import site_keys
from gateway.settings import load

ROOT = Path(__file__).resolve().parent.parent
TRACEBACK = "Traceback (most recent call last)"
Site = dict[str, str]
Result = TypeVar("Result")

running: list["GatewayServer"] = []
# How a waiting test passes the time. Browser tests replace it, so that Playwright goes on answering its browsers.
pause: Callable[[float], None] = time.sleep


def wait_for(check: Callable[[], Result], timeout: float = 10, message: str = "") -> Result:
    """The first true answer of `check`, asked again until then; an assertion that fails inside counts as not yet."""
    deadline = time.monotonic() + timeout
    while True:
        problem: AssertionError | None = None
        try:
            if answer := check():
                return answer
        except AssertionError as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {message or 'what the test waits for'}") from problem
        pause(0.05)


class GatewayServer:
    """`gateway serve` on a free port with a new SQLite database in `folder`.

    `environment` holds further GATEWAY_* settings. Leaving the `with` block stops the process, and fails when the
    gateway logged a traceback, unless `errors_expected` is set.
    """

    arguments: ClassVar[tuple[str, ...]] = ("serve", "--host", "127.0.0.1")

    def __init__(
        self,
        folder: Path,
        *,
        environment: dict[str, str] | None = None,
        python: str | Path = sys.executable,
        errors_expected: bool = False,
    ) -> None:
        self.folder = folder
        self.python = str(python)
        self.database = f"sqlite:///{folder / 'gateway.db'}"
        self.log = folder / "gateway.log"
        self.errors_expected = errors_expected
        self.url = ""
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = gateway_environment() | {"GATEWAY_DATABASE": self.database} | (environment or {})
        self._clients: list[httpx.Client] = []
        self._sites = 0
        self._judged = 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            error.add_note(f"The gateway's log:\n{self.log_tail()}")
        self.stop()
        if error is None:
            self.judge_log()

    # the process

    def start(self, timeout: float = 30, port: int = 0) -> None:
        """Returns when the gateway is ready. Call it again after `stop` or `kill`: same database, new port."""
        self.port = port or free_port()
        self.url = f"http://localhost:{self.port}"
        command = [self.python, "-m", "gateway", *self.arguments, "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        running.append(self)
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                state = f"ended with {self.process.returncode}" if self.process.poll() is not None else "is not ready"
                raise RuntimeError(f"the gateway {state}; its log:\n{self.log_tail()}")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("localhost", self.port), timeout=2) as connection:
                connection.sendall(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
                return b" 200 " in connection.makefile("rb").readline()
        except OSError:
            return False

    def stop(self, timeout: float = 15) -> None:
        """Asks the process to end. One that has ended before, or does not end in time, is an error."""
        process = self._forget()
        if process is None:
            return
        if (code := process.poll()) is not None:
            raise RuntimeError(f"the gateway had ended with {code}; its log:\n{self.log_tail()}")
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"the gateway did not stop within {timeout} s; its log:\n{self.log_tail()}") from None
        # uvicorn raises the signal again once everything is closed, so both are an orderly end
        if code not in (0, -signal.SIGTERM):
            raise RuntimeError(f"the gateway stopped with {code}; its log:\n{self.log_tail()}")

    def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        if (process := self._forget()) is not None:
            process.kill()
            process.wait()

    def _forget(self) -> subprocess.Popen[bytes] | None:
        for client in self._clients:
            client.close()
        self._clients.clear()
        if self in running:
            running.remove(self)
        process, self.process = self.process, None
        return process

    # what it said

    def log_tail(self, limit: int = 20_000) -> str:
        """What it logged since the last judge_log(), at most the last `limit` letters."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._judged :].decode(errors="replace")[-limit:]

    def judge_log(self, errors_expected: bool = False) -> None:
        """Fails on a traceback that was logged since the last call."""
        if self.process is not None:
            self.is_ready()  # the traceback of an answer follows the answer: by the next one it is in the log
        new = self.log_tail(limit=1_000_000)
        self._judged = self.log.stat().st_size
        if TRACEBACK in new and not (errors_expected or self.errors_expected):
            raise AssertionError(f"the gateway logged an error:\n{new[-20_000:]}")

    # what a test does with it

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `gateway ARGUMENTS` on this database, while or without the server running."""
        done = subprocess.run(
            [self.python, "-m", "gateway", *arguments],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check and done.returncode:
            said = done.stdout + done.stderr
            raise RuntimeError(f"gateway {' '.join(arguments)} ended with {done.returncode}:\n{said}")
        return done

    def site(self, name: str = "", **options: str | list[str]) -> Site:
        """A new site: `site(origin=["http://localhost:1"], trust="open")`. Without a name it gets one of its own."""
        self._sites += 1
        name = name or f"shop-{self._sites}"
        if self.python == sys.executable:
            return in_a_thread(self._make_site(name, options))
        arguments = [name]
        for option, values in options.items():
            for value in [values] if isinstance(values, str) else values:
                arguments += [f"--{option.replace('_', '-')}", value]
        made: Site = json.loads(self.command("site", "create", *arguments, "--json").stdout)
        return made

    def check(self) -> None:
        """`gateway check` of every site."""
        differing = in_a_thread(self._check())
        assert not differing, differing

    async def _check(self) -> list[str]:
        async with opened(load(self._environment)) as gateway:
            sites = await gateway.sites.all(fresh=True)
            return [difference for site in sites for difference in await check_site(gateway.store, site)]

    async def _make_site(self, name: str, options: dict[str, str | list[str]]) -> Site:
        origins = options.pop("origin", [])
        given = {"origins": [origins] if isinstance(origins, str) else origins, **options}
        async with opened(load(self._environment)) as gateway:
            return site_keys(await gateway.sites.create(name, gateway.new_id(), **given))

    def api(self, site: Site) -> httpx.Client:
        """A client with the site's secret key: `server.api(site).get("/v1/profiles", params={"identity": "42"})`."""
        headers = {"Authorization": f"Bearer {site['secret_key']}"}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=10, trust_env=False)
        self._clients.append(client)
        return client

    def wait_for(self, check: Callable[[], Result], timeout: float = 10, message: str = "") -> Result:
        return wait_for(check, timeout, message)


def gateway_environment() -> dict[str, str]:
    """This process's environment without its gateway settings, and with this checkout's package in reach."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY_")}
    return environment | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def in_a_thread(work: Coroutine[Any, Any, Result]) -> Result:
    """What a command would do, without the second that it takes to start; browser tests hold their thread's loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def api_answer(response: httpx.Response) -> Any:
    """The JSON of an answer that must be a success."""
    asked = f"{response.request.method} {response.request.url}"
    assert response.is_success, f"{asked}: {response.status_code} {response.text}"
    return response.json()
