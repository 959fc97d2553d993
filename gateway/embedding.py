"""How a page embeds the script: its loaders, their integrity and nonce, its policies, and the key in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

from gateway.asking import Asker

NAMES = re.compile(r"/(?:assets/m|m|veroq[.\w]*)\.js(?:[?#]|$)")
KEY = re.compile(r"""api_key['"]?\s*:\s*['"]([0-9a-f]{40})['"]""")
URLS = re.compile(r"""['"]((?:https?:)?/[^'"\s]*)['"]""")
MAX_REDIRECTS = 5


@dataclass(slots=True)
class Embedded:
    """What a page's HTML and headers say.

    `inline`: a script in it uses _veroq; `nonce`: that one carries a nonce; `loader_nonce`: so does what loads ours.
    """

    status: int = 200
    policies: list[str] = field(default_factory=list)
    loaders: list[str] = field(default_factory=list)
    integrity: str = ""
    inline: bool = False
    nonce: bool = False
    loader_nonce: bool = False
    key: str = ""


class _Page(HTMLParser):
    """Collects scripts and policies."""

    def __init__(self, page: str, gateway: str) -> None:
        super().__init__()
        self.page, self.gateway = page, gateway
        self.found = Embedded()
        self._script: dict[str, str | None] | None = None
        self._text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "script":
            self._script, self._text = given, ""
            self._loads(given.get("src") or "", given)
        elif tag == "meta" and (given.get("http-equiv") or "").lower() == "content-security-policy":
            self.found.policies.append(given.get("content") or "")

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag != "script" or self._script is None:
            return
        if "_veroq" in self._text:
            self.found.inline = True
            self.found.nonce = bool(self._script.get("nonce"))
            if key := KEY.search(self._text):
                self.found.key = key[1]
        for url in URLS.findall(self._text):
            self._loads(url, {"nonce": self._script.get("nonce")})
        self._script = None

    def _loads(self, url: str, attributes: dict[str, str | None]) -> None:
        try:
            whole = urljoin(self.page, url)
        except ValueError:
            return
        if url and whole.startswith(f"{self.gateway}/") and NAMES.match(whole.removeprefix(self.gateway)):
            self.found.loaders.append(whole)
            self.found.loader_nonce = self.found.loader_nonce or bool(attributes.get("nonce"))
            self.found.integrity = attributes.get("integrity") or self.found.integrity


def embedded_in(asker: Asker, page: str, gateway: str) -> Embedded:
    """Fetches a page and reads it. Raises NoAnswer."""
    for _ in range(MAX_REDIRECTS):
        answer = asker.ask(page, headers={"Accept": "text/html", "User-Agent": "gateway doctor"})
        location = answer.header("location")
        if answer.status not in (301, 302, 303, 307, 308) or urlsplit(urljoin(page, location)).scheme not in (
            "http",
            "https",
        ):
            break
        page = urljoin(page, location)
    parser = _Page(page, gateway)
    parser.feed(answer.body.decode("utf-8", "replace"))
    parser.close()
    parser.found.status = answer.status
    parser.found.policies += answer.all("content-security-policy")
    return parser.found
