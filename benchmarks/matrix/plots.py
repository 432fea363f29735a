"""The plots by tier, and the timeline of a run: SVG that takes the page's own ink, for light and dark."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.matrix.figures import Table
from benchmarks.matrix.tiers import PUBLISHED, TIERS

#: Stands for the page's own colour of text until the SVG is written.
INK = "#010203"
GRID = "#8896a4"
OURS, THEIRS, OLD, LOSS, LATE, BASE = "#2f8f5b", "#d9822b", "#8896a4", "#d1324b", "#8a4fbf", "#4c8fc4"
SERIES = (
    ("farrier", "heavy", OURS, "-", "o", "farrier, 150 MB app"),
    ("farrier", "postgres", OURS, "--", "s", "farrier, with PostgreSQL"),
    ("gunicorn", "heavy", THEIRS, "-", "o", "gunicorn -w 2*CPU+1"),
    ("gunicorn", "postgres", THEIRS, "--", "s", "gunicorn, with PostgreSQL"),
)
Value = Callable[[dict[str, Any]], float | None]
#: Points that a line of a timeline has at most.
POINTS = 400


def as_svg(figure: Any, name: str) -> str:
    """An SVG element without XML's head, the same each time."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :].rstrip().replace(INK, "currentColor")


def dress(axes: Axes, title: str = "") -> None:
    """Ink, grid and frame as the page has them."""
    axes.tick_params(labelsize=8, colors=INK, which="both")
    axes.grid(True, axis="y", color=GRID, linewidth=0.5, alpha=0.4)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)
    if title:
        axes.set_title(title, fontsize=9, color=INK, loc="left")


def by_tier(table: Table) -> dict[str, str]:
    """Four plots: timeouts, start, answers, memory."""
    rows: tuple[tuple[str, str, str, Value, str, bool], ...] = (
        ("timeouts", "load", "timed out or failed at the promised load, %", failed, "default", False),
        ("startup", "startup", "start to first answer, s", lambda one: one["median"], "startup", True),
        ("latency", "load", "answers at the promised load, p99 in s", p99, "answers", True),
        ("memory", "load", "memory in use at most, % of the tier", memory, "", False),
    )
    return {name: line_plot(table, name, *row) for name, *row in rows}


def failed(result: dict[str, Any]) -> float | None:
    """Percent of the requests: those that were refused have not timed out, and nobody had an answer."""
    asked = result["requests"]
    return 100 * float(asked["failed_share"]) if asked and asked["sent"] else None


def p99(result: dict[str, Any]) -> float | None:
    asked = result["requests"]
    return (asked["p99"] or None) if asked else None


def memory(result: dict[str, Any]) -> float | None:
    """What could not be given back, at its highest, in percent of the limit."""
    most = max(result["samples"]["firm"], default=0.0)
    return 100 * most / (result["memory"] / 2**20) if most else None


def line_plot(
    table: Table, name: str, scenario: str, title: str, value: Value, published: str, log: bool
) -> str:
    figure, axes = plt.subplots(figsize=(5.4, 2.9))
    at = range(len(TIERS))
    for who, app, colour, style, marker, label in SERIES:
        values = [of(table.get(tier, app, who, scenario), value) for tier in TIERS]
        if not all(math.isnan(one) for one in values):
            axes.plot(
                at, values, style, color=colour, marker=marker, markersize=4, linewidth=1.4, label=label
            )
    if published:
        old = [middle(PUBLISHED[tier.name][published]) for tier in TIERS]
        axes.plot(
            at, old, ":", color=OLD, marker="x", markersize=5, linewidth=1.2, label="published elsewhere"
        )
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(list(at), [tier.label for tier in TIERS])
    dress(axes, title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    figure.tight_layout()
    return as_svg(figure, name)


def of(result: dict[str, Any] | None, value: Value) -> float:
    found = value(result) if result is not None else None
    return math.nan if found is None else found


def middle(value: Any) -> float:
    """Of a published span the middle, on a scale of ratios."""
    if value is None:
        return math.nan
    return math.sqrt(value[0] * value[1]) if isinstance(value, tuple) else float(value)


# --- one run's timeline ---------------------------------------------------------------------------------


def timeline(result: dict[str, Any]) -> str:
    """Memory against the limit, kills, timeouts and failed requests on one time axis."""
    asked = bool(result["seconds"]["at"])
    figure, panels = plt.subplots(
        2 if asked else 1, 1, figsize=(7.4, 3.3 if asked else 2.4), sharex=True, squeeze=False,
        gridspec_kw={"height_ratios": (3, 1.3), "hspace": 0.38} if asked else {},
    )  # fmt: skip
    top, last = panels[0][0], panels[-1][0]
    draw_memory(top, result)
    if asked:
        draw_requests(last, result)
    end = max([1.0, *result["samples"]["at"], *result["seconds"]["at"]])
    top.set_xlim(0, end)
    last.set_xlabel("seconds of the run", fontsize=8, color=INK)
    figure.subplots_adjust(left=0.09, right=0.985, top=0.92, bottom=0.14 if asked else 0.19)
    return as_svg(figure, result["run"])


def thin(values: Sequence[float]) -> list[float]:
    step = max(1, math.ceil(len(values) / POINTS))
    return list(values[::step])


def draw_memory(axes: Axes, result: dict[str, Any]) -> None:
    samples, limit = result["samples"], result["memory"] / 2**20
    at, firm, base = (thin(samples[name]) for name in ("at", "firm", "database"))
    axes.fill_between(at, firm, color=BASE, alpha=0.35, linewidth=0, label="in use")
    if any(base):
        axes.plot(at, base, color=OURS, linewidth=1, label="PostgreSQL, resident")
    axes.axhline(limit, color=LOSS, linewidth=1.2, label=f"limit, {limit:.0f} MiB")
    own = (result["server"].get("memory_max") or 0) / 2**20
    if 0 < own < limit:
        axes.axhline(own, color=LOSS, linewidth=0.9, linestyle="--", label=f"the app's own, {own:.0f} MiB")
    kills = [one["at"] for one in result["kills"]]
    axes.plot(kills, [limit * 1.05] * len(kills), "v", color=LOSS, markersize=5, label="killed by the kernel")
    late = [one["at"] for one in result["endings"] if one["why"] == "timed out"]
    axes.plot(late, [limit * 1.12] * len(late), "x", color=LATE, markersize=5, label="worker timed out")
    for mark in result["marks"][:12]:
        axes.axvline(mark["at"], color=GRID, linewidth=0.7, linestyle=":")
        axes.annotate(
            mark["text"],
            (mark["at"], limit * 0.04),
            fontsize=6,
            color=INK,
            rotation=90,
            va="bottom",
            ha="right",
        )
    axes.set_ylim(0, limit * 1.2)
    dress(axes, "memory, MiB")
    handles = [one for one in zip(*axes.get_legend_handles_labels(), strict=True) if has_points(one[0])]
    axes.legend(
        [one for one, _ in handles], [label for _, label in handles], fontsize=6.5, frameon=False,
        labelcolor=INK, ncols=5, loc="lower right", bbox_to_anchor=(1, 0.98),
    )  # fmt: skip


def has_points(artist: Any) -> bool:
    """Whether there is something of it to see."""
    return not hasattr(artist, "get_xdata") or len(artist.get_xdata()) > 0


def draw_requests(axes: Axes, result: dict[str, Any]) -> None:
    rows = result["seconds"]
    at, good, bad = rows["at"], rows["ok"], rows["failed"]
    axes.bar(at, good, color=OURS, alpha=0.5, width=1.0, align="edge", label="answered")
    axes.bar(at, bad, bottom=good, color=LOSS, width=1.0, align="edge", label="failed")
    both = [answered + failed for answered, failed in zip(good, bad, strict=True)]
    late = rows["unanswered"]
    axes.bar(at, late, bottom=both, color=LATE, width=1.0, align="edge", label="no answer in 30 s")
    axes.legend(
        fontsize=6.5, frameon=False, labelcolor=INK, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.97)
    )
    dress(axes, "requests a second")
