"""Runs the server: on a socket of its own, or on one that a supervisor holds, so that a restart refuses nobody."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import MutableMapping

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from gateway import logs
from gateway.settings import Settings

SHUTDOWN_SECONDS = 9
"""How long requests under way have when the server is told to stop; then what is decided is still committed."""
FIRST_INHERITED = 3
"""The first file descriptor that systemd hands over."""
BACKLOG = 4096
"""Connections that wait to be accepted, such as during a restart; the system's own limit may be lower."""


def run_server(settings: Settings, workers: int, **modes: str) -> None:
    """Runs uvicorn until it is told to stop. `modes` (demo, inspect, record) are what else it does."""
    os.environ |= {"GATEWAY_DATABASE": settings.database, "GATEWAY_PORT": str(settings.port)}
    os.environ |= {f"GATEWAY_{name.upper()}": value for name, value in modes.items()}
    config = uvicorn.Config(
        "gateway.app:create",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=workers,
        log_config=logs.configuration(settings),
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        timeout_keep_alive=math.ceil(settings.idle_timeout),
        forwarded_allow_ips=settings.trusted_proxies,
        http="gateway.protocol:Protocol",
        ws="none",
        lifespan="on",  # by default what cannot start would listen all the same, and fail on every request
    )
    server = uvicorn.Server(config)
    sockets = inherited_sockets(os.environ)
    try:
        if workers > 1:
            Multiprocess(config, sockets or [config.bind_socket()]).run()
        else:
            server.run(sockets or None)
    except KeyboardInterrupt:
        pass  # it has closed everything by then
    if not server.started and workers == 1:
        raise SystemExit(STARTUP_FAILURE)


def inherited_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd, or whoever speaks its protocol, holds for this process: see sd_listen_fds(3).

    They stay open while the gateway restarts: who connects meanwhile waits in the queue instead of being refused.
    """
    number, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    if not number.isdigit() or pid != str(os.getpid()):
        return []
    found = [socket.socket(fileno=FIRST_INHERITED + n) for n in range(int(number))]
    for one in found:
        one.setblocking(False)
        os.set_inheritable(one.fileno(), False)
    return found


def tell_supervisor(state: str) -> None:
    """Tells systemd how this service is, such as READY=1: see sd_notify(3). Without systemd nobody is told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        out.sendall(state.encode())
