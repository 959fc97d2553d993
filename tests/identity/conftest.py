"""A lab for each test that wants one."""

from collections.abc import Iterator

import pytest

from tests.identity.lab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The engine on SQLite in memory, with the default settings of a site."""
    lab = Lab()
    yield lab
    lab.close()
