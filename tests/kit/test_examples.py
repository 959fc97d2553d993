"""The examples, run as the projects of other people that they stand for."""

import sys
from importlib.util import find_spec
from pathlib import Path

from tests.kit.conftest import succeeds
from tests.programs import required
from tests.server import ROOT, GatewayServer, free_port

EXAMPLES = ROOT / "examples"
NODE = EXAMPLES / "playwright_test"
# The two Playwright plugins cannot be in one run; the rest is not in need of what else this environment holds.
LEFT_OUT = ("-p", "no:schemathesis", "-p", "no:hypothesispytest", "-p", "no:cacheprovider")


def examples(*folders: str, without: str) -> str:
    assert find_spec("pytest_playwright"), "the examples need more packages: pip install --editable '.[test]'"
    return succeeds(sys.executable, "-m", "pytest", "-q", *LEFT_OUT, "-p", f"no:{without}", *folders, cwd=EXAMPLES)


def test_synchronous_playwright_flask_and_django() -> None:
    assert "9 passed" in examples("playwright_sync", "flask_shop", "django_shop", without="playwright-asyncio")


def test_asynchronous_playwright() -> None:
    assert "2 passed" in examples("playwright_async", without="playwright")


def test_selenium() -> None:
    required("chromedriver")
    assert "2 passed" in examples("selenium_shop", without="playwright")


def test_playwright_test_in_typescript(tmp_path: Path) -> None:
    gateway = tmp_path / "gateway"
    gateway.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gateway "$@"\n')
    gateway.chmod(0o700)
    said = succeeds(required("npm"), "test", cwd=NODE, GATEWAY=str(gateway), GATEWAY_PORT=str(free_port()))
    assert "4 passed" in said


class InspectedServer(GatewayServer):
    """With no database of its own: that is what makes the gateway take a temporary one."""

    arguments = ("serve", "--inspect")

    def start(self, timeout: float = 30) -> None:
        self._environment.pop("GATEWAY_DATABASE", None)
        super().start(timeout)


def test_polling_as_cypress_does_it(tmp_path: Path) -> None:
    with InspectedServer(tmp_path) as server:
        assert "pass 2" in succeeds(required("npm"), "run", "test:polling", cwd=NODE, GATEWAY_URL=server.url)
