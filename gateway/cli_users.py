"""`gateway user …` and `gateway console-token`: who may use the console, also for whoever lost the password."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from gateway.console.access import Access, setup_link
from gateway.context import Gateway
from gateway.errors import NotFound
from gateway.settings import load
from gateway.store.accounts import User
from gateway.terminal import AsJson, Database, out, print_json, site_named, with_gateway

app = typer.Typer(no_args_is_help=True, help="Users of the console.")
Sites = Annotated[list[str] | None, typer.Option("--site", help="a site they may see; several times; admins see all")]


def new_password() -> str:
    """A password, asked for twice; from a pipe, its first line."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt="The same again"))


async def user_named(gateway: Gateway, name: str) -> User:
    """A user by name. Raises NotFound."""
    user = await Access(gateway).accounts.user(name.strip().lower())
    if user is None:
        raise NotFound(f"there is no user {name!r}", "gateway user list shows them all")
    return user


@app.command("add")
def add_user(
    name: str,
    role: Annotated[str, typer.Option(help="viewer, editor or admin")] = "viewer",
    site: Sites = None,
    database: Database = None,
) -> None:
    """Add a user; the password is asked for, or read from a pipe."""
    password = new_password()

    async def work(gateway: Gateway) -> User:
        sites = [(await site_named(gateway, s)).site_id for s in site or []]
        return await Access(gateway).create(name, password, role, sites)

    made = with_gateway(load(database=database), work)
    typer.echo(f"{made.name} can log in as {'an' if made.role != 'viewer' else 'a'} {made.role}")


@app.command("list")
def list_users(as_json: AsJson = False, database: Database = None) -> None:
    """List the users of the console."""

    async def work(gateway: Gateway) -> list[dict[str, Any]]:
        names = {s.site_id: s.name for s in await gateway.sites.all(fresh=True)}
        users = await Access(gateway).accounts.users()
        sites = {u.name: names if u.role == "admin" else u.sites for u in users}
        return [
            {"name": u.name, "role": u.role, "sites": [names[s] for s in sites[u.name] if s in names]} for u in users
        ]

    users = with_gateway(load(database=database), work)
    if as_json:
        print_json(users)
        return
    table = Table("user", "role", "sites")
    for user in users:
        table.add_row(user["name"], user["role"], ", ".join(user["sites"]))
    out.print(table if users else "Nobody yet: gateway console-token")


@app.command("password")
def set_password(name: str, database: Database = None) -> None:
    """Set a new password, asked for or read from a pipe; the user is logged out everywhere."""
    password = new_password()

    async def work(gateway: Gateway) -> User:
        user = await user_named(gateway, name)
        await Access(gateway).set_password(user, password)
        return user

    typer.echo(f"{with_gateway(load(database=database), work).name} has a new password")


@app.command("remove")
def remove_user(name: str, database: Database = None) -> None:
    """Remove a user; what they did stays in the audit log."""

    async def work(gateway: Gateway) -> User:
        user = await user_named(gateway, name)
        await Access(gateway).remove(user)
        return user

    typer.echo(f"{with_gateway(load(database=database), work).name} was removed")


def console_token(
    port: Annotated[int | None, typer.Option(help="where the gateway listens; default 8000")] = None,
    database: Database = None,
) -> None:
    """Print a link that makes an admin of the console, once, within a day."""

    async def work(gateway: Gateway) -> str:
        return setup_link(gateway, await Access(gateway).make_setup_token())

    typer.echo(with_gateway(load(port=port, database=database), work))
