"""What doctor says of deploys, traffic and workers, and where it looks for it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farrier.doctor import Finding, Snapshot, examine
from farrier.doctor.collect import again, collect_here
from farrier.doctor.snapshot import Colour, Traffic, listen_overflows, traffic_of

BOUNDS = (0.1, 0.5, 1.0)


def finding(check: str, **seen: Any) -> Finding:
    return next(one for one in examine(Snapshot(name="blog", instance="blue", **seen)) if one.check == check)


@pytest.mark.parametrize(
    ("check", "seen", "level", "words", "mend"),
    [
        (
            "last deploy",
            {"last": {"outcome": "failed", "release": "r2", "message": "blog@green did not become ready"}},
            "look",
            "failed: blog@green did not become ready",
            "deploy again",
        ),
        (
            "last deploy",
            {"last": {"outcome": "rolled back", "release": "r2", "message": "9 % errors"}, "release": "r1"},
            "look",
            "r2, was rolled back: 9 % errors",
            "retry_bad: true",
        ),
        ("last deploy", {"last": {"outcome": "good", "release": "r2"}}, "ok", "was good", ""),
        ("last deploy", {"last": {"outcome": "failed"}}, "look", "failed", "deploy again"),
        (
            "deploy",
            {"run": {"phase": "start"}, "step": "roll", "leftovers": ("/srv/blog/undo",)},
            "look",
            "cut off at 'roll'; what served before serves; left over: /srv/blog/undo",
            "farrier release recover blog",
        ),
        ("deploy", {"run": {"phase": "switched"}}, "look", "the new release serves already", "recover blog"),
        (
            "deploy",
            {"run": {"phase": "replace"}},
            "look",
            "the colour that blog.socket names serves, which may be the new one",
            "recover blog",
        ),
        ("colours", {"second": "blog@green.service"}, "wrong", "both answer", "systemctl stop blog@green"),
        (
            "colours",
            {"second": "blog@green.service", "run": {"phase": "replace"}},
            "wrong",
            "both answer",
            "farrier release recover blog",
        ),
        ("deploy", {"run": {"phase": "start"}, "lock_age": 3.0}, "ok", "none was cut off", ""),
        ("deploy", {"leftovers": ("/u/undo",), "undo_pending": True}, "look", "/u/undo", "recover blog"),
        (
            "deploy",
            {"leftovers": ("/run/x/90-candidate.conf",)},
            "look",
            "left over: /run/x/90-candidate.conf",
            "rm /run/x/90-candidate.conf && systemctl daemon-reload",
        ),
        ("releases", {"bad": {"r2": "9 % errors"}, "rollback": "r1"}, "ok", "never the bad r2: 9 %", ""),
        ("releases", {"bad": {"r2": "9 % errors"}}, "look", "no good release is left", "--good"),
        (
            "releases",
            {"bad": {"r2": "by hand"}, "release": "r2", "rollback": "r1"},
            "wrong",
            "r2, which serves, is marked as bad: by hand",
            "farrier release rollback blog goes back to r1",
        ),
        (
            "releases",
            {"bad": {"r2": "by hand"}, "release": "r2"},
            "wrong",
            "r2, which serves",
            "farrier release mark blog r2 --good",
        ),
        (
            "reload",
            {"last_reload": {"at": 1.0, "refused": "app does not import"}},
            "look",
            "refused, the settings before it hold: app does not import",
            "farrier release reload blog",
        ),
        ("reload", {"last_reload": {"at": 1.0, "refused": None}}, "ok", "none was refused", ""),
        # 4 of 80 are exactly 5 %, which is not above it
        ("errors", {"traffic": Traffic(80, 4)}, "ok", "4 errors in 80 requests since", ""),
        ("errors", {"traffic": Traffic(80, 5)}, "look", "(6.2%)", "journalctl"),
        ("errors", {"traffic": Traffic(19, 19)}, "ok", "19 errors in 19", ""),
        (
            "errors",
            {"traffic": Traffic(100_000, 60), "recent": Traffic(20, 2), "rollback": "r1"},
            "wrong",
            "2 errors in 20 requests while doctor looked (10.0%)",
            "farrier release rollback blog goes back to r1",
        ),
        ("errors", {"traffic": Traffic(100, 50), "recent": Traffic(40, 0)}, "ok", "0 errors in 40", ""),
        (
            "errors",
            {"traffic": Traffic(100, 50), "recent": Traffic(3, 0)},
            "look",
            "50 errors in 100",
            "blue",
        ),
        (
            "endings",
            {"endings": {"crashed": 2, "timed out": 1, "recycled": 40}, "traffic": Traffic(0, 0)},
            "look",
            "2 crashed, 1 timed out",
            "journalctl -u blog@blue",
        ),
        ("endings", {"endings": {"recycled": 40}, "traffic": Traffic(0, 0)}, "ok", "no worker", ""),
        ("overflow", {"overflows": 812}, "ok", "since the boot: 812", ""),
        ("overflow", {"overflows": 812, "overflows_recent": 0}, "ok", "since the boot: 812", ""),
        ("overflow", {"overflows": 812, "overflows_recent": 1}, "wrong", "1 connection met", "ss -ltn"),
    ],
)
def test_what_is_said(check: str, seen: dict[str, Any], level: str, words: str, mend: str) -> None:
    one = finding(check, **seen)
    assert (one.level, bool(one.change)) == (level, level in ("look", "wrong"))
    assert words in one.seen
    assert mend in one.change


@pytest.mark.parametrize(
    ("has", "command"),
    [
        (1, "systemctl kill --kill-whom=main -s TTIN blog@blue, 2 times"),
        (2, "systemctl kill --kill-whom=main -s TTIN blog@blue"),
        (4, "systemctl kill --kill-whom=main -s TTOU blog@blue"),
    ],
)
def test_a_colour_with_another_number_of_workers_gets_the_command_that_mends_it(
    has: int, command: str
) -> None:
    ready = tuple({"ready": True} for _ in range(3))
    one = finding("workers", in_force={"workers": 3}, workers=ready, workers_wanted=has)
    assert (one.level, one.change) == ("look", command)
    assert f"it has {has} workers where 3 are planned" in one.seen
    during = finding("workers", in_force={"workers": 3}, workers=ready, workers_wanted=has, lock_age=2.0)
    assert during.level == "ok"
    here = finding("workers", in_force={"workers": 3}, workers=ready, workers_wanted=2, deployed=False, pid=7)
    assert here.change == "kill -TTIN 7"


def test_two_colours_are_right_in_a_deploy_and_wrong_without_one() -> None:
    both = (Colour("blue", "active"), Colour("green", "active"))
    assert finding("colours", colours=both, lock_age=1.0).level == "ok"
    assert finding("colours", colours=both, second="blog@green.service").level == "wrong"


def test_a_quantile_lies_inside_its_bucket() -> None:
    # ten below 0.1, ten up to 0.5: the median is the end of the first, 95 % is nine tenths into the second
    found = Traffic(20, 0, BOUNDS, (10, 10, 0, 0))
    assert found.quantile(0.5) == pytest.approx(0.1)
    assert found.quantile(0.95) == pytest.approx(0.1 + 0.4 * 0.9)
    assert Traffic(3, 0).quantile(0.5) is None


def test_traffic_of_older_versions_is_none_and_what_came_since_is_the_difference() -> None:
    assert traffic_of({}) is None
    assert traffic_of({"traffic": None}) is None
    before = traffic_of(
        {"traffic": {"requests": 5, "errors": 1, "latency": {"bounds": [1.0], "counts": [4, 1]}}}
    )
    assert before == Traffic(5, 1, (1.0,), (4, 1))
    assert Traffic(9, 1, (1.0,), (7, 2)).since(before) == Traffic(4, 0, (1.0,), (3, 1))
    assert Traffic(2, 0, (1.0,), (2, 0)).since(before) is None, "another arbiter began to count"


def test_the_listen_queues_of_this_kernel(tmp_path: Path) -> None:
    proc = tmp_path / "proc/net"
    proc.mkdir(parents=True)
    (proc / "netstat").write_text(
        "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 17 18\nIpExt: InNoRoutes\nIpExt: 3\n"
    )
    assert listen_overflows(tmp_path) == 17
    (proc / "netstat").write_text("")
    assert listen_overflows(tmp_path) is None
    assert listen_overflows(tmp_path / "nowhere") is None
    assert listen_overflows() is not None


def state_file(folder: Path, requests: int, errors: int) -> None:
    """What ``farrier serve`` leaves; the process is this one, which lives."""
    told = {"requests": requests, "errors": errors, "seconds": 1.0}
    data = {
        "schema": 1, "app": "blog", "pid": os.getpid(), "started": time.time(), "phase": "ready",
        "workers_wanted": 2, "settings": {"workers": 2}, "listeners": [],
        "workers": [{"pid": 1, "ready": True}, {"pid": 2, "ready": True}],
        "traffic": {**told, "latency": {"bounds": [1.0], "counts": [requests, 0]}},
        "endings": {"recycled": 3, "crashed": 1}, "last_reload": {"at": 1.0, "refused": "no such module"},
    }  # fmt: skip
    (folder / "blue.json").write_text(json.dumps(data))


def test_doctor_looks_twice_at_what_a_server_answers(tmp_path: Path) -> None:
    environ = {"FARRIER_RUN_DIR": str(tmp_path)}
    state_file(tmp_path, requests=1000, errors=0)
    first = collect_here(environ)
    assert (first.traffic, first.endings["crashed"]) == (Traffic(1000, 0, (1.0,), (1000, 0)), 1)
    assert {f.level for f in examine(first) if f.check in ("errors", "workers")} == {"ok"}
    state_file(tmp_path, requests=1100, errors=50)
    second = again(first)
    assert second.recent == Traffic(100, 50, (1.0,), (100, 0))
    assert second.overflows_recent is not None
    told = {f.check: f for f in examine(second)}
    assert told["errors"].level == "wrong"
    assert told["endings"].level == told["reload"].level == "look"
    assert told["reload"].change == f"mend that, then kill -HUP {os.getpid()}"
    gone = replace(first, state_file=None)
    assert again(gone).recent is None
