"""Commands to look after a gateway: check, backup, restore, retention, status."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from gateway import backup, status
from gateway.check import check_site
from gateway.context import Gateway
from gateway.errors import BadRequest, Unavailable
from gateway.model import now
from gateway.retention import Removed, Retention, limits, one_pass, shown
from gateway.settings import Settings, load
from gateway.status import Status
from gateway.terminal import AsJson, Database, counted, err, out, print_json, site_named, with_gateway

app = typer.Typer()


# --- check ------------------------------------------------------------------------------------------------------------


def differences_in(settings: Settings, site: str | None = None) -> dict[str, list[str]]:
    """What differs between ledger and tables, by the name of the site."""

    async def work(gateway: Gateway) -> dict[str, list[str]]:
        sites = [await site_named(gateway, site)] if site else await gateway.sites.all(fresh=True)
        return {s.name: await check_site(gateway.store, s, err) for s in sites}

    return with_gateway(settings, work)


@app.command()
def check(
    site: Annotated[str | None, typer.Option(help="only this site")] = None,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Fold the ledger again and compare it with the tables. Exit code 1 if they differ."""

    found = differences_in(load(database=database), site)
    if as_json:
        print_json({"ok": not any(found.values()), "differences": found})
    for name, differences in found.items() if not as_json else ():
        out.print(f"[bold]{name}[/]: " + ("the tables say what the ledger says" if not differences else "they differ"))
        for line in differences:
            out.print(f"  {line}", highlight=False)
    if any(found.values()):
        sys.exit(1)


# --- backup and restore -----------------------------------------------------------------------------------------------


@app.command("backup")
def make_backup(
    target: Path,
    force: Annotated[bool, typer.Option("--force", help="replace TARGET if it exists")] = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Copy the database into the file TARGET, while the gateway runs. It holds the keys: keep it safe."""
    with counted("copying") as report:
        size = backup.backup(backup.sqlite_file(load(database=database)), target, force=force, report=report)
    if as_json:
        print_json({"file": str(target), "bytes": size})
    else:
        out.print(f"{target}: {size / 1024**2:.1f} MiB, whole and on the disk", highlight=False)


@app.command("restore")
def restore_backup(
    source: Path,
    verify: Annotated[bool, typer.Option("--verify", help="also fold the whole ledger again and compare")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace the database there is")] = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Put the backup SOURCE in the place of the database, when it is whole; the gateway must not run."""
    target = backup.sqlite_file(load(database=database))
    with ExitStack() as stack:
        with counted("copying") as report:
            fresh = stack.enter_context(backup.restoring(source, target, force=force, report=report))
        found = differences_in(load(database=f"sqlite:///{fresh}")) if verify else {}
        if wrong := [name for name, differences in found.items() if differences]:
            message = f"the tables of {', '.join(wrong)} are not what the ledger says: nothing was changed"
            raise BadRequest(message, f"gateway check --database sqlite:///{source} shows the differences")
    if as_json:
        print_json({"database": str(target), "verified": verify})
    else:
        out.print(f"{target} is what {source} held", ", folded again and compared" if verify else "", sep="")


# --- retention --------------------------------------------------------------------------------------------------------

Months = Annotated[int | None, typer.Option(min=0, metavar="MONTHS", help="0 is for ever; default: the setting")]


@app.command("retention")
def retention(
    keep_events: Months = None,
    keep_anonymous: Months = None,
    keep_repeats: Months = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go; change nothing")] = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Remove now what is kept no longer, as the gateway does by itself once a day."""
    settings = load(
        database=database, keep_events=keep_events, keep_anonymous=keep_anonymous, keep_repeats=keep_repeats
    )

    async def work(gateway: Gateway) -> dict[str, Removed]:
        if not dry_run:
            return await one_pass(gateway, rest=0.5)
        plan = Retention(gateway, limits(settings, now()))
        return {s.name: await plan.would_remove(s) for s in await gateway.sites.all(fresh=True)}

    found = with_gateway(settings, work)
    if as_json:
        print_json({"dry_run": dry_run, "removed": found})
        return
    kept = {"events": settings.keep_events, "anonymous profiles": settings.keep_anonymous}
    for what, months in {**kept, "repeated ledger entries": settings.keep_repeats}.items():
        out.print(f"{what}: kept {f'{months} months' if months else 'for ever'}", highlight=False)
    for name, removed in found.items():
        out.print(f"[bold]{name}[/]: {'would go' if dry_run else 'gone'}: {shown(removed)}", highlight=False)


# --- status -----------------------------------------------------------------------------------------------------------

MARKS = {status.WELL: "[green]✓[/]", status.NOTE: "[yellow]![/]", status.BAD: "[red]✗[/]"}


@app.command("status")
def show_status(
    url: Annotated[str, typer.Option(help="where the gateway runs; default: this machine, by the settings")] = "",
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Say whether all is well: the running gateway, its database, what waits. Exit code 1 if something is not."""
    settings = load(database=database)
    found = Status()
    status.look_at_gateway(found, settings, url.rstrip("/") or status.address_of(settings))
    try:
        if settings.database.startswith("sqlite:///") and not Path(settings.database[10:]).exists():
            raise Unavailable(f"there is no database {settings.database[10:]}")
        status.look_at_disk(found, settings)
        with_gateway(settings, lambda gateway: status.look_at_sites(found, gateway))
    except Unavailable as error:
        found.say("database", status.BAD, error.message)
    if as_json:
        print_json({"ok": found.ok, "lines": found.lines, "numbers": found.numbers})
    else:
        table = Table.grid(padding=(0, 2))
        for line in found.lines:
            table.add_row(MARKS[line.state], line.what, escape(line.said))
        out.print(table)
        out.print("All is well." if found.ok else "[red]Something is wrong.[/]")
    if not found.ok:
        sys.exit(1)
