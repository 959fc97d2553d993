"""Pages about the console's own users: logging in, the first admin, one's own password, users, the audit log."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from gateway.console.access import MIN_PASSWORD, ROLES, digest
from gateway.console.calls import Asked, Page, number
from gateway.errors import BadRequest, Forbidden, GatewayError, TooMany, Unauthorized
from gateway.store.accounts import User

AUDIT_PAGE = 50
LAST = 2**63 - 1


# --- logging in -------------------------------------------------------------------------------------------------------


async def home(asked: Asked) -> Response:
    """The first of the user's sites."""
    sites = await asked.console.sites(asked.user, fresh=True)
    if not sites:
        return await asked.show("no_site.html")
    return RedirectResponse(asked.console.address(asked.request, f"/s/{sites[0].site_id}/people"), 303)


def _next(asked: Asked, wanted: str) -> str:
    """Where a login leads: a page of the console, whatever the address says."""
    base = asked.console.address(asked.request, "/")
    plain = wanted.isprintable() and "\\" not in wanted and "//" not in wanted
    return wanted if plain and wanted.startswith(base) else base


async def login_form(asked: Asked) -> Response:
    if asked.user_ is not None:
        return RedirectResponse(_next(asked, asked.query.get("next", "")), 303)
    empty = not await asked.console.access.accounts.users()
    return await asked.show("login.html", next=asked.query.get("next", ""), name="", error=None, empty=empty)


async def login(asked: Asked) -> Response:
    console, form = asked.console, asked.form
    name, wanted = form.get("name", ""), form.get("next", "")
    try:
        user = await console.access.log_in(name, form.get("password", ""), console.network(asked.request))
        return await console.log_in(asked, user, _next(asked, wanted))
    except (Unauthorized, TooMany, BadRequest) as error:
        response = await asked.show("login.html", error.status, next=wanted, name=name, error=error, empty=False)
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response


async def logout(asked: Asked) -> Response:
    await asked.console.access.accounts.close_session(digest(asked.cookie))
    return asked.console.log_out(asked.request, asked.console.address(asked.request, "/login"))


async def setup_form(asked: Asked) -> Response:
    token = asked.query.get("token", "")
    await asked.console.access.check_setup_token(token)
    return await asked.show("setup.html", token=token, name="", error=None, least=MIN_PASSWORD)


async def setup(asked: Asked) -> Response:
    console, form = asked.console, asked.form
    token, name = form.get("token", ""), form.get("name", "")
    try:
        check_cookies_work(asked)
        user = await console.access.first_admin(token, name, _password(asked))
    except Forbidden:
        raise
    except GatewayError as error:
        return await asked.show("setup.html", error.status, token=token, name=name, error=error, least=MIN_PASSWORD)
    asked.about(f"user {user.name}", "first admin")
    return await console.log_in(asked, user, console.address(asked.request, "/"))


def check_cookies_work(asked: Asked) -> None:
    """Raises BadRequest before anything is spent, where nobody could log in afterwards."""
    if not asked.console.cookie_name(asked.request):
        raise BadRequest("the console needs https", "open it through https, or at http://localhost")


def _password(asked: Asked) -> str:
    """The new password of a form that asks for it twice."""
    password = asked.form.get("password", "")
    if password != asked.form.get("again", ""):
        raise BadRequest("the two passwords differ", "type the same password twice")
    return password


# --- one's own account ------------------------------------------------------------------------------------------------


async def account(asked: Asked) -> Response:
    return await asked.show("account.html", error=None, least=MIN_PASSWORD)


async def change_password(asked: Asked) -> Response:
    console = asked.console
    try:
        await console.access.log_in(asked.user.name, asked.form.get("current", ""), console.network(asked.request))
        await console.access.set_password(asked.user, _password(asked), but=digest(asked.cookie))
    except GatewayError as error:
        asked.about(f"user {asked.user.name}", f"refused: {error.code}")
        return await asked.show("account.html", error.status, error=error, least=MIN_PASSWORD)
    asked.about(f"user {asked.user.name}")
    said = "Your password was changed, and you were logged out everywhere else."
    return asked.back(console.address(asked.request, "/account"), said)


# --- users ------------------------------------------------------------------------------------------------------------


async def users(asked: Asked) -> Response:
    return await _users(asked)


async def _users(asked: Asked, status: int = 200, error: GatewayError | None = None) -> Response:
    everybody = await asked.console.access.accounts.users()
    sites = await asked.console.sites(asked.user, fresh=True)
    names = {s.site_id: s.name for s in sites}
    given = {"name": asked.form.get("name", ""), "role": asked.form.get("role", "viewer")}
    return await asked.show(
        "users.html", status, users=everybody, roles=ROLES, names=names, error=error, given=given, least=MIN_PASSWORD
    )


def _sites_of_form(asked: Asked) -> list[int]:
    return [number(s, "site") for s in asked.form.getlist("sites")]


async def add_user(asked: Asked) -> Response:
    form = asked.form
    try:
        made = await asked.console.access.create(
            form.get("name", ""), _password(asked), form.get("role", ""), _sites_of_form(asked)
        )
    except BadRequest as error:
        asked.about("", "refused")
        return await _users(asked, error.status, error)
    asked.about(f"user {made.name}", made.role)
    return asked.back(asked.console.address(asked.request, "/users"), f"{made.name} can log in now.")


async def user(asked: Asked) -> Response:
    return await _user(asked, await asked.console.access.user_by_id(asked.path["user_id"]))


async def _user(asked: Asked, shown: User, status: int = 200, error: GatewayError | None = None) -> Response:
    sites = await asked.console.sites(asked.user, fresh=True)
    return await asked.show(
        "user.html", status, shown=shown, roles=ROLES, all_sites=sites, error=error, least=MIN_PASSWORD
    )


async def change_user(asked: Asked) -> Response:
    access = asked.console.access
    changed = await access.user_by_id(asked.path["user_id"])
    what, to = asked.form.get("what", ""), asked.console.address(asked.request, "/users")
    asked.about(f"user {changed.name}", what)
    try:
        if what == "password":
            await access.set_password(changed, _password(asked))
            return asked.back(to, f"{changed.name} has a new password, and was logged out everywhere.")
        if what == "remove":
            await access.remove(changed)
            return asked.back(to, f"{changed.name} was removed.")
        await access.change(changed, asked.form.get("role", ""), _sites_of_form(asked))
    except BadRequest as error:
        asked.detail = f"{what} refused"
        return await _user(asked, changed, error.status, error)
    asked.about(f"user {changed.name}", f"role {changed.role}, {len(changed.sites)} sites")
    return asked.back(to, f"{changed.name} was changed.")


# --- the audit log ----------------------------------------------------------------------------------------------------


async def audit(asked: Asked) -> Response:
    q = asked.query
    before = number(q.get("before") or LAST)
    chosen = {"user": q.get("user", ""), "action": q.get("action", "")}
    entries = await asked.console.access.accounts.audit(before=before, limit=AUDIT_PAGE + 1, **chosen)
    shown, more = entries[:AUDIT_PAGE], len(entries) > AUDIT_PAGE
    older = asked.console.address(asked.request, "/audit", before=shown[-1].audit_id, **chosen) if more else ""
    names = {s.site_id: s.name for s in await asked.console.sites(asked.user)}
    everybody = [u.name for u in await asked.console.access.accounts.users()]
    return await asked.show("audit.html", entries=shown, older=older, names=names, everybody=everybody, chosen=chosen)


PAGES = (
    Page("GET", "/", home),
    Page("GET", "/login", login_form, role=""),
    Page("POST", "/login", login, role="", action="logged in"),
    Page("POST", "/logout", logout, action="logged out"),
    Page("GET", "/setup", setup_form, role=""),
    Page("POST", "/setup", setup, role="", action="made the first admin"),
    Page("GET", "/account", account),
    Page("POST", "/account", change_password, action="changed own password"),
    Page("GET", "/users", users, role="admin"),
    Page("POST", "/users", add_user, role="admin", action="added user"),
    Page("GET", "/users/{user_id}", user, role="admin"),
    Page("POST", "/users/{user_id}", change_user, role="admin", action="changed user"),
    Page("GET", "/audit", audit, role="admin"),
)
