"""Who may use the console: users, passwords, sessions, and the token that makes the first admin."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from gateway.context import Gateway
from gateway.errors import BadRequest, Forbidden, NotFound, TooMany, Unauthorized
from gateway.model import now
from gateway.store.accounts import Accounts, Entry, Session, User

log = logging.getLogger("gateway.console")

ROLES = ("viewer", "editor", "admin")
"""What each may do includes what those before it may."""

SECOND = 1_000_000
IDLE = 12 * 3600 * SECOND
LONGEST = 7 * 24 * 3600 * SECOND
TOUCH_EVERY = 60 * SECOND
SETUP = "console_setup"
SETUP_AGE = 24 * 3600 * SECOND
WINDOW = 15 * 60 * SECOND
FAILURES_PER_NETWORK = 20
FAILURES_PER_USER = 100
FAILURES_PER_BOTH = 10
"""Wrong passwords in a `WINDOW`: few for a user from one network, many from all: one guesser locks nobody out."""
FAILED = "login failed"

MIN_PASSWORD = 12
MAX_PASSWORD = 256
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}")

hasher = PasswordHasher()
"""argon2id with the library's parameters, which follow RFC 9106: 64 MiB, 3 passes."""


def digest(secret: str) -> str:
    """What is kept of a random secret: enough to know it again."""
    return hashlib.sha256(secret.encode()).hexdigest()


def check_name(name: str) -> str:
    """A user's name in the form that is kept. Raises BadRequest."""
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        raise BadRequest("a user's name has 1 to 100 letters a-z, digits and . _ @ + -", "an email address will do")
    return name


def check_role(role: str) -> str:
    """A role. Raises BadRequest."""
    if role not in ROLES:
        raise BadRequest(f"there is no role {role[:40]!r}", f"use one of {', '.join(ROLES)}")
    return role


def check_password(password: str, name: str) -> str:
    """A password that may be used. Raises BadRequest."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise BadRequest(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters", "a few words make a good one")
    plain = password.lower()
    if (len(name) > 3 and name in plain) or len(set(plain)) < 5 or plain in "0123456789" * 26 or "password" in plain:
        raise BadRequest("this password is too easy to guess", "use a few words that do not belong together")
    return password


class Access:
    """Users, logins and sessions of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.accounts = Accounts(gateway.store)
        self._turn = asyncio.Lock()
        self._nobody = ""

    # --- users --------------------------------------------------------------------------------------------------

    async def create(self, name: str, password: str, role: str, sites: list[int]) -> User:
        """A new user. Raises BadRequest for a name that is taken, a weak password, an unknown role."""
        name, role = check_name(name), check_role(role)
        hashed = await self._hash(check_password(password, name))
        if await self.accounts.user(name):
            raise BadRequest(f"there is a user {name!r} already", "choose another name")
        user = User(self.gateway.new_id(), name, hashed, role, [] if role == "admin" else sites, now())
        await self.accounts.save_user(user)
        return user

    async def user_by_id(self, user_id: str) -> User:
        """A user. Raises NotFound."""
        found = [u for u in await self.accounts.users() if str(u.user_id) == user_id]
        if not found:
            raise NotFound("there is no such user", "they may have been removed")
        return found[0]

    async def set_password(self, user: User, password: str, *, but: str = "") -> None:
        """A new password; whatever the user is logged in with ends, but for one session."""
        user.password = await self._hash(check_password(password, user.name))
        await self.accounts.save_user(user)
        await self.accounts.close_sessions(user.user_id, but)

    async def change(self, user: User, role: str, sites: list[int]) -> None:
        """A new role and other sites. Raises BadRequest when no admin would be left."""
        if user.role == "admin" and role != "admin":
            await self._check_not_last(user)
        user.role = check_role(role)
        user.sites = [] if role == "admin" else sites
        await self.accounts.save_user(user)

    async def remove(self, user: User) -> None:
        """Removes a user. Raises BadRequest when no admin would be left."""
        await self._check_not_last(user)
        await self.accounts.remove_user(user.user_id)

    async def _check_not_last(self, user: User) -> None:
        others = [u for u in await self.accounts.users() if u.role == "admin" and u.user_id != user.user_id]
        if user.role == "admin" and not others:
            raise BadRequest("this is the only admin", "make somebody else an admin first")

    @staticmethod
    async def _hash(password: str) -> str:
        return await asyncio.to_thread(hasher.hash, password)

    # --- logging in ---------------------------------------------------------------------------------------------

    async def log_in(self, name: str, password: str, address: str) -> User:
        """The user with this name and password. Raises Unauthorized, TooMany after too many wrong ones.

        One at a time: a hash takes memory, and a burst of guesses must not pass the count of those that failed.
        """
        async with self._turn:
            user = await self.accounts.user(name.strip().lower())
            await self._check_rate(address, user)
            if not await self._verify(user, password):
                await self._failed(user, address)
                raise Unauthorized("the name or the password is wrong", "an admin can set a new password")
            assert user is not None
            if hasher.check_needs_rehash(user.password):
                user.password = await self._hash(password)
                await self.accounts.save_user(user)
            return user

    async def _verify(self, user: User | None, password: str) -> bool:
        """Takes as long for a name that nobody has."""
        self._nobody = self._nobody or await self._hash(secrets.token_hex(16))
        try:
            await asyncio.to_thread(hasher.verify, user.password if user else self._nobody, password[:MAX_PASSWORD])
        except VerificationError:
            return False
        return user is not None

    async def _check_rate(self, address: str, user: User | None) -> None:
        since = now() - WINDOW
        near, same, both = await self.accounts.failures(FAILED, since, address, user.user_id if user else -1)
        if near >= FAILURES_PER_NETWORK or same >= FAILURES_PER_USER or both >= FAILURES_PER_BOTH:
            minutes = WINDOW // SECOND // 60
            message = "too many wrong passwords"
            raise TooMany(message, f"try again in {minutes} minutes", retry_after=WINDOW // SECOND)

    async def _failed(self, user: User | None, address: str) -> None:
        """What was typed as a name is not kept unless it is one: it may have been a password."""
        user_id, name = (user.user_id, user.name) if user else (0, "")
        await self.accounts.note(Entry(self.gateway.new_id(), now(), user_id, name, address, 0, FAILED))

    # --- sessions -----------------------------------------------------------------------------------------------

    async def open_session(self, user: User) -> str:
        """A new session; returns the value of its cookie."""
        value, at = secrets.token_urlsafe(32), now()
        await self.accounts.open_session(Session(digest(value), user.user_id, at, at), at - IDLE)
        return value

    async def session(self, value: str) -> User | None:
        """Whose session a cookie names; None for one that has ended."""
        found = await self.accounts.session(digest(value)) if value else None
        if found is None:
            return None
        (session, user), at = found, now()
        if at - session.seen_at > IDLE or at - session.created_at > LONGEST:
            await self.accounts.close_session(session.digest)
            return None
        if at - session.seen_at > TOUCH_EVERY:
            await self.accounts.touch_session(session.digest, at)
        return user

    # --- the first admin ----------------------------------------------------------------------------------------

    async def make_setup_token(self) -> str:
        """A token that makes an admin, once; only its digest is kept."""
        token, kept = _new_setup()
        await self.gateway.store.set_config(SETUP, kept)
        return token

    async def check_setup_token(self, token: str) -> str:
        """What is kept of a token that is still good. Raises Forbidden for any other."""
        kept = await self.gateway.store.config(SETUP) or '["", 0]'
        expected, _ = msgspec.json.decode(kept, type=tuple[str, int])
        if not secrets.compare_digest(digest(token), expected) or _age(kept) > SETUP_AGE:
            raise Forbidden("this link was used already, or is too old", "make a new one: gateway console-token")
        return kept

    async def first_admin(self, token: str, name: str, password: str) -> User:
        """Spends a setup token on a new admin."""
        kept = await self.check_setup_token(token)
        name = check_name(name)
        check_password(password, name)
        if await self.accounts.user(name):
            raise BadRequest(f"there is a user {name!r} already", f"lost the password? gateway user password {name}")
        if not await self.accounts.spend(SETUP, kept):
            raise Forbidden("this link was used already", "make a new one: gateway console-token")
        return await self.create(name, password, "admin", [])

    async def announce(self) -> None:
        """Logs the link by which somebody becomes the first admin: once, whichever process comes first."""
        store = self.gateway.store
        kept = await store.config(SETUP)
        if await self.accounts.users() or (kept is not None and _age(kept) < SETUP_AGE):
            return
        if kept is not None and not await self.accounts.spend(SETUP, kept):
            return
        token, mine = _new_setup()
        if await store.set_config(SETUP, mine, only_if_absent=True) == mine:
            link = setup_link(self.gateway, token)
            log.warning("The console has no user yet. This link makes its first admin, once, within a day: %s", link)


def _new_setup() -> tuple[str, str]:
    """A setup token, and what is kept of it."""
    token = secrets.token_urlsafe(24)
    return token, msgspec.json.encode([digest(token), now()]).decode()


def _age(kept: str) -> int:
    return now() - msgspec.json.decode(kept, type=tuple[str, int])[1]


def setup_link(gateway: Gateway, token: str) -> str:
    """Where a setup token is spent."""
    settings = gateway.settings
    base = settings.public_url or f"http://localhost:{settings.port}"
    return f"{base}/console/setup?token={token}"
