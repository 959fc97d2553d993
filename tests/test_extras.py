"""What an extra of the package would install is missing: one line says what to install."""

import sys
from collections.abc import Callable

import pytest

from gateway.app import make_store, make_traces
from gateway.cli_export import parquet
from gateway.delivery import jetstream
from gateway.errors import GatewayError
from gateway.extras import extra_module
from gateway.settings import load

ASKED: dict[str, tuple[str, str, Callable[[], object]]] = {
    "postgres": (
        "gateway.store.postgres",
        "asyncpg",
        lambda: make_store(load({}, database="postgresql://localhost/x")),
    ),
    "otel": ("gateway.traces", "opentelemetry", lambda: make_traces(load({}, otlp_endpoint="http://localhost:4318"))),
    "parquet": ("gateway.bulk.parquet", "pyarrow", parquet),
    "nats": ("gateway.jetstream", "nats", jetstream),
}


@pytest.mark.parametrize("extra", ASKED)
def test_a_missing_library_is_named_with_what_installs_it(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, library, ask = ASKED[extra]
    for name in [n for n in sys.modules if n == module or n.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(GatewayError) as refused:
        ask()
    assert refused.value.hint == f"pip install 'veroq-gateway[{extra}]'"


def test_another_missing_module_is_a_bug_and_stays_one() -> None:
    with pytest.raises(ModuleNotFoundError):
        extra_module("gateway.no_such_module", "asyncpg", "postgres", "PostgreSQL needs asyncpg")
