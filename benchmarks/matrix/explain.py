"""What failed first in a run, why, and what to change: rules over the run's own data, no text by hand.

`explain` looks for the earliest of: a deploy that was refused, a kill by the kernel, a worker that was killed
for its timeout or did not boot, a request that failed or had no answer; with that moment's figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]
#: The order in which a site meets them; "oom" provokes a kill, so it explains a tier only by itself.
ORDER = ("startup", "load", "health", "lifecycle", "deploy", "sustained", "oom")
MIB = 1 << 20
#: What systemd, sshd and the journal take of a host, MiB: seen on hosts whose app was not there.
SYSTEM = 30.0


@dataclass(frozen=True)
class Cause:
    """One failure in words."""

    at: float
    """Seconds of the run."""
    kind: str
    """refused, oom, timeout, boot, unanswered, broken, slow, short, unmeasured or nothing."""
    what: str
    why: str
    change: str


def first_failed(results: Sequence[Result]) -> Result | None:
    """Of one tier's runs of one app, the one that a site would meet first; None where all hold.

    One that was not measured only where no other failed.
    """
    bad = [one for one in results if not one["holds"]]
    order = [name for name in ORDER if name != "oom"] + ["oom"]
    return min(bad, key=lambda one: (bool(one.get("broken")), order.index(one["scenario"])), default=None)


def moment(result: Result, at: float) -> dict[str, float]:
    """The last sample that was taken before: memory in MiB, processes."""
    samples = result["samples"]
    before = [index for index, one in enumerate(samples["at"]) if one <= at]
    if not samples["at"]:
        return {}
    index = before[-1] if before else 0
    return {name: values[index] for name, values in samples.items()}


def system(result: Result) -> float:
    """MiB that the host takes without the app, from samples in which no process of it was there."""
    samples = result["samples"]
    idle = [
        firm - base
        for firm, count, base in zip(samples["firm"], samples["processes"], samples["database"], strict=True)
        if count == 0
    ]
    return max(min(idle), 5.0) if idle else SYSTEM


def largest(result: Result) -> float:
    """MiB of the largest process of the app that was seen."""
    return float(max(result["samples"]["largest"], default=0.0))


def explain(result: Result) -> Cause:
    """The first thing that went wrong in a run, or that nothing did."""
    found = [*refused(result), *kills(result), *endings(result), *requests(result), *judged(result)]
    if line := result.get("broken"):
        # Kills that were seen until it broke off say more than the error that they led to.
        late = f"It was not measured to its end: {line}."
        found = [*kills(result), Cause(1e9, "unmeasured", late, "", "Measure it again: --only names it.")]
    if result["holds"] and result["scenario"] != "oom":
        return Cause(0.0, "nothing", "Nothing failed.", "", "")
    # Its verdict says that it falls short: then there is a reason, if none that these rules know.
    other = Cause(0.0, "short", "It is not as it should be.", "", "Look at the raw log of the run.")
    if result["holds"]:
        other = Cause(0.0, "nothing", "Nothing failed.", "", "")
    return min(found, key=lambda one: one.at, default=other)


# --- the rules ------------------------------------------------------------------------------------------


def refused(result: Result) -> list[Cause]:
    texts = [result["refused"]] if result["refused"] else []
    texts += [one["refused"] for one in result.get("deploys", []) if one["refused"]]
    if not texts:
        return []
    return [Cause(0.0, "refused", "The deploy was refused.", texts[0], recommended(result))]


def kills(result: Result) -> list[Cause]:
    if not result["kills"]:
        return []
    first, count = result["kills"][0], len(result["kills"])
    at, then = first["at"], moment(result, first["at"])
    size = first["rss"] / MIB
    again = f" It did so {count} times in this run." if count > 1 else ""
    what = (
        f"After {at:.0f} s the kernel killed pid {first['pid']} ({first['task']}, {size:.0f} MiB) "
        f"of {first['unit']}.{again}"
    )
    limit = first["limit"] or "the host's memory"
    where = f"The limit of {limit}"
    if limit == "the host's memory":
        where = f"The host's {result['memory'] // MIB} MiB"
    count = int(then.get("processes", 0))
    why = (
        f"{where} was reached: just before, {count} processes of the app had {then.get('app', 0):.0f} MiB "
        f"resident (the largest {then.get('largest', 0):.0f}; shared pages count in each), the "
        f"database {then.get('database', 0):.0f} MiB; {then.get('firm', 0):.0f} MiB of the host could not be "
        "given back."
    )
    if result["scenario"] == "oom":
        why = f"A request took {result['memory'] // MIB} MiB at once, as the scenario wants it. " + why
    return [Cause(at, "oom", what, why, change_for_memory(result))]


def change_for_memory(result: Result) -> str:
    """What would have kept the processes within the limit, by what they were seen to take."""
    server, memory = result["server"], result["memory"] / MIB
    each = largest(result)
    base = system(result) + max(result["samples"]["database"], default=0.0)
    fits = int((memory - base) // each) if each else 0
    if result["scenario"] == "oom":
        return (
            "Give the app a limit of its own (MemoryMax), so that nothing else of the host is killed for it."
        )
    if result["who"] == "gunicorn":
        count = server["workers"]
        text = (
            f"gunicorn -w {count} takes {count} x {each:.0f} MiB of {memory:.0f}, beside {base:.0f} MiB for "
            f"the rest of the host: {count * each + base:.0f} MiB. "
        )
        if fits >= 1:
            return text + f"Without preload {fits} at most fit{'s' if fits == 1 else ''}: -w {fits}."
        return text + f"Not one fits: it takes {each + base:.0f} MiB at least."
    expected = (server.get("memory_peak") or 0) / MIB
    text = f"The plan reckoned with {expected:.0f} MiB at its peak. "
    if server.get("preload_app") and server.get("workers") == 1:
        return (
            text + "With one worker preload keeps a second heap once requests unshare it: preload_app: false."
        )
    if server.get("preload_app"):
        return text + "Requests unshared more of the heap than that: preload_app: false, or fewer workers."
    return text + recommended(result)


def recommended(result: Result) -> str:
    verdict = result["server"].get("verdict") or {}
    size = verdict.get("recommended_memory_bytes")
    return f"The plan recommends {size // MIB} MiB for this app." if size else "Give the host more memory."


def endings(result: Result) -> list[Cause]:
    found = []
    for one in result["endings"]:
        if one["why"] == "timed out":
            timeout = result["server"].get("timeout", 30)
            why = f"A worker gave no sign of life for {timeout} s: {one['text']}."
            change = "Threads answer while one request waits: -k gthread --threads 4."
            if result["kills"]:
                change = "It had no memory to go on with. " + change_for_memory(result)
            found.append(
                Cause(
                    one["at"],
                    "timeout",
                    f"After {one['at']:.0f} s a worker was killed for its timeout.",
                    why,
                    change,
                )
            )
        elif one["why"] == "failed to boot":
            found.append(
                Cause(one["at"], "boot", "A worker did not boot.", one["text"], change_for_memory(result))
            )
    return found[:2]


def requests(result: Result) -> list[Cause]:
    asked, rows = result["requests"], result["seconds"]
    if not asked or not asked["failed"]:
        return []
    lost = [
        at
        for at, failed, late in zip(rows["at"], rows["failed"], rows["unanswered"], strict=True)
        if failed or late
    ]
    at = float(lost[0]) if lost else 0.0
    if asked["unanswered"] == asked["failed"]:
        # It counts from its sending, 30 s before it was given up.
        at = max(0.0, at - 30.0)
        what = f"{asked['unanswered']} of {asked['sent']} requests had no answer in 30 s."
    else:
        kinds = ", ".join(
            f"{asked[name]} {name}"
            for name in ("refused", "reset", "closed", "status", "unanswered")
            if asked[name]
        )
        what = f"{asked['failed']} of {asked['sent']} requests failed ({kinds}), the first after {at:.0f} s."
    then = moment(result, at)
    if not then.get("processes"):
        why = "No process of the app was there to answer."
    else:
        why = f"{then['processes']:.0f} processes of the app were there, with {then['app']:.0f} MiB."
    marks = [one for one in result["marks"] if one["at"] <= at + 0.5]
    if marks:
        why += f" What was done before: {marks[-1]['text']}."
    change = change_for_memory(result) if result["kills"] else "Look at the raw log of the run."
    kind = "unanswered" if asked["unanswered"] == asked["failed"] else "broken"
    return [Cause(at, kind, what, why, change)]


def judged(result: Result) -> list[Cause]:
    """What a scenario found that is neither a kill nor a failed request; it comes after all others."""
    late, scenario = 1e9, result["scenario"]
    if scenario == "startup" and result["never"]:
        return [
            Cause(
                late,
                "boot",
                "It did not come up.",
                "No start led to an answer in time.",
                change_for_memory(result),
            )
        ]
    if scenario == "health":
        bad = {
            path: one for path, one in result["paths"].items()
            if one["ok"] < one["asked"] or one["max"] > result["within"] or not one["asked"]
        }  # fmt: skip
        asked = f"Asked for is an answer within {result['within']:.0f} s each time."
        text = "{}: {} of {} answered, the slowest in {:.1f} s."
        return [
            Cause(late, "slow", text.format(path, one["ok"], one["asked"], one["max"]), asked, "")
            for path, one in bad.items()
        ]
    if scenario == "lifecycle":
        bad_steps = [one for one in result["steps"] if one["workers"] < result["workers"]]
        if bad_steps:
            one = bad_steps[0]
            text = f"After {one['step']} there were {one['workers']} of {result['workers']} workers."
            return [Cause(late, "short", text, "", "")]
        last = result["steps"][-1] if result["steps"] else {}
        if lost := last.get("burst_failed"):
            text = f"{lost} of the {last['burst']} requests that made workers recycle failed."
            return [Cause(late, "short", text, "", "")]
        if last and not result["recycled"]:
            text = f"No worker was recycled within {last['burst']} requests."
            return [Cause(late, "short", text, "The scenario did not happen as it should.", "")]
    if scenario == "oom" and not result["holds"]:
        if not result["serves"]:
            return [Cause(late, "short", "The site did not come back.", "", change_for_memory(result))]
        if len(result["kills"]) < len(result["hogs"]):
            text = (
                f"{len(result['kills'])} kills were seen for {len(result['hogs'])} requests for all memory."
            )
            return [Cause(late, "short", text, "The scenario did not happen as it should.", "")]
        if not result["told"]:
            return [Cause(late, "short", "The kill was told nowhere in the server's own log.", "", "")]
    return []


# --- the plan -------------------------------------------------------------------------------------------


def plan_line(result: Result) -> str:
    """What serves, in a line."""
    server = result["server"]
    if result["who"] == "gunicorn":
        return f"gunicorn -w {server['workers']} (sync, timeout {server['timeout']} s): its documented rule"
    if not server:
        return "no plan: the deploy was refused"
    counts = [counted(server.get(name) or 0, name[:-1]) for name in ("workers", "threads")]
    words = [f"{' x '.join(counts)} ({server.get('worker_class')})"]
    words.append("preload with a frozen heap" if server.get("preload_app") else "no preload")
    words.append(f"deploys by {server.get('strategy')}")
    words.append(
        f"recycled after {server.get('max_requests')} requests"
        if server.get("max_requests")
        else "no recycling"
    )
    if server.get("db_pool_size"):
        words.append(f"pool {server['db_pool_size']} + {server.get('db_max_overflow') or 0}")
    if server.get("memory_peak"):
        words.append(f"{server['memory_peak'] // MIB} MiB at its peak")
    return ", ".join(words)


def counted(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")


def verdict_line(result: Result) -> str:
    verdict = result["server"].get("verdict") or {}
    return f"{verdict['level']}, for {verdict['users']} users: {verdict['why']}" if verdict else ""
