"""What `make test` does about programs that are missing; apt and the machine are stand-ins."""

import importlib
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.server import ROOT


class Machine:
    """Debian, for root. `fails` holds what apt says to the next installs, `ran` what was run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, debian: ModuleType) -> None:
        self.fails: list[str] = []
        self.ran: list[str] = []
        self.policy, self.journal, self.clusters = folder / "policy", folder / "journal", folder / "pg" / "cluster"
        self.journal.mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(shutil, "which", lambda name, path=None: name if name == "apt-get" else None)
        monkeypatch.setattr(debian, "run", self.run)
        monkeypatch.setattr(debian, "POLICY", self.policy)
        monkeypatch.setattr(debian, "JOURNAL", self.journal)
        monkeypatch.setattr(debian, "CLUSTERS", self.clusters)

    def run(self, command: list[str]) -> list[str]:
        match command:
            case ["apt-cache", "show", package]:
                return ["apt-cache failed:"] if package == "unknown" else []
            case ["apt-get", *words] if "install" in words:
                assert os.access(self.policy, os.X_OK), "services are held back"
                self.ran.append("install " + " ".join(words[words.index("--no-install-recommends") + 1 :]))
                return [self.fails.pop(0)] if self.fails else []
            case ["apt-get", *_, "update"]:
                self.ran.append("update")
            case _:
                self.ran.append(" ".join(command))
        return []


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("debian")


@pytest.fixture
def machine(debian: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch, debian)


def test_a_download_that_fails_once_is_tried_again(
    debian: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.fails = ["E: 404"]
    assert debian.install(["curl", "strace"])
    assert machine.ran == ["update", "install curl strace"] * 2
    assert not machine.policy.exists() and not machine.clusters.exists()
    assert capsys.readouterr() == ("Installing Debian's curl, strace\n", "")


def test_one_that_goes_on_failing_says_why(
    debian: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.fails = ["E: 404", "E: no space left"]
    assert not debian.install(["curl"])
    assert capsys.readouterr().err == "  E: no space left\n"
    assert not machine.policy.exists()


def test_what_there_is_gets_installed_although_another_package_is_unknown(
    debian: ModuleType, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not debian.install(["curl", "unknown"])
    assert "install curl" in machine.ran
    assert capsys.readouterr().err == "  there is no package unknown here\n"


def test_what_was_interrupted_or_set_before(debian: ModuleType, machine: Machine) -> None:
    (machine.journal / "0001").touch()
    machine.policy.write_text("#!/bin/sh\nexit 0\n")
    machine.policy.chmod(0o755)
    assert debian.install(["postgresql"])
    assert machine.ran == ["dpkg --configure -a", "update", "install postgresql"]
    assert machine.policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert machine.clusters.read_text() == "create_main_cluster = false\n"


def test_who_is_not_root_is_told_everything_at_once(
    debian: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools, browsers = importlib.import_module("install_tools"), importlib.import_module("browsers")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(browsers, "missing", lambda: ["chromium", "xvfb"])
    monkeypatch.setattr(browsers, "run", machine.run)
    assert tools.main() == 1
    assert [command.rpartition(" ")[2] for command in machine.ran] == ["chromium"]  # by Playwright
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert {*tools.PROGRAMS, "chromium", "xvfb"} <= set(said.replace(":", "").split())
