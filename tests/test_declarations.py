"""static/veroq.d.ts, by the real compiler: what pages write compiles, and mistakes do not."""

import json
import subprocess
from pathlib import Path

from tests.programs import required
from tests.server import ROOT

TSC = ROOT / "tests" / "dialects" / "clients" / "node_modules" / "typescript" / "bin" / "tsc"
SAMPLES = ROOT / "tests" / "data" / "declarations"


def compiled(folder: Path, *samples: str) -> str:
    """What the compiler says about samples, in strict mode, with the declarations beside them."""
    options = {"strict": True, "noEmit": True, "target": "es2022", "lib": ["es2022", "dom"], "types": []}
    files = [str(ROOT / "static" / "veroq.d.ts"), *(str(SAMPLES / s) for s in samples)]
    project = folder / "tsconfig.json"
    project.write_text(json.dumps({"compilerOptions": options, "files": files}))
    command = [required("node"), str(TSC), "-p", str(project), "--pretty", "false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == (done.stdout + done.stderr == ""), done.stderr
    return done.stdout + done.stderr


def test_what_pages_write_compiles_and_mistakes_do_not(tmp_path: Path) -> None:
    assert compiled(tmp_path, "good.ts", "bad.ts") == ""
    assert (SAMPLES / "bad.ts").read_text().count("@ts-expect-error") == 20, "one for each mistake"


def test_every_command_of_the_docs_is_in_a_sample() -> None:
    text = (SAMPLES / "good.ts").read_text()
    docs = (ROOT / "docs" / "snippet.md").read_text()
    named = {line.split("'")[1] for line in docs.splitlines() if line.startswith("_veroq.push(['")}
    assert len(named) > 10
    assert [n for n in named if f'["{n}"' not in text] == []
