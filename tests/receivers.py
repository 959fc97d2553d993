"""Receivers of the feed for tests: a web server that keeps what it is sent, and a real NATS server."""

import json
import shutil
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.programs import required
from tests.server import free_port, wait_for


class Webhook:
    """Keeps the headers and bodies it is sent. `refuse`: answers so many requests with 500 first; `elsewhere`: sends
    them to another address instead."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.refuse = 0
        self.elsewhere = ""
        self.before: threading.Event | None = None
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
                if hook.before is not None:
                    hook.before.wait(20)
                refused = 307 if hook.elsewhere else 500
                status = refused if hook.refuse > 0 else 200
                hook.refuse -= 1
                self.send_response(status)
                if status == 307:
                    self.send_header("location", hook.elsewhere)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def entries(self) -> list[dict[str, Any]]:
        return [e for _, body in list(self.requests) for e in json.loads(body)["entries"]]

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.before is not None:
            self.before.set()
        self.server.shutdown()
        self.server.server_close()


class NatsServer:
    """`nats-server -js` on a free port; what its streams hold survives `kill` and `start`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gateway-nats-"))
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        options = ["-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.folder)]
        self.command = [required("nats-server"), *options]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        guarded = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*guarded, *self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: b"Server is ready" in (self.folder / "log").read_bytes(), message="nats-server")

    def kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            (self.folder / "log").unlink()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
