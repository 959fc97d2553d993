"""The script for the page: minified, compressed and hashed once, then served as fixed bytes.

The minifier is tdewolff-minify, a library without a subprocess: it renames local variables and comes within 1 % of
terser. rjsmin, the other one tried, only removes spaces and comments: a fifth more bytes after gzip.
"""

import base64
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import brotli  # type: ignore[import-untyped]
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway import __version__
from gateway.model import Site

try:
    import minify  # type: ignore[import-untyped]
except (ImportError, OSError):  # not built for this platform: pages get the readable file, which works as well
    minify = None

HOUR = "public, max-age=3600, stale-while-revalidate=86400"
FOREVER = "public, max-age=31536000, immutable"
HEADERS = {
    "Content-Type": "text/javascript; charset=utf-8",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
    "Access-Control-Allow-Origin": "*",  # integrity checks of other origins need it
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Timing-Allow-Origin": "*",
    "X-Gateway-Version": __version__,
}
LOADER = """<script>
  var _veroq = _veroq || [];
  _veroq.push(['init', {{ {options} }}]);
</script>
{tag}
"""


@dataclass(frozen=True)
class Script:
    """One file by content coding (`br`, `gzip`, `identity`), and the hash of what is in it."""

    bodies: Mapping[str, bytes]
    digest: str

    @classmethod
    def of(cls, body: bytes) -> "Script":
        """A script with every coding it is served in."""
        packed = {
            "br": brotli.compress(body, mode=brotli.MODE_TEXT, quality=11),
            "gzip": gzip.compress(body, 9, mtime=0),
            "identity": body,
        }
        return cls(packed, hashlib.sha256(body).hexdigest())

    def etag(self, coding: str) -> str:
        """A strong tag names bytes, so each coding has its own."""
        return f'"{self.digest[:20]}-{coding}"'


@dataclass(frozen=True)
class Snippet:
    """veroq.js as pages load it, and as people read it."""

    served: Script
    source: Script

    @property
    def name(self) -> str:
        """File name that changes with the content, for pages that pin a version."""
        return f"veroq.{self.served.digest[:10]}.js"

    @property
    def integrity(self) -> str:
        """Value for the `integrity` attribute of a script tag."""
        digest = hashlib.sha384(self.served.bodies["identity"]).digest()
        return f"sha384-{base64.b64encode(digest).decode()}"

    def tag(self, gateway_url: str) -> str:
        """Script tag with the pinned version. `gateway_url` is what stands before `/veroq.js`."""
        source = f"{gateway_url.rstrip('/')}/{self.name}"
        return f'<script async src="{source}" integrity="{self.integrity}" crossorigin="anonymous"></script>'


@cache
def load_snippet() -> Snippet:
    """The snippet of this installation: inside the package in a wheel, beside it in a checkout."""
    packaged = files("gateway") / "static" / "veroq.js"
    checkout = Path(__file__).parent.parent / "static" / "veroq.js"
    source = (packaged if packaged.is_file() else checkout).read_text(encoding="utf-8")
    short = minify.string("text/javascript", source) if minify else source
    return Snippet(Script.of(short.encode()), Script.of(source.encode()))


def loader(site: Site, url: str, *, sri: bool, consent: bool = False) -> dict[str, str]:
    """What to paste into every page of a site, and what a Content-Security-Policy needs for it."""
    loaded = load_snippet()
    options = f"api_key: '{site.api_key}'"
    if site.link_param != "vero_id":
        options += f", link_param: '{site.link_param}'"
    if consent:
        options += ", consent: 'required'"
    tag = loaded.tag(url) if sri else f'<script async src="{url}/veroq.js"></script>'
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    return {
        "html": LOADER.format(options=options, tag=tag),
        "api_key": site.api_key,
        "src": f"{url}/{loaded.name}" if sri else f"{url}/veroq.js",
        "integrity": loaded.integrity,
        "csp": f"script-src {origin}; connect-src {origin}",
    }


def best_coding(accept_encoding: str) -> str:
    """The coding the client likes most, the smaller one where it likes two alike; `identity` for anything unclear."""
    weights: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        coding, _, weight = item.replace(" ", "").partition(";q=")
        try:
            weights[coding] = float(weight or 1)
        except ValueError:
            weights[coding] = 0
    best = max(("br", "gzip"), key=lambda coding: weights.get(coding, weights.get("*", 0)))
    return best if weights.get(best, weights.get("*", 0)) > 0 else "identity"


def serve(request: Request, script: Script, caching: str) -> Response:
    """The script, or 304. Nothing but Accept-Encoding and If-None-Match has a say, so any cache may keep it."""
    coding = best_coding(request.headers.get("accept-encoding", ""))
    headers = HEADERS | {"Cache-Control": caching, "ETag": script.etag(coding)}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if script.etag(coding) in known or "*" in known:
        del headers["Content-Type"]
        return Response(status_code=304, headers=headers)
    if coding != "identity":
        headers["Content-Encoding"] = coding
    body = script.bodies[coding]
    headers["Content-Length"] = str(len(body))
    return Response(b"" if request.method == "HEAD" else body, headers=headers)


async def latest(request: Request) -> Response:
    """The script of this version, under a name that stays."""
    return serve(request, load_snippet().served, HOUR)


async def readable(request: Request) -> Response:
    """The script as it was written."""
    return serve(request, load_snippet().source, HOUR)


async def pinned(request: Request) -> Response:
    """The version that is named by its hash. Any other name leads to the latest, so an upgrade breaks no page without
    an integrity value; with one, the browser itself says what is wrong."""
    if request.url.path.endswith(f"/{load_snippet().name}"):
        return serve(request, load_snippet().served, FOREVER)
    headers = {"Cache-Control": "no-cache", "Access-Control-Allow-Origin": "*"}
    return RedirectResponse("veroq.js", 302, headers)


def routes() -> list[Route]:
    """Where the script is served."""
    return [
        *(Route(path, latest) for path in ("/veroq.js", "/m.js", "/assets/m.js")),
        Route("/veroq.src.js", readable),
        Route("/veroq.{digest}.js", pinned),
    ]
