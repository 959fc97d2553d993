"""How much a site trusts its pages, and what an identity token must be like."""

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.driver import Driver, driving


@asynccontextmanager
async def trusting(path: Path, trust: str) -> AsyncIterator[Driver]:
    async with driving(path, trust=trust) as driver:
        yield driver


async def verify(driver: Driver, token: Any, op: str = "v", device: str = "d1") -> str:
    return await driver.push(device, ["verify", token], op, time.time())


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"sub": "alice", "iat": now, "exp": now + 600} | more


def signed(driver: Driver, key: str | None = None, algorithm: str = "HS256", **more: Any) -> str:
    without = {name for name, value in more.items() if value is ...}
    data = {name: value for name, value in claims(**more).items() if name not in without}
    return jwt.encode(data, key or driver.site.secret_keys[-1], algorithm=algorithm)


def unsigned(**header: Any) -> str:
    """A token that says it needs no signature."""
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"} | header, claims())]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


WRONG: dict[str, Callable[[Driver], Any]] = {
    "not a token": lambda d: "hello",
    "empty": lambda d: "",
    "no text": lambda d: 42,
    "missing": lambda d: None,
    "alg none": lambda d: unsigned(),
    "alg None in capitals": lambda d: unsigned(alg="NONE"),
    "alg none with a signature": lambda d: unsigned() + "c2ln",
    "alg HS512": lambda d: signed(d, algorithm="HS512", key=d.site.secret_keys[-1] * 2),
    "alg HS384": lambda d: signed(d, algorithm="HS384", key=d.site.secret_keys[-1]),
    "alg RS256": lambda d: unsigned(alg="RS256") + "c2lnbmF0dXJl",
    "another key": lambda d: signed(d, key="k" * 64),
    "the public key": lambda d: signed(d, key=d.site.api_key),
    "expired": lambda d: signed(d, iat=int(time.time()) - 900, exp=int(time.time()) - 300),
    "good for more than an hour": lambda d: signed(d, exp=int(time.time()) + 2 * 3600),
    "good for more than an hour by an iat ahead": lambda d: signed(
        d, iat=int(time.time()) + 3600, exp=int(time.time()) + 7200
    ),
    "made in the future": lambda d: signed(d, iat=int(time.time()) + 1800),
    "no exp": lambda d: signed(d, exp=...),
    "no iat": lambda d: signed(d, iat=...),
    "no sub": lambda d: signed(d, sub=...),
    "sub is null": lambda d: signed(d, sub=None),
    "sub is a list": lambda d: signed(d, sub=["alice"]),
    "sub is a number and a half": lambda d: signed(d, sub=1.5),
    "sub is true": lambda d: signed(d, sub=True),
    "exp is text": lambda d: signed(d, exp="tomorrow"),
    "iat is text": lambda d: signed(d, iat="now"),
    "aliases is text": lambda d: signed(d, aliases="bob"),
    "too many aliases": lambda d: signed(d, aliases=[f"a{n}" for n in range(11)]),
    "cut short": lambda d: signed(d)[:-4],
    "one letter changed": lambda d: signed(d)[:-1] + ("A" if signed(d)[-1] != "A" else "B"),
}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_identity_token_says_nothing_but_that_it_is_wrong(wrong: str, tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        await driver.push("d1", ["track", "looked"], "t", time.time())
        await verify(driver, WRONG[wrong](driver))
        assert await driver.find("u:alice") is None
        assert await driver.errors() == ["bad_identity_token"]
        assert await driver.events("d:d1") == ["looked"]


async def test_a_token_of_another_site_proves_nothing_here(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        other = await driver.gateway.sites.create("other", driver.gateway.new_id(), origins=[])
        await verify(driver, signed(driver, key=other.secret_keys[-1]))
        assert await driver.find("u:alice") is None
        assert await driver.errors() == ["bad_identity_token"]


async def test_a_right_token_proves_who_is_there(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        await verify(driver, signed(driver))
        profile = await driver.find("u:alice")
        assert profile is not None and profile["identities"][0]["proof"] == "verified"
        await verify(driver, signed(driver, sub=42), op="n", device="d2")
        assert await driver.find("u:42") is not None


async def test_a_placeholder_in_a_token_is_still_a_placeholder(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        assert await verify(driver, signed(driver, sub="undefined")) == "refused_blocked"
        assert await driver.errors() == ["blocked_identity"]


async def test_aliases_bring_everything_that_the_token_names(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        await driver.server_push("mail@x.io", ["track", "imported"], "s", time.time())
        await driver.server_push("77", ["track", "bought"], "b", time.time())
        await verify(driver, signed(driver, aliases=["mail@x.io", "77", "undefined", "never-seen"]))
        assert await driver.events("u:alice") == ["bought", "imported"]
        await driver.check_same("u:alice", "u:mail@x.io", "u:77", "u:never-seen", "d:d1")
        await driver.check_refold()


async def test_a_token_with_a_retired_key_works_until_it_is_rotated_out(tmp_path: Path) -> None:
    async with driving(tmp_path) as driver:
        driver.site.secret_keys = [driver.site.secret_keys[-1], "n" * 64]
        await driver.gateway.sites.save(driver.site)
        await verify(driver, signed(driver, key=driver.site.secret_keys[0]))
        assert await driver.find("u:alice") is not None


# --- guarded, strict, open --------------------------------------------------------------------------------------------


async def claimed(driver: Driver, device: str, who: str, op: str) -> str:
    return await driver.push(device, ["user", {"id": who}], op, driver.time(None))


async def test_guarded_a_page_brings_its_own_history_along(tmp_path: Path) -> None:
    async with trusting(tmp_path, "guarded") as driver:
        await claimed(driver, "d1", "news@x.io", "a")
        assert await driver.push("d1", ["reidentify", "42", "news@x.io"], "r", driver.time(None)) == "renamed"


async def test_strict_a_page_brings_nothing_along_without_proof(tmp_path: Path) -> None:
    async with trusting(tmp_path, "strict") as driver:
        await claimed(driver, "d1", "news@x.io", "a")
        await driver.push("d1", ["track", "mine"], "t", driver.time(None))
        assert await driver.push("d1", ["reidentify", "42", "news@x.io"], "r", driver.time(None)) == "held"
        await driver.check_differ("u:42", "u:news@x.io")


async def test_strict_a_claim_of_somebody_proven_waits_for_a_token(tmp_path: Path) -> None:
    async with trusting(tmp_path, "strict") as driver:
        await verify(driver, signed(driver), device="hers")
        await driver.push("d1", ["track", "looked"], "t", driver.time(None))
        for n in range(3):
            assert await claimed(driver, "d1", "alice", f"c{n}") == "tentative"
        await driver.check_tentative("d:d1", True)
        assert await verify(driver, signed(driver), op="proof") == "attached"
        await driver.check_tentative("d:d1", False)
        assert await driver.events("u:alice") == ["looked"]
        facts = (await driver.api("GET", "/v1/ledger?kind=login")).json()["facts"]
        assert [f["outcome"] for f in facts] == ["attached", "tentative", "attached"]
        await driver.check_refold()


async def test_strict_a_raw_link_says_nothing_and_a_signed_one_does(tmp_path: Path) -> None:
    async with trusting(tmp_path, "strict") as driver:
        await driver.server_push("alice", ["track", "sent"], "s", time.time())
        await driver.do_link("l1", driver.time(None), device="d1", identity="alice", proof="link_raw")
        await driver.push("d1", ["track", "x"], "t", driver.time(None))
        assert await driver.events("u:alice") == ["sent"]
        assert await driver.do_link("l2", driver.time(None), device="d2", identity="alice", proof="link") == "tentative"


async def test_open_a_page_is_believed(tmp_path: Path) -> None:
    async with trusting(tmp_path, "open") as driver:
        await verify(driver, signed(driver), device="hers")
        await driver.push("hers", ["track", "hers"], "t", driver.time(None))
        assert await driver.push("d1", ["reidentify", "bob", "alice"], "r", driver.time(None)) == "renamed"
        assert await driver.events("u:bob") == ["hers"]


async def test_open_placeholders_and_caps_still_hold(tmp_path: Path) -> None:
    async with driving(tmp_path, trust="open", device_cap=1) as driver:
        assert await claimed(driver, "d1", "undefined", "a") == "refused_blocked"
        await claimed(driver, "d1", "alice", "b")
        await claimed(driver, "d2", "bob", "c")
        assert await driver.push("d1", ["reidentify", "alice", "bob"], "r", driver.time(None)) == "refused_limit"


async def test_tentative_data_decides_nothing_else(tmp_path: Path) -> None:
    async with trusting(tmp_path, "guarded") as driver:
        await driver.server_push("alice", ["track", "sent"], "s", time.time())
        await driver.do_link("l", driver.time(None), device="d1", identity="alice", proof="link_raw")
        assert await driver.push("d1", ["reidentify", "mallory", "alice"], "r", driver.time(None)) == "held"
        assert await driver.events("u:alice") == ["sent"]
        await driver.check_differ("u:mallory", "u:alice")
