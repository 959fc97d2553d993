"""`gateway bench merge`: a merge costs the same whatever has happened to the people."""

import json

from typer.testing import CliRunner

from gateway import bench_merge
from gateway.cli import app


def test_it_prints_costs_and_ratios(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(bench_merge, "SIZES", (10, 500))
    result = CliRunner().invoke(app, ["bench", "merge", "--rounds", "3", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [c["events"] for c in found["sizes"]] == [10, 500]
    assert all(c["merge_ms"] > 0 and c["undo_ms"] > 0 and c["latest_ms"] > 0 for c in found["sizes"])
    assert found["sizes"][0]["merge_ratio"] == 1.0
    assert found["devices"] == 50
