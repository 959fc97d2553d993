"""The stories a visitor of the demo can walk through, as data: each a cast, a few steps, and what to look at."""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """Somebody of a story's cast."""

    name: str
    number: str
    email: str

    def in_run(self, run: int) -> Person:
        """The same role played by somebody the gateway has not met: run 1 is the person itself."""
        if run == 1:
            return self
        local, _, domain = self.email.partition("@")
        return Person(self.name, str(int(self.number) + 100 * (run - 1)), f"{local}{run}@{domain}")


@dataclass(frozen=True)
class Step:
    """One thing to do. `done_by` names the action that completes it; `fill` is what the form then suggests.

    `fill` is (whose name and number, whose email), as places in the cast. Texts may name the cast: `{0.email}`.
    """

    done_by: str
    title: str
    text: str
    href: str = ""
    fill: tuple[int, int] | None = None


@dataclass(frozen=True)
class Story:
    """A walk of a few steps that shows one thing the gateway does."""

    key: str
    tab: str
    title: str
    cast: tuple[Person, ...]
    steps: tuple[Step, ...]
    ending: str


FRESH = Step("fresh", "Start over as a new browser", "Drops the gateway's cookie, so that nobody knows you.")

STORIES = (
    Story(
        "subscribe",
        "Newsletter",
        "A newsletter reader becomes a customer",
        (Person("Jo", "42", "jo@x.io"),),
        (
            Step(
                "subscribe",
                "Subscribe as {0.email}",
                "The address becomes the Unique ID, as in many Vero accounts.",
                "/#subscribe",
                (0, 0),
            ),
            Step("look", "Put something in the basket", "Each click is one track command.", "/products/dusk-lamp"),
            Step(
                "login",
                "Log in as customer {0.number}",
                "The page pushes reidentify: {0.number} is what {0.email} was.",
                "/login",
                (0, 0),
            ),
        ),
        "One person with two names. What Jo did as a stranger and as {0.email} now belongs to customer {0.number}.",
    ),
    Story(
        "import",
        "CSV import",
        "Imported from a CSV file, met again by email",
        (Person("Mia", "57", "mia@x.io"),),
        (
            FRESH,
            Step(
                "import",
                "Import Mia",
                "A CSV file whose id column holds the address. Your server sends it.",
                "/inbox#import",
                (0, 0),
            ),
            Step("link", "Open the link in Mia's mail", "A signed link is evidence. Still, it is a guess.", "/inbox"),
            Step("look", "Look around", "What happens now is kept for whoever this turns out to be.", "/#products"),
            Step("login", "Log in as customer {0.number}", "The page pushes reidentify again.", "/login", (0, 0)),
        ),
        "The import, the mail and the visit are one profile: this browser held a signed link for {0.email}.",
    ),
    Story(
        "forward",
        "Forwarded mail",
        "Lea forwards her mail, and somebody else opens it",
        (Person("Lea", "61", "lea@x.io"), Person("Tom", "62", "tom@x.io")),
        (
            FRESH,
            Step("import", "Import Lea", "Her welcome mail lands in the inbox.", "/inbox#import", (0, 0)),
            Step(
                "link",
                "Be Tom: open Lea's link",
                "The gateway guesses Lea, and says that it guesses.",
                "/inbox",
            ),
            Step("look", "Put something in the basket", "Whose click is that?", "/products/tide-teapot"),
            Step("login", "Log in as Tom, {1.number}", "A login beats a link, for the whole visit.", "/login", (1, 1)),
        ),
        "The visit is Tom's, from the first click. Lea lost it, nobody was merged, and the ledger says why.",
    ),
    Story(
        "shared",
        "Shared laptop",
        "Bob, then Adam, on one laptop",
        (Person("Bob", "71", "bob@x.io"), Person("Adam", "72", "adam@x.io")),
        (
            FRESH,
            Step("login", "Log in as Bob, {0.number}", "This browser is Bob's.", "/login", (0, 0)),
            Step("look", "Put something in the basket", "That was Bob.", "/products/dusk-lamp"),
            Step("switch", "Log in as Adam", "Bob forgot to log out. It happens.", "/login", (1, 1)),
            Step("switch", "Bob is back", "His next turn goes to the same profile.", "/login", (0, 0)),
        ),
        "One device, three turns, two people. A login never merges two people who are both known.",
    ),
    Story(
        "claim",
        "False claim",
        "Somebody claims an address that is not theirs",
        (Person("Nora", "81", "nora@x.io"), Person("Max", "82", "max@x.io")),
        (
            FRESH,
            Step("import", "Import Nora", "She is known to the shop, by her address.", "/inbox#import", (0, 0)),
            Step(
                "login",
                "As Max, log in with Nora's address",
                "The page believes him and pushes reidentify.",
                "/login",
                (1, 0),
            ),
        ),
        "Nothing of Nora's moved: nothing proved the claim. A held merge waits for a person to decide.",
    ),
)

BY_KEY = {story.key: story for story in STORIES}


@dataclass
class Walk:
    """One visitor's way through one story: `step` counts the steps done, `cast` is who plays this time."""

    story: Story
    cast: tuple[Person, ...]
    step: int = 0

    @property
    def done(self) -> bool:
        """Whether every step is done."""
        return self.step >= len(self.story.steps)

    @property
    def next_story(self) -> Story | None:
        """The story after this one."""
        return dict(itertools.pairwise(STORIES)).get(self.story)

    def record(self, action: str) -> None:
        """Note that `action` happened: it completes the step that waits for it, and no other."""
        if not self.done and self.story.steps[self.step].done_by == action:
            self.step += 1

    def tell(self, text: str) -> str:
        """`text` with the names of this cast in it."""
        return text.format(*self.cast)

    def suggestion(self, action: str) -> Person | None:
        """What the form for `action` should hold: the coming step's person, if such a step is still to come."""
        for step in self.story.steps[self.step :]:
            if step.fill and (step.done_by == action or (step.done_by, action) == ("switch", "login")):
                who, whose_email = self.cast[step.fill[0]], self.cast[step.fill[1]]
                return Person(who.name, who.number, whose_email.email)
        return None
