"""The public key alone has a browser's rights, also where no browser is known."""

from pathlib import Path

import pytest

from tests.driver import Driver, driving


async def claim(driver: Driver, event: str, number: int) -> None:
    """An event about a person that carries only the public key, as a page of Vero's newer SDK sends it."""
    body = {"identity": {"id": "alice"}, "event_name": event, "data": {"n": number}}
    url = f"/api/v2/events/track?tracking_api_key={driver.site.api_key}"
    assert (await driver.client.post(url, json=body)).status_code == 200


@pytest.mark.parametrize(("trust", "tentative"), [("strict", True), ("guarded", False)])
async def test_claims_about_a_proven_person(tmp_path: Path, trust: str, tentative: bool) -> None:
    async with driving(tmp_path, trust=trust) as driver:
        await driver.server_push("alice", ["track", "Ordered"], "s1", driver.time(None))
        for number in range(2):
            await claim(driver, "Claimed", number)
        assert await driver.events("u:alice") == ["Claimed", "Claimed", "Ordered"]
        profile = await driver.find("u:alice")
        assert profile is not None
        assert profile["tentative"] is tentative
        assert len(profile["visitors"]) == 1 + tentative
        await driver.server_push("alice", ["track", "Shipped"], "s2", driver.time(None))
        page = (await driver.api("GET", f"/v1/profiles/{profile['profile_id']}/events")).json()["events"]
        marks = {e["name"]: e["tentative"] for e in page}
        assert marks == {"Ordered": False, "Shipped": False, "Claimed": tentative}
        await driver.check_refold()


async def test_under_strict_a_person_nobody_proved_is_taken_at_their_word(tmp_path: Path) -> None:
    async with driving(tmp_path, trust="strict") as driver:
        await claim(driver, "Claimed", 1)
        profile = await driver.find("u:alice")
        assert profile is not None
        assert (profile["tentative"], profile["identities"][0]["proof"]) == (False, "claimed")
