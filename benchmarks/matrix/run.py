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
import tempfile
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

from benchmarks.matrix import image, scenarios, tally, tiers  # noqa: E402 - the checkout is put on the path first
from benchmarks.matrix.progress import Progress  # noqa: E402
from benchmarks.matrix.store import Store  # noqa: E402
from benchmarks.matrix.target import Target, pack  # noqa: E402
from benchmarks.matrix.tiers import SETUP, Run, Shape  # noqa: E402
from benchmarks.matrix.watch import KernelLog  # noqa: E402
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
    left = [run for run in wanted if options.again or quick or not store.done(run, options.keep)]
    if options.list:
        for run in wanted:
            print(f"{run.name:36} {'left' if run in left else 'done'}")
        return 0
    played = 0
    if not options.page and left:
        if not options.keep and (stale := store.stale(wanted)):
            print(f"{len(stale)} runs were made with another farrier and are measured anew")
        if lack := lacking(left):
            print(f"farrier bench matrix: {lack}", file=sys.stderr)
            return 1
        try:
            bench = Bench(store, tiers.QUICK if quick else tiers.FULL, options.minutes * 60)
            bench.run(left)
            played = len(bench.played)
        except LabError as error:
            print(f"farrier bench matrix: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nstopped: what is done is kept, the same command goes on", file=sys.stderr)
            return 130
    publish(store, options, quick, played)
    return verdict(store, wanted, options.keep)


def lacking(left: Sequence[Run]) -> str:
    """What this machine lacks for these runs, in a line; empty where it lacks nothing."""
    if len(os.sched_getaffinity(0)) < 2:
        return "this machine has one CPU: hosts of 4 and 8 GB need two"
    # The largest host fills its memory on purpose, the pairs up to 2 GB each: the machine must bear it.
    most = max(run.tier.memory_mib for run in left)
    need = max(2 * min(most, 2048), most) + 512
    text = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
    free = int(text.split()[0]) // 1024
    return "" if free >= need else f"{free} MiB of memory are available; these runs need {need} MiB"


def publish(store: Store, options: argparse.Namespace, quick: bool, played: int) -> None:
    """The page of all runs that are valid now, whichever of them were asked for."""
    from benchmarks.matrix import page

    committed = ROOT / "benchmarks/results/matrix"
    results = [found for run in tiers.every() if (found := store.read(run, options.keep)) is not None]
    out = options.out or (store.folder / "page" if quick else committed)
    if out == committed:
        stale = store.stale(tiers.every())
        if stale and not options.keep and not played:
            print(f"{len(stale)} runs were made with another farrier: {shown(out)} stays as it is")
            print("(--keep shows them, marked; without --page they are measured anew)")
            return
        if store.foreign and len(results) < store.committed:
            out = store.folder / "page"
            print(f"{shown(committed)} has {store.foreign} runs of another machine and stays as it is")
    print(page.write(results, out, store, quick))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def verdict(store: Store, wanted: Sequence[Run], keep: bool) -> int:
    """The exit status, by what the store has: 0 where each run that was asked for was measured."""
    left = [run.name for run in wanted if not store.done(run, keep)]
    bad = [run.name for run in wanted if (one := store.read(run, keep)) and one.get("broken")]
    if bad:
        print(f"not measured, {store.folder / 'errors.log'} says why: {', '.join(bad)}")
    if left:
        print(f"{len(left)} runs are left: run the same command again to go on")
    return 1 if left or bad else 0


class Bench:
    """Plays runs on their hosts, at most one a core, and keeps what came of them."""

    def __init__(self, store: Store, shape: Shape, seconds: float) -> None:
        self.store, self.shape, self.seconds = store, shape, seconds
        self.began = time.monotonic()
        self.stopping = threading.Event()
        self.version = ""
        self.played: set[str] = set()
        """Runs of which there is a result, be it that they broke."""
        self.open: list[Target] = []
        self.lock = threading.Lock()

    def run(self, left: Sequence[Run]) -> None:
        """Measure what is left, as far as the time allows."""
        # A TERM is like Ctrl-C: every host goes away with us.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.docker = engine.ensure()
        self.image = image.ensure(self.docker)
        key_file()
        self.log = KernelLog()
        self.log.start()
        plan = self.schedule(list(left))
        with (
            tempfile.TemporaryDirectory(prefix="farrier-matrix-") as folder,
            Progress(sum(cost for *_, cost in plan), len(left)) as self.progress,
        ):
            Target.packed = self.packed(Path(folder))
            if self.log.why_not:
                self.progress.say(self.log.why_not)
            try:
                for lanes in phases(plan):
                    self.phase(lanes)
            finally:
                self.stopping.set()
                self.log.end()
                self.remove_all()

    def remove_all(self) -> None:
        """Every host that is there goes away; one that the engine does not let go is told."""
        for target in list(self.open):
            try:
                target.host.remove()
            except Exception as error:  # noqa: BLE001 - the next ones, and the page
                self.note(target.host.name, error)

    def packed(self, folder: Path) -> Path:
        """farrier as all hosts get it, and the digest of the very files that were packed."""
        while True:
            self.store.stamp()
            before = dict(self.store.digests)
            wheel = pack(folder)
            self.store.stamp()
            if self.store.digests == before:
                self.version = wheel.name.split("-")[1]
                return wheel

    def schedule(self, left: list[Run]) -> list[Part]:
        """Hosts of one CPU two at a time, those of two one at a time, sustained last."""
        found = []
        for job in tiers.jobs(left):
            cost = SETUP[job[0].who] + sum(tiers.estimate(run, self.shape) for run in job)
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
            self.remove_all()
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
            first = SETUP[runs[0].who] + tiers.estimate(runs[0], self.shape)
            if not self.fits(cost if method == self.group else first):
                self.progress.skip(len(runs), cost)
                continue
            try:
                method(list(runs), cores)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - one that fails must not end the others
                for run in runs:
                    if run.name not in self.played:
                        self.broken(run, error)
            self.progress.spent(cost)

    def fits(self, seconds: float) -> bool:
        """Whether what takes so long may still begin."""
        return time.monotonic() - self.began + seconds <= self.seconds

    def job(self, left: list[Run], cores: str) -> None:
        """A host and its scenarios, one after the other; after one that broke the next has a new host."""
        refused = hosts = 0
        while left and not self.stopping.is_set():
            if not self.fits(SETUP[left[0].who] + tiers.estimate(left[0], self.shape)):
                self.progress.skip(len(left), 0)
                return
            hosts += 1
            target = self.host(left[0], cores, leak=False)
            try:
                target.__enter__()
            except Exception as error:  # noqa: BLE001 - the next scenario may find a host that comes up
                refused += 1
                lost = left[:1] if refused < 2 else list(left)
                del left[: len(lost)]
                for run in lost:
                    self.broken(run, error)
                continue
            try:
                self.on_one_host(left, target, last=hosts > 6)
            finally:
                self.leave(target)

    def on_one_host(self, left: list[Run], target: Target, last: bool) -> None:
        """Play from the front of `left` until the host is not fit for the next. last: there is no other."""
        first = True
        while left and not self.stopping.is_set():
            run = left[0]
            if not self.fits(tiers.estimate(run, self.shape)):
                self.progress.skip(len(left), 0)
                left.clear()
                return
            deployed = run.ours and not target.went.get("failed")
            # What one scenario left behind is not the next one's: it begins with a site that serves.
            if not first and deployed and not last and not scenarios.wait_until_it_serves(target, 20):
                self.progress.say(f"{run.name}: the site does not serve any more, a new host")
                return
            del left[0]
            first = False
            if not self.play(run, target):
                return

    def leave(self, target: Target) -> None:
        try:
            target.__exit__()
        except Exception as error:  # noqa: BLE001 - what was measured on it counts
            self.note(target.host.name, error)

    def note(self, name: str, error: BaseException) -> None:
        """An error in a line for the person, and with its trace in errors.log."""
        self.progress.say(f"{name}: {type(error).__name__}: {error}")
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        with self.lock, (self.store.folder / "errors.log").open("a") as file:
            file.write(f"== {time.strftime('%F %T')} {name}\n{text}")

    def broken(self, run: Run, error: BaseException) -> None:
        """A run without a measurement is a result too: it is shown, and falls short."""
        if self.stopping.is_set():
            return
        self.note(run.name, error)
        seen = error if isinstance(error, scenarios.Unfinished) else None
        line = " ".join(str(error).split())[:300] if seen else f"{type(error).__name__}: {error}"
        result = seen.result if seen else tally.broken(run, " ".join(line.split())[:300])
        try:
            self.keep(run, result, seen.log if seen else line)
        except OSError as full:
            self.progress.say(f"{run.name}: cannot be kept: {full}")

    def keep(self, run: Run, result: dict[str, Any], log: str) -> None:
        took = round(time.time() - result["began"], 1)
        result = result | {"took": took, "date": time.strftime("%F"), "version": self.version}
        self.store.write(run, result, log)
        self.played.add(run.name)
        self.progress.done(f"{run.name}: {outcome(result)}")

    def group(self, runs: list[Run], cores: str) -> None:
        """Sustained runs side by side on hosts of their own."""
        del cores  # a quota, so that the hosts share both cores as they need them
        with ExitStack() as stack:
            # Two at a time, as there are cores: nine hosts one after the other would take minutes.
            with ThreadPoolExecutor(2) as pool:
                enter = [pool.submit(self.entered, stack, run) for run in runs]
            targets = [one.result() for one in enter]
            threads = [
                threading.Thread(target=self.play, args=(run, target), daemon=True)
                for run, target in zip(runs, targets, strict=True)
                if target is not None
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and not self.stopping.is_set():
                    thread.join(0.5)
        for run in runs:
            if run.name not in self.played:
                self.broken(run, LabError("it ended without a result"))

    def entered(self, stack: ExitStack, run: Run) -> Target | None:
        """A host of a group; None, and the run is broken, where it does not come up."""
        if self.stopping.is_set():
            return None
        try:
            target = self.host(run, "", leak=True)
            target.__enter__()
        except Exception as error:  # noqa: BLE001 - the others go on
            self.broken(run, error)
            return None
        with self.lock:
            stack.push(target)
        return target

    def host(self, run: Run, cores: str, leak: bool) -> Target:
        return Tracked(self, self.docker, self.image, run.tier, run.app, run.who, cores, leak)

    def play(self, run: Run, target: Target) -> bool:
        """Measure and keep one run; whether the host is fit for another."""
        # Whatever hangs on a host ends with it, and the run counts as broken.
        watchdog = threading.Timer(2 * tiers.estimate(run, self.shape) + 400, self.over, (run, target))
        watchdog.daemon = True
        watchdog.start()
        try:
            with self.progress.doing(run.name):
                result, log = scenarios.play(run, target, self.log, self.shape)
            if target.went.get("steps") and run.scenario in ("startup", "sustained"):
                result["deployed"] = {
                    "seconds": round(target.went["ended"] - target.went["asked"], 2),
                    "steps": {one["name"]: one["seconds"] for one in target.went["steps"]},
                }
            if self.stopping.is_set():
                return False
            self.keep(run, result, log)
            return target.alive()
        except Exception as error:  # noqa: BLE001 - the host's other scenarios go on, on another host
            if run.name not in self.played:
                self.broken(run, error)
            return False
        finally:
            watchdog.cancel()

    def over(self, run: Run, target: Target) -> None:
        self.progress.say(f"{run.name}: far over its time, its host goes away")
        target.host.remove()


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
    """One list of lanes a phase: (kind, its items, cores). Lanes of a phase take from the same items.

    Small tiers first, with their sustained runs; then 4 and 8 GB with theirs; Gunicorn's sustained runs last.
    """
    items: dict[str, list[Item]] = {"pair": [], "alone": []}
    groups: dict[tuple[bool, bool], list[Item]] = {}
    for kind, runs, cost in plan:
        if kind == "group":
            groups.setdefault((runs[0].ours, runs[0].tier.cpus == 1), []).append((runs, cost))
        else:
            items[kind].append((runs, cost))
    cores = sorted(os.sched_getaffinity(0))[:2]
    lanes: list[list[Lane]] = [
        [("job", items["pair"], str(core)) for core in cores],
        [("group", groups.get((True, True), []), "")],
        [("job", items["alone"], ",".join(map(str, cores)))],
        [("group", groups.get((True, False), []), "")],
        [("group", groups.get((False, True), []), "")],
    ]
    return [one for one in lanes if one[0][1]]


def outcome(result: dict[str, Any]) -> str:
    """A run in a line."""
    if result.get("broken"):
        return f"BROKEN: {result['broken']}"
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
