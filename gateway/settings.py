"""Settings as one table of rows: default, type and help; the command line and the docs come from it.

A value comes from a flag, else from the environment (`GATEWAY_DATABASE`), else from a file named there
(`GATEWAY_SIGNING_KEYS_FILE`), else it is the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import SettingError


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: `parse` turns text into the value and raises ValueError saying what would be right."""

    name: str
    default: Any
    parse: Callable[[str], Any]
    help: str
    secret: bool = False

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"GATEWAY_{self.name.upper()}"


def _database(text: str) -> str:
    if text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
        return text
    if text.startswith(("postgresql://", "postgres://")):
        return text
    raise ValueError("write sqlite:///path/to/file.db or postgresql://user@host/name")


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise ValueError("write a number from 0 to 65535")
    return int(text)


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"write one of {', '.join(choices)}")
        return text

    return parse


def _keys(text: str) -> list[str]:
    keys = text.replace(",", " ").split()
    if any(len(k) < 32 for k in keys):
        raise ValueError("each key needs at least 32 characters; separate them by commas, the newest last")
    return keys


def _url(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise ValueError("write a URL such as https://t.shop.example")
    return text.rstrip("/")


SETTINGS = (
    Setting("database", "sqlite:///gateway.db", _database, "where everything is kept"),
    Setting("host", "127.0.0.1", str, "the address to listen on"),
    Setting("port", 8000, _port, "the port to listen on; 0 takes a free one"),
    Setting("public_url", "", _url, "the gateway's address as browsers see it, for links; default: as requested"),
    Setting("cookie_mode", "first_party", _one_of("first_party", "third_party"), "first_party or third_party cookies"),
    Setting("signing_keys", [], _keys, "keys for cookies and links, newest last; default: kept in the database", True),
    Setting("log_level", "info", _one_of("debug", "info", "warning", "error"), "how much is logged"),
)


@dataclass(slots=True)
class Settings:
    """The values in force."""

    database: str
    host: str
    port: int
    public_url: str
    cookie_mode: str
    signing_keys: list[str]
    log_level: str


def load(environment: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """The settings from flags, environment and files. Raises SettingError naming the variable."""
    env = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        flag = flags.get(setting.name)
        text = str(flag) if flag is not None else _from_environment(setting, env)
        try:
            values[setting.name] = setting.default if text is None else setting.parse(text)
        except ValueError as error:
            raise SettingError(f"{setting.variable} has a value that cannot be used: {error}") from error
    return Settings(**values)


def _from_environment(setting: Setting, env: Mapping[str, str]) -> str | None:
    if setting.variable in env:
        return env[setting.variable]
    path = env.get(f"{setting.variable}_FILE")
    if path is None:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise SettingError(f"{setting.variable}_FILE names a file that cannot be read: {error}") from error
