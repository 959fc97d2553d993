"""What the gateway logs: lines for people or JSON for machines, and a line a request where that is wanted.

No line holds a path with an id in it, a query string, an address, or the text of an unforeseen error: each may be
somebody's.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.ingest import PATH
from gateway.settings import Settings

FIELDS = "gateway_fields"
"""Under which name a log record carries fields of its own: `log.info(…, extra={FIELDS: {…}})`."""

log = logging.getLogger("gateway.requests")


def configuration(settings: Settings) -> dict[str, Any]:
    """The logging of a serving process, as `logging.config.dictConfig` takes it: everything goes to standard error."""
    level = settings.log_level.upper()
    formatter = {"()": JsonLines if settings.log_format == "json" else Lines, "texts": level == "DEBUG"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {"gateway": {"level": level}, "uvicorn": {"level": level}},
    }


class Lines(logging.Formatter):
    """`2026-03-01 09:30:00 INFO message`, and the traceback of an error. `texts`: also what an error says."""

    def __init__(self, *, texts: bool = False) -> None:
        super().__init__()
        self.texts = texts

    def format(self, record: logging.LogRecord) -> str:
        """One line, more for an error."""
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%d %H:%M:%S")
        error = f"\n{self.error(record)}" if record.exc_info else ""
        return f"{at} {record.levelname:<7} {message_of(record)}{error}"

    def error(self, record: logging.LogRecord) -> str:
        """Where an error happened and its kind; its text may hold what somebody sent."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return ""
        if self.texts:
            return "".join(traceback.format_exception(error)).rstrip()
        chain, known = [error], {id(error)}
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and id(cause) not in known:
            chain.append(cause)
            known.add(id(cause))
        parts = []
        for one in reversed(chain):
            kind = f"{type(one).__module__}.{type(one).__qualname__}".removeprefix("builtins.")
            parts += ["Traceback (most recent call last):\n", *traceback.format_tb(one.__traceback__)]
            parts.append(f"{kind} (what it says is shown with GATEWAY_LOG_LEVEL=debug)\n")
        return "".join(parts).rstrip()


class JsonLines(Lines):
    """One JSON object a line: time, level, logger, message, the record's own fields, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "logger": record.name}
        line["message"] = message_of(record)
        fields: Mapping[str, Any] = getattr(record, FIELDS, {})
        line |= fields
        if record.exc_info:
            line["traceback"] = self.error(record)
        return msgspec.json.encode(line, enc_hook=str).decode()


def message_of(record: logging.LogRecord) -> str:
    """What a record says. asyncio puts the text of an error that nobody took behind the first line."""
    message = record.getMessage()
    return message.partition("\n")[0] if record.name == "asyncio" else message.rstrip()


# --- a line a request -------------------------------------------------------------------------------------------------


def route_of(scope: Scope) -> str:
    """Where a request was answered: the path as it is declared, such as `/v1/profiles/{profile_id}`."""
    return PATH if scope["path"] == PATH else str(getattr(scope.get("route"), "path", "-"))


class RequestLog:
    """Logs each request when it has been answered; `which` is `all`, or `failed`: those answered with 400 or more."""

    def __init__(self, app: ASGIApp, which: str) -> None:
        self.app = app
        self.least = 400 if which == "failed" else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            if status >= self.least or not status:
                ms = round((time.perf_counter() - started) * 1000, 1)
                told = {"method": scope["method"], "route": route_of(scope), "status": status or None, "ms": ms}
                shown = f"{told['method']} {told['route']} {status or 'no answer'} {ms} ms"
                log.info(shown, extra={FIELDS: told})
