"""SIGTERM while browsers send and a client stalls: what is under way is answered, and the gateway ends in time."""

import socket
import time
from pathlib import Path

from tests.faults.swarm import UNLIMITED, Swarm, check_all
from tests.server import GatewayServer

STALLED = b"POST /v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"


def test_the_gateway_drains_and_ends_within_eleven_seconds(tmp_path: Path) -> None:
    with GatewayServer(tmp_path, environment=UNLIMITED) as server:
        with Swarm(server.port, server.site()) as swarm:
            swarm.wait_for_more()
            with socket.create_connection(("127.0.0.1", server.port)) as stalled:
                stalled.sendall(STALLED)
                time.sleep(0.2)
                began = time.monotonic()
                server.stop(timeout=11)
                print(f"ended after {time.monotonic() - began:.1f} s")
            server.start()
            swarm.port = server.port
            swarm.wait_for_more()
        check_all(server, swarm)
    assert set(swarm.statuses) <= {202, 503}


def test_without_anybody_the_gateway_ends_at_once(tmp_path: Path) -> None:
    with GatewayServer(tmp_path) as server:
        server.stop(timeout=4)
        server.start()
