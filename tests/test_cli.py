"""The command line as a newcomer meets it: what it prints, what it refuses, what it exits with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import gateway_environment


class Shell:
    """Runs `gateway …` on a database of its own, as in a terminal of 80 columns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        database = {"GATEWAY_DATABASE": f"sqlite:///{self.folder / 'gateway.db'}", "COLUMNS": "80"}
        command = [sys.executable, "-m", "gateway", *arguments]
        env = gateway_environment() | database | environment
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture
def gateway(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_site_is_made_listed_changed_and_its_keys_are_never_cut(gateway: Shell) -> None:
    made = gateway("site", "create", "shop", "--origin", "https://www.shop.example").stdout
    for name, pattern in (
        ("api_key", "[0-9a-f]{40}"),
        ("secret_key", "[0-9a-f]{64}"),
        ("auth_token", "[A-Za-z0-9+/=]{140}"),
    ):
        assert re.search(rf"^{name} +{pattern}$", made, re.MULTILINE), made
    key = re.search("^api_key +(.*)$", made, re.MULTILINE)
    assert key and key[1] in gateway("site", "list").stdout
    options = ("--origin", "https://new.example", "--trust", "strict", "--gpc", "ignore", "--link-param", "who")
    more = ("--device-cap", "77", "--time-zone", "Europe/Berlin", "--identity-kind", "phone")
    changed = gateway("site", "set", "shop", *options, *more).stdout
    for value in (*options, *more)[1::2]:
        assert value in changed
    assert "secret_key" not in changed and "auth_token" not in changed


def test_a_rotated_key_leaves_the_one_before_in_force(gateway: Shell) -> None:
    first = json.loads(gateway("site", "create", "shop", "--json").stdout)
    second = json.loads(gateway("site", "rotate-key", "shop", "--json").stdout)
    assert second["secret_key"] != first["secret_key"]
    assert second["api_key"] == first["api_key"]


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("site", "create", "shop", "--origin", "shop.example"), {}, "write it as https://www.shop.example"),
        (("site", "create", "shop", "--trust", "blind"), {}, "use one of guarded, strict, open"),
        (("site", "rotate-key", "nope"), {}, "gateway site list"),
        (("link", "nope", "jo@x.io", "https://x.example/"), {}, "there is no site 'nope'"),
        (("link", "nope", "jo@x.io", "https://x.example/", "--gateway-url", "x"), {}, "write a URL"),
        (("check",), {"GATEWAY_DATABASE": "mysql://x"}, "GATEWAY_DATABASE"),
        (("serve",), {"GATEWAY_PORT": "99999"}, "GATEWAY_PORT"),
        (("serve",), {"GATEWAY_SIGNING_KEYS": "short"}, "GATEWAY_SIGNING_KEYS"),
        (("check",), {"GATEWAY_DATABASE": "sqlite:////proc/none/gateway.db"}, "cannot"),
    ],
)
def test_a_refusal_is_one_clear_message(
    gateway: Shell, arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    done = gateway(*arguments, **environment)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_link_leads_over_the_address_that_was_asked_for(gateway: Shell) -> None:
    gateway("site", "create", "shop")
    make = ("link", "shop", "jo@x.io", "https://x.example/", "--json")
    assert json.loads(gateway(*make).stdout)["redirect"].startswith("http://localhost:8000/r/")
    env = {"GATEWAY_PUBLIC_URL": "https://t.x.example"}
    assert json.loads(gateway(*make, **env).stdout)["redirect"].startswith("https://t.x.example/r/")
    asked = gateway(*make, "--gateway-url", "https://www.x.example/vq", **env)
    assert json.loads(asked.stdout)["redirect"].startswith("https://www.x.example/vq/r/")
    too_long = gateway(*make, "--expires-in", str(401 * 24 * 3600))
    assert (too_long.returncode, "34560000" in too_long.stderr) == (2, True)


def test_a_name_is_taken_once(gateway: Shell) -> None:
    gateway("site", "create", "shop")
    assert "already" in gateway("site", "create", "shop").stderr


def test_check_says_so_and_exits_accordingly(gateway: Shell) -> None:
    gateway("site", "create", "shop")
    done = gateway("check", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "differences": {"shop": []}})
