"""The pytest plugin: fixtures `gateway` and `gateway_site`, for the tests of websites that embed the snippet."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gateway.testing import Background, GatewaySite, RunningGateway


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "gateway(**options): how the test's site is set up: trust, origins, device_cap, link_param; timeout in seconds",
    )


@pytest.fixture(scope="session")
def gateway_background() -> Iterator[Background]:
    """The thread in which the gateways of this session run."""
    # Imported here, because every pytest run of the environment loads this file, with or without a gateway.
    from gateway.testing import Background

    with Background() as background:
        yield background


@pytest.fixture
def gateway(request: pytest.FixtureRequest, gateway_background: Background) -> Iterator[RunningGateway]:
    """A gateway of the test's own, on a free port, with an empty database."""
    from gateway.testing import TIMEOUT, RunningGateway

    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("gateway"))):
        if marker.args:
            pytest.fail(f"@pytest.mark.gateway takes names: gateway(trust='strict'), not {marker.args}", pytrace=False)
        options |= marker.kwargs
    timeout = options.pop("timeout", TIMEOUT)
    with RunningGateway(gateway_background, options, timeout=timeout, pause=pause_of(request.node)) as running:
        yield running


@pytest.fixture
def gateway_site(gateway: RunningGateway) -> GatewaySite:
    """The keys and the address of the test's gateway: `api_key`, `secret_key`, `auth_token`, `url`."""
    return gateway.site


def pause_of(item: pytest.Item) -> Callable[[float], bool]:
    """Passes the time by Playwright's own way if the test has a page, so that its routes and events go on meanwhile."""

    def pause(seconds: float) -> bool:
        for page in pages_of(getattr(item, "funcargs", {})):
            try:
                page.wait_for_timeout(seconds * 1000)
            except Exception:
                continue  # a closed page; the next one can pass the time
            return True
        return False

    return pause


def pages_of(funcargs: dict[str, Any]) -> Iterator[Any]:
    """The pages of synchronous Playwright among a test's fixtures."""
    for value in funcargs.values():
        kind = type(value)
        if not kind.__module__.startswith("playwright.sync_api"):
            continue
        if kind.__name__ == "Page":
            yield value
        elif kind.__name__ == "BrowserContext":
            yield from value.pages
        elif kind.__name__ == "Browser":
            yield from (page for context in value.contexts for page in context.pages)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its gateway received."""
    report = yield
    running: Any = getattr(item, "funcargs", {}).get("gateway")
    if report.when == "call" and report.failed and hasattr(running, "received"):
        try:
            report.sections.append(("what the gateway received", running.received()))
        except Exception as error:
            report.sections.append(("what the gateway received", f"could not be asked: {error}"))
    return report
