"""docs/testing.md, followed to the letter in a project that has never seen this checkout."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from gateway.testing import RunningGateway
from tests.server import ROOT

DOCS = ROOT / "docs" / "testing.md"
FIVE_MINUTES = DOCS.read_text(encoding="utf-8").partition("## In five minutes")[2].partition("\n## ")[0]
BLOCK = re.compile(r"(?:as `([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The browser of this machine in place of the one that `playwright install` would load.
SYSTEM_CHROMIUM = """
import shutil, pytest
@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    return browser_type_launch_args | {"executable_path": shutil.which("chromium")}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty folder, beside it the wheel that `pip install veroq-gateway` would load."""
    wheel = ("wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "wheels"), str(ROOT))
    run(sys.executable, "-m", "pip", *wheel, cwd=tmp_path)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "system_chromium.py").write_text(SYSTEM_CHROMIUM)
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def run(*command: str, cwd: Path, fails: bool = False) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GATEWAY_", "PYTEST_", "PYTHON", "VIRTUAL_ENV"))}
    left_out = " ".join(f"-p no:{name}" for name in ("playwright-asyncio", "schemathesis", "django", "flask"))
    ours = {"PYTEST_ADDOPTS": left_out, "PYTEST_PLUGINS": "system_chromium", "PYTHONPATH": str(cwd.parent / "plugins")}
    done = subprocess.run(command, cwd=cwd, env=clean | ours, capture_output=True, text=True, timeout=180)
    assert (done.returncode != 0) == fails, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def shell(line: str, project: Path, *, borrow: bool, fails: bool = False) -> str:
    """A line of the docs. With `borrow` nothing is loaded: the packages are those that run this test."""
    wheel = str(next((project.parent / "wheels").glob("*.whl")))
    if "playwright install" in line:
        return ""
    if not borrow:
        return run("sh", "-c", line.replace("veroq-gateway", wheel), cwd=project, fails=fails)
    if line.startswith("python3 -m venv"):
        venv.create(project / ".venv", with_pip=False)
        pip(project, "--no-deps", wheel)
        packages = sysconfig.get_path("purelib", vars={"base": str(project / ".venv")})
        Path(packages, "borrowed.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
        return ""
    if line.startswith(".venv/bin/pip install "):
        return pip(project, *line.split()[2:])
    return run("sh", "-c", line, cwd=project, fails=fails)


def pip(project: Path, *arguments: str) -> str:
    command = ("-m", "pip", "--python", ".venv/bin/python", "install", "-qq", "--no-index")
    return run(sys.executable, *command, *arguments, cwd=project)


@pytest.mark.parametrize("borrow", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["borrowed", "loaded"])
def test_five_minutes(project: Path, borrow: bool) -> None:
    said, expected = "", [""]
    for name, language, text in BLOCK.findall(FIVE_MINUTES):
        if name:
            (project / name).parent.mkdir(exist_ok=True)
            (project / name).write_text(text)
        elif language == "sh":
            said = "".join(shell(line, project, borrow=borrow) for line in text.splitlines())
        else:
            assert "2 passed" in said
            expected = text.splitlines()
    page = project / "site" / "checkout.html"
    page.write_text(page.read_text().replace("'track'", "'trakc'"))
    failed = shell(".venv/bin/python -m pytest -k purchase", project, borrow=borrow, fails=True)
    shown = without_ports(failed)
    assert "what the gateway received" in shown
    assert [line for line in expected if without_ports(line) not in shown] == [], failed


def without_ports(text: str) -> str:
    return re.sub(r"localhost:\d+", "localhost", text)


def test_every_helper_in_the_docs_exists_and_every_helper_is_there() -> None:
    text = DOCS.read_text(encoding="utf-8")
    named = set(re.findall(r"`gateway\.(\w+)", text))
    helpers = {name for name in dir(RunningGateway) if not name.startswith("_")}
    inner = {"background", "site_options", "timeout", "pause", "url", "site", "requests", "started_in"}
    inner |= {"ask", "serve", "received"}
    assert named - helpers == set()
    assert helpers - inner - named == set()
