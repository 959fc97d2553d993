"""Parquet files for `gateway export`. Needs pyarrow, which the extra `parquet` installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
from pyarrow.parquet import ParquetWriter

from gateway.bulk.export import Line

ROW_GROUP = 10_000
"""Rows that are kept in memory and written together."""

_text, _moment = pyarrow.string(), pyarrow.timestamp("ms", tz="UTC")
_identities = pyarrow.list_(pyarrow.struct([("kind", _text), ("value", _text)]))

SCHEMAS = {
    "people": pyarrow.schema(
        [
            ("profile_id", _text), ("id", _text), ("identities", _identities), ("subscribed", pyarrow.bool_()),
            ("tags", pyarrow.list_(_text)), ("events", pyarrow.int64()), ("created_at", _moment),
            ("updated_at", _moment), ("properties", _text),
        ]
    ),
    "events": pyarrow.schema(
        [
            ("event_id", _text), ("name", _text), ("occurred_at", _moment), ("received_at", _moment),
            ("profile_id", _text), ("id", _text), ("device_id", _text), ("message_id", _text), ("data", _text),
            ("extras", _text), ("page", _text),
        ]
    ),
}  # fmt: skip
AS_JSON = ("properties", "data", "extras", "page")
"""Columns whose shape is the site's own: they hold JSON as text."""


class Parquet:
    """A Parquet file in row groups; what was written is readable once it is closed."""

    def __init__(self, path: Path, what: str) -> None:
        self.schema = SCHEMAS[what]
        self.writer = ParquetWriter(path, self.schema, compression="zstd")
        self.rows: list[Line] = []

    def write(self, line: Line) -> None:
        """Writes one row."""
        self.rows.append({name: _value(self.schema.field(name).type, name, line[name]) for name in self.schema.names})
        if len(self.rows) == ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Writes what is left, and the file's end."""
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        if self.rows:
            self.writer.write_table(pyarrow.Table.from_pylist(self.rows, schema=self.schema))
            self.rows = []


def _value(type_: Any, name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in AS_JSON:
        return msgspec.json.encode(value).decode()
    return datetime.fromisoformat(value) if type_ == _moment else value


@contextmanager
def writing_parquet(path: Path, what: str) -> Iterator[Parquet]:
    """A new file that has its name once it is whole; broken off, it holds what was written so far."""
    part = path.with_name(f"{path.name}.part")
    file = Parquet(part, what)
    try:
        yield file
    finally:
        file.close()
        part.replace(path)
