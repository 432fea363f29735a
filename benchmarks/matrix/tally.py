"""From what a run left (records, samples, kills, journal) to its result: one JSON object."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.matrix.load import OUTCOMES

if TYPE_CHECKING:
    from benchmarks.matrix.target import Target
    from benchmarks.matrix.tiers import Run
    from benchmarks.matrix.watch import Watch

#: Seconds around a worker's end within which a request that broke was in its hands.
IN_HANDS = 1.0
#: Of the plan, what the page shows.
PLAN = (
    "workers", "threads", "worker_class", "preload_app", "low_memory_mode", "freeze_heap", "timeout",
    "max_requests", "recycling", "strategy", "gate_beside", "malloc_arena_max", "db_pool_size",
    "db_max_overflow", "memory_peak", "memory_deploy_peak", "memory_max", "verdict", "warnings",
)  # fmt: skip

#: Of a result: counted up whenever the page and the verdicts need figures that older results lack.
SHAPE = 2
#: What a sample holds, MiB but for `processes`.
SAMPLED = ("used", "firm", "app", "processes", "largest", "database")


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest value that was measured, none between two; 0 where there is nothing."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4)


def endings(said: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Workers that ended or never began, as farrier's and Gunicorn's own logs say: {at, why, text}."""
    found = []
    for one in said:
        event, text = one.get("event", {}), one["text"]
        if event.get("event") == "worker_ended":
            found.append({"at": one["at"], "why": event.get("reason", ""), "text": event.get("message", "")})
        elif event:
            continue
        elif "WORKER TIMEOUT" in text:
            found.append({"at": one["at"], "why": "timed out", "text": text})
        elif "was sent SIGKILL" in text:
            found.append({"at": one["at"], "why": "killed", "text": text})
        elif "exited with code" in text:
            found.append({"at": one["at"], "why": "exited", "text": text})
        elif "Worker failed to boot" in text:
            found.append({"at": one["at"], "why": "failed to boot", "text": text})
    return found


def requests(load: dict[str, Any] | None, ended: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The users' requests: how many, how they ended, how long the answers took, and how many timed out.

    A timeout: no answer in 30 s, or the request broke as its worker was killed for its timeout.
    """
    if load is None:
        return None
    mine = [one for one in load["records"] if one[2] == "/"]
    counts = Counter(one[3] for one in mine)
    stalls = [one["at"] for one in ended if one["why"] == "timed out"]
    cut = sum(
        1
        for sent, seconds, _, outcome, _ in mine
        if outcome in ("reset", "closed") and any(abs(sent + seconds - at) <= IN_HANDS for at in stalls)
    )
    good = [one[1] for one in mine if one[3] == "ok"]
    sent = len(mine)
    timeouts = counts["unanswered"] + cut
    return {
        "sent": sent,
        **{name: counts[name] for name in OUTCOMES},
        "failed": sent - counts["ok"],
        "timeouts": timeouts,
        "worker_timeouts": len(stalls),
        "timeout_share": round(timeouts / sent, 5) if sent else 0.0,
        "failed_share": round((sent - counts["ok"]) / sent, 5) if sent else 0.0,
        "p50": quantile(good, 0.5),
        "p95": quantile(good, 0.95),
        "p99": quantile(good, 0.99),
        "max": round(max(good, default=0.0), 4),
        "generator_cpu": load["cpu"],
    }


def seconds(load: dict[str, Any] | None, began: float) -> dict[str, list[float]]:
    """By second of the run: answered, failed, unanswered requests as they ended, and the slowest answer."""
    rows: dict[int, list[float]] = {}
    for sent, took, path, outcome, _ in (load or {"records": []})["records"]:
        if path != "/":
            continue
        row = rows.setdefault(int(sent + took - began), [0, 0, 0, 0.0])
        row[0 if outcome == "ok" else 2 if outcome == "unanswered" else 1] += 1
        if outcome == "ok":
            row[3] = max(row[3], round(took, 3))
    order = sorted(rows)
    names = ("ok", "failed", "unanswered", "slowest")
    columns = {name: [rows[at][index] for at in order] for index, name in enumerate(names)}
    return {"at": list(order), **columns}


def identity(run: Run) -> dict[str, Any]:
    return {
        "shape": SHAPE,
        "run": run.name, "tier": run.tier.name, "app": run.app, "who": run.who, "scenario": run.scenario,
        "memory": run.tier.memory_mib << 20, "cpus": run.tier.cpus, "users": run.tier.users,
    }  # fmt: skip


def today(workers: int) -> dict[str, Any]:
    """What serves on Gunicorn's side."""
    return {"workers": workers, "threads": 1, "worker_class": "sync", "timeout": 30}


def told(
    run: Run,
    target: Target,
    watch: Watch,
    marks: Sequence[dict[str, Any]],
    load: dict[str, Any] | None,
    said: Sequence[dict[str, Any]],
    found: dict[str, Any],
    line: str = "",
) -> dict[str, Any]:
    """The result of one run. Bytes and seconds; `at` counts from `began` (Unix seconds).

    line: why it broke off; ValueError where a scenario gives a figure that every run has.
    """
    began = watch.began
    every, ended = watch.kills(), endings(said)
    plan = target.went.get("plan") or {}
    samples = watch.samples
    own: dict[str, Any] = relative(found, began)
    common = {
        **identity(run),
        "began": began,
        "server": {name: plan.get(name) for name in PLAN if name in plan}
        if run.ours
        else today(target.workers_today),
        "measured": measurement(target),
        "refused": target.went.get("msg", "") if target.went.get("failed") else "",
        "requests": requests(load, ended),
        "seconds": seconds(load, began),
        "samples": {
            key: [one[key] if key == "processes" else round(one[key] / 2**20, 1) for one in samples]
            for key in SAMPLED
        }
        | {"at": [round(one["at"] - began, 1) for one in samples]},
        "kills": [since(one, began) for one in every if not in_trial(one)],
        "trial_kills": [since(one, began) for one in every if in_trial(one)],
        "kills_counted": watch.counted(),
        "endings": [since(one, began) for one in ended[:400]],
        "ended": dict(Counter(one["why"] for one in ended)),
        "marks": [since(one, began) for one in marks],
    }
    # A scenario that named a figure as one that all have would take its place, and the page would not draw.
    if both := (common.keys() & own.keys()) - {"users"}:
        raise ValueError(f"{run.scenario} gives figures that every run has: {', '.join(sorted(both))}")
    result = common | own | ({"broken": line} if line else {})
    return result | {"holds": verdict(result)}


def in_trial(kill: dict[str, Any]) -> bool:
    """Whether a deploy's own trial reached the limit that it had been given: no harm to what serves."""
    return str(kill["unit"]).startswith("farrier-trial-")


def measurement(target: Target) -> dict[str, Any] | None:
    """What `farrier measure` said in the deploy, where it did; without lists."""
    plan = target.went.get("plan") or {}
    workload = (plan.get("inputs") or {}).get("workload") if isinstance(plan, dict) else None
    return workload if isinstance(workload, dict) else None


def blank(run: Run) -> dict[str, Any]:
    """A scenario's own figures where it has none: every name that it would have."""
    shapes: dict[str, dict[str, Any]] = {
        "startup": {"starts": [], "median": None, "never": False, "boot": None},
        "health": {"paths": {}, "within": 0.0},
        "load": {"users": run.tier.users, "pss": []},
        "lifecycle": {"workers": 0, "steps": [], "recycled": 0, "in_hand": 0, "failed_by_kill": 0,
                      "failed_else": 0},
        "oom": {"hogs": [], "serves": False, "told": [], "site_lost": 0},
        "deploy": {"deploys": [], "strategy": ""},
        "sustained": {"lasted": 0, "recycled": 0},
    }  # fmt: skip
    return shapes[run.scenario]


def broken(run: Run, line: str) -> dict[str, Any]:
    """The result of a run of which nothing was seen: its host did not come up, say."""
    began = time.time()
    return {
        **identity(run), "began": began, "server": {} if run.ours else today(2 * run.tier.cpus + 1),
        "measured": None, "refused": "", "requests": None, "seconds": seconds(None, began),
        "samples": {name: [] for name in (*SAMPLED, "at")},
        "kills": [], "trial_kills": [], "kills_counted": 0, "endings": [], "ended": {}, "marks": [],
        **blank(run), "broken": line, "holds": False,
    }  # fmt: skip


def verdict(result: dict[str, Any]) -> bool:
    """Whether a run is as it should be, from what was kept of it. No site at all is never as it should be.

    All: it was measured, no worker timed out, and users had answers (startup: each start led to one); no kill
    (oom: one for each hog at least, told by the server, none of the host's other units). load, deploy: no
    request failed. lifecycle: none but those in the hands of the worker that kill -9 ends. sustained: no
    timeout, and of 1,000 requests at most one failed. health: each answer is 200 and in time.
    """
    if result.get("broken") or result["refused"]:
        return False
    scenario, asked = result["scenario"], result["requests"] or {}
    if result["ended"].get("timed out") or (result["kills"] and scenario != "oom"):
        return False
    if scenario == "startup":
        return bool(result["starts"]) and None not in result["starts"] and result["boot"] is not None
    if not asked.get("ok"):
        return False
    return JUDGES[scenario](result, asked)


def judge_health(result: dict[str, Any], asked: dict[str, Any]) -> bool:
    del asked
    paths = result["paths"].values()
    return bool(paths) and all(
        one["asked"] > 0 and one["ok"] == one["asked"] and one["max"] <= result["within"] for one in paths
    )


def judge_load(result: dict[str, Any], asked: dict[str, Any]) -> bool:
    del result
    return not (asked["failed"] or asked["timeouts"] or asked["worker_timeouts"])


def judge_lifecycle(result: dict[str, Any], asked: dict[str, Any]) -> bool:
    if not result["workers"] or not result["steps"]:
        return False
    last = result["steps"][-1]
    lost = result["failed_else"] or asked["failed"] > result["in_hand"] or last.get("burst_failed")
    return not lost and result["recycled"] >= 1 and last["workers"] >= result["workers"]


def judge_oom(result: dict[str, Any], asked: dict[str, Any]) -> bool:
    del asked
    hogs = result["hogs"]
    hit = bool(hogs) and len(result["kills"]) >= len(hogs) and not result["site_lost"]
    back = all(one["back"] is not None for one in hogs)
    return hit and back and bool(result["serves"]) and bool(result["told"])


def judge_deploy(result: dict[str, Any], asked: dict[str, Any]) -> bool:
    bad = any(one["refused"] or one["failed"] for one in result["deploys"])
    return len(result["deploys"]) == 2 and not bad and not asked["failed"]


def judge_sustained(result: dict[str, Any], asked: dict[str, Any]) -> bool:
    del result
    return not asked["timeouts"] and asked["failed"] * 1000 <= asked["sent"]


JUDGES: dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    "health": judge_health, "load": judge_load, "lifecycle": judge_lifecycle, "oom": judge_oom,
    "deploy": judge_deploy, "sustained": judge_sustained,
}  # fmt: skip


def since(one: dict[str, Any], began: float) -> dict[str, Any]:
    return {**one, "at": round(one["at"] - began, 2)}


def relative(value: Any, began: float) -> Any:
    """Times of day to seconds of the run, wherever a scenario's figures hold them."""
    times = ("began", "ended", "asked", "gone")
    if isinstance(value, dict):
        return {
            name: round(one - began, 2) if name in times and isinstance(one, float) else relative(one, began)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [relative(one, began) for one in value]
    return value


def raw(result: dict[str, Any], load: dict[str, Any] | None, journal: str) -> str:
    """The raw log: the generator's failures, the kernel's kills, memory by second, and the host's journal."""
    kept = [json.dumps(one) for one in (load or {"failures": []})["failures"][:2000]]
    samples = result["samples"]
    rows = [
        " ".join(f"{name}={values[index]:g}" for name, values in samples.items())
        for index in range(len(samples["at"]))
    ]
    parts = (
        ("failed requests, as the generator saw them (times: Unix seconds)", kept),
        ("kills by the kernel (at: seconds of the run)", [json.dumps(one) for one in result["kills"]]),
        ("memory in MiB, once a second", rows),
        ("the host's journal", [journal]),
    )
    return "\n".join(f"== {title}\n" + "\n".join(lines) for title, lines in parts)
