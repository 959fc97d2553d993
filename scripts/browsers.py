"""Finds the browsers of the browser tests, and notes beside Python which ones work: Chromium, Firefox, and on Linux
WebKitGTK with a screen for it, and uBlock Origin for Firefox.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from debian import run
from playwright.sync_api import Error, Playwright, sync_playwright

PLAYED = ("chromium", "firefox")  # by Playwright
NAMES = (*PLAYED, "webkit", "ublock") if sys.platform == "linux" else PLAYED
COMMANDS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "firefox": ("firefox-esr", "firefox"),
}
MAC_APPS = {
    "chromium": ("Chromium.app/Contents/MacOS/Chromium", "Google Chrome.app/Contents/MacOS/Google Chrome"),
    "firefox": ("Firefox.app/Contents/MacOS/firefox",),
}
# Files by what the tests call them, each with the places where distributions put it.
FILES = {
    "webkit": {
        "driver": ("/usr/bin/WebKitWebDriver",),
        "browser": ("/usr/lib/*/webkit2gtk-4.*/MiniBrowser", "/usr/libexec/webkit2gtk-4.*/MiniBrowser"),
        "screen": ("/usr/bin/Xvfb",),
    },
    "ublock": {"extension": ("/usr/share/mozilla/extensions/*/uBlock0@*",)},
}
DEBIAN_PACKAGES = {
    "chromium": ["chromium"],
    "firefox": ["firefox-esr"],
    "webkit": ["webkit2gtk-driver", "xvfb"],
    "ublock": ["webext-ublock-origin-firefox"],
}
NOTE = Path(sys.prefix) / "browsers.json"


def missing() -> list[str]:
    """Debian's packages for what is nowhere to be found; tells of what was not known before."""
    known = remembered()
    found = known | {name: files for name in NAMES if name in FILES and (files := files_of(name))}
    if unknown := [name for name in PLAYED if name not in known]:
        with sync_playwright() as playwright:
            found |= {name: launch for name in unknown if (launch := first_working(playwright, name))}
    if found != known:
        NOTE.write_text(json.dumps(found, indent=2) + "\n")
    for name in found:
        if name not in known:
            print(f"{name}: {', '.join(found[name].values())}", flush=True)
    return [package for name in NAMES if name not in found for package in DEBIAN_PACKAGES[name]]


def download(packages: Sequence[str]) -> None:
    """Has Playwright download its own build of those that it plays."""
    names = [name for name in PLAYED if set(DEBIAN_PACKAGES[name]) & set(packages)]
    if names:
        print(f"Downloading {' and '.join(names)} for Playwright", flush=True)
        for line in run([sys.executable, "-m", "playwright", "install", *names]):
            print(f"  {line}", file=sys.stderr)


def remembered() -> dict[str, Any]:
    """What an earlier run found, as far as it is still there."""
    found = json.loads(NOTE.read_text()) if NOTE.exists() else {}
    paths = {name: [value for value in launch.values() if value.startswith("/")] for name, launch in found.items()}
    return {name: launch for name, launch in found.items() if all(os.path.exists(path) for path in paths[name])}


def files_of(name: str) -> dict[str, str] | None:
    """Where its files are, or None if one is nowhere."""
    found = {kind: [path for place in places for path in glob(place)] for kind, places in FILES[name].items()}
    return {kind: paths[0] for kind, paths in found.items()} if all(found.values()) else None


def first_working(playwright: Playwright, name: str) -> dict[str, str] | None:
    """The first candidate that opens a page, as launch options and the browser's version."""
    for launch in candidates(playwright, name):
        try:
            browser = getattr(playwright, name).launch(**launch)
            try:
                browser.new_page().close()
                return launch | {"version": browser.version}
            finally:
                browser.close()
        except Error as error:
            print(f"{name}: {launch['executable_path']} does not start: {first_line(error)}", file=sys.stderr)
    return None


def candidates(playwright: Playwright, name: str) -> Iterator[dict[str, str]]:
    # An ordinary Firefox speaks WebDriver BiDi, which is what this channel selects; Playwright's own build does not.
    channel = {"channel": "moz-firefox"} if name == "firefox" else {}
    paths = [shutil.which(command) for command in COMMANDS[name]]
    paths += [path for app in MAC_APPS[name] if os.path.exists(path := f"/Applications/{app}")]
    for path in dict.fromkeys(filter(None, paths)):
        yield {"executable_path": path} | channel
    downloaded = getattr(playwright, name).executable_path
    if os.path.exists(downloaded):
        yield {"executable_path": downloaded}


def first_line(error: Error) -> str:
    return next(iter(str(error).splitlines()), "")
