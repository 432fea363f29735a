"""The figures that were asked for, from the runs' results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.matrix.tiers import APP_LABELS, PUBLISHED, SCENARIOS, TIERS, Tier, every
from benchmarks.summary import figure

COMMAND = "make bench-matrix"
QUICK_COMMAND = "QUICK=1 make bench-matrix"
Result = dict[str, Any]
RUNS = 49
STARTUP_RATIO = 3.0
#: The value of a figure that has none.
NONE: Any = "not measured"


class Table:
    """The results by what they are of."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.by = {(one["tier"], one["app"], one["who"], one["scenario"]): one for one in results}

    def get(self, tier: Tier, app: str, who: str, scenario: str) -> Result | None:
        return self.by.get((tier.name, app, who, scenario))

    def of(self, tier: Tier, app: str, who: str) -> list[Result]:
        """A tier's runs of one app, in the scenarios' order."""
        return [one for name in SCENARIOS if (one := self.get(tier, app, who, name))]


def timeouts(result: Result | None) -> float | None:
    """Percent of the requests; a worker that was killed for its timeout without a request counts as none."""
    if result is None or not result["requests"] or not result["requests"]["sent"]:
        return None
    return round(100 * float(result["requests"]["timeout_share"]), 2)


def figures(results: Sequence[Result], quick: bool) -> list[dict[str, Any]]:
    """All of them, with the machines, the last date and the versions that the runs recorded.

    A run that is not there or broke is in a figure "not measured", which falls short (quick: only those that
    broke: few are asked for).
    """
    table, command = Table(results), QUICK_COMMAND if quick else COMMAND
    found: list[dict[str, Any]] = []
    if not quick:
        ours = sum(1 for one in results if one["who"] == "farrier" and not one.get("broken"))
        found.append(
            figure(
                "RAM matrix: runs of farrier", ours, "runs", command, bound=f">= {RUNS}", holds=ours >= RUNS
            )
        )
    found += unmeasured(table, command, quick)
    for app in ("heavy", "postgres", "light"):
        found += loads(table, app, command)
    found += starts(table, command, quick)
    found += sustained(table, command)
    found += others(table, command, quick)
    return [one | recorded(results) for one in found]


def recorded(results: Sequence[Result]) -> dict[str, str]:
    """Where, until when and with what the runs were made; not where and when the page is written."""
    return {
        "machine": "; ".join(sorted({one.get("machine", "not recorded") for one in results})),
        "date": max((one["date"] for one in results), default=""),
        "version": ", ".join(sorted({one["version"] for one in results})),
    }


def unmeasured(table: Table, command: str, quick: bool) -> list[dict[str, Any]]:
    """By tier, app and side: the scenarios that were asked for and have no measurement."""
    lacking: dict[str, list[str]] = {}
    for run in every():
        result = table.get(run.tier, run.app, run.who, run.scenario)
        if bool(result.get("broken")) if result else not quick:
            name = f"{run.tier.label}, {APP_LABELS[run.app]}, {run.who}"
            lacking.setdefault(name, []).append(run.scenario)
    return [
        figure(
            f"not measured: {name} ({', '.join(names)})", len(names), "runs", command, bound="0", holds=False
        )
        for name, names in lacking.items()
    ]


def loads(table: Table, app: str, command: str) -> list[dict[str, Any]]:
    """Timeouts and answers at the promised load, by tier; Gunicorn's beside them without a bound.

    Requests that were refused never time out: where others failed, 0 % of timeouts is not what was asked for.
    """
    found = []
    for tier in TIERS:
        for who in ("farrier", "gunicorn"):
            result = table.get(tier, app, who, "load")
            share = timeouts(result)
            if result is None or share is None:
                continue
            asked = result["requests"]
            name = f"{tier.label}, {APP_LABELS[app]}, {tier.users} users, {who}"
            bound, holds = None, None
            if who == "farrier" and (app == "heavy" or (app == "postgres" and tier.memory_mib >= 512)):
                bound = "0 %, and no other failed"
                holds = bool(asked["ok"]) and not (
                    asked["timeouts"] or asked["failed"] or asked["worker_timeouts"]
                )
            found.append(figure(f"timeouts: {name}", share, "%", command, bound=bound, holds=holds))
            failed = round(100 * asked["failed_share"], 2)
            if asked["failed"]:
                found.append(figure(f"failed requests: {name}", failed, "%", command))
            if who == "farrier" and app == "postgres":
                found += answers(tier, name, asked, command)
    return found


def answers(tier: Tier, name: str, asked: dict[str, Any], command: str) -> list[dict[str, Any]]:
    """The slowest hundredth beside what was published; no answers at all fall short."""
    published = PUBLISHED[tier.name]["answers"]
    if not isinstance(published, tuple):
        return []
    bound = f"< {published[0]:g} s (published {published[0]:g} to {published[1]:g})"
    good = bool(asked["ok"])
    return [
        figure(
            f"answers, p99: {name}", asked["p99"] if good else "none", "s" if good else "", command,
            interval=(asked["p50"], asked["max"]) if good else None, bound=bound,
            holds=good and asked["p99"] < published[0],
        )
    ]  # fmt: skip


def starts(table: Table, command: str, quick: bool) -> list[dict[str, Any]]:
    """Seconds to the first answer, the median; and how much slower the smallest is than 2 GB."""
    found, medians = [], {}
    for tier in TIERS:
        for app in ("heavy", "postgres"):
            result = table.get(tier, app, "farrier", "startup")
            if result is None or result.get("broken"):
                continue
            known = [one for one in result["starts"] if one is not None]
            every_time = bool(known) and len(known) == len(result["starts"])
            published = PUBLISHED[tier.name]["startup"]
            bound, holds = "it comes up", every_time
            if isinstance(published, tuple):
                bound = f"< {published[0]:g} s (published {published[0]:g} to {published[1]:g})"
                holds = every_time and result["median"] < published[0]
            found.append(
                figure(
                    f"start to first answer: {tier.label}, {APP_LABELS[app]}, farrier",
                    result["median"] if every_time else ("not each time" if known else "never"),
                    "s" if every_time else "", command,
                    interval=(min(known), max(known)) if known else None, bound=bound, holds=holds,
                )
            )  # fmt: skip
            if every_time:
                medians[tier.name, app] = result["median"]
    for app in ("heavy", "postgres"):
        ratio: Any = NONE
        if ("256", app) in medians and ("2048", app) in medians:
            ratio = round(medians["256", app] / medians["2048", app], 2)
        elif quick:
            continue
        name = f"start at 256 MB / at 2 GB, {APP_LABELS[app]}"
        holds = ratio != NONE and ratio <= STARTUP_RATIO
        found.append(
            figure(
                name,
                ratio,
                "" if ratio == NONE else "times",
                command,
                bound=f"<= {STARTUP_RATIO:g}",
                holds=holds,
            )
        )
    return found


def sustained(table: Table, command: str) -> list[dict[str, Any]]:
    """OOM kills with an app that leaks 1 MB per 100 requests; of ours nothing else may go wrong either."""
    found = []
    for tier in TIERS:
        for who in ("farrier", "gunicorn"):
            result = table.get(tier, "heavy", who, "sustained")
            if result is None or result.get("broken"):
                continue
            name = f"OOM kills in {result['lasted'] / 60:.2g} min with a leak: {tier.label}, {who}"
            ours = who == "farrier"
            found.append(
                figure(
                    name, len(result["kills"]), "kills", command,
                    bound="0, and the site answers" if ours else None,
                    holds=bool(result["holds"]) if ours else None,
                )
            )  # fmt: skip
    return found


def others(table: Table, command: str, quick: bool) -> list[dict[str, Any]]:
    """Health, life cycle, out of memory, deploys: the tiers in which they are as they should be."""
    found = []
    for scenario in ("health", "lifecycle", "oom", "deploy"):
        done = [one for tier in TIERS if (one := table.get(tier, "heavy", "farrier", scenario))]
        asked = len(done) if quick else len(TIERS)
        if asked:
            good = sum(1 for one in done if one["holds"])
            name = f"tiers in which {scenario} is as it should be"
            found.append(figure(name, good, f"of {asked}", command, bound="all", holds=good == asked))
    for scenario in ("lifecycle", "deploy"):
        done = [one for tier in TIERS if (one := table.get(tier, "heavy", "farrier", scenario))]
        told = [one["requests"] for one in done if one["requests"]]
        if told:
            lost, sent = (sum(one[name] for one in told) for name in ("failed", "sent"))
            found.append(figure(f"failed requests in {scenario}, all tiers", lost, f"of {sent:,}", command))
    return found
