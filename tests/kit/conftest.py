"""The fixtures that the package offers to other projects, for tests of themselves."""

import json
import os
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.pytest_plugin import gateway, gateway_background, gateway_site  # noqa: F401
from gateway.testing import RunningGateway
from tests.server import ROOT

Push = Callable[..., str]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gateway(**options): how the test's site is set up")


def send(url: str, key: str, *commands: list[Any], device: str | None = None, page: str = "http://shop/") -> str:
    """What the snippet sends for a page's commands; returns the device's token."""
    now = time.time() * 1000
    entries = [
        {"id": str(uuid.uuid4()), "at": now + n, "command": command, "page": {"url": page}}
        for n, command in enumerate(commands)
    ]
    body = {"key": key, "sent_at": now, "device": device, "commands": entries}
    request = urllib.request.Request(f"{url}/v1/commands", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        token: str = json.loads(response.read()).get("device", device)
    return token


@pytest.fixture
def push(gateway: RunningGateway) -> Push:  # noqa: F811
    """`push(["track", "Purchased"])` as a new browser; `device=` the token that another push returned."""
    return lambda *commands, **more: send(gateway.url, gateway.site.api_key, *commands, **more)


def environment(**more: str) -> dict[str, str]:
    """Of a process that stands for another project's tests, with the kit in reach as if it were installed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "PYTEST_"))}
    return clean | {"PYTHONPATH": str(ROOT), "PYTEST_PLUGINS": "gateway.pytest_plugin"} | more


def succeeds(*command: str, cwd: Path, timeout: float = 120, **more: str) -> str:
    """Runs a command of another project and returns what it printed."""
    done = subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout
