"""`gateway doctor`, through the real nginx and Caddy with the sample configurations, whole and with typical faults."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import csp
from gateway.asking import Answer, Asker
from gateway.cli_pages import loader
from gateway.cookies import maybe_one_site
from gateway.doctor import Doctor, Finding, safari_on_subdomain
from gateway.errors import BadRequest
from gateway.model import Site as Model
from gateway.snippet import load_snippet
from tests.proxies import Caddy, Certificates, Nginx, Proxy
from tests.server import GatewayServer, Site

PUBLIC = "https://www.shop.example/vq"
SUBDOMAIN = "https://t.shop.example"
PAGE = "https://www.shop.example/"
Change = tuple[str, str]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    with GatewayServer(tmp_path_factory.mktemp("gateway"), environment={"GATEWAY_PUBLIC_URL": PUBLIC}) as server:
        yield server


@pytest.fixture(scope="module")
def site(gateway: GatewayServer) -> Site:
    return gateway.site(origin="https://www.shop.example")


def html(site: Site, url: str = PUBLIC, more: str = "") -> str:
    """A page with the loader that `gateway snippet` prints."""
    made = loader(Model(1, site["site"], site["api_key"], []), url, sri=False)
    return f"<html><head>{more}{made['html']}</head></html>"


def proxy(kind: type[Proxy], folder: Path, sample: str, gateway: GatewayServer, *rest: object) -> Proxy:
    return kind(folder, sample, f"127.0.0.1:{gateway.port}", *rest)  # type: ignore[arg-type]


def examine(proxy: Proxy, url: str, page: str = PAGE, key: str = "") -> list[Finding]:
    return Doctor(url, Asker(ca=proxy.certificates.ca, connect=proxy.connect), page=page, key=key).examine()


def wrong(findings: list[Finding]) -> list[str]:
    """What is not ok, as check and state."""
    return [f"{f.check} {f.state}" for f in findings if f.state in ("warn", "fail")]


@pytest.mark.parametrize(("kind", "sample"), [(Nginx, "nginx-path.conf"), (Caddy, "Caddyfile.path")])
def test_the_samples_for_a_path_are_healthy(
    tmp_path: Path, gateway: GatewayServer, site: Site, certificates: Certificates, kind: type[Proxy], sample: str
) -> None:
    with proxy(kind, tmp_path, sample, gateway, certificates) as front:
        front.page(html(site))
        findings = examine(front, PUBLIC)
        assert wrong(findings) == []
        says = {f.check: f.says for f in findings}
        assert "Secure; HttpOnly; SameSite=Lax" in says["cookie"]
        assert says["safari"].startswith("400 days")
        assert "https://www.shop.example may send" in says["origins"]
        asker = Asker(ca=certificates.ca, connect=front.connect)
        for path in ("/console", "/console/people", "/metrics"):
            assert asker.ask(f"{PUBLIC}{path}").status == 404, "not from outside"


@pytest.mark.parametrize(("kind", "sample"), [(Nginx, "nginx-subdomain.conf"), (Caddy, "Caddyfile.subdomain")])
def test_the_samples_for_a_subdomain_are_healthy(
    tmp_path: Path, gateway: GatewayServer, site: Site, certificates: Certificates, kind: type[Proxy], sample: str
) -> None:
    with proxy(kind, tmp_path, sample, gateway, certificates) as front:
        findings = examine(front, SUBDOMAIN, page="", key=site["api_key"])
        # This gateway's public URL is the path; and nobody said from which page the subdomain is used.
        assert wrong(findings) == ["arrival warn", "origins fail"]
        assert [f.check for f in findings if f.state == "skip"] == ["safari", "embedding", "policy"]


def test_a_third_party_is_told_what_safari_does(
    tmp_path: Path, site: Site, certificates: Certificates, gateway: GatewayServer
) -> None:
    url = "https://tracker.example"
    environment = {"GATEWAY_COOKIE_MODE": "third_party", "GATEWAY_PUBLIC_URL": url}
    (tmp_path / "gateway").mkdir()
    with GatewayServer(tmp_path / "gateway", environment=environment) as third:
        change = ("t.shop.example", "tracker.example")
        with proxy(Nginx, tmp_path / "nginx", "nginx-subdomain.conf", third, certificates, change) as front:
            findings = examine(front, url, page="")
            assert wrong(findings) == []
            cookie = next(f for f in findings if f.check == "cookie")
            assert "SameSite=None; Partitioned" in cookie.says


CACHE = [
    ("upstream gateway", "proxy_cache_path cache keys_zone=all:1m;\nupstream gateway"),
    ("gzip off;", "proxy_cache all; proxy_cache_valid 200 1m; proxy_ignore_headers Cache-Control Set-Cookie Vary;"),
]
FAULTS: list[tuple[str, list[Change], list[str], str]] = [
    ("no X-Forwarded-Proto", [("proxy_set_header X-Forwarded-Proto $scheme;", "")],
     ["arrival fail", "cookie fail"], "GATEWAY_TRUSTED_PROXIES"),
    ("no X-Forwarded-For", [("proxy_set_header X-Forwarded-For $remote_addr;", "")],
     ["headers fail"], "X-Forwarded-For"),
    ("no Host", [("proxy_set_header Host $http_host;", "")], ["arrival warn"], "Host header"),
    ("Origin is stripped", [("gzip off;", 'proxy_set_header Origin "";')], ["headers fail", "origins fail"], "Origin"),
    ("Sec-GPC is stripped", [("gzip off;", 'proxy_set_header Sec-GPC "";')], ["headers fail"], "Sec-GPC"),
    ("cookies are stripped", [("gzip off;", 'proxy_set_header Cookie "";')], ["cookie fail"], "Cookie on"),
    ("cookies are changed", [("gzip off;", "proxy_cookie_flags ~ samesite=none;")], ["cookie fail"], "proxy_cookie_"),
    ("cookies are added", [("gzip off;", 'add_header Set-Cookie "srv=1" always;')],
     ["cookie warn", "script warn", "script warn"], "sticky"),
    ("CORS is added", [("gzip off;", "add_header Access-Control-Allow-Origin * always;")],
     ["origins fail"], "Access-Control"),
    ("own caching rules", [("gzip off;", "expires 1d;")], ["script warn", "script warn"], "expires"),
    ("compression is lost", [("gzip off;", 'proxy_set_header Accept-Encoding "";')],
     ["script warn", "script warn"], "Accept-Encoding"),
    ("small bodies", [("client_max_body_size 1m;", "client_max_body_size 10k;")], ["inside warn"], "client_max_body"),
    ("answers are cached", CACHE, ["clock fail"], "no-store"),
    ("another path", [("location /vq/", "location /v/")], ["health fail", "health fail"], "hand everything"),
    ("links go elsewhere", [("# the site itself", "location /vq/r/ { return 404; }")], ["links warn"], "/r/"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "changes", "found", "change"), FAULTS, ids=[f[0] for f in FAULTS])
def test_each_fault_of_a_proxy_is_found_and_named(
    tmp_path: Path,
    gateway: GatewayServer,
    site: Site,
    certificates: Certificates,
    fault: str,
    changes: list[Change],
    found: list[str],
    change: str,
) -> None:
    with proxy(Nginx, tmp_path, "nginx-path.conf", gateway, certificates, *changes) as front:
        front.page(html(site))
        findings = examine(front, PUBLIC)
        assert [w for w in wrong(findings) if w in found] == found, findings
        assert any(change in f.change for f in findings)


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, gateway: GatewayServer, site: Site, certificates: Certificates
) -> Iterator[Proxy]:
    with proxy(Nginx, tmp_path_factory.mktemp("front"), "nginx-path.conf", gateway, certificates) as front:
        yield front


CSP = '<meta http-equiv="Content-Security-Policy" content="{0}">'


@pytest.mark.parametrize(
    ("policy", "found", "change"),
    [
        ("default-src 'self' 'unsafe-inline'", [], ""),
        ("script-src 'self' 'unsafe-inline'; connect-src 'self'", [], ""),
        ("script-src 'unsafe-inline' https://www.shop.example/vq/; connect-src https:", [], ""),
        ("script-src 'unsafe-inline'; connect-src 'none'", ["policy fail"], "connect-src https://www.shop.example"),
        ("script-src 'self'", ["policy fail"], "nonce"),
        ("default-src 'none'", ["policy fail"], "script-src https://www.shop.example, or"),
    ],
)
def test_the_policy_of_a_page(front: Proxy, site: Site, policy: str, found: list[str], change: str) -> None:
    front.page(html(site, more=CSP.format(policy)))
    findings = examine(front, PUBLIC)
    assert wrong(findings) == found
    assert any(change in f.change for f in findings)


def test_a_page_without_the_script_or_with_an_old_integrity_value(front: Proxy, site: Site) -> None:
    front.page("<html><script src='/other.js'></script></html>")
    assert wrong(examine(front, PUBLIC)) == ["embedding warn"]
    front.page(html(site).replace("<script async", '<script integrity="sha384-old" crossorigin="anonymous" async'))
    assert wrong(examine(front, PUBLIC)) == ["embedding warn"]
    front.page(html(site).replace("<script async", f'<script integrity="{load_snippet().integrity}" async'))
    assert wrong(examine(front, PUBLIC)) == []
    assert "embedding fail" in wrong(examine(front, PUBLIC, page=f"{PAGE}nowhere"))


def test_a_page_of_another_site_is_told_to_move_or_to_change_the_mode(front: Proxy, site: Site) -> None:
    findings = examine(front, PUBLIC, page="https://www.other.example/", key=site["api_key"])
    assert {"safari fail", "origins fail"} <= set(wrong(findings))
    safari = next(f for f in findings if f.check == "safari")
    assert "third_party" in safari.change
    origins = next(f for f in findings if f.check == "origins")
    assert "gateway site set" in origins.change


def test_a_certificate_nobody_trusts_and_a_port_where_nobody_is(front: Proxy) -> None:
    (finding,) = (f for f in Doctor(PUBLIC, Asker(connect=front.connect)).examine() if f.state == "fail")
    assert "certificate" in finding.says and "chain" in finding.change
    (finding,) = (f for f in Doctor(PUBLIC, Asker(connect="127.0.0.1:9")).examine() if f.state == "fail")
    assert "does not answer" in finding.says


def test_local_development_needs_no_proxy_and_no_key(gateway: GatewayServer) -> None:
    site = gateway.site()
    done = gateway.command("doctor", gateway.url, "--site", site["site"], check=False)
    assert "vq_dev is set and comes back" in done.stdout
    assert "FAIL" not in done.stdout
    assert "GATEWAY_PUBLIC_URL is" in done.stdout, "a warning: links lead elsewhere"
    assert "pages of any origin may use the key" in done.stdout
    assert done.returncode == 0


def test_what_is_no_gateway_is_told_at_once(gateway: GatewayServer) -> None:
    done = gateway.command("doctor", "http://localhost:9", "--json", check=False)
    said = json.loads(done.stdout)
    assert (done.returncode, said["ok"]) == (1, False)
    assert "does not answer" in said["findings"][0]["says"]
    hosts = ("www.shop.example", "ftp://www.shop.example", "https://", "https://x:99999", "https://[x")
    with pytest.raises(BadRequest, match="not the address of a page"):
        Doctor("https://www.shop.example", Asker(), page="https://[x")
    for url in (*hosts, "https://www.shop.example/?a"):
        with pytest.raises(BadRequest, match="not the address of a gateway"):
            Doctor(url, Asker())


@pytest.mark.parametrize(
    ("ours", "canonical", "life"),
    [
        (["203.0.113.9"], "t.shop.example", "400 days"),
        (["203.0.200.9"], "t.shop.example", "400 days"),
        (["198.51.100.9"], "t.shop.example", "7 days"),
        (["203.0.113.9"], "customers.tracker.net", "7 days"),
        (["2001:db8:0:1::9", "198.51.100.9"], "t.shop.example", "400 days"),
        (["2001:db8:0:2::9"], "t.shop.example", "7 days"),
    ],
)
def test_how_long_safari_keeps_a_subdomains_cookie(ours: list[str], canonical: str, life: str) -> None:
    theirs = ["203.0.113.7", "2001:db8:0:1::7"]
    assert safari_on_subdomain("www.shop.example", theirs, "t.shop.example", ours, canonical).says.startswith(life)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("www.shop.example", "t.shop.example", True),
        ("shop.example", "www.shop.example", True),
        ("www.shop.example", "tracker.example", False),
        ("10.0.0.7", "10.1.0.7", False),
        ("localhost", "127.0.0.1", False),
    ],
)
def test_hosts_that_may_be_one_site(a: str, b: str, same: bool) -> None:
    assert maybe_one_site(a, b) is same


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("https://t.shop.example", True),
        ("t.shop.example", True),
        ("*.shop.example", True),
        ("https:", True),
        ("*", True),
        ("http://t.shop.example", True),
        ("https://t.shop.example:443", True),
        ("https://t.shop.example:*", True),
        ("https://t.shop.example/vq/", True),
        ("https://t.shop.example/vq/veroq.js", True),
        ("https://t.shop.example/vq", False),
        ("https://t.shop.example:444", False),
        ("*.t.shop.example", False),
        ("shop.example", False),
        ("'self'", False),
        ("'none'", False),
        ("data:", False),
        ("'nonce-abc'", False),
    ],
)
def test_sources_of_a_policy(source: str, named: bool) -> None:
    (policy,) = csp.parse(f"default-src x; script-src {source}; script-src *")
    url = "https://t.shop.example/vq/veroq.js"
    assert csp.allows(policy, csp.SCRIPT, url, "https://www.shop.example/") is named


@pytest.mark.parametrize(
    ("policy", "nonce", "loads"),
    [
        ("script-src https://t.shop.example", False, True),
        ("script-src 'nonce-a' 'strict-dynamic' https://t.shop.example", False, False),
        ("script-src 'nonce-a' 'strict-dynamic'", True, True),
        ("script-src 'self' 'nonce-a'", True, False),
        ("script-src 'strict-dynamic' https://t.shop.example", True, False),
        ("img-src 'none'", False, True),
    ],
)
def test_policies_that_trust_by_nonce(policy: str, nonce: bool, loads: bool) -> None:
    (parsed,) = csp.parse(policy)
    url, page = "https://t.shop.example/veroq.js", "https://www.shop.example/"
    assert csp.loads(parsed, url, page, nonce=nonce) is loads


class Odd(Asker):
    """Answers whatever it is told to, as a proxy in the way might."""

    def __init__(self, answers: list[Answer]) -> None:
        self.connect = "127.0.0.1:1"
        self.answers = itertools.cycle(answers)

    def ask(self, *given: object, **named: object) -> Answer:  # type: ignore[override]
        return next(self.answers)


BODIES = [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"status": "ok"}', b'{"error": 1}', b'{"version": 7}', b"<script>",
          b'{"version": "1", "scheme": "https", "cookie": "x"}', b'<script src="http://[">_veroq</script><meta',
          b'{"version": "1", "cookie_mode": "third_party", "time": 1e300}']  # fmt: skip
VALUES = ["", "br", "gzip", "script-src https://a:b http://[ ;;,", "*", "max-age=1", "a=b; Domain=.", "//[", "\x00"]
NAMES = ["content-encoding", "content-security-policy", "cache-control", "set-cookie", "location"]


@given(
    st.lists(
        st.builds(
            Answer,
            st.sampled_from([200, 202, 204, 302, 404, 500, 503]),
            st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4),
            st.sampled_from(BODIES),
            st.just("127.0.0.1"),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=100)
def test_whatever_answers_is_a_finding_and_never_a_crash(answers: list[Answer]) -> None:
    findings = Doctor(PUBLIC, Odd(answers), page=PAGE, key="k").examine()
    assert any(f.state == "fail" for f in findings)
