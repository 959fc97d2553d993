"""The demo shop without a browser: its pages, what it refuses, its stories, and the words of its panel."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.demo import guide, words
from gateway.demo.guide import BY_KEY, STORIES, Walk
from gateway.demo.shoppers import MAX_MAILS, MAX_SHOPPERS, PRODUCTS, Inbox, Shoppers
from tests.server import GatewayServer

DEMO = Path(guide.__file__).parent
PAGES = ["/", "/products/dusk-lamp", "/products/tide-teapot", "/login", "/basket", "/thanks", "/inbox"]
NASTY = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


class DemoServer(GatewayServer):
    """`gateway demo` in place of `gateway serve`."""

    arguments = ("demo",)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    with DemoServer(tmp_path_factory.mktemp("demo")) as server:
        yield server


@pytest.fixture
def browser(server: DemoServer) -> Iterator[httpx.Client]:
    """A new browser without JavaScript."""
    with httpx.Client(base_url=server.url, follow_redirects=True, timeout=10, trust_env=False) as client:
        yield client


class Tags(HTMLParser):
    """The start tags of a page, with their attributes; and the text of inline scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag == "script" and "src" not in dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts.append(data)


# --- pages


@pytest.mark.parametrize("path", PAGES)
def test_a_page_allows_its_own_scripts_only(browser: httpx.Client, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    nonce = re.search(r"'nonce-([\w-]{20,})'", policy)
    assert nonce
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    page = Tags(answer.text)
    inline = [attributes for tag, attributes in page.tags if tag == "script" and "src" not in attributes]
    assert [attributes.get("nonce") for attributes in inline] == [nonce[1]]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]


def test_every_page_view_has_a_nonce_of_its_own(browser: httpx.Client) -> None:
    policies = {browser.get("/").headers["content-security-policy"] for _ in range(3)}
    assert len(policies) == 3


def test_the_snippet_is_embedded_as_a_customer_would(browser: httpx.Client) -> None:
    [script] = Tags(browser.get("/").text).scripts
    assert re.search(r"_veroq\.push\(\['init', \{ api_key: \"[0-9a-f]{40}\" \}\]\);", script)
    assert "ve.src = '/veroq.js';" in script
    assert browser.get("/veroq.js").status_code == 200


def test_no_file_names_another_host() -> None:
    files = [path for path in DEMO.rglob("*") if path.suffix in (".html", ".css", ".js", ".svg")]
    assert len(files) > 10
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text), path.name
    assert "innerHTML" not in (DEMO / "static/demo.js").read_text()


@pytest.mark.parametrize("name", ["demo.css", "demo.js", "icon.svg"])
def test_static_files_are_served(browser: httpx.Client, name: str) -> None:
    assert browser.get(f"/demo/static/{name}").status_code == 200


def test_what_is_typed_is_shown_as_text(browser: httpx.Client) -> None:
    form = {"number": NASTY[:70], "name": NASTY[:60], "email": "eve@x.io"}
    page = browser.post("/login", data=form)
    assert page.status_code == 200
    tags = Tags(page.text)
    assert "img" not in [tag for tag, _ in tags.tags]
    assert len(tags.scripts) == 1
    assert "alert(1)" in tags.scripts[0]
    assert "</script><script>" not in page.text


def test_a_login_pushes_reidentify_before_user(browser: httpx.Client) -> None:
    page = browser.post("/login", data={"number": "901", "name": "Eve", "email": "Eve@X.io"})
    [script] = Tags(page.text).scripts
    pushed = re.findall(r"_veroq\.push\((.*)\);", script)
    assert pushed[1:] == [
        '["reidentify", "901", "eve@x.io"]',
        '["user", {"id": "901", "email": "eve@x.io", "name": "Eve"}]',
        '["trackPageview"]',
    ]
    assert "reidentify" not in Tags(browser.get("/").text).scripts[0]


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/subscribe", {"email": "nobody"}, 422),
        ("/subscribe", {"email": "a@b.io<script>"}, 422),
        ("/subscribe", {}, 422),
        ("/login", {"number": " "}, 422),
        ("/login", {"number": "42", "email": "jo"}, 422),
        ("/basket", {"product": "sofa"}, 422),
        ("/buy", {}, 422),
        ("/import", {"csv": ""}, 422),
        ("/import", {"csv": "id,name\n"}, 422),
        ("/import", {"csv": "id,name\nnobody,Jo"}, 422),
        ("/import", {"csv": 'id,name\n"jo@x.io,Jo'}, 422),
        ("/import", {"csv": "id\n" + "jo@x.io\n" * 21}, 422),
        ("/import", {"csv": "x" * 20_000}, 413),
        ("/demo/story/none", {}, 404),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(
    browser: httpx.Client, path: str, form: dict[str, str], status: int
) -> None:
    answer = browser.post(path, data=form)
    assert answer.status_code == status
    assert "Not like that." in answer.text


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"a=1&" * 30, b"%%%", b"email=%00%ff"])
def test_any_bytes_are_a_clear_refusal(browser: httpx.Client, body: bytes) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    for path in ("/subscribe", "/login", "/basket", "/buy", "/import"):
        assert 400 <= browser.post(path, content=body, headers=headers).status_code < 500


@pytest.mark.parametrize("path", ["/products/sofa", "/inbox/999", "/products/%00"])
def test_what_does_not_exist_is_a_404(browser: httpx.Client, path: str) -> None:
    assert browser.get(path).status_code == 404


def test_forms_of_other_sites_are_refused(browser: httpx.Client) -> None:
    form = {"csv": "id\nforged@x.io"}
    answer = browser.post("/import", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "forged@x.io" not in browser.get("/inbox").text


def test_an_import_sends_a_mail_with_signed_and_raw_links(browser: httpx.Client, server: DemoServer) -> None:
    page = browser.post("/import", data={"csv": "id,first_name\nAda@x.io,Ada"})
    mail = browser.get(re.findall(r"/inbox/\d+", page.text)[0]).text
    links = [a["href"] or "" for tag, a in Tags(mail).tags if tag == "a" and "vero_id=" in (a["href"] or "")]
    assert len(links) == 2
    assert re.search(r"vero_id=[\w.-]{40,}$", links[0])
    assert links[1].endswith("vero_id=ada%40x.io")
    [redirect, *_] = [a["href"] or "" for tag, a in Tags(mail).tags if "/r/" in (a.get("href") or "")]
    landed = browser.get(redirect)
    assert landed.status_code == 200
    assert str(landed.url) == f"{server.url}/products/dusk-lamp?utm_source=inbox&utm_medium=email"


def test_a_new_browser_loses_the_cookie_and_the_login_but_not_the_story(browser: httpx.Client) -> None:
    browser.post("/demo/story/shared")
    browser.post("/login", data={"number": "902", "name": "Eve"})
    before = browser.cookies["demo_session"]
    browser.cookies.set("vq_dev", "anything", domain="localhost.local")
    page = browser.post("/demo/fresh")
    assert browser.cookies["demo_session"] != before
    assert "vq_dev" not in browser.cookies
    assert "Log out" not in page.text
    assert "Bob, then Adam" in page.text


def test_a_session_cookie_that_was_never_given_out_is_no_session(browser: httpx.Client) -> None:
    browser.cookies.set("demo_session", "forged", domain="localhost.local")
    browser.get("/")
    assert "forged" not in [cookie.value for cookie in browser.cookies.jar]


def test_the_panel_answers_without_any_cookie(browser: httpx.Client) -> None:
    panel = browser.get("/demo/panel.json")
    assert panel.headers["cache-control"] == "no-store"
    told = panel.json()
    assert told["who"]["state"] == "unseen"
    assert (told["profile"], told["story"], told["events"], told["notes"]) == (None, [], [], [])


@pytest.mark.parametrize("cookie", ["", "x", "é" * 3, "a" * 4000])
def test_a_forged_device_cookie_is_no_cookie(browser: httpx.Client, cookie: str) -> None:
    panel = browser.get("/demo/panel.json", headers={"cookie": f"vq_dev={cookie}".encode()})
    assert panel.status_code == 200
    assert panel.json()["who"]["state"] == "unseen"


# --- what the shop remembers


def test_sessions_and_mails_are_bounded() -> None:
    shoppers = Shoppers()
    first, _ = shoppers.add()
    for _ in range(MAX_SHOPPERS):
        shoppers.add()
    assert shoppers.get(first) is None
    inbox = Inbox()
    for n in range(MAX_MAILS + 5):
        inbox.add(
            to=f"{n}@x.io",
            name="",
            subject="",
            lead="",
            product=PRODUCTS["dusk-lamp"],
            redirect="",
            signed="",
            raw="",
        )
    assert len(list(inbox)) == MAX_MAILS
    assert inbox.get(1) is None
    assert next(iter(inbox)).to == f"{MAX_MAILS + 4}@x.io"


# --- stories


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.key)
def test_a_story_can_be_walked_to_its_end(story: guide.Story) -> None:
    walk = Walk(story, story.cast)
    for step in story.steps:
        assert walk.tell(step.title)
        assert walk.tell(step.text)
        walk.record(step.done_by)
    assert walk.done
    assert "{" not in walk.tell(story.ending)


def test_a_step_is_done_by_its_own_action_only() -> None:
    walk = Walk(BY_KEY["subscribe"], BY_KEY["subscribe"].cast)
    walk.record("login")
    assert walk.step == 0
    walk.record("subscribe")
    assert walk.step == 1


def test_forms_suggest_who_comes_next() -> None:
    story = BY_KEY["claim"]
    walk = Walk(story, tuple(person.in_run(2) for person in story.cast))
    suggested = walk.suggestion("login")
    assert suggested
    assert (suggested.name, suggested.number, suggested.email) == ("Max", "182", "nora2@x.io")


# --- words


def fact(kind: str, outcome: str, *values: str, proof: str = "claimed", op_id: str = "1") -> dict[str, Any]:
    return {
        "op_id": op_id,
        "kind": kind,
        "outcome": outcome,
        "actor": "page",
        "proof": proof,
        "at": f"2026-01-01T00:00:0{op_id[0]}Z",
        "device_id": "7",
        "identities": [{"kind": "id", "value": value} for value in values],
        "moved": {"visitors": 1, "identities": 0},
        "undone_by": None,
        "reason": None,
    }


def text(sentence: words.Sentence) -> str:
    return "".join(part.get("text", "") + part.get("value", "") for part in sentence)


def test_a_fact_is_told_as_a_sentence_with_its_values_apart() -> None:
    told = words.tell(fact("reidentify", "renamed", "42", "<b>jo@x.io</b>"))
    assert text(told["sentence"]) == "<b>jo@x.io</b> is called 42 from now on. Same profile, same history."
    assert {"value": "<b>jo@x.io</b>"} in told["sentence"]


def test_values_are_never_read_as_templates() -> None:
    told = words.tell(fact("login", "attached", "{1.__class__}"))
    assert text(told["sentence"]).startswith("Logged in as {1.__class__}.")


@pytest.mark.parametrize(("kind", "outcome"), [*words.FACTS, ("something", "new")])
def test_every_fact_can_be_told(kind: str, outcome: str) -> None:
    assert text(words.tell(fact(kind, outcome, "42", "jo@x.io"))["sentence"])
    assert text(words.tell(fact(kind, outcome))["sentence"])


def profile(*identities: str, **properties: str) -> dict[str, Any]:
    return {
        "profile_id": "1",
        "primary": identities[0] if identities else None,
        "identities": [{"kind": "id", "value": value, "proof": "claimed", "since": ""} for value in identities],
        "properties": properties,
        "tags": [],
        "subscribed": True,
        "tentative": False,
        "visitors": [],
        "events": 0,
    }


def panel(profile: dict[str, Any] | None, *, tentative: bool = False) -> dict[str, Any]:
    turns = [{"profile": profile, "name": "42", "tentative": tentative, "events": 1}] if profile else []
    nothing: dict[str, Any] = {"events": [], "facts": [], "identity_errors": [], "held": []}
    return nothing | {"device_id": "7", "profile": profile, "turns": turns}


@pytest.mark.parametrize(
    ("shown", "state", "title"),
    [
        (panel(None), "unseen", "a new browser"),
        (panel(profile()), "anonymous", "a stranger"),
        (panel(profile("42")), "known", "42"),
        (panel(profile("42", "jo@x.io", name="Jo")), "known", "Jo"),
        (panel(profile("jo@x.io"), tentative=True), "tentative", "jo@x.io"),
    ],
)
def test_a_browser_is_called_by_what_is_known_of_it(shown: dict[str, Any], state: str, title: str) -> None:
    who = words.describe(shown)["who"]
    assert (who["state"], who["title"]) == (state, title)
