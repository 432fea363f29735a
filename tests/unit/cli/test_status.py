"""What ``farrier status`` shows of an app, from a snapshot of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from farrier.cli.status import describe, milliseconds, outcome, render
from farrier.doctor import Snapshot
from farrier.doctor.snapshot import Colour, Traffic

PLAN = {
    "workers": 3,
    "strategy": "rolling",
    "verdict": {"level": "comfortable", "serves": "small team", "users": "5-10"},
}
LAST = {
    "time": "2026-11-20T15:03:12Z", "outcome": "rolled back", "action": "deploy", "strategy": "overlap",
    "release": "r2", "from": "r1", "who": "ann", "seconds": 42.3, "message": "9 % of the answers were errors",
}  # fmt: skip


def shown(**seen: Any) -> dict[str, str]:
    """The lines of a status by their first word."""
    snapshot = Snapshot(name="blog", instance="blue", unit={"ActiveState": "active"}, plan=PLAN, **seen)
    lines = render(describe(snapshot, {"started": time.time() - 3600}, "127.0.0.1:8000", "r1")).splitlines()
    return {line.split()[0]: line for line in lines}


def test_the_strategy_and_the_last_deploy() -> None:
    lines = shown(last=LAST)
    assert "for a small team (5-10 users), deploys by rolling;" in lines["plan"]
    assert lines["last"] == (
        "  last       ROLLED BACK, deploy of r2, by overlap, 2026-11-20 15:03 UTC, ann, 42 s, "
        "9 % of the answers were errors"
    )
    assert "deploy" not in lines
    assert "endings" not in lines
    assert "reload" not in lines
    assert "blue" not in lines


def test_an_entry_of_an_older_version_has_fewer_keys() -> None:
    assert outcome({"time": "2026-11-20T15:03:12Z", "outcome": "good", "release": "r2", "message": ""}) == (
        "good, deploy of r2, 2026-11-20 15:03 UTC"
    )
    assert outcome({}) == "?, deploy, ? UTC"


def test_traffic_endings_and_a_refused_reload() -> None:
    lines = shown(
        # half answered below 0.1 s, the rest from 0.1 to 2.5 s: 95 % is nine tenths into that bucket, 2.26 s
        traffic=Traffic(2000, 3, (0.1, 2.5), (1000, 1000, 0)),
        endings={"recycled": 7, "stopped": 1, "crashed": 0, "killed for memory": 2, "timed out": 1},
        last_reload={"at": 1.0, "refused": "app.main does not import"},
    )
    assert (
        lines["traffic"] == "  traffic    2000 requests since it started, 0.15% errors, p50 100 ms, p95 2.3 s"
    )
    assert "2 killed for memory, 1 timed out;" in lines["endings"]
    assert "crashed" not in lines["endings"]
    assert lines["reload"] == "  reload     the last one was refused: app.main does not import"
    assert shown(traffic=Traffic(0, 0))["traffic"].endswith("0 requests since it started, 0.00% errors")


def test_a_deploy_under_way_and_both_colours() -> None:
    lines = shown(
        lock_age=21.0,
        run={"id": "x", "who": "ann", "phase": "start", "action": "deploy", "candidate": "r2"},
        step="roll",
        colours=(Colour("blue", "active", "r1", 2, 2), Colour("green", "active", "r2", 1, 2)),
    )
    assert lines["deploy"] == (
        "  deploy     deploy of r2 by ann for 21 s, at roll: journalctl -fu farrier-deploy-blog"
    )
    assert lines["blue"] == "  blue       serves, 2 of 2 workers ready, release r1 (active)"
    assert lines["green"] == "  green      is beside it, 1 of 2 workers ready, release r2 (active)"


def test_json_holds_plain_values() -> None:
    snapshot = Snapshot(
        name="blog",
        plan=PLAN,
        traffic=Traffic(4, 1, (0.1,), (4, 0)),
        lock_age=2.0,
        lock_who="ann",
        last=LAST,
        colours=(Colour("blue", "active", "r1", 3, 3),),
    )
    one = describe(snapshot, {}, "127.0.0.1:8000", "r1")
    assert one["strategy"] == "rolling"
    assert one["traffic"] == {
        "requests": 4, "errors": 1, "error_share": 0.25, "p50_seconds": 0.05,
        "p95_seconds": pytest.approx(0.095),
    }  # fmt: skip
    assert one["deploy"] == {
        "who": "ann", "seconds": 2.0, "step": None, "action": None, "strategy": None, "release": None,
    }  # fmt: skip
    assert one["colours"] == [{"name": "blue", "state": "active", "release": "r1", "ready": 3, "wanted": 3}]
    assert one["last_deploy"] == LAST
    assert describe(Snapshot(name="blog"), {}, "", None)["traffic"] is None


@pytest.mark.parametrize(("seconds", "text"), [(0.0081, "8 ms"), (0.9994, "999 ms"), (1.25, "1.2 s")])
def test_a_latency_as_people_read_it(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text
