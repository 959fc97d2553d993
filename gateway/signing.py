"""Everything signed: device tokens, link tokens, identity tokens. Any failure is the same: no token.

Signed values are `payload.timestamp.signature` by itsdangerous, one salt per purpose, keys oldest to newest. Only the
canonical encoding is accepted, so that every changed character makes another value.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any

import jwt
import msgspec
from itsdangerous import BadData, BadSignature, TimestampSigner
from itsdangerous.encoding import base64_decode, base64_encode

from gateway.errors import BadToken
from gateway.model import Site

DAY = 24 * 3600
DEVICE_MAX_AGE = 400 * DAY
LINK_MAX_AGE = 400 * DAY
IDENTITY_TOKEN_MAX_AGE = 3600
CLOCK_LEEWAY = 60
MAX_AHEAD = DAY
"""How far our own clock may have gone back since we signed: browsers keep their cookies when it is put right."""
LINK_PREFIX = "vq1_"


class Signer:
    """Signs and checks values with the gateway's own keys, oldest first; the newest signs."""

    def __init__(self, keys: list[str]) -> None:
        if not keys or any(len(k) < 32 for k in keys):
            raise BadToken("signing keys need at least 32 characters each")
        self._keys = keys
        self._signers: dict[str, TimestampSigner] = {}

    def _signer(self, purpose: str) -> TimestampSigner:
        if purpose not in self._signers:
            salt = f"gateway.{purpose}"
            self._signers[purpose] = TimestampSigner(self._keys, salt=salt, digest_method=hashlib.sha256)
        return self._signers[purpose]

    def sign(self, purpose: str, payload: str) -> str:
        """`payload` with a timestamp and signature; `purpose` separates what may be exchanged for what."""
        return self._signer(purpose).sign(payload).decode()

    def unsign(self, purpose: str, token: str, max_age: int) -> tuple[str, int]:
        """(payload, seconds since it was signed). Raises BadToken for anything that `sign` did not return."""
        if len(token) > 4096 or not token.isascii():
            raise BadToken("not a token")
        try:
            payload, signed_at = self._signer(purpose).unsign(token, return_timestamp=True)
            if not -MAX_AHEAD <= time.time() - signed_at.timestamp() <= max_age:
                raise BadToken("too old, or from the future")
            if not all(map(canonical, token.rsplit(".", 2)[1:])):
                raise BadToken("not in canonical form")
        except (BadSignature, BadData, ValueError) as error:
            raise BadToken("not a valid token") from error
        return payload.decode(), int(signed_at.timestamp())


def canonical(part: str) -> bool:
    """Whether this is the one way to write these bytes in base64: other letters may decode to the same."""
    return base64_encode(base64_decode(part)).decode() == part


def device_token(signer: Signer, site_id: int, device_id: int) -> str:
    """The value of the device cookie."""
    return signer.sign("device", f"{site_id}-{device_id}")


def read_device_token(signer: Signer, site_id: int, token: str) -> tuple[int, int]:
    """(device id, when it was signed in seconds since the epoch). Raises BadToken, also for another site's token."""
    payload, signed_at = signer.unsign("device", token, DEVICE_MAX_AGE)
    site, _, device = payload.partition("-")
    if site != str(site_id) or not device.isdigit():
        raise BadToken("a token of another site")
    return int(device), signed_at


def site_of(signer: Signer, token: str) -> str:
    """The site of a device token. Raises BadToken."""
    return signer.unsign("device", token, DEVICE_MAX_AGE)[0].partition("-")[0]


class LinkPayload(msgspec.Struct, array_like=True, omit_defaults=True):
    """What a link token says: site, identity, where it leads, for which campaign, until when (seconds)."""

    site_id: int
    kind: str
    value: str
    url: str = ""
    campaign: str = ""
    expires_at: int = 0


def link_token(signer: Signer, payload: LinkPayload) -> str:
    """The signed value of a link parameter."""
    return signer.sign("link", LINK_PREFIX + base64_encode(msgspec.json.encode(payload)).decode())


def read_link_token(signer: Signer, token: str, now: float) -> LinkPayload:
    """What a link token says. Raises BadToken, also when it has expired."""
    payload, _ = signer.unsign("link", token, LINK_MAX_AGE)
    try:
        link = msgspec.json.decode(base64_decode(payload.removeprefix(LINK_PREFIX)), type=LinkPayload)
    except (BadData, msgspec.DecodeError) as error:
        raise BadToken("not a link") from error
    if link.expires_at and link.expires_at < now:
        raise BadToken("the link has expired")
    return link


def token_digest(token: str) -> str:
    """What is kept of a link token: enough to count its devices, not enough to use it."""
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def read_identity_token(site: Site, token: str) -> dict[str, Any]:
    """The claims of a JWT made by the site's backend with its secret key. Raises BadToken saying what is wrong.

    HS256 only; `sub`, `exp` (at most an hour ahead) and `iat` are required, `aliases` is a list of further ids.
    """
    reason = "it is not signed with this site's secret key"
    for key in reversed(site.secret_keys):
        options: Any = {"require": ["sub", "exp", "iat"], "verify_sub": False}
        try:
            claims = jwt.decode(token, key, algorithms=["HS256"], options=options, leeway=CLOCK_LEEWAY)
            if not all(map(canonical, token.split("."))):
                raise BadToken("the identity token was refused: it is not in canonical form")
        except jwt.InvalidSignatureError:
            continue
        except jwt.ExpiredSignatureError:
            reason = "it has expired: make a new one for each page"
            break
        except jwt.InvalidAlgorithmError:
            reason = "its algorithm is not HS256"
            break
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            reason = f"{error}"
            break
        return _check_claims(claims)
    raise BadToken(f"the identity token was refused: {reason}")


def _check_claims(claims: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(claims.get("sub"), (str, int)) or isinstance(claims["sub"], bool):
        raise BadToken("the identity token was refused: sub must be a string or a number")
    ahead = claims["exp"] - min(claims["iat"], time.time() + CLOCK_LEEWAY)
    if ahead > IDENTITY_TOKEN_MAX_AGE:
        raise BadToken("the identity token was refused: exp may be at most an hour after iat")
    aliases = claims.get("aliases", [])
    if not isinstance(aliases, list) or len(aliases) > 10:
        raise BadToken("the identity token was refused: aliases must be a list of at most 10 ids")
    return claims


def new_secret() -> str:
    """A new key of 64 hexadecimal digits."""
    return secrets.token_hex(32)


def same(a: str, b: str) -> bool:
    """Compares two secrets in constant time."""
    return secrets.compare_digest(a.encode(), b.encode())
