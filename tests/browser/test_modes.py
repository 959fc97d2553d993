"""One visitor is one device wherever the gateway stands, in every engine: the four ways to deploy it, over HTTPS."""

from __future__ import annotations

import pytest

from tests.browser.town import MakeTown, cookie_of, token_of
from tests.browser.visitors import Visitor

YEAR = 365 * 24 * 3600
# WebKit with ITP lets no third party have a cookie; the others keep one per site that embeds it.
KEEPS_COOKIE = {("third_party", "webkit"): False}


@pytest.mark.parametrize("mode", ["path", "subdomain", "third_party", "local"])
def test_a_visitor_stays_one_device_over_pages_and_tabs(make_town: MakeTown, visitor: Visitor, mode: str) -> None:
    town = make_town(mode)
    first, second = (town.page(path, f"_veroq.push(['track', 'Saw {path}'])") for path in ("/1", "/2"))
    tab = visitor.tab()
    town.open(tab, first)
    town.wait_for_events("Saw /1")
    town.wait_until_sent(tab)
    town.open(tab, second)
    town.push(tab, ["user", {"id": "42"}])
    town.wait_for_events("Saw /1", "Saw /2")
    town.wait_until_sent(tab)
    another = visitor.tab()
    town.open(another, first)
    assert town.wait_for_events("Saw /1", "Saw /2", "Saw /1") == [["Saw /1", "Saw /2", "Saw /1"]]
    assert len(town.devices()) == 1
    assert [one["primary"] for one in town.people()] == ["42"]
    town.wait_until_sent(another)

    if mode == "local":
        kept = tab.cookies()["vq_dev"]
        assert kept["httpOnly"] and kept["sameSite"] == "Lax"
        assert tab.run("[document.cookie, Object.keys(localStorage)]") == ["", []]
        return
    requests = town.requests()
    assert cookie_of(requests[0]) == token_of(requests[0]) == ""
    if KEEPS_COOKIE.get((mode, visitor.engine), True):
        assert len({cookie_of(visit) for visit in requests[1:]}) == 1 and cookie_of(requests[-1])
        assert not token_of(requests[-1]), "the token goes as soon as the cookie works"
        assert town.stored(tab) == []
    else:
        assert not any(cookie_of(visit) for visit in requests)
        assert token_of(requests[-1])
        assert town.stored(tab) == [f"vq.{town.site['api_key']}"]
    assert tab.run("document.cookie") == ""
    if mode == "path":
        kept = tab.cookies()["__Host-Http-vq"]
        assert kept["httpOnly"] and kept["secure"] and kept["sameSite"] == "Lax" and kept["path"] == "/"
        assert kept.get("expires", kept.get("expiry")) > tab.run("Date.now() / 1000") + YEAR


def test_a_third_party_gateway_knows_a_visitor_anew_on_each_site(make_town: MakeTown, visitor: Visitor) -> None:
    town = make_town("third_party")
    tab = visitor.tab()
    for origin in (town.shop, town.other, town.shop):
        url = town.page("/", "_veroq.push(['track', location.hostname])", origin=origin)
        town.open(tab, url)
        tab.wait("_veroq.ready")
        town.wait_until_sent(tab)
    shop, other = (origin.removeprefix("https://") for origin in (town.shop, town.other))
    assert town.wait_for_events(shop, shop, other) == sorted([[shop, shop], [other]])
    assert len(town.devices()) == 2


def test_a_shop_in_another_sites_frame_keeps_its_visitor(make_town: MakeTown, visitor: Visitor) -> None:
    town = make_town("path")
    tells = "setInterval(() => parent.postMessage(Object.keys(localStorage).join(), '*'), 20)"
    inner = town.page("/inner", f"_veroq.push(['track', 'Framed']); {tells}")
    frame = f"<script>let kept; onmessage = (told) => kept = told.data</script><iframe src='{inner}'></iframe>"
    outer = town.plain("/", frame, town.other)
    tab = visitor.tab()
    for number in (1, 2):
        tab.open(outer)
        town.wait_for_events(*["Framed"] * number)
        tab.wait(f"kept == 'vq.{town.site['api_key']}'")  # the frame has read its answer
    assert len(town.devices()) == 1
    assert [(bool(cookie_of(visit)), bool(token_of(visit))) for visit in town.requests()] == [
        (False, False),
        (False, True),
    ]
