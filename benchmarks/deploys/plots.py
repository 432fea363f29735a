"""Latency over time, one plot a cell, with the deploys marked."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

INK, GRID, LOSS = "#1f2933", "#d9e0e6", "#c81e3a"
LINES = (("max", "#e0a458", "slowest"), ("p99", "#2f6f9f", "p99"), ("p50", "#7fb069", "median"))
DEPLOY = "#2f6f9f"
#: Colours' own times inside a deploy, and how each is drawn.
MOMENTS = (("ready_at", "ready", ":"), ("stopping_at", "old stops", "--"))


def plot(cell: dict[str, Any], floor: float, ceiling: float) -> str:
    """An SVG element, without XML's head, on the same scale for all cells."""
    figure, axes = plt.subplots(figsize=(6.3, 2.1))
    draw_latency(axes, cell["trace"])
    draw_deploys(axes, cell)
    draw_failures(axes, cell["trace"], ceiling)
    axes.set_yscale("log")
    axes.set_ylim(floor, ceiling)
    axes.set_xlim(0, max(cell["trace"]["at"], default=1))
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(True, axis="y", color=GRID, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    return as_svg(figure, cell["cell"]["name"])


def as_svg(figure: Any, name: str) -> str:
    buffer = io.StringIO()
    # The salt: ids of one plot differ from another's on the page, and the file is the same each time.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :].rstrip()


def draw_latency(axes: Axes, trace: dict[str, Sequence[float]]) -> None:
    for key, colour, _ in LINES:
        axes.plot(trace["at"], [value or math.nan for value in trace[key]], color=colour, linewidth=1.0)


def draw_deploys(axes: Axes, cell: dict[str, Any]) -> None:
    """The span from the command to its end; inside it when the new one was ready, the old one stopped."""
    for deploy in cell["deploys"]:
        began, ended = deploy["asked"] - cell["began"], deploy["ended"] - cell["began"]
        axes.axvspan(began, max(ended, began + 0.15), color=DEPLOY, alpha=0.13, linewidth=0)
        for key, _, style in MOMENTS:
            if key in deploy["colours"]:
                at = deploy["colours"][key] - cell["began"]
                axes.axvline(at, color=INK, linestyle=style, linewidth=0.8)


def draw_failures(axes: Axes, trace: dict[str, Sequence[float]], ceiling: float) -> None:
    """Failed requests stand at the top, where nothing else is."""
    found = [at for at, count in zip(trace["at"], trace["failed"], strict=True) if count]
    top = [ceiling * 0.72] * len(found)
    axes.plot(found, top, linestyle="none", marker="x", color=LOSS, markersize=5)


def legend() -> str:
    """What the lines of every plot are, as HTML."""
    words = [f"<b style='color:{colour}'>&#9644;</b> {label}" for _, colour, label in LINES]
    words.append(f"<b style='color:{DEPLOY};opacity:.35'>&#9608;</b> from a deploy's command to its end")
    words += ["&#8942; the new one is ready", "&#166; the old one begins to stop"]
    words.append(f"<b style='color:{LOSS}'>&#215;</b> failed requests")
    return "Latency in seconds over the seconds of the run, for each quarter of a second: " + ", ".join(words)
