"""The rules in use, by their own words, and what the samples of one box stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sizing import cells, figures, rules, store
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
def test_rule(
    key: str, kind: str, memory: int, cpus: float, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "SEEN", 2)
    assert rules.rules_of(Cell(kind, memory, cpus))[key].name == name


def test_uvicorn_alone_is_offered_to_apps_that_it_can_serve() -> None:
    assert "uvicorn" in rules.rules_of(Cell("async", 512, 1.0))
    assert "uvicorn" not in rules.rules_of(Cell("io", 512, 1.0))


def test_all_48_cells_are_measured_in_twelve_sessions_memory_ascending() -> None:
    groups = cells.groups(cells.every())
    assert sum(map(len, groups)) == 48
    assert len(groups) == 12
    assert all([cell.memory_mib for cell in group] == [256, 512, 1024, 2048] for group in groups)
    assert [(group[0].kind, group[0].cpus) for group in groups] == [
        (kind, cpus) for cpus in (1.0, 2.0, 0.5) for kind in ("io", "cpu", "mixed", "async")
    ]


@pytest.mark.parametrize("cpus", cells.CPUS)
def test_a_window_of_an_app_that_computes_holds_several_queues(cpus: float) -> None:
    queue = cells.CLIENTS * cells.KINDS["cpu"][0] / 1000 / cpus
    assert cells.window_of("cpu", cpus) >= 3 * queue


def place(kept: Store, point: Point, memory: int, **values: Any) -> None:
    record = {"up": True, "never_full": True, "oom_kills": 0, "peak": 1, **values}
    kept.add("place", point=as_record(point), memory_mib=memory, **record)


def test_a_box_that_was_never_full_stands_for_larger_ones_and_no_other_does(tmp_path: Path) -> None:
    kept = Store(tmp_path, "digest", "io", 1.0)
    kept.begin(whole=True, repeats=5)
    free, full = Point("farrier", "gthread", 1, 32), Point("farrier", "gthread", 2, 32)
    place(kept, free, 256)
    place(kept, full, 256, never_full=False)
    small, large = Cell("io", 256, 1.0), Cell("io", 1024, 1.0)
    kept.end([small, large])
    assert set(kept.places(small)) == {free, full}
    assert set(kept.places(large)) == {free}
    assert kept.places(large, every_cell=True) == {}
    kept.begin(whole=False, repeats=5)
    place(kept, full, 512)
    kept.end([large])
    assert kept.places(large)[full]["memory_mib"] == 512
    # What was known at the end of the session counts: it filled its memory after all.
    kept.begin(whole=False, repeats=5)
    place(kept, free, 256, never_full=False)
    kept.end([small])
    assert set(kept.places(large)) == {full}
    assert free in [Point(**one["point"]) for one in kept.fallen(large)]


def test_samples_survive_a_run_that_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    kept = Store(tmp_path, "digest", "io", 1.0)
    kept.begin(whole=True, repeats=5)
    kept.end([Cell("io", 256, 1.0)])
    with kept.path.open("a") as file:
        file.write('{"type": "done", "memory_m')
    again = Store(tmp_path, "digest", "io", 1.0)
    assert again.is_done(Cell("io", 256, 1.0))
    assert not again.is_done(Cell("io", 512, 1.0))
    assert not Store(tmp_path, "another", "io", 1.0).is_done(Cell("io", 256, 1.0))


def window(kept: Store, point: Point, memory: int, name: str, throughput: float = 100.0) -> None:
    kept.add("window", point=as_record(point), memory_mib=memory, round=name, throughput=throughput, p99=0.1)


POINT, CELL = Point("farrier", "gthread", 1, 32), Cell("io", 256, 1.0)


def session(kept: Store, whole: bool, rounds: int, ended: bool = True) -> None:
    name = kept.begin(whole, repeats=5)
    place(kept, POINT, 256)
    for number in range(rounds):
        window(kept, POINT, 256, f"{name}:{number}")
    if ended:
        kept.end([CELL])
    kept.session = None


def seen(kept: Store) -> list[int]:
    return [len(one.windows) for one in figures.measured(kept, CELL).values()]


def test_a_session_that_was_stopped_counts_for_nothing(tmp_path: Path) -> None:
    kept = Store(tmp_path, "digest", "io", 1.0)
    session(kept, whole=True, rounds=3, ended=False)
    assert not kept.is_done(CELL)
    assert seen(kept) == []
    session(kept, whole=True, rounds=5)
    assert seen(kept) == [5]
    session(kept, whole=False, rounds=2, ended=False)
    assert seen(Store(tmp_path, "digest", "io", 1.0)) == [5]


def test_a_cell_that_was_measured_anew_has_only_the_new_samples(tmp_path: Path) -> None:
    kept = Store(tmp_path, "digest", "io", 1.0)
    session(kept, whole=True, rounds=5)
    session(kept, whole=False, rounds=5)
    assert seen(kept) == [10]
    session(kept, whole=True, rounds=5)
    assert seen(kept) == [5]


def test_a_point_with_too_few_windows_is_none(tmp_path: Path) -> None:
    kept = Store(tmp_path, "digest", "io", 1.0)
    session(kept, whole=True, rounds=2)
    assert seen(kept) == []


@pytest.mark.parametrize(("key", "counts"), [("cpus", False), ("memory_gib", False), ("kernel", True)])
def test_samples_of_a_machine_of_another_size_are_left_alone(tmp_path: Path, key: str, counts: bool) -> None:
    kept = Store(tmp_path, "digest", "io", 1.0)
    session(kept, whole=True, rounds=5)
    other = "1.2.3" if key == "kernel" else kept.records[0]["machine"][key] + 1
    kept.records[0]["machine"][key] = other
    assert kept.is_done(CELL) is counts


def test_figures_fall_short_where_a_cell_or_a_rule_is_missing(tmp_path: Path) -> None:
    kept = Store(tmp_path, "digest", "io", 1.0)
    session(kept, whole=True, rounds=5)
    found = figures.measured(kept, CELL)[POINT]
    own = figures.compare(found, found, found)
    one = figures.Result(
        CELL, found, found, own, {"default": own}, [found], {}, "tight", list(kept.counted(CELL).values())
    )
    cells_of, comparisons = figures.figures([one], [CELL, Cell("io", 512, 1.0)])[:2]
    assert (cells_of["value"], cells_of["bound"], cells_of["holds"]) == (1, "2", False)
    assert (comparisons["value"], comparisons["holds"]) == (1, False)
    assert cells_of["machine"] == store.phrase(store.machine())
    down = figures.Seen(POINT, {**found.place, "up": False}, [])
    lost = figures.Result(
        CELL, down, down, figures.compare(down, down, down), {}, [down], {}, "tight", one.sessions
    )
    assert not lost.holds
    assert [row["holds"] for row in figures.figures([lost])[2:5]] == [False, False, False]
    json.dumps(figures.figures([lost, one]), allow_nan=False)
