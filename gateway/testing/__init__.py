"""A gateway for the tests of a website: started in milliseconds, asked in words, answering with a diff.

The pytest plugin (`gateway.pytest_plugin`) offers it as the fixture `gateway`. It is a real server on a free port with
a database of its own, in a thread of the test's process, so it serves any browser that any library drives.
"""

from gateway.testing.expect import TIMEOUT, AsyncHelpers, RunningGateway
from gateway.testing.running import GatewaySite, Person
from gateway.testing.server import Background

__all__ = ["TIMEOUT", "AsyncHelpers", "Background", "GatewaySite", "Person", "RunningGateway"]
