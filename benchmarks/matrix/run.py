"""The RAM matrix: 256 MB to 8 GB x start, health, life cycle, load, out of memory, deploy, sustained.

    python3 benchmarks/matrix/run.py [--only TEXT] [--minutes N] [--again] [--quick] [--page]
    farrier bench matrix             the same, in a checkout

A host is a systemd host in a container with its tier's memory and CPU (1 up to 2 GB, 2 for 4 and 8 GB).
Farrier's own release machine deploys there; compared is Gunicorn as it is usually configured. What is done is
kept, so a run that was stopped goes on where it was. Writes runs.csv, summary.json, plots/, logs/ and
index.html to benchmarks/results/matrix/; a quick run (QUICK=1) keeps them out of the tree.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.matrix import image, scenarios, tiers  # noqa: E402 - the checkout is put on the path first
from benchmarks.matrix.progress import Progress  # noqa: E402
from benchmarks.matrix.store import Store  # noqa: E402
from benchmarks.matrix.target import Target  # noqa: E402
from benchmarks.matrix.tiers import Run, Shape  # noqa: E402
from benchmarks.matrix.watch import KernelLog  # noqa: E402
from farrier.release import runtime  # noqa: E402
from lab import checkout, engine  # noqa: E402
from lab.errors import LabError  # noqa: E402
from lab.host import key_file  # noqa: E402

#: Runs on one host (or side by side), and the seconds that they are expected to take.
Item = tuple[list[Run], float]
#: The same with how it is played: "pair", "alone" or "group".
Part = tuple[str, list[Run], float]
#: "job" or "group", what the lanes of a phase take from, the cores of this one.
Lane = tuple[str, list[Item], str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only runs whose name holds TEXT")
    parser.add_argument("--minutes", type=float, default=600, help="begin nothing that would end after this")
    parser.add_argument("--again", action="store_true", help="measure anew what is done")
    parser.add_argument("--quick", action="store_true", help="a few runs of seconds, to see that it works")
    parser.add_argument("--page", action="store_true", help="measure nothing, only write the page")
    parser.add_argument("--keep", action="store_true", help="what an earlier farrier did is done too")
    parser.add_argument("--list", action="store_true", help="the names of the runs, and which are done")
    parser.add_argument("--out", type=Path, help="another folder for the results")
    options = parser.parse_args()
    quick = options.quick or os.environ.get("QUICK") == "1"
    every = tiers.every()
    if quick and not options.only:
        every = [run for run in every if run.name in tiers.QUICK_RUNS]
    wanted = [run for run in every if options.only in run.name]
    if not wanted:
        allowed = "a part of TIER-APP-WHO-SCENARIO, as --list prints them"
        print(f"--only: given {options.only!r}; allowed: {allowed}", file=sys.stderr)
        return 2
    work = checkout.cache_dir() / "bench-matrix" / checkout.identity() / ("quick" if quick else "full")
    committed = ROOT / "benchmarks/results/matrix"
    store = Store(work, None if quick else committed)
    left = [run for run in wanted if options.again or quick or store.read(run, options.keep) is None]
    if options.list:
        for run in wanted:
            print(f"{run.name:36} {'left' if run in left else 'done'}")
        return 0
    whole = True
    if not options.page and left:
        if not options.keep and (stale := store.stale(wanted)):
            print(f"{len(stale)} runs were made with another farrier and are measured anew")
        if len(os.sched_getaffinity(0)) < 2:
            print("this machine has one CPU: hosts of 4 and 8 GB need two", file=sys.stderr)
            return 1
        try:
            whole = Bench(store, tiers.QUICK if quick else tiers.FULL, options.minutes * 60).run(left)
        except LabError as error:
            print(f"farrier bench matrix: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nstopped: what is done is kept, the same command goes on", file=sys.stderr)
            return 130
    from benchmarks.matrix import page

    results = [found for run in tiers.every() if (found := store.read(run, options.keep)) is not None]
    out = options.out or (work / "page" if quick else committed)
    print(page.write(results, out, store, quick))
    if not whole:
        print("not all of it is done: run the same command again to go on")
    return 0 if whole else 1


class Bench:
    """Plays runs on their hosts, at most one a core, and keeps what came of them."""

    def __init__(self, store: Store, shape: Shape, seconds: float) -> None:
        self.store, self.shape, self.seconds = store, shape, seconds
        self.began = time.monotonic()
        self.stopping = threading.Event()
        self.failed: list[str] = []
        self.skipped = 0
        self.open: list[Target] = []
        self.lock = threading.Lock()

    def run(self, left: Sequence[Run]) -> bool:
        """Measure what is left, as far as the time allows; whether all of it was."""
        # A TERM is like Ctrl-C: every host goes away with us.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.docker = engine.ensure()
        self.image = image.ensure(self.docker)
        self.version = runtime.find(None).version
        key_file()
        self.log = KernelLog()
        self.log.start()
        plan = self.schedule(list(left))
        with Progress(sum(cost for *_, cost in plan), len(left)) as self.progress:
            if self.log.why_not:
                self.progress.say(self.log.why_not)
            try:
                for lanes in phases(plan):
                    self.phase(lanes)
            finally:
                self.stopping.set()
                self.log.end()
                for target in list(self.open):
                    target.host.remove()
        return not self.failed and not self.skipped

    def schedule(self, left: list[Run]) -> list[Part]:
        """Hosts of one CPU two at a time, those of two one at a time, sustained last."""
        found = []
        for job in tiers.jobs(left):
            cost = tiers.SETUP[job[0].who] + sum(tiers.estimate(run, self.shape) for run in job)
            one = job[0].tier.cpus == 1
            found.append(("pair" if one else "alone", job, cost / 2 if one else cost))
        for group in tiers.groups(left):
            cost = max(tiers.estimate(run, self.shape) for run in group) + 20 * len(group)
            found.append(("group", group, cost))
        return found

    # --- phases -----------------------------------------------------------------------------------

    def phase(self, lanes: list[Lane]) -> None:
        """Lanes side by side, each in a thread of its own; an interrupt reaches all of them."""
        waiting: queue.SimpleQueue[tuple[list[Run], float]] = queue.SimpleQueue()
        for item in lanes[0][1]:
            waiting.put(item)
        threads = []
        for kind, _, cores in lanes:
            method = self.group if kind == "group" else self.job
            threads.append(threading.Thread(target=self.lane, args=(method, waiting, cores), daemon=True))
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.5)
        except BaseException:
            self.stopping.set()
            with self.lock:
                for target in self.open:
                    target.host.remove()
            # What hung on a host ends with it.
            for thread in threads:
                thread.join(60)
            raise

    def lane(self, method: Callable[[list[Run], str], None], waiting: Any, cores: str) -> None:
        while not self.stopping.is_set():
            try:
                runs, cost = waiting.get_nowait()
            except queue.Empty:
                return
            if time.monotonic() - self.began + cost > self.seconds:
                self.skipped += len(runs)
                self.progress.skip(len(runs), cost)
                continue
            try:
                method(runs, cores)
            except Exception as error:  # noqa: BLE001 - one host that fails must not end the others
                if not self.stopping.is_set():
                    self.failed += [run.name for run in runs]
                    self.progress.say(f"{runs[0].name}: {type(error).__name__}: {error}")
                    (self.store.folder / "errors.log").open("a").write(traceback.format_exc())
            self.progress.spent(cost)

    def job(self, runs: list[Run], cores: str) -> None:
        """One host and its scenarios, one after the other."""
        first = runs[0]
        with self.host(first, cores, leak=False) as target:
            for run in runs:
                if self.stopping.is_set():
                    return
                self.play(run, target)

    def group(self, runs: list[Run], cores: str) -> None:
        """Sustained runs side by side on hosts of their own."""
        del cores  # a quota, so that the hosts share both cores as they need them
        with ExitStack() as stack:
            # Two at a time, as there are cores: nine hosts one after the other would take minutes.
            with ThreadPoolExecutor(2) as pool:
                enter = [pool.submit(self.entered, stack, run) for run in runs]
            targets = [one.result() for one in enter]
            threads = [
                threading.Thread(target=self.guarded, args=(run, target), daemon=True)
                for run, target in zip(runs, targets, strict=True)
                if target is not None
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and not self.stopping.is_set():
                    thread.join(0.5)

    def entered(self, stack: ExitStack, run: Run) -> Target | None:
        """A host of a group; None, and the run counts as failed, where it does not come up."""
        if self.stopping.is_set():
            return None
        try:
            target = self.host(run, "", leak=True)
            target.__enter__()
        except Exception as error:  # noqa: BLE001 - the others go on
            if not self.stopping.is_set():
                self.failed.append(run.name)
                self.progress.say(f"{run.name}: {type(error).__name__}: {error}")
            return None
        with self.lock:
            stack.push(target)
        return target

    def guarded(self, run: Run, target: Target) -> None:
        try:
            self.play(run, target)
        except Exception as error:  # noqa: BLE001
            if not self.stopping.is_set():
                self.failed.append(run.name)
                self.progress.say(f"{run.name}: {type(error).__name__}: {error}")

    def host(self, run: Run, cores: str, leak: bool) -> Target:
        return Tracked(self, self.docker, self.image, run.tier, run.app, run.who, cores, leak)

    def play(self, run: Run, target: Target) -> None:
        with self.progress.doing(run.name):
            began = time.time()
            result, log = scenarios.play(run, target, self.log, self.shape)
        took = round(time.time() - began, 1)
        result |= {"took": took, "date": time.strftime("%F"), "version": self.version}
        if target.went.get("steps") and run.scenario in ("startup", "sustained"):
            result["deployed"] = {
                "seconds": round(target.went["ended"] - target.went["asked"], 2),
                "steps": {one["name"]: one["seconds"] for one in target.went["steps"]},
            }
        self.store.write(run, result, log)
        self.progress.done(f"{run.name}: {outcome(result)}")


class Tracked(Target):
    """A target that an interrupt finds."""

    def __init__(self, bench: Bench, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.bench = bench

    def __enter__(self) -> Tracked:
        with self.bench.lock:
            self.bench.open.append(self)
        with self.bench.progress.doing(f"{self.host.name} is set up"):
            try:
                super().__enter__()
            except BaseException:
                self.forget()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.forget()

    def forget(self) -> None:
        with self.bench.lock:
            if self in self.bench.open:
                self.bench.open.remove(self)


def phases(plan: list[Part]) -> list[list[Lane]]:
    """One list of lanes a phase: (kind, its items, cores). Lanes of a phase take from the same items."""
    items: dict[str, list[Item]] = {"pair": [], "alone": [], "group": []}
    for kind, runs, cost in plan:
        items[kind].append((runs, cost))
    cores = sorted(os.sched_getaffinity(0))[:2]
    found = []
    if items["pair"]:
        found.append([("job", items["pair"], str(core)) for core in cores])
    if items["alone"]:
        found.append([("job", items["alone"], ",".join(map(str, cores)))])
    if items["group"]:
        found.append([("group", items["group"], "")])
    return found


def outcome(result: dict[str, Any]) -> str:
    """A run in a line."""
    words = [{True: "as it should be", False: "FALLS SHORT", None: ""}[result["holds"]]]
    if result["scenario"] == "startup":
        words.append(f"{result['starts']} s, boot {result['boot']} s")
    if asked := result["requests"]:
        words.append(
            f"{asked['failed']} of {asked['sent']} failed, {asked['timeouts']} timed out, "
            f"p99 {asked['p99']:.2f} s"
        )
    if result["kills"]:
        words.append(f"{len(result['kills'])} OOM kills")
    if result["refused"]:
        words.append(f"deploy refused: {result['refused']}")
    return ", ".join(word for word in words if word)


if __name__ == "__main__":
    sys.exit(main())
