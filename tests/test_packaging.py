"""What a user gets: the wheel, run as installed, and the one-word commands that the README promises."""

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

from gateway.snippet import load_snippet
from tests.server import ROOT, GatewayServer


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel, and borrows its dependencies from the test's."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--no-deps", "--no-index", str(wheel))
    # a directory named in a .pth file is importable, but its own .pth files, such as an editable install's, are not
    packages = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(packages, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def test_wheel_holds_every_file_of_the_package_and_the_snippet(wheel: Path) -> None:
    files = (path for path in (ROOT / "gateway").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    expected |= {"gateway/static/veroq.js", "gateway/static/veroq.d.ts"}
    with zipfile.ZipFile(wheel) as archive:
        assert expected - set(archive.namelist()) == set()
        assert archive.read("gateway/static/veroq.js") == (ROOT / "static" / "veroq.js").read_bytes()


def test_wheel_holds_nothing_but_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gateway"}


def test_installed_command_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = run(str(installed), "-c", "import gateway; print(gateway.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed.parents[1])
    assert "serve" in run(str(installed), "-m", "gateway", "--help", cwd=tmp_path)
    assert "serve" in run(str(installed.with_name("gateway")), "--help", cwd=tmp_path)


def test_installed_package_loads_the_snippet_from_inside_itself(installed: Path, tmp_path: Path) -> None:
    script = "from gateway.snippet import load_snippet; print(load_snippet().integrity)"
    assert run(str(installed), "-c", script, cwd=tmp_path).strip() == load_snippet().integrity


def test_installed_gateway_serves_the_snippet(installed: Path, tmp_path: Path) -> None:
    with GatewayServer(tmp_path, python=installed, environment={"PYTHONPATH": ""}) as server:
        for path in ("/veroq.js", "/m.js", "/assets/m.js"):
            answer = httpx.get(server.url + path, trust_env=False)
            assert answer.status_code == 200
            assert "javascript" in answer.headers["content-type"]
            assert "_veroq" in answer.text
        assert len(server.site(origin="https://shop.example")["api_key"]) == 40


def test_readme_names_only_commands_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^[ \t]*(?:\$ )?|`)make ([a-z-]+)", readme, re.MULTILINE))
    assert named <= targets
    assert {"demo", "test"} <= named


INTERNAL = {"tools", "clients"}  # what `make test` needs first


def test_help_lists_every_command_once() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^  make (\S+)", run("make", "--no-print-directory", "-C", str(ROOT), "help"), re.MULTILINE)
    assert sorted(listed) == sorted(set(phony[1].split()) - INTERNAL)


def test_ci_runs_what_the_readme_says() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
