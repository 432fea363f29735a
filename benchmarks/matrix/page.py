"""The results as files: rows by run, figures, plots, raw logs, and one self-contained page."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.matrix import explain, figures, plots
from benchmarks.matrix.figures import Result, Table
from benchmarks.matrix.store import Store
from benchmarks.matrix.tiers import APP_LABELS, APPS, PUBLISHED, SCENARIOS, TIERS, Tier, every

MIB = 1 << 20
STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #5d6b7a; --line: #d9e0e6; --paper: #fff;
  --card: #f5f7f9; --good: #22794a; --bad: #c81e3a; --warn: #a15c00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ee; --soft: #9aa7b4; --line: #36424e;
  --paper: #14191f; --card: #1c232b; --good: #5fc78d; --bad: #ff7088; --warn: #f0ad4e } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem }
h3 { font-size: 1.02rem; margin: 1.3rem 0 .3rem } p, li { max-width: 50rem } .soft { color: var(--soft) }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0 }
th, td { padding: .32rem .7rem .32rem 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th { font-weight: 600; color: var(--soft); font-size: .85rem; vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
.good { color: var(--good); font-weight: 600 } .bad { color: var(--bad); font-weight: 600 }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem }
figure { margin: .4rem 0; min-width: 0 } figure svg { width: 100%; height: auto; max-width: 54rem }
.cause figure { overflow-x: auto } .cause figure svg { min-width: 36rem }
.tier { background: var(--card); border-radius: .5rem; padding: .2rem 1rem .8rem; margin: 1rem 0 }
.cause { border-left: 3px solid var(--bad); padding-left: .8rem; margin: .6rem 0 }
.fine { border-left: 3px solid var(--good); padding-left: .8rem; margin: .6rem 0 }
.cause p, .fine p { margin: .2rem 0 } nav a { margin-right: .8rem } a { color: inherit }
@media (max-width: 40rem) { body { margin: 1rem auto } .tier { padding: .1rem .6rem .6rem } }
"""
METHOD = """
<p>Each host is a Debian 12 with systemd and sshd in a container that is held to the tier's memory,
without swap, and to one CPU up to 2 GB, two for 4 and 8 GB (by cpuset: a core that nothing throttles).
The limit holds for all of it: systemd, sshd, the journal, the app, PostgreSQL. Farrier's side is
deployed by its own release machine from a spec that names the app and its database's memory, and no
number of workers or threads (at 256 MB with PostgreSQL also what the rest of that host takes, 32 MiB:
it has no proxy and no log shipper). Beside it stands <code>gunicorn -w 2*CPU+1</code> in a unit with
<code>Restart=always</code> and Gunicorn's defaults else.</p>
<p>The app is one Flask file: 2 ms of CPU and 20 ms of waiting a request (with PostgreSQL two queries and
10 ms), ten reads of its data, nine of them in a hot tenth; its import makes about 150 MB of dicts, lists
and strings (the light app: none). PostgreSQL is Debian's package as it ships, on the same host, in the
same limit.</p>
<p>A user asks, waits for the answer, thinks for one second (0.9 to 1.1) and asks again, on a kept
connection where the server keeps it. Nobody retries. <b>Failed</b>: refused, reset, closed before the
whole answer arrived, no answer in 30 s, or status 500 and above. <b>Timeout</b>: no answer in 30 s, or
the request broke as its worker was killed for its timeout. The load comes from this machine to the
host's own address.</p>
<p><b>Start</b>: from <code>systemctl start</code> to the first answer, the median of three; boot: from
the start of the host. <b>Out of memory</b>: a request takes as much memory as the host has, twice.
<b>Life cycle</b>: kill -9 of a worker, TERM to one, TTIN, TTOU, HUP, then so many requests that workers
are recycled; a request in the hands of the worker that kill -9 ends is lost, any other is not.
<b>Sustained</b>: ten minutes (Gunicorn: four) with 1 MB leaked per 100 requests; those of several tiers
ran side by side, with CPU quotas and loads that fit the two cores together: they judge kills and growth,
not latency. All others ran one host a core, two at a time up to 2 GB. Memory is read once a second from
outside; kills are the kernel's own log.</p>
<p>The published figures are another investigation's, of a Flask app with PostgreSQL on other machines;
they stand here because they are what was to be beaten.</p>
"""


def write(results: Sequence[Result], out: Path, store: Store, quick: bool) -> str:
    """Everything into `out`; returns the figures as lines for a person."""
    if not results:
        return "nothing is measured yet"
    out.mkdir(parents=True, exist_ok=True)
    table = Table(results)
    (out / "runs.csv").write_text(as_csv([row(one) for one in results]))
    with gzip.GzipFile(out / "runs.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps(list(results), sort_keys=True).encode())
    # What was measured first: whatever happens to the drawing, the data is there.
    logs(out / "logs", store, {one["run"] for one in results})
    found = figures.figures(results, quick)
    (out / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
    drawn = plots.by_tier(table)
    (out / "plots").mkdir(exist_ok=True)
    for name, text in drawn.items():
        (out / "plots" / f"{name}.svg").write_text(standalone(text))
    (out / "index.html").write_text(page(table, results, found, drawn, quick))
    return "\n".join([summary.line(one) for one in found] + [f"the page: {out / 'index.html'}"])


def standalone(svg: str) -> str:
    """An SVG file by itself has no page to take its ink from."""
    return svg.replace("currentColor", "#4a5560") + "\n"


def logs(folder: Path, store: Store, names: set[str]) -> None:
    """The raw log of every run that is shown, and no other."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for run in every():
        if run.name in names and store.log(run).exists():
            shutil.copyfile(store.log(run), folder / store.log(run).name)


def row(one: Result) -> dict[str, Any]:
    """A run as a row: bytes as MiB, seconds, percent."""
    asked, server = one["requests"] or {}, one["server"]
    return {
        "run": one["run"], "tier_mb": one["memory"] // MIB, "cpus": one["cpus"], "app": one["app"],
        "who": one["who"], "scenario": one["scenario"], "as_it_should_be": one["holds"],
        "users": one["users"],
        "sent": asked.get("sent"), "failed": asked.get("failed"), "timeouts": asked.get("timeouts"),
        "timeouts_percent": figures.timeouts(one), "worker_timeouts": asked.get("worker_timeouts"),
        "p50_s": asked.get("p50"), "p95_s": asked.get("p95"), "p99_s": asked.get("p99"),
        "max_s": asked.get("max"), "start_s": one.get("median"), "boot_s": one.get("boot"),
        "oom_kills": len(one["kills"]), "oom_kills_in_trials": len(one["trial_kills"]),
        "oom_kills_by_counter": one["kills_counted"],
        "memory_most_mib": max(one["samples"]["firm"], default=None), "workers": server.get("workers"),
        "threads": server.get("threads"), "worker_class": server.get("worker_class"),
        "preload": server.get("preload_app"), "generator_cpu": asked.get("generator_cpu"),
        "took_s": one["took"], "broken": one.get("broken", ""), "machine": one.get("machine", ""),
        "date": one["date"], "version": one["version"], "digest": one["digest"],
    }  # fmt: skip


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# --- the page -------------------------------------------------------------------------------------------


def page(
    table: Table,
    results: Sequence[Result],
    found: Sequence[dict[str, Any]],
    drawn: dict[str, str],
    quick: bool,
) -> str:
    shown = [tier for tier in TIERS if any(one["tier"] == tier.name for one in results)]
    links = "".join(f"<a href='#t{tier.name}'>{tier.label}</a>" for tier in shown)
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>The RAM matrix</title><style>{STYLE}</style></head><body>",
        "<h1>The RAM matrix: what a Flask app of 150 MB does on 256 MB to 8 GB</h1>",
        headline(table, results),
        "<p class='soft'>A quick run, to see that it works: its figures are no measurement.</p>"
        if quick
        else "",
        f"<nav>{links}</nav>",
        "<h2>Timeouts at the promised load</h2>",
        timeouts_table(table),
        "<h2>Start and answers</h2>",
        start_table(table),
        f"<div class='plots'>{''.join(f'<figure>{text}</figure>' for text in drawn.values())}</div>",
        "<h2>Farrier: every scenario</h2>",
        matrix(table),
        "<h2>Tier by tier: what failed first, why, and what to change</h2>",
        *(tier_section(table, tier) for tier in shown),
        "<h2>What was asked for</h2>",
        asked_table(found),
        "<h2>How it was measured</h2>",
        METHOD,
        footer(results, quick),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def headline(table: Table, results: Sequence[Result]) -> str:
    """Both sides' worst, in a sentence or two."""
    words = []
    for who, label in (("farrier", "Farrier"), ("gunicorn", "Gunicorn as usually configured")):
        done = [one for tier in TIERS if (one := table.get(tier, "heavy", who, "load"))]
        done = [one for one in done if one["requests"] and one["requests"]["sent"]]
        late = [one for one in done if one["requests"]["timeouts"] or one["requests"]["worker_timeouts"]]
        lost = [one for one in done if one["requests"]["failed"]]
        silent = [one for one in done if not one["requests"]["ok"]]
        killed = [one for one in done if one["kills"]]
        if not done:
            continue
        text = f"{label}: timeouts at {len(late)} of {len(done)} tiers"
        text += f", failed requests at {len(lost)}" if lost else ""
        text += f", no answer at all at {len(silent)}" if silent else ""
        if killed:
            sizes = ", ".join(f"{one['memory'] // MIB} MB" for one in killed)
            text += f", OOM kills under the promised load at {sizes}"
        words.append(text + ".")
    good = sum(1 for one in results if one["who"] == "farrier" and one["holds"])
    ours = sum(1 for one in results if one["who"] == "farrier")
    return f"<p>{' '.join(words)} {good} of {ours} runs of farrier are as they should be.</p>"


def grid(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; its cells are HTML already."""
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<div class='wide'><table><tr>{top}</tr>\n{body}</table></div>"


def mark(text: str, good: bool | None) -> str:
    return text if good is None else f"<span class='{'good' if good else 'bad'}'>{text}</span>"


def timeout_cell(one: Result | None) -> str:
    """Timeouts in percent, and what else failed."""
    share = figures.timeouts(one)
    if one is not None and one.get("broken"):
        return mark("not measured", False)
    if one is None or share is None:
        return ""
    asked = one["requests"]
    text = f"{share:g} %"
    others = asked["failed"] - asked["timeouts"]
    if others:
        text += f", {100 * others / asked['sent']:.3g} % failed else"
    if one["kills"]:
        text += f", {len(one['kills'])} OOM kills"
    return mark(text, not (asked["failed"] or asked["worker_timeouts"] or one["kills"]))


def timeouts_table(table: Table) -> str:
    rows = []
    for tier in TIERS:
        old = PUBLISHED[tier.name]
        cells = [
            timeout_cell(table.get(tier, app, who, "load"))
            for app, who in (
                ("heavy", "farrier"), ("postgres", "farrier"), ("light", "farrier"), ("heavy", "gunicorn"),
                ("postgres", "gunicorn"),
            )
        ]  # fmt: skip
        cpus = f"{tier.cpus} CPU{'s' if tier.cpus > 1 else ''}"
        published = [
            f"{old[name]:g} %" if isinstance(old[name], int | float) else ""
            for name in ("default", "optimised")
        ]
        rows.append((f"{tier.label}, {cpus}, {tier.users} users", *cells, *published))
    head = (
        "tier", "farrier", "farrier,<br>PostgreSQL", "farrier,<br>light app", "gunicorn",
        "gunicorn,<br>PostgreSQL",
        "published,<br>by default", "published,<br>by hand",
    )  # fmt: skip
    return grid(head, rows)


def start_cell(one: Result | None) -> str:
    if one is None:
        return ""
    if one.get("broken"):
        return mark("not measured", False)
    if one["median"] is None or one["never"]:
        return mark("never" if one["median"] is None else "not each time", False)
    boot = f" (boot {one['boot']:.1f})" if one["boot"] else ""
    return f"{one['median']:.1f} s{boot}"


def answer_cell(one: Result | None) -> str:
    if one is None or not one["requests"] or not one["requests"]["ok"]:
        return mark("none", False) if one is not None else ""
    return f"{one['requests']['p50']:.2f} … {one['requests']['p99']:.2f} s"


def start_table(table: Table) -> str:
    rows = []
    for tier in TIERS:
        old = PUBLISHED[tier.name]
        pairs = (
            ("postgres", "farrier"),
            ("postgres", "gunicorn"),
            ("heavy", "farrier"),
            ("heavy", "gunicorn"),
        )
        rows.append(
            (
                tier.label,
                *(start_cell(table.get(tier, app, who, "startup")) for app, who in pairs),
                span(old["startup"]),
                *(answer_cell(table.get(tier, app, who, "load")) for app, who in pairs[:2]),
                span(old["answers"]),
            )
        )
    head = (
        "tier", "start, farrier,<br>PostgreSQL", "start, gunicorn,<br>PostgreSQL", "start, farrier",
        "start, gunicorn",
        "start,<br>published", "answers p50 … p99,<br>farrier, PostgreSQL",
        "answers,<br>gunicorn, PostgreSQL",
        "answers,<br>published",
    )  # fmt: skip
    return grid(head, rows)


def span(value: Any) -> str:
    return f"{value[0]:g} … {value[1]:g} s" if isinstance(value, tuple) else ""


def matrix(table: Table) -> str:
    rows = []
    for tier in TIERS:
        for app in APPS:
            done = table.of(tier, app, "farrier")
            if done:
                cells = [scenario_cell(table.get(tier, app, "farrier", name)) for name in SCENARIOS]
                rows.append((f"{tier.label}, {APP_LABELS[app]}", *cells))
    note = "<p class='soft'>Failed requests of those sent; kills by the kernel, those of a deploy's own "
    note += "trial in its own limit apart. Raw logs: logs/RUN.log.gz beside this page.</p>"
    return grid(("", *SCENARIOS), rows) + note


def scenario_cell(one: Result | None) -> str:
    if one is None:
        return ""
    if one.get("broken") or (one["scenario"] != "startup" and not one["requests"]):
        return mark("not measured", False)
    if one["scenario"] == "startup":
        text = f"{one['median']:.1f} s" if one["median"] is not None else "never"
    else:
        text = f"{one['requests']['failed']} of {one['requests']['sent']:,}"
    if one["kills"]:
        text += f", {len(one['kills'])} kill{'s' if len(one['kills']) > 1 else ''}"
    if one["trial_kills"]:
        text += f" ({len(one['trial_kills'])} of a trial)"
    return mark(text, bool(one["holds"]))


def tier_section(table: Table, tier: Tier) -> str:
    parts = [f"<section class='tier' id='t{tier.name}'><h3>{tier.label}, {tier.users} users</h3>"]
    for app in APPS:
        for who in ("farrier", "gunicorn"):
            done = table.of(tier, app, who)
            if done:
                parts.append(guarded_side(done, app, who))
    return "\n".join([*parts, "</section>"])


def guarded_side(done: Sequence[Result], app: str, who: str) -> str:
    """One that cannot be told must not take the others with it: hours of measuring are in them."""
    try:
        return side(done, app, who)
    except Exception as error:  # noqa: BLE001
        line = html.escape(f"{who}, {APP_LABELS[app]}: cannot be told ({type(error).__name__}: {error})")
        return f"<div class='cause'><p>{mark(line, False)}</p></div>"


def side(done: Sequence[Result], app: str, who: str) -> str:
    """One app on one tier: its plan, its verdict, and the first failure with its timeline."""
    one = next((run for run in done if run["server"]), done[0])
    bad = explain.first_failed(done)
    label = f"{who}, {APP_LABELS[app]}"
    lines = [f"<p><b>{label}</b>: {html.escape(explain.plan_line(one))}.</p>"]
    if verdict := explain.verdict_line(one):
        lines.append(f"<p class='soft'>{html.escape(verdict)}.</p>")
    if earlier := sorted({run["digest"] for run in done if run.get("earlier")}):
        lines.append(f"<p class='soft'>Measured with an earlier farrier ({', '.join(earlier)}).</p>")
    if bad is None:
        names = ", ".join(run["scenario"] for run in done)
        text = f"<div class='fine'>{''.join(lines)}<p>As it should be: {names}.</p></div>"
        killed = next((run for run in done if run["kills"]), None)
        # Of the smaller sides the provoked kill is what there is to see.
        return text + (oom_note(killed) if killed is not None else "")
    cause = explain.explain(bad)
    lines.append(f"<p><b>Failed first, in {bad['scenario']}:</b> {html.escape(cause.what)}</p>")
    lines += [f"<p>{html.escape(cause.why)}</p>"] if cause.why else []
    lines += [f"<p><b>To change:</b> {html.escape(cause.change)}</p>"] if cause.change else []
    others = [run["scenario"] for run in done if not run["holds"] and run is not bad]
    if others:
        lines.append(f"<p class='soft'>Not as they should be either: {', '.join(others)}.</p>")
    return f"<div class='cause'>{''.join(lines)}<figure>{plots.timeline(bad)}</figure></div>"


def oom_note(one: Result) -> str:
    """The out-of-memory scenario where all went well: what was killed, was it told, who was back when."""
    kill = one["kills"][0]
    told = one.get("told") or []
    back = max((hog["back"] or 0.0 for hog in one.get("hogs", [])), default=0.0)
    said = f" Told in its log: “{html.escape(told[0])}”." if told else ""
    return (
        f"<p class='soft'>A request that takes all memory: the kernel killed {html.escape(kill['task'])} "
        f"({kill['rss'] // MIB} MiB) of {html.escape(kill['unit'])} at the limit of "
        f"{html.escape(kill['limit'])}; "
        f"the next answer came after {back:.2f} s.{said}</p>"
    )


def asked_table(found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        if one["bound"] is None:
            continue
        spread = f"{one['interval'][0]:g} … {one['interval'][1]:g}" if one["interval"] else ""
        words = {True: mark("holds", True), False: mark("falls short", False)}
        value = one["value"]
        shown = value if isinstance(value, str) else f"{value:g} {one['unit']}"
        rows.append(
            (html.escape(one["figure"]), shown, spread, html.escape(one["bound"]),
             words.get(one["holds"], ""))
        )  # fmt: skip
    return grid(("figure", "value", "least … most", "asked", ""), rows)


def footer(results: Sequence[Result], quick: bool) -> str:
    versions = ", ".join(sorted({one["version"] for one in results if one["who"] == "farrier"}))
    dates = sorted({one["date"] for one in results})
    command = figures.QUICK_COMMAND if quick else figures.COMMAND
    digests = sorted({one["digest"] for one in results if one["who"] == "farrier"})
    if len(digests) > 1:
        versions += f" (not one and the same: {', '.join(digests)}; runs.csv says which run had which)"
    machines = "; ".join(sorted({one.get("machine", "a machine not recorded") for one in results}))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"<p class='soft'>{len(results)} runs by <code>{command}</code>, {when}, "
        f"on {html.escape(machines)}; "
        f"farrier {html.escape(versions)}. Rows: runs.csv, all data: runs.json.gz, "
        "figures: summary.json.</p>"
    )
