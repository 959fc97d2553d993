"""Fixtures for all tests, and what every failure shows."""

import os
import sys
import sysconfig
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import server as servers
from tests.postgres import Cluster, empty, program
from tests.server import GatewayServer

# The test extra brings Node.js, which goes before an older one of the machine, also for what npm runs in its turn.
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])

# The same examples on every machine, however slow; `--hypothesis-profile=random` looks for others.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", settings.get_profile("random"), derandomize=True)
settings.load_profile("steady")

BROWSER_TESTS = Path(__file__).parent / "browser"
BROWSERS = ("chromium", "firefox")
# WebKitGTK is built for Linux only.
ENGINES = (*BROWSERS, "webkit") if sys.platform == "linux" else BROWSERS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--browser", action="append", choices=ENGINES, help="only this browser (tests/browser)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves browser tests to a run of their own: synchronous Playwright and async tests do not share a thread."""
    if collection_path != BROWSER_TESTS:
        return None
    asked = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    inside = [path.resolve().is_relative_to(BROWSER_TESTS) for path in asked]
    if any(inside) and not all(inside):
        raise pytest.UsageError("Run the browser tests alone: pytest tests/browser")
    return None if any(inside) else True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for server in servers.running:
            report.sections.append((f"log of {server.url}", server.log_tail()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests counted, each on a line of its own: `record_property("ran", …)`."""
    for report in (r for reports in terminalreporter.stats.values() for r in reports):
        for key, value in getattr(report, "user_properties", ()):
            if key == "ran" and getattr(report, "when", "") == "call":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server for all tests of the run."""
    if "TEST_DATABASE_URL" in os.environ and not program("initdb"):
        pytest.skip("this test needs a PostgreSQL server of its own")
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> str:
    """A PostgreSQL database without rows: TEST_DATABASE_URL, whose tables are emptied, or one of the tests' own."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        empty(given)
        return given
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.emptied()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database; the test runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="module")
def gateway_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    """A running gateway for the tests of one module. Give each test a site of its own: `gateway_server.site()`."""
    with GatewayServer(tmp_path_factory.mktemp("gateway")) as server:
        yield server
        server.check()


@pytest.fixture(autouse=True)
def no_gateway_errors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test during which a running gateway logged a traceback."""
    yield
    for server in servers.running:
        server.judge_log(request.node.get_closest_marker("gateway_errors_expected") is not None)
