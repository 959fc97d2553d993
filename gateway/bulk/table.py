"""CSV files as people make them: encoding and delimiter found out, one row at a time, with the line it is on."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from gateway.errors import BadRequest

DELIMITERS = ",;\t|"
BLOCK = 1 << 20
MAX_CELL = 131_072
"""Characters a cell may have: a quote that is never closed must not swallow the rest of the file."""

BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(slots=True)
class Row:
    """A record of the file: the line it starts on and its cells, or why it cannot be read."""

    line: int
    cells: list[str] = field(default_factory=list)
    problem: str = ""


@dataclass(slots=True)
class Table:
    """A CSV file with a header. `digest` names its content; `guessed` says that its encoding is not certain."""

    path: Path
    size: int
    digest: str
    encoding: str
    guessed: bool
    delimiter: str
    header: list[str]
    position: int = 0

    def rows(self, after: int = 0) -> Iterator[Row]:
        """The records that start behind line `after`; empty lines are left out. `position` follows, in bytes."""
        with self.path.open("rb") as file:
            text = io.TextIOWrapper(file, self.encoding, errors="surrogateescape", newline="")
            csv.field_size_limit(MAX_CELL)
            reader = csv.reader(text, delimiter=self.delimiter)
            next(reader)
            while True:
                line = reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    if line > after:
                        yield Row(line, problem=f"is not CSV: {error}")
                    continue
                self.position = file.tell()
                if cells and line > after:
                    yield self._checked(Row(line, cells))
        self.position = self.size

    def _checked(self, row: Row) -> Row:
        if len(row.cells) != len(self.header):
            row.problem = f"has {len(row.cells)} columns, the header has {len(self.header)}"
        elif any("\udc80" <= c <= "\udcff" for cell in row.cells if not cell.isascii() for c in cell):
            row.problem = f"holds bytes that are not {self.encoding}"
        return row


def read_table(path: Path, *, encoding: str = "", delimiter: str = "") -> Table:
    """Looks at a whole file once. Raises BadRequest if it cannot be read or has no header that can be used."""
    if path.exists() and not path.is_file():
        raise BadRequest(f"{path} is no file that can be read twice", "save what a pipe brings, and name that file")
    try:
        with path.open("rb") as file:
            digest, size, found = inspect(file)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from error
    if encoding:
        check_encoding(encoding)
    used = encoding or found
    delimiter = delimiter.replace("\\t", "\t")
    if delimiter and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise BadRequest(f"the delimiter cannot be {delimiter!r}", "use one character, such as ';' or '\\t'")
    delimiter, cells = header_of(path, used, delimiter)
    header = [c.strip() for c in cells]
    if not any(header):
        raise BadRequest(f"{path} has no header", "the first line names the columns")
    twice = sorted({c for c in header if c and header.count(c) > 1})
    if twice:
        raise BadRequest(f"{path} has two columns {twice[0]!r}", "give each a name of its own")
    return Table(path, size, digest, used, not encoding and found == "cp1252", delimiter, header)


def inspect(file: BinaryIO) -> tuple[str, int, str]:
    """(digest, size, encoding). What is not UTF-8 and has no byte order mark is taken for Windows' western letters."""
    digest, size, encoding = hashlib.sha256(), 0, "utf-8"
    decoder = codecs.getincrementaldecoder("utf-8")()
    while block := file.read(BLOCK):
        if not size:
            encoding = next((name for bom, name in BOMS if block.startswith(bom)), encoding)
        digest.update(block)
        size += len(block)
        if encoding == "utf-8":
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                encoding = "cp1252"
    return digest.hexdigest(), size, encoding


def header_of(path: Path, encoding: str, delimiter: str) -> tuple[str, list[str]]:
    """(delimiter, the cells of the first record), the delimiter found out if none is given. Raises BadRequest."""
    try:
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as text:
            first = text.readline(MAX_CELL)
            text.seek(0)
            delimiter = delimiter or delimiter_of(first)
            csv.field_size_limit(MAX_CELL)
            return delimiter, next(csv.reader(text, delimiter=delimiter), [])
    except UnicodeError as error:
        raise BadRequest(f"{path} is not {encoding}: {error}", "leave --encoding out, or name another") from error
    except csv.Error as error:
        raise BadRequest(f"the first line of {path} is not CSV: {error}", "the first line names the columns") from error


def check_encoding(name: str) -> None:
    """Raises BadRequest for an encoding that nobody knows, or that is not one of text."""
    try:
        io.TextIOWrapper(io.BytesIO(), name, errors="surrogateescape").read()
    except (LookupError, UnicodeError) as error:
        raise BadRequest(f"there is no encoding {name!r}", "use a name such as utf-8, cp1250 or shift_jis") from error


def delimiter_of(header: str) -> str:
    """The delimiter that a header line has most of outside quotes; a comma if it has none."""
    bare = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=bare.count)
