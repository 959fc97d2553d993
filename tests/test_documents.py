"""The documents say what is there: files, commands, settings, and the samples run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.settings import SETTINGS
from tests.server import gateway_environment

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md"), *ROOT.glob("gateway/**/*.md")])


def gateway(folder: Path, *arguments: str) -> str:
    """What `gateway ARGUMENTS` prints."""
    environment = gateway_environment() | {"GATEWAY_DATABASE": f"sqlite:///{folder / 'gateway.db'}"}
    command = [sys.executable, "-m", "gateway", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(d.relative_to(ROOT)) for d in DOCUMENTS])
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [p.name for p in ROOT.glob("docs/*.md") if p.name != "README.md"]
    assert [p for p in pages if f"]({p})" not in index] == []


def test_the_table_of_settings_is_the_one_in_the_code() -> None:
    table = (ROOT / "docs" / "settings.md").read_text()
    rows = {f"| `{s.variable}` | " + (f"`{s.default}`" if s.default else "") for s in SETTINGS}
    assert [r for r in rows if r.rstrip() not in table] == []
    assert len(re.findall(r"^\| `GATEWAY_", table, re.MULTILINE)) == len(SETTINGS)


def test_the_readmes_commands_exist(tmp_path: Path) -> None:
    named = set(re.findall(r"`gateway ([a-z-]+)", (ROOT / "README.md").read_text()))
    known = gateway(tmp_path, "--help")
    assert [n for n in named if n not in known] == []


def test_the_readmes_first_steps_work(tmp_path: Path) -> None:
    steps = re.findall(r"^\.venv/bin/gateway (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    made = json.loads(gateway(tmp_path, *steps[0].split(), "--json"))
    assert re.fullmatch("[0-9a-f]{40}", made["api_key"])
    assert len(made["secret_key"]) >= 40
    link = next(s for s in steps if s.startswith("link"))
    assert gateway(tmp_path, *link.split()).startswith("https://www.shop.example/sale?vero_id=")
    assert "the tables say what the ledger says" in gateway(tmp_path, "check")
