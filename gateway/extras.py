"""Modules that need a library which only an extra of the package installs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gateway.errors import BadRequest, GatewayError


def extra_module(name: str, library: str, extra: str, message: str, error: type[GatewayError] = BadRequest) -> Any:
    """The module called `name`. Where `library` is missing it raises `error` with what to install: `[extra]`."""
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != library:
            raise
        raise error(message, f"pip install 'veroq-gateway[{extra}]'") from None
