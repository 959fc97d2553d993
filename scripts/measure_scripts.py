"""Measures the scripts that pages load today, from their npm packages, beside ours: a table for docs/snippet.md.

Each file is what its vendor tells pages to load, or the nearest there is in the package. What is not minified is
minified as ours is; then gzip -9 and brotli 11. It needs npm and a registry, so no test runs it.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import brotli
import minify

from gateway.snippet import load_snippet

SCRIPTS = {
    "@getvero/tracking": "dist/index.window.js",
    "umami": "src/tracker/index.js",
    "@plausible-analytics/tracker": "plausible.js",
    "@snowplow/browser-tracker": "dist/index.umd.min.js",
    "@suprsend/web-sdk": "dist/es/index.js",
    "@segment/analytics-next": "dist/umd/standalone.js",
    "@rudderstack/analytics-js": "dist/npm/modern/bundled/umd/index.js",
    "@amplitude/analytics-browser": "lib/scripts/amplitude-min.js",
    "mixpanel-browser": "dist/mixpanel.min.js",
    "clevertap-web-sdk": "clevertap.min.js",
    "posthog-js": "dist/array.js",
}


class Measured(NamedTuple):
    """Bytes of one script."""

    name: str
    version: str
    file: str
    plain: int
    gzip: int
    brotli: int


def measure(name: str, version: str, file: str, script: bytes) -> Measured:
    """The sizes of a script as it would travel."""
    short = min(script, minify.string("text/javascript", script.decode()).encode(), key=len)
    return Measured(name, version, file, len(short), len(gzip.compress(short, 9)), len(brotli.compress(short)))


def packed(name: str, folder: str) -> tuple[str, bytes]:
    """(version, the script) out of a package's newest release."""
    command = ["npm", "pack", "--silent", "--json", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    said = json.loads(done.stdout)[0]
    archive = Path(folder, said["filename"])
    archive = archive if archive.exists() else next(Path(folder).glob(f"*{said['version']}.tgz"))
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as files:
        member = files.extractfile(f"package/{SCRIPTS[name]}")
        assert member is not None
        return str(said["version"]), member.read()


def main() -> int:
    ours = load_snippet().source.bodies["identity"]
    found = [measure("**veroq.js**", "", "static/veroq.js", ours)]
    with tempfile.TemporaryDirectory() as folder:
        for name, file in SCRIPTS.items():
            try:
                version, script = packed(name, folder)
            except (subprocess.SubprocessError, KeyError, json.JSONDecodeError, StopIteration) as error:
                print(f"{name} could not be measured: {error!r}", file=sys.stderr)
                continue
            found.append(measure(name, version, file, script))
    print(f"Measured on {datetime.now(UTC):%d %B %Y}.\n")
    print("| script | version | file | minified | gzip -9 | brotli 11 |\n|---|---|---|---|---|---|")
    for m in sorted(found, key=lambda m: m.gzip):
        print(f"| {m.name} | {m.version} | `{m.file}` | {m.plain:,} | {m.gzip:,} | {m.brotli:,} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
