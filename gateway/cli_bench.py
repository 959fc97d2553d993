"""`gateway bench`: what this gateway costs on this machine, as ratios to something in the same run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from gateway import bench_growth, bench_ingest, bench_merge, bench_stores
from gateway.terminal import AsJson, counted, out, print_json

app = typer.Typer(no_args_is_help=True, help="Measure this gateway on this machine.")


@app.command()
def ingest(
    requests: Annotated[int, typer.Option(min=1000, help="of single events, per round")] = 24_000,
    connections: Annotated[int, typer.Option(min=1, max=512)] = 128,
    rounds: Annotated[int, typer.Option(min=1, max=20)] = 3,
    offered: Annotated[int, typer.Option(min=0, help="also single events at this many a second; 0: not")] = 0,
    output: Annotated[Path | None, typer.Option(help="write the figures to this JSON file")] = None,
) -> None:
    """What a durable event costs beside an empty route on the same server, in one run."""
    rows = bench_ingest.bench(requests, connections, rounds, offered)
    table = Table("load", "requests/s", "CPU us/request", "x empty route", "x per event", "p50 ms", "p99 ms")
    for r in rows:
        figures = (f"{r.per_second:.0f}", f"{r.cpu_us:.1f}", f"{r.ratio:.2f}", f"{r.ratio_per_event:.2f}")
        table.add_row(r.name, *figures, f"{r.p50_ms:.1f}", f"{r.p99_ms:.1f}")
    out.print(table)
    if output:
        output.write_bytes(msgspec.json.encode(rows))


@app.command()
def stores(
    postgres: Annotated[str, typer.Argument(help="postgresql://… of a server on which it may create databases")],
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="of load for each figure")] = 5,
    as_json: AsJson = False,
) -> None:
    """What a durable request costs on SQLite and PostgreSQL, with one gateway and with three, in one run."""
    with counted("measuring") as report:
        costs = asyncio.run(bench_stores.bench(postgres, seconds, report))
    if as_json:
        print_json(costs)
        return
    table = Table("load", "SQLite/s", "CPU us", "PostgreSQL/s", "x", "CPU x", "3 gateways/s", "x", "CPU x")
    for c in costs:
        one = (f"{c.postgres_rate:.0f}", f"{c.postgres_rate / c.sqlite_rate:.2f}", f"{c.postgres_us / c.sqlite_us:.2f}")
        many = (f"{c.fleet_rate:.0f}", f"{c.fleet_rate / c.postgres_rate:.2f}", f"{c.fleet_us / c.postgres_us:.2f}")
        table.add_row(c.load, f"{c.sqlite_rate:.0f}", f"{c.sqlite_us:.0f}", *one, *many)
    out.print(table)


@app.command()
def merge(
    million: Annotated[bool, typer.Option("--million", help="also a profile of a million events")] = False,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="merges and undoings of each profile")] = 20,
    as_json: AsJson = False,
) -> None:
    """What a merge and its undoing cost for profiles of very different size, in one run."""
    with counted("filling a database") as report:
        costs = asyncio.run(bench_merge.bench(million=million, rounds=rounds, report=report))
    if as_json:
        print_json(costs)
        return
    table = Table("events", "merge ms", "x", "undo ms", "x", "latest 50 ms", "x")
    for c in costs.sizes:
        merge, undo = (f"{c.merge_ms:.2f}", f"{c.merge_ratio:.2f}"), (f"{c.undo_ms:.2f}", f"{c.undo_ratio:.2f}")
        table.add_row(f"{c.events:,}", *merge, *undo, f"{c.latest_ms:.2f}", f"{c.latest_ratio:.2f}")
    out.print(table)
    everywhere = f"{costs.devices} devices and {costs.devices_events:,} events"
    out.print(f"The latest 50 events of somebody with {everywhere}: {costs.devices_latest_ms:.2f} ms")


@app.command()
def growth(
    events: Annotated[int, typer.Option(min=100_000, help="how many are there in the end")] = 1_000_000,
    output: Annotated[Path | None, typer.Option(help="write the figures to this JSON file")] = None,
) -> None:
    """What an event costs when many are there already, beside what it costs where few are, in the same minute."""
    with counted("filling a database") as report:
        stages = asyncio.run(bench_growth.bench(events, report))
    table = Table("events", "events/s", "x", "CPU us/event", "x", "memory MiB", "database MiB")
    for s in stages:
        rate, cpu = (f"{s.per_second:,.0f}", f"{s.rate_ratio:.2f}"), (f"{s.cpu_us:.1f}", f"{s.cpu_ratio:.2f}")
        table.add_row(f"{s.events:,}", *rate, *cpu, f"{s.memory_mb:.0f}", f"{s.database_mb:,.0f}")
    out.print(table)
    if output:
        output.write_bytes(msgspec.json.encode(stages))
