"""The real nginx and Caddy with the sample configurations, on a free port and with certificates of our own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from tests.programs import required
from tests.server import ROOT, free_port

HOSTS = ("www.shop.example", "t.shop.example", "tracker.example", "www.other.example")


class Certificates:
    """A CA and a certificate for all hosts, as files in `folder`."""

    def __init__(self, folder: Path) -> None:
        ca = trustme.CA()
        leaf = ca.issue_cert(*HOSTS)
        self.ca, self.chain, self.key = folder / "ca.pem", folder / "shop.pem", folder / "shop.key"
        ca.cert_pem.write_to_path(str(self.ca))
        self.key.write_bytes(leaf.private_key_pem.bytes())
        self.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))


def edited(text: str, *changes: tuple[str, str]) -> str:
    """`text` with each first string replaced by the second; one that is not there is an error of the test."""
    for before, after in changes:
        assert before in text, f"the sample does not hold {before!r}"
        text = text.replace(before, after)
    return text


class Proxy:
    """A proxy in front of the gateway at `upstream`, if that is given: a sample of deploy/, with `changes`."""

    program = ""

    def __init__(
        self, folder: Path, sample: str, upstream: str, certificates: Certificates, *changes: tuple[str, str]
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.connect = f"127.0.0.1:{self.port}"
        self.certificates = certificates
        self.site = folder / "www"
        self.site.mkdir(parents=True)
        self.log = folder / "proxy.log"
        sample_text = (ROOT / "deploy" / sample).read_text()
        if upstream:
            changes = (("127.0.0.1:8000", upstream), *changes)
        self.config = self.configured(edited(sample_text, *changes))
        self.process: subprocess.Popen[bytes] | None = None

    def configured(self, sample: str) -> Path:
        """Writes the whole configuration; returns its file."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def page(self, html: str, name: str = "index.html") -> None:
        """A page of the site itself."""
        (self.site / name).write_text(html)

    def __enter__(self) -> Self:
        environment = os.environ | {"HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}
        with self.log.open("wb") as log:
            command = [required(self.program), *self.command()]
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise RuntimeError(f"{self.program} does not listen:\n{self.log.read_text()}")
            time.sleep(0.02)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class Nginx(Proxy):
    """nginx as whoever runs the tests, all its files in one folder."""

    program = "nginx"

    def configured(self, sample: str) -> Path:
        changes = [
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("/etc/ssl/shop.pem", str(self.certificates.chain)),
            ("/etc/ssl/shop.key", str(self.certificates.key)),
        ]
        if "/var/www/shop" in sample:
            changes.append(("/var/www/shop", str(self.site)))
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        config = self.folder / "nginx.conf"
        config.write_text(
            f"{user}daemon off;\nworker_processes 1;\npid {self.folder}/pid;\nerror_log stderr warn;\n"
            "events {}\nhttp {\naccess_log off;\ntypes { text/html html; }\n"
            f"{temporary}{edited(sample, *changes)}\n}}\n"
        )
        return config

    def command(self) -> list[str]:
        return ["-e", "stderr", "-p", str(self.folder), "-c", str(self.config)]


class Caddy(Proxy):
    """Caddy without its admin port, and with our certificates in place of its own."""

    program = "caddy"

    def configured(self, sample: str) -> Path:
        host = next(h for h in HOSTS if f"\n{h} {{" in sample)
        tls = f"\n{host} {{\n\ttls {self.certificates.chain} {self.certificates.key}\n"
        changes = [(f"\n{host} {{\n", tls)]
        if "/var/www/shop" in sample:
            changes.append(("/var/www/shop", str(self.site)))
        options = f"admin off\n\tauto_https disable_redirects\n\thttps_port {self.port}\n\tdefault_bind 127.0.0.1"
        config = self.folder / "Caddyfile"
        config.write_text(f"{{\n\t{options}\n}}\n{edited(sample, *changes)}")
        return config

    def command(self) -> list[str]:
        return ["run", "--config", str(self.config), "--adapter", "caddyfile"]
