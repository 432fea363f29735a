"""From what a run left (records, samples, kills, journal) to its result: one JSON object."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
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


def told(
    run: Run,
    target: Target,
    watch: Watch,
    marks: Sequence[dict[str, Any]],
    load: dict[str, Any] | None,
    said: Sequence[dict[str, Any]],
    found: dict[str, Any],
) -> dict[str, Any]:
    """The result of one run. Bytes and seconds; `at` counts from `began` (Unix seconds)."""
    began = watch.began
    every, ended = watch.kills(), endings(said)
    kills = [one for one in every if not in_trial(one)]
    asked = requests(load, ended)
    plan = target.went.get("plan") or {}
    samples = watch.samples
    return {
        "run": run.name, "tier": run.tier.name, "app": run.app, "who": run.who, "scenario": run.scenario,
        "memory": run.tier.memory_mib << 20, "cpus": run.tier.cpus, "users": run.tier.users,
        "began": began,
        "server": {name: plan.get(name) for name in PLAN if name in plan}
        if run.ours
        else {"workers": target.workers_today, "threads": 1, "worker_class": "sync", "timeout": 30},
        "measured": measurement(target),
        "refused": target.went.get("msg", "") if target.went.get("failed") else "",
        "requests": asked,
        "seconds": seconds(load, began),
        "samples": {
            key: [one[key] if key == "processes" else round(one[key] / 2**20, 1) for one in samples]
            for key in ("used", "firm", "app", "processes", "largest", "database")
        }
        | {"at": [round(one["at"] - began, 1) for one in samples]},
        "kills": [since(one, began) for one in kills],
        "trial_kills": [since(one, began) for one in every if in_trial(one)],
        "kills_counted": watch.counted(),
        "endings": [since(one, began) for one in ended[:400]],
        "ended": dict(Counter(one["why"] for one in ended)),
        "marks": [since(one, began) for one in marks],
        **relative(found, began),
        "holds": verdict(run.scenario, found, asked, kills, ended),
    }  # fmt: skip


def in_trial(kill: dict[str, Any]) -> bool:
    """Whether a deploy's own trial reached the limit that it had been given: no harm to what serves."""
    return str(kill["unit"]).startswith("farrier-trial-")


def measurement(target: Target) -> dict[str, Any] | None:
    """What `farrier measure` said in the deploy, where it did; without lists."""
    plan = target.went.get("plan") or {}
    workload = (plan.get("inputs") or {}).get("workload") if isinstance(plan, dict) else None
    return workload if isinstance(workload, dict) else None


def verdict(
    scenario: str,
    found: dict[str, Any],
    asked: dict[str, Any] | None,
    kills: Sequence[dict[str, Any]],
    ended: Sequence[dict[str, Any]],
) -> bool:
    """Whether a run is as it should be. Where a scenario judged by itself, no kill may be beside it.

    load: no timeout and no other failed request. oom: the site answers again, and a kill was told.
    sustained: no kill, no timeout.
    """
    timed_out = sum(1 for one in ended if one["why"] == "timed out")
    if scenario == "load":
        return bool(asked and asked["sent"]) and not (asked["failed"] or timed_out or kills)
    if scenario == "oom":
        back = all(one["back"] is not None for one in found["hogs"])
        told_of = bool(found["told"]) or not kills
        return bool(found["serves"]) and back and not found["site_lost"] and told_of
    if scenario == "sustained":
        return bool(asked and asked["sent"]) and not (kills or timed_out or asked["timeouts"])
    return bool(found["holds"]) and not kills and not timed_out


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
