"""Settings as one table of rows: default, type and help; the command line and the docs come from it.

A value comes from a flag, else from the environment (`GATEWAY_DATABASE`), else from a file named there
(`GATEWAY_SIGNING_KEYS_FILE`), else it is the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.cookies import is_local
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
    parts = urlsplit(text)
    whole = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
    if text and (not whole or parts.query or parts.fragment or not text.isprintable() or " " in text):
        raise ValueError("write a URL such as https://www.shop.example/vq or https://t.shop.example")
    return text.rstrip("/")


def _addresses(text: str) -> str:
    for address in filter(None, map(str.strip, text.split(","))):
        try:
            address == "*" or ip_network(address, strict=False)
        except ValueError:
            raise ValueError(f"{address!r} is no address: write 10.0.0.7 or 10.0.0.0/8, commas between them") from None
    return text


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ValueError(f"write a number from {least:.12g} to {most:.12g}")
        return value

    return parse


def _count(least: int, most: int) -> Callable[[str], int]:
    return lambda text: int(_number(least, most)(text))


def _size(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = text.strip().lower().removesuffix("ib").removesuffix("b")
        unit = {"k": 1024, "m": 1024**2, "g": 1024**3}.get(number[-1:], 1)
        digits = number.rstrip("kmg").strip()
        if not digits.isdigit() or int(digits) * unit < least:
            raise ValueError(f"write bytes, or 64KiB, or 64MiB, at least {least}")
        return int(digits) * unit

    return parse


_months = _count(0, 1200)
_rate = _number(0, 1_000_000)
_seconds = _number(0.1, 3600)

SETTINGS = (
    Setting("database", "sqlite:///gateway.db", _database, "where everything is kept"),
    Setting("host", "127.0.0.1", str, "the address to listen on"),
    Setting("port", 8000, _port, "the port to listen on; 0 takes a free one"),
    Setting("public_url", "", _url, "the gateway's address as browsers see it, for links; default: as requested"),
    Setting("cookie_mode", "first_party", _one_of("first_party", "third_party"), "first_party or third_party cookies"),
    Setting("signing_keys", [], _keys, "keys for cookies and links, newest last; default: kept in the database", True),
    Setting("metrics_token", "", str, "what /metrics asks for as a Bearer token; default: this machine only", True),
    Setting("log_level", "info", _one_of("debug", "info", "warning", "error"), "how much is logged"),
    Setting("log_format", "text", _one_of("text", "json"), "lines for people, or JSON"),
    Setting("log_requests", "none", _one_of("none", "failed", "all"), "which requests are logged, without queries"),
    Setting("otlp_endpoint", "", _url, "where OpenTelemetry traces go, as OTLP over HTTP; default: nowhere"),
    Setting("keep_events", 0, _months, "months until events are removed; 0 keeps them for ever"),
    Setting("keep_anonymous", 0, _months, "months without a visit until anonymous profiles go; 0 is for ever"),
    Setting("keep_repeats", 3, _months, "months until ledger entries that changed nothing go; 0 is for ever"),
    Setting(
        "trusted_proxies", "127.0.0.1", _addresses, "addresses whose X-Forwarded-* are believed; commas between them"
    ),
    Setting("max_connections", 4096, _count(1, 1_000_000), "connections per process, as far as open files allow"),
    Setting("max_header", 32 * 1024, _size(1024), "bytes of a request's headers"),
    Setting("max_held", 64 * 1024**2, _size(1024**2), "bytes of unanswered requests per process, then 503"),
    Setting("header_timeout", 10.0, _seconds, "seconds until a connection has sent its headers"),
    Setting("body_timeout", 30.0, _seconds, "seconds until a request has sent its body"),
    Setting("send_timeout", 30.0, _seconds, "seconds until a client reads something of its answer"),
    Setting("idle_timeout", 65.0, _seconds, "seconds a connection may wait for its next request"),
    Setting("feed_days", 7, _count(1, 3650), "days for which the feed can be read again"),
    Setting("deliver", "on", _one_of("on", "off"), "whether `gateway serve` also sends the feed to its receivers"),
    Setting("rate_address", 500.0, _rate, "commands a second from one network (/24, IPv6 /64); 0 is no limit"),
    Setting("rate_site", 10_000.0, _rate, "commands a second for one site; 0 is no limit"),
    Setting("rate_device", 50.0, _rate, "commands a second from one device; 0 is no limit"),
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
    metrics_token: str
    log_level: str
    log_format: str
    log_requests: str
    otlp_endpoint: str
    keep_events: int
    keep_anonymous: int
    keep_repeats: int
    trusted_proxies: str
    max_connections: int
    max_header: int
    max_held: int
    header_timeout: float
    body_timeout: float
    send_timeout: float
    idle_timeout: float
    feed_days: int
    deliver: str
    rate_address: float
    rate_site: float
    rate_device: float

    @property
    def prefix(self) -> str:
        """The path that the public URL has, such as /vq; empty at the top of a host."""
        return urlsplit(self.public_url).path


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
    settings = Settings(**values)
    check_cookie_can_work(settings)
    return settings


def check_cookie_can_work(settings: Settings) -> None:
    """Raises SettingError where browsers would drop the cookie, so that nobody finds out by missing data."""
    public = urlsplit(settings.public_url)
    if public.scheme == "http" and not is_local(public.netloc):
        message = f"GATEWAY_PUBLIC_URL is {settings.public_url}: browsers keep the gateway's cookie on https only"
        raise SettingError(message, "let a proxy in front speak TLS and write https://…; http works on localhost alone")
    if settings.cookie_mode == "third_party" and not settings.public_url:
        message = "GATEWAY_COOKIE_MODE is third_party, and no GATEWAY_PUBLIC_URL says where browsers find the gateway"
        raise SettingError(message, "set GATEWAY_PUBLIC_URL=https://…: third-party cookies work on https only")


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
