"""Sites at the console: keys, settings, the snippet to paste, whether it is alive."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.model import Site
from tests.console.desk import Desk, desk_of

SECRET = re.compile(r'aria-label="Secret key">([\w-]{40,})</pre>')


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(tmp_path) as desk:
        await desk.log_in()
        yield desk


async def named(desk: Desk, name: str) -> Site:
    found = await desk.driver.gateway.sites.by_name(name)
    assert found is not None
    return found


async def now_set(desk: Desk) -> Site:
    return await named(desk, desk.driver.site.name)


def settings(**other: object) -> dict[str, object]:
    """The form of the settings as a new site shows it, with other values."""
    shown = {"what": "settings", "origins": "", "trust": "guarded", "gpc": "respect", "link_param": "vero_id"}
    return {**shown, "device_cap": "50", "token_cap": "5", "time_zone": "UTC", **other}


async def test_a_site_is_made_and_its_secret_shown_once(database: str) -> None:
    async with desk_of(database) as desk:
        await desk.log_in()
        await desk.get("/console/sites")
        form = {"name": "blog", "origins": "https://Blog.example\nhttps://www.blog.example ", "trust": "strict"}
        answer = await desk.post("/console/sites", form)
        made = await named(desk, "blog")
        shown = SECRET.search(answer.text)
        assert shown is not None and [shown[1]] == made.secret_keys
        assert made.origins == ["https://blog.example", "https://www.blog.example"] and made.trust == "strict"
        assert made.api_key in answer.text
        page = (await desk.get(f"/console/s/{made.site_id}/site")).text
        assert made.secret_keys[0] not in page and f"…{made.secret_keys[0][-4:]}" in page
        (line, *_) = await desk.access.accounts.audit(before=2**63 - 1, limit=1)
        assert (line.action, line.subject, line.site_id) == ("made a site", "site blog", made.site_id)
        assert made.secret_keys[0] not in str(line)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"name": " ", "trust": "guarded"}, "1 to 100 characters"),
        ({"name": "a", "trust": "blind"}, "trust cannot be"),
        ({"name": "a", "trust": "guarded", "origins": "shop.example/path"}, "is not an origin"),
    ],
)
async def test_a_site_that_cannot_be_is_refused_with_what_to_change(
    desk: Desk, form: dict[str, str], says: str
) -> None:
    await desk.get("/console/sites")
    answer = await desk.post("/console/sites", form)
    assert answer.status_code == 400 and says.lower() in desk.text.lower()
    assert len(await desk.driver.gateway.sites.all(fresh=True)) == 1


async def test_settings_are_changed_and_the_log_says_which(desk: Desk) -> None:
    await desk.get("site")
    form = settings(origins="https://a.example\nhttps://b.example", gpc="strict", device_cap="7", link_param="vid",
                    identity_kinds="email", time_zone="Europe/Berlin")  # fmt: skip
    answer = await desk.post("site", form)
    assert "The site was changed." in desk.text
    assert "link_param: &#39;vid&#39;" in answer.text
    site = await now_set(desk)
    assert (site.origins, site.gpc, site.device_cap) == (["https://a.example", "https://b.example"], "strict", 7)
    assert (site.link_param, site.identity_kinds, site.time_zone.key) == ("vid", ("id", "email"), "Europe/Berlin")
    assert site.secret_keys == desk.driver.site.secret_keys
    (line,) = await desk.access.accounts.audit(before=2**63 - 1, limit=1)
    assert line.action == "changed a site" and "device_cap: 50 -> 7" in line.detail and "trust" not in line.detail
    await desk.post("site", settings())
    site = await now_set(desk)
    assert (site.origins, site.identity_kinds) == ([], ("id",))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"device_cap": "many"}, "not a number of devices"),
        ({"token_cap": "0"}, "cannot be"),
        ({"device_cap": "1000000000000"}, "not a number of devices"),
        ({"link_param": "a b"}, "cannot be called"),
        ({"time_zone": "Mars/Base"}, "no time zone"),
        ({"gpc": "maybe"}, "gpc cannot be"),
        ({"identity_kinds": "shoe"}, "cannot be turned on"),
        ({"origins": "https://*.example"}, "is not an origin"),
        ({"what": "paint"}, "nothing of this kind"),
    ],
)
async def test_a_setting_that_cannot_be_changes_nothing(desk: Desk, change: dict[str, str], says: str) -> None:
    await desk.get("site")
    answer = await desk.post("site", settings(**({"trust": "open"} | change)))
    assert answer.status_code == 400 and says.lower() in desk.text.lower()
    assert (await now_set(desk)).trust == "guarded"


async def test_two_secret_keys_work_until_the_older_is_stopped(desk: Desk) -> None:
    first = desk.driver.site.secret_keys[0]

    async def status(key: str) -> int:
        bearer = {"Authorization": f"Bearer {key}"}
        return (await desk.driver.client.get("/v1/held", headers=bearer)).status_code

    def mark() -> str:
        found = re.search(r'name="mark" value="(\w+)"', desk.page)
        assert found is not None
        return found[1]

    await desk.get("site")
    before, form = desk.page, {"what": "rotate", "mark": mark()}
    shown = SECRET.search((await desk.post("site", form)).text)
    assert shown is not None
    second = shown[1]
    assert (await status(first), await status(second)) == (200, 200)
    desk.page = before  # the same form once more, as a reload sends it
    assert (await desk.post("site", form)).status_code == 409
    assert (await now_set(desk)).secret_keys == [first, second]
    await desk.get("site")
    await desk.post("site", {"what": "retire", "mark": mark()})
    assert (await status(first), await status(second)) == (401, 200)
    lines = [e.detail for e in await desk.access.accounts.audit(before=2**63 - 1, limit=3)]
    assert lines == ["retire", "rotate refused: conflict", "rotate"]


async def test_others_than_admins_read_only_and_see_their_sites_only(desk: Desk) -> None:
    gateway = desk.driver.gateway
    other = await gateway.sites.create("other", gateway.new_id(), origins=[])
    async with desk.colleague("vic", "editor") as vic:
        await vic.get("/console/sites")
        assert desk.driver.site.name in vic.text and "other" not in vic.text
        assert (await vic.get(f"/console/s/{other.site_id}/site")).status_code == 404
        await vic.get("site")
        assert "Only admins change these." in vic.text and "Save the settings" not in vic.text
        assert "Make a new secret key" not in vic.text
        await vic.get("people")
        assert (await vic.post("site", settings(trust="open"))).status_code == 403
    assert (await now_set(desk)).trust == "guarded"


async def test_the_snippet_can_wait_for_consent(desk: Desk) -> None:
    assert "consent: &#39;required&#39;" not in (await desk.get("site")).text
    page = (await desk.get("site?consent=required")).text
    assert f"api_key: &#39;{desk.driver.site.api_key}&#39;, consent: &#39;required&#39;" in page
    assert "https://gateway.test/veroq.js" in page


async def test_a_page_that_pushes_makes_it_alive_a_server_does_not(database: str) -> None:
    async with desk_of(database) as desk:
        await desk.log_in()
        await desk.get("site")
        assert "No page has sent an event for a week." in desk.text
        await desk.driver.server_push("42", ["track", "Paid"], "s1", time.time())
        await desk.get("site")
        assert "No page has sent an event for a week. Your server has." in desk.text
        await desk.driver.push("d:a", ["track", "Landed"], "p1", time.time())
        await desk.get("site")
        assert "It works: a page last sent an event" in desk.text
