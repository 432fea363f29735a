"""Which release a rollback takes, which ones stay, and the table that a person reads."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from farrier.errors import FarrierError
from farrier.release import history
from farrier.release import state as states
from farrier.release.layout import Layout
from farrier.release.state import Release, State

BAD = {"time": "2026-11-20T15:42:10Z", "why": "43 % of 210 responses were errors", "who": "guard"}


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    minutes = itertools.count(10)
    monkeypatch.setattr(states, "now", lambda: f"2026-11-20T16:{next(minutes)}:00Z")
    return Layout("history-test-app", tmp_path / "srv")


def release(
    layout: Layout, name: str, served: str | None = None, bad: bool = False, built: bool = True
) -> None:
    """A release on disk; `served` is a day of November."""
    (layout.release(name)).mkdir(parents=True)
    one = Release(name, f"identity-{name}", "2026-11-01T00:00:00Z", source=f"sha256:{name}" + "0" * 60)
    one.served = f"2026-11-{served}T12:00:00Z" if served else None
    one.done = ["check"] if built else []
    one.bad = BAD if bad else None
    one.save(layout)


def four(layout: Layout) -> State:
    """a, b, c and d served one after the other; c is bad, d serves."""
    for name, day in (("a", "01"), ("b", "02"), ("c", "03"), ("d", "04")):
        release(layout, name, day, bad=name == "c")
    return State(active="blue", release="d", previous="c")


def went(layout: Layout, state: State, to: str, action: str) -> None:
    """A run that brings `to` to serve."""
    state.run = {"action": action, "from": state.release}
    state.release = to
    history.took_over(layout, state)


def test_a_rollback_goes_back_and_back_and_past_what_is_bad(layout: Layout) -> None:
    state = four(layout)
    assert history.rollback_target(layout, state) == "b"
    # From there it goes on, and not to what it came from.
    went(layout, state, "b", "rollback")
    assert history.rollback_target(layout, state) == "a"
    # Nothing else is left: where it was before.
    went(layout, state, "a", "rollback")
    assert history.rollback_target(layout, state) == "b"
    # What is deployed after a rollback goes back to what served then, not to what was rolled back from.
    release(layout, "e")
    went(layout, state, "e", "deploy")
    assert history.rollback_target(layout, state) == "a"
    # And what was rolled back from and is deployed again is like any other.
    went(layout, state, "d", "deploy")
    went(layout, state, "a", "deploy")
    assert history.rollback_target(layout, state) == "d"


def test_what_was_deployed_again_is_newer_than_what_came_between(layout: Layout) -> None:
    state = four(layout)
    went(layout, state, "a", "deploy")
    assert history.rollback_target(layout, state) == "d"


def test_a_named_release_is_taken_or_refused_with_the_reason(layout: Layout) -> None:
    state = four(layout)
    release(layout, "e")
    assert history.choose(layout, state, "a", force=False) == "a"
    assert history.choose(layout, state, "c", force=True) == "c"
    for given, told in (
        (
            "c",
            "which is bad: 43 % of 210 responses were errors (2026-11-20 15:42 UTC by guard); allowed: b, a",
        ),
        ("d", "given release d, which serves already; allowed: b, a"),
        ("e", "which did not serve here or is not kept"),
        ("x", "which did not serve here or is not kept; allowed: b, a"),
    ):
        with pytest.raises(FarrierError) as caught:
            history.choose(layout, state, given, force=False)
        assert told in str(caught.value)
        assert caught.value.status == 2


def test_a_rollback_without_any_good_release_says_so(layout: Layout) -> None:
    release(layout, "a", "01")
    release(layout, "b", "02", bad=True)
    with pytest.raises(FarrierError, match="no good release to go back to; allowed: none is kept"):
        history.choose(layout, State(active="blue", release="a"), None, force=False)


def test_what_is_bad_is_refused_but_where_it_serves_or_is_wanted_again(layout: Layout) -> None:
    state = four(layout)
    bad, good = Release.load(layout, "c"), Release.load(layout, "b")
    with pytest.raises(FarrierError) as caught:
        history.refuse_bad("shop", bad, state, retry=False)
    told = str(caught.value)
    assert told.startswith(
        "shop: this is release c, which is bad: 43 % of 210 responses were errors (2026-11-20"
    )
    assert "retry_bad: true (--retry-bad)" in told
    assert "\n" not in told
    history.refuse_bad("shop", bad, state, retry=True)
    history.refuse_bad("shop", good, state, retry=False)
    history.refuse_bad("shop", None, state, retry=False)
    state.release = "c"
    history.refuse_bad("shop", bad, state, retry=False)


def test_what_stays_is_what_a_rollback_needs(layout: Layout) -> None:
    state = four(layout)
    release(layout, "e", built=False)
    assert history.kept(layout, state, 1) == {"d", "c", "b"}
    assert history.kept(layout, state, 3) == {"d", "c", "b", "a"}
    # However many are bad, so many of them stay.
    for day in range(10, 20):
        release(layout, f"x{day}", str(day), bad=True)
    state.previous = "b"
    assert history.kept(layout, state, 2) == {"d", "b", "x18", "x19"}


def test_marks_come_and_go(layout: Layout) -> None:
    four(layout)
    history.mark(layout, "a", "it lost a form", "kate")
    found = Release.load(layout, "a")
    assert found is not None
    assert found.bad is not None
    assert (found.bad["why"], found.bad["who"]) == ("it lost a form", "kate")
    history.mark(layout, "a", None, "kate")
    found = Release.load(layout, "a")
    assert found is not None
    assert found.bad is None
    with pytest.raises(FarrierError, match="given release z, which is not kept; allowed: d, c, b, a"):
        history.mark(layout, "z", None, "kate")


def test_a_run_ends_in_the_history_with_all_that_is_known(layout: Layout) -> None:
    state = four(layout)
    state.begin(layout, "run1", "kate@laptop", action="deploy")
    state.run["strategy"] = "overlap"
    entry = state.note(layout, "good", "a", "")
    assert entry["seconds"] is not None
    known = {key: entry[key] for key in ("run", "who", "action", "strategy", "from", "release", "outcome")}
    assert known == {
        "run": "run1", "who": "kate@laptop", "action": "deploy", "strategy": "overlap", "from": "d",
        "release": "a", "outcome": "good",
    }  # fmt: skip
    assert entry["source"].startswith("sha256:a")
    assert State.load(layout).history == [entry]
    assert State.load(layout).run == {}


@pytest.mark.parametrize(
    ("phase", "outcome", "of", "step"),
    [("build", "failed", "x", "venv"), ("switched", "good", "d", "guard")],
)
def test_a_killed_run_is_told_by_its_last_step(
    layout: Layout, phase: str, outcome: str, of: str, step: str
) -> None:
    state = four(layout)
    state.begin(layout, "run1", "kate")
    state.run |= {"phase": phase, "candidate": "x"}
    lines = [
        '{"t": 1, "run": "run1", "event": "start", "step": "source"}',
        f'{{"t": 2, "run": "run1", "event": "start", "step": "{step}"}}',
        '{"t": 3, "run": "run2", "event": "start", "step": "prune"}',
        '{"t": 4, "run": "run1", "event": "start", "step": "recover"}',
        '{"t": 5, "run": "run1", "event": "start", "st',
    ]
    layout.events.write_text("\n".join(lines))
    history.note_killed(layout, state)
    entry = state.history[-1]
    assert (entry["outcome"], entry["release"], entry["who"]) == (outcome, of, "kate")
    assert entry["message"].startswith(f"ended at {step} by a kill; ")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("sha256:3f2a9c1d04aabbccdd", "archive 3f2a9c1d04"),
        ("commit:1b2c3d4e5f66778899", "commit 1b2c3d4e5f"),
        ("requirement:shop==1.2", "shop==1.2"),
        ("", ""),
    ],
)
def test_a_source_in_short(source: str, told: str) -> None:
    assert history.origin(source) == told


def test_a_commit_is_told_with_its_ref() -> None:
    release = Release("a", "", "", spec={"source": {"type": "git", "repo": "r", "ref": "v1.4"}})
    assert history.origin("commit:1b2c3d4e5f66778899", release) == "v1.4 1b2c3d4e5f"
    release.spec["source"]["ref"] = "1b2c3d4e5f66778899"
    assert history.origin("commit:1b2c3d4e5f66778899", release) == "commit 1b2c3d4e5f"


def test_the_table() -> None:
    one = {
        "python": "3.11",
        "gunicorn": "27.0.1",
        "active": False,
        "rollback": False,
        "bad": None,
        "served": "x",
        "left": None,
    }
    run = {"time": "2026-11-20T15:30:00Z", "who": "kate@laptop", "action": "deploy", "strategy": "overlap",
           "seconds": 12.34, "outcome": "good", "message": "", "source": "sha256:aaaa"}  # fmt: skip
    found = {
        "history": [
            {**run, "release": "r1"},
            {**run, "release": "r2", "outcome": "rolled back", "message": "it was slow"},
            {"time": "2026-11-20T15:50:00Z", "outcome": "good", "release": "r1", "message": "", "who": ""},
        ],
        "releases": [
            {**one, "id": "r0", "origin": "archive 00", "rollback": True},
            {**one, "id": "r1", "origin": "v1.4 1b2c3d4e5f", "active": True},
            {**one, "id": "r2", "origin": "archive 22", "bad": {**BAD, "why": "slow"}},
        ],
        "deploying": None,
        "unfinished": None,
    }
    assert (
        "\n".join(history.lines(found))
        == """\
when (UTC)        who          what    release  from             how      took    outcome
2026-11-20 15:30  kate@laptop  deploy  r1       v1.4 1b2c3d4e5f  overlap  12.3 s  good
2026-11-20 15:30  kate@laptop  deploy  r2       archive 22       overlap  12.3 s  rolled back: it was slow
2026-11-20 15:50  -            -       r1       v1.4 1b2c3d4e5f  -                good

   release  from
<  r0       archive 00       Python 3.11  what a rollback takes
*  r1       v1.4 1b2c3d4e5f  Python 3.11  serves
!  r2       archive 22       Python 3.11  bad: slow (2026-11-20 15:42 UTC by guard)"""
    )
