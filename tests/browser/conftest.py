"""Chromium and Firefox, driven by Playwright, and WebKitGTK, with nothing reachable but this machine."""

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Playwright, sync_playwright

from tests import server as servers
from tests.browser.edge import Edge
from tests.browser.pages import SiteHost
from tests.browser.town import MakeTown, Town
from tests.browser.visitors import PlaywrightVisitor, Visitor, WebKit
from tests.conftest import BROWSERS, ENGINES
from tests.server import GatewayServer

# The last --disable-features wins, so this list replaces Playwright's. It leaves ThirdPartyStoragePartitioning out on
# purpose: with that off, or without the back-forward cache, the product would be tested in a browser that nobody has.
CHROMIUM_FEATURES_OFF = (
    "AvoidUnnecessaryBeforeUnloadCheckSync,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable,MediaRouter,PaintHolding,"
    "AvoidCorsURLLoaderRestartOnRedirect,OptimizationHints,NetworkTimeServiceQuerying,AimEnabled,PreconnectToSearch"
)


def chromium_options(edge: Edge) -> dict[str, Any]:
    """*.test is the edge; the certificate of its CA is trusted by the hash of its key, as any other one is not."""
    names = ", ".join(f"MAP {host} 127.0.0.1:{port}" for host, port in edge.addresses.items())
    local = "EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1"
    return {
        "ignore_default_args": ["--disable-back-forward-cache"],
        "args": [
            f"--disable-features={CHROMIUM_FEATURES_OFF}",
            f"--host-resolver-rules={names}, MAP * ~NOTFOUND, {local}",
            f"--ignore-certificate-errors-spki-list={edge.pin}",
        ],
    }


def firefox_options(edge: Edge) -> dict[str, Any]:
    """All but localhost goes to a proxy that knows *.test. Playwright switches off what phones home, except for remote
    settings, whose address Firefox lets nobody change without this variable."""
    return {
        "env": os.environ | {"MOZ_REMOTE_SETTINGS_DEVTOOLS": "1"},
        "firefox_user_prefs": {
            "network.proxy.type": 1,
            "network.proxy.http": "127.0.0.1",
            "network.proxy.http_port": edge.proxy.port,
            "network.proxy.ssl": "127.0.0.1",
            "network.proxy.ssl_port": edge.proxy.port,
            "network.proxy.no_proxies_on": "localhost,.localhost,127.0.0.1",
            "network.proxy.failover_direct": False,
            "services.settings.server": "data:,#remote-settings-dummy/v1",
        },
    }


# What Firefox says about a blocked request reaches Playwright as if the page had thrown it; nothing was thrown.
FIREFOX_NOTICES = ("", "Cross-Origin Request Blocked", "Content-Security-Policy")
NewContext = Callable[..., BrowserContext]
# Nothing checks the name of the host: each test has one of its own.
PUBLIC_URLS = {"first_party": "", "third_party": "https://tracker1.test"}
CONSOLE = pytest.StashKey[list[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "browser" in metafunc.fixturenames:
        engines = ENGINES if "visitor" in metafunc.fixturenames else BROWSERS
        if (only := metafunc.definition.get_closest_marker("engines")) is not None:
            engines = tuple(name for name in engines if name in only.args)
        names = [name for name in engines if name in (metafunc.config.getoption("browser") or engines)]
        metafunc.parametrize("browser", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def running_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with Edge(tmp_path_factory.mktemp("edge")) as edge:
        yield edge


@pytest.fixture
def edge(running_edge: Edge) -> Edge:
    """HTTPS on names in .test, with no page and no gateway yet."""
    running_edge.clear()
    return running_edge


@pytest.fixture(scope="session")
def browser(
    playwright: Playwright,
    running_edge: Edge,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Browser | WebKit]:
    """Each test that uses it, or `context` or `page`, runs once in Chromium and once in Firefox; those with `visitor`
    once in WebKit as well."""
    name = request.param
    if name == "webkit":
        with WebKit(tmp_path_factory.mktemp("webkit"), running_edge.proxy.port, **installed(name)) as webkit:
            yield webkit
        return
    options = {"chromium": chromium_options, "firefox": firefox_options}[name](running_edge)
    browser = getattr(playwright, name).launch(**installed(name), **options)
    yield browser
    browser.close()


def installed(name: str) -> dict[str, str]:
    """Launch options of the browser that `scripts/browsers.py` found for this Python."""
    note = Path(sys.prefix) / "browsers.json"
    found = json.loads(note.read_text()) if note.exists() else {}
    launch = found.get(name, {})
    if not Path(next(iter(launch.values()), "/nowhere")).exists():
        pytest.fail(f"{name} is not installed for the tests; run `make test` once, which sees to it", pytrace=False)
    return {key: value for key, value in launch.items() if key != "version"}


@pytest.fixture
def new_context(
    browser: Browser, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NewContext]:
    """Makes browser contexts, each a device of its own with an empty cookie jar, and closes them after the test.

    A page with an uncaught error fails the test then, unless it is marked `page_errors_expected`.
    """
    contexts: list[BrowserContext] = []
    errors: list[str] = []
    lines: list[str] = request.node.stash.setdefault(CONSOLE, [])
    notices = FIREFOX_NOTICES if browser.browser_type.name == "firefox" else ()

    def thrown(page: Page, error: Error) -> None:
        if error.name not in notices:
            errors.append(f"{page.url}: {error.stack or error}")

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: thrown(page, error))
        page.on("console", lambda message: lines.append(console_line(message)))

    def make(**options: Any) -> BrowserContext:
        # Firefox takes no certificate by its hash.
        trust = {"ignore_https_errors": browser.browser_type.name == "firefox"}
        context = browser.new_context(**trust | options)
        context.on("page", watch)
        context.set_default_timeout(10_000)
        contexts.append(context)
        return context

    def pause(seconds: float) -> None:
        """Sleeps while Playwright goes on serving routes and events, which a plain sleep would hold up."""
        for page in (page for context in contexts for page in context.pages):
            try:
                page.wait_for_timeout(seconds * 1000)
                return
            except Error:
                continue
        time.sleep(seconds)

    monkeypatch.setattr(servers, "pause", pause)
    yield make
    for context in contexts:
        context.close()
    if errors and request.node.get_closest_marker("page_errors_expected") is None:
        pytest.fail("uncaught errors in the page:\n" + "\n".join(errors), pytrace=False)


def console_line(message: ConsoleMessage) -> str:
    where = message.location
    return f"{message.type}: {message.text}  ({where.get('url', '')}:{where.get('lineNumber', '')})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (lines := item.stash.get(CONSOLE, [])):
        report.sections.append(("console of the pages", "\n".join(lines)))
    return report


@pytest.fixture
def context(new_context: NewContext) -> BrowserContext:
    return new_context()


@pytest.fixture
def visitor(browser: Browser | WebKit, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """Somebody new, in Chromium, Firefox and WebKit in turn."""
    if isinstance(browser, WebKit):
        yield browser
        browser.close_tabs()
    else:
        new_context: NewContext = request.getfixturevalue("new_context")
        yield PlaywrightVisitor(browser.browser_type.name, new_context())


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture(scope="session")
def running_site_host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        yield host


@pytest.fixture
def site_host(running_site_host: SiteHost) -> SiteHost:
    """An empty website: put pages into `site_host.pages`, open `site_host.url("/path")`."""
    running_site_host.clear()
    return running_site_host


@pytest.fixture(scope="session")
def gateways_behind_https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], GatewayServer]]:
    """A running gateway by cookie mode, started when it is first asked for."""
    with ExitStack() as stack:
        servers: dict[str, GatewayServer] = {}

        def running(cookie_mode: str) -> GatewayServer:
            if cookie_mode not in servers:
                folder = tmp_path_factory.mktemp(cookie_mode)
                environment = {"GATEWAY_COOKIE_MODE": cookie_mode, "GATEWAY_PUBLIC_URL": PUBLIC_URLS[cookie_mode]}
                servers[cookie_mode] = stack.enter_context(GatewayServer(folder, environment=environment))
            return servers[cookie_mode]

        yield running
        for server in servers.values():
            server.check()


@pytest.fixture
def make_town(edge: Edge, gateways_behind_https: Callable[[str], GatewayServer]) -> MakeTown:
    """A shop with the gateway where `mode` says: path, subdomain, third_party, local; `blocked` is a name that no
    engine asks, `listed` one on a list of trackers."""

    def make(mode: str = "path", **settings: str) -> Town:
        cookie_mode = "third_party" if mode == "third_party" else "first_party"
        return Town(gateways_behind_https(cookie_mode), edge, mode, **settings)

    return make


@pytest.fixture
def town(make_town: MakeTown) -> Town:
    """A shop whose own host leads /t/ to the gateway, which is how the docs say to do it."""
    return make_town()
