"""`gateway doctor`: looks at a live installation from outside and says what to change.

Each check is a method that yields findings. What can only be known with the page that embeds the script, or with the
site's key, is left out without it, and said to be.
"""

from __future__ import annotations

import gzip
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import brotli  # type: ignore[import-untyped]
import msgspec

from gateway import csp
from gateway.asking import Answer, Asker, NoAnswer, place_of
from gateway.cookies import is_local, maybe_one_site, set_cookie
from gateway.embedding import Embedded, embedded_in
from gateway.errors import BadRequest
from gateway.probe import PATH as PROBE
from gateway.probe import SECONDS, Seen, probe_cookie
from gateway.snippet import FOREVER, HOUR, load_snippet

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"
NOT_LISTED = "https://not-listed.invalid"
MONTH = 30 * 86400
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ok, warn, fail or skip; what is so, and what to change."""

    check: str
    state: str
    says: str
    change: str = ""


class Doctor:
    """The checks of one installation. `page` is the URL of a page that embeds the script, `key` the site's api_key."""

    def __init__(self, url: str, asker: Asker, *, page: str = "", key: str = "") -> None:
        self.url = url.rstrip("/")
        try:
            self.host, self.port = place_of(self.url)
        except NoAnswer as error:
            raise BadRequest(f"{url!r} is not the address of a gateway", error.hint) from error
        try:
            place_of(page or url)
        except NoAnswer as error:
            raise BadRequest(f"{page!r} is not the address of a page", error.hint) from error
        parts = urlsplit(self.url)
        if parts.query or parts.fragment:
            hint = "leave out what comes after ? or #"
            raise BadRequest(f"{url!r} is not the address of a gateway", hint)
        self.asker = asker
        self.page = page
        self.key = key
        self.secure = parts.scheme == "https"
        self.origin = _origin(page) if page else f"{parts.scheme}://{parts.netloc}"
        self.addresses: list[str] = []
        self.canonical = self.host
        self.seen = Seen()
        self.embedded: Embedded | None = None

    def examine(self) -> list[Finding]:
        """All findings. If nothing answers there, only that."""
        found: list[Finding] = []
        checks: tuple[Callable[[], Iterator[Finding]], ...] = (
            self.address, self.health, self.arrival, self.cookie, self.safari, self.headers, self.clock, self.embedding,
            self.policy, self.origins, self.script, self.pinned, self.links, self.inside,
        )  # fmt: skip
        for check in checks:
            try:
                found += check()
            except NoAnswer as error:
                found.append(Finding(check.__name__, FAIL, error.message, error.hint))
            if not self.seen.version and any(f.state == FAIL for f in found):
                break
        return found

    def ask(self, path: str, method: str = "GET", headers: dict[str, str] | None = None, **more: Any) -> Answer:
        """A request to the gateway."""
        return self.asker.ask(f"{self.url}{path}", method, headers, **more)

    # --- is it there ----------------------------------------------------------------------------------------------

    def address(self) -> Iterator[Finding]:
        """Every address that DNS gives must answer: browsers take any of them."""
        if self.asker.connect:
            yield Finding("address", OK, f"asked at {self.asker.connect} in place of what DNS says")
        else:
            self.addresses, self.canonical = self.asker.addresses(self.host, self.port)
            for address in self.addresses:
                try:
                    answer = self.ask("/health", at=address)
                except NoAnswer as error:
                    change = error.hint or "let the gateway's proxy answer there, or take the address out of DNS"
                    yield Finding("address", FAIL, f"{address}: {error.message}", change)
                    continue
                yield Finding("address", OK, f"{answer.address} answers")
        if not self.secure and not is_local(self.host):
            change = "let a proxy in front speak TLS, and ask again with https://"
            yield Finding("address", FAIL, "plain http: browsers keep the cookie on https only", change)

    def health(self) -> Iterator[Finding]:
        """Whether the gateway lives and can reach its database."""
        for path in ("/health", "/ready"):
            answer = self.ask(path)
            if answer.status == 200 and _json(answer).get("status") == "ok":
                yield Finding("health", OK, f"{path} is ok")
            elif answer.status == 503:
                yield Finding("health", FAIL, f"{path}: {_said(answer)}", "see the gateway's log")
            else:
                change = "let the proxy hand everything below this address to the gateway"
                yield Finding("health", FAIL, f"{path} is answered with {answer.status}, not by a gateway", change)
        if answer.expires is not None and answer.expires < time.time() + MONTH / 2:
            days = (answer.expires - time.time()) / 86400
            yield Finding("health", WARN, f"the certificate ends in {days:.0f} days", "renew it")

    # --- how requests arrive ------------------------------------------------------------------------------------------

    def arrival(self) -> Iterator[Finding]:
        """What the proxy makes of a request."""
        answer = self.ask(f"{PROBE}?value={secrets.token_hex(8)}", headers={"Origin": self.origin, "Sec-GPC": "1"})
        self.seen = _seen(answer)
        if not self.seen.version:
            yield Finding(
                "arrival", FAIL, f"{PROBE} is answered with {answer.status}", "update the gateway, or its proxy"
            )
            return
        yield Finding("arrival", OK, f"gateway {self.seen.version}, cookie mode {self.seen.cookie_mode}")
        if self.secure and self.seen.scheme != "https":
            says = "https arrives at the gateway as http, so it sets no cookie"
            change = "let the proxy send X-Forwarded-Proto, and name its address in GATEWAY_TRUSTED_PROXIES"
            yield Finding("arrival", FAIL, f"{says} (the proxy seems to be {self.seen.client})", change)
        if self.seen.host.lower() != urlsplit(self.url).netloc.lower():
            says = f"the gateway is asked for {self.seen.host}"
            yield Finding("arrival", WARN, says, "let the proxy pass on the Host header of the browser")
        public = self.seen.public_url
        if public and public != self.url:
            yield Finding("arrival", WARN, f"GATEWAY_PUBLIC_URL is {public}: links lead there", f"set it to {self.url}")
        elif not public and urlsplit(self.url).path:
            change = f"set GATEWAY_PUBLIC_URL={self.url}"
            yield Finding("arrival", FAIL, "the gateway does not know its path: links in emails lead nowhere", change)

    def cookie(self) -> Iterator[Finding]:
        """Whether the cookie is set as it should be, and comes back."""
        name = self.seen.cookie
        if name is None:
            yield Finding("cookie", FAIL, "no cookie is set on this connection", "see `arrival`, or use https")
            return
        value = secrets.token_hex(8)
        answer = self.ask(f"{PROBE}?value={value}")
        third_party = self.seen.cookie_mode == "third_party"
        wanted = set_cookie(probe_cookie(name), value, third_party=third_party, max_age=SECONDS)
        got = answer.all("set-cookie")
        if wanted not in got:
            says = f"Set-Cookie arrives as {got[0] if got else 'nothing'}, not as {wanted}"
            yield Finding("cookie", FAIL, says, "let the proxy pass Set-Cookie on as it is (no proxy_cookie_* rules)")
            return
        if len(got) > 1:
            says = f"the proxy adds {len(got) - 1} cookies of its own"
            yield Finding("cookie", WARN, says, "switch off sticky sessions and the like for the gateway")
        echoed = _seen(self.ask(PROBE, headers={"Cookie": f"{probe_cookie(name)}={value}"})).echoed
        if echoed != value:
            yield Finding("cookie", FAIL, "the cookie does not reach the gateway", "let the proxy pass Cookie on")
            return
        attributes = wanted.partition("; ")[2].replace(f"Max-Age={SECONDS}", "Max-Age=400 days")
        yield Finding("cookie", OK, f"{name} is set and comes back: {attributes}")

    def safari(self) -> Iterator[Finding]:
        """How long Safari keeps the cookie."""
        third_party = self.seen.cookie_mode == "third_party"
        if not self.page:
            yield Finding("safari", SKIP, "the cookie's life in Safari depends on the page", "give --page URL")
            return
        page = urlsplit(self.page).hostname or ""
        if not maybe_one_site(page, self.host) and not third_party:
            says = f"{self.host} is another site than {page}: browsers do not send the cookie (SameSite=Lax)"
            change = "put the gateway below a path of the page's host, or set GATEWAY_COOKIE_MODE=third_party"
            yield Finding("safari", FAIL, says, change)
        elif third_party:
            says = "Safari keeps no cookie of a third party; the token in the page's storage lasts 7 days after a visit"
            yield Finding("safari", WARN, says, "put the gateway below a path of the page's own host")
        elif page == self.host:
            yield Finding("safari", OK, "400 days: the cookie comes from the page's own host")
        elif self.asker.connect:
            yield Finding("safari", SKIP, "its life in Safari depends on DNS", "ask again without --connect")
        else:
            theirs, _ = self.asker.addresses(page, 443)
            yield safari_on_subdomain(page, theirs, self.host, self.addresses, self.canonical)

    def headers(self) -> Iterator[Finding]:
        """Headers that must come through."""
        kept = {"Origin": self.seen.origin == self.origin, "Sec-GPC": bool(self.seen.gpc)}
        if self.secure:
            kept["X-Forwarded-For"] = bool(self.seen.forwarded)
        why = {
            "Origin": "pages of any site could use the key",
            "Sec-GPC": "Global Privacy Control would not be respected",
            "X-Forwarded-For": "all visitors would share one address and one rate limit",
        }
        for name in (n for n, there in kept.items() if not there):
            yield Finding("headers", FAIL, f"{name} does not arrive: {why[name]}", f"let the proxy pass {name} on")
        if all(kept.values()):
            yield Finding("headers", OK, f"{', '.join(kept)} arrive")
        if self.secure and self.ask("/metrics").status == 200:
            says = "/metrics can be read from outside"
            yield Finding("headers", WARN, says, "let the proxy send X-Forwarded-For, or set GATEWAY_METRICS_TOKEN")

    def clock(self) -> Iterator[Finding]:
        """Whether answers are its own and fresh, and its clock agrees with this one."""
        first, again = (_seen(self.ask(PROBE)).time for _ in range(2))
        if first == again:
            change = "do not cache what says Cache-Control: no-store"
            yield Finding("clock", FAIL, "a cache in front keeps answers that are not to be kept", change)
        ahead = again - time.time()
        if abs(ahead) > 60:
            says = f"the gateway's clock is {ahead:+.0f} s away from this machine's"
            yield Finding("clock", WARN, says, "set both by NTP: tokens and times of events rest on it")
        else:
            yield Finding("clock", OK, "the clocks agree")

    # --- the page -----------------------------------------------------------------------------------------------------

    def embedding(self) -> Iterator[Finding]:
        """Whether the page loads the script from here."""
        if not self.page:
            yield Finding("embedding", SKIP, "no page to look at", "give --page URL")
            return
        self.embedded = embedded_in(self.asker, self.page, self.url)
        if self.embedded.status != 200:
            yield Finding("embedding", FAIL, f"{self.page} answers {self.embedded.status}", "give the URL of a page")
        elif not self.embedded.loaders:
            says = f"the page does not load {self.url}/veroq.js, as far as its HTML says"
            yield Finding("embedding", WARN, says, "put in what `gateway snippet SITE` prints, or ask your tag manager")
        else:
            yield Finding("embedding", OK, f"the page loads {', '.join(self.embedded.loaders)}")
        if self.embedded.integrity not in ("", load_snippet().integrity):
            says = "the page's integrity value is not that of this version: the script does not run"
            yield Finding("embedding", WARN, says, "take the new one from `gateway snippet SITE --sri`")
        self.key = self.key or self.embedded.key

    def policy(self) -> Iterator[Finding]:
        """What the page's Content-Security-Policy must allow."""
        needs = f"script-src {_origin(self.url)}; connect-src {_origin(self.url)}"
        if self.embedded is None:
            yield Finding("policy", SKIP, f"a page with a Content-Security-Policy needs: {needs}", "give --page URL")
            return
        policies = [p for header in self.embedded.policies for p in csp.parse(header)]
        missing: list[str] = []
        for policy in policies:
            nonce = self.embedded.loader_nonce
            if not csp.loads(policy, f"{self.url}/veroq.js", self.page, nonce=nonce):
                missing.append(f"script-src {_origin(self.url)}, or with 'strict-dynamic' a nonce on what loads it")
            if not csp.allows(policy, csp.CONNECT, f"{self.url}/v1/commands", self.page):
                missing.append(f"connect-src {_origin(self.url)}")
            if self.embedded.inline and not csp.runs_inline(policy, nonce=self.embedded.nonce):
                missing.append("script-src 'nonce-…', with that nonce on the inline script")
        if missing:
            says = "the page's Content-Security-Policy stops the script"
            yield Finding("policy", FAIL, says, f"add: {'; '.join(dict.fromkeys(missing))}")
        else:
            yield Finding(
                "policy", OK, "the policy allows it" if policies else "the page has no Content-Security-Policy"
            )

    def origins(self) -> Iterator[Finding]:
        """Whether the page may read answers, and pages of others may not use the key."""
        if not self.key:
            yield Finding("origins", SKIP, "no key to try", "give --site NAME, --key API_KEY, or --page URL")
            return
        body = msgspec.json.encode({"key": self.key, "commands": []})
        mine = self.ask("/v1/commands", "POST", {"Origin": self.origin, "Content-Type": "text/plain"}, body=body)
        if mine.status != 202:
            yield Finding("origins", FAIL, f"{self.origin}: {mine.status} {_said(mine)}", _hint(mine))
        allowed = (mine.all("access-control-allow-origin"), mine.all("access-control-allow-credentials"))
        if allowed != ([self.origin], ["true"]):
            says = f"CORS headers arrive as {allowed[0]} and {allowed[1]}: pages cannot read the answer"
            yield Finding("origins", FAIL, says, "let the proxy add no Access-Control-* headers and take none away")
        elif mine.status == 202:
            yield Finding("origins", OK, f"pages of {self.origin} may send, and read the answer")
        other = self.ask("/v1/commands", "POST", {"Origin": NOT_LISTED, "Content-Type": "text/plain"}, body=body)
        if other.status == 202:
            change = f"gateway site set NAME --origin {self.origin}"
            yield Finding("origins", WARN, "pages of any origin may use the key", change)

    # --- the script -----------------------------------------------------------------------------------------------

    def script(self) -> Iterator[Finding]:
        """Whether the script arrives whole, small and cachable."""
        plain = self.ask("/veroq.js", headers={"Accept-Encoding": "identity"})
        if plain.status != 200:
            yield Finding("script", FAIL, f"/veroq.js is answered with {plain.status}", "let the proxy pass it on")
            return
        yield from self.caching("/veroq.js", plain, HOUR)
        if plain.body != load_snippet().served.bodies["identity"]:
            says = "the script is another than this installation's: another version, or changed on the way"
            yield Finding("script", WARN, says, "run the doctor of the same version; switch off rewriting of scripts")
        for coding in ("br", "gzip"):
            packed = self.ask("/veroq.js", headers={"Accept-Encoding": coding})
            if unpacked(packed, coding) != plain.body:
                change = "let the proxy pass Accept-Encoding on and compress nothing itself (nginx: gzip off)"
                yield Finding("script", WARN, f"it does not come compressed with {coding}", change)
            else:
                yield Finding("script", OK, f"{coding}: {len(packed.body):,} bytes")

    def pinned(self) -> Iterator[Finding]:
        """The script by its hash."""
        name = f"/{load_snippet().name}"
        answer = self.ask(name)
        if answer.status == 302:
            yield Finding("pinned", SKIP, "another version is installed there")
        elif answer.status != 200:
            yield Finding("pinned", WARN, f"{name} is answered with {answer.status}", "let the proxy pass it on")
        else:
            yield from self.caching(name, answer, FOREVER)

    def caching(self, name: str, answer: Answer, wanted: str) -> Iterator[Finding]:
        """What caches are told."""
        got = answer.header("cache-control")
        if got == wanted:
            yield Finding("script", OK, f"{name} may be cached: {got}")
        else:
            change = "let the proxy pass on Cache-Control as it is (nginx: no `expires` for the gateway)"
            yield Finding("script", WARN, f"{name} is cached by {got or 'nothing'!r}, not by {wanted!r}", change)
        if answer.all("set-cookie"):
            yield Finding("script", WARN, f"{name} sets a cookie, so no cache keeps it", "let the proxy add none")

    # --- the rest -----------------------------------------------------------------------------------------------------

    def links(self) -> Iterator[Finding]:
        """Whether redirects of emails reach the gateway."""
        answer = self.ask("/r/doctor")
        if answer.status == 404 and "error" in _json(answer):
            yield Finding("links", OK, "redirects of emails reach the gateway")
        else:
            change = "let the proxy hand /r/ to the gateway"
            yield Finding("links", WARN, f"/r/… is answered with {answer.status}, not by the gateway", change)

    def inside(self) -> Iterator[Finding]:
        """A large push must pass."""
        answer = self.ask("/v1/commands", "POST", {"Content-Type": "text/plain"}, body=b" " * 500_000)
        if answer.status == 400:
            yield Finding("inside", OK, "large pushes arrive")
        else:
            change = "let the proxy take bodies of 512 KiB (nginx: client_max_body_size 1m)"
            yield Finding("inside", WARN, f"a push of 500 KB is answered with {answer.status}", change)


def unpacked(answer: Answer, coding: str) -> bytes | None:
    """The body of an answer that is compressed as it should be; None of another."""
    if answer.header("content-encoding") != coding:
        return None
    try:
        return bytes(brotli.decompress(answer.body) if coding == "br" else gzip.decompress(answer.body))
    except (brotli.error, OSError, EOFError, zlib.error):
        return None


def safari_on_subdomain(page: str, theirs: list[str], host: str, ours: list[str], canonical: str) -> Finding:
    """The cookie's life in Safari, which suspects a subdomain that leads to somebody else's machine.

    It looks at the CNAME, and whether the first half of both addresses is the same.
    """
    if not maybe_one_site(canonical, host):
        says = f"7 days: {host} is a CNAME to {canonical}, which Safari takes for a third party in disguise"
    elif not {_half(a) for a in ours} & {_half(a) for a in theirs}:
        says = f"7 days: the addresses of {host} ({', '.join(ours)}) and {page} ({', '.join(theirs)}) begin differently"
    else:
        return Finding("safari", OK, "400 days: the subdomain's address begins like the page's")
    return Finding("safari", WARN, says, f"put the gateway below a path of {page}, or behind the same proxy or CDN")


def _half(address: str) -> str:
    bits = 16 if ip_address(address).version == 4 else 64
    return str(ip_network(f"{address}/{bits}", strict=False))


def _origin(url: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(url))


def _json(answer: Answer) -> Json:
    try:
        data = msgspec.json.decode(answer.body)
    except msgspec.DecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _seen(answer: Answer) -> Seen:
    """What the probe answered; empty for anything else."""
    try:
        return msgspec.json.decode(answer.body, type=Seen)
    except msgspec.DecodeError:
        return Seen()


def _said(answer: Answer) -> str:
    error = _json(answer).get("error")
    return str(error.get("message")) if isinstance(error, dict) else ""


def _hint(answer: Answer) -> str:
    error = _json(answer).get("error")
    return str(error.get("hint")) if isinstance(error, dict) else ""
