"""The benchmarks run, and their figures belong together."""

import pytest

from gateway import bench_growth, bench_ingest


def test_ingest_is_compared_with_an_empty_route() -> None:
    empty, one, many, steady = bench_ingest.bench(requests=1000, connections=4, rounds=1, offered=100)
    assert empty.ratio == 1 and empty.events_per_request == 0
    assert (one.events_per_request, many.events_per_request, steady.events_per_request) == (1, 20, 1)
    assert one.ratio == pytest.approx(one.cpu_us / empty.cpu_us)
    assert many.ratio_per_event == pytest.approx(many.ratio / 20)
    assert steady.requests == 500 and steady.per_second == pytest.approx(100, rel=0.3)
    assert 0 < one.p50_ms <= one.p99_ms


async def test_growth_is_measured_on_a_database_with_so_many_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_growth, "WINDOW", 2000)
    monkeypatch.setattr(bench_growth, "STEPS", (4000,))
    monkeypatch.setattr(bench_growth, "BROWSERS", 500)
    reported: list[tuple[int, int]] = []
    first, last = await bench_growth.bench(8000, lambda done, total: reported.append((done, total)))
    assert (first.events, last.events) == (4000, 8000)
    assert 0.1 < last.rate_ratio < 10 and 0.1 < last.cpu_ratio < 10
    assert first.database_mb > 1 and first.memory_mb > 10
    assert reported[-1][1] == 8000
