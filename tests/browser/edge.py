"""What stands between browsers and gateways on the internet: names, certificates of a CA, and a reverse proxy."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
import threading
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.browser.pages import Listener, SiteHost, Visit
from tests.server import wait_for

# Every test has a town of its own: WebKit's cookies outlive a test, which would mix tests up.
TOWNS = 60
HOP_BY_HOP = ("connection", "content-length", "keep-alive", "transfer-encoding", "date", "server")


class Edge(SiteHost):
    """Websites on https://NAME.test and http://plain.test, and the gateways behind them.

    `gateways` says which gateway answers at a host, or below a path of it: {"t.shop1.test": url, "shop1.test/t": url}.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        towns = range(1, TOWNS + 1)
        self.names = [f"{name}{n}.test" for n in towns for name in ("shop", "t.shop", "other", "tracker")]
        self.ca = trustme.CA()
        leaf = self.ca.issue_cert(*self.names, "blocked.test", "listed.test")
        key, chain = folder / "key.pem", folder / "chain.pem"
        leaf.private_key_pem.write_to_path(key)
        chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        public = load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).public_key()
        digest = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
        self.pin = base64.b64encode(digest).decode()
        self.gateways: dict[str, str] = {}
        self.town = 0
        self._tls = Listener(self, ssl_keyfile=key, ssl_certfile=chain)
        self.tls_port = self._tls.port
        self.proxy = Proxy(self.tls_port, self.port)

    def __enter__(self) -> Self:
        self._tls.start()
        self.proxy.start()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        self.proxy.stop()
        self._tls.stop()
        super().__exit__()

    def clear(self) -> None:
        super().clear()
        self.gateways.clear()
        self.town = self.town % TOWNS + 1

    def trust(self) -> ssl.SSLContext:
        """For clients that check certificates: the CA's are right, and no others."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context

    @property
    def addresses(self) -> dict[str, int]:
        """The port that each name is led to; plain.test has no certificate."""
        return {"plain.test": self.port, "*.test": self.tls_port}

    def host(self, name: str) -> str:
        """`shop` as this test's town has it: shop7.test."""
        return f"{name}{self.town}.test"

    def commands(self, host: str = "") -> list[Visit]:
        """The requests with commands that came for gateways, beacons too."""
        sent = [visit for visit in self.visits if visit.method == "POST" and visit.path.endswith("/v1/commands")]
        return [visit for visit in sent if host in ("", visit.host)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        host, path = request.url.hostname or "", request.url.path
        for place, gateway in self.gateways.items():
            name, _, prefix = place.partition("/")
            if host == name and f"{path}/".startswith(f"/{prefix}/" if prefix else "/"):
                await self.pass_on(request, gateway + (path.removeprefix(f"/{prefix}") if prefix else path), send)
                return
        await super().__call__(scope, receive, send)

    async def pass_on(self, request: Request, target: str, send: Send) -> None:
        """Does what nginx would: same host, path without the prefix, who asked and how."""
        try:
            body = await request.body()
        except Exception:  # the page went away before it had sent everything
            return
        url = request.url
        self.visits.append(Visit(request.method, url.hostname or "", url.path, url.query, dict(request.headers), body))
        passed = [
            (name, value) for name, value in request.headers.raw if name not in (b"connection", b"content-length")
        ]
        passed += [(b"x-forwarded-proto", url.scheme.encode()), (b"x-forwarded-for", b"192.0.2.7")]
        # Without `verify`, which would read the machine's certificates for each request: the way on is plain HTTP.
        async with httpx.AsyncHTTPTransport(verify=False) as transport:
            asked = httpx.Request(request.method, f"{target}?{url.query}", headers=passed, content=body)
            answer = await transport.handle_async_request(asked)
            content = b"".join([part async for part in answer.stream])  # type: ignore[union-attr]
        response = Response(content, answer.status_code)
        response.raw_headers += [
            (name.lower(), value) for name, value in answer.headers.raw if name.decode().lower() not in HOP_BY_HOP
        ]
        await response(request.scope, request.receive, send)


class Proxy:
    """What Firefox and WebKit ask for every address: names in .test lead to the edge, and there is nothing else."""

    def __init__(self, tls_port: int, plain_port: int) -> None:
        self.tls_port, self.plain_port = tls_port, plain_port
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self.port, message="the proxy to start")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        server.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b" ", 2)
            tunnel = method == b"CONNECT"
            address = f"//{target.decode()}" if tunnel else target.decode()
            if not (urlsplit(address).hostname or "").endswith(".test"):
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            far, there = await asyncio.open_connection("127.0.0.1", self.tls_port if tunnel else self.plain_port)
            if tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                there.write(head)
            await asyncio.gather(copy(reader, there), copy(far, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Until the source ends; then the target is told so."""
    try:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    finally:
        target.close()
