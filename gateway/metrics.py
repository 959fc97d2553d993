"""GET /metrics: what this process counted, in the text format of Prometheus. It names no site and no person."""

from __future__ import annotations

import hmac
import ipaddress
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import __version__
from gateway.context import Gateway
from gateway.errors import Forbidden, Unauthorized
from gateway.tally import Spread, Tally
from gateway.web import error_answer

PATH = "/metrics"

FORWARDED = ("x-forwarded-for", "x-real-ip", "forwarded", "via")
"""Headers by which a proxy shows that the caller is somebody else."""

DOORS = (
    ("/v1/user", "suprsend"),
    ("/v1/bulk/", "suprsend"),
    ("/v1/commands", "commands"),
    ("/v1/", "native"),
    ("/v2/event", "suprsend"),
    ("/v2/bulk/", "suprsend"),
    ("/event", "suprsend"),
    ("/api/v2/", "vero"),
    ("/1/", "clevertap"),
    ("/r/", "redirect"),
    ("/console", "console"),
    (PATH, "metrics"),
    ("/health", "health"),
    ("/ready", "health"),
)


def door(path: str) -> str:
    """Which part of the gateway answers at a path; of paths that are made up there is only `other`."""
    return next((name for start, name in DOORS if path.startswith(start)), "other")


class Counts(Collector):
    """Turns a tally into metrics when it is asked for them."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def collect(self) -> Iterator[Metric]:
        tally = self.tally
        yield counter(
            "gateway_commands_accepted", "Commands handed to the writer.", "actor", tally.commands_accepted.items()
        )
        yield counter("gateway_commands_durable", "Commands committed.", "actor", tally.commands_durable.items())
        repeated = "Events, identity commands and operations that were there already and changed nothing."
        yield CounterMetricFamily("gateway_commands_deduplicated", repeated, tally.repeated)
        yield counter(
            "gateway_entries_skipped", "Entries left out of a request that was taken.", "reason", tally.skipped.items()
        )
        yield counter(
            "gateway_requests_refused", "Pushes and over-fast requests refused whole.", "reason", tally.refused.items()
        )
        yield two_labels(
            "gateway_outcomes", "Outcomes of commands and operations.", ("kind", "outcome"), tally.outcomes
        )
        yield two_labels("gateway_responses", "Answered requests.", ("door", "status"), tally.responses)
        yield counter(
            "gateway_groups_rolled_back", "Groups that left nothing behind.", "reason", tally.rollbacks.items()
        )
        yield counter("gateway_retention_removed", "What was kept long enough.", "what", tally.removed.items())
        yield histogram("gateway_commit_seconds", "Time from a group's start to its commit.", tally.commit_seconds)
        yield histogram("gateway_commit_group_requests", "Requests that shared one commit.", tally.group_sizes)


def counter(name: str, help: str, label: str, counts: Iterable[tuple[str, int]]) -> Metric:
    """A counter with one label."""
    family = CounterMetricFamily(name, help, labels=[label])
    for value, count in sorted(counts):
        family.add_metric([value], count)
    return family


def two_labels(
    name: str, help: str, labels: tuple[str, str], counts: Counter[tuple[str, str]] | Counter[tuple[str, int]]
) -> Metric:
    """A counter with two labels."""
    family = CounterMetricFamily(name, help, labels=labels)
    for values, count in counts.items():
        family.add_metric([str(v) for v in values], count)
    return family


def histogram(name: str, help: str, spread: Spread) -> Metric:
    """A histogram without labels."""
    return HistogramMetricFamily(name, help, buckets=spread.buckets(), sum_value=spread.sum)


class Metrics:
    """The metrics of one gateway, in a registry of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.registry = CollectorRegistry(auto_describe=False)
        self.moment = Moment()
        self.registry.register(Counts(gateway.writer.tally))
        self.registry.register(self.moment)
        ProcessCollector(registry=self.registry)

    async def text(self, accept: str = "") -> tuple[bytes, str]:
        """Everything as text, and its content type. Raises nothing for a database that cannot be read now."""
        encode, content_type = choose_encoder(accept)
        sizes = await self.sizes()
        self.moment.metrics = [*self.state(), *sizes]
        return encode(self.registry), content_type

    def state(self) -> Iterator[Metric]:
        """What is so at this moment, and what this is."""
        waiting = "Requests that wait for the next commit."
        yield GaugeMetricFamily("gateway_writer_queue_requests", waiting, self.gateway.writer.waiting)
        kind = self.gateway.settings.database.partition(":")[0]
        build = {"version": __version__, "python": platform.python_version(), "database": kind}
        yield InfoMetricFamily("gateway_build", "The gateway's version.", build)

    async def sizes(self) -> list[Metric]:
        """The sizes of the database and its write-ahead log, as far as they can be seen from here."""
        found: list[tuple[str, str, int]] = []
        url = self.gateway.settings.database
        if url.startswith("sqlite:///"):
            path = Path(url.removeprefix("sqlite:///"))
            for name, help, file in (
                ("database", "The database file.", path),
                ("wal", "Its write-ahead log.", path.with_name(f"{path.name}-wal")),
            ):
                if file.exists():
                    found.append((name, help, file.stat().st_size))
        else:
            try:
                rows = await self.gateway.store.read("select pg_database_size(current_database()) as bytes")
                found.append(("database", "The database.", rows[0]["bytes"]))
            except Exception:  # what the gateway counted is worth most while its database is away
                return []
        return [GaugeMetricFamily(f"gateway_{name}_bytes", help, size) for name, help, size in found]


class Moment(Collector):
    """Metrics that are made anew for each answer."""

    def __init__(self) -> None:
        self.metrics: list[Metric] = []

    def collect(self) -> list[Metric]:
        return self.metrics


# --- who may ask ------------------------------------------------------------------------------------------------------


def check_allowed(request: Request, token: str) -> None:
    """Raises Unauthorized without the token; where none is set, Forbidden for all but this machine itself."""
    if token:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise Unauthorized("metrics need their token", "send Authorization: Bearer and GATEWAY_METRICS_TOKEN")
        return
    forwarded = any(name in request.headers for name in (*FORWARDED, "origin", "sec-fetch-site"))
    if forwarded or not request.client or not is_loopback(request.client.host):
        hint = "set GATEWAY_METRICS_TOKEN to ask from elsewhere or through a proxy"
        raise Forbidden("metrics are shown to this machine only", hint)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The one call."""
    metrics = Metrics(gateway)

    async def show(request: Request) -> Response:
        try:
            check_allowed(request, gateway.settings.metrics_token)
        except (Unauthorized, Forbidden) as refused:
            return error_answer(refused)
        body, content_type = await metrics.text(request.headers.get("accept", ""))
        return Response(body, headers={"Cache-Control": "no-store", "Content-Type": content_type})

    return [Route(PATH, show)]
