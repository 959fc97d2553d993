"""Links at the console: made as the API makes them, and seen where they were opened."""

from __future__ import annotations

import html
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.signing import read_link_token
from tests.console.desk import Desk, desk_of

PAGE = "https://shop.example/lamp"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk_of(tmp_path) as desk:
        await desk.log_in(role="editor")
        yield desk


async def made(desk: Desk, **form: str) -> str:
    """The token of a link that is made."""
    await desk.get("links")
    answer = await desk.post("links", {"person": "42", "url": PAGE} | form)
    found = re.search(r'aria-label="The link">([^<]*)', answer.text)
    assert found is not None, desk.text
    address = html.unescape(found[1])
    assert (
        address.startswith(f"{PAGE}?vero_id=") and f"https://gateway.test/r/{address[len(PAGE) + 9 :]}" in answer.text
    )
    return address.partition("vero_id=")[2]


async def test_a_link_says_who_where_and_for_how_long(desk: Desk) -> None:
    token = await made(desk, person=" Jo@X.io ", campaign="Spring", days="7")
    link = read_link_token(desk.driver.gateway.signer, token, time.time())
    assert (link.site_id, link.value.lower(), link.url) == (desk.driver.site.site_id, "jo@x.io", PAGE)
    assert link.campaign == "Spring" and 0 < link.expires_at - time.time() - 6 * 86400 <= 86400
    (line,) = await desk.access.accounts.audit(before=2**63 - 1, limit=1)
    assert line.action == "made a link" and "jo" not in (line.subject + line.detail).lower()


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"person": "undefined"}, "placeholder"),
        ({"person": ""}, "id"),
        ({"url": "javascript:alert(1)"}, "whole http(s) address"),
        ({"url": "https://evil.test/"}, "not one of this site's origins"),
        ({"days": "0"}, "1 to 400 days"),
        ({"days": "x" * 5000}, "1 to 400 days"),
        ({"campaign": "x" * 129}, "at most 128"),
    ],
)
async def test_a_link_that_cannot_be_is_refused(desk: Desk, form: dict[str, str], says: str) -> None:
    await desk.driver.gateway.sites.change(desk.driver.site, origins=["https://shop.example"])
    await desk.get("links")
    answer = await desk.post("links", {"person": "42", "url": PAGE} | form)
    assert answer.status_code == 400 and says.lower() in desk.text.lower()
    assert 'aria-label="The link"' not in answer.text


async def test_where_links_were_opened_and_which_count(database: str) -> None:
    async with desk_of(database) as desk:
        await desk.log_in()
        await desk.driver.push("d:own", ["user", {"id": "42"}], "u1", time.time())
        quiet, loud = await made(desk), await made(desk, campaign="loud")
        await desk.driver.push("d:a", ["link", quiet], "a1", time.time())
        await desk.driver.push("d:a", ["link", quiet], "a2", time.time())
        for n in range(6):
            await desk.driver.push(f"d:{n}", ["link", loud], f"l{n}", time.time() + 1)
        await desk.get("links")
        rows = re.findall(r"42 (\d) (\d) .*?(quarantined|yes)", desk.text)
        assert rows == [("6", "6", "quarantined"), ("1", "2", "yes")]


async def test_a_viewer_reads_and_other_sites_are_apart(desk: Desk) -> None:
    gateway = desk.driver.gateway
    other = await gateway.sites.create("other", gateway.new_id(), origins=[])
    await desk.driver.push("d:a", ["link", await made(desk)], "a1", time.time())
    async with desk.colleague("vic", "viewer") as vic:
        assert "42" in (await vic.get("links")).text and "Make a link" not in vic.text
        assert (await vic.post("links", {"person": "42", "url": PAGE})).status_code == 403
        assert (await vic.get(f"/console/s/{other.site_id}/links")).status_code == 404
    async with desk.colleague("amy", "admin") as amy:
        await amy.get(f"/console/s/{other.site_id}/links")
        assert "No link was opened yet." in amy.text
