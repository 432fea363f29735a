"""The RAM matrix: what is run, how a run is read, and what is said of what failed first."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.matrix import explain, figures, page, store, tally, tiers, watch
from lab import checkout

OOM = (
    "3,6,1817,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c0ffee,mems_allowed=0,"
    "oom_memcg=/docker/c0ffee,task_memcg=/docker/c0ffee/system.slice/today.service,"
    "task=gunicorn,pid=1606,uid=65534"
)
KILLED = (
    "3,7,1817,-;Memory cgroup out of memory: Killed process 1606 (gunicorn) total-vm:209672kB, "
    "anon-rss:118688kB, file-rss:8284kB, shmem-rss:0kB, UID:65534 pgtables:312kB oom_score_adj:0"
)


def result(**more: Any) -> dict[str, Any]:
    """A run of Gunicorn at 256 MB that was killed after 11 s, as tally.told writes one."""
    found = {
        "run": "256-heavy-gunicorn-load", "tier": "256", "app": "heavy", "who": "gunicorn",
        "scenario": "load",
        "memory": 256 << 20, "cpus": 1, "users": 5, "began": 0.0, "server": {"workers": 3, "timeout": 30},
        "refused": "", "marks": [], "endings": [], "holds": False, "kills_counted": 1, "measured": None,
        "trial_kills": [], "ended": {}, "shape": tally.SHAPE,
        "requests": {"sent": 40, "ok": 30, "refused": 0, "reset": 0, "closed": 10, "unanswered": 0,
                     "status": 0,
                     "failed": 10, "timeouts": 0, "worker_timeouts": 0, "timeout_share": 0.0,
                     "failed_share": 0.25, "p50": 0.1, "p95": 0.2, "p99": 0.3, "max": 0.4,
                     "generator_cpu": 0.01},
        "seconds": {"at": [0, 11, 12], "ok": [5, 2, 3], "failed": [0, 0, 10], "unanswered": [0, 0, 0],
                    "slowest": [0.1, 0.1, 0.2]},
        "samples": {"at": [0.0, 10.0, 11.0], "used": [60.0, 250.0, 255.0], "firm": [40.0, 240.0, 254.0],
                    "app": [0.0, 400.0, 444.0], "processes": [0, 4, 4], "largest": [0.0, 140.0, 148.0],
                    "database": [0.0, 0.0, 0.0]},
        "kills": [{"at": 11.2, "task": "gunicorn", "pid": 1606, "unit": "today.service",
                   "limit": "the host's memory", "rss": 121536512}],
        "took": 60.0, "date": "2026-11-30", "version": "1", "digest": "abc",
    }  # fmt: skip
    return found | more


# --- what is run ----------------------------------------------------------------------------------------


def test_every_tier_meets_every_scenario_and_names_are_unique() -> None:
    runs = tiers.every()
    ours = [run for run in runs if run.ours and run.app == "heavy"]
    assert {(run.tier.name, run.scenario) for run in ours} == {
        (tier.name, scenario) for tier in tiers.TIERS for scenario in tiers.SCENARIOS
    }
    assert len({run.name for run in runs}) == len(runs)
    assert sum(1 for run in runs if run.ours) >= figures.RUNS


def test_hosts_are_shared_and_sustained_runs_fit_the_cores() -> None:
    runs = tiers.every()
    parts = [run for job in tiers.jobs(runs) for run in job] + [
        run for group in tiers.groups(runs) for run in group
    ]
    assert sorted(run.name for run in parts) == sorted(run.name for run in runs)
    # 3.5 ms of CPU a request, two cores, and some for the generators.
    assert all(sum(run.tier.users for run in group) * 0.0035 < 1.7 for group in tiers.groups(runs))


# --- how a run is read ----------------------------------------------------------------------------------


def test_the_kernels_log_names_what_was_killed_and_where() -> None:
    log = watch.KernelLog()
    log.take(OOM)
    log.take(KILLED)
    log.take("3,8,1818,-;eth0: link up")
    (kill,) = log.of("c0ffee", 0.0)
    assert (kill["task"], kill["pid"], kill["unit"]) == ("gunicorn", 1606, "today.service")
    assert (kill["limit"], kill["rss"]) == ("the host's memory", 118688 * 1024)
    assert log.of("another", 0.0) == []


def test_a_kill_that_the_log_left_out_comes_from_the_counters(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    unit = memory / "system.slice" / "today.service"
    unit.mkdir(parents=True)
    (unit / "cgroup.procs").write_text("")
    (memory / "memory.usage_in_bytes").write_text("9")
    (memory / "memory.stat").write_text("total_inactive_file 1")
    (unit / "memory.oom_control").write_text("under_oom 0\noom_kill 3\n")
    seen = watch.Watch(watch.Cgroup(memory, memory, "c0ffee", False), watch.KernelLog())
    with seen:
        while not seen.samples:  # its own thread has looked: the next time is in a second
            time.sleep(0.01)
        (unit / "memory.oom_control").write_text("under_oom 0\noom_kill 5\n")
        seen.log.take(OOM)
        seen.sample()
    assert [(one["unit"], one["pid"]) for one in seen.kills()] == [
        ("today.service", 1606), ("today.service", 0)
    ]  # fmt: skip


def test_a_request_that_broke_with_its_timed_out_worker_is_a_timeout() -> None:
    said = [
        {"at": 40.0, "unit": "today", "text": "[1] [CRITICAL] WORKER TIMEOUT (pid:7)"},
        {"at": 50.0, "unit": "bench@blue", "text": "{}",
         "event": {"event": "worker_ended", "reason": "killed for memory", "message": "the kernel"}},
    ]  # fmt: skip
    ended = tally.endings(said)
    assert [one["why"] for one in ended] == ["timed out", "killed for memory"]
    records = [
        [10.0, 30.2, "/", "closed", 0],  # with the worker
        [10.0, 5.0, "/", "reset", 0],
        [12.0, 30.0, "/", "unanswered", 0],
        [13.0, 0.2, "/", "ok", 200],
        [13.0, 9.0, "/health", "unanswered", 0],  # a probe is no user
    ]
    found = tally.requests({"records": records, "cpu": 0.1}, ended)
    assert found is not None
    assert (found["sent"], found["failed"], found["timeouts"], found["worker_timeouts"]) == (4, 3, 2, 1)


@pytest.mark.parametrize(
    ("recycled", "burst_failed", "told"),
    [(1, 0, ""), (0, 0, "No worker was recycled within 535"), (1, 3, "3 of the 535 requests that made")],
)
def test_a_life_cycle_in_which_nobody_is_recycled_or_a_request_is_lost_falls_short(
    recycled: int, burst_failed: int, told: str
) -> None:
    step = {"step": "recycling", "workers": 1, "burst": 535, "burst_failed": burst_failed, "failed": 0}
    found = {"workers": 1, "steps": [step], "recycled": recycled, "in_hand": 4, "failed_else": 0}
    assert tally.judge_lifecycle(found, {"failed": 0}) is (told == "")
    causes = explain.judged(result(scenario="lifecycle", **found))
    assert [one.what for one in causes] == [] if not told else causes[0].what.startswith(told)


def test_a_result_of_another_farrier_is_stale(tmp_path: Path) -> None:
    kept, run = store.Store(tmp_path), tiers.every()[0]
    kept.write(run, tally.broken(run, "line"), "log")
    assert kept.read(run) is not None
    older = json.loads(kept.path(run).read_text()) | {"shape": 1}
    kept.digests = {True: "other", False: "other"}
    assert kept.read(run) is None
    assert kept.read(run, keep=True) is not None
    assert kept.stale([run]) == [run.name]
    # and one whose figures the page does not know is none at all
    kept.path(run).write_text(json.dumps(older))
    assert kept.read(run, keep=True) is None


# --- what is said of it ---------------------------------------------------------------------------------


def test_another_machine_goes_on_from_what_is_committed(tmp_path: Path) -> None:
    run = next(one for one in tiers.every() if one.name == "256-heavy-gunicorn-load")
    before = store.Store(tmp_path / "before")
    before.write(run, result(), "raw")
    page.write([before.read(run) or {}], tmp_path / "out", before, quick=False)
    after = store.Store(tmp_path / "after", tmp_path / "out")
    assert after.read(run) == before.read(run)
    assert gzip.decompress(after.log(run).read_bytes()) == b"raw"
    # what was measured here since then stays
    after.write(run, result(took=1.0), "anew")
    assert (store.Store(tmp_path / "after", tmp_path / "out").read(run) or {})["took"] == 1.0


def test_a_kill_is_explained_with_the_figures_of_its_moment() -> None:
    cause = explain.explain(result())
    assert cause.kind == "oom"
    assert "After 11 s the kernel killed pid 1606 (gunicorn, 116 MiB) of today.service" in cause.what
    assert "4 processes of the app had 444 MiB" in cause.why
    assert "gunicorn -w 3 takes 3 x 148 MiB of 256" in cause.change
    assert "Without preload 1 at most fits: -w 1" in cause.change


def test_the_earliest_failure_is_told() -> None:
    late = [{"at": 5.0, "why": "timed out", "text": "WORKER TIMEOUT (pid:7)"}]
    assert explain.explain(result(endings=late)).kind == "timeout"
    assert explain.explain(result(kills=[])).kind == "broken"
    assert explain.explain(result(holds=True)).kind == "nothing"


def test_preload_with_one_worker_is_told() -> None:
    server = {"workers": 1, "threads": 1, "preload_app": True, "memory_peak": 168 << 20}
    change = explain.explain(result(who="farrier", server=server)).change
    assert "reckoned with 168 MiB" in change
    assert "preload_app: false" in change


def test_what_fails_first_is_what_a_site_meets_first() -> None:
    runs = [result(scenario="oom"), result(scenario="deploy"), result(scenario="startup", holds=True)]
    found = explain.first_failed(runs)
    assert found is not None
    assert found["scenario"] == "deploy"


def test_the_page_stands_by_itself(tmp_path: Path) -> None:
    kept = store.Store(tmp_path / "work")
    page.write([result()], tmp_path / "out", kept, quick=True)
    text = (tmp_path / "out" / "index.html").read_text()
    for outside in ("src=", "<link", "@import", "url(http"):
        assert outside not in text
    assert "Failed first, in load" in text
    assert text.count("<svg") >= 5
    assert "prefers-color-scheme: dark" in text
    assert (tmp_path / "out" / "runs.csv").read_text().count("\n") == 2
    named = {one["figure"] for one in json.loads((tmp_path / "out" / "summary.json").read_text())}
    assert "timeouts: 256 MB, 150 MB app, 5 users, gunicorn" in named


# --- the generator --------------------------------------------------------------------------------------


@contextmanager
def server(answer: Callable[[socket.socket, int], None]) -> Iterator[int]:
    """A server on loopback: `answer` gets each connection and its number; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        number = 0
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(line, number), daemon=True).start()
            number += 1

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def generate(port: int, tmp_path: Path, users: int = 1) -> dict[str, Any]:
    order = {"address": "127.0.0.1", "port": port, "users": users, "think": 0.02, "probes": [],
             "seconds": 0.5,
             "records": str(tmp_path / "records.json")}  # fmt: skip
    (tmp_path / "order.json").write_text(json.dumps(order))
    command = [sys.executable, "benchmarks/matrix/load.py", str(tmp_path / "order.json")]
    # Its input stays open: the end of it would be the end of the load.
    with subprocess.Popen(
        command, cwd=checkout.ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.wait(timeout=30) == 0
    found: dict[str, Any] = json.loads((tmp_path / "records.json").read_text())
    return found


def once(line: socket.socket, number: int) -> None:
    """Answers one request without saying that it closes, then closes: the next one needs a new connection."""
    line.recv(4096)
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    line.close()


def half(line: socket.socket, number: int) -> None:
    """The first connection is cut in the middle of an answer; the others are answered with 500."""
    line.recv(4096)
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok" if number == 0 else
                 b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")  # fmt: skip
    line.close()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the generator takes asyncio.timeout")
def test_a_connection_that_is_closed_between_two_requests_is_no_failure(tmp_path: Path) -> None:
    with server(once) as port:
        found = generate(port, tmp_path, users=3)
    assert len(found["records"]) > 9
    assert found["failures"] == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the generator takes asyncio.timeout")
def test_a_cut_answer_and_a_500_are_failures_and_nothing_is_tried_again(tmp_path: Path) -> None:
    with server(half) as port:
        found = generate(port, tmp_path)
    kinds = [one["outcome"] for one in found["failures"]]
    assert kinds[0] == "closed"
    assert set(kinds[1:]) == {"status"}
    assert len(found["failures"]) == len(found["records"])
