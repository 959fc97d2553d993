"""Reading what pages push: the one-step reading of ordinary events says what the careful reading says."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import commands
from gateway.commands import (
    MAX_ID,
    MAX_NAME,
    MAX_PROPERTIES,
    MAX_VALUE,
    Parser,
    decode_body,
    decode_page_body,
    is_plain,
)
from gateway.identity.requests import Login, Track
from gateway.model import Site
from gateway.signing import Signer

SITE = Site(1, "shop", "key", ["secret"])
ORDINARY = b'{"id": "o", "at": 1, "command": ["track", "Opened", {}]}'
ID = "018f2c3e-0000-7000-8000-000000000001"
AT = 1_700_000_000_000

texts = st.text(st.characters(codec="utf-8", exclude_characters='\\"\0'), max_size=12)
scalars = (
    texts | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2))
names = texts | st.sampled_from(
    ["Viewed", " Viewed ", "Identity Set", "x" * MAX_NAME, "x" * (MAX_NAME + 1), "", 7, None]
)
data = st.dictionaries(texts, values, max_size=4) | values
written = st.one_of(
    st.builds(lambda name, more: ["track", name, *more], names, st.lists(data, max_size=3)),
    st.lists(values, max_size=3),
    st.sampled_from([["trackpageview"], ["user", {"id": "42"}], ["logout"], ["nothing"], ["TRACK", "Viewed", {}]]),
)
entries = st.fixed_dictionaries(
    {"id": texts | st.just(ID) | st.just("x" * (MAX_ID + 1)), "command": written},
    optional={
        "at": st.sampled_from([AT, AT + 0.5, 1, -1, 2**52, 2**60, "soon", None]),
        "page": st.dictionaries(texts, texts | values, max_size=3) | values,
        "more": values,
    },
)


Read = tuple[list[Any], list[Any], bool]


def read(entry: bytes, *, plain: bool) -> Read:
    """What is made of an entry: its commands, what is said of it where it is skipped, whether consent is withdrawn."""
    raw = b'{"key": "k", "commands": [%b, %b]}' % (entry, ORDINARY)
    parser = Parser(SITE, Signer(["x" * 40]), plain=plain and is_plain(raw))
    found = parser.body(decode_page_body(raw) if plain else decode_body(raw), raw)
    return found, [(s.reason, s.code) for s in parser.skipped], parser.denied


def encoded(entry: Any) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode()


@settings(max_examples=400)
@given(entries)
@example({"id": ID, "at": AT, "command": ["track", "Viewed", {f"k{n}": n for n in range(MAX_PROPERTIES + 1)}]})
@example({"id": ID, "at": AT, "command": ["track", "Viewed", {"deep": [[[[[[1]]]]]]}]})
@example({"id": ID, "at": AT, "command": ["track", "Viewed", {}], "page": {"url": "x" * (MAX_VALUE + 1), "title": "t"}})
@example({"id": ID, "at": AT, "command": ["track", "Identity Set", {}]})
@example({"id": ID, "at": AT, "command": ["track", " Viewed ", {}]})
@example({"id": ID, "at": AT, "command": ["track", "  ", {}]})
@example({"id": ID, "at": -1, "command": ["track", "Viewed", {}]})
@example({"id": ID, "at": 2**60, "command": ["track", "Viewed", {}]})
@example({"id": ID, "command": ["track", "Viewed", {}]})
@example({"id": "\x7f", "at": AT, "command": ["track", "Viewed", {}]})
@example({"id": "é", "at": AT, "command": ["track", "Vu à l'été\x7f", {}]})
@example({"id": "\u2028", "at": AT, "command": ["track", "Viewed", {}]})
@example({"id": ID, "at": AT, "command": ["track", "Viewed", {"n": 1e300, "i": 10**30, "f": 1.0, "z": -0.0}]})
def test_both_readings_agree(entry: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands.time, "time", lambda: 1_700_000_000.0)
        raw = encoded(entry)
        assert read(raw, plain=True) == read(raw, plain=False)


@pytest.mark.parametrize("number", [b"1e400", b"-1e999", b"123456789012345678901234567890"])
def test_numbers_that_no_float_holds_are_read_alike(number: bytes) -> None:
    raw = b'{"id": "x", "at": 1, "command": ["track", "Viewed", {"n": %b}]}' % number
    assert read(raw, plain=True) == read(raw, plain=False)


def test_an_ordinary_event_is_read_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"id": ID, "at": AT, "command": ["track", "Viewed", {"sku": "A1", "price": 9.9}], "page": {"url": "/"}}
    track = Track(ID, AT * 1000, "", "Viewed", '{"sku":"A1","price":9.9}', None, '{"url":"/"}')
    for name in ("entry", "commands"):  # neither the careful reading nor the one of each entry by itself
        monkeypatch.setattr(Parser, name, None)
        assert read(encoded(entry), plain=True) == ([track, Track("o", 1000, "", "Opened", "{}")], [], False)


def test_an_ordinary_event_beside_others_is_read_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    careful = Parser.entry
    read_carefully = []

    def counted(self: Parser, raw: Any) -> Any:
        read_carefully.append(bytes(raw))
        return careful(self, raw)

    monkeypatch.setattr(Parser, "entry", counted)
    user = encoded({"id": ID, "at": AT, "command": ["user", {"id": "42"}]})
    commands, _, _ = read(user, plain=True)
    assert [type(c) for c in commands] == [Login, Track] and read_carefully == [user]


@pytest.mark.parametrize("value", ["denied", "Granted", "no", None, True])
def test_only_granted_grants(value: Any) -> None:
    """The snippet takes anything else for a refusal, so the gateway must not keep the browser's cookie then."""
    entry = encoded({"id": ID, "at": AT, "command": ["consent", value]})
    reason = "consent is 'granted' or 'denied'. anything else withdraws it, too"
    _, skipped, denied = read(entry, plain=False)
    assert denied
    assert skipped == ([] if value == "denied" else [(reason, "bad_value")])


def test_granted_takes_a_refusal_back() -> None:
    raw = encoded({"commands": [{"id": "a", "command": ["consent", c]} for c in ("denied", "granted")]})
    parser = Parser(SITE, Signer(["x" * 40]))
    assert parser.body(decode_body(raw), raw) == []
    assert not parser.denied
