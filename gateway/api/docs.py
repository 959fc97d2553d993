"""/openapi.json and /docs, both made from the declared calls."""

from __future__ import annotations

import html
import re
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from gateway import __version__
from gateway.api import shapes
from gateway.api.calls import Call
from gateway.api.native import CALLS
from gateway.web import answer

REFUSALS = {
    400: "the request cannot be understood",
    401: "the secret key is missing or wrong",
    403: "a secret key that came from a browser has leaked",
    404: "nothing by that name",
    409: "the op id was used for another request, or the preview is stale",
    410: "the cursor is older than what is kept",
    413: "the body is too large",
    503: "cannot be made durable now; Retry-After says when to try again",
}
REF = "#/components/schemas/{name}"


@cache
def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the native API."""
    types = [t for c in CALLS for a in c.answers.values() for t in _several(a)]
    types += [c.body for c in CALLS if c.body is not None] + [shapes.Error]
    schemas, components = msgspec.json.schema_components(types, ref_template=REF)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tracking gateway, native API",
            "version": __version__,
            "description": "Who is who on a site: look it up, see why, set it right.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"secret_key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"secret_key": []}],
    }


def _several(shape: type[Any] | tuple[type[Any], ...]) -> tuple[type[Any], ...]:
    return shape if isinstance(shape, tuple) else (shape,)


def _answer(shape: type[Any] | tuple[type[Any], ...], by_type: dict[type[Any], Any]) -> dict[str, Any]:
    schemas = [by_type[s] for s in _several(shape)]
    return {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}


def _operation(call: Call, by_type: dict[type[Any], Any]) -> dict[str, Any]:
    parameters = [_path_parameter(name) for name in re.findall(r"\{(\w+)\}", call.path)]
    _, query = msgspec.json.schema_components([call.query], ref_template=REF)
    for name, schema in query.get(call.query.__name__, {}).get("properties", {}).items():
        parameters.append({"name": name, "in": "query", "required": False, "schema": _without_null(schema)})
    operation: dict[str, Any] = {
        "operationId": call.handler.__name__,
        "summary": call.summary,
        "parameters": parameters,
        "responses": {
            str(status): {"description": "done", "content": _answer(shape, by_type)}
            for status, shape in call.answers.items()
        },
    }
    if call.body is not None:
        content = {"application/json": {"schema": by_type[call.body]}}
        operation["requestBody"] = {"required": not call.body_optional, "content": content}
    for status in sorted({400, 401, 403, 503, *call.errors, *([413] if call.body else [])}):
        error = {"application/json": {"schema": by_type[shapes.Error]}}
        operation["responses"][str(status)] = {"description": REFUSALS[status], "content": error}
    return operation


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is there or it is not: null cannot be sent."""
    options = [s for s in schema.get("anyOf", ()) if s != {"type": "null"}]
    return options[0] if len(options) == 1 else {k: v for k, v in schema.items() if k != "default" or v is not None}


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Native API</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
code, pre {{ font: 14px/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }}
section {{ border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding: .5rem 0 1rem; }}
h2 {{ font-size: 1rem; margin: .75rem 0 .25rem; }} h2 b {{ display: inline-block; min-width: 4.5rem; }}
ul {{ margin: .25rem 0; padding-left: 1.25rem; }} p {{ margin: .25rem 0; }}
pre {{ overflow-x: auto; padding: .75rem; border-radius: 6px; }}
pre {{ background: color-mix(in srgb, currentColor 7%, transparent); }}
</style></head><body><h1>Native API</h1>
<p>JSON over HTTP with <code>Authorization: Bearer SECRET_KEY</code>; never from a browser. The machine-readable form is
<a href="openapi.json">/openapi.json</a> (OpenAPI 3.1). Where a body names a person, a string is an id;
<code>{{"kind":"email","value":…}}</code>, <code>{{"profile_id":…}}</code> and <code>{{"device_id":…}}</code> are the
other ways. Every error is <code>{{"error":{{"code","message","hint"}}}}</code>.</p>
<pre>curl -H "Authorization: Bearer $SECRET_KEY" "$GATEWAY/v1/profiles?identity=42"</pre>
{sections}</body></html>"""


@cache
def page() -> str:
    """The readable form: one section a call."""
    return PAGE.format(sections="\n".join(_section(call) for call in CALLS))


def _section(call: Call) -> str:
    lines = [f"<h2><b>{call.method}</b> <code>{html.escape(call.path)}</code></h2><p>{html.escape(call.summary)}.</p>"]
    for what, shape in (("Query", call.query), ("Body", call.body)):
        fields = msgspec.structs.fields(shape) if shape is not None else ()
        if fields:
            names = ", ".join(f"<code>{f.name}</code>{'' if f.required else ' (optional)'}" for f in fields)
            lines.append(f"<p>{what}: {names}.</p>")
    shown = " or ".join(str(status) for status in call.answers)
    lines.append(f"<p>Answers {shown}; refuses with {', '.join(map(str, sorted({400, 401, *call.errors})))}.</p>")
    return f"<section>{''.join(lines)}</section>"


def routes() -> list[BaseRoute]:
    """The document and the page."""

    async def document(request: Request) -> Response:
        return answer(openapi())

    async def readable(request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(page(), headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    return [Route("/openapi.json", document), Route("/docs", readable)]
