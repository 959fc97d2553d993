"""Commands reach the gateway once, whatever happens to the network, the storage or the page, in real browsers."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.conftest import NewContext
from tests.browser.recorder import Answer, Recorder
from tests.server import wait_for

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# Waits of a second and more are noted and then cut short (or made endless); so is the time limit of a request.
TIMERS = """(() => { const real = window.setTimeout; window.delays = [];
window.setTimeout = (work, delay, ...given) => {
  if (delay == 30000) delay = LIMIT; else if (delay != 3000 && delay >= 1000) { delays.push(delay); delay = WAIT; }
  return real(work, delay, ...given); } })()"""
NEVER = 2**31 - 1
BLOCKED = """for (const name of ['localStorage', 'sessionStorage'])
Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError') } })"""


@pytest.fixture(scope="module")
def running_recorder() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def recorder(running_recorder: Recorder) -> Iterator[Recorder]:
    running_recorder.clear()
    yield running_recorder
    running_recorder.held = False


def snippet(options: str = "", says: str = "") -> str:
    init = f"var _veroq = _veroq || []; _veroq.push(['init', {{api_key: 'API_KEY', {options}}}]);"
    return f'<script>{init}{says}</script><script src="/veroq.js"></script>'


def timers(wait: float = NEVER, limit: float = NEVER) -> str:
    return TIMERS.replace("WAIT", str(wait)).replace("LIMIT", str(limit))


def push(page: Page, *commands: list[Any]) -> None:
    page.evaluate("commands => void _veroq.push(...commands)", list(commands))


def stored(page: Page) -> list[str]:
    """Names of the entries that the browser keeps."""
    names: list[str] = page.evaluate("Object.keys(localStorage).filter(name => /^vq\\.(?!conv$)/.test(name)).sort()")
    return names


def wait_until_sent(page: Page) -> None:
    wait_for(lambda: stored(page) == [], message=f"an empty queue, not {stored(page)}")


def test_a_long_queue_goes_in_order_and_in_parts(recorder: Recorder, page: Page) -> None:
    page.goto(recorder.page(snippet()))
    recorder.wait_for_commands(1, "context")
    page.evaluate("for (let n = 0; n < 120; n++) _veroq.push(['track', 'n', {n}])")
    recorder.wait_for_commands(120)
    assert [len(batch.ids) for batch in recorder.batches] == [1, 50, 50, 20]
    assert [command[2]["n"] for command in recorder.commands()] == list(range(120))

    ids = [entry["id"] for entry in recorder.accepted]
    times = [entry["at"] for entry in recorder.accepted]
    assert all(UUID7.fullmatch(one) for one in ids)
    assert ids == sorted(set(ids))
    assert times == sorted(set(times))
    assert [int(one.replace("-", "")[:12], 16) for one in ids] == times
    assert all(entry["at"] <= batch.body["sent_at"] for batch in recorder.batches for entry in batch.body["commands"])

    # by size as well, in bytes: 40 of 9 KB, two at a time
    page.evaluate("for (let n = 0; n < 40; n++) _veroq.push(['track', 'big', {n, text: 'ä'.repeat(4500)}])")
    assert [command[2]["n"] for command in recorder.wait_for_commands(160)[120:]] == list(range(40))
    assert [len(batch.ids) for batch in recorder.batches[4:]] == [2] * 20
    assert all(batch.size < 30_000 for batch in recorder.batches)

    # and one that is larger than all bounds goes alone
    page.evaluate("void _veroq.push(['track', 'a'], ['track', 'huge', {text: 'x'.repeat(3e5)}], ['track', 'b'])")
    assert [command[1] for command in recorder.wait_for_commands(163)[160:]] == ["a", "huge", "b"]
    assert recorder.most_in_flight == 1
    wait_until_sent(page)


def test_what_is_pushed_during_a_request_waits_for_the_next(recorder: Recorder, page: Page) -> None:
    page.add_init_script("Object.defineProperty(navigator, 'locks', { value: undefined })")  # as on plain http
    recorder.held = True
    page.goto(recorder.page(snippet()))
    recorder.wait_for_batches(1)
    for name in "ABC":
        push(page, ["track", name])
        page.evaluate("new Promise(done => setTimeout(done, 20))")
    recorder.held = False
    recorder.wait_for_commands(3)
    assert [len(batch.ids) for batch in recorder.batches] == [1, 3]
    assert recorder.most_in_flight == 1


def test_failures_are_repeated_after_growing_waits(recorder: Recorder, page: Page) -> None:
    page.add_init_script(timers(wait=1, limit=1000))
    recorder.answers.extend([Answer(status) for status in (500, 502, 503, 429, 404, 500, 500, 500, 500, 500)])
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'A'])")))
    recorder.wait_for_commands(1)
    delays = page.evaluate("delays")
    assert len(delays) == 10
    for step, delay in enumerate(delays):
        most = min(150, 2**step) * 1000
        assert most <= delay <= 2 * most
    assert len({tuple(batch.ids) for batch in recorder.batches}) == 1, "the same ids each time"
    wait_until_sent(page)

    # the gateway says when
    recorder.answers.extend([Answer(503, retry_after=7), Answer(429, retry_after=99), Answer(503, retry_after=10**10)])
    push(page, ["track", "B"])
    recorder.wait_for_commands(2)
    assert page.evaluate("delays.slice(10)") == [7000, 99_000, 86_400_000], "a day at most: timers overflow"

    # no answer at all
    recorder.held = True
    before = len(recorder.batches)
    push(page, ["track", "C"])
    recorder.wait_for_batches(before + 2)
    recorder.held = False
    recorder.wait_for_commands(3)
    wait_until_sent(page)
    assert page.evaluate("delays.length") >= 14


def test_a_waiting_queue_is_not_hurried_by_new_commands(recorder: Recorder, page: Page) -> None:
    page.add_init_script(timers())
    recorder.answers.append(Answer(503))
    page.goto(recorder.page(snippet()))
    wait_for(lambda: page.evaluate("delays.length"), message="the first failure")
    push(page, ["track", "A"])
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert len(recorder.batches) == 1
    page.evaluate("dispatchEvent(new Event('online'))")
    assert recorder.wait_for_commands(1) == [["track", "A"]]


def test_what_the_gateway_refuses_for_good_is_dropped_and_said(recorder: Recorder, page: Page) -> None:
    warnings: list[str] = []
    page.on("console", lambda message: warnings.append(message.text) if message.type == "warning" else None)
    recorder.answers.append(Answer(403, {"error": {"code": "unknown_key"}}))
    page.goto(recorder.page(snippet()))
    wait_for(lambda: len(warnings) == 1, message="the warning")
    assert "403" in warnings[0]
    wait_until_sent(page)
    recorder.answers.append(Answer(400, {"error": {"code": "bad_request"}}))
    push(page, ["track", "gone"])
    wait_for(lambda: len(warnings) == 2, message="the second warning")

    # too large: halves, until the one that is too large is alone
    recorder.answers.extend([Answer(413), Answer(413), Answer(413)])
    push(page, *(["track", name] for name in ("too large", "B", "C", "D")))
    assert recorder.wait_for_commands(3) == [["track", name] for name in "BCD"]
    assert [len(batch.ids) for batch in recorder.batches[2:]] == [4, 2, 1, 1, 1, 1]
    wait_for(lambda: len(warnings) == 3, message="the third warning")
    wait_until_sent(page)


def test_commands_wait_offline_and_go_at_once_when_online(
    recorder: Recorder, context: BrowserContext, page: Page
) -> None:
    page.add_init_script(timers())
    page.goto(recorder.page(snippet()))
    recorder.wait_for_commands(1, "context")
    wait_until_sent(page)
    context.set_offline(True)
    push(page, ["track", "A"])
    wait_for(lambda: page.evaluate("delays.length"), message="the failed request")
    push(page, ["track", "B"])
    assert len(stored(page)) == 2
    context.set_offline(False)
    assert recorder.wait_for_commands(2) == [["track", "A"], ["track", "B"]]
    wait_until_sent(page)


def test_a_leaving_page_sends_a_beacon_and_the_next_page_makes_sure(recorder: Recorder, page: Page) -> None:
    page.add_init_script(timers())
    recorder.answers.append(Answer(503))
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'A'])")))
    wait_for(lambda: page.evaluate("delays.length"), message="the failed request")
    push(page, ["track", "B"])
    plain = recorder.page("", "/plain")
    page.goto(plain)
    beacon = recorder.wait_for_batches(2)[1]
    assert beacon.is_beacon
    assert [command[0] for command in beacon.commands] == ["context", "track", "track"]
    assert len(stored(page)) == 3, "a beacon proves nothing"
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'C'])")))
    wait_for(lambda: len(recorder.batches) > 2, message="the next page's request")
    wait_until_sent(page)
    assert [command for batch in recorder.batches[2:] for command in batch.commands if command[0] == "track"] == [
        ["track", "A"],
        ["track", "B"],
        ["track", "C"],
    ]
    assert recorder.batches[2].ids[:3] == beacon.ids
    assert sum(batch.is_beacon for batch in recorder.batches) == 1, "hidden and gone is one leave-taking"


def test_a_beacon_leaves_out_what_is_under_way(recorder: Recorder, page: Page) -> None:
    recorder.held = True
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'A', 'x'.repeat(24000)])")))
    recorder.wait_for_batches(1)
    push(page, *(["track", f"B{number}", "x" * 11_000] for number in range(4)))  # together more than browsers let go
    page.close()
    left = [command[1] for command in recorder.wait_for_batches(2)[1].commands]
    assert left
    assert left == ["B0", "B1", "B2", "B3"][: len(left)]


def test_a_page_that_is_hidden_twice_sends_two_beacons(recorder: Recorder, page: Page) -> None:
    page.add_init_script(BLOCKED + "; " + timers())
    recorder.answers.append(Answer(503))
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'A'])")))
    wait_for(lambda: page.evaluate("delays.length"), message="the failed request")
    for count in (1, 2):
        for hidden in ("true", "false"):
            page.evaluate(
                f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}),"
                "document.dispatchEvent(new Event('visibilitychange'))"
            )
        assert recorder.wait_for_batches(1 + count)[count].commands[1:] == [["track", "A"]]
    assert len(recorder.batches) == 3


def test_two_tabs_share_the_queue(recorder: Recorder, context: BrowserContext) -> None:
    context.add_init_script(timers())
    recorder.always = Answer(503)
    url = recorder.page(snippet())
    tabs = [context.new_page(), context.new_page()]
    for number, tab in enumerate(tabs):
        tab.goto(url)
        wait_for(lambda tab=tab: tab.evaluate("delays.length"), message="the failed request")
        push(tab, *(["track", f"{number}{letter}"] for letter in "ABC"))
    first = tabs[0]
    wait_for(lambda: len(stored(first)) == 8, message="each tab to see the other's entries")
    recorder.always, recorder.held = Answer(), True
    before = len(recorder.batches)
    for tab in tabs:
        tab.evaluate("dispatchEvent(new Event('online'))")
    recorder.wait_for_batches(before + 1)
    push(tabs[1], ["track", "late"])
    tabs[1].evaluate("new Promise(done => setTimeout(done, 50))")
    assert recorder.in_flight == 1, "one request under way in the browser"
    recorder.held = False
    commands = recorder.wait_for_commands(7)
    assert sorted(command[1] for command in commands) == ["0A", "0B", "0C", "1A", "1B", "1C", "late"]
    assert len(recorder.commands("context")) == 2
    for tab in tabs:
        wait_until_sent(tab)
    sent = [(entry["id"], str(entry["command"])) for batch in recorder.batches for entry in batch.body["commands"]]
    assert len({one for one, _ in sent}) == len(set(sent)) == 9, "one id per command"


def test_blocked_storage_costs_nothing_but_the_memory_of_the_page(recorder: Recorder, page: Page) -> None:
    page.add_init_script(BLOCKED)
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'A'])")) + "?vero_conv=c")
    assert recorder.wait_for_commands(1) == [["track", "A", None, {"vero_conv": "c"}]]
    recorder.answers.append(Answer(503))
    push(page, ["track", "B"])
    recorder.wait_for_batches(2)
    push(page, ["user", {"id": 1}])
    page.close()
    assert recorder.wait_for_commands(3)[1:] == [["track", "B", None, {"vero_conv": "c"}], ["user", {"id": 1}]]
    assert recorder.batches[2].is_beacon


def test_storage_can_be_declined_and_may_be_full(recorder: Recorder, page: Page) -> None:
    page.add_init_script(timers())
    recorder.answers.append(Answer(body={"device": "token"}))
    page.goto(recorder.page(snippet("storage: false", "_veroq.push(['track', 'A'])")) + "?vero_conv=c")
    recorder.wait_for_commands(1)
    push(page, ["track", "B"])
    recorder.wait_for_commands(2)
    assert recorder.batches[1].body["device"] == "token"
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]

    page.goto(recorder.page("", "/plain"))
    page.evaluate(
        """() => { let text = 'x'.repeat(1 << 20); for (let n = 0; text; n++)
        try { localStorage['filler' + n] = text } catch { text = text.slice(text.length / 2 + 1) } }"""
    )
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'C'])")))
    recorder.wait_for_commands(3)
    push(page, ["track", "D"])
    assert [command[1] for command in recorder.wait_for_commands(4)] == ["A", "B", "C", "D"]
    assert stored(page) == []


def test_a_long_absence_keeps_the_newest_500_of_a_week(recorder: Recorder, page: Page) -> None:
    plain = recorder.page("", "/plain")
    page.goto(plain)
    page.evaluate(
        """key => { const day = 864e5, put = (at, n) => { const hex = '0' + at.toString(16);
          const id = hex.slice(0, 8) + '-' + hex.slice(8) + '-7000-a000-' + (n + '').padStart(12, 0);
          const entry = { id, at, command: ['track', 'old', { n }], page: {} };
          localStorage['vq.' + key + '.' + id] = JSON.stringify(entry) };
        for (let n = 0; n < 100; n++) put(Date.now() - 8 * day + n, n);
        for (let n = 100; n < 500; n++) put(Date.now() - 6 * day + n, n);
        localStorage['vq.other.x'] = 'of another site'; localStorage['vqx'] = localStorage['mine'] = 1; }""",
        recorder.key,
    )
    page.goto(recorder.page(snippet()))
    wait_for(lambda: stored(page) == ["vq.other.x"], 15, "the old entries to go")
    assert page.evaluate("localStorage.length") == 3
    assert [command[2]["n"] for command in recorder.commands()] == list(range(100, 500))

    page.evaluate("for (let n = 500; n < 1050; n++) _veroq.push(['track', 'new', {n}])")
    assert [command[2]["n"] for command in recorder.wait_for_commands(900)[400:]] == list(range(550, 1050))


def test_a_device_token_is_kept_until_the_cookie_works(recorder: Recorder, page: Page) -> None:
    url = recorder.page(snippet())
    recorder.answers.extend([Answer(body={"status": "ok", "device": "one"}), Answer(body={"device": "two"}), Answer()])
    for number in range(4):
        page.goto(url)
        recorder.wait_for_batches(number + 1)
        wait_for(lambda: not any("-" in name for name in stored(page)), message="the answer")
    assert [batch.body.get("device") for batch in recorder.batches] == [None, "one", "two", None]
    assert stored(page) == []


def test_a_page_that_comes_back_from_the_cache_goes_on(recorder: Recorder, page: Page) -> None:
    page.add_init_script(timers(wait=1))
    page.add_init_script("window.shows = []; addEventListener('pageshow', event => shows.push(event.persisted))")
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'A'])"), "/1"))
    recorder.wait_for_commands(1)
    wait_until_sent(page)
    page.goto(recorder.page(snippet(), "/2"))
    recorder.wait_for_commands(2, "context")
    page.evaluate("void setTimeout(() => history.back(), 0)")
    page.wait_for_function("location.pathname == '/1' && window.shows && shows.length > 1")
    assert page.evaluate("shows") == [False, True]
    push(page, ["track", "B"])
    assert recorder.wait_for_commands(2) == [["track", "A"], ["track", "B"]]
    assert len(recorder.commands("context")) == 2
    wait_until_sent(page)

    # a request that was under way when the page left does not hold up the rest
    recorder.held = True
    before = len(recorder.batches)
    push(page, ["track", "C"])
    recorder.wait_for_batches(before + 1)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    assert recorder.wait_for_batches(before + 2)[-1].ids == recorder.batches[-2].ids


def test_nothing_is_stored_or_sent_before_consent(recorder: Recorder, page: Page) -> None:
    recorder.answers.append(Answer(body={"device": "token"}))
    page.goto(recorder.page(snippet("consent: 'required'", "_veroq.push(['track', 'A'])")) + "?vero_id=1&vero_conv=c")
    push(page, ["user", {"id": 1}], ["reset"], ["track", "B"])
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert recorder.batches == []
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    push(page, ["consent", "granted"])
    assert recorder.wait_for_commands(6) == [
        ["link", "1"],
        ["track", "A"],
        ["user", {"id": 1}],
        ["reset"],
        ["track", "B"],
        ["consent", "granted"],
    ]
    wait_for(lambda: stored(page) == [f"vq.{recorder.key}"], message="the token alone")

    # withdrawn: that is said once, then nothing is left and nothing more is sent
    recorder.answers.append(Answer(body={"device": "another"}))
    push(page, ["consent", "denied"], ["track", "C"])
    assert recorder.wait_for_commands(7)[-1] == ["consent", "denied"]
    assert recorder.batches[-1].body["device"] == "token"
    wait_until_sent(page)
    push(page, ["track", "D"])
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    push(page, ["consent", "granted"], ["track", "E"])
    assert recorder.wait_for_commands(9)[7:] == [["consent", "granted"], ["track", "E"]]


def test_a_refusal_forgets_what_waits_and_what_earlier_pages_left(recorder: Recorder, page: Page) -> None:
    page.add_init_script(timers())
    recorder.answers.append(Answer(503))
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'A'])")) + "?vero_conv=c")
    wait_for(lambda: page.evaluate("delays.length"), message="the failed request")
    assert len(stored(page)) == 2
    recorder.always = Answer(503)
    says = "_veroq.push(['track', 'B'], ['consent', 'denied'], ['track', 'C'])"
    page.goto(recorder.page(snippet("consent: 'required'", says)))
    wait_for(lambda: page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0], message="empty storage")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert [
        command for batch in recorder.batches for command in batch.commands if command[1] in ("B", "C", "denied")
    ] == []


def test_a_page_says_nothing_until_it_is_seen(recorder: Recorder, page: Page) -> None:
    page.add_init_script("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    page.goto(recorder.page(snippet(says="_veroq.push(['track', 'A'])")) + "?vero_id=1")
    page.evaluate("new Promise(done => setTimeout(done, 50))")
    assert recorder.batches == []
    assert stored(page) == []
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: false }),"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    assert recorder.wait_for_commands(2) == [["link", "1"], ["track", "A"]]


def test_an_opaque_origin_without_locks_and_storage_still_sends(recorder: Recorder, new_context: NewContext) -> None:
    page = new_context().new_page()
    inner = recorder.page(snippet(f"endpoint: '{recorder.origin()}'", "_veroq.push(['track', 'A'])"), "/inner")
    page.goto(recorder.page(f"<iframe sandbox='allow-scripts' src='{inner}'></iframe>"))
    assert recorder.wait_for_commands(1) == [["track", "A"]]
