"""The scenarios: each does one thing to a host that serves, and tells what came of it.

Every function takes a Stage (the host, its watch, how long things last) and returns the scenario's own
figures; what all have in common (memory, kills, the load's outcome, endings of workers) is added by `play`,
and whether it is as it should be is judged from what is kept (tally.verdict).
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.matrix import tally
from benchmarks.matrix.target import PORT, Target
from benchmarks.matrix.tiers import Run, Shape
from benchmarks.matrix.watch import KernelLog, Watch
from lab.errors import LabError

LOAD = Path(__file__).parent / "load.py"
HEALTH_PATHS = ("/health", "/health/worker", "/health/ready")
#: Seconds: what farrier probe waits, and load balancers' common default, for a health answer.
HEALTH_MOST = 5.0


class Generator:
    """load.py at work in a process of its own."""

    def __init__(self, address: str, users: int, *, think: float = 1.0, probes: tuple[str, ...] = ()) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="farrier-matrix-")
        self.records = Path(self.folder.name) / "records.json"
        order = {
            "address": address, "port": PORT, "users": users, "think": think, "probes": list(probes),
            "records": str(self.records),
        }  # fmt: skip
        path = Path(self.folder.name) / "order.json"
        path.write_text(json.dumps(order))
        self.process = subprocess.Popen(
            [sys.executable, str(LOAD), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def end(self) -> dict[str, Any]:
        """Stop it, wait for the last answers, and read what it recorded."""
        self.process.communicate("stop\n", timeout=120)
        found: dict[str, Any] = json.loads(self.records.read_text())
        return found


@dataclass
class Stage:
    """Where a scenario plays."""

    run: Run
    target: Target
    watch: Watch
    shape: Shape
    marks: list[dict[str, Any]] = field(default_factory=list)
    load: dict[str, Any] | None = None

    def mark(self, text: str) -> float:
        """Something that is done to the host, for the timeline."""
        now = time.time()
        self.marks.append({"at": now, "text": text})
        return now

    def users(self, **more: Any) -> Generator:
        return Generator(self.target.address, self.run.tier.users, **more)


# --- start ----------------------------------------------------------------------------------------------


def first_answer(address: str, path: str, until: float) -> float | None:
    """Unix seconds of the first answer below 500; None where there is none in time."""
    while time.time() < until:
        try:
            with socket.create_connection((address, PORT), timeout=10) as line:
                line.settimeout(max(0.1, min(10.0, until - time.time())))
                line.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
                said = b""
                while len(said) < 12 and (part := line.recv(4096)):
                    said += part
            if said[9:12].isdigit() and int(said[9:12]) < 500:
                return time.time()
        except OSError:
            pass
        time.sleep(0.02)
    return None


def wait_until_it_serves(target: Target, seconds: float) -> bool:
    return first_answer(target.address, "/", time.time() + seconds) is not None


def startup(stage: Stage) -> dict[str, Any]:
    """Seconds from the start of the units to the first answer, several times; and from the host's boot."""
    target, shape = stage.target, stage.shape
    took: list[float | None] = []
    for number in range(shape.starts):
        target.stop()
        stage.mark(f"start {number + 1}")
        asked = target.start()
        answered = first_answer(target.address, "/", asked + shape.start_most)
        took.append(round(answered - asked, 3) if answered else None)
        if answered is None:  # it does not come up: once is enough to know
            break
        time.sleep(1.0)
    boot = boot_again(stage) if took[-1] is not None else None
    known = [one for one in took if one is not None]
    return {
        "starts": took,
        "median": round(median(known), 3) if known else None,
        "never": None in took,
        "boot": boot,
    }


def boot_again(stage: Stage) -> float | None:
    """Seconds from the host's start to the first answer."""
    stage.mark("the host restarts")
    began = stage.target.reboot()
    answered = first_answer(stage.target.address, "/", began + stage.shape.start_most)
    end = time.time() + 60
    while time.time() < end:
        state = stage.target.host.run(["systemctl", "is-system-running"], check=False).stdout.strip()
        if state in ("running", "degraded"):
            break
        time.sleep(0.2)
    # The container's first process is another one now.
    stage.watch.cgroup = stage.target.cgroup()
    return round(answered - began, 3) if answered else None


# --- under load -----------------------------------------------------------------------------------------


def health(stage: Stage) -> dict[str, Any]:
    """The three paths beside the promised load."""
    with stage.users(probes=HEALTH_PATHS) as load:
        time.sleep(stage.shape.health)
        stage.load = load.end()
    found = {}
    for path in HEALTH_PATHS:
        mine = [one for one in stage.load["records"] if one[2] == path]
        good = [one[1] for one in mine if one[3] == "ok" and one[4] == 200]
        found[path] = {
            "asked": len(mine), "ok": len(good), "p50": tally.quantile(good, 0.5),
            "p99": tally.quantile(good, 0.99), "max": round(max(good, default=0.0), 4),
        }  # fmt: skip
    return {"paths": found, "within": HEALTH_MOST}


def load(stage: Stage) -> dict[str, Any]:
    """The users that the tier promises to serve."""
    with stage.users() as generator:
        time.sleep(stage.shape.load / 2)
        pss = stage.target.pss()
        time.sleep(stage.shape.load / 2)
        stage.load = generator.end()
    return {"users": stage.run.tier.users, "pss": pss}


def lifecycle(stage: Stage) -> dict[str, Any]:
    """What happens to workers in a site's life, each at the promised load; the site goes on."""
    target, shape = stage.target, stage.shape
    steps: list[dict[str, Any]] = []

    def step(name: str, act: Callable[[], object]) -> None:
        began = stage.mark(name)
        act()
        time.sleep(shape.settle)
        steps.append({"step": name, "began": began, "ended": time.time(), "workers": len(target.workers())})

    def worker() -> int:
        found = target.workers()
        return found[0] if found else 0

    with stage.users() as generator:
        time.sleep(2)
        before = len(target.workers())
        step("kill -9 of a worker", lambda: target.signal(worker(), "KILL"))
        step("TERM to a worker", lambda: target.signal(worker(), "TERM"))
        step("TTIN", lambda: target.signal(target.main_pid(), "TTIN"))
        step("TTOU", lambda: target.signal(target.main_pid(), "TTOU"))
        step("HUP", lambda: target.signal(target.main_pid(), "HUP"))
        recycled = recycle(stage, steps)
        stage.load = generator.end()
    killed = steps[0]
    for one in steps:
        over = [failure["sent"] + failure["seconds"] for failure in stage.load["failures"]]
        one["failed"] = sum(1 for at in over if one["began"] - 0.2 <= at < one["ended"])
    # A request in the hands of a worker that is killed by KILL is lost with it: nobody could answer it.
    in_hand = max(1, int(plan_value(target, "threads", 1)))
    others = sum(one["failed"] for one in steps[1:])
    return {
        "workers": before, "steps": steps, "recycled": recycled, "in_hand": in_hand,
        "failed_by_kill": killed["failed"], "failed_else": others,
    }  # fmt: skip


def recycle(stage: Stage, steps: list[dict[str, Any]]) -> int:
    """So many requests beside the users that workers reach max_requests; how many were recycled."""
    target = stage.target
    before = target.state().get("endings", {}).get("recycled", 0)
    began = stage.mark("recycling: many requests")
    with Generator(target.address, 8, think=0.001) as burst:
        found = 0
        while not found and time.time() < began + stage.shape.burst_most:
            time.sleep(1.0)
            found = target.state().get("endings", {}).get("recycled", 0) - before
        more = burst.end()
    time.sleep(2)
    found = target.state().get("endings", {}).get("recycled", 0) - before
    steps.append(
        {"step": "recycling", "began": began, "ended": time.time(), "workers": len(target.workers()),
         "burst": len(more["records"]), "burst_failed": len(more["failures"]), "recycled": found}
    )  # fmt: skip
    return int(found)


def oom(stage: Stage) -> dict[str, Any]:
    """One request takes as much memory as the whole host has; what is killed, is it told, who comes back."""
    target, shape = stage.target, stage.shape
    hogs: list[dict[str, Any]] = []
    with stage.users() as generator:
        for _ in range(shape.hogs):
            time.sleep(shape.settle / 2)
            began = stage.mark("a request takes all memory")
            ask_and_leave(target.address, f"/hog?mb={stage.run.tier.memory_mib}", 30)
            ended = time.time()
            back = first_answer(target.address, "/", ended + 60)
            hogs.append({"began": began, "gone": ended, "back": round(back - ended, 3) if back else None})
        time.sleep(shape.settle / 2)
        serves = wait_until_it_serves(target, 30)
        stage.load = generator.end()
    kills = stage.watch.kills()
    said = target.journal(stage.watch.began)
    return {
        "hogs": hogs, "serves": serves, "told": told_of_kills(said),
        "site_lost": sum(1 for one in kills if not one["unit"].startswith(("bench@", "today"))),
    }  # fmt: skip


def ask_and_leave(address: str, path: str, seconds: float) -> None:
    """One request whose answer nobody needs; returns when it is over."""
    try:
        with socket.create_connection((address, PORT), timeout=seconds) as line:
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            while line.recv(4096):
                pass
    except OSError:
        pass


def told_of_kills(said: list[dict[str, Any]]) -> list[str]:
    """What the server itself logged about a worker that was killed for memory."""
    found = []
    for one in said:
        event = one.get("event", {})
        if event.get("event") == "worker_ended" and event.get("reason") == "killed for memory":
            found.append(event["message"])
        elif "out of memory" in one["text"].lower():
            found.append(one["text"].partition("] [ERROR] ")[2] or one["text"])
    return found


def deploy(stage: Stage) -> dict[str, Any]:
    """Two deploys at the promised load: another release, and back."""
    target, shape = stage.target, stage.shape
    deploys = []
    with stage.users() as generator:
        for release in ("B", "A"):
            time.sleep(shape.settle)
            stage.mark(f"deploy of {release}")
            went = target.deploy(release)
            deploys.append(
                {"asked": went["asked"], "ended": went["ended"],
                 "refused": went["msg"] if went["failed"] else "",
                 "seconds": round(went["ended"] - went["asked"], 2),
                 "steps": [{"name": one["name"], "seconds": one["seconds"]} for one in went.get("steps", [])]}
            )  # fmt: skip
            stage.mark("it is over")
        time.sleep(shape.settle / 2)
        stage.load = generator.end()
    for one in deploys:
        during = [r for r in stage.load["records"] if one["asked"] - 0.1 <= r[0] <= one["ended"]]
        one["longest"] = round(max((r[1] for r in during), default=0.0), 3)
        one["failed"] = sum(1 for r in during if r[3] != "ok")
    return {"deploys": deploys, "strategy": plan_value(target, "strategy", "")}


def sustained(stage: Stage) -> dict[str, Any]:
    """The promised load for minutes, with an app that leaks 1 MB per 100 requests."""
    seconds = stage.shape.sustained if stage.run.ours else stage.shape.sustained_today
    with stage.users() as generator:
        time.sleep(seconds)
        recycled = stage.target.state().get("endings", {}).get("recycled", 0) if stage.run.ours else 0
        stage.load = generator.end()
    return {"lasted": seconds, "recycled": recycled}


PLAYS: dict[str, Callable[[Stage], dict[str, Any]]] = {
    "startup": startup, "health": health, "lifecycle": lifecycle, "load": load, "oom": oom, "deploy": deploy,
    "sustained": sustained,
}  # fmt: skip


def plan_value(target: Target, name: str, default: Any) -> Any:
    plan = target.went.get("plan") or {}
    value = plan.get(name) if isinstance(plan, dict) else None
    return default if value is None else value


# --- one run --------------------------------------------------------------------------------------------


class Unfinished(Exception):
    """A scenario broke off: what was seen until then, and its raw log."""

    def __init__(self, line: str, result: dict[str, Any], log: str) -> None:
        super().__init__(line)
        self.result, self.log = result, log


def play(run: Run, target: Target, log: KernelLog, shape: Shape) -> tuple[dict[str, Any], str]:
    """One run from its beginning: its result as JSON holds it, and the raw log.

    Unfinished where the scenario broke off: memory and kills up to then are in its result.
    """
    if run.scenario not in ("startup",):
        wait_until_it_serves(target, 20)
    with Watch(target.cgroup(), log) as watch:
        stage = Stage(run, target, watch, shape)
        try:
            found = PLAYS[run.scenario](stage)
            if not target.alive():
                raise LabError("the host itself ended: its first process is gone")
        except Exception as error:
            time.sleep(1.1)
            line = why(error, target)
            result = tally.told(run, target, watch, stage.marks, stage.load, [], tally.blank(run), line)
            raise Unfinished(line, result, tally.raw(result, stage.load, line)) from error
        time.sleep(1.1)  # one more sample, with what came last
    said = target.journal(watch.began)
    result = tally.told(run, target, watch, stage.marks, stage.load, said, found)
    return result, tally.raw(result, stage.load, target.raw_journal(watch.began))


def why(error: Exception, target: Target) -> str:
    """A broken scenario in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    try:
        gone = not target.alive()
    except Exception:  # noqa: BLE001 - the engine itself does not answer: the first error says enough
        gone = False
    return f"the host ended ({text})" if gone and "host itself" not in text else text
