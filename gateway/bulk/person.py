"""Everything held about one person as a page that they can read themselves: one file, no script, nothing loaded."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import jinja2
import msgspec

from gateway.model import Site, iso, now

PROOFS = {
    "link_raw": "named in a link",
    "link": "named in a signed link",
    "claimed": "said by a page",
    "verified": "proven by a signed token",
    "server": "said by the site's server",
}
KINDS = {
    "login": "somebody was named on a device",
    "link": "a link with a name was opened",
    "logout": "the person left a device",
    "reidentify": "two names became one person",
    "merge": "two profiles became one",
    "demerge": "the devices of a profile were taken apart",
    "unlink": "a device or a name was taken off",
}


def moment(at: str | None) -> str:
    """A time as people write it: `2026-03-01 09:30:00 UTC`."""
    return f"{at[:10]} {at[11:19]} UTC" if at else "–"


def value(data: Any) -> str:
    """A value as text: texts as they are, the rest as JSON."""
    return data if isinstance(data, str) else msgspec.json.encode(data).decode()


def person_page(site: Site, data: dict[str, Any]) -> str:
    """The page. `data` is what `Reader.export` answers."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"moment": moment, "value": value}
    template = environment.from_string(files("gateway.bulk").joinpath("person.html").read_text(encoding="utf-8"))
    return template.render(site=site.name, made_at=iso(now()), proofs=PROOFS, kinds=KINDS, **data)
