"""What every call is given, and how it refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.responses import Response

from gateway.context import Gateway
from gateway.dialects.suprsend import messages
from gateway.dialects.suprsend.auth import Caller
from gateway.dialects.suprsend.channels import Json, Row
from gateway.errors import Conflict, GatewayError, NotFound
from gateway.identity.requests import ServerBatch
from gateway.model import Key, now
from gateway.web import answer

TYPES = {
    400: "ValidationError",
    401: "AuthenticationFailed",
    403: "PermissionDenied",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "RequestTooLarge",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}


@dataclass(slots=True)
class Asked:
    """One request: who calls, the id in its path, its query and its body as they arrived."""

    gateway: Gateway
    caller: Caller
    value: str
    query: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> Key:
        """The identity in the path."""
        return messages.person(self.value)

    async def profile(self, key: Key) -> Json | None:
        """The profile an identity names, whatever it is called here."""
        return await self.gateway.reader(self.caller.site).by_identity(key)

    async def user(self, key: Key, message: str = "user [distinct_id: '{}'] not found") -> Json:
        """The profile of a user. Raises NotFound for an id that was never seen, was deleted or was merged away."""
        profile = await self.profile(key)
        if profile is None or messages.distinct_id(profile) != key[1]:
            raise NotFound(message.format(key[1]))
        return profile

    async def keep(self, key: Key, steps: list[list[Row]]) -> Json:
        """Keeps facts about a person, all or none; returns the profile with them."""
        commands = messages.edit_commands(str(self.gateway.new_id()), now(), steps)
        await self.gateway.writer.commands(ServerBatch(self.caller.site, key, commands, now()))
        profile = await self.profile(key)
        if profile is None:
            raise Conflict("the user was deleted at the same moment", "send the same request again")
        return profile


Handler = Callable[[Asked], Awaitable[Response]]


def problem(error: GatewayError) -> Json:
    """A refusal inside an event answer."""
    return {"message": error.message, "type": TYPES.get(error.status, "Error")}


def refusal(error: GatewayError, headers: dict[str, str] | None = None) -> Response:
    """A refusal in the shapes that the SDKs read: `message`, and for the v2 calls `error` and `records`."""
    code = error.code if error.status != 400 else "error"
    body = {"code": error.status, "error_code": code, "type": TYPES.get(error.status, "Error")}
    body |= {"message": error.message, "detail": f"{error.message}. {error.hint}" if error.hint else error.message}
    body |= {"status": "error", "error": problem(error), "records": []}
    retry = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    return answer(body, error.status, {**(headers or {}), **retry})
