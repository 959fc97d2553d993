"""How commands are written, for whoever wrote one that was refused."""

from __future__ import annotations

import difflib
import json
from typing import Any

HOW = {
    "track": "_veroq.push(['track', 'Purchased', {total: 12}])",
    "trackpageview": "_veroq.push(['trackPageview'])",
    "user": "_veroq.push(['user', {id: '42', email: 'jo@x.io', plan: 'pro'}])",
    "reidentify": "_veroq.push(['reidentify', 'the new id', 'the old id'])",
    "tags": "_veroq.push(['tags', {add: ['vip'], remove: ['lead']}])",
    "unsubscribe": "_veroq.push(['unsubscribe', '42'])",
    "resubscribe": "_veroq.push(['resubscribe', '42'])",
    "logout": "_veroq.push(['logout'])",
    "reset": "_veroq.push(['reset'])",
    "verify": "_veroq.push(['verify', IDENTITY_TOKEN]), a JWT that your backend signs with the secret key",
    "consent": "_veroq.push(['consent', 'granted'])",
    "cookie_domain": "_veroq.push(['cookie_domain', 'shop.example'])",
    "init": "_veroq.push(['init', {api_key: 'YOUR_API_KEY'}])",
    "link": "open the page with the URL that POST /v1/links returned",
    "context": "nothing to write: the script sends it by itself",
}
"""How each command is written, by its name in lower case."""

HOW_IDENTITY = {
    "blocked_identity": "push the person's own id, and push 'user' only when somebody is logged in",
    "device_limit": "test with fewer devices for one person, or raise it: gateway site set SITE --device-cap N",
    "needs_proof": "let your backend vouch for both ids: _veroq.push(['verify', IDENTITY_TOKEN]) with `aliases`,"
    " or POST /v1/reidentify",
    "excluded_pair": "somebody undid this merge; POST /v1/merges with force lifts that",
    "link_contradicted": "nothing, if the link was forwarded; else make the link with the id that the page logs in",
    "link_for_other_user": "nothing, if the link was forwarded; else make the link with the id that the page logs in",
    "conflicting_links": "open one person's link per browser",
    "token_quarantined": "make a link of its own for each recipient: POST /v1/links",
    "bad_identity_token": "a JWT, HS256 with the site's secret key, with sub, iat and exp at most an hour ahead",
    "spoofed_system_event": "give the event another name",
}
"""What to change, by the code of an identity error."""

REFUSED = {
    "refused_blocked": "the value must not become an identity",
    "refused_excluded": "somebody undid this merge before",
    "refused_limit": "a limit was reached",
    "held": "a browser cannot prove this merge: it waits for an operator",
    "ghost": "the person has too many devices: the event is kept, the identity is not",
    "op_id_conflict": "another command with the same id arrived before",
}
"""Outcomes that a test should not overlook, and what they mean."""


def written(command: Any) -> str:
    """A command as a page writes it."""
    if isinstance(command, list):
        return f"_veroq.push({json.dumps(command, ensure_ascii=False, default=str)})"
    return str(command)


def how_to_write(command: Any) -> str:
    """The right form of the command somebody tried to push."""
    name = command[0] if isinstance(command, list) and command else None
    if not isinstance(name, str):
        return f"a command is a list that starts with its name: {HOW['track']}"
    if name.lower() in HOW:
        return HOW[name.lower()]
    near = difflib.get_close_matches(name.lower(), HOW, 1, 0.6)
    return f"did you mean {HOW[near[0]]}?" if near else f"the commands are {', '.join(sorted(HOW))}"
