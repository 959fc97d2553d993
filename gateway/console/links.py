"""Signed links for emails: made here, and where those that were opened were opened."""

from __future__ import annotations

from starlette.responses import Response

from gateway.commands import identity
from gateway.console.calls import Asked, Page
from gateway.console.recent import Recent
from gateway.console.sites import gateway_url
from gateway.errors import BadRequest, GatewayError
from gateway.links import make_link

LISTED = 50
MAX_CAMPAIGN = 128
MAX_DAYS = 400
DAY = 24 * 3600


async def links(asked: Asked) -> Response:
    """The links that were opened last, and a form for a new one."""
    return await _links(asked)


async def _links(
    asked: Asked, status: int = 200, error: GatewayError | None = None, made: dict[str, str] | None = None
) -> Response:
    recent = Recent(asked.gateway, asked.site)
    opened = await recent.opened_links(LISTED)
    homes = await recent.roots({o["home"] for o in opened})
    typed = {name: asked.form.get(name, "") for name in ("person", "url", "campaign", "days")}
    return await asked.show(
        "links.html",
        status,
        opened=opened,
        homes=homes,
        called=await recent.called(set(homes.values())),
        typed=typed,
        error=error,
        made=made,
        most_days=MAX_DAYS,
    )


async def make(asked: Asked) -> Response:
    """Makes a link and shows it; what makes it work is in the link itself, so nothing is kept of it here."""
    form = asked.form
    try:
        key, blocked = identity(form.get("person", "").strip())
        if key is None:
            raise BadRequest(blocked or "whom the link is for is missing", "type their id: a customer number or email")
        campaign = form.get("campaign", "").strip()
        if len(campaign) > MAX_CAMPAIGN:
            raise BadRequest(f"a campaign has at most {MAX_CAMPAIGN} characters", "shorten it")
        made = make_link(
            asked.gateway.signer,
            asked.site,
            key,
            form.get("url", "").strip(),
            gateway_url=gateway_url(asked),
            campaign=campaign,
            expires_in=_seconds(form.get("days", "").strip()),
        )
    except GatewayError as error:
        asked.about("", f"refused: {error.code}")
        return await _links(asked, error.status, error)
    root = (await asked.reader.roots_of({key})).get(key)
    asked.about(f"profile {root}" if root else "somebody new", "a signed link")
    return await _links(asked, made=made)


def _seconds(days: str) -> int | None:
    """For how long a link works; None for as long as one can. Raises BadRequest for no number of days."""
    if not days:
        return None
    if not (days.isascii() and days.isdigit() and 1 <= int(days[:9]) <= MAX_DAYS):
        raise BadRequest(f"a link works for 1 to {MAX_DAYS} days", "type digits, or nothing")
    return int(days) * DAY


PAGES = (
    Page("GET", "/s/{site}/links", links, nav="Links"),
    Page("POST", "/s/{site}/links", make, role="editor", action="made a link"),
)
