"""Who calls: the account id is the site's public key, the passcode its secret key."""

from __future__ import annotations

from starlette.requests import Request

from gateway.context import Gateway
from gateway.errors import Forbidden, Unauthorized
from gateway.model import Site
from gateway.signing import same
from gateway.web import check_not_a_browser

UNKNOWN_ACCOUNT = "Account ID is not valid"
WRONG_PASSCODE = "Invalid Credentials"


async def site_of(gateway: Gateway, request: Request) -> Site:
    """The site whose two keys were sent. Raises Unauthorized in CleverTap's words, Forbidden for a leaked passcode."""
    account = request.headers.get("x-clevertap-account-id", "").strip()
    passcode = request.headers.get("x-clevertap-passcode", "").strip()
    try:
        site = await gateway.sites.by_api_key(account)
    except Forbidden:
        raise Unauthorized(UNKNOWN_ACCOUNT) from None
    if not any(same(key, passcode) for key in site.secret_keys):
        site = await _read_again(gateway, account, passcode)
    check_not_a_browser(request, site)
    return site


async def _read_again(gateway: Gateway, account: str, passcode: str) -> Site:
    """The site, if its passcode was made since the sites were last read."""
    for site in await gateway.sites.all(fresh=True):
        if site.api_key == account and any(same(key, passcode) for key in site.secret_keys):
            return site
    raise Unauthorized(WRONG_PASSCODE)
