"""People in bulk, as a user meets it: import, merge, duplicates, export and erase on the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from gateway.bulk import erase, merges, people
from gateway.bulk.export import Export, cell
from gateway.bulk.parquet import writing_parquet
from gateway.bulk.people import Import, columns_of, entry_of
from gateway.bulk.person import person_page
from gateway.bulk.table import Row, delimiter_of, read_table
from gateway.check import check_site
from gateway.cli import main
from gateway.cli_export import write_all
from gateway.commands import identity
from gateway.errors import BadRequest, Unavailable
from gateway.exports import Whole
from gateway.identity.requests import Operation
from gateway.model import Identity, Proof
from tests.driver import Driver, driving
from tests.server import gateway_environment

PEOPLE = """id,email,plan,city
42,bob@x.io,pro,Köln
43,adam@x.io,,Wien

undefined,eve@x.io,free,Bern
44,mia@x.io,"two
lines",Linz
45,too,many,cells,here
,kim@x.io,pro,Graz
"""


@dataclass
class Done:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


class Shell:
    """Runs `gateway …` on a database of its own: in this process, which is quick, or in one of its own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.database = f"sqlite:///{folder / 'gateway.db'}"
        patch.setenv("GATEWAY_DATABASE", self.database)
        patch.chdir(folder)
        self.patch = patch

    def __call__(self, *arguments: str, typed: str = "") -> Done:
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
        with self.patch.context() as patch:
            patch.setattr(sys, "argv", ["gateway", *arguments])
            patch.setattr(sys, "stdin", io.StringIO(typed))
            with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
                try:
                    main()
                    code = 0
                except SystemExit as ended:
                    code = int(ended.code or 0)
        out, err = (s.buffer.getvalue().decode() for s in streams)
        return Done(code, out, err)

    def process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = gateway_environment() | {"GATEWAY_DATABASE": self.database}
        command = [sys.executable, "-m", "gateway", *arguments]
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60)

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = self(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text, encoding="utf-8")
        return name


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell = Shell(tmp_path, monkeypatch)
    assert shell("site", "create", "shop").returncode == 0
    return shell


@pytest.fixture
async def driver(database: str) -> AsyncIterator[Driver]:
    async with driving(database) as driver:
        yield driver


async def properties(driver: Driver, who: str) -> dict[str, Any] | None:
    profile = await driver.gateway.reader(driver.site).by_identity(identity(who)[0])
    return profile and profile["properties"]


def the_import(driver: Driver, path: Path, **options: Any) -> Import:
    table = read_table(path)
    return Import(driver.gateway, driver.site, table, columns_of(table.header), **options)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "found"), [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("cp1252", "cp1252")]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_file_is_read_however_it_was_saved(tmp_path: Path, encoding: str, found: str, delimiter: str) -> None:
    path = tmp_path / "people.csv"
    path.write_text(f'id{delimiter}city\r\n42{delimiter}"Köln{delimiter} Süd"\r\n', encoding=encoding, newline="")
    table = read_table(path)
    assert (table.encoding, table.delimiter, table.header) == (found, delimiter, ["id", "city"])
    assert [r.cells for r in table.rows()] == [["42", f"Köln{delimiter} Süd"]]
    assert table.guessed == (encoding == "cp1252")


def test_a_late_letter_decides_the_encoding_too(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(b"id,city\n" + b"1,Wien\n" * 200_000 + "2,Köln\n".encode("cp1252"))
    assert read_table(path).encoding == "cp1252"


def test_lines_are_counted_as_an_editor_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text('id,note\n1,"a\nb"\n\n2,c\n3\n')
    rows = list(read_table(path).rows())
    assert [(r.line, r.problem) for r in rows] == [(2, ""), (5, ""), (6, "has 1 columns, the header has 2")]
    assert [r.line for r in read_table(path).rows(after=2)] == [5, 6]


def test_a_quote_that_is_never_closed_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text('id,note\n1,"oh\n' + "2,fine\n" * 50_000)
    problems = [r.problem for r in read_table(path).rows() if r.problem]
    assert problems
    assert "field larger than field limit" in problems[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no header"),
        ("id,id\n", "two columns 'id'"),
        ("\n1,2\n", "no header"),
        ("id," + "x" * 200_000 + "\n1,2\n", "is not CSV"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "people.csv").write_text(text)
    with pytest.raises(BadRequest, match=said):
        read_table(tmp_path / "people.csv")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoding": "nope"}, "no encoding"),
        ({"encoding": "hex"}, "no encoding"),  # of bytes, not of text
        ({"encoding": "punycode"}, "no encoding"),
        ({"encoding": "utf-16"}, "is not utf-16"),
        ({"encoding": "utf-32"}, "is not utf-32"),
        ({"delimiter": "::"}, "delimiter cannot be"),
        ({"delimiter": '"'}, "delimiter cannot be"),
        ({"delimiter": "\n"}, "delimiter cannot be"),
    ],
)
def test_what_a_file_cannot_be_read_as_is_refused(tmp_path: Path, options: dict[str, str], said: str) -> None:
    (tmp_path / "people.csv").write_text("id,plan\n1,a\n")
    with pytest.raises(BadRequest, match=said):
        read_table(tmp_path / "people.csv", **options)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadRequest, match="read twice"):
        read_table(tmp_path / "pipe")


def test_a_column_may_be_named_on_two_lines(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text('id,"plan\nof 2026",city\n1,a,Wien\n')
    table = read_table(tmp_path / "people.csv")
    assert table.header == ["id", "plan\nof 2026", "city"]
    assert [(r.line, r.cells, r.problem) for r in table.rows()] == [(3, ["1", "a", "Wien"], "")]


def test_the_delimiter_is_not_looked_for_inside_quotes() -> None:
    assert delimiter_of('"a,b,c";d;e') == ";"
    assert delimiter_of("id") == ","


# --- rows -------------------------------------------------------------------------------------------------------------


def test_columns_are_named_by_the_header_or_by_the_user() -> None:
    columns = columns_of(["Nr", "Mail", "plan", "x"], "Nr", {"Mail": "email", "plan": "tariff", "x": ""})
    assert (columns.id, columns.email, columns.properties) == (0, 1, [(2, "tariff")])
    assert columns_of(["ID", "Email"]).properties == []


@pytest.mark.parametrize(
    ("header", "id_column", "renamed", "said"),
    [
        (["plan"], "", {}, "no column says who"),
        (["id"], "nr", {}, "no column 'nr'"),
        (["id", "a", "b"], "", {"a": "b"}, "two columns are 'b'"),
    ],
)
def test_columns_that_say_too_little_or_too_much_are_refused(
    header: list[str], id_column: str, renamed: dict[str, str], said: str
) -> None:
    with pytest.raises(BadRequest, match=said):
        columns_of(header, id_column, renamed)


def test_an_empty_cell_says_nothing_and_the_email_stands_in_for_the_id() -> None:
    columns = columns_of(["id", "email", "plan"])
    entry = entry_of(Row(2, ["", " kim@x.io ", ""]), columns)
    assert entry.key == ("id", "kim@x.io")
    assert entry.properties == [("set", "email", '"kim@x.io"')]


# --- import -----------------------------------------------------------------------------------------------------------


def test_import_as_a_user_meets_it(gateway: Shell) -> None:
    gateway.write("people.csv", PEOPLE)
    planned = gateway.json("import", "shop", "people.csv", "--dry-run", code=1)
    assert (planned["imported"], planned["known"], planned["failed"]) == (4, 0, 2)
    done = gateway.json("import", "shop", "people.csv", code=1)
    assert (done["rows"], done["imported"], done["failed"]) == (6, 4, 2)
    assert [e["line"] for e in done["errors"]] == [5, 8]
    again = gateway.process("import", "shop", "people.csv")
    assert "finished before" in again.stdout
    assert again.returncode == 1
    assert gateway.json("export", "shop", "person", "44")["profile"]["properties"] == {
        "email": "mia@x.io", "plan": "two\nlines", "city": "Linz"
    }  # fmt: skip
    assert gateway.json("check")["ok"]


async def test_an_import_that_was_killed_goes_on_and_nothing_is_there_twice(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "CHUNK", 20)
    monkeypatch.setattr(people, "SAVED_EVERY", 4)
    rows = 300
    path = tmp_path / "people.csv"
    path.write_text("id,plan\n" + "".join(f"{n % 70 + 1},p{n}\n" for n in range(rows)))
    first = the_import(driver, path)

    class Killed(Exception):
        pass

    def kill(done: int, position: int) -> None:
        if done > 200:
            raise Killed

    with pytest.raises(Killed):
        await first.run(kill)
    second = await the_import(driver, path).run()
    assert second.resumed_after_line == 161
    assert (second.rows, second.imported, second.failed) == (rows, rows, 0)
    assert await properties(driver, str((rows - 1) % 70 + 1)) == {"plan": f"p{rows - 1}"}
    assert await check_site(driver.gateway.store, driver.site) == []


async def test_what_was_set_after_an_import_is_not_overwritten_by_repeating_it(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("id,plan\n42,pro\n")
    first = the_import(driver, tmp_path / "people.csv")
    await first.run()
    await driver.server_push("42", ["user", {"id": "42", "plan": "free"}], "x", time.time() + 1)
    again = the_import(driver, tmp_path / "people.csv")
    again.state = first.state
    again.state.done, again.state.line = False, 0
    await again._all(lambda rows, position: None)
    assert await properties(driver, "42") == {"plan": "free"}


async def test_the_erased_stay_away_unless_asked_for(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("id,plan\n42,pro\n43,pro\n")
    await the_import(driver, tmp_path / "one.csv").run()
    profile = await driver.api("GET", "/v1/profiles?identity=42")
    await driver.api("DELETE", f"/v1/profiles/{profile.json()['profile_id']}")
    (tmp_path / "two.csv").write_text("id,plan\n42,free\n43,free\n")
    planned = await the_import(driver, tmp_path / "two.csv").dry_run()
    assert (planned.imported, planned.erased, planned.known) == (1, 1, 1)
    done = await the_import(driver, tmp_path / "two.csv").run()
    assert (done.imported, done.erased) == (1, 1)
    assert await properties(driver, "42") is None
    await the_import(driver, tmp_path / "two.csv", include_erased=True).run()
    assert await properties(driver, "42") == {"plan": "free"}


# --- merge ------------------------------------------------------------------------------------------------------------


def test_merge_as_a_user_meets_it(gateway: Shell) -> None:
    gateway.write("people.csv", "id,plan\n1,a\n2,b\n3,c\nanna@x.io,d\n")
    gateway("import", "shop", "people.csv")
    gateway.write("pairs.csv", "old;new\nanna@x.io;1\nundefined;2\nnew@x.io;2\n2;3\n")
    planned = gateway.json("merge", "shop", "pairs.csv", "--dry-run", code=1)
    done = gateway.json("merge", "shop", "pairs.csv", "--results", "results.csv", code=1)
    assert done["outcomes"]["merged"] + done["outcomes"].get("renamed", 0) >= 1
    assert planned["outcomes"]["refused_blocked"] == done["outcomes"]["refused_blocked"] == 1
    assert done["errors"][0]["line"] == 3
    assert (gateway.folder / "results.csv").read_text().splitlines()[1].startswith("2,anna@x.io,1,")
    assert gateway.json("merge", "shop", "pairs.csv", code=1)["repeated"] == 3
    names = {i["value"] for i in gateway.json("export", "shop", "person", "1")["profile"]["identities"]}
    assert names == {"1", "anna@x.io"}
    planned = gateway.json("merge", "shop", "--undo", done["batch"], "--dry-run")
    undone = gateway.json("merge", "shop", "--undo", done["batch"])
    assert undone["outcomes"] == planned["outcomes"]
    assert undone["outcomes"]["undone"] >= 2
    names = {i["value"] for i in gateway.json("export", "shop", "person", "1")["profile"]["identities"]}
    assert names == {"1"}
    assert gateway.json("check")["ok"]
    assert "no batch" in gateway("merge", "shop", "--undo", "nope").stderr
    assert "old and new" in gateway("merge", "shop", "people.csv").stderr
    assert "overwrite" in gateway("merge", "shop", "pairs.csv", "--results", "pairs.csv").stderr
    assert "cannot be written" in gateway("merge", "shop", "pairs.csv", "--results", "none/results.csv").stderr


async def test_a_batch_is_undone_whole_and_no_other_with_it(driver: Driver, tmp_path: Path) -> None:
    for name in ("1", "2", "3", "4", "5"):
        await driver.server_push(name, ["user", {"id": name, "plan": name}], f"u{name}", time.time())
    (tmp_path / "a.csv").write_text("old,new\n1,2\n2,3\n")
    (tmp_path / "b.csv").write_text("old,new\n5,4\n")
    heard: list[merges.Result] = []
    context = (driver.gateway, driver.site)
    planned = await merges.merge_file(*context, read_table(tmp_path / "a.csv"), "a", heard.append, dry_run=True)
    assert await properties(driver, "1") == {"plan": "1"}
    await merges.merge_file(*context, read_table(tmp_path / "a.csv"), "a", heard.append)
    await merges.merge_file(*context, read_table(tmp_path / "b.csv"), "a-1", heard.append)
    assert [r.outcome for r in heard] == ["merged"] * 5
    assert planned.outcomes == {"merged": 2}
    assert await properties(driver, "1") == {"plan": "3"}
    told: list[tuple[int, int]] = []
    planned = await merges.undo_batch(*context, "a", heard.append, dry_run=True)
    assert await properties(driver, "1") == {"plan": "3"}
    undone = await merges.undo_batch(*context, "a", heard.append, tell=lambda *done: told.append(done))
    assert undone.outcomes == planned.outcomes == {"undone": 2}
    assert told == [(0, 2), (1, 2)]
    assert [await properties(driver, n) for n in ("1", "2", "3")] == [{"plan": n} for n in ("1", "2", "3")]
    assert await properties(driver, "4") == await properties(driver, "5") == {"plan": "5"}
    assert (await merges.undo_batch(*context, "a", heard.append)).outcomes == {}
    assert await check_site(driver.gateway.store, driver.site) == []


async def test_what_was_erased_is_on_the_receipt_even_if_it_breaks_off(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1", "2"):
        await driver.server_push(name, ["user", {"id": name}], f"u{name}", time.time())
    receipt = erase.begun(driver.site)
    run = driver.gateway.writer.operation

    async def full(operation: Operation) -> Any:
        if operation.people[0].key == ("id", "2"):
            raise Unavailable("the disk is full")
        return await run(operation)

    monkeypatch.setattr(driver.gateway.writer, "operation", full, raising=False)
    with pytest.raises(Unavailable):
        await erase.erase(driver.gateway, driver.site, erase.keys_of(["1", "2"]), receipt)
    assert receipt.outcomes == {"deleted": 1}


# --- duplicates -------------------------------------------------------------------------------------------------------


def test_duplicates_are_listed_previewed_merged_and_taken_back(gateway: Shell) -> None:
    gateway.write("people.csv", "id,email\n1,jo@x.io\njo-old@x.io,jo@x.io\n2,al@x.io\n3,al@x.io\nk@x.io,m@x.io\n")
    gateway("import", "shop", "people.csv")
    listed = gateway.json("duplicates", "shop", "--by", "email")["duplicates"]
    assert [g["email"] for g in listed] == ["al@x.io", "jo@x.io"]
    refused = gateway("duplicates", "shop", "--merge", "customer-number", typed="n\n")
    assert refused.returncode == 1
    assert "several have a customer number" in refused.stdout
    assert len(gateway.json("duplicates", "shop")["duplicates"]) == 2
    merged = gateway.json("duplicates", "shop", "--merge", "customer-number", "--yes")
    assert merged["outcomes"] == {"merged": 1}
    assert [g["email"] for g in gateway.json("duplicates", "shop")["duplicates"]] == ["al@x.io"]
    assert gateway.json("merge", "shop", "--undo", merged["batch"])["outcomes"] == {"undone": 1}
    assert len(gateway.json("duplicates", "shop")["duplicates"]) == 2


def whole(profile_id: int, since: int, *names: str) -> Whole:
    identities = [Identity(("id", n), profile_id, Proof.SERVER, since) for n in names]
    return Whole(profile_id, identities=identities)


def test_a_rule_chooses_one_or_says_why_not() -> None:
    old, new = whole(1, 10, "a@x.io"), whole(2, 20, "b@x.io")
    number = whole(3, 5, "42")
    assert merges.target_of("newest", [old, new]) == ("2", "")
    assert merges.target_of("customer-number", [old, number]) == ("3", "")
    assert merges.target_of("customer-number", [old, new])[1] == "none has a customer number"
    assert "several" in merges.target_of("newest", [number, whole(4, 6, "43")])[1]


@pytest.mark.parametrize("name", ["", "a b", "x" * 41, "a'b"])
def test_a_batch_has_a_plain_name(name: str) -> None:
    with pytest.raises(BadRequest):
        merges.check_batch(name)


# --- export -----------------------------------------------------------------------------------------------------------


async def test_an_export_holds_everybody_and_goes_on_where_it_stopped(driver: Driver) -> None:
    for n in range(4):
        await driver.server_push(f"p{n}", ["user", {"id": f"p{n}", "plan": f"plan {n}"}], f"u{n}", time.time())
        await driver.server_push(f"p{n}", ["track", "Paid", {"total": n}], f"t{n}", time.time())
    await driver.push("d:1", ["track", "Landed"], "x", time.time())
    export = Export(driver.gateway, driver.site)
    people = [line async for line in export.people(0)]
    assert [p["id"] for _, p in people] == ["p0", "p1", "p2", "p3", None]
    assert people[2][1]["properties"] == {"plan": "plan 2"}
    assert [p["events"] for _, p in people] == [1] * 5
    assert [p["id"] async for _, p in export.people(people[1][0])] == ["p2", "p3", None]
    events = [line async for line in export.events(0)]
    assert [(e["name"], e["id"]) for _, e in events[:2]] == [("Paid", "p0"), ("Paid", "p1")]
    assert events[0][1]["device_id"] is None
    assert events[4][1]["device_id"] is not None
    assert events[1][1]["data"] == {"total": 1}
    assert [e["message_id"] async for _, e in export.events(events[2][0])] == ["t3", "x"]
    assert await export.property_names() == ["plan"]


def test_export_as_a_user_meets_it(gateway: Shell) -> None:
    gateway.write("people.csv", "id,email,events\n42,bob@x.io,=1+1\n43,köln@x.io,\n")
    gateway("import", "shop", "people.csv")
    done = gateway("export", "shop", "people")
    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert [(r["id"], r["email"], r["events"], r["properties.events"]) for r in rows] == [
        ("42", "bob@x.io", "0", "'=1+1"),
        ("43", "köln@x.io", "0", ""),
    ]
    cursor = done.stderr.split("--after ")[1].strip()
    assert (gateway("export", "shop", "people", "--after", cursor).stdout, cursor.isdigit()) == ("", True)
    gateway("export", "shop", "people", "--format", "jsonl", "--output", "people.jsonl")
    lines = [json.loads(line) for line in (gateway.folder / "people.jsonl").read_text("utf-8").splitlines()]
    assert lines[0]["properties"] == {"email": "bob@x.io", "events": "=1+1"}
    assert gateway("export", "shop", "events").stdout.startswith("event_id,name,")
    assert "nobody has the id" in gateway("export", "shop", "person", "99").stderr
    assert "whose data" in gateway("export", "shop", "person").stderr
    assert "exported whole" in gateway("export", "shop", "people", "42").stderr
    assert "no cursor" in gateway("export", "shop", "people", "--after", "x").stderr


def test_parquet_has_types_and_goes_on_from_a_cursor(gateway: Shell) -> None:
    gateway.write("people.csv", "id,email,plan\n42,bob@x.io,pro\n43,,\n44,mia@x.io,\n")
    gateway("import", "shop", "people.csv")
    done = gateway("export", "shop", "people", "--format", "parquet", "--output", "people.parquet")
    table = parquet.read_table(gateway.folder / "people.parquet")
    assert table.column("id").to_pylist() == ["42", "43", "44"]
    assert json.loads(table.column("properties")[0].as_py()) == {"email": "bob@x.io", "plan": "pro"}
    assert table.column("identities")[0].as_py() == [{"kind": "id", "value": "42"}]
    assert table.column("created_at")[0].as_py().tzinfo is not None
    cursor = done.stderr.split("--after ")[1].strip()
    gateway("export", "shop", "people", "--format", "parquet", "--output", "more.parquet", "--after", cursor)
    assert parquet.read_table(gateway.folder / "more.parquet").num_rows == 0
    assert parquet.read_schema(gateway.folder / "more.parquet") == table.schema
    again = gateway("export", "shop", "people", "--format", "parquet", "--output", "people.parquet")
    assert "people.parquet cannot be written" in again.stderr
    assert "standard output cannot be written" in gateway("export", "shop", "events", "--format", "parquet").stderr


async def test_parquet_that_was_broken_off_holds_what_is_behind_its_cursor(driver: Driver, tmp_path: Path) -> None:
    for n in range(5):
        await driver.server_push(f"p{n}", ["track", "Paid", {"total": n}], f"t{n}", time.time())
    export = Export(driver.gateway, driver.site)

    async def breaking() -> AsyncIterator[tuple[int, dict[str, Any]]]:
        async for cursor, line in export.events(0):
            if line["data"]["total"] == 3:
                raise Unavailable("gone")
            yield cursor, line

    said = io.StringIO()
    with redirect_stderr(said), pytest.raises(Unavailable), writing_parquet(tmp_path / "e.parquet", "events") as lines:
        await write_all(breaking(), lines, 0)
    cursor = int(said.getvalue().split("--after ")[1])
    kept = [json.loads(d) for d in parquet.read_table(tmp_path / "e.parquet").column("data").to_pylist()]
    rest = [line["data"] async for _, line in export.events(cursor)]
    assert kept + rest == [{"total": n} for n in range(5)]


def test_a_person_can_read_what_is_held_about_them(gateway: Shell) -> None:
    gateway.write("people.csv", "id,email,note\n42,bob@x.io,<script>alert(1)</script>\n")
    gateway("import", "shop", "people.csv")
    gateway("export", "shop", "person", "42", "--format", "html", "--output", "42.html")
    page = (gateway.folder / "42.html").read_text("utf-8")
    assert "Data held by shop about 42" in page
    assert "bob@x.io" in page
    assert "said by the site&#39;s server" in page
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page
    assert "42.html cannot be written" in gateway("export", "shop", "person", "42", "--output", "42.html").stderr


async def test_the_page_shows_all_that_the_json_holds(driver: Driver) -> None:
    at = time.time()
    await driver.push("d:1", ["track", "Landed", {"from": "ad-77", "deep": {"n": [1]}}], "a", at - 9)
    await driver.push("d:1", ["user", {"id": "42", "city": "Köln"}], "b", at - 8)
    await driver.push("d:1", ["tags", {"add": ["vip"]}], "c", at - 7)
    await driver.push("d:1", ["unsubscribe", "42"], "d", at - 6)
    profile = await driver.gateway.reader(driver.site).by_identity(("id", "42"))
    assert profile is not None
    data = await driver.gateway.reader(driver.site).export(int(profile["profile_id"]))
    assert data is not None
    page = person_page(driver.site, data)
    shown = ["Landed", "ad-77", "{&#34;n&#34;:[1]}", "Köln", "vip", "unsubscribed", "said by a page"]
    assert [s for s in shown if s not in page] == []
    assert [v["device_id"] for v in data["profile"]["visitors"] if v["device_id"] not in page] == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [("=cmd()", "'=cmd()"), ("@x", "'@x"), ("-1", "-1"), ("+49 30 123", "+49 30 123"), (None, ""), (True, "true")],
)
def test_no_cell_is_a_formula(value: object, shown: str) -> None:
    assert cell(value) == shown


# --- erase ------------------------------------------------------------------------------------------------------------


def test_erase_as_a_user_meets_it(gateway: Shell) -> None:
    gateway.write("people.csv", "id,email\n42,bob@secret.example\n43,adam@secret.example\n44,mia@x.io\n")
    gateway("import", "shop", "people.csv")
    gateway.write("list.txt", "id\n42\n43\nnobody\n")
    backup = (gateway.folder / "gateway.db").read_bytes()
    assert gateway.json("erase", "shop", "list.txt", "--dry-run") == {"asked": 3, "found": 2}
    refused = gateway("erase", "shop", "list.txt", typed="yes\n")
    assert (refused.returncode, "nobody was erased" in refused.stderr) == (1, True)
    done = gateway("erase", "shop", "list.txt", "--receipt", "receipt.json", typed="shop\n")
    assert "2 deleted" in done.stdout
    receipt = json.loads((gateway.folder / "receipt.json").read_text())
    assert receipt["outcomes"] == {"deleted": 2, "not_found": 1}
    assert "secret.example" not in json.dumps(receipt)
    assert b"secret.example" not in b"".join(f.read_bytes() for f in gateway.folder.glob("gateway.db*"))
    assert "nobody has the id" in gateway("export", "shop", "person", "42").stderr

    (gateway.folder / "gateway.db").write_bytes(backup)
    again = gateway.json("erase", "shop", "--again", "receipt.json", "--yes")
    assert again["outcomes"] == {"deleted": 2}
    assert gateway.json("export", "shop", "person", "44")["profile"]["primary"] == "44"
    forged = receipt | {"people": []}
    gateway.write("forged.json", json.dumps(forged))
    assert "not a receipt" in gateway("erase", "shop", "--again", "forged.json", "--yes").stderr
    gateway.write("forged.json", '{"signature": 5}')
    assert "not a receipt" in gateway("erase", "shop", "--again", "forged.json", "--yes").stderr
    assert "cannot be read" in gateway("erase", "shop", "--again", "none.json", "--yes").stderr
    gateway("site", "create", "other")
    assert "of the site 'shop'" in gateway("erase", "other", "--again", "receipt.json", "--yes").stderr


def test_a_list_with_a_bad_id_erases_nobody(gateway: Shell) -> None:
    gateway.write("people.csv", "id\n42\n")
    gateway("import", "shop", "people.csv")
    assert "nobody was erased" in gateway("erase", "shop", "42", "undefined", "--yes").stderr
    assert gateway.json("export", "shop", "person", "42")["profile"]["primary"] == "42"
