"""The RAM matrix when things go wrong: each scenario's shape on the page, verdicts, crashes, what is kept."""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.matrix import explain, figures, page, run, scenarios, store, tally, tiers
from benchmarks.matrix.tiers import QUICK, Run, Tier
from benchmarks.matrix.watch import Cgroup, KernelLog
from lab.errors import LabError

MODES = ("fine", "refused", "killed", "silent")
KILL = {"at": 0.0, "task": "farrier", "pid": 7, "unit": "bench@blue.service", "limit": "", "rss": 9 << 20}


class Watched:
    """What a watch has after a run."""

    def __init__(self, mode: str) -> None:
        self.began = time.time() - 5
        self.cgroup: Any = None
        sample = {"used": 90 << 20, "firm": 80 << 20, "app": 70 << 20, "processes": 3, "largest": 60 << 20}
        seen = 0 if mode == "silent" else 5
        self.samples = [{"at": self.began + n, "database": 0, **sample} for n in range(seen)]
        self.mode = mode

    def kills(self) -> list[dict[str, Any]]:
        return [KILL | {"at": self.began + 2}] * 2 if self.mode == "killed" else []

    def counted(self) -> int:
        return len(self.kills())


class Site:
    """A target without a host: the scenarios' own code runs on it, at once."""

    def __init__(self, mode: str) -> None:
        self.mode, self.address, self.workers_today = mode, "127.0.0.1", 3
        up = mode == "fine"
        plan = {"threads": 4, "workers": 2, "worker_class": "gthread", "verdict": None, "memory_peak": None}
        self.went: dict[str, Any] = {"plan": plan} if up else {"failed": True, "msg": "needs <300> MiB"}
        self.pids = [3, 4] if up else []
        self.recycled = itertools.count()
        self.host = self

    def run(self, command: object, check: bool = True) -> argparse.Namespace:
        return argparse.Namespace(stdout="running")

    def state(self) -> dict[str, Any]:
        return {"endings": {"recycled": next(self.recycled)}} if self.mode == "fine" else {}

    def workers(self) -> list[int]:
        return self.pids

    def main_pid(self) -> int:
        return 2 if self.pids else 0

    def start(self) -> float:
        return time.time()

    reboot = start

    def cgroup(self) -> None:
        return None

    def signal(self, pid: int, name: str) -> None:
        return None

    def stop(self) -> None:
        return None

    def pss(self) -> list[int]:
        return []

    def journal(self, since: float) -> list[dict[str, Any]]:
        if self.mode not in ("fine", "killed"):
            return []
        event = {"event": "worker_ended", "reason": "killed for memory", "message": "worker 3 <was> killed"}
        return [{"at": since + 1, "unit": "bench@blue", "text": "{}", "event": event}]

    def deploy(self, release: str) -> dict[str, Any]:
        now = time.time()
        up = self.mode == "fine"
        steps = [{"name": "build", "seconds": 1.0}] if up else []
        return {"asked": now, "ended": now + 0.01, "failed": not up, "msg": "no room", "steps": steps}


class Records:
    """A generator's records without a generator."""

    def __init__(self, mode: str, probes: tuple[str, ...]) -> None:
        self.mode, self.probes, self.records = mode, probes, []

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def end(self) -> dict[str, Any]:
        outcome = {"fine": "ok", "killed": "unanswered", "refused": "refused"}.get(self.mode)
        paths = ("/", *self.probes) if outcome else ()
        status = 200 if outcome == "ok" else 0
        rows = [[time.time() - 4 + n / 10, 0.02, path, outcome, status] for n in range(9) for path in paths]
        bad = [{"sent": row[0], "seconds": row[1], "outcome": outcome} for row in rows if row[3] != "ok"]
        return {"records": rows, "failures": bad, "cpu": 0.0}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios do not wait, and ask a site that is only a word."""
    answers = {"fine": time.time}

    class Clock:
        time = staticmethod(time.time)
        sleep = staticmethod(lambda seconds: None)

    monkeypatch.setattr(scenarios, "time", Clock)
    monkeypatch.setattr(scenarios, "ask_and_leave", lambda *_: None)
    monkeypatch.setattr(scenarios, "first_answer", lambda *_: answers.get(MODE[0], lambda: None)())
    monkeypatch.setattr(scenarios, "Generator", lambda *_, probes=(), **__: Records(MODE[0], probes))


MODE = ["fine"]


def played(one: Run, mode: str) -> dict[str, Any]:
    """What the scenario's own code returns, through tally.told, as JSON holds it."""
    MODE[0] = mode
    watch, site = Watched(mode), Site(mode)
    shape = tiers.Shape(hogs=2, burst_most=0.05)
    stage: Any = scenarios.Stage(one, site, watch, shape)
    found = scenarios.PLAYS[one.scenario](stage)
    if one.scenario == "oom" and mode == "fine":
        watch.mode = "killed"
    result = tally.told(
        one, site, watch, stage.marks, stage.load, site.journal(watch.began), found
    )  # fmt: skip
    tally.raw(result, stage.load, "journal\n")
    stamp = {"took": 1.0, "date": "2026-11-29", "version": "0.1", "digest": "x", "machine": "a machine"}
    kept: dict[str, Any] = json.loads(json.dumps(result | stamp))
    run.outcome(kept)
    return kept


def falling(results: list[dict[str, Any]]) -> list[str]:
    return [one["figure"] for one in figures.figures(results, quick=False) if one["holds"] is False]


def written(results: list[dict[str, Any]], folder: Path) -> str:
    page.write(results, folder / "out", store.Store(folder / "work"), quick=False)
    return (folder / "out" / "index.html").read_text()


@pytest.mark.parametrize("mode", MODES)
def test_every_scenarios_shape_reaches_the_page(mode: str, at_once: None, tmp_path: Path) -> None:
    ours = [one for one in tiers.every() if one.tier.name == "256"]
    results = [played(one, mode) for one in ours]
    text = written(results, tmp_path)
    assert "cannot be told" not in text
    bad = [one["run"] for one in results if one["who"] == "farrier" and not one["holds"]]
    assert bad == ([] if mode == "fine" else [one.name for one in ours if one.ours])
    for one in results:  # each as the first failure of its side
        assert explain.explain(one).what != "Nothing failed." or one["holds"]


def test_what_was_not_measured_falls_short(tmp_path: Path) -> None:
    broken = [
        tally.broken(one, "LabError: <gone>") | {"took": 1.0, "date": "d", "version": "v", "digest": "x"}
        for one in tiers.every()
    ]
    text = written([one for one in broken if one["tier"] == "256"], tmp_path)
    assert "cannot be told" not in text
    assert "LabError: &lt;gone&gt;" in text
    some = falling(broken[5:])
    assert (
        "not measured: 256 MB, 150 MB app, farrier (startup, health, lifecycle, load, oom, deploy, sustained)"
        in some
    )
    assert "start at 256 MB / at 2 GB, 150 MB app" in some


def test_no_site_at_all_holds_nowhere(at_once: None) -> None:
    runs = [one for one in tiers.every() if one.ours]
    silent = falling([played(one, "refused" if one.tier.name == "256" else "fine") for one in runs])
    for part in ("timeouts: 256 MB, 150 MB app", "start to first answer: 256 MB, 150 MB app, ",
                 "start at 256 MB / at 2 GB, 150 MB app", "OOM kills in 10 min with a leak: 256 MB",
                 "tiers in which oom"):  # fmt: skip
        assert any(name.startswith(part) for name in silent), part


def test_figures_name_the_machine_and_day_of_measuring(at_once: None) -> None:
    found = figures.figures([played(tiers.every()[0], "fine")], quick=False)
    assert {(one["machine"], one["date"], one["version"]) for one in found} == {
        ("a machine", "2026-11-29", "0.1")
    }


def test_a_scenario_may_not_name_what_every_run_has(monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    monkeypatch.setitem(scenarios.PLAYS, "load", lambda stage: {"seconds": 3})
    with pytest.raises(ValueError, match="load gives figures that every run has: seconds"):
        played(next(one for one in tiers.every() if one.scenario == "load"), "fine")


# --- what is kept ---------------------------------------------------------------------------------------


def test_a_broken_run_is_tried_once_more_and_then_left(tmp_path: Path) -> None:
    kept, one = store.Store(tmp_path), tiers.every()[0]
    for tries in (1, 2):
        kept.write(one, tally.broken(one, "line"), "log")
        found = kept.read(one) or {}
        assert (found["tries"], found["holds"], kept.done(one)) == (tries, False, tries == 2)


def commit(results: list[dict[str, Any]], folder: Path) -> Path:
    stamp = {"took": 1.0, "date": "d", "version": "v", "machine": "m"}
    page.write([stamp | one for one in results], folder, store.Store(folder / "none"), quick=False)
    return folder


def test_only_runs_of_the_same_kind_of_machine_are_taken_over(tmp_path: Path) -> None:
    first, second, third = tiers.every()[:3]
    here, now = store.kind(), store.digest(True)
    runs = [
        tally.broken(first, "line") | {"digest": now, "kind": here},
        tally.broken(second, "line") | {"digest": now, "kind": here | {"memory": here["memory"] * 2}},
        tally.broken(third, "line") | {"digest": now},
    ]
    taken = store.Store(tmp_path / "work", commit(runs, tmp_path / "out"))
    assert [taken.read(one) is not None for one in (first, second, third)] == [True, False, False]
    assert (taken.foreign, taken.committed) == (2, 3)


def test_a_committed_run_of_now_replaces_an_old_one(tmp_path: Path) -> None:
    one = tiers.every()[0]
    before = store.Store(tmp_path / "work")
    before.digests = {True: "old", False: "old"}
    before.write(one, tally.broken(one, "old"), "log")
    fresh = tally.broken(one, "new") | {"digest": store.digest(True), "kind": store.kind()}
    out = commit([fresh], tmp_path / "out")
    assert (store.Store(tmp_path / "work", out).read(one) or {})["broken"] == "new"
    # and what was measured here since then stays
    store.Store(tmp_path / "work").write(one, tally.broken(one, "here"), "log")
    assert (store.Store(tmp_path / "work", out).read(one) or {})["broken"] == "here"


def test_results_of_another_farrier_leave_the_page_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "ROOT", tmp_path)
    out = tmp_path / "benchmarks/results/matrix"
    kept, one = store.Store(tmp_path / "work"), tiers.every()[0]
    stamp = {"took": 1.0, "date": "d", "version": "v"}
    kept.write(one, tally.broken(one, "line") | stamp, "log")
    kept.digests = {True: "new", False: "new"}
    options = argparse.Namespace(keep=False, out=None)
    run.publish(kept, options, False, played=0)
    assert "1 runs were made with another farrier" in capsys.readouterr().out
    assert not out.exists()
    run.publish(kept, argparse.Namespace(keep=True, out=None), False, played=0)
    assert "Measured with an earlier farrier" in (out / "index.html").read_text()


# --- crashes --------------------------------------------------------------------------------------------


class Silent:
    """A progress that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    @contextmanager
    def doing(self, name: str) -> Iterator[None]:
        yield


class Fake:
    """A host by number, which comes up or not, and lives or not."""

    def __init__(self, comes_up: bool, number: int) -> None:
        self.comes_up, self.number, self.went, self.left = comes_up, number, {}, False

    def __enter__(self) -> Fake:
        if not self.comes_up:
            raise LabError("systemd ended at once")
        return self

    def __exit__(self, *_: object) -> None:
        self.left = True

    def alive(self) -> bool:
        return True


def bench(folder: Path, hosts: Any) -> tuple[run.Bench, list[Fake]]:
    found: Any = run.Bench(store.Store(folder), QUICK, 1e9)
    made: list[Fake] = []

    def host(one: Run, cores: str, leak: bool) -> Fake:
        made.append(Fake(hosts(len(made)), len(made)))
        return made[-1]

    found.host, found.progress, found.version, found.log = host, Silent(), "0", KernelLog()
    return found, made


@pytest.fixture
def heavy() -> list[Run]:
    return tiers.jobs([one for one in tiers.every() if one.tier.name == "256" and one.app == "heavy"])[0]


def test_one_scenario_that_breaks_costs_no_other(
    tmp_path: Path, heavy: list[Run], monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    where: dict[str, int] = {}

    def play(one: Run, target: Any, log: object, shape: object) -> tuple[dict[str, Any], str]:
        where[one.scenario] = target.number
        if one.scenario == "deploy":
            raise ValueError("no answer\nat all")
        return played(one, "fine"), "log"

    monkeypatch.setattr(scenarios, "play", play)
    monkeypatch.setattr(scenarios, "wait_until_it_serves", lambda *_: True)
    one, made = bench(tmp_path, lambda number: True)
    one.lane(one.job, queued(heavy), "0")
    results = [one.store.read(item) for item in heavy]
    assert [bool(found and found.get("broken")) for found in results] == [
        item.scenario == "deploy" for item in heavy
    ]
    assert where == {name: int(name in ("oom", "lifecycle", "health")) for name in tiers.PLAYED}
    assert all(host.left for host in made)
    errors = (tmp_path / "errors.log").read_text()
    assert "256-heavy-farrier-deploy" in errors
    assert "Traceback" in errors
    assert run.verdict(one.store, heavy, keep=False) == 1


def queued(runs: list[Run]) -> Any:
    waiting: Any = queue.SimpleQueue()
    waiting.put((runs, 1.0))
    return waiting


def test_hosts_that_do_not_come_up_are_results_too(tmp_path: Path, heavy: list[Run]) -> None:
    one, made = bench(tmp_path, lambda number: False)
    one.lane(one.job, queued(heavy), "0")
    assert len(made) == 2
    assert [(one.store.read(item) or {})["broken"] for item in heavy] == [
        "LabError: systemd ended at once"
    ] * len(heavy)


def test_whatever_a_lane_raises_is_told(tmp_path: Path, heavy: list[Run]) -> None:
    one, _ = bench(tmp_path, lambda number: True)

    def leaves(runs: list[Run], cores: str) -> None:
        raise SystemExit("no memory cgroup")

    one.lane(leaves, queued(heavy), "0")
    assert one.played == {item.name for item in heavy}
    with pytest.raises(LabError, match="no memory cgroup of c0ffee"):
        Cgroup.of(1, "c0ffee")


def test_a_scenario_that_breaks_off_keeps_what_was_seen(
    heavy: list[Run], monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    class Seen(Watched):
        def __init__(self, *_: object) -> None:
            super().__init__("killed")

        def __enter__(self) -> Seen:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    site: Any = Site("fine")
    site.alive = lambda: False
    monkeypatch.setattr(scenarios, "Watch", Seen)
    with pytest.raises(scenarios.Unfinished) as broken:
        scenarios.play(heavy[0], site, KernelLog(), QUICK)
    result = broken.value.result
    assert "the host itself ended" in result["broken"]
    assert len(result["kills"]) == 2
    assert not result["holds"]


def test_the_smallest_tiers_and_what_matters_most_come_first_and_it_takes_less_than_two_hours() -> None:
    runs = tiers.every()
    jobs = tiers.jobs(runs)
    assert [job[0].name for job in jobs[:2]] == ["256-heavy-farrier-load", "256-postgres-farrier-load"]
    order = [tier.name for tier in tiers.TIERS]
    assert [order.index(job[0].tier.name) for job in jobs] == sorted(
        order.index(job[0].tier.name) for job in jobs
    )
    one: Any = run.Bench.__new__(run.Bench)
    one.shape = tiers.FULL
    plan = one.schedule(runs)
    assert sum(cost for *_, cost in plan) / 60 <= 110
    kinds = [lanes[0][0] for lanes in run.phases(plan)]
    assert kinds == ["job", "group", "job", "group", "group"]


def test_a_slice_begins_nothing_that_would_end_later(tmp_path: Path, heavy: list[Run]) -> None:
    one, made = bench(tmp_path, lambda number: True)
    one.seconds = 10
    one.lane(one.job, queued(heavy), "0")
    assert made == []
    assert run.verdict(one.store, heavy, keep=False) == 1


def test_memory_that_the_largest_host_needs_is_looked_for_first() -> None:
    huge = Run(Tier("huge", 1 << 30, 2, 1), "heavy", "farrier", "oom")
    assert "MiB of memory are available; these runs need" in run.lacking([huge])


def test_a_whole_matrix_in_which_every_seventh_run_breaks_is_kept_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tiers.every()
    bad = {item.name for item in runs[::7]}

    def play(item: Run, target: Any, log: object, shape: object) -> tuple[dict[str, Any], str]:
        if item.name in bad:
            raise LabError("it broke")
        quiet = tally.broken(item, "") | {"requests": tally.requests({"records": [], "cpu": 0.0}, [])}
        return quiet, "log"

    monkeypatch.setattr(scenarios, "play", play)
    monkeypatch.setattr(scenarios, "wait_until_it_serves", lambda *_: True)
    one, made = bench(tmp_path / "work", lambda number: number % 5 != 4)
    one.shape = tiers.FULL
    for lanes in run.phases(one.schedule(runs)):
        one.phase(lanes)
    assert one.played == {item.name for item in runs}
    assert all(host.left for host in made if host.comes_up)
    results = [found for item in runs if (found := one.store.read(item))]
    assert bad <= {found["run"] for found in results if found.get("broken")}
    table = figures.Table(results)
    assert figures.unmeasured(table, "", quick=False)
    assert "cannot be told" not in page.tier_section(table, tiers.TIERS[0])
