"""The worked identity cases, each through the public HTTP interface on a database of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.driver import driving

CASES = json.loads((Path(__file__).parent.parent / "data" / "scenarios.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=[c["id"] for c in CASES])
async def test_case(case: dict[str, Any], database: str) -> None:
    caps = {"device_cap": case["device_cap"], "token_cap": case["token_cap"]}
    async with driving(database, **caps) as driver:
        await driver.run(case["ops"])
        for check in case["checks"]:
            await driver.check(check)
        await driver.check_refold()
