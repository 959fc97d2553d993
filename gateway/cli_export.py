"""`gateway export`: people, events, or everything about one person, into a file or to standard output."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import typer

from gateway.bulk.export import EVENT, FORMATS, PERSON, WHAT, Csv, Export, JsonLines, Line, check_cursor
from gateway.bulk.person import person_page
from gateway.commands import identity
from gateway.context import Gateway
from gateway.errors import BadRequest, NotFound
from gateway.extras import extra_module
from gateway.model import Site
from gateway.settings import load
from gateway.terminal import Database, err, site_named, with_gateway

PERSON_FORMATS = ("json", "html")


class Lines(Protocol):
    """What takes the lines of an export."""

    def write(self, line: Line) -> None:
        """Writes one line."""


def export_site(
    site: str,
    what: Annotated[str, typer.Argument(help="people, events, or person")],
    person: Annotated[str, typer.Argument(help="with `person`: the id")] = "",
    format_: Annotated[
        str, typer.Option("--format", help="csv, jsonl or parquet; a person: json or html; default: csv, json")
    ] = "",
    after: Annotated[str, typer.Option(help="go on behind this cursor, which an export before printed")] = "0",
    output: Annotated[Path | None, typer.Option(help="file; CSV and JSON Lines are appended to it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="with `person`: always JSON")] = False,
    database: Database = None,
) -> None:
    """Write all people or events, or everything held about one person."""
    settings = load(database=database)
    form = format_ or ("json" if what == "person" else "csv")
    if what == "person" and not person:
        raise BadRequest("it is not said whose data", "gateway export SITE person ID")
    if what == "person" and form in PERSON_FORMATS and not (as_json and form == "html"):
        text = with_gateway(settings, lambda gateway: everything_about(gateway, site, person, form))
        write_new(text, output)
        return
    if what in WHAT and person:
        raise BadRequest(f"{what} are exported whole", f"leave {person!r} out, or: gateway export SITE person ID")
    if what not in WHAT or form not in FORMATS:
        hint = "people or events, as csv, jsonl or parquet; or: person ID, as json or html"
        raise BadRequest(f"{what} cannot be exported as {form}", hint)
    start = check_cursor(after)

    async def work(gateway: Gateway) -> tuple[int, int]:
        export = Export(gateway, await site_named(gateway, site))
        properties = await export.property_names() if (what, form) == ("people", "csv") else []
        with writing(what, form, output, properties, header=not start) as lines:
            return await write_all(export.people(start) if what == "people" else export.events(start), lines, start)

    number, cursor = with_gateway(settings, work)
    err.print(f"{number} {what}. To go on later: --after {cursor}", highlight=False)


async def everything_about(gateway: Gateway, site_name: str, person: str, form: str) -> str:
    """Everything held about a person, as JSON or as a page. Raises NotFound, BadRequest."""
    site: Site = await site_named(gateway, site_name)
    reader = gateway.reader(site)
    key, blocked = identity(person)
    if key is None:
        raise BadRequest(blocked or "not an id", "gateway export SITE person ID")
    profile = await reader.by_identity(key)
    if profile is None:
        raise NotFound(f"nobody has the id {person!r}", "it may never have been seen, or was erased")
    data = await reader.export(int(profile["profile_id"]))
    assert data is not None
    return person_page(site, data) if form == "html" else msgspec.json.format(msgspec.json.encode(data)).decode()


def write_new(text: str, output: Path | None) -> None:
    """Writes a whole file, or to standard output. Raises BadRequest for a file that is there."""
    if output is None:
        typer.echo(text)
        return
    with new_file(output).open("x", encoding="utf-8") as file:
        file.write(text + "\n")


def new_file(path: Path | None) -> Path:
    """A file that is not there yet. Raises BadRequest."""
    if path is None or path.exists():
        raise BadRequest(f"{path or 'standard output'} cannot be written", "name a new file with --output")
    return path


@contextmanager
def writing(what: str, form: str, output: Path | None, properties: list[str], *, header: bool) -> Iterator[Lines]:
    """What takes the lines: a table, JSON Lines, or Parquet."""
    if form == "parquet":
        with parquet().writing_parquet(new_file(output), what) as lines:
            yield lines
        return
    if output is None:
        sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
    file = sys.stdout if output is None else output.open("a", encoding="utf-8", newline="")
    try:
        columns = PERSON if what == "people" else EVENT
        yield JsonLines(file) if form == "jsonl" else Csv(file, columns, properties, header=header)
    finally:
        file.flush() if output is None else file.close()


def parquet() -> Any:
    """The module that writes Parquet. Raises BadRequest without pyarrow."""
    return extra_module("gateway.bulk.parquet", "pyarrow", "parquet", "Parquet needs pyarrow")


async def write_all(found: AsyncIterator[tuple[int, Line]], to: Lines, cursor: int) -> tuple[int, int]:
    """(how many, the cursor behind the last). Broken off, it says where to go on."""
    number = 0
    try:
        async for here, line in found:
            to.write(line)
            number, cursor = number + 1, here
    except BaseException:
        err.print(f"Broken off after {number}. To go on: --after {cursor}", highlight=False)
        raise
    return number, cursor
