"""Caps, quarantined links, and values that name nobody."""

import urllib.parse

import pytest

from gateway.identity import rules
from tests.identity.lab import Lab

BLOCKED = """0 00 000-000 - --- -1 null none nil undefined nan true false anonymous anon guest unknown void id email
distinct_id distinctid not_authenticated n/a na [] {}""".split()  # noqa: SIM905
BLOCKED += ["", " ", "\t", "[object Object]"]
TEMPLATES = ["{{x}}", "{{ user.id }}", "{% x %}", "*|EMAIL|*", "%%id%%", "${x}", "<%= id %>", "[[x]]", "a{{x}}b"]


def forms(value: str) -> list[str]:
    """The same value quoted, encoded and in other case."""
    encoded = urllib.parse.quote(value, safe="")
    every = [value, value.upper(), value.title(), f'"{value}"', f"'{value}'", f" {value} ", encoded]
    return [*every, urllib.parse.quote(f'"{value}"', safe=""), urllib.parse.quote(encoded, safe=""), f'\\"{value}\\"']


@pytest.mark.parametrize("value", [form for value in BLOCKED for form in forms(value)])
def test_a_placeholder_names_nobody(value: str) -> None:
    with pytest.raises(rules.BlockedError):
        rules.normalise(value)


@pytest.mark.parametrize("value", [form for value in TEMPLATES for form in (value, urllib.parse.quote(value))])
def test_a_template_that_was_not_filled_in_names_nobody(value: str) -> None:
    with pytest.raises(rules.BlockedError):
        rules.normalise(value)


@pytest.mark.parametrize(
    "value", [None, True, False, 0, 0.0, -1, [], {}, ["a"], {"id": 1}, float("nan"), float("inf"), "a\0b", "x" * 256]
)
def test_what_is_no_text_and_no_number_names_nobody(value: object) -> None:
    with pytest.raises(rules.BlockedError):
        rules.normalise(value)


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        (42, "42"), ("42", "42"), (42.0, "42"), ("  42 ", "42"), ("Bob@X.io", "bob@x.io"), ("Ab", "Ab"),
        ("e\u0301", "\u00e9"), ("x" * 255, "x" * 255), ("guest-7", "guest-7"), ("0042", "0042"), ("100%", "100%"),
        ("idris", "idris"), ("nathan", "nathan"), ("10", "10"),
    ],
)  # fmt: skip
def test_what_names_somebody_has_one_form(value: object, normal: str) -> None:
    assert rules.normalise(value) == normal


def test_the_fifty_first_device_is_a_ghost() -> None:
    lab = Lab()
    for device in range(1, 51):
        assert lab.login(device, "everybody") == "attached"
    lab.track(51, "mine")
    assert lab.login(51, "everybody") == "ghost"
    lab.track(51, "still mine")
    assert lab.events(51) == ["mine", "still mine"]
    profile = lab.profile("everybody")
    assert profile is not None and len(profile["visitors"]) == 50
    assert lab.errors() == ["device_limit"]
    assert lab.login(50, "everybody") == "noop"
    lab.check()
    lab.close()


def test_a_ghost_that_logs_in_on_every_page_does_not_fill_the_ledger() -> None:
    lab = Lab(device_cap=1)
    lab.login(1, "alice")
    for _ in range(20):
        assert lab.login(2, "alice") == "ghost"
    assert lab.rows("select count(*) from ledger where inert = 0") == [(2,)]
    assert lab.unlink(1) == "unlinked"
    assert lab.login(2, "alice") == "attached"
    lab.check()
    lab.close()


def test_a_merge_over_the_cap_is_refused_and_says_so() -> None:
    lab = Lab(device_cap=2)
    for device, who in ((1, "alice"), (2, "alice"), (3, "bob")):
        lab.login(device, who)
    assert lab.merge("alice", "bob") == "refused_limit"
    assert lab.errors() == ["device_limit"]
    lab.check()
    lab.close()


def test_one_link_on_more_than_five_devices_identifies_nobody(lab: Lab) -> None:
    lab.server_track("alice", "sent")
    for device in range(1, 6):
        lab.track(device, f"on {device}")
        assert lab.link(device, "alice", token="forwarded") == "tentative"
    assert len(lab.events("alice")) == 6
    assert lab.link(6, "alice", token="forwarded") == "refused_limit"
    assert lab.events("alice") == ["sent"]
    assert [lab.events(d) for d in range(1, 6)] == [[f"on {d}"] for d in range(1, 6)]
    assert lab.errors() == ["token_quarantined"]
    assert lab.link(7, "alice", token="another") == "tentative"
    lab.check()


def test_a_quarantined_link_takes_nothing_from_who_logged_in(lab: Lab) -> None:
    for device in range(1, 6):
        lab.link(device, "alice", token="forwarded")
    lab.track(1, "hers")
    lab.login(1, "alice")
    lab.link(6, "alice", token="forwarded")
    assert lab.same("alice", 1)
    assert lab.events("alice") == ["hers"]
    lab.check()


def test_the_same_link_again_on_the_same_devices_is_no_more_devices(lab: Lab) -> None:
    for _ in range(3):
        for device in range(1, 6):
            lab.link(device, "alice", token="t")
    assert lab.same("alice", 1, 2, 3, 4, 5)
