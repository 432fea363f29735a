"""The results as files: rows by second, rows by deploy, plots, and one self-contained page."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import summary
from benchmarks.deploys import figures, plots
from benchmarks.deploys.cells import LOADED, STRATEGIES, THREADS, WORKERS
from benchmarks.deploys.figures import Cell, Cells, failed, is_ours
from benchmarks.deploys.tally import KINDS

STYLE = """
:root { --ink: #1f2933; --soft: #5d6b7a; --line: #d9e0e6; --good: #2c7a4b; --bad: #c81e3a }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 76rem;
  margin: 2rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; margin: 0 0 .2rem } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p, li { max-width: 52rem } .soft { color: var(--soft) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0;
  display: block; overflow-x: auto }
th, td { padding: .35rem .8rem .35rem 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th { font-weight: 600; color: var(--soft); font-size: .85rem; vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
.good { color: var(--good); font-weight: 600 } .bad { color: var(--bad); font-weight: 600 }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(34rem, 1fr)); gap: 1.2rem }
figure { margin: 0; min-width: 0 } figcaption { font-size: .9rem }
figure svg { width: 100%; height: auto }
code { font-size: .9em }
@media (max-width: 40rem) { .cells { grid-template-columns: 1fr } }
"""
METHOD = f"""
<p>The machine is a systemd host in a container with one whole CPU (a core of its own by cpuset: a CFS
quota would throttle it in slices, and those would be measured) and 512 MB. The load comes from another
core. Each server is first asked for what it can do (closed loop, all kinds of requests at once), then gets
{LOADED:.0%} of that as an open loop: a request is due when it is due, whether or not an earlier one was
answered, and its latency counts from then, so that a stall is seen by every request that meant to begin in
it. What people run today gets the rate of farrier's class beside it, and as many workers
({", ".join(f"{name} {count}" for name, count in WORKERS.items())}; gthread: {THREADS} threads each).</p>
<p>A quarter of the requests each: GET on new connections, POST on new ones, GET on kept-alive ones, POST on
kept-alive ones. POST bodies (2 kB, every twentieth 60 kB) come back and are compared. New connections ask
for <code>Connection: close</code>. Kept-alive clients think for 0.2 to 1.5 s between two requests, which is
below every linger in the field. Nobody ever retries.</p>
<p><b>Failed</b> is: refused, reset, closed before the whole response arrived, no answer within 30 s of when
it was due, status 500 or more, or a wrong body. A kept-alive connection that the server closes between two
requests is none.</p>
<p>The app takes 0.3 ms of CPU and waits 3 ms for a request; its import takes 0.2 s of CPU and 0.3 s of
waiting. A run whose generator took more than 80 % of its core, or sent its requests late (p99 above 20 ms),
is not counted; nor is one in which others took more than 10 % of the host's core.</p>
"""


def write(results: Cells, out: Path, quick: bool) -> str:
    """Everything into `out`; returns the figures as lines for a person."""
    out.mkdir(parents=True, exist_ok=True)
    if not results:
        return "nothing is measured yet"
    if quick:
        # It only looks for failures, and may do so on a busy machine.
        results = [{**cell, "not_counted": ""} for cell in results]
    rows = [{"cell": one["cell"]["name"], **row} for one in results for row in one["seconds"]]
    with gzip.GzipFile(out / "requests.csv.gz", "wb", mtime=0) as file:
        file.write(as_csv(rows).encode())
    (out / "deploys.csv").write_text(as_csv(deploy_rows(results)))
    drawn = draw(results)
    (out / "plots").mkdir(exist_ok=True)
    for name, text in drawn.items():
        (out / "plots" / f"{name}.svg").write_text(text + "\n")
    found = figures.figures(results, quick)
    (out / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "index.html").write_text(page(results, found, drawn, quick))
    return "\n".join([summary.line(one) for one in found] + [f"the page: {out / 'index.html'}"])


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def deploy_rows(results: Cells) -> list[dict[str, Any]]:
    """One row a deploy, times in seconds; moments count from the command."""
    rows = []
    for cell in results:
        for number, one in enumerate(cell["deploys"], 1):
            colours = one["colours"]
            moments = {
                name: round(colours[f"{name}_at"] - one["asked"], 3) if f"{name}_at" in colours else None
                for name in ("ready", "stopping", "stopped")
            }
            switched = [step["ended"] for step in one["steps"] if step["name"] == "switch"]
            rows.append(
                {
                    "cell": cell["cell"]["name"],
                    "ours": is_ours(cell),
                    "class": cell["cell"]["worker_class"],
                    "strategy": cell["cell"]["strategy"],
                    "deploy": number,
                    "refused": one["refused"],
                    "seconds": one["seconds"],
                    "first_new_answer": one["first_new_answer"],
                    "app_boot": one["app_boot"],
                    "colour_boot": colours.get("boot"),
                    "drain": colours.get("drain"),
                    **moments,
                    "switched": round(switched[0] - one["asked"], 3) if switched else None,
                    "longest": one["longest"],
                    "p99_during": one["p99"],
                    "p99_steady": one["steady_p99"],
                    "sent": one["sent"],
                    "failed": one["failed"],
                }
            )
    return rows


def draw(results: Cells) -> dict[str, str]:
    """The plots by cell, all on one scale."""
    every = [value for cell in results for key in ("p50", "max") for value in cell["trace"][key] if value]
    floor, ceiling = min(every) * 0.7, max(every) * 2.0
    return {cell["cell"]["name"]: plots.plot(cell, floor, ceiling) for cell in results}


# --- the page ---------------------------------------------------------------------------------------------


def page(results: Cells, found: Sequence[dict[str, Any]], drawn: dict[str, str], quick: bool) -> str:
    ours = [cell for cell in results if is_ours(cell)]
    theirs = [cell for cell in results if not is_ours(cell)]
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Requests that fail in a deploy</title><style>{STYLE}</style></head><body>",
        "<h1>Requests that fail in a deploy</h1>",
        headline(ours, theirs),
        "<p class='soft'>A quick run, to see that nothing fails. Its latencies are no measurement.</p>"
        if quick
        else "",
        "<h2>What was asked for</h2>",
        asked_table(found),
        "<h2>Farrier: failed requests of those sent</h2>",
        matrix_table(ours),
        "<h2>Farrier: what a deploy does to those who wait</h2>",
        detail_table(ours),
        steps_table(ours),
        "<h2>What people do today, same host, same app, same load</h2>",
        today_table(theirs),
        f"<h2>Over time</h2><p>{plots.legend()}.</p>",
        *pictures("Farrier", ours, drawn),
        *pictures("Today", theirs, drawn),
        "<h2>How it was measured</h2>",
        METHOD,
        footer(results, quick),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def headline(ours: Cells, theirs: Cells) -> str:
    lost, sent = sum(map(failed, ours)), sum(cell["counts"]["sent"] for cell in ours)
    deploys = sum(len(cell["deploys"]) for cell in ours)
    their_lost, their_sent = sum(map(failed, theirs)), sum(cell["counts"]["sent"] for cell in theirs)
    return (
        f"<p>Farrier: {mark(lost)} of {sent:,} requests failed, over {deploys} deploys and reloads. "
        f"What people do today, beside it: {mark(their_lost)} of {their_sent:,}.</p>"
    )


def mark(count: int) -> str:
    return f"<span class='{'bad' if count else 'good'}'>{count:,}</span>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>\n{body}</table>"


def asked_table(found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        if one["bound"] is None:
            continue
        verdict = {True: "<span class='good'>holds</span>", False: "<span class='bad'>falls short</span>"}
        spread = f"{one['interval'][0]:g} … {one['interval'][1]:g}" if one["interval"] else ""
        value = f"{one['value']:,}" if isinstance(one["value"], int) else f"{one['value']:g}"
        rows.append(
            (html.escape(one["figure"]), f"{value} {one['unit']}", spread, html.escape(one["bound"]),
             verdict.get(one["holds"], ""))
        )  # fmt: skip
    return table(("figure", "value", "best … worst", "asked", ""), rows)


def matrix_table(ours: Cells) -> str:
    columns = (*STRATEGIES, "recycling")
    rows = []
    for name, row in figures.matrix(ours).items():
        if row:
            rows.append((name, *(loss(row[column]) if column in row else "" for column in columns)))
    return table(("class", *columns), rows)


def loss(cell: Cell) -> str:
    """Failed of sent, by kind where there is something."""
    kinds = ", ".join(f"{cell['counts'][kind]} {kind}" for kind in KINDS if cell["counts"][kind])
    limit = cell["not_counted"]
    note = f" <span class='bad' title='{html.escape(limit)}'>not counted</span>" if limit else ""
    return f"{mark(failed(cell))} of {cell['counts']['sent']:,}" + (f" ({kinds})" if kinds else "") + note


def detail_table(ours: Cells) -> str:
    head = (
        "cell", "rate /s", "deploys", "p99 steady", "p99 during", "ratio", "longest wait", "boot of a colour",
        "drain", "first new answer", "of that the app's import",
    )  # fmt: skip
    rows = []
    for cell in ours:
        deploys = figures.deployed(cell)
        boots = [one["colours"].get("boot") for one in deploys]
        drains = [one["colours"].get("drain") for one in deploys]
        ratio = figures.p99_ratio(cell)
        rows.append(
            (
                html.escape(cell["cell"]["name"]), f"{cell['rate']:.0f}", deploys_of(cell),
                milliseconds(cell["steady"]["p99"]), milliseconds(cell["during"]["p99"]) if deploys else "",
                f"{ratio:.2f}" if ratio is not None else "",
                worst([one["longest"] for one in deploys] or [cell["steady"]["max"]]),
                worst(boots), worst(drains), worst([one["first_new_answer"] for one in deploys]),
                worst([one["app_boot"] for one in deploys]),
            )
        )  # fmt: skip
    return table(head, rows) + "<p class='soft'>Of several deploys: the slowest.</p>"


def steps_table(ours: Cells) -> str:
    """Where in a deploy the latency comes from: p99 by step, the median of a cell's deploys."""
    felt: dict[str, dict[str, list[float]]] = {}
    for cell in ours:
        for deploy in figures.deployed(cell):
            for step in deploy["steps"]:
                felt.setdefault(cell["cell"]["name"], {}).setdefault(step["name"], []).append(step["p99"])
    if not felt:
        return ""
    names = list(dict.fromkeys(name for steps in felt.values() for name in steps))
    rows = [
        (
            html.escape(cell["cell"]["name"]),
            milliseconds(cell["steady"]["p99"]),
            *(
                milliseconds(median(felt[cell["cell"]["name"]][name]))
                if name in felt[cell["cell"]["name"]]
                else ""
                for name in names
            ),
        )
        for cell in ours
        if cell["cell"]["name"] in felt
    ]
    note = "<p class='soft'>Of several deploys: the median.</p>"
    return "<h3>p99 of the requests due in each step</h3>" + table(("cell", "steady", *names), rows) + note


def deploys_of(cell: Cell) -> str:
    if cell["deploys"]:
        refused = len(cell["deploys"]) - len(figures.deployed(cell))
        return f"{len(cell['deploys'])}" + (f" ({refused} refused)" if refused else "")
    return f"{cell['recycled']} recycled"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def worst(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.2f} s" if known else ""


def today_table(theirs: Cells) -> str:
    rows = [
        (
            html.escape(cell["cell"]["label"]), f"{cell['rate']:.0f}", deploys_of(cell), loss(cell),
            f"{failed(cell) / max(1, len(cell['deploys'])):.1f}" if cell["deploys"] else "",
            worst([one["seconds"] for one in cell["deploys"]]),
            milliseconds(cell["steady"]["p99"]),
            worst([one["longest"] for one in cell["deploys"]] or [cell["steady"]["max"]]),
        )
        for cell in theirs
    ]  # fmt: skip
    head = (
        "server", "rate /s", "times", "failed of sent", "failed each time", "the command took", "p99 steady",
        "longest wait",
    )  # fmt: skip
    return table(head, rows)


def pictures(title: str, cells: Cells, drawn: dict[str, str]) -> list[str]:
    if not cells:
        return []
    found = [f"<h3>{title}</h3>", "<div class='cells'>"]
    for cell in cells:
        label = html.escape(cell["cell"]["label"])
        caption = f"<figcaption><b>{label}</b>, failed: {loss(cell)}</figcaption>"
        found.append(f"<figure>{caption}{drawn[cell['cell']['name']]}</figure>")
    return [*found, "</div>"]


def footer(results: Cells, quick: bool) -> str:
    known = {json.dumps(cell["versions"], sort_keys=True) for cell in results}
    texts = [", ".join(f"{name} {value}" for name, value in json.loads(one).items()) for one in sorted(known)]
    dates = sorted({cell["date"] for cell in results})
    command = figures.QUICK_COMMAND if quick else figures.COMMAND
    memory = ", ".join(sorted({cell["memory"] for cell in results}))
    return (
        f"<p class='soft'>{html.escape('; '.join(texts))}.<br>{summary.machine()}; the host under load: "
        f"one CPU, {memory}.<br>{', '.join(dates)}; <code>{command}</code></p>"
    )
