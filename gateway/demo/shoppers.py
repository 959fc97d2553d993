"""What the demo shop itself remembers: visitors' sessions, their baskets, and the mails it pretends to send.

All of it lives in memory, is bounded, and is gone when the demo stops. The gateway keeps its own records in its
database and knows nothing of these.
"""

from __future__ import annotations

import itertools
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gateway.demo.guide import STORIES, Walk

MAX_SHOPPERS = 1000
MAX_MAILS = 60
MAX_BASKET = 20

Command = list[Any]
"""One entry for `_veroq.push`."""


@dataclass(frozen=True)
class Product:
    """Something the shop sells; `price` in whole euros."""

    slug: str
    name: str
    price: int
    line: str
    story: str
    facts: tuple[str, ...]


PRODUCTS = {
    product.slug: product
    for product in (
        Product(
            "dusk-lamp",
            "Dusk lamp",
            129,
            "A warm dome for the end of the day.",
            "Blown glass on a turned beech stem. It dims in eleven steps, and the last one is nearly nothing: "
            "enough to find the book you put down.",
            ("Hand-blown glass", "Dims to 1 %", "Three metres of cord"),
        ),
        Product(
            "tide-teapot",
            "Tide teapot",
            84,
            "Stoneware that keeps its heat for an hour.",
            "Thrown in one piece, glazed in two seas. The spout does not drip; we spent a winter on that.",
            ("Holds 0.9 litres", "Ash glaze inside", "Pours without a drip"),
        ),
    )
}


@dataclass(frozen=True)
class Account:
    """Who is logged in to the shop: whatever was typed into its toy login."""

    number: str
    name: str
    email: str


@dataclass
class Shopper:
    """One browser as the shop sees it, by its session cookie."""

    walk: Walk
    account: Account | None = None
    basket: list[str] = field(default_factory=list)
    order: list[Product] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    notice: str = ""

    @property
    def total(self) -> int:
        """What the basket costs."""
        return sum(PRODUCTS[slug].price for slug in self.basket)

    def take_commands(self) -> list[Command]:
        """The commands that the next page pushes, once."""
        taken, self.commands = self.commands, []
        return taken

    def take_notice(self) -> str:
        """The line that the next page shows, once."""
        taken, self.notice = self.notice, ""
        return taken


class Shoppers:
    """Sessions by their random cookie value; beyond MAX_SHOPPERS the one unused for longest is forgotten."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, Shopper] = OrderedDict()

    def get(self, key: str) -> Shopper | None:
        """The shopper of a cookie value; None for a value that was never given out or is forgotten."""
        shopper = self._by_key.get(key)
        if shopper:
            self._by_key.move_to_end(key)
        return shopper

    def add(self, walk: Walk | None = None) -> tuple[str, Shopper]:
        """A new session and its cookie value, on `walk` or at the start of the first story."""
        key = secrets.token_urlsafe(18)
        shopper = Shopper(walk or Walk(STORIES[0], STORIES[0].cast))
        self._by_key[key] = shopper
        while len(self._by_key) > MAX_SHOPPERS:
            self._by_key.popitem(last=False)
        return key, shopper

    def drop(self, key: str) -> None:
        """Forget a session, if there is one."""
        self._by_key.pop(key, None)


@dataclass
class Mail:
    """A mail that was never sent. `redirect` and `signed` hold a link token, `raw` the bare identity."""

    mail_id: int
    to: str
    name: str
    subject: str
    lead: str
    product: Product
    redirect: str
    signed: str
    raw: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    read: bool = False


class Inbox:
    """One mailbox that catches every mail of the shop, whoever it is for; the newest MAX_MAILS are kept."""

    def __init__(self) -> None:
        self._mails: deque[Mail] = deque(maxlen=MAX_MAILS)
        self._ids = itertools.count(1)

    def __iter__(self) -> Any:
        return reversed(self._mails)

    def __len__(self) -> int:
        return len(self._mails)

    @property
    def unread(self) -> int:
        """How many mails nobody opened yet."""
        return sum(not mail.read for mail in self._mails)

    def add(self, **parts: Any) -> Mail:
        """Deliver a mail."""
        mail = Mail(next(self._ids), **parts)
        self._mails.append(mail)
        return mail

    def get(self, mail_id: int) -> Mail | None:
        """A mail by its number; None when there is none, or none any more."""
        return next((mail for mail in self._mails if mail.mail_id == mail_id), None)
