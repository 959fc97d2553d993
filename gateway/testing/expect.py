"""What a test expects of a gateway: each helper waits with a deadline and says what came instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio.to_thread

from gateway.arrivals import differences
from gateway.reads import Json
from gateway.testing.running import Person, Running
from gateway.testing.wanted import SHOWN, Wanted, line, near, refusals, some, who_is_who

T = TypeVar("T")

TIMEOUT = 5.0
QUIET = 0.3
TICK = 0.05


@dataclass(slots=True, repr=False)
class RunningGateway(Running):
    """A gateway that runs for one test, and the helpers that wait.

    While a helper waits, it offers `pause` the time in slices; a false answer means that it did not take it.
    """

    timeout: float = TIMEOUT
    pause: Callable[[float], bool] = lambda seconds: False

    @property
    def aio(self) -> AsyncHelpers:
        """The helpers that wait, for async tests: `await gateway.aio.expect_event("Purchased")`."""
        return AsyncHelpers(self)

    def wait_for(self, check: Callable[[], T], timeout: float | None = None) -> T:
        """The first true answer of `check`, asked again whenever something arrives, or its last one at the deadline."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            self._news.clear()
            answer = check()
            left = deadline - time.monotonic()
            if answer or left <= 0:
                return answer
            self._wait(left)

    def _wait(self, left: float) -> None:
        """Until something arrives, or for a while."""
        if not self._news.is_set() and not self.pause(min(left, TICK)):
            self._news.wait(min(left, 5 * TICK))

    def expect_event(
        self,
        name: str,
        data: Mapping[str, Any] | None = None,
        *,
        person: object = None,
        page: str | None = None,
        count: int | None = None,
        timeout: float | None = None,
    ) -> Json:
        """Waits for an event and returns it; `event["data"]`, `event["person"]`, `event["page"]`.

        `data` may name a part of what the event holds; a compiled pattern matches a text, `...` anything. `page` is a
        part of the page's URL. With `count` there must be exactly so many such events.
        """
        __tracebackhide__ = True
        wanted = Wanted(name, data or {}, person, page)
        enough = 1 if count is None else count
        found = self.wait_for(lambda: some(wanted.among(self.events()), enough), timeout) if enough else []
        if count is not None and found:
            self._let_pass(QUIET)
        found = wanted.among(self.events()) if count is not None or not found else found
        if not found or (count is not None and len(found) != count):
            waited = self.timeout if timeout is None else timeout
            many = "no" if not found else f"{len(found)} times instead of {count} the"
            raise AssertionError(f"{many} event {wanted} within {waited:g} s\n{self._near(wanted)}")
        return found[0]

    def expect_no_event(
        self,
        name: str,
        data: Mapping[str, Any] | None = None,
        *,
        person: object = None,
        page: str | None = None,
        within: float = QUIET,
    ) -> None:
        """Waits `within` seconds and fails if such an event is or becomes known."""
        __tracebackhide__ = True
        wanted = Wanted(name, data or {}, person, page)
        found = self.wait_for(lambda: wanted.among(self.events()), within)
        if found:
            shown = "\n".join(f"  {line(e)}" for e in found[:SHOWN])
            raise AssertionError(f"there should be no event {wanted}, but it arrived:\n{shown}")

    def expect_person(
        self,
        value: object,
        properties: Mapping[str, Any] | None = None,
        *,
        devices: int | None = None,
        timeout: float | None = None,
    ) -> Person:
        """Waits until somebody has this identity, these properties (a part is enough) and so many browsers."""
        __tracebackhide__ = True
        who = self.person(value)

        def lacking() -> list[str]:
            if not who.exists:
                return [f"nobody is known as {who.key[1]!r}"]
            found = differences(dict(properties or {}), who.properties)
            if devices is not None and len(who.devices) != devices:
                found.append(f"devices: expected {devices}, got {len(who.devices)}: {', '.join(who.devices)}")
            return found

        self.wait_for(lambda: not lacking(), timeout)
        if problems := lacking():
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise AssertionError(f"the person {value!r} is not as expected:\n{lines}\n{self.received()}")
        return who

    def expect_merged(self, *values: object, timeout: float | None = None) -> Person:
        """Waits until all these identities name one person."""
        __tracebackhide__ = True
        people = [self.person(v) for v in values]

        def one() -> bool:
            found = [p.profile for p in people]
            return all(found) and len({p["profile_id"] for p in found if p}) == 1

        if not self.wait_for(one, timeout):
            names = " and ".join(repr(v) for v in values)
            raise AssertionError(f"{names} are not one person\n{self._who_is_who(people)}\n{self.received()}")
        return people[0]

    def expect_separate(self, *values: object, within: float = QUIET) -> None:
        """Waits `within` seconds and fails if any two of these identities name one person."""
        __tracebackhide__ = True
        people = [self.person(v) for v in values]

        def joined() -> bool:
            found = [p["profile_id"] for p in (person.profile for person in people) if p]
            return len(set(found)) < len(found)

        if self.wait_for(joined, within):
            names = " and ".join(repr(v) for v in values)
            raise AssertionError(f"{names} should be different people\n{self._who_is_who(people)}")

    def expect_no_errors(self, *, within: float = QUIET) -> None:
        """Waits `within` seconds and fails if any command was refused or left a doubt about who is who."""
        __tracebackhide__ = True
        if self.wait_for(self.refused, within):
            raise AssertionError("commands were refused\n" + "\n".join(refusals(self.refused())))

    def _let_pass(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not self.pause(min(left, TICK)):
                time.sleep(left)

    def _near(self, wanted: Wanted) -> str:
        events = self.events()
        return "\n".join([*near(wanted, events), *refusals(self.refused())]) if events else self.received()

    def _who_is_who(self, people: list[Person]) -> str:
        facts = self.ask(lambda reader: reader.ledger(limit=500))["facts"]
        return who_is_who([(person.key, person.profile) for person in people], facts)


class AsyncHelpers:
    """Each helper of a RunningGateway as a coroutine, which leaves the test's event loop free while it waits."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway = gateway

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        helper = getattr(self._gateway, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            return await anyio.to_thread.run_sync(lambda: helper(*arguments, **options))

        return call
