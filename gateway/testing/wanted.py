"""The event that a test expects, and how what came is told to people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from gateway.advice import written
from gateway.arrivals import Bad, differences, is_person, show
from gateway.model import Key
from gateway.reads import Json

NEAREST = 3
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """The event that a test expects."""

    name: str
    data: Mapping[str, Any]
    person: object = None
    page: str | None = None

    def __str__(self) -> str:
        parts = [repr(self.name)]
        if self.data:
            parts.append("with {" + ", ".join(f"{show(k)}: {show(v)}" for k, v in self.data.items()) + "}")
        if self.person is not None:
            parts.append(f"by {self.person!r}")
        if self.page is not None:
            parts.append(f"on {self.page!r}")
        return " ".join(parts)

    def lacking(self, event: Json) -> list[str]:
        """In what an event differs, in words."""
        found = [] if event["name"] == self.name else [f"name: expected {show(self.name)}, got {show(event['name'])}"]
        found += differences(dict(self.data), event["data"])
        if self.person is not None and not is_person(event["person"], self.person):
            found.append(f"person: expected {show(self.person)}, got {who(event['person'])}")
        url = str((event["page"] or {}).get("url", ""))
        if self.page is not None and self.page not in url:
            found.append(f"page: expected {show(self.page)} in {show(url)}")
        return found

    def among(self, events: list[Json]) -> list[Json]:
        """The events that are as expected."""
        return [event for event in events if not self.lacking(event)]

    def distance(self, event: Json) -> tuple[float, int]:
        """How far an event is from what is expected: first by its name, then by the number of differences."""
        alike = SequenceMatcher(None, self.name.casefold(), str(event["name"]).casefold()).ratio()
        return -round(alike, 1), len(self.lacking(event))


def some(found: list[Json], enough: int) -> list[Json]:
    """What was found, if it is enough."""
    return found if len(found) >= enough else []


def plural(number: int, what: str) -> str:
    """`1 command`, `2 commands`."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def who(person: Json | None) -> str:
    """Somebody in a few words."""
    if person is None:
        return "nobody"
    names = ", ".join(person["identities"]) or "an anonymous person"
    return names + (" (tentative)" if person["tentative"] else "")


def line(taken: Json) -> str:
    """A command that was taken, on one line."""
    url = (taken["page"] or {}).get("url")
    where = f" on {url}" if url else ""
    if taken["event"] is not None:
        return f"{taken['name']} {show(taken['data'])} by {who(taken['person'])}{where}"
    return f"{written(taken['rawEvent']['command'])} -> {taken['outcome']}{where}"


# --- what a failure shows ---------------------------------------------------------------------------------------------


def near(wanted: Wanted, events: list[Json]) -> list[str]:
    """The events that come nearest to what was expected, and in what they differ."""
    lines = [f"the nearest of {len(events)} events that arrived:" if len(events) > 1 else "one event arrived:"]
    for event in sorted(events, key=wanted.distance)[:NEAREST]:
        lines.append(f"  {line(event)}")
        lines += [f"      {difference}" for difference in wanted.lacking(event)]
    return lines


def story(url: str, taken: list[Json], refused: list[Bad], requests: Counter[str]) -> str:
    """Everything that arrived."""
    lines = [f"{plural(len(taken), 'command')} arrived at {url}" + (":" if taken else "")]
    lines += [f"  {line(t)}" for t in taken[-SHOWN:]]
    if not taken and not refused:
        lines += [f"  {hint}" for hint in silence(requests)]
    return "\n".join([*lines, *refusals(refused)])


def silence(requests: Counter[str]) -> Iterator[str]:
    """Why nothing may have arrived."""
    scripts = sum(n for path, n in requests.items() if path.endswith(".js"))
    posts = requests["/v1/commands"]
    if not scripts and not posts:
        yield "no page asked for the script: put gateway.snippet_html() into the page's <head>"
    elif not posts:
        yield "the script was loaded, but sent nothing: does the page push `init` with an api_key?"
    else:
        yield "the script is at work, but the page pushed no command that does anything"
    others = [path for path in requests if path != "/v1/commands" and not path.endswith(".js")]
    if others:
        yield f"it was asked for {', '.join(others[:SHOWN])}"


def refusals(refused: list[Bad]) -> list[str]:
    """The commands that were refused, each with its reason."""
    lines = [f"{plural(len(refused), 'command')} refused or in doubt:"] if refused else []
    for bad in refused[-SHOWN:]:
        lines.append(f"  {written(bad.command)}")
        lines.append(f"      why: {bad.why}")
        lines += [f"      how: {bad.how}"] if bad.how else []
    return lines


def who_is_who(profiles: Sequence[tuple[Key, Json | None]], facts: list[Json]) -> str:
    """Whom each identity names, and the facts that made it so."""
    lines = []
    for (_, value), profile in profiles:
        if profile is None:
            lines.append(f"  nobody is known as {value!r}")
            continue
        names = ", ".join(f"{i['value']} ({i['proof']})" for i in profile["identities"])
        count = len({v["device_id"] for v in profile["visitors"]})
        lines.append(f"  {value!r} is profile {profile['profile_id']}: {names}; {plural(count, 'device')}")
    for fact in facts[-SHOWN:]:
        names = ", ".join(i["value"] for i in fact["identities"])
        reason = f" ({fact['reason']})" if fact["reason"] else ""
        lines.append(f"  {fact['kind']} {names}: {fact['outcome']}{reason}")
    return "\n".join(lines)
