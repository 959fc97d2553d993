"""The files in deploy/: linted, checked against the schema of Compose, verified by systemd, and what can run, run."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.settings import SETTINGS
from tests.faults.swarm import UNLIMITED
from tests.programs import required
from tests.proxies import Certificates, Nginx
from tests.server import ROOT, GatewayServer, wait_for
from tests.test_serving import Visitors

DEPLOY = ROOT / "deploy"
COMPOSE = sorted(DEPLOY.glob("compose.*.yaml"))
TOOLS = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def services() -> dict[str, dict[str, Any]]:
    """Every service of every compose file."""
    return {f"{f.name} {n}": s for f in COMPOSE for n, s in yaml.safe_load(f.read_text())["services"].items()}


def test_the_dockerfile_is_what_hadolint_likes() -> None:
    assert run(TOOLS / "hadolint", DEPLOY / "Dockerfile") == ""


def test_the_image_is_given_what_the_package_is_built_from() -> None:
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = set(" ".join(re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile, re.MULTILINE)).split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], *wheel["packages"]}
    needed |= {Path(name).parts[0] for name in wheel["force-include"]}
    assert copied == allowed == needed
    assert {Path(name).parts[0] for name in copied} <= {p.name for p in ROOT.iterdir()}
    extras = re.findall(r"'\.\[(.*)\]'", dockerfile)[0].split(",")
    assert set(extras) <= project["project"]["optional-dependencies"].keys()


def test_the_compose_files_are_what_compose_takes() -> None:
    assert len(COMPOSE) == 3
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE)
    for name, service in services().items():
        file = name.split()[0]
        whole = yaml.safe_load((DEPLOY / file).read_text())
        for needed in service.get("depends_on", ()):
            assert needed in whole["services"], name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            made_here = source in whole.get("volumes", {}) or "certificates" in source
            assert made_here or (DEPLOY / source).exists(), f"{name}: {volume}"
        if build := service.get("build"):
            assert (DEPLOY / build["context"] / build["dockerfile"]).exists(), name


def test_files_that_run_the_gateway_name_settings_that_there_are() -> None:
    known = {s.variable for s in SETTINGS} | {"GATEWAY_A", "GATEWAY_B"}
    for file in [*COMPOSE, DEPLOY / "Dockerfile", *DEPLOY.glob("systemd/*"), *ROOT.glob("docs/*.md")]:
        named = set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", file.read_text()))
        assert {n for n in named if n.removesuffix("_FILE") not in known} == set(), file


def test_the_units_are_what_systemd_takes(tmp_path: Path) -> None:
    program = required("systemd-analyze")
    for unit in DEPLOY.glob("systemd/*"):
        text = unit.read_text().replace("/opt/gateway/bin/gateway", str(TOOLS / "gateway"))
        (tmp_path / unit.name).write_text(text)
    said = run(program, "verify", "--man=no", *sorted(tmp_path.iterdir()))
    assert [line for line in said.splitlines() if str(tmp_path) in line or "gateway." in line] == []
    judged = run(program, "security", "--offline=true", "--threshold=20", "--no-pager", tmp_path / "gateway.service")
    assert "OK" in judged


@pytest.mark.parametrize("restarted", ["a", pytest.param("abab", marks=pytest.mark.slow)])
def test_one_of_two_gateways_is_restarted_behind_nginx_and_nobody_notices(
    tmp_path: Path, postgres_url: str, restarted: str
) -> None:
    wanted = UNLIMITED | {"GATEWAY_DATABASE": postgres_url, "GATEWAY_TRUSTED_PROXIES": "127.0.0.1"}
    for name in "ab":
        (tmp_path / name).mkdir()
    with (
        GatewayServer(tmp_path / "a", environment=wanted) as a,
        GatewayServer(tmp_path / "b", environment=wanted) as b,
    ):
        site = a.site()
        parts = [("${GATEWAY_A}", f"127.0.0.1:{a.port}"), ("${GATEWAY_B}", f"127.0.0.1:{b.port}")]
        certificates = Certificates(tmp_path)
        with Nginx(tmp_path / "nginx", "nginx-two-gateways.conf.template", "", certificates, *parts) as nginx:
            context = ssl.create_default_context(cafile=str(certificates.ca))
            with Visitors(nginx.port, site["api_key"], tls=context, host="t.shop.example") as visitors:
                for server in ({"a": a, "b": b}[name] for name in restarted):
                    port = server.port
                    wait_for_more(visitors)
                    server.stop()
                    wait_for_more(visitors)
                    server.start(port=port)
                    wait_for(lambda server=server: at_work(server), timeout=30)  # type: ignore[misc]
        assert visitors.failures == []
        assert set(visitors.statuses) == {202}


def at_work(server: GatewayServer) -> bool:
    """Whether a gateway was given something to do again."""
    return 'gateway_commands_durable_total{actor="page"}' in httpx.get(f"{server.url}/metrics", trust_env=False).text


def wait_for_more(visitors: Visitors, number: int = 30) -> None:
    before = visitors.answered
    wait_for(lambda: visitors.answered > before + number or visitors.failures, timeout=30)
