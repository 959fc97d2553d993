"""One exception tree. `web.py` maps it to HTTP, so messages here say what is wrong and hints what to change."""


class GatewayError(Exception):
    """Anything the gateway refuses. `status` is the HTTP status, `code` the stable name of the refusal."""

    status = 400
    code = "bad_request"

    def __init__(self, message: str, hint: str = "", *, code: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = retry_after
        if code:
            self.code = code


class BadRequest(GatewayError):
    """The request cannot be understood."""


class Unauthorized(GatewayError):
    """The key is missing or wrong."""

    status = 401
    code = "unauthorized"


class Forbidden(GatewayError):
    """The key or origin is known but may not do this."""

    status = 403
    code = "forbidden"


class NotFound(GatewayError):
    """Nothing by that name on this site."""

    status = 404
    code = "not_found"


class MethodNotAllowed(GatewayError):
    """There is something at this path, but not with this method."""

    status = 405
    code = "method_not_allowed"


class Conflict(GatewayError):
    """The request contradicts something already recorded."""

    status = 409
    code = "conflict"


class Gone(GatewayError):
    """It was here, and is not kept any more."""

    status = 410
    code = "gone"


class TooLarge(GatewayError):
    """The body, the batch or one of its parts is over a limit."""

    status = 413
    code = "too_large"


class UnsupportedCoding(GatewayError):
    """The body is compressed or otherwise encoded."""

    status = 415
    code = "unsupported_coding"


class TooMany(GatewayError):
    """One sender is faster than its share; `retry_after` says when it has some of it again."""

    status = 429
    code = "too_many_requests"


class Unavailable(GatewayError):
    """The gateway cannot make the request durable now; the same request may succeed later."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, hint: str = "", *, retry_after: int = 5) -> None:
        super().__init__(message, hint, retry_after=retry_after)


class SettingError(GatewayError):
    """A setting has a value the gateway cannot start with."""

    code = "bad_setting"


class BadToken(GatewayError):
    """A signed value is not one of ours, is too old, or was changed. To a browser this is the same as no token."""

    code = "bad_token"
