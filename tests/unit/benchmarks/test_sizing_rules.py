"""The rules in use, by their own words, and what the samples of one box stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.sizing import cells, rules
from benchmarks.sizing.cells import Cell, Point
from benchmarks.sizing.store import Store, as_record


@pytest.mark.parametrize(
    ("key", "kind", "memory", "cpus", "name"),
    [
        ("default", "io", 2048, 2.0, "gunicorn sync 1"),
        ("2cpu+1", "io", 256, 0.5, "gunicorn sync 5"),
        ("2cpu+1-quota", "io", 256, 0.5, "gunicorn sync 2"),
        # Heroku's own list: 512 MB of memory are 2, 1 GB are 4; two cores are 5.
        ("heroku", "io", 512, 1.0, "gunicorn sync 2"),
        ("heroku", "io", 1024, 1.0, "gunicorn sync 4"),
        ("heroku", "io", 2048, 2.0, "gunicorn sync 5"),
        ("s2i", "cpu", 256, 1.0, "gunicorn sync 4"),
        ("tiangolo", "async", 256, 0.5, "gunicorn uvicorn 2"),
        ("gitlab", "mixed", 2048, 2.0, "gunicorn gthread 2x4 preload"),
        ("odoo", "io", 256, 1.0, "gunicorn sync 1"),
        ("odoo", "io", 1024, 1.0, "gunicorn sync 3"),
        ("functions", "io", 256, 0.5, "gunicorn gthread 1x8 no timeout"),
        ("granian", "async", 256, 1.0, "granian 2"),
    ],
)
def test_rule(key: str, kind: str, memory: int, cpus: float, name: str) -> None:
    assert rules.rules_of(Cell(kind, memory, cpus))[key].name == name


def test_uvicorn_alone_is_offered_to_apps_that_it_can_serve() -> None:
    assert "uvicorn" in rules.rules_of(Cell("async", 512, 1.0))
    assert "uvicorn" not in rules.rules_of(Cell("io", 512, 1.0))


def test_all_48_cells_are_measured_in_twelve_sessions_memory_ascending() -> None:
    groups = cells.groups(cells.every())
    assert sum(map(len, groups)) == 48
    assert len(groups) == 12
    assert all([cell.memory_mib for cell in group] == [256, 512, 1024, 2048] for group in groups)


def place(kept: Store, point: Point, memory: int, **values: Any) -> None:
    record = {"up": True, "never_full": True, "oom_kills": 0, "peak": 1, **values}
    kept.add("place", point=as_record(point), memory_mib=memory, **record)


def test_a_box_that_was_never_full_stands_for_larger_ones_and_no_other_does(tmp_path: Path) -> None:
    kept = Store(tmp_path, "digest", "io", 1.0)
    free, full = Point("farrier", "gthread", 1, 32), Point("farrier", "gthread", 2, 32)
    place(kept, free, 256)
    place(kept, full, 256, never_full=False)
    small, large = Cell("io", 256, 1.0), Cell("io", 1024, 1.0)
    assert set(kept.places(small)) == {free, full}
    assert set(kept.places(large)) == {free}
    assert kept.places(large, every_cell=True) == {}
    place(kept, full, 512)
    assert kept.places(large)[full]["memory_mib"] == 512
    # What was known at the end of the session counts: it filled its memory after all.
    place(kept, free, 256, never_full=False)
    assert set(kept.places(large)) == {full}


def test_samples_survive_a_run_that_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    kept = Store(tmp_path, "digest", "io", 1.0)
    kept.add("done", memory_mib=256)
    with kept.path.open("a") as file:
        file.write('{"type": "done", "memory_m')
    again = Store(tmp_path, "digest", "io", 1.0)
    assert again.is_done(Cell("io", 256, 1.0))
    assert not again.is_done(Cell("io", 512, 1.0))
    assert not Store(tmp_path, "another", "io", 1.0).is_done(Cell("io", 256, 1.0))
