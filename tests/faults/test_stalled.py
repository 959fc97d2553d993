"""A thousand clients that connect and stall, while browsers go on."""

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.faults.swarm import UNLIMITED, Swarm, check_all
from tests.faults.test_stop import STALLED
from tests.server import GatewayServer

STALLS = (b"", b"POST /v1/commands HTTP/1.1\r\nHost: loc", STALLED, b"\r\n")
TIMEOUTS = {"GATEWAY_HEADER_TIMEOUT": "4", "GATEWAY_BODY_TIMEOUT": "4", "GATEWAY_IDLE_TIMEOUT": "4"}


def test_browsers_do_not_notice_a_thousand_stalled_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with GatewayServer(tmp_path, environment=UNLIMITED | TIMEOUTS) as server, ExitStack() as stack:
        with Swarm(server.port, server.site(), pause=0.01) as swarm:
            stalled = []
            for n in range(1000):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
                connection.sendall(STALLS[n % len(STALLS)])
                stalled.append(connection)
            swarm.wait_for_more(500)
            said = [connection.recv(15) for connection in stalled]
            swarm.wait_for_more()
        check_all(server, swarm)
    print(f"{len(swarm.acknowledged)} acknowledged, the slowest after {swarm.latest:.2f} s")
    assert set(swarm.statuses) == {202}
    assert swarm.latest < 5
    assert set(said) == {b"", b"HTTP/1.1 408 Re"}
