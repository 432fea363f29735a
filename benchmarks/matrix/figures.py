"""The figures that were asked for, from the runs' results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.matrix.tiers import APP_LABELS, PUBLISHED, SCENARIOS, TIERS, Tier
from benchmarks.summary import figure

COMMAND = "make bench-matrix"
QUICK_COMMAND = "QUICK=1 make bench-matrix"
Result = dict[str, Any]
RUNS = 49
STARTUP_RATIO = 3.0


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
    """All of them; those whose runs are not there are left out."""
    table, command = Table(results), QUICK_COMMAND if quick else COMMAND
    found: list[dict[str, Any]] = []
    if not quick:
        ours = sum(1 for one in results if one["who"] == "farrier")
        found.append(
            figure(
                "RAM matrix: runs of farrier", ours, "runs", command, bound=f">= {RUNS}", holds=ours >= RUNS
            )
        )
    for app in ("heavy", "postgres", "light"):
        found += loads(table, app, command)
    found += starts(table, command)
    found += sustained(table, command)
    found += others(table, command)
    return found


def loads(table: Table, app: str, command: str) -> list[dict[str, Any]]:
    """Timeouts and answers at the promised load, by tier; Gunicorn's beside them without a bound."""
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
                bound, holds = "0 %", share == 0 and not asked["worker_timeouts"]
            found.append(figure(f"timeouts: {name}", share, "%", command, bound=bound, holds=holds))
            failed = round(100 * asked["failed_share"], 2)
            if failed:
                found.append(figure(f"failed requests: {name}", failed, "%", command))
            published = PUBLISHED[tier.name]["answers"]
            if who == "farrier" and app == "postgres" and asked["ok"] and isinstance(published, tuple):
                found.append(
                    figure(
                        f"answers, p99: {name}", asked["p99"], "s", command,
                        interval=(asked["p50"], asked["max"]),
                        bound=f"< {published[0]:g} s (published {published[0]:g} to {published[1]:g})",
                        holds=asked["p99"] < published[0],
                    )
                )  # fmt: skip
    return found


def starts(table: Table, command: str) -> list[dict[str, Any]]:
    """Seconds to the first answer, the median; and how much slower the smallest is than 2 GB."""
    found, medians = [], {}
    for tier in TIERS:
        for app in ("heavy", "postgres"):
            result = table.get(tier, app, "farrier", "startup")
            if result is None or result["median"] is None:
                continue
            known = [one for one in result["starts"] if one is not None]
            published = PUBLISHED[tier.name]["startup"]
            bound, holds = None, None
            if isinstance(published, tuple):
                bound = f"< {published[0]:g} s (published {published[0]:g} to {published[1]:g})"
                holds = result["median"] < published[0]
            name = f"start to first answer: {tier.label}, {APP_LABELS[app]}, farrier"
            found.append(
                figure(
                    name,
                    result["median"],
                    "s",
                    command,
                    interval=(min(known), max(known)),
                    bound=bound,
                    holds=holds,
                )
            )
            medians[tier.name, app] = result["median"]
    for app in ("heavy", "postgres"):
        if ("256", app) in medians and ("2048", app) in medians:
            ratio = round(medians["256", app] / medians["2048", app], 2)
            name = f"start at 256 MB / at 2 GB, {APP_LABELS[app]}"
            found.append(
                figure(
                    name, ratio, "times", command, bound=f"<= {STARTUP_RATIO:g}", holds=ratio <= STARTUP_RATIO
                )
            )
    return found


def sustained(table: Table, command: str) -> list[dict[str, Any]]:
    """OOM kills with an app that leaks 1 MB per 100 requests."""
    found = []
    for tier in TIERS:
        for who in ("farrier", "gunicorn"):
            result = table.get(tier, "heavy", who, "sustained")
            if result is None:
                continue
            count = len(result["kills"])
            name = f"OOM kills in {result['seconds'] / 60:.0f} min with a leak: {tier.label}, {who}"
            ours = who == "farrier"
            found.append(
                figure(
                    name,
                    count,
                    "kills",
                    command,
                    bound="0" if ours else None,
                    holds=count == 0 if ours else None,
                )
            )
    return found


def others(table: Table, command: str) -> list[dict[str, Any]]:
    """Health, life cycle, out of memory, deploys: the tiers in which they are as they should be."""
    found = []
    for scenario in ("health", "lifecycle", "oom", "deploy"):
        done = [one for tier in TIERS if (one := table.get(tier, "heavy", "farrier", scenario))]
        if done:
            good = sum(1 for one in done if one["holds"])
            name = f"tiers in which {scenario} is as it should be"
            found.append(figure(name, good, f"of {len(done)}", command, bound="all", holds=good == len(done)))
    for scenario in ("lifecycle", "deploy"):
        done = [one for tier in TIERS if (one := table.get(tier, "heavy", "farrier", scenario))]
        if done:
            lost = sum(one["requests"]["failed"] for one in done)
            sent = sum(one["requests"]["sent"] for one in done)
            found.append(figure(f"failed requests in {scenario}, all tiers", lost, f"of {sent:,}", command))
    return found
