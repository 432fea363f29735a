"""The plan and every rule beside the best, one picture a kind: throughput and p99 by cell."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.sizing import rules
from benchmarks.sizing.figures import Result, Seen
from benchmarks.sizing.judge import P99_AT_MOST, THROUGHPUT_AT_LEAST

INK, GRID, PLAN, GONE = "#1f2933", "#d9e0e6", "#c81e3a", "#9aa5b1"
MARKS = "ov^s<>DpPXd"
#: Beyond this the p99 of a rule is drawn at the edge.
P99_EDGE = 100.0


def plot(results: Sequence[Result]) -> str:
    """An SVG element, without XML's head, for the cells of one kind."""
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(10.5, 0.45 * len(results) + 1.9), width_ratios=(3, 2)
    )
    for row, one in enumerate(results):
        draw_cell(left, right, one, row)
    left.axvspan(THROUGHPUT_AT_LEAST, 1.0, color=PLAN, alpha=0.10, linewidth=0)
    right.axvspan(1.0, P99_AT_MOST, color=PLAN, alpha=0.10, linewidth=0)
    left.set_xlim(-0.03, 1.12)
    left.set_xlabel("throughput, share of the best (left edge: never up)", fontsize=8, color=INK)
    right.set_xscale("log")
    right.set_xlim(0.08, P99_EDGE * 1.2)
    right.set_xlabel("p99, times the best's", fontsize=8, color=INK)
    left.set_yticks(range(len(results)), [one.cell.name for one in results])
    left.invert_yaxis()
    for axes in (left, right):
        axes.tick_params(labelsize=8, colors=INK)
        axes.grid(True, color=GRID, linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, names = left.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="upper center", ncols=4, fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.75 / (0.45 * len(results) + 1.9)))
    return as_svg(figure, results[0].cell.kind)


def draw_cell(left: Axes, right: Axes, one: Result, row: int) -> None:
    """One cell's row in both panels; the plan is drawn last, on top."""
    keys = [rule.key for rule in (*rules.RULES, *rules.OTHERS)]
    for key, compared in one.rules.items():
        style: dict[str, Any] = {
            "marker": MARKS[keys.index(key) % len(MARKS)], "s": 22, "facecolors": "none", "edgecolors": INK,
            "linewidths": 0.9, "label": rules.title(key),
        }  # fmt: skip
        draw(left, right, compared.seen, one.best, row, style)
    bold = {"marker": "*", "s": 95, "color": PLAN, "label": "farrier's plan", "zorder": 3}
    draw(left, right, one.plan, one.best, row, bold)


def draw(left: Axes, right: Axes, seen: Seen, best: Seen, row: int, style: dict[str, Any]) -> None:
    if not seen.is_up:
        left.scatter([0.0], [row], **{**style, "edgecolors": GONE})
        return
    if not best.is_up:  # nothing to be compared with
        return
    left.scatter([seen.throughput / best.throughput], [row], **style)
    share = seen.p99 / best.p99 if best.p99 else math.nan
    right.scatter([min(share, P99_EDGE)], [row], **style)


def as_svg(figure: Any, name: str) -> str:
    buffer = io.StringIO()
    # The salt: ids of one plot differ from another's on the page, and the file is the same each time.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :].rstrip()
