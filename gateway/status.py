"""`gateway status`: whether all is well, for a person: what the running gateway answers, its database, what waits."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from gateway.asking import Asker, NoAnswer
from gateway.context import Gateway
from gateway.model import ID_TIME_SHIFT, iso, now
from gateway.retention import REPORT
from gateway.settings import Settings

LONG_QUEUE = 1000
SLOW_COMMIT_SECONDS = 1.0
LITTLE_ROOM = 0.1
NO_ROOM_BYTES = 512 * 1024**2
DAY = 24 * 3600 * 1_000_000

WELL, NOTE, BAD = "well", "note", "bad"

Metrics = dict[str, float]
"""Sums over all labels, and each sample with labels as `name{label=value,…}`."""


@dataclass(slots=True)
class Line:
    """One thing that was looked at: `state` is well, note (somebody may want to look) or bad (somebody must)."""

    what: str
    state: str
    said: str


@dataclass(slots=True)
class Status:
    """Everything that was looked at, and the numbers behind it."""

    lines: list[Line] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is bad."""
        return all(line.state != BAD for line in self.lines)

    def say(self, what: str, state: str, said: str) -> None:
        """Adds a line."""
        self.lines.append(Line(what, state, said))


# --- the running gateway ----------------------------------------------------------------------------------------------


def address_of(settings: Settings) -> str:
    """Where a gateway with these settings is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{host}:{settings.port}"


def ask(url: str, token: str = "") -> tuple[int, str]:
    """(status, body) of an address; status 0 and why, if nobody answers."""
    try:
        answer = Asker().ask(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    except NoAnswer as error:
        return 0, error.message
    return answer.status, answer.body.decode(errors="replace")


def summed(text: str) -> Metrics:
    """Metrics in the text format of Prometheus."""
    found: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] += sample.value
            if sample.labels:
                found[f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}"] = (
                    sample.value
                )
    return dict(found)


def look_at_gateway(status: Status, settings: Settings, address: str) -> None:
    """Asks the running gateway: /ready, then /metrics."""
    code, said = ask(f"{address}/ready")
    if code != 200:
        status.say("gateway", BAD, f"{address}: {said}" if not code else f"not ready: {_error(said)}")
        return
    code, text = ask(f"{address}/metrics", settings.metrics_token)
    if code != 200:
        status.say("gateway", WELL, f"ready at {address}")
        status.say("numbers", NOTE, f"/metrics is refused: {_error(text)}")
        return
    metrics = summed(text)
    started = metrics.get("process_start_time_seconds", 0)
    since = f", for {span(now() / 1_000_000 - started)}" if started else ""
    status.say("gateway", WELL, f"ready at {address}{since}")
    status.numbers["metrics"] = {k: v for k, v in metrics.items() if "{" not in k and not k.endswith("_bucket")}
    for line in judged(metrics):
        status.lines.append(line)


def judged(metrics: Metrics) -> Iterator[Line]:
    """What a process's counters say."""
    waiting = metrics.get("gateway_writer_queue_requests", 0)
    yield Line("queue", BAD if waiting > LONG_QUEUE else WELL, f"{waiting:.0f} requests wait for their commit")
    commits, seconds = metrics.get("gateway_commit_seconds_count", 0), metrics.get("gateway_commit_seconds_sum", 0)
    if commits:
        mean = seconds / commits
        said = f"{mean * 1000:.1f} ms on average of {commits:.0f}"
        yield Line("commits", NOTE if mean > SLOW_COMMIT_SECONDS else WELL, said)
    away = metrics.get("gateway_groups_rolled_back_total{reason=unavailable}", 0)
    bugs = metrics.get("gateway_groups_rolled_back_total{reason=bug}", 0)
    if away:
        yield Line("commits", NOTE, f"{away:.0f} could not be written since the start: was the disk full, or locked?")
    if bugs:
        yield Line("commits", BAD, f"{bugs:.0f} requests could not be decided: the log says why")
    if leaked := metrics.get("gateway_requests_refused_total{reason=leaked_secret_key}", 0):
        yield Line("keys", BAD, f"a secret key came from a browser {leaked:.0f} times: gateway site rotate-key")
    accepted, durable = (metrics.get(f"gateway_commands_{w}_total", 0) for w in ("accepted", "durable"))
    yield Line("commands", WELL, f"{durable:,.0f} of {accepted:,.0f} accepted are durable")


def _error(body: str) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return body[:200]


# --- the database -----------------------------------------------------------------------------------------------------


def look_at_disk(status: Status, settings: Settings) -> None:
    """The database's file, and the room there is beside it. PostgreSQL's is its own affair."""
    if not settings.database.startswith("sqlite:///"):
        status.say("database", WELL, "PostgreSQL")
        return
    path = Path(settings.database.removeprefix("sqlite:///")).absolute()
    size = path.stat().st_size
    wal = path.with_name(f"{path.name}-wal")
    log = wal.stat().st_size if wal.exists() else 0
    status.numbers |= {"database_bytes": size, "wal_bytes": log}
    status.say("database", WELL, f"{path}: {amount(size)}, and {amount(log)} not yet folded in")
    room = shutil.disk_usage(path.parent)
    status.numbers["disk_free_bytes"] = room.free
    state = BAD if room.free < NO_ROOM_BYTES else NOTE if room.free < room.total * LITTLE_ROOM else WELL
    status.say("disk", state, f"{amount(room.free)} free of {amount(room.total)}")


async def look_at_sites(status: Status, gateway: Gateway) -> None:
    """Each site's last event and what waits for somebody; what retention took last."""
    sites = await gateway.sites.all(fresh=True)
    if not sites:
        status.say("sites", NOTE, "none yet: gateway site create NAME")
    numbers = status.numbers["sites"] = {}
    for site in sites:
        sql = "/* status.last_event */ select max(received_at) as at from events where site_id = $1 and event_id > $2"
        since = (now() - DAY) // 1000 << ID_TIME_SHIFT
        last = (await gateway.store.read(sql, site.site_id, since))[0]["at"]
        held = len((await gateway.reader(site).held())["held"])
        numbers[site.name] = {"last_event_at": iso(last), "held_merges": held}
        said = f"last event {span((now() - last) / 1_000_000)} ago" if last else "no event for a day"
        waits = f"; {held} held merges wait for somebody's decision" if held else ""
        status.say(f"site {site.name}", NOTE if held or not last else WELL, said + waits)
    report = await gateway.store.config(REPORT)
    if report:
        status.numbers["retention"] = told = msgspec.json.decode(report)
        status.say("retention", WELL, f"last done {told['at'][:16].replace('T', ' ')} UTC")


# --- for people -------------------------------------------------------------------------------------------------------


def amount(size: float) -> str:
    """Bytes as `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def span(seconds: float) -> str:
    """Seconds as `3 hours`."""
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{max(seconds, 0):.0f} seconds"
