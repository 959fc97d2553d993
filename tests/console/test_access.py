"""Who gets into the console, and what keeps everybody else out."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from typer.testing import CliRunner

from gateway import cli
from gateway.console import access as rules
from gateway.console.routes import PAGES
from gateway.model import now
from tests.console.desk import PASSWORD, Desk, desk_of
from tests.server import GatewayServer

ROLES = ("viewer", "editor", "admin")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(tmp_path) as desk:
        yield desk


async def test_the_first_admin_is_made_with_a_link_that_works_once(database: str) -> None:
    async with desk_of(database) as desk:
        link = f"/console/setup?token={await desk.access.make_setup_token()}"
        assert (await desk.get("/console/setup?token=guessed")).status_code == 403
        assert (await desk.get(link)).status_code == 200
        form = {"token": link.partition("=")[2], "name": "Boss@x.io", "password": PASSWORD, "again": PASSWORD}
        assert "differ" in (await desk.post("/console/setup", form | {"again": "x"})).text
        assert (
            "too easy"
            in (await desk.post("/console/setup", form | dict.fromkeys(("password", "again"), "a" * 12))).text
        )
        assert (await desk.post("/console/setup", form)).url.path.endswith("/people")
        assert [u.name for u in await desk.access.accounts.users()] == ["boss@x.io"]
        assert (await desk.post("/console/setup", form | {"name": "eve"})).status_code == 403
        assert [u.name for u in await desk.access.accounts.users()] == ["boss@x.io"]


async def test_a_setup_link_is_good_for_a_day(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await desk.access.make_setup_token()
    monkeypatch.setattr(rules, "now", lambda: now() + rules.SETUP_AGE + 1)
    assert (await desk.get(f"/console/setup?token={token}")).status_code == 403


async def test_of_many_processes_one_logs_a_link_that_works(database: str, caplog: pytest.LogCaptureFixture) -> None:
    async with desk_of(database) as desk:
        others = [rules.Access(desk.driver.gateway) for _ in range(5)]
        await asyncio.gather(*(each.announce() for each in others))
        (token,) = re.findall(r"token=([\w-]+)", caplog.text)
        assert (await desk.get(f"/console/setup?token={token}")).status_code == 200


async def test_a_link_that_nobody_used_is_made_anew_after_a_day(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.access.announce()
    await desk.access.announce()
    monkeypatch.setattr(rules, "now", lambda: now() + rules.SETUP_AGE + 1)
    await desk.access.announce()
    assert len(re.findall(r"token=([\w-]+)", caplog.text)) == 2


def test_the_gateway_logs_the_link_once_and_keeps_only_its_digest(tmp_path: Path) -> None:
    with GatewayServer(tmp_path) as server:
        (token,) = re.findall(rf"http://localhost:{server.port}/console/setup\?token=([\w-]+)", server.log_tail())
        server.stop()
        server.start()
        assert len(re.findall("console/setup", server.log.read_text())) == 1
        for file in tmp_path.glob("gateway.db*"):
            assert token.encode() not in file.read_bytes()
        assert "/console/setup?token=" in server.command("console-token", "--port", str(server.port)).stdout


async def test_passwords_are_kept_as_argon2id(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "hasher", PasswordHasher())
    await desk.log_in()
    (user,) = await desk.access.accounts.users()
    assert user.password.startswith("$argon2id$v=19$m=65536,t=3,")
    with pytest.raises(rules.BadRequest, match="12 to 256"):
        rules.check_password("short", "ann")
    with pytest.raises(rules.BadRequest, match="too easy"):
        rules.check_password("my-own-annabel", "annabel")


async def test_the_cookie_is_of_the_strict_kind_and_only_its_digest_is_kept(desk: Desk) -> None:
    await desk.access.create("ann", PASSWORD, "admin", [])
    response = await desk.client.post(
        "/console/login", data={"name": "ann", "password": PASSWORD}, headers={"Sec-Fetch-Site": "same-origin"}
    )
    cookie = response.headers["set-cookie"]
    assert re.fullmatch(r"__Host-vq_console=[\w-]{43}; HttpOnly; Path=/; SameSite=strict; Secure", cookie)
    value = desk.client.cookies["__Host-vq_console"]
    (row,) = await desk.driver.gateway.store.read("select * from console_sessions")
    assert row["digest"] == rules.digest(value) and value not in str(row)


async def test_over_plain_http_only_localhost_can_log_in(desk: Desk) -> None:
    await desk.access.create("ann", PASSWORD, "admin", [])
    form = {"name": "ann", "password": PASSWORD}
    assert "needs https" in (await desk.post("http://gateway.test/console/login", form)).text
    response = await desk.post("http://localhost:8000/console/login", form)
    assert response.url.path.endswith("/people")


async def test_wrong_passwords_and_unknown_names_look_the_same(desk: Desk) -> None:
    await desk.access.create("ann", PASSWORD, "admin", [])
    wrong = await desk.post("/console/login", {"name": "ann", "password": "x"})
    unknown = await desk.post("/console/login", {"name": "zoe", "password": "x"})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace('"ann"', "") == unknown.text.replace('"zoe"', "")


async def test_guessing_is_stopped_also_with_the_right_password(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.access.create("ann", PASSWORD, "admin", [])
    for _ in range(rules.FAILURES_PER_BOTH):
        assert (await desk.post("/console/login", {"name": "ann", "password": "x"})).status_code == 401
    stopped = await desk.post("/console/login", {"name": "ann", "password": PASSWORD})
    assert stopped.status_code == 429
    assert stopped.headers["retry-after"] == "900"
    monkeypatch.setattr(rules, "now", lambda: now() + rules.WINDOW + 1)
    assert (await desk.post("/console/login", {"name": "ann", "password": PASSWORD})).status_code == 200


async def test_a_guesser_on_one_network_locks_nobody_out_elsewhere(desk: Desk) -> None:
    user = await desk.access.create("ann", PASSWORD, "admin", [])
    for n in range(rules.FAILURES_PER_NETWORK):
        with pytest.raises(rules.Unauthorized):
            await desk.access.log_in("ann" if n < 5 else f"nobody{n}", "x", "10.0.0.0/24")
    for name in ("ann", "nobody"):
        with pytest.raises(rules.TooMany):
            await desk.access.log_in(name, PASSWORD, "10.0.0.0/24")
    assert (await desk.access.log_in("ann", PASSWORD, "192.0.2.0/24")).user_id == user.user_id


async def test_guessing_from_many_networks_is_stopped_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "FAILURES_PER_USER", 12)
    await desk.access.create("ann", PASSWORD, "admin", [])
    for n in range(12):
        with pytest.raises(rules.Unauthorized):
            await desk.access.log_in("ann", "x", f"10.0.{n}.0/24")
    with pytest.raises(rules.TooMany):
        await desk.access.log_in("ann", PASSWORD, "192.0.2.0/24")


async def test_what_is_typed_as_a_name_is_not_kept(desk: Desk) -> None:
    await desk.post("/console/login", {"name": "my secret password", "password": ""})
    (line,) = await desk.access.accounts.audit(before=2**63 - 1, limit=10)
    assert (line.action, line.user_name, line.detail) == ("login failed", "", "")


async def test_every_page_asks_for_a_login(desk: Desk) -> None:
    for page in PAGES:
        if page.role:
            path = "/console" + re.sub(r"\{site[^}]*\}", str(desk.driver.site.site_id), page.path)
            path = re.sub(r"\{[^}]*\}", "1", path)
            response = await desk.client.request(page.method, path, headers={"Sec-Fetch-Site": "same-origin"})
            assert response.status_code == 303, page
            assert response.headers["location"].startswith("/console/login"), page


@pytest.mark.parametrize("role", ["viewer", "editor"])
async def test_every_page_is_for_its_role_only(desk: Desk, role: str) -> None:
    await desk.log_in(role=role)
    await desk.get("people")
    csrf = re.search(r'name="csrf" value="(\w+)"', desk.page)
    assert csrf is not None
    for page in PAGES:
        if page.role and ROLES.index(page.role) > ROLES.index(role):
            path = "/console" + re.sub(r"\{site[^}]*\}", str(desk.driver.site.site_id), page.path)
            path = re.sub(r"\{[^}]*\}", "1", path)
            response = await desk.client.request(
                page.method, path, data={"csrf": csrf[1]}, headers={"Sec-Fetch-Site": "same-origin"}
            )
            assert response.status_code == 403, page
            assert "That was not possible" in response.text


async def test_forms_of_other_sites_are_refused(desk: Desk) -> None:
    await desk.log_in()
    await desk.get("/console/users")
    form = {"name": "eve", "role": "admin", "password": PASSWORD, "again": PASSWORD}
    foreign = [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Accept": "*/*"},
    ]
    for headers in foreign:
        page = desk.page
        assert (await desk.post("/console/users", form, headers)).status_code == 403, headers
        desk.page = page
    assert (await desk.post("/console/users", form | {"csrf": "0" * 64})).status_code == 403
    assert (await desk.post("/console/users", form | {"csrf": ""})).status_code == 403
    assert [u.name for u in await desk.access.accounts.users()] == ["ann"]
    desk.page = page
    assert (await desk.post("/console/users", form, {"Origin": "https://gateway.test"})).status_code == 200
    assert [u.name for u in await desk.access.accounts.users()] == ["ann", "eve"]


async def test_another_sessions_form_token_is_refused(desk: Desk) -> None:
    await desk.log_in()
    async with desk.colleague("bea", "admin") as bea:
        await bea.get("/console/users")
        form = {"name": "eve", "role": "viewer", "password": PASSWORD, "again": PASSWORD}
        desk.page = bea.page
        assert (await desk.post("/console/users", form)).status_code == 403


async def test_sessions_end_by_logout_time_and_a_new_password(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.log_in()
    cookie = dict(desk.client.cookies)
    await desk.get("people")
    await desk.post("/console/logout", {})
    desk.client.cookies.update(cookie)
    assert (await desk.get("people")).url.path == "/console/login"

    await desk.post("/console/login", {"name": "ann", "password": PASSWORD})
    user = await desk.access.accounts.user("ann")
    assert user is not None
    assert (await desk.get("people")).url.path.endswith("/people")
    await desk.access.set_password(user, "nine loud herons")
    assert (await desk.get("people")).url.path == "/console/login"

    await desk.post("/console/login", {"name": "ann", "password": "nine loud herons"})
    monkeypatch.setattr(rules, "now", lambda: now() + rules.IDLE + 1)
    assert (await desk.get("people")).url.path == "/console/login"


async def test_a_login_leads_back_but_never_elsewhere(desk: Desk) -> None:
    await desk.access.create("ann", PASSWORD, "admin", [])
    asked_for = await desk.client.get("/console/users?x=1")
    assert asked_for.headers["location"] == "/console/login?next=%2Fconsole%2Fusers%3Fx%3D1"
    form = {"name": "ann", "password": PASSWORD}
    for evil in ("https://evil.test/", "//evil.test", "/\\evil.test", "/console//evil.test", "/console/\r\nX: y"):
        response = await desk.client.post(
            "/console/login", data=form | {"next": evil}, headers={"Sec-Fetch-Site": "same-origin"}
        )
        assert response.headers["location"] == "/console/", evil
    response = await desk.post("/console/login", form | {"next": "/console/users?x=1"})
    assert response.url.path == "/console/users"


async def test_who_comes_by_a_link_elsewhere_is_asked_again(desk: Desk) -> None:
    response = await desk.get("people", **{"Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in response.text


async def test_a_site_that_is_not_yours_does_not_exist(desk: Desk) -> None:
    other = await desk.driver.gateway.sites.create("other", desk.driver.gateway.new_id(), origins=[])
    await desk.log_in(role="editor", sites=[other.site_id])
    assert (await desk.get("people")).status_code == 404
    for page in PAGES:
        if "{site}" in page.path and page.role != "admin":
            path = "/console" + page.path.replace("{site}", str(desk.driver.site.site_id))
            await desk.get(f"/console/s/{other.site_id}/people")
            path = re.sub(r"\{[^}]*\}", "1", path)
            response = await (desk.get(path) if page.method == "GET" else desk.post(path, {}))
            assert response.status_code == 404, page
    assert "shop" not in (await desk.get("/console/")).text


async def test_people_of_one_site_are_not_found_on_another(desk: Desk) -> None:
    await desk.driver.push("laptop", ["user", {"id": "alice"}], "o1", desk.driver.time(None))
    other = await desk.driver.gateway.sites.create("other", desk.driver.gateway.new_id(), origins=[])
    await desk.log_in()
    assert "alice" in (await desk.get("people?q=alice")).text
    await desk.get(f"/console/s/{other.site_id}/people?q=alice")
    assert "Nobody fits" in desk.text


async def test_users_are_added_changed_and_removed(desk: Desk) -> None:
    await desk.log_in()
    await desk.get("/console/users")
    form = {"name": "Bea", "role": "viewer", "password": PASSWORD, "again": PASSWORD}
    await desk.post("/console/users", form | {"sites": [str(desk.driver.site.site_id)]})
    assert "bea can log in now" in desk.text
    bea = await desk.access.accounts.user("bea")
    assert bea is not None and bea.sites == [desk.driver.site.site_id]
    await desk.get(f"/console/users/{bea.user_id}")
    await desk.post(f"/console/users/{bea.user_id}", {"what": "role", "role": "editor"})
    changed = await desk.access.accounts.user("bea")
    assert changed is not None and (changed.role, changed.sites) == ("editor", [])
    await desk.post(f"/console/users/{bea.user_id}", {"what": "remove"})
    assert await desk.access.accounts.user("bea") is None


async def test_there_is_always_an_admin(desk: Desk) -> None:
    await desk.log_in()
    ann = await desk.access.accounts.user("ann")
    assert ann is not None
    await desk.get(f"/console/users/{ann.user_id}")
    assert "only admin" in (await desk.post(f"/console/users/{ann.user_id}", {"what": "remove"})).text
    await desk.get(f"/console/users/{ann.user_id}")
    assert "only admin" in (await desk.post(f"/console/users/{ann.user_id}", {"what": "role", "role": "viewer"})).text


async def test_ones_own_password_is_changed_with_the_old_one(desk: Desk) -> None:
    await desk.log_in(role="viewer")
    new = {"password": "nine loud herons", "again": "nine loud herons"}
    await desk.get("/console/account")
    assert (await desk.post("/console/account", {"current": "wrong", **new})).status_code == 401
    await desk.get("/console/account")
    assert "was changed" in (await desk.post("/console/account", {"current": PASSWORD, **new})).text
    assert (await desk.get("people")).url.path.endswith("/people")


async def test_the_audit_log_tells_every_change(desk: Desk) -> None:
    await desk.log_in()
    await desk.get("/console/users")
    form = {"name": "bea", "role": "viewer", "password": PASSWORD, "again": PASSWORD}
    await desk.post("/console/users", form)
    await desk.get("/console/users")
    await desk.post("/console/users", form)
    lines = await desk.access.accounts.audit(before=2**63 - 1, limit=10)
    assert [(e.user_name, e.action, e.subject, e.detail) for e in lines] == [
        ("ann", "added user", "", "refused"),
        ("ann", "added user", "user bea", "viewer"),
        ("ann", "logged in", "", ""),
    ]
    assert "added user" in (await desk.get("/console/audit?user=ann")).text
    assert "Nothing was noted" in (await desk.get("/console/audit?user=bea")).text


def test_every_form_has_a_word_for_the_audit_log() -> None:
    assert [p for p in PAGES if p.method == "POST" and not p.action] == []


async def test_below_a_path_of_a_shops_host_every_address_keeps_the_path(desk: Desk) -> None:
    desk.driver.gateway.settings.public_url = "https://gateway.test/t"
    await desk.access.create("ann", PASSWORD, "admin", [])
    away = await desk.client.get("/console/users")  # a proxy takes the /t off
    assert away.headers["location"] == "/t/console/login?next=%2Ft%2Fconsole%2Fusers"
    form = {"name": "ann", "password": PASSWORD, "next": "/t/console/users"}
    response = await desk.client.post("/console/login", data=form, headers={"Origin": "https://gateway.test"})
    assert response.headers["location"] == "/t/console/users"
    page = (await desk.client.get("/console/users")).text
    assert re.findall(r'(?:href|src|action)="(?!/t/console/|#|data:,)([^"]+)"', page) == []


async def test_every_answer_has_the_headers(desk: Desk) -> None:
    await desk.log_in()
    for path in ("/console/users", "/console/nowhere", "people"):
        headers = (await desk.get(path)).headers
        policy = headers["content-security-policy"]
        assert "unsafe-inline" not in policy and "require-trusted-types-for 'script'" in policy
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["strict-transport-security"].startswith("max-age=")
        assert headers["cross-origin-opener-policy"] == "same-origin"


async def test_no_page_has_inline_script_or_style(desk: Desk) -> None:
    for template in Path(rules.__file__).with_name("templates").glob("*.html"):
        text = template.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|\|\s*safe\b|<script(?! src)", text), template.name


def test_users_are_managed_on_the_command_line_too(tmp_path: Path) -> None:
    def gateway(*arguments: str) -> str:
        command = [*arguments, "--database", f"sqlite:///{tmp_path / 'gateway.db'}"]
        done = CliRunner().invoke(cli.app, command, input=PASSWORD + "\n")
        return done.output + str(done.exception or "")

    gateway("site", "create", "shop")
    assert "can log in as a viewer" in gateway("user", "add", "bea", "--site", "shop")
    assert "already" in gateway("user", "add", "bea")
    assert "has a new password" in gateway("user", "password", "bea")
    assert json.loads(gateway("user", "list", "--json")) == [{"name": "bea", "role": "viewer", "sites": ["shop"]}]
    assert "was removed" in gateway("user", "remove", "bea")
    assert "no user" in gateway("user", "remove", "bea")
