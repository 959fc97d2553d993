"""What a page's Content-Security-Policy lets the script do: be loaded, and send."""

from __future__ import annotations

from urllib.parse import urlsplit

Policy = dict[str, list[str]]

SCRIPT = ("script-src-elem", "script-src", "default-src")
CONNECT = ("connect-src", "default-src")
PORTS = {"http": 80, "https": 443}


def parse(header: str) -> list[Policy]:
    """The policies of a header; each must allow what a page does. Of a directive that comes twice the first counts."""
    policies = []
    for text in header.split(","):
        policy: Policy = {}
        for part in text.split(";"):
            name, *sources = part.split() or [""]
            if name:
                policy.setdefault(name.lower(), sources)
        if policy:
            policies.append(policy)
    return policies


def sources(policy: Policy, names: tuple[str, ...]) -> tuple[str, list[str]] | None:
    """(the directive that decides, its sources); None where everything is allowed."""
    return next(((name, policy[name]) for name in names if name in policy), None)


def allows(policy: Policy, names: tuple[str, ...], url: str, page: str) -> bool:
    """Whether the page may reach a URL; a script by its address, that is: not counting what a nonce brings along."""
    found = sources(policy, names)
    return found is None or any(matches(source, url, page) for source in found[1])


def matches(source: str, url: str, page: str) -> bool:
    """Whether one source of a directive names a URL; one that is no source names nothing."""
    try:
        return _matches(source, url, page)
    except ValueError:  # a port that is no number, an open bracket
        return False


def _matches(source: str, url: str, page: str) -> bool:
    wanted, own = urlsplit(url), urlsplit(page)
    lower = source.lower()
    if lower == "'self'":
        return (wanted.scheme, _host(url)) == (own.scheme, _host(page))
    if lower == "*":
        return wanted.scheme in PORTS
    if lower.startswith("'"):
        return False
    if lower.endswith(":") and "/" not in lower:
        return _scheme_fits(lower[:-1], wanted.scheme)
    given = urlsplit(source if "://" in source else f"{own.scheme}://{source}")
    if not _scheme_fits(given.scheme, wanted.scheme):
        return False
    host, _, port = given.netloc.lower().partition(":")
    named = host == (wanted.hostname or "") or (host.startswith("*.") and (wanted.hostname or "").endswith(host[1:]))
    open_port = port == "*" or int(port or PORTS[wanted.scheme]) == (wanted.port or PORTS[wanted.scheme])
    if not given.path or given.path == "/":
        return named and open_port
    path = wanted.path.startswith(given.path) if given.path.endswith("/") else wanted.path == given.path
    return named and open_port and path


def runs_inline(policy: Policy, *, nonce: bool) -> bool:
    """Whether an inline script runs: allowed as such, or by a nonce that it carries, or perhaps by a hash."""
    found = sources(policy, SCRIPT)
    if found is None:
        return True
    lower = [s.lower() for s in found[1]]
    hashed = any(s.startswith(("'sha256-", "'sha384-", "'sha512-")) for s in lower)
    nonced = any(s.startswith("'nonce-") for s in lower)
    return hashed or (nonced and nonce) or ("'unsafe-inline'" in lower and not nonced)


def loads(policy: Policy, url: str, page: str, *, nonce: bool) -> bool:
    """Whether a script is loaded: by its address, or by a nonce on its tag or on the script that adds the tag.

    With `'strict-dynamic'` addresses count for nothing, and a script with a nonce may add others; without it, it may
    add those whose address is allowed.
    """
    found = sources(policy, SCRIPT)
    lower = [s.lower() for s in found[1]] if found else []
    if "'strict-dynamic'" in lower:
        return nonce and any(s.startswith("'nonce-") for s in lower)
    return allows(policy, SCRIPT, url, page)


def _scheme_fits(given: str, wanted: str) -> bool:
    return given == wanted or (given == "http" and wanted == "https")


def _host(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or PORTS.get(parts.scheme)
