"""The `gateway` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from gateway import __version__, cli_bench, cli_bulk, cli_export, cli_feed, cli_pages, cli_upkeep, cli_users
from gateway.commands import identity
from gateway.context import Gateway
from gateway.errors import BadRequest, GatewayError
from gateway.inspect import check_inspectable
from gateway.links import make_link
from gateway.migrate import migrate
from gateway.model import Site
from gateway.move import move
from gateway.record import Replay, Replayed, read_lines
from gateway.serving import run_server
from gateway.settings import load
from gateway.signing import LINK_MAX_AGE
from gateway.sites import auth_token
from gateway.terminal import AsJson, Database, err, out, print_json, site_named, with_gateway

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A first-party tracking gateway for websites.")
site_app = typer.Typer(no_args_is_help=True, help="Sites and their keys.")
app.add_typer(site_app, name="site")
app.add_typer(cli_bench.app, name="bench")
app.add_typer(cli_bulk.app)
app.add_typer(cli_upkeep.app)
app.add_typer(cli_pages.app)
app.command("export")(cli_export.export_site)
app.add_typer(cli_users.app, name="user")
app.command("console-token")(cli_users.console_token)
app.add_typer(cli_feed.app, name="receiver")
app.command()(cli_feed.deliver)
app.command()(migrate)
app.command()(move)
Origins = Annotated[list[str] | None, typer.Option(help="an origin whose pages may use the key; several times")]


def main() -> None:
    """Runs the command line; a refusal is one line on stderr and exit code 1."""
    try:
        app()
    except GatewayError as error:
        err.print(f"[red]gateway:[/] {escape(error.message)}", highlight=False, soft_wrap=True)
        if error.hint:
            err.print(f"  {escape(error.hint)}", highlight=False, soft_wrap=True)
        sys.exit(1)


# --- serving ----------------------------------------------------------------------------------------------------------


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="address to listen on; default 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="port; default 8000")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="processes")] = 1,
    inspect: Annotated[bool, typer.Option("--inspect", help="for tests: show what arrives at /inspect/...")] = False,
    database: Database = None,
) -> None:
    """Serve the gateway."""
    settings = load(host=host, port=port, database=database)
    if not inspect:
        run_server(settings, workers)
        return
    check_inspectable(settings.host, workers)
    own = database is not None or bool({"GATEWAY_DATABASE", "GATEWAY_DATABASE_FILE"} & os.environ.keys())
    address = f"http://localhost:{settings.port}/inspect"
    typer.echo(f"What arrives is shown at {address}/good and {address}/bad.")
    typer.echo(f"It goes into {settings.database}." if own else f"The database is temporary; its keys: {address}/site")
    run_server(settings, 1, inspect="database" if own else "temporary")


@app.command()
def record(
    file: Annotated[Path, typer.Argument(help="JSON Lines; what is there stays, new lines come after it")],
    host: Annotated[str | None, typer.Option(help="address to listen on; default 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="port; default 8000")] = None,
    database: Database = None,
) -> None:
    """Serve the gateway and write down every command that arrives, for `gateway replay`."""
    run_server(load(host=host, port=port, database=database), 1, record=str(file.absolute()))


@app.command()
def replay(
    file: Path,
    site: Annotated[str | None, typer.Option(help="play all into this site; default: the site of each line")] = None,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Play a recording against a database: same order, times and people. Exit code 1 if a line could not be played."""

    async def work(gateway: Gateway) -> Replayed:
        into = await site_named(gateway, site) if site else None
        return await Replay(gateway, into).play(read_lines(file))

    done = with_gateway(load(database=database), work)
    if as_json:
        print_json(done)
    else:
        show_replayed(done)
    if done.problems:
        sys.exit(1)


def show_replayed(done: Replayed) -> None:
    """Prints what a replay did, and what came out differently than when it was recorded."""
    out.print(f"{done.requests} requests with {done.commands} commands of {done.devices} devices were played")
    for outcome, count in done.outcomes.most_common():
        out.print(f"  {outcome}: {count}", highlight=False)
    for other in done.other_outcomes[:20]:
        what = other["command"] or other["op_id"]
        typer.echo(f"  {what}: {other['recorded']} when recorded, {other['replayed']} now")
    for problem in done.problems:
        err.print(f"  [red]{problem}[/]", highlight=False)


@app.command()
def demo(
    host: Annotated[str | None, typer.Option(help="address to listen on; default 127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="port; default 8000")] = None,
    database: Database = None,
) -> None:
    """Serve the gateway with a small shop to try it in."""
    settings = load(host=host, port=port, database=database)
    out.print(f"\n  Open [bold]http://localhost:{settings.port}/[/] in a browser. Ctrl+C stops it.")
    out.print(f"  The operator's console is at [bold]http://localhost:{settings.port}/console/[/].\n")
    run_server(settings, 1, demo="1")


# --- sites ------------------------------------------------------------------------------------------------------------


def site_keys(site: Site) -> dict[str, Any]:
    """What a script needs of a site."""
    keys = {"api_key": site.api_key, "secret_key": site.secret_keys[-1]}
    return {"site": site.name, **keys, "auth_token": auth_token(site)}


def show_site(site: Site) -> None:
    """Prints a site's keys for a person: plain lines, so that nothing is cut and all can be copied."""
    show(site_keys(site) | {"origins": ", ".join(site.origins) or "any page may send", "trust": site.trust})


def show_settings(site: Site) -> None:
    """Prints what `site set` sets; no secret, since it was not asked for."""
    shown = {"site": site.name, "api_key": site.api_key, "origins": ", ".join(site.origins) or "any page may send"}
    shown |= {"trust": site.trust, "link_param": site.link_param, "device_cap": str(site.device_cap)}
    show(shown | {"identities": ", ".join(site.identity_kinds), "time_zone": str(site.time_zone), "gpc": site.gpc})


def show(values: dict[str, str]) -> None:
    """Prints a name and a value a line."""
    for name, value in values.items():
        typer.echo(f"{name:<11} {value}")


@site_app.command("create")
def create_site(
    name: str,
    origin: Origins = None,
    trust: Annotated[str, typer.Option(help="guarded, strict or open")] = "guarded",
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Make a site and print its keys."""

    async def work(gateway: Gateway) -> Site:
        return await gateway.sites.create(name, gateway.new_id(), origins=origin or [], trust=trust)

    site = with_gateway(load(database=database), work)
    if as_json:
        print_json(site_keys(site))
    else:
        show_site(site)


@site_app.command("list")
def list_sites(as_json: AsJson = False, database: Database = None) -> None:
    """List all sites."""

    async def work(gateway: Gateway) -> list[Site]:
        return await gateway.sites.all(fresh=True)

    sites = with_gateway(load(database=database), work)
    if as_json:
        print_json([{"site": s.name, "api_key": s.api_key, "origins": s.origins, "trust": s.trust} for s in sites])
        return
    table = Table("site", Column("api_key", no_wrap=True, min_width=40), "origins", "trust")
    for site in sites:
        table.add_row(site.name, site.api_key, ", ".join(site.origins) or "any", site.trust)
    out.print(table if sites else "No site yet: gateway site create NAME")


@site_app.command("set")
def set_site(
    name: str,
    origin: Origins = None,
    trust: Annotated[str | None, typer.Option(help="guarded, strict or open")] = None,
    link_param: Annotated[str | None, typer.Option(help="name of the link parameter")] = None,
    device_cap: Annotated[int | None, typer.Option(min=1, help="devices a profile may have")] = None,
    identity_kind: Annotated[list[str] | None, typer.Option(help="identities to take as well: email, phone")] = None,
    time_zone: Annotated[str | None, typer.Option(help="where days are counted, such as Europe/Berlin")] = None,
    gpc: Annotated[str | None, typer.Option(help="Global Privacy Control: respect, strict or ignore")] = None,
    database: Database = None,
) -> None:
    """Change a site; --origin and --identity-kind replace what was set before."""

    async def work(gateway: Gateway) -> Site:
        given = {"trust": trust, "device_cap": device_cap, "link_param": link_param, "gpc": gpc}
        lists = {"origins": origin or None, "identity_kinds": identity_kind or None, "time_zone": time_zone or None}
        return await gateway.sites.change(await site_named(gateway, name), **given, **lists)

    show_settings(with_gateway(load(database=database), work))


@site_app.command("rotate-key")
def rotate_key(name: str, as_json: AsJson = False, database: Database = None) -> None:
    """Make a new secret key; the one before keeps working until the next rotation."""

    async def work(gateway: Gateway) -> Site:
        return await gateway.sites.rotate(await site_named(gateway, name))

    site = with_gateway(load(database=database), work)
    if as_json:
        print_json(site_keys(site))
    else:
        show_site(site)


@app.command()
def link(
    site: str,
    person: str,
    url: str,
    campaign: Annotated[str, typer.Option(help="kept with the link")] = "",
    expires_in: Annotated[
        int | None, typer.Option(min=1, max=LINK_MAX_AGE, help="seconds; at most, and by default, 400 days")
    ] = None,
    gateway_url: Annotated[
        str | None, typer.Option(help="where browsers reach the gateway; default: GATEWAY_PUBLIC_URL")
    ] = None,
    as_json: AsJson = False,
    database: Database = None,
) -> None:
    """Make a signed link for an email: URL leads PERSON (an id) to a page and says who they are."""
    key, blocked = identity(person)
    if key is None:
        raise BadRequest(blocked or "not an id")
    settings = load(database=database, public_url=gateway_url)

    async def work(gateway: Gateway) -> dict[str, str]:
        base = settings.public_url or f"http://localhost:{settings.port}"
        options = {"campaign": campaign, "gateway_url": base}
        return make_link(gateway.signer, await site_named(gateway, site), key, url, expires_in=expires_in, **options)

    made = with_gateway(settings, work)
    if as_json:
        print_json(made)
    else:
        typer.echo(made["url"])


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
