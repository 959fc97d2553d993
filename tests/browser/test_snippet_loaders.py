"""Every way in which pages load the script and fill its queue, in real browsers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.recorder import Recorder
from tests.server import wait_for

SCRIPT = """(function() {var ve = document.createElement('script'); ve.type = 'text/javascript'; ve.async = true;
  ve.src = '//HOST/PATH'; var s = document.getElementsByTagName('script')[0]; s.parentNode.insertBefore(ve, s);})();"""
SAYS = "_veroq.push(['user', {id: 42, email: 'jane@x.io'}]); _veroq.push(['track', 'Viewed', {sku: 'A1'}]);"
SAID = [["user", {"id": 42, "email": "jane@x.io"}], ["track", "Viewed", {"sku": "A1"}]]


@dataclass(frozen=True)
class Variant:
    html: str
    commands: list[list[Any]]


VARIANTS = {
    "official": Variant(
        "<script>var _veroq = _veroq || []; _veroq.push(['init', { api_key: 'API_KEY' }]);"
        + SCRIPT.replace("PATH", "m.js")
        + SAYS
        + "</script>",
        SAID,
    ),
    "ruby gem": Variant(
        """<script>var _veroq = _veroq || [];setTimeout(function(){if(typeof window.Semblance=="undefined"){
        console.error("Vero did not load in time.");for(var i=0;i<_veroq.length;i++){a=_veroq[i];if(a.length==3&&
        typeof a[2]=="function")a[2](null,false);}}},3000);_veroq.push(['init', {"tracking_api_key": "API_KEY"}]);"""
        + SCRIPT.replace("PATH", "assets/m.js")
        + SAYS
        + "</script>",
        SAID,
    ),
    "callback for another product": Variant(
        """<script>var _kmq = [], _veroq = _veroq || []; _veroq.push(['init', { api_key: 'API_KEY', secret: 'SECRET' },
        function(vero, loaded) { calls.push(['init', loaded]);
          if (loaded) _kmq.splice(0, 0, vero.listeners.attach_to_kissmetrics, vero.listeners.attach_to_mixpanel);
          _kmq.forEach(function(attach) { calls.push(['attached', attach() === undefined]) }); }]);"""
        + SCRIPT.replace("PATH", "m.js")
        + SAYS
        + "</script>",
        SAID,
    ),
    "development mode": Variant(
        "<script>var _veroq=_veroq||[];_veroq.push(['init',{api_key:'API_KEY',secret:'SECRET',development_mode:true}]);"
        + SAYS
        + "</script><script src='/m.js'></script>",
        SAID,
    ),
    "cookie domain": Variant(
        "<script>var _veroq = _veroq || []; _veroq.push(['init', {api_key: 'API_KEY', cookie_domain: 'x.io'}]);"
        + SAYS
        + "</script><script async src='/veroq.js'></script>",
        [["cookie_domain", "x.io"], *SAID],
    ),
    "bundler with a queue of its own": Variant(
        """<script>(function() { const _veroq = [['init', {api_key: 'API_KEY'}]];
        const ve = document.createElement('script'); ve.src = '/m.js'; document.head.appendChild(ve);
        ve.onload = () => { __vero.processVeroArray(_veroq); calls.push(['left', _veroq.length]); """
        + SAYS.replace("; ", "; __vero.processVeroArray(_veroq); ")
        + "__vero.processVeroArray(_veroq); __vero.processVeroArray(_veroq); } })()</script>",
        SAID,
    ),
    "script before init": Variant(
        """<script src='/m.js'></script><script>var _veroq = _veroq || [];
        _veroq.push(['track', 'Early'], ['tags', {add: ['a']}]);
        setTimeout(() => { _veroq.push(['init', {api_key: 'API_KEY'}]); """
        + SAYS
        + "}, 50)</script>",
        [["track", "Early"], ["tags", {"add": ["a"]}], *SAID],
    ),
}
CALLS = {
    "callback for another product": [["init", True], ["attached", True], ["attached", True]],
    "bundler with a queue of its own": [["left", 0]],
}


@pytest.fixture(scope="module")
def running_recorder() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def recorder(running_recorder: Recorder) -> Recorder:
    running_recorder.clear()
    return running_recorder


@pytest.fixture
def warnings(page: Page) -> list[str]:
    """What the page's console says by itself."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text))
    return found


def loader(path: str = "/veroq.js", options: str = "", says: str = "", **attributes: str) -> str:
    """The plainest way to load the script."""
    extra = "".join(f' {name}="{value}"' for name, value in attributes.items())
    init = f"var _veroq = _veroq || []; _veroq.push(['init', {{api_key: 'API_KEY', {options}}}]);"
    return f'<script>{init}{says}</script><script src="{path}"{extra}></script>'


@pytest.mark.parametrize("name", VARIANTS)
def test_every_known_loader_works_with_only_its_address_changed(
    recorder: Recorder, page: Page, warnings: list[str], name: str
) -> None:
    variant = VARIANTS[name]
    html = variant.html.replace("HOST", f"localhost:{recorder.port}")
    page.goto(recorder.page(f"<script>var calls = [], first = window._veroq</script>{html}"))
    commands = recorder.wait_for_commands(len(variant.commands))
    assert commands == variant.commands
    assert all(batch.body["key"] == recorder.key for batch in recorder.batches)
    assert "SECRET" not in json.dumps([batch.body for batch in recorder.batches])
    assert recorder.preflights == 0
    assert page.evaluate("calls") == CALLS.get(name, [])
    assert page.evaluate(
        "[typeof Semblance, typeof _veroq, _veroq.length, !!_veroq.ready, _veroq.push !== Array.prototype.push,"
        " typeof __vero.processVeroArray]"
    ) == ["object", "object", 0, True, True, "function"]
    assert warnings == []


def test_commands_travel_as_they_were_when_pushed(recorder: Recorder, page: Page, warnings: list[str]) -> None:
    says = """
      var queue = _veroq, calls = [], data = {deep: [{a: null}], when: new Date(0)};
      _veroq.push(['user', {id: 'u1', email: 'j@x.io'}, (vero, loaded) => calls.push(['user', !!vero, loaded])]);
      _veroq.push(['track', 'A', data, {source: 'segment'}, () => calls.push('track')]);
      _veroq.push(['track', {products: [1]}]); _veroq.push(['track']); _veroq.push(['reidentify', 'new', 'old']);
      _veroq.push(['unsubscribe', {id: '1'}]); _veroq.push(['logout']); _veroq.push(['verify', 'a.b.c']);
      _veroq.push(['unheard of', 'ö\\ud800\\u2028']);"""
    page.goto(recorder.page(loader(says=says)))
    expected = [
        ["user", {"id": "u1", "email": "j@x.io"}],
        ["track", "A", {"deep": [{"a": None}], "when": "1970-01-01T00:00:00.000Z"}, {"source": "segment"}],
        ["track", {"products": [1]}],
        ["track"],
        ["reidentify", "new", "old"],
        ["unsubscribe", {"id": "1"}],
        ["logout"],
        ["verify", "a.b.c"],
        ["unheard of", "ö\ud800\u2028"],
    ]
    assert recorder.wait_for_commands(len(expected)) == expected
    assert page.evaluate("calls") == [["user", True, True], "track"]
    assert page.evaluate("queue === _veroq")

    # afterwards as before, several at once, and a second init changes nothing but gets its callback
    again = "_veroq.push(['init', {api_key: 'other'}, () => calls.push('again')], ['track', 'B', data])"
    page.evaluate(f"data = {{n: 1}}; {again}; data.n = 2")
    assert recorder.wait_for_commands(len(expected) + 1)[-1] == ["track", "B", {"n": 1}]
    assert page.evaluate("calls.length") == 3
    assert {batch.body["key"] for batch in recorder.batches} == {recorder.key}

    # other arrays, drained each time
    page.evaluate("window.mine = [['track', 'C'], ['track', 'D']]; __vero.processVeroArray(mine)")
    page.evaluate("mine.push(['track', 'E']); __vero.processVeroArray(mine); __vero.processVeroArray(mine)")
    assert recorder.wait_for_commands(len(expected) + 4)[-3:] == [["track", "C"], ["track", "D"], ["track", "E"]]
    assert page.evaluate("mine.length") == 0
    assert warnings == []


def test_nonsense_never_throws_into_the_page(recorder: Recorder, page: Page) -> None:
    page.goto(recorder.page(loader()))
    recorder.wait_for_commands(1, "context")
    page.evaluate(
        """() => { const circle = ['track', 'circle', {}]; circle[2].self = circle;
        for (const junk of [null, undefined, 5, {}, () => 1, Symbol(), NaN, circle, ['track', 'big', 1n], [], [[]],
          ['init'], ['consent'], ['consent', 'granted'], document, window, Object.create(null)]) _veroq.push(junk);
        _veroq.push(); __vero.processVeroArray(); __vero.processVeroArray(null); __vero.processVeroArray([null]);
        _veroq.push(['track', 'still here']); }"""
    )
    wait_for(lambda: ["track", "still here"] in recorder.commands(), message="the command after the nonsense")


@pytest.mark.page_errors_expected
def test_an_error_in_a_callback_is_the_page_s_own(recorder: Recorder, page: Page) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(error.message))
    page.goto(
        recorder.page(loader(says="_veroq.push(['track', 'A', () => { throw new Error('mine') }], ['track', 'B'])"))
    )
    recorder.wait_for_commands(2)
    wait_for(lambda: [error for error in errors if "mine" in error], message="the error on the page")
    assert len(errors) == 1


def test_a_second_copy_hands_over_to_the_first(recorder: Recorder, page: Page, warnings: list[str]) -> None:
    again = (
        "<script>_veroq.push(['track', 'B']); window._veroq = [['track', 'C']]</script><script src='/m.js'></script>"
    )
    page.goto(recorder.page(loader(says="_veroq.push(['track', 'A'])") + again))
    recorder.wait_for_commands(3)
    page.evaluate("void _veroq.push(['track', 'D'])")
    assert recorder.wait_for_commands(4) == [["track", name] for name in "ABCD"]
    assert len(recorder.commands("context")) == 1
    assert page.evaluate("_veroq.ready")
    assert warnings == []


def test_the_gateway_is_where_the_script_came_from(recorder: Recorder, page: Page) -> None:
    other = f"http://t.localhost:{recorder.port}"
    expected = {
        loader("/veroq.js?v=/1#/x"): "localhost /v1/commands",
        loader("/assets/m.js"): "localhost /v1/commands",
        loader("/t/veroq.js"): "localhost /t/v1/commands",
        loader("/t/assets/m.js"): "localhost /t/v1/commands",
        loader(f"{other}/t/m.js"): "t.localhost /t/v1/commands",
        loader("/t/veroq.js", type="module"): "localhost /t/v1/commands",
        loader("/m.js", options=f"endpoint: '{other}/t/'"): "t.localhost /t/v1/commands",
        loader("/m.js", options=f"endpoint: '{other}'"): "t.localhost /v1/commands",
    }
    for html, address in expected.items():
        recorder.clear()
        page.goto(recorder.page(html))
        batch = recorder.wait_for_batches(1)[0]
        assert f"{batch.headers['host'].partition(':')[0]} {batch.path}" == address, html
        assert recorder.preflights == 0
        assert batch.headers["content-type"].startswith("text/plain")


def test_it_works_under_a_strict_policy_and_trusted_types(recorder: Recorder, page: Page, warnings: list[str]) -> None:
    policy = (
        "default-src 'none'; script-src 'nonce-abc' 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
    html = loader(says="_veroq.push(['track', 'A'])").replace("<script>", '<script nonce="abc">', 1)
    page.goto(recorder.page(html, content_security_policy=policy) + "?vero_id=1")
    assert recorder.wait_for_commands(2) == [["link", "1"], ["track", "A"]]
    page.goto("about:blank")
    assert warnings == []


def test_link_parameters_are_read_once_and_leave_the_address_as_it_was(recorder: Recorder, page: Page) -> None:
    cases: list[tuple[str, str, list[str]]] = [
        ("?vero_id=42", "", ["42"]),
        ("?vero_id=42&a=1", "?a=1", ["42"]),
        ("?a=%20+%zz&vero_id=a%2Bb%40x.io&&b#top?vero_id=7", "?a=%20+%zz&&b#top?vero_id=7", ["a+b@x.io"]),
        ("?vero_id=jane+1@x.io&e=%C3%A4", "?e=%C3%A4", ["jane+1@x.io"]),
        ("?vero_id=1&b=2&vero_id=2", "?b=2", ["1"]),
        ("?vero_id=%25E4&c", "?c", ["%E4"]),
        ("?vero_id=%E4%zz", "", ["%E4%zz"]),
        ("?vero_id=&x=", "?x=", []),
        ("?vero_id#x", "#x", []),
        ("?my_vero_id=1&vero_idx=2", "?my_vero_id=1&vero_idx=2", []),
        ("#/route?vero_id=1", "#/route?vero_id=1", []),
        ("?", "?", []),
        ("?vero_id=a=b&vero_conv=c&conv_id=d", "", ["a=b"]),
    ]
    html = "<script>history.replaceState({kept: 1}, '')</script>" + loader(says="_veroq.push(['user', {id: 9}])")
    url = recorder.page(html, "/landing")
    for query, left, links in cases:
        recorder.clear()
        recorder.page(html, "/landing")
        page.goto(url + query)
        commands = recorder.wait_for_commands(1 + len(links))
        assert commands == [*(["link", value] for value in links), ["user", {"id": 9}]], query
        assert page.evaluate("location.href") == url + left
        assert {entry["page"]["url"] for entry in recorder.accepted} == {url + left}
        assert page.evaluate("history.state") == {"kept": 1}
        times = [entry["at"] for entry in recorder.accepted]
        assert times == sorted(set(times)), "context, then the link, then what the page says"
        wait_for(lambda: page.evaluate("!Object.keys(localStorage).some(name => name.includes('-'))"))


def test_the_link_parameter_may_have_another_name_and_init_may_come_late(recorder: Recorder, page: Page) -> None:
    html = """<script src='/m.js'></script><script>
      var data = {n: 1}; _veroq.push(['track', 'Early', data]); data.n = 2;
      setTimeout(() => _veroq.push(['init', {api_key: 'API_KEY', link_param: 'who'}]), 30)</script>"""
    url = recorder.page(html)
    page.goto(url + "?vero_id=1&who=2&vero_conv=c")
    assert recorder.wait_for_commands(2) == [["link", "2"], ["track", "Early", {"n": 1}, {"vero_conv": "c"}]]
    assert {entry["page"]["url"] for entry in recorder.accepted} == {url + "?vero_id=1"}
    wait_for(
        lambda: page.evaluate("location.href") == url + "?vero_id=1", message="the parameters to leave the address"
    )


def test_a_conversion_id_stays_for_the_session(recorder: Recorder, context: BrowserContext, page: Page) -> None:
    url = recorder.page(loader(says="_veroq.push(['trackPageview'])"))
    page.goto(url + "?vero_conv=c%201")
    assert recorder.wait_for_commands(1) == [["trackPageview", None, None, {"vero_conv": "c 1"}]]
    page.goto(url)
    recorder.wait_for_commands(2)
    page.evaluate(
        "void _veroq.push(['track', 'A', {}, {source: 's'}], ['user', {id: 1}],"
        " ['track', 'B', null, {vero_conv: 'own'}], ['reset'], ['track', 'C'])"
    )
    assert recorder.wait_for_commands(7)[1:] == [
        ["trackPageview", None, None, {"vero_conv": "c 1"}],
        ["track", "A", {}, {"source": "s", "vero_conv": "c 1"}],
        ["user", {"id": 1}],
        ["track", "B", None, {"vero_conv": "own"}],
        ["reset"],
        ["track", "C"],
    ]
    assert page.evaluate("sessionStorage.length") == 0
    page.goto(url + "?conv_id=old")
    recorder.wait_for_commands(8)
    fresh = context.new_page()
    fresh.goto(url)
    assert recorder.wait_for_commands(9)[7:] == [["trackPageview", None, None, {"vero_conv": "old"}], ["trackPageview"]]


def test_the_context_of_a_page_comes_first_and_once(recorder: Recorder, context: BrowserContext) -> None:
    page = context.new_page()
    here = recorder.page(loader(says="_veroq.push(['track', 'A'])"), "/here")
    page.goto(recorder.page(f"<a href='{here}?x=1#top'>here</a>", "/from") + "?vero_id=1&y=2")
    page.click("a")
    recorder.wait_for_commands(1)
    page.evaluate("document.title = 'Another', history.pushState(0, '', '/there'), void _veroq.push(['track', 'B'])")
    recorder.wait_for_commands(2)
    commands = [entry["command"][0] for entry in recorder.accepted]
    assert commands == ["context", "track", "track"]
    told = recorder.commands("context")[0][1]
    assert told["offset"] == page.evaluate("-new Date().getTimezoneOffset() / 60")
    assert told["timezone"] == page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone")
    assert (told["language"], told["screen"]) == ("en-US", "1280x720")
    came = recorder.url("/from?y=2")
    assert recorder.accepted[1]["page"] == {"url": recorder.url("/here?x=1#top"), "referrer": came, "title": "A page"}
    assert recorder.accepted[2]["page"] == {"url": recorder.url("/there"), "referrer": came, "title": "Another"}
