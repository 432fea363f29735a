"""The results as files: a row a window, a row a cell, plots, and one self-contained page."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.sizing import figures, plots, rules, store
from benchmarks.sizing.cells import CLIENTS, KINDS, Cell
from benchmarks.sizing.figures import Compared, Result, Seen
from benchmarks.sizing.judge import P99_AT_MOST, THROUGHPUT_AT_LEAST, Ratio

STYLE = """
:root { --ink: #1f2933; --soft: #5d6b7a; --line: #d9e0e6; --good: #2c7a4b; --bad: #c81e3a }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 80rem;
  margin: 2rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; margin: 0 0 .2rem } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem }
p, li { max-width: 54rem } .soft { color: var(--soft) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0;
  display: block; overflow-x: auto; font-size: .9rem }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th { font-weight: 600; color: var(--soft); font-size: .85rem; vertical-align: bottom }
th:first-child, td:first-child, td.text { text-align: left }
.good { color: var(--good); font-weight: 600 } .bad { color: var(--bad); font-weight: 600 }
figure { margin: 0 0 1.2rem } figure svg { width: 100%; height: auto }
summary { cursor: pointer } code { font-size: .9em }
"""


def method(results: Sequence[Result]) -> str:
    """How it was measured, in words."""
    kinds = "; ".join(
        f"<b>{kind}</b> {cpu} ms of CPU" + (f" and {wait} ms of waiting" if wait else "")
        for kind, (cpu, wait) in KINDS.items()
    )
    load = max(
        (window["load_cpu"] for one in results for seen in one.points for window in seen.windows), default=0
    )
    return f"""
<p>Each cell is a box: a Docker container with so much memory, no swap, and a CPU quota. Up to 1 CPU the box
has core 0 for itself and the load comes from core 1; with 2 CPUs both share two cores, and the load's part
(at most {load:.0%} of a core, here) is taken from all points alike. A request takes: {kinds} (async awaits
it, under FastAPI; the others sleep, under Flask). CPU is work done until the thread has had that much CPU
time, so a core that is throttled makes it longer. The app takes about 90 MB.</p>
<p>{CLIENTS} clients ask in a closed loop over kept-alive connections and never retry. Throughput counts
what was answered in a window of 2 to 6 s (longer where the queue is) after a warm-up; p99 is over all
requests that were begun in it, however late their answer came. Each point got at least five windows, round by
round in an order drawn anew; ratios are taken within a round, and intervals are 95 % by Student's t. A window
in which others had more than 10 % of the boxes' cores was measured again.</p>
<p>The <b>plan</b> is made as a person makes it: <code>farrier measure</code> in a box of that size, then
the plan for a container, of an app without a database. The <b>best</b> is the lowest p99 among the points
within 5 % of the top throughput, out of workers x threads x class (sync, gthread; asgi, uvicorn) under
<code>farrier serve</code>, halved successively, and with preload where memory binds. Recycling is off in
all points. The <b>rules</b> run under stock Gunicorn as their users run it. A rule is ahead if its
throughput is higher beyond the interval, or at least 95 % of the plan's with a p99 that is lower beyond the
interval; where one is ahead in each, throughput decides if it differs by more than 5 %, and else p99. A
rule's own regret is its throughput and p99 over the best's; one that never came up has no throughput.</p>
<p>A box whose limit the kernel never reached (its own counter says so) stands for the larger sizes of the
same kind and CPU: <code>measured_in_mib</code> in cells.csv says where.</p>
"""


def write(
    results: Sequence[Result], out: Path, versions: Mapping[str, str], expected: Sequence[Cell] | None = None
) -> str:
    """Everything into `out`; returns the figures as lines for a person. expected: cells that are to be there
    in the end."""
    out.mkdir(parents=True, exist_ok=True)
    if not results:
        return "nothing is measured yet"
    with gzip.GzipFile(out / "samples.csv.gz", "wb", mtime=0) as file:
        file.write(as_csv(sample_rows(results)).encode())
    (out / "cells.csv").write_text(as_csv(cell_rows(results)))
    kinds = list(dict.fromkeys(one.cell.kind for one in results))
    drawn = {kind: plots.plot([one for one in results if one.cell.kind == kind]) for kind in kinds}
    (out / "plots").mkdir(exist_ok=True)
    for name, text in drawn.items():
        (out / "plots" / f"{name}.svg").write_text(text + "\n")
    found = figures.figures(results, expected)
    (out / "summary.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    (out / "index.html").write_text(page(results, found, drawn, versions))
    return "\n".join([summary.line(one) for one in found] + [f"the page: {out / 'index.html'}"])


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def sample_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a window; a box that stands for several cells has its windows in each."""
    left_out = ("type", "point", "failures")
    rows = []
    for one in results:
        for seen in one.points:
            for window in seen.windows:
                values = {key: value for key, value in window.items() if key not in left_out}
                values["measured_in_mib"] = values.pop("memory_mib")
                rows.append({"cell": one.cell.name, "point": seen.point.name, **values})
    return rows or [{"cell": "", "point": ""}]


def cell_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row for a cell's plan, its best, and each rule."""
    rows = []
    for one in results:
        shown: list[tuple[str, Seen, Compared | None]] = [
            ("plan", one.plan, None), ("best", one.best, one.regret)
        ]  # fmt: skip
        shown += [(key, compared.seen, compared) for key, compared in one.rules.items()]
        rows += [_cell_row(one, role, seen, compared) for role, seen, compared in shown]
    return rows


def _cell_row(one: Result, role: str, seen: Seen, compared: Compared | None) -> dict[str, Any]:
    throughput = compared.throughput if compared else Ratio(1.0, 1.0, 1.0, 0)
    p99 = compared.p99 if compared else Ratio(1.0, 1.0, 1.0, 0)
    own = (compared or one.regret).own_throughput, (compared or one.regret).own_p99
    if role == "plan":
        own = one.regret.throughput, one.regret.p99
    ahead = compared.ahead if compared and role != "best" else ""
    return {
        "cell": one.cell.name, "kind": one.cell.kind, "memory_mib": one.cell.memory_mib,
        "cpus": one.cell.cpus, "role": role, "point": seen.point.name,
        "measured_in_mib": seen.place["memory_mib"],
        "windows": len(seen.windows), "throughput": round(seen.throughput, 1), "p99": round(seen.p99, 4),
        "peak_mib": round(seen.place["peak"] / 2**20), "oom_kills": seen.place["oom_kills"],
        "outcome": seen.outcome, "plan_throughput_over_its": _rounded(throughput.value),
        "throughput_low": _rounded(throughput.low), "throughput_high": _rounded(throughput.high),
        "plan_p99_over_its": _rounded(p99.value), "p99_low": _rounded(p99.low),
        "p99_high": _rounded(p99.high), "ahead": ahead,
        "throughput_over_best": _rounded(own[0].value), "p99_over_best": _rounded(own[1].value),
        "holds": one.holds if role == "best" else "",
        "machine": "; ".join(dict.fromkeys(store.phrase(session["machine"]) for session in one.sessions)),
        "date": ", ".join(dict.fromkeys(session["date"] for session in one.sessions)),
    }  # fmt: skip


def _rounded(value: float) -> float | str:
    return "" if math.isinf(value) else round(value, 4)


# --- the page -------------------------------------------------------------------------------------------


def page(
    results: Sequence[Result], found: Sequence[dict[str, Any]], drawn: Mapping[str, str],
    versions: Mapping[str, str],
) -> str:  # fmt: skip
    first = found[0]
    cells, comparisons = found[0], found[1]
    machines = "".join(f"<li>{html.escape(one)}" for one in first["machine"].split("; "))
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    pictures = "".join(
        f"<figure><figcaption>{kind}</figcaption>{svg}</figure>" for kind, svg in drawn.items()
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Sizing</title><style>{STYLE}</style>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<h1>How close the plan is to the best there is</h1>"
        f"<p class=soft>Measured {first['date']}; farrier {first['version']}, "
        f"{told}; <code>{first['command']}</code>; on</p><ul class=soft>{machines}</ul>"
        f"{headline(results)}{completeness(cells, comparisons)}{method(results)}{pictures}"
        f"<h2>Plan and best by cell</h2>{cell_table(results)}"
        f"<h2>The rules beside the plan</h2>{rule_table(results)}"
        f"<h2>Each rule's own regret</h2>{regret_table(results)}"
        f"<h2>What each rule is</h2>{sources()}"
        f"<h2>All points of each cell</h2>{details(results)}</html>\n"
    )


def headline(results: Sequence[Result]) -> str:
    good = sum(one.holds for one in results)
    ahead = sum(bool(one.behind) for one in results)
    shade = "good" if good == len(results) and not ahead else "bad"
    return (
        f"<p class={shade}>In {good} of {len(results)} cells the plan has at least {THROUGHPUT_AT_LEAST:.0%} "
        f"of the best's throughput with at most {P99_AT_MOST} times its p99; in {ahead} a rule is "
        "ahead of it.</p>"
    )


def completeness(cells: Mapping[str, Any], comparisons: Mapping[str, Any]) -> str:
    """What of all is on the page."""
    shade = "soft" if cells["holds"] and comparisons["holds"] else "bad"
    return (
        f"<p class={shade}>{cells['value']} of {cells['bound']} cells are measured, with "
        f"{comparisons['value']} of {comparisons['bound']} comparisons with rules and other servers.</p>"
    )


def cell_table(results: Sequence[Result]) -> str:
    heads = (
        "cell|plan|req/s|p99, s|best|req/s|p99, s|throughput, plan / best|p99, plan / best|holds|rules ahead"
    )
    rows = []
    for one in results:
        shade = "good" if one.holds else "bad"
        rows.append(
            f"<td>{one.cell.name}<td class=text>{_point(one.plan)}<td>{one.plan.throughput:.0f}"
            f"<td>{one.plan.p99:.3f}<td class=text>{_point(one.best)}<td>{one.best.throughput:.0f}"
            f"<td>{one.best.p99:.3f}<td>{_ratio(one.regret.throughput)}<td>{_ratio(one.regret.p99)}"
            f"<td class={shade}>{'yes' if one.holds else 'no'}"
            f"<td class=text>{', '.join(map(rules.title, one.behind))}"
        )
    return _table(heads, rows)


def rule_table(results: Sequence[Result]) -> str:
    """Throughput of each rule as a share of the plan's; green: the plan is ahead, red: the rule is."""
    keys = [rule.key for rule in (*rules.RULES, *rules.OTHERS)]
    heads = "cell|" + "|".join(html.escape(rules.title(key)) for key in keys)
    rows = []
    for one in results:
        cells = [f"<td>{one.cell.name}"]
        for key in keys:
            compared = one.rules.get(key)
            if compared is None:
                cells.append("<td>")
                continue
            shade = {"plan": "good", "rule": "bad"}.get(compared.ahead, "")
            cells.append(f"<td class='{shade}'>{_beside(compared)}")
        rows.append("".join(cells))
    return (
        "<p>Throughput as a share of the plan's / p99 as a multiple of the plan's. Green: the plan is ahead; "
        "red: the rule is; else they are within the interval.</p>" + _table(heads, rows)
    )


def regret_table(results: Sequence[Result]) -> str:
    """Each rule over the best of each cell, and the plan in the first column."""
    keys = [rule.key for rule in (*rules.RULES, *rules.OTHERS)]
    heads = "cell|plan|" + "|".join(html.escape(rules.title(key)) for key in keys)
    rows = []
    for one in results:
        shown = [(one.plan, one.regret.throughput, one.regret.p99)]
        cells = [f"<td>{one.cell.name}"]
        for key in keys:
            compared = one.rules.get(key)
            if compared is not None:
                shown.append((compared.seen, compared.own_throughput, compared.own_p99))
        texts = {seen.point: _over_best(seen, throughput, p99) for seen, throughput, p99 in shown}
        points = [one.plan.point, *(one.rules[key].seen.point if key in one.rules else None for key in keys)]
        cells += [f"<td>{texts[point] if point else ''}" for point in points]
        rows.append("".join(cells))
    return "<p>Throughput as a share of the best's / p99 as a multiple of the best's.</p>" + _table(
        heads, rows
    )


def _over_best(seen: Seen, throughput: Ratio, p99: Ratio) -> str:
    if not seen.is_up:
        return seen.outcome
    if math.isinf(throughput.value):
        return "-"
    return f"{throughput.value:.2f} / {p99.value:.2f}"


def _beside(compared: Compared) -> str:
    if not compared.seen.is_up:
        return compared.seen.outcome
    share = 1 / compared.throughput.value if compared.throughput.value else math.inf
    late = 1 / compared.p99.value if compared.p99.value else math.inf
    return f"{share:.2f} / {late:.2f}" + (f" ({compared.seen.outcome})" if compared.seen.outcome else "")


def sources() -> str:
    items = "".join(
        f"<li><b>{html.escape(rule.title)}</b>: {html.escape(rule.source)}"
        for rule in (*rules.RULES, *rules.OTHERS)
    )
    return (
        f"<ul>{items}</ul><p>Cores are what such a rule sees in a container with a quota: the machine's "
        f"{rules.SEEN}, or by nproc the {rules.CPUSET} of its cpuset.</p>"
    )


def details(results: Sequence[Result]) -> str:
    parts = []
    for one in results:
        rows = [
            f"<td>{html.escape(seen.point.name)}<td>{seen.throughput:.1f}<td>{seen.p99:.3f}"
            f"<td>{len(seen.windows)}<td>{seen.place['peak'] / 2**20:.0f}<td>{seen.place['memory_mib']}"
            f"<td class=text>{seen.outcome}"
            for seen in one.points
        ]
        table = _table("point|req/s|p99, s|windows|peak, MiB|measured in, MiB|", rows)
        app = one.measurement
        said = (
            f"<p class=soft>Measured there: app {app['app_memory'] / 2**20:.0f} MiB, "
            f"{1000 * (app['cpu_per_request'] or 0):.1f} ms of CPU and "
            f"{1000 * (app['wait_per_request'] or 0):.1f} ms of waiting a request. Verdict: "
            f"{one.verdict}.</p>"
        )
        parts.append(f"<details><summary>{one.cell.name}</summary>{said}{table}</details>")
    return "".join(parts)


def _point(seen: Seen) -> str:
    note = f" ({seen.outcome})" if seen.outcome else ""
    return html.escape(seen.point.name.removeprefix("farrier ") + note)


def _ratio(one: Ratio) -> str:
    if math.isinf(one.value):
        return "-"
    if math.isinf(one.low) or math.isinf(one.high) or one.low == one.high:
        return f"{one.value:.2f}"
    return f"{one.value:.2f} [{one.low:.2f} .. {one.high:.2f}]"


def _table(heads: str, rows: Sequence[str]) -> str:
    head = "".join(f"<th>{name}" for name in heads.split("|"))
    return f"<table><tr>{head}{''.join(f'<tr>{row}' for row in rows)}</table>"
