"""When the guard goes back, and when it does not: its judgement by numbers, and how lives are added up."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farrier.release import guard
from farrier.release.events import Journal
from farrier.release.guard import DOWN, Lives, Sample, judge, memory_kills, quantile
from farrier.release.layout import Layout
from farrier.release.spec import Guard, Spec

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LIMITS = Guard()


def seen(requests: int, errors: int = 0, within: float = 0.01, **more: Any) -> Sample:
    """A colour whose responses all fell into the bucket of one bound."""
    counts = [0] * (len(BOUNDS) + 1)
    counts[BOUNDS.index(within)] = requests
    return Sample(requests, errors, BOUNDS, tuple(counts), age=600.0, **more)


def mixed(requests: int, slow: int) -> Sample:
    """A colour that answers most requests within 10 ms, and some in half a second."""
    counts = [0] * (len(BOUNDS) + 1)
    counts[BOUNDS.index(0.01)], counts[BOUNDS.index(1.0)] = requests - slow, slow
    return Sample(requests, 0, BOUNDS, tuple(counts), age=600.0)


BAD: list[tuple[str, Sample | None, Sample, str]] = [
    ("errors", seen(9000, 9), seen(210, 90), "43 % of 210 responses were errors (before: 0.1 %)"),
    ("errors at a first", None, seen(20, 2), "10 % of 20 responses were errors (before: too few to know)"),
    ("slow", seen(900), seen(40, within=1.0), "95 % of 40 responses took up to 975 ms (before: 9.75 ms; "),
    (
        "more errors than ever",
        seen(9000, 180),
        seen(40, 9),
        "22 % of 40 responses were errors (before: 2.0 %)",
    ),
    (
        "slow half of the time",
        mixed(9000, 360),
        mixed(20, 10),
        "95 % of 20 responses took up to 950 ms (befor",
    ),
    (
        "slower by a little",
        seen(900, within=0.5),
        seen(60, within=2.5),
        "95 % of 60 responses took up to 2.4 s",
    ),
    ("a leak", seen(9), seen(0, kills=1), "the kernel killed 1 process of it for memory (before: none in"),
    (
        "a faster leak",
        seen(9, kills=1),
        seen(0, kills=2),
        "killed 2 processes of it for memory (before: 1 in",
    ),
    ("restarted", seen(9), seen(0, restarts=1), "the service died and was started again once"),
    ("crashes", seen(9), seen(0, endings={"crashed": 2, "timed out": 1}), "badly: 2 crashed, 1 timed out"),
    (
        "hung",
        seen(900, rate=40.0),
        seen(0, in_hand=8, silent=10.0),
        "nothing was answered for 10 s, with 8 req",
    ),
    ("failed", seen(9), seen(0, unit="failed"), "the service failed"),
    ("unready", seen(9), seen(0, ready=False, down=DOWN), "no worker was ready for 10 s"),
    ("gone", seen(9), seen(0, unit="activating", down=11.0), "the service was activating for 11 s"),
]


@pytest.mark.parametrize(("before", "now", "told"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_release_goes_back_with_its_numbers(before: Sample | None, now: Sample, told: str) -> None:
    reason = judge(before, now, LIMITS)
    assert reason is not None
    assert told in reason
    assert "\n" not in reason


GOOD: list[tuple[str, Sample | None, Sample]] = [
    ("no traffic", seen(900), seen(0)),
    ("too little to know", seen(900), seen(19, 19)),
    ("few errors", seen(900), seen(200, 10)),
    ("errors as before", seen(900, 300), seen(200, 130)),
    ("slow as before", seen(900, within=1.0), seen(200, within=2.5)),
    ("slower, and still fast", seen(900, within=0.01), seen(200, within=0.25)),
    ("slow, and nothing to compare with", None, seen(200, within=10.0)),
    ("a leak as before", seen(900, kills=20), seen(200, kills=2)),
    ("crashes as before", seen(900, endings={"crashed": 40}), seen(200, endings={"crashed": 3})),
    ("recycled and stopped", seen(900), seen(200, endings={"recycled": 9, "stopped": 9})),
    ("an exchange of its only worker", seen(900), seen(0, ready=False, down=DOWN - 1)),
    ("a stream, and nobody else", seen(900, rate=0.1), seen(0, in_hand=1, silent=25.0)),
    ("a short pause", seen(900, rate=40.0), seen(0, in_hand=8, silent=DOWN - 1)),
    ("reloading", seen(900), seen(0, unit="reloading")),
    # One in fifty was an error before as well: among twenty there are two now and then.
    ("two errors by chance", seen(9000, 180), seen(20, 2)),
    ("errors, of a release that nobody knows well", seen(25), seen(20, 2)),
    ("two slow ones by chance", mixed(9000, 360), mixed(20, 2)),
]


@pytest.mark.parametrize(("before", "now"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_is_no_reason_to_go_back(before: Sample | None, now: Sample) -> None:
    assert judge(before, now, LIMITS) is None


@pytest.mark.parametrize(
    ("limits", "now"),
    [
        (replace(LIMITS, errors=0.5), seen(200, 90)),
        (replace(LIMITS, latency=1000.0), seen(200, within=1.0)),
        (replace(LIMITS, requests=300), seen(200, 200)),
        (replace(LIMITS, restarts=4), seen(0, restarts=2, endings={"crashed": 3})),
    ],
    ids=["errors", "latency", "requests", "restarts"],
)
def test_each_limit_is_the_persons(limits: Guard, now: Sample) -> None:
    assert judge(seen(900), now, LIMITS) is not None
    assert judge(seen(900), now, limits) is None


def watched(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    looks: Callable[[float], Sample],
    since: float | None = None,
) -> str | None:
    """What thirty seconds of watching find, with a clock of their own."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(guard, "sample", lambda layout, colour: replace(looks(clock[0] - 1000.0), life=1.0))
    spec = Spec.from_mapping(
        {"name": "a", "app": "m:app", "source": {"type": "requirement", "requirement": "x"}}
    )
    layout = Layout("a", tmp_path)
    return guard.watch(spec, layout, "blue", seen(9000), Journal(tmp_path / "events.jsonl", "r"), since)


def test_the_first_requests_of_its_workers_may_take_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Four workers that load what they need with the first request; ten requests a second."""
    assert watched(monkeypatch, tmp_path, lambda at: mixed(int(10 * at) + 4, 4)) is None


def test_a_release_that_stays_slow_goes_back_once_it_is_warm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = watched(monkeypatch, tmp_path, lambda at: mixed(int(10 * at) + 4, int(5 * at)))
    assert told is not None
    assert "responses took up to" in told
    assert re.search(r", [5-9] s after the switch$", told), told


def test_errors_are_found_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = watched(monkeypatch, tmp_path, lambda at: seen(int(40 * at), int(20 * at)))
    assert told is not None
    assert told.endswith(", 0 s after the switch"), told


def test_what_is_told_is_the_time_since_the_switch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The watch begins once the old colour has drained, which streams may hold up."""
    told = watched(monkeypatch, tmp_path, lambda at: seen(40, 20), since=980.0)
    assert told is not None
    assert told.endswith(", 20 s after the switch"), told


def test_a_quantile_lies_inside_its_bucket() -> None:
    # 100 evenly spread over 0 to 1 s: the 95th percentile is 0.95 s.
    assert quantile((0.5, 1.0), (50, 50, 0), 0.95) == pytest.approx(0.95)
    assert quantile((0.5, 1.0), (100, 0, 0), 0.5) == pytest.approx(0.25)
    # What is above every bound is told as the last of them, never as more than is known.
    assert quantile((0.5, 1.0), (0, 0, 7), 0.95) == 1.0
    assert quantile((0.5, 1.0), (0, 0, 0), 0.95) is None


def test_arbiters_that_follow_each_other_are_one_release() -> None:
    lives = Lives()
    assert lives.add(seen(10, 1, kills=1, life=1.0), 0.0).requests == 10
    # It died: nothing is told until its successor is there, and what it had told stays.
    gone = lives.add(Sample(unit="activating", ready=False, restarts=1), 1.0)
    assert (gone.requests, gone.kills, gone.restarts, gone.down) == (10, 1, 1, 1.0)
    again = lives.add(seen(5, 5, restarts=1, endings={"crashed": 1}, life=2.0), 3.0)
    assert (again.requests, again.errors, again.kills, again.restarts) == (15, 6, 1, 1)
    assert (again.broken, sum(again.counts), again.down) == (1, 15, 0.0)


def test_it_is_down_from_when_it_was_last_seen_up() -> None:
    lives = Lives()
    lives.add(seen(1, life=1.0), 100.0)
    assert lives.add(seen(1, life=1.0, ready=False), 100.5).down == 0.5
    assert lives.add(seen(1, life=1.0, ready=False), 104.0).down == 4.0
    assert lives.add(seen(1, life=1.0), 104.5).down == 0.0
    assert lives.add(seen(1, life=1.0, ready=False), 105.0).down == 0.5


def test_it_is_silent_while_it_answers_none_of_what_it_has_in_hand() -> None:
    lives = Lives()
    assert lives.add(seen(5, life=1.0, in_hand=3), 10.0).silent == 0.0
    assert lives.add(seen(5, life=1.0, in_hand=4), 14.0).silent == 4.0
    assert lives.add(seen(6, life=1.0, in_hand=4), 15.0).silent == 0.0
    assert lives.add(seen(6, life=1.0, in_hand=0), 19.0).silent == 0.0
    assert lives.add(seen(6, life=1.0, in_hand=1), 20.0).silent == 1.0


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("app.slice/a.service/memory.events", "low 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("memory/app.slice/a.service/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("unified/app.slice/a.service/memory.events", "oom_kill 2\n"),
    ],
    ids=["v2", "v1", "hybrid"],
)
def test_memory_kills_of_either_kind_of_control_group(tmp_path: Path, file: str, text: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert memory_kills("/app.slice/a.service", tmp_path) == 2
    assert memory_kills("/app.slice/b.service", tmp_path) == 0
    assert memory_kills("", tmp_path) == 0
