"""Fixtures of the console's tests."""

import pytest
from argon2 import PasswordHasher

from gateway.console import access


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed with little memory; `test_access.py` has one test with the real parameters."""
    monkeypatch.setattr(access, "hasher", PasswordHasher(1, 8, 1))
