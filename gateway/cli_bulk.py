"""Commands for many people at once: import, merge, duplicates, erase."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gateway.bulk import erase, merges
from gateway.bulk.merges import Group, Merged, Result, check_batch
from gateway.bulk.people import Import, Imported, columns_of
from gateway.bulk.table import Table, read_table
from gateway.context import Gateway
from gateway.errors import BadRequest
from gateway.exports import Exports
from gateway.settings import load
from gateway.terminal import AsJson, Database, counted, err, out, print_json, site_named, with_gateway

app = typer.Typer()

File = Annotated[Path, typer.Argument(help="CSV with a header", dir_okay=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done; change nothing")]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]
Encoding = Annotated[str, typer.Option(help="of the file; default: found out")]
Delimiter = Annotated[str, typer.Option(help="between columns; default: found out")]

Tell = Callable[[int, int], object]
SHOWN = 20


@contextmanager
def progress(what: str, size: int) -> Iterator[Tell]:
    """A bar with rate and time left: tell it the rows done and the bytes read."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    rate = TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f}/s")
    with Progress(*columns, rate, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=size, rows=0, rate=0.0)

        def tell(rows: int, position: int) -> None:
            elapsed = bar.tasks[0].elapsed or 0
            bar.update(task, completed=position, rows=rows, rate=rows / elapsed if elapsed else 0.0)

        yield tell


def show_errors(errors: list[dict[str, Any]], failed: int) -> None:
    """Prints the first problems, each with its line."""
    for error in errors[:SHOWN]:
        said = error["message"] or error.get("outcome", "")
        err.print(f"  line {error['line']}: {said}", highlight=False, markup=False, soft_wrap=True)
    if failed > SHOWN:
        err.print(f"  … and {failed - SHOWN} more", highlight=False)


# --- import -----------------------------------------------------------------------------------------------------------


@app.command("import")
def import_people(
    site: str,
    file: File,
    id_column: Annotated[str, typer.Option(help="the column with the person's id; default: id, else email")] = "",
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="COLUMN=NAME: its property is NAME; COLUMN= leaves it out")
    ] = None,
    encoding: Encoding = "",
    delimiter: Delimiter = "",
    include_erased: Annotated[bool, typer.Option(help="also people who were erased")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Import people from a CSV file. Stopped half-way, the same command goes on. Exit code 1 if a row failed."""
    table = read_table(file, encoding=encoding, delimiter=delimiter)
    columns = columns_of(table.header, id_column, dict(map(renaming, map_ or ())))

    async def work(gateway: Gateway) -> Imported:
        run = Import(gateway, await site_named(gateway, site), table, columns, include_erased=include_erased)
        with progress("checking" if dry_run else "importing", table.size) as tell:
            return await (run.dry_run(tell) if dry_run else run.run(tell))

    report = with_gateway(load(database=database), work)
    if as_json:
        print_json(report)
    else:
        show_imported(report)
    if report.failed:
        sys.exit(1)


def renaming(text: str) -> tuple[str, str]:
    """The two sides of COLUMN=NAME. Raises BadRequest."""
    column, equals, name = text.partition("=")
    if not equals or not column:
        raise BadRequest(f"--map {text!r} cannot be used", "write --map COLUMN=NAME")
    return column, name


def show_imported(report: Imported) -> None:
    """Prints how an import went."""
    guess = " (a guess: --encoding says otherwise)" if report.encoding_guessed else ""
    lines = [f"{report.file}: {report.encoding}{guess}, columns are separated by {report.delimiter!r}"]
    lines += [f"  {column} → {meaning}" for column, meaning in report.columns.items()]
    if report.finished_before:
        lines.append("This import was finished before; nothing was done.")
    elif report.resumed_after_line:
        lines.append(f"It went on after line {report.resumed_after_line}.")
    done = "would be imported" if report.dry_run else "imported"
    lines.append(f"{report.rows} rows: {report.imported} {done}, {report.failed} failed in {report.seconds:.1f} s")
    if report.dry_run:
        lines.append(f"  {report.known} of them about people who are known already")
    if report.erased:
        lines.append(f"  {report.erased} left out: these people were erased (--include-erased takes them)")
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    show_errors(report.errors, report.failed)


# --- merge ------------------------------------------------------------------------------------------------------------


@contextmanager
def hearing(results: Path | None) -> Iterator[Callable[[Result], object]]:
    """What takes the outcome of each row: a CSV file if one is wanted."""
    if results is None:
        yield lambda result: None
        return
    try:
        opened = results.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise BadRequest(f"{results} cannot be written: {error.strerror}", "name another --results") from error
    with opened as file:
        writer = csv.writer(file)
        writer.writerow(["line", "old", "new", "outcome", "message"])
        yield lambda r: writer.writerow([r.line, r.source, r.target, r.outcome, r.message])


@app.command("merge")
def merge_people(
    site: str,
    file: Annotated[Path | None, typer.Argument(help="CSV with the columns old and new", dir_okay=False)] = None,
    undo: Annotated[str, typer.Option(metavar="BATCH", help="take back what this batch joined")] = "",
    batch: Annotated[str, typer.Option(help="id of the batch; default: made from the file's content")] = "",
    results: Annotated[Path | None, typer.Option(help="write the outcome of every row to this CSV file")] = None,
    encoding: Encoding = "",
    delimiter: Delimiter = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Make old ids the same people as new ones, by a file of pairs. Exit code 1 if a row was not carried out."""
    if (file is None) == (not undo):
        raise BadRequest("merge needs a file, or --undo BATCH", "gateway merge --help")
    table = read_table(file, encoding=encoding, delimiter=delimiter) if file else None
    if file and results and results.exists() and results.samefile(file):
        raise BadRequest(f"--results would overwrite {file}", "name another file")
    name = check_batch(undo or batch or f"merge-{table.digest[:12] if table else ''}")

    async def work(gateway: Gateway) -> Merged:
        named = await site_named(gateway, site)
        with hearing(results) as hear:
            if table is None:
                with counted("taking back") as tell:
                    return await merges.undo_batch(gateway, named, name, hear, dry_run=dry_run, tell=tell)
            return await merged_with_bar(gateway, named, table, name, hear, dry_run=dry_run)

    show_merged(with_gateway(load(database=database), work), as_json=as_json, undo=bool(undo))


async def merged_with_bar(
    gateway: Gateway, site: Any, table: Table, batch: str, hear: Callable[[Result], object], *, dry_run: bool
) -> Merged:
    """A merge with a progress bar."""
    with progress("deciding" if dry_run else "merging", table.size) as tell:
        rows = 0

        def heard(result: Result) -> None:
            nonlocal rows
            rows += 1
            hear(result)
            tell(rows, table.position)

        return await merges.merge_file(gateway, site, table, batch, heard, dry_run=dry_run)


def show_merged(merged: Merged, *, as_json: bool, undo: bool = False) -> None:
    """Prints how a batch went; exit code 1 if something is left to look at."""
    if as_json:
        print_json(merged)
    else:
        done = "would be" if merged.dry_run else "in"
        out.print(f"{merged.rows} rows {done} batch [bold]{merged.batch}[/]", highlight=False)
        for outcome, number in merged.outcomes.most_common():
            out.print(f"  {outcome}: {number}", highlight=False)
        if merged.repeated:
            out.print(f"  {merged.repeated} of them had been carried out before", highlight=False)
        if merged.rows and not undo and not merged.dry_run:
            out.print(f"To take it back: gateway merge SITE --undo {merged.batch}", highlight=False)
        show_errors(merged.errors, merged.failed)
    if merged.failed:
        sys.exit(1)


# --- duplicates -------------------------------------------------------------------------------------------------------


@app.command("duplicates")
def find_duplicates(
    site: str,
    by: Annotated[str, typer.Option(help="what they have in common: email")] = "email",
    merge: Annotated[str, typer.Option(metavar="RULE", help="keep: newest, or customer-number")] = "",
    batch: Annotated[str, typer.Option(help="id of the batch; default: made now")] = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """List profiles that show one email address; with --merge show what would be merged, ask, and merge."""
    if by != "email":
        raise BadRequest(f"duplicates cannot be found by {by!r}", "use --by email")
    if merge and as_json and not (yes or dry_run):
        raise BadRequest("a script cannot be asked", "add --yes or --dry-run")

    async def work(gateway: Gateway) -> Merged | None:
        named = await site_named(gateway, site)
        groups = await merges.duplicates(gateway, named, merge)
        if not merge or dry_run:
            show_groups(groups, as_json=as_json)
            return None
        if not as_json:
            show_groups(groups)
        pairs = sum(len(g.profiles) - 1 for g in groups if g.target)
        if not yes and pairs:
            typer.confirm(f"Merge {pairs} profiles?", abort=True)
        name = check_batch(batch or f"duplicates-{gateway.new_id()}")
        with counted("merging") as tell:
            return await merges.merge_groups(gateway, named, groups, name, lambda result: None, tell=tell)

    merged = with_gateway(load(database=database), work)
    if merged is not None:
        show_merged(merged, as_json=as_json)


def show_groups(groups: list[Group], *, as_json: bool = False) -> None:
    """Prints groups of duplicates, and what a rule makes of each."""
    if as_json:
        print_json({"duplicates": groups})
        return
    for group in groups:
        others = [p for p in group.profiles if p != group.target]
        plan = f"{', '.join(others)} → {group.target}" if group.target else ", ".join(group.profiles)
        said = f"{group.email}: {plan}" + (f"  ({group.reason})" if group.reason else "")
        out.print(said, highlight=False, markup=False, soft_wrap=True)
    if not groups:
        out.print("No two profiles show one address.")


# --- erase ------------------------------------------------------------------------------------------------------------


@app.command("erase")
def erase_people(
    site: str,
    who: Annotated[list[str] | None, typer.Argument(help="ids, or one file with an id a line")] = None,
    again: Annotated[
        Path | None, typer.Option(metavar="RECEIPT", help="those whom a restored backup brought back")
    ] = None,
    receipt: Annotated[Path | None, typer.Option(help="where to write the receipt; default: erasure-TIME.json")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Erase people for good and write a signed receipt. Asks for the site's name unless --yes."""
    if bool(who) == bool(again):
        raise BadRequest("erase needs ids, a file of ids, or --again RECEIPT", "gateway erase --help")
    if as_json and not (yes or dry_run):
        raise BadRequest("a script cannot be asked", "add --yes or --dry-run")
    target = receipt or Path(erase.file_name())
    if target.exists() or not target.absolute().parent.is_dir():
        raise BadRequest(f"the receipt cannot be written to {target}", "choose another --receipt, in a folder there is")

    async def work(gateway: Gateway) -> dict[str, Any] | None:
        named = await site_named(gateway, site)
        if again:
            keys = await erase.keys_again(gateway, named, erase.read_receipt(gateway, again))
        else:
            keys = erase.keys_of(listed(who or []))
        known = await Exports(gateway, named).roots_of(set(keys))
        plan = {"asked": len(keys), "found": len(set(known.values()))}
        if dry_run:
            print_json(plan) if as_json else out.print(f"{plan['asked']} ids, {plan['found']} people to erase")
            return None
        if not yes and known:
            typed = typer.prompt(f"{plan['found']} people will be gone for good. Type the site's name to erase them")
            if typed != named.name:
                raise BadRequest("that is not the site's name", "nobody was erased")
        made = erase.begun(named)
        with target.open("xb") as file:  # before anybody is gone: it must be possible to say who
            try:
                await erase.erase(gateway, named, keys, made)
            finally:
                done = erase.signed(gateway, made)
                file.write(msgspec.json.format(msgspec.json.encode(done), indent=2))
        return done

    done = with_gateway(load(database=database), work)
    if done is None:
        return
    if as_json:
        print_json(done)
    else:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in done["outcomes"].items())
        out.print(f"{counts or 'nobody to erase'}; the receipt is {target}", highlight=False, markup=False)


def listed(who: list[str]) -> list[str]:
    """The ids that were named, or those in the one file that was."""
    return erase.names_in(Path(who[0])) if len(who) == 1 and Path(who[0]).is_file() else who
