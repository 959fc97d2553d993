"""What `gateway snippet` prints, pasted into a page as it is, under the policy that it says."""

from __future__ import annotations

import pytest

from gateway.model import Site
from gateway.snippet import load_snippet, loader
from tests.browser.town import Town
from tests.browser.visitors import Visitor


def pasted(town: Town, *, sri: bool) -> dict[str, str]:
    """What the command prints for the town's site, with the nonce that its page gives to inline scripts."""
    made = loader(Site(1, town.site["site"], town.site["api_key"], []), town.gateway_url, sri=sri)
    return made | {"html": made["html"].replace("<script>", "<script nonce='a1'>")}


@pytest.mark.parametrize("sri", [True, False], ids=["pinned", "latest"])
def test_the_loader_works_as_it_is_under_its_own_policy(town: Town, visitor: Visitor, sri: bool) -> None:
    made = pasted(town, sri=sri)
    policy = "default-src 'none'; " + made["csp"].replace("script-src", "script-src 'nonce-a1'")
    url = town.plain("/", made["html"], headers={"Content-Security-Policy": policy})
    tab = visitor.tab()
    tab.open(url)
    tab.run("void _veroq.push(['track', 'Pasted'])")
    assert town.wait_for_events("Pasted") == [["Pasted"]]


def test_a_changed_script_does_not_run_where_it_is_pinned(town: Town, visitor: Visitor) -> None:
    html = pasted(town, sri=True)["html"].replace(load_snippet().integrity, "sha384-" + "A" * 64)
    tab = visitor.tab()
    tab.open(town.plain("/", html + "<p id='there'>The page is there</p>"))
    assert tab.run("document.getElementById('there').textContent") == "The page is there"
    assert not tab.run("Boolean(window._veroq.ready)")
    assert town.people() == []
