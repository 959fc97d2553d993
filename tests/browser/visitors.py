"""One way to drive a browser for tests that say the same of every engine: Playwright's browsers and WebKitGTK."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from pathlib import Path
from typing import Any, Protocol, Self

from playwright.sync_api import BrowserContext, Page
from selenium.common.exceptions import SessionNotCreatedException, WebDriverException
from selenium.webdriver import WebKitGTK
from selenium.webdriver.webkitgtk.options import Options
from selenium.webdriver.webkitgtk.service import Service

from tests.server import wait_for

# No engine lets a page reach this name, as a list of blockers would see to.
BLOCKED = "blocked.test"
BLOCK_RULES = [{"trigger": {"url-filter": "^https://blocked\\.test/"}, "action": {"type": "block"}}]


class Tab(Protocol):
    """What a test asks of a page."""

    def open(self, url: str) -> None:
        """Goes there; returns when the page has loaded."""

    def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise."""

    def wait(self, expression: str, timeout: float = 10) -> None:
        """Until the expression is true, on whatever page the tab is then."""

    def cookies(self) -> dict[str, dict[str, Any]]:
        """The cookies of the page's host by name, those out of reach of scripts too."""

    def close(self) -> None:
        """As a person closes a tab."""


class Visitor(Protocol):
    """Somebody with a browser that knows none of the test's sites yet."""

    engine: str

    def tab(self) -> Tab:
        """A new tab."""


class PlaywrightTab:
    """A tab of Chromium or Firefox."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, url: str) -> None:
        self.page.goto(url)

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)

    def wait(self, expression: str, timeout: float = 10) -> None:
        self.page.wait_for_function(expression, timeout=timeout * 1000)

    def cookies(self) -> dict[str, dict[str, Any]]:
        return {cookie["name"]: dict(cookie) for cookie in self.page.context.cookies(self.run("location.href"))}

    def close(self) -> None:
        self.page.close()


class PlaywrightVisitor:
    """A person in a browser context of their own."""

    def __init__(self, engine: str, context: BrowserContext) -> None:
        self.engine = engine
        self.context = context
        context.route(f"https://{BLOCKED}/**", lambda route: route.abort("blockedbyclient"))

    def tab(self) -> PlaywrightTab:
        return PlaywrightTab(self.context.new_page())


class WebKitTab:
    """A tab of the one WebKit there is."""

    def __init__(self, driver: WebKitGTK, kind: str) -> None:
        self.driver = driver
        driver.switch_to.new_window(kind)
        self.handle = driver.current_window_handle

    def _here(self) -> WebKitGTK:
        if self.driver.current_window_handle != self.handle:
            self.driver.switch_to.window(self.handle)
        return self.driver

    def open(self, url: str) -> None:
        self._here().get(url)

    def run(self, script: str) -> Any:
        return self._here().execute_script(f"return ({script})")

    def wait(self, expression: str, timeout: float = 10) -> None:
        def holds() -> bool:
            try:
                return bool(self.run(expression))
            except WebDriverException:  # between two pages
                return False

        wait_for(holds, timeout, expression)

    def cookies(self) -> dict[str, dict[str, Any]]:
        return {cookie["name"]: cookie for cookie in self._here().get_cookies()}

    def close(self) -> None:
        self._here().close()
        self.driver.switch_to.window(self.driver.window_handles[0])


class WebKit:
    """WebKitGTK with Intelligent Tracking Prevention, on a display of its own. Its cookies last as long as it runs."""

    engine = "webkit"

    def __init__(self, folder: Path, proxy_port: int, driver: str, browser: str, screen: str) -> None:
        rules = folder / "rules.json"
        rules.write_text(json.dumps(BLOCK_RULES))
        self._driver_path, self._screen_path = driver, screen
        self._options = Options()
        self._options.binary_location = browser
        self._options.accept_insecure_certs = True
        for argument in (
            "--automation",
            "--enable-itp",
            f"--content-filter={rules}",
            f"--proxy=http://127.0.0.1:{proxy_port}",
            "--ignore-host=localhost",
            "--ignore-host=*.localhost",
            "--ignore-host=127.0.0.1",
        ):
            self._options.add_argument(argument)
        # Nothing of the person who runs the tests is read or written.
        self._environment = os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "NO_AT_BRIDGE": "1"}
        self._tabs: list[WebKitTab] = []

    def __enter__(self) -> Self:
        read, write = os.pipe()
        command = [self._screen_path, "-displayfd", str(write), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
        self._screen = subprocess.Popen(command, pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(write)
        with os.fdopen(read) as said:
            display = said.readline().strip()
        self._environment["DISPLAY"] = f":{display}"
        try:
            self.driver = self._session()
        except BaseException:
            self._screen.kill()
            self._screen.wait()
            raise
        self.driver.set_page_load_timeout(30)
        self.driver.set_script_timeout(10)
        return self

    def _session(self) -> WebKitGTK:
        """On a busy machine the browser may come too late for its driver, which then gives up."""
        for attempt in range(3):
            service = Service(self._driver_path, env=self._environment)
            try:
                # Selenium uses names of its own that it has given up.
                with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                    return WebKitGTK(options=self._options, service=service)
            except SessionNotCreatedException:
                service.stop()
                if attempt == 2:
                    raise
        raise AssertionError("not reached")

    def __exit__(self, *_: object) -> None:
        try:
            self.driver.quit()
        finally:
            self._screen.terminate()
            self._screen.wait(10)

    def tab(self) -> WebKitTab:
        return self._opened("window")  # what it calls a tab stays in the background

    def hidden_tab(self) -> WebKitTab:
        """A tab that nobody sees."""
        return self._opened("tab")

    def _opened(self, kind: str) -> WebKitTab:
        self._tabs.append(WebKitTab(self.driver, kind))
        return self._tabs[-1]

    def close_tabs(self) -> None:
        """The end of a test: one empty tab is left."""
        for tab in self._tabs:
            if tab.handle in self.driver.window_handles:
                tab.close()
        self._tabs.clear()
