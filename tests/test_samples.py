"""The samples in the documents: what can run is run, in order; the rest must at least be what it says it is."""

from __future__ import annotations

import ast
import csv
import json
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
import typer.main
import yaml

from gateway.cli import app
from gateway.commands import Parser
from gateway.signing import read_identity_token
from tests.driver import Driver, driving
from tests.server import ROOT
from tests.test_bulk import Shell

DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("gateway/dialects/*/README.md"))]
CALLED = ["quickstart.md", "emails.md", "server-apis.md"]
"""Pages whose `curl` samples are sent to a gateway, in their order; the JSON after them is what it answers."""
RUN = ["bulk.md", "emails.md", "operations.md", "quickstart.md", "trust.md"]
"""Pages whose `gateway` samples are run, in their order."""
PAGE_ONLY = {"init", "consent", "cookie_domain", "reset"}
"""Commands of the script that the gateway has nothing to do for."""


@dataclass(frozen=True)
class Sample:
    """A fenced block."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def samples(page: Path) -> Iterator[Sample]:
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        line = page.read_text()[: found.start()].count("\n") + 1
        yield Sample(page, line, found[1], found[2])


ALL = [s for page in DOCUMENTS for s in samples(page)]


def commands(sample: Sample, program: str) -> list[list[str]]:
    """The words of each line that runs a program, wherever that is installed."""
    joined = sample.text.replace("\\\n", " ")
    lines = [re.sub(r"^(sudo |\S*bin/)*", "", line.strip()) for line in joined.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(f"{program} ")]


def of(*languages: str) -> Any:
    return pytest.mark.parametrize("sample", [s for s in ALL if s.language in languages], ids=str)


# --- what every sample must be ----------------------------------------------------------------------------------------


def test_every_sample_says_what_it_is_written_in() -> None:
    known = {"sh", "json", "python", "html", "js", "ts", "yaml", "csv", "nginx", "caddy", "ini", "http", "sql", "text"}
    unknown = [str(s) for s in ALL if s.language and s.language not in known]
    assert unknown == []
    assert len(ALL) > 40


@of("json")
def test_json_can_be_read(sample: Sample) -> None:
    json.loads(sample.text)


@of("python")
def test_python_can_be_read(sample: Sample) -> None:
    decorators_only = sample.text.startswith("@") and "def " not in sample.text
    ast.parse(sample.text + ("def test(): ..." if decorators_only else ""))


@of("yaml")
def test_yaml_can_be_read(sample: Sample) -> None:
    assert yaml.safe_load(sample.text)


@of("csv")
def test_tables_have_as_many_cells_in_each_row(sample: Sample) -> None:
    assert len({len(row) for row in csv.reader(sample.text.splitlines())}) == 1


@of("html", "js")
def test_pages_push_commands_that_there_are(sample: Sample) -> None:
    known = {name.removeprefix("_on_") for name in dir(Parser) if name.startswith("_on_")} | PAGE_ONLY
    pushed = set(re.findall(r"_veroq\.push\(\[\s*['\"](\w+)['\"]", sample.text))
    assert {p for p in pushed if p.lower() not in known} == set()


@of("sh")
def test_commands_and_their_options_exist(sample: Sample) -> None:
    root = typer.main.get_command(app)
    for words in commands(sample, "gateway"):
        words = words[: words.index("|")] if "|" in words else words
        words = words[: words.index(">")] if ">" in words else words
        command: click.Command = root
        while isinstance(command, click.Group):
            assert words and words[0] in command.commands, f"gateway {' '.join(words)}"
            command, words = command.commands[words[0]], words[1:]
        command.make_context("gateway", list(words), resilient_parsing=False)


@pytest.mark.parametrize("picture", sorted(ROOT.glob("docs/pictures/*.svg")), ids=lambda p: p.stem)
def test_pictures_are_whole_said_in_words_and_shown_somewhere(picture: Path) -> None:
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(picture.read_text())
    assert root.findtext(f"{svg}title")
    assert len(root.findtext(f"{svg}desc") or "") > 40
    shown = [d for d in DOCUMENTS if re.search(rf"!\[[^\]]{{20,}}\]\(pictures/{picture.name}\)", d.read_text())]
    assert shown


# --- what can be run --------------------------------------------------------------------------------------------------


async def call(driver: Driver, words: list[str], names: dict[str, str]) -> Any:
    """Sends what a `curl` line says; returns the answer."""
    method, headers, body, url = "GET", {}, None, ""
    rest = iter(words)
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(rest)
        else:
            assert not word.startswith("-"), f"curl {word}"
            url = word
    for placeholder, real in names.items():
        headers = {k: v.replace(placeholder, real) for k, v in headers.items()}
        body = body and body.replace(placeholder, real)
    path = url.removeprefix("http://localhost:8000")
    assert path.startswith("/"), url
    response = await driver.client.request(method, path, headers=headers, content=body)
    assert response.is_success, f"{url}: {response.text}"
    return response.json()


def holds(shown: Any, answer: Any) -> bool:
    """Whether an answer has what a sample shows: its keys, in lists as many, and values of the same kind."""
    if isinstance(shown, dict):
        return isinstance(answer, dict) and all(k in answer and holds(v, answer[k]) for k, v in shown.items())
    if isinstance(shown, list):
        return isinstance(answer, list) and len(shown) == len(answer) and all(map(holds, shown, answer))
    if isinstance(shown, str) and isinstance(answer, str):
        made_up = r"TOKEN|…|\d{19}|\d{4}-\d\d-\d\dT"
        return shown == answer or re.search(made_up, shown) is not None
    return shown == answer


@pytest.mark.parametrize("name", CALLED)
async def test_calls_are_answered_as_the_page_says(tmp_path: Path, name: str) -> None:
    async with driving(tmp_path) as driver:
        driver.site.settings["origins"] = []
        names = {"API_KEY": driver.site.api_key, "SECRET_KEY": driver.site.secret_keys[-1]}
        answer: Any = None
        compared = 0
        for sample in samples(ROOT / "docs" / name):
            if sample.language == "sh":
                for words in commands(sample, "curl"):
                    answer = await call(driver, words, names)
            elif sample.language == "json" and "error" not in (shown := json.loads(sample.text)):
                assert holds(shown, answer), f"{sample}: {json.dumps(answer, indent=2)}"
                compared += 1
        assert compared


@pytest.mark.parametrize("name", RUN)
def test_commands_do_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    gateway = Shell(tmp_path, monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    page = samples(ROOT / "docs" / name)
    gateway("site", "create", "shop" if name != "quickstart.md" else "other")
    for file, text in {"people.csv": "id,email\n42,jo@x.io\n", "pairs.csv": "old,new\nold@x.io,42\n"}.items():
        gateway.write(file, text)
    gateway.write("list.txt", "jo@x.io\n")
    gateway.write("receipt.json", "")
    batch = ""
    for sample in page:
        if sample.language == "csv":
            gateway.write("people.csv", sample.text)
        for words in commands(sample, "gateway") if sample.language == "sh" else ():
            words = words[: words.index(">")] if ">" in words else words
            words = [batch if re.fullmatch(r"merge-[0-9a-f]{12}", w) else w for w in words]
            words = [w.replace("/backups", str(tmp_path)) for w in words]
            if words[0] == "serve" or "--again" in words:
                continue
            if words[0] == "erase":
                (tmp_path / "receipt.json").unlink(missing_ok=True)
            done = gateway(*words, typed="y\nshop\n" if words[0] == "duplicates" else "shop\n")
            may_fail = ("duplicates",) if "customer-number" in words else ("restore",)
            assert done.returncode == 0 or words[0] in may_fail, f"{sample}: {words}\n{done.stdout}{done.stderr}"
            if found := re.search(r"--undo (\S+)", done.stdout):
                batch = found[1]
    assert gateway.json("check")["ok"]


async def test_the_identity_token_of_the_page_is_taken(tmp_path: Path) -> None:
    (sample,) = (s for s in samples(ROOT / "docs" / "trust.md") if s.language == "python")
    made: dict[str, Any] = {}
    exec(compile(sample.text, str(sample), "exec"), made)
    async with driving(tmp_path) as driver:
        token = made["identity_token"]("42", driver.site.secret_keys[-1], "jo@x.io")
        assert read_identity_token(driver.site, token)["aliases"] == ["jo@x.io"]
        await driver.push("1", ["verify", token], "a", time.time())
        profile = await driver.find("u:42")
        assert profile is not None
        assert {i["value"] for i in profile["identities"]} == {"42", "jo@x.io"}
