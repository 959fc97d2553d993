"""Finds or installs the browsers of the browser tests, and notes beside Python which ones work: Chromium, Firefox, and
on Linux WebKitGTK with a screen for it, and uBlock Origin for Firefox.

In this order: a browser that is installed, Playwright's own download, and for root on Debian its packages.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

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


def main() -> int:
    found = remembered()
    with sync_playwright() as playwright:
        for step in (no_install, download, install_packages):
            missing = [name for name in NAMES if name not in found]
            if not missing or not step(missing):
                continue
            for name in missing:
                launch = first_working(playwright, name) if name in PLAYED else files_of(name)
                if launch is not None:
                    found[name] = launch
    NOTE.write_text(json.dumps(found, indent=2) + "\n")
    for name in NAMES:
        print(f"{name}: {', '.join(found[name].values())}" if name in found else f"{name}: none that works")
    if missing := [package for name in NAMES if name not in found for package in DEBIAN_PACKAGES[name]]:
        print(f"Install what Debian calls {' '.join(missing)}, then run this again.", file=sys.stderr)
        return 1
    return 0


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


def no_install(missing: list[str]) -> bool:
    return True


def download(missing: list[str]) -> bool:
    names = [name for name in missing if name in PLAYED]
    if not names:
        return False
    print(f"Downloading {' and '.join(names)} for Playwright")
    return succeeds([sys.executable, "-m", "playwright", "install", *names], seconds=900)


def install_packages(missing: list[str]) -> bool:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    packages = [package for name in missing for package in DEBIAN_PACKAGES[name]]
    print(f"Installing Debian's {', '.join(packages)}")
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120"]
    return succeeds([*apt, "update"], seconds=300) and succeeds(
        [*apt, "install", "-y", "--no-install-recommends", *packages], seconds=1200
    )


def succeeds(command: list[str], seconds: int) -> bool:
    """Runs it quietly; when it fails, its last lines say why."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        print(f"  gave up after {seconds} s")
        return False
    if done.returncode:
        print("  not possible here: " + " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:]))
    return done.returncode == 0


def first_line(error: Error) -> str:
    return next(iter(str(error).splitlines()), "")


if __name__ == "__main__":
    sys.exit(main())
