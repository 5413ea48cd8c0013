"""What counts as growth, and a short run of the real thing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from directview.testing.soak import Series, soak


def series(mb_per_hour: float, *, seconds: int = 1200, under_way: float = 30.0) -> Series:
    """A process that keeps 40 MB at first, grows like that, and has up to `under_way` MB on its way."""
    rng = random.Random(5)
    times = [float(t) for t in range(seconds)]
    return Series(times, [40 + mb_per_hour * t / 3600 + under_way * rng.random() ** 2 for t in times])


@pytest.mark.parametrize("under_way", [0.0, 10.0, 60.0])
def test_what_is_on_its_way_is_no_growth(under_way: float) -> None:
    found = series(0.0, under_way=under_way)
    assert not found.grows(480.0)
    slope, height = found.line(480.0)
    assert abs(slope * 3600) < 5
    assert height == pytest.approx(40, abs=2)


@pytest.mark.parametrize("under_way", [0.0, 10.0, 60.0])
def test_growth_is_seen_below_it(under_way: float) -> None:
    found = series(40.0, under_way=under_way)
    assert found.grows(480.0)
    assert found.line(480.0)[0] * 3600 == pytest.approx(40, abs=6)


def test_what_happens_while_warming_up_does_not_count() -> None:
    found = series(0.0)
    found.sizes[:400] = [size / 4 for size in found.sizes[:400]]
    assert not found.grows(480.0)


@pytest.mark.parametrize("sizes", [[], [7.0], [7.0, 8.0]])
def test_too_little_to_tell(sizes: list[float]) -> None:
    found = Series([float(t) for t in range(len(sizes))], sizes)
    assert found.line(0.0) == (0.0, sizes[-1] if sizes else 0.0)


@pytest.mark.process
@pytest.mark.slow
async def test_a_short_run_counts_its_calls_and_looks_at_every_process(tmp_path: Path) -> None:
    report = await soak(15.0, tmp_path, engines=1, clients=1)
    assert report.calls > 100
    assert report.bad == 0
    assert set(report.processes) == {"supervisor", "controller", "fork server", "engine 0", "client c0"}
    assert all(len(series.times) >= 2 for series in report.processes.values())
    assert all(series.peak >= min(series.sizes) for series in report.processes.values())
    assert "0 of them not right" in str(report)
