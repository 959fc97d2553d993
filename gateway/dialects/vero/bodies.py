"""Reads what callers send, in every encoding they use, into one dict of parameters.

Content types say little here: clients send JSON without one, with a wrong one, and as what curl calls a form.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from gateway.errors import BadRequest

Params = dict[str, Any]

MAX_FIELDS = 1000
MAX_BRACKETS = 8

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s";,]{1,200}))', re.IGNORECASE)
_PART_NAME = re.compile(r'content-disposition:\s*form-data\b[^\r\n]*?;\s*name=(?:"([^"]*)"|([^\s";]+))', re.IGNORECASE)


class Unreadable(BadRequest):
    """The body is not what it says it is, so nobody knows where it ends: the connection should end with the answer."""


def params_of(query: str, content_type: str, raw: bytes) -> Params:
    """The parameters of the query and the body; the body's win."""
    try:
        return _form(query) | _body(content_type, raw)
    except UnicodeDecodeError as error:
        raise Unreadable("the parameters are not UTF-8") from error


def _body(content_type: str, raw: bytes) -> Params:
    kind = content_type.partition(";")[0].strip().lower()
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if kind == "multipart/form-data":
        return _multipart(content_type, raw)
    if not raw.strip():
        return {}
    if "json" in kind or raw.lstrip()[:1] == b"{":
        return _json(raw)
    return _form(raw.decode())


def _json(raw: bytes) -> Params:
    try:
        given = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unreadable(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadRequest("the body must be a JSON object")
    return given


def _form(text: str) -> Params:
    """A form or a query, with the brackets that Rails reads: `identity[id]=42&add[]=vip`."""
    try:
        pairs = parse_qsl(text.strip("\r\n"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise BadRequest(f"more than {MAX_FIELDS} parameters") from error
    return _nested(pairs)


def _multipart(content_type: str, raw: bytes) -> Params:
    """The fields of a multipart form."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Unreadable("multipart/form-data needs a boundary")
    first, *parts = (b"\r\n" + raw).split(b"\r\n--" + (found[1] or found[2]).encode("latin-1"))
    if first.strip() or not parts or not parts[-1].startswith(b"--"):
        raise Unreadable("the multipart body broke off")
    if len(parts) > MAX_FIELDS:
        raise BadRequest(f"more than {MAX_FIELDS} parameters")
    pairs = []
    for part in parts[:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = _PART_NAME.search(head.decode())
        if name is None:
            raise Unreadable("a part of the multipart body has no name")
        pairs.append((name[1] or name[2], value.decode()))
    return _nested(pairs)


def _nested(pairs: list[tuple[str, str]]) -> Params:
    root: Params = {}
    for name, value in pairs:
        matched = _NAME.fullmatch(name)
        path = [matched[1], *re.findall(r"\[([^\[\]]*)\]", matched[2])] if matched else [name]
        if len(path) > MAX_BRACKETS:
            raise BadRequest(f"{name[:60]!r} is nested more than {MAX_BRACKETS} deep")
        _put(root, path, value)
    return {key: _lists(value) for key, value in root.items()}


def _put(node: Any, path: list[str], value: str) -> None:
    """Sets what a bracketed name means: `a[b]` is a key, `a[]` appends, `a[][b]` is a key of the last element."""
    key, *rest = path
    if isinstance(node, list):
        if not rest:
            node.append(value)
            return
        if not node or not isinstance(node[-1], dict) or (rest[0] in node[-1] and not rest[1:]):
            node.append({})
        _put(node[-1], rest, value)
    elif not rest:
        node[key] = value
    else:
        child = node.setdefault(key, [] if rest[0] == "" else {})
        if not isinstance(child, list if rest[0] == "" else dict):
            raise BadRequest(f"{key[:60]!r} is sent both as one value and as several")
        _put(child, rest, value)


def _lists(value: Any) -> Any:
    """`{"0": a, "1": b}`, which is how some callers write a list, as a list."""
    if isinstance(value, list):
        return [_lists(v) for v in value]
    if not isinstance(value, dict):
        return value
    inner = {k: _lists(v) for k, v in value.items()}
    if inner and list(inner) == [str(n) for n in range(len(inner))]:
        return list(inner.values())
    return inner
