"""Asks a live installation over HTTP(S) the way a browser's network layer would: by address, with its certificate."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.errors import BadRequest, GatewayError

TIMEOUT = 10
MAX_BODY = 2 * 1024 * 1024


class NoAnswer(GatewayError):
    """Nothing answered there, or nothing that could be understood."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, header names in lower case. `address` is who answered, `expires` when its certificate does."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    address: str
    expires: float | None = None

    def header(self, name: str) -> str:
        """All values of a header with commas between them, empty without one."""
        return ", ".join(self.all(name))

    def all(self, name: str) -> list[str]:
        """Each value of a header."""
        return [value for key, value in self.headers if key == name]


class Asker:
    """Sends requests. `connect` (host:port) is asked in place of every address that DNS gives."""

    def __init__(self, *, ca: Path | None = None, connect: str = "") -> None:
        self.connect = connect
        try:
            self.tls = ssl.create_default_context(cafile=str(ca) if ca else None)
        except (OSError, ssl.SSLError) as error:
            raise BadRequest(f"{ca} holds no certificates: {error}", "give a file in PEM format") from error

    def addresses(self, host: str, port: int) -> tuple[list[str], str]:
        """(the IP addresses of a host, its canonical name). Raises NoAnswer if it has none."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
        except OSError as error:
            raise NoAnswer(
                f"{host} has no address: {error}", "set its DNS entry, or give --connect HOST:PORT"
            ) from error
        return list(dict.fromkeys(str(f[4][0]) for f in found)), next((f[3] for f in found if f[3]), host).rstrip(".")

    def ask(
        self, url: str, method: str = "GET", headers: dict[str, str] | None = None, *, body: bytes = b"", at: str = ""
    ) -> Answer:
        """One request, sent to the address `at` if that is given. Raises NoAnswer."""
        host, port = place_of(url)
        parts = urlsplit(url)
        connect_host, _, connect_port = self.connect.rpartition(":")
        where = (connect_host, int(connect_port)) if self.connect else (at or host, port)
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        try:
            plain = socket.create_connection(where, TIMEOUT)
            peer = str(plain.getpeername()[0])
            connection.sock = self.tls.wrap_socket(plain, server_hostname=host) if parts.scheme == "https" else plain
            expires = _expires(connection.sock)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request(method, path, body or None, {"Host": parts.netloc, **(headers or {})})
            reply = connection.getresponse()
            found = [(key.lower(), value) for key, value in reply.getheaders()]
            return Answer(reply.status, found, reply.read(MAX_BODY), peer, expires)
        except ssl.SSLCertVerificationError as error:
            hint = "browsers refuse it, too: let the certificate name this host, and send the whole chain"
            raise NoAnswer(f"the certificate of {host} is not valid: {error.verify_message}", hint) from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(
                f"{where[0]} port {where[1]} does not answer: {str(error) or type(error).__name__}"
            ) from error
        finally:
            connection.close()


def place_of(url: str) -> tuple[str, int]:
    """(host, port) of an address. Raises NoAnswer for what is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        if parts.hostname:
            return parts.hostname, port
    except (ValueError, KeyError):
        pass
    raise NoAnswer(f"{url[:200]!r} is not an http(s) address", "write it as https://www.shop.example/vq")


def _expires(sock: socket.socket) -> float | None:
    certificate = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    return ssl.cert_time_to_seconds(str(certificate["notAfter"])) if certificate else None
