"""The commands for whoever puts the script into pages: what to paste, and whether it works where it stands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from gateway.asking import Asker
from gateway.doctor import FAIL, OK, SKIP, WARN, Doctor, Finding
from gateway.errors import BadRequest
from gateway.settings import load
from gateway.snippet import loader
from gateway.terminal import AsJson, Database, out, print_json, site_named, with_gateway

app = typer.Typer()
MARKS = {OK: "[green]ok  [/]", WARN: "[yellow]warn[/]", FAIL: "[red]FAIL[/]", SKIP: "[dim]skip[/]"}


@app.command()
def snippet(
    site: str,
    url: Annotated[str | None, typer.Option(help="the gateway as browsers see it; default: GATEWAY_PUBLIC_URL")] = None,
    sri: Annotated[bool, typer.Option("--sri", help="pin this version by its hash")] = False,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Print what to paste into the pages of SITE."""
    settings = load(database=database, public_url=url)
    found = with_gateway(settings, lambda gateway: site_named(gateway, site))
    made = loader(found, settings.public_url or f"http://localhost:{settings.port}", sri=sri)
    if as_json:
        print_json(made)
    else:
        typer.echo(made["html"], nl=False)


@app.command()
def doctor(
    url: str,
    page: Annotated[str, typer.Option(help="URL of a page that embeds the script")] = "",
    key: Annotated[str, typer.Option(help="the site's api_key; default: the one in the page")] = "",
    site: Annotated[str | None, typer.Option(help="take the key of this site, from the database")] = None,
    connect: Annotated[str, typer.Option(help="host:port to ask in place of what DNS says")] = "",
    ca: Annotated[Path | None, typer.Option(help="certificates to trust, a PEM file; default: the system's")] = None,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Look at the gateway at URL from outside and say what to change. Exit code 1 if something fails."""
    if site is not None:
        key = with_gateway(load(database=database), lambda gateway: site_named(gateway, site)).api_key
    if connect and not connect.rpartition(":")[2].isdigit():
        raise BadRequest(f"{connect!r} is not host:port", "write it as 203.0.113.7:443")
    findings = Doctor(url, Asker(ca=ca, connect=connect), page=page, key=key).examine()
    failed = any(f.state == FAIL for f in findings)
    if as_json:
        print_json({"ok": not failed, "findings": findings})
    else:
        for finding in findings:
            show(finding)
    if failed:
        sys.exit(1)


def show(finding: Finding) -> None:
    """Prints a finding, and below it what to change."""
    out.print(f"{MARKS[finding.state]} {finding.check:<9} {escape(finding.says)}", highlight=False, soft_wrap=True)
    if finding.change:
        out.print(f"               [bold]→[/] {escape(finding.change)}", highlight=False, soft_wrap=True)
