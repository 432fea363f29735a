"""``farrier status``: what runs here now, one block an app."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from farrier.cli import apps
from farrier.release.layout import ETC

if TYPE_CHECKING:
    from farrier.doctor import Snapshot


# Ends of workers that nobody asked for.
BAD_ENDINGS = ("killed for memory", "crashed", "timed out", "failed to boot")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "status",
        help="what runs here now",
        description="Shows each app that farrier deployed to this host: release, instance, workers, memory, "
        "queue, traffic, and how the last deploy went or the one under way goes.",
    )
    parser.add_argument("app", nargs="?", metavar="NAME", help="one app (default: all of this host)")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    names = apps.chosen(args.app)
    if not names:
        from farrier.doctor.collect import collect_here, state_here

        _, running = state_here(os.environ)
        if not running:
            print(f"No app of farrier's here (looked in {ETC} and in FARRIER_RUN_DIR).")
            return 0
        here = collect_here(os.environ)
        found = [describe(here, running, ", ".join(running.get("listeners") or ()), running.get("release"))]
    else:
        found = [status(name) for name in names]
    if args.json:
        import json

        print(json.dumps(found[0] if args.app else found, indent=2))
    else:
        print("\n\n".join(render(one) for one in found))
    return 0 if all(one["serving"] for one in found) else 1


def status(name: str) -> dict[str, Any]:
    """What an app is doing, as plain values. Sizes in bytes, times in seconds."""
    from farrier.doctor.collect import collect
    from farrier.doctor.snapshot import read_json
    from farrier.release.history import measured
    from farrier.release.state import Release

    snapshot = collect(name)
    spec = apps.spec(name)
    layout = apps.layout(name)
    running = read_json(layout.run_dir / f"{snapshot.instance}.json") or {}
    release = layout.current.resolve().name if layout.current.exists() else None
    found = describe(snapshot, running, spec.bind, release)
    return {**found, "measured": measured(Release.load(layout, release or ""))}


def describe(
    snapshot: Snapshot, running: Mapping[str, Any], bind: str, release: str | None
) -> dict[str, Any]:
    """A snapshot as the values that ``--json`` prints."""
    state = (
        snapshot.unit.get("ActiveState", "unknown") if snapshot.deployed else running.get("phase", "unknown")
    )
    return {
        "app": snapshot.name,
        "serving": state in ("active", "ready", "reloading"),
        "state": state,
        "bind": bind,
        "release": release,
        "instance": snapshot.instance,
        "uptime_seconds": uptime(running.get("started")),
        "workers": list(snapshot.workers),
        "workers_planned": (snapshot.plan or {}).get("workers") or running.get("workers_wanted"),
        "verdict": (snapshot.plan or {}).get("verdict"),
        "memory_bytes": snapshot.memory_used,
        "memory_limit_bytes": snapshot.memory_limit,
        "oom_kills": snapshot.oom_kills,
        "restarts": int(snapshot.unit.get("NRestarts") or 0),
        "queue": snapshot.queue_depth,
        "queue_limit": snapshot.queue_limit,
        "health": None if snapshot.health is None else snapshot.health[1],
        "strategy": (snapshot.plan or {}).get("strategy"),
        "traffic": traffic(snapshot),
        "endings": {name: count for name, count in snapshot.endings.items() if count},
        "last_reload": snapshot.last_reload,
        "last_deploy": snapshot.last,
        "deploying": snapshot.lock_age is not None,
        "deploy": under_way(snapshot),
        "colours": [asdict(colour) for colour in snapshot.colours],
    }


def traffic(snapshot: Snapshot) -> dict[str, Any] | None:
    """What the serving colour has answered since it started; None where it does not count."""
    found = snapshot.traffic
    if found is None:
        return None
    return {
        "requests": found.requests,
        "errors": found.errors,
        "error_share": found.share,
        "p50_seconds": found.quantile(0.5),
        "p95_seconds": found.quantile(0.95),
    }


def under_way(snapshot: Snapshot) -> dict[str, Any] | None:
    """The deploy that holds the app's lock now: who, for how long, and at which step."""
    if snapshot.lock_age is None:
        return None
    run = snapshot.run
    return {
        # The run says it a moment after it has the lock, and no more once it has ended.
        "who": run.get("who") or snapshot.lock_who,
        "seconds": snapshot.lock_age,
        "step": snapshot.step or run.get("phase"),
        "action": run.get("action"),
        "strategy": run.get("strategy"),
        "release": run.get("candidate"),
    }


def uptime(started: float | str | None) -> float | None:
    """Seconds since the arbiter started, from its Unix time or ISO timestamp."""
    if started is None:
        return None
    if isinstance(started, str):
        then = datetime.fromisoformat(started.replace("Z", "+00:00"))
        return max(0.0, (datetime.now(timezone.utc) - then).total_seconds())
    return max(0.0, time.time() - started)


def render(one: dict[str, Any]) -> str:
    """A status as lines for a terminal."""
    from farrier.sizing import format_bytes

    def size(value: int | None) -> str:
        return "?" if value is None else format_bytes(value)

    ready = sum(1 for worker in one["workers"] if worker.get("ready"))
    verdict = one["verdict"] or {}
    lines = [
        f"{one['app']}: {one['state']} on {one['bind']}",
        f"  release    {one['release'] or 'none'} ({one['instance'] or 'no instance'}, "
        f"up {duration(one['uptime_seconds'])})",
        f"  workers    {ready} of {one['workers_planned'] or '?'} ready"
        + "".join(f", {w.get('pid')} up {duration(uptime(w.get('started')))}" for w in one["workers"][:8]),
        f"  memory     {size(one['memory_bytes'])} of {size(one['memory_limit_bytes'])}, "
        f"{known(one['oom_kills'])} killed for memory, {one['restarts']} restarts",
        f"  queue      {known(one['queue'])} of {known(one['queue_limit'])}",
        f"  health     {one['health'] or 'not asked'}",
    ]
    if verdict:
        lines.append(
            f"  plan       {verdict.get('level')} for a {verdict.get('serves')} "
            f"({verdict.get('users')} users), deploys by {one['strategy']}; farrier explain says why"
        )
        if verdict.get("level") == "not viable":
            lines.append(f"             {verdict.get('why')}")
    if one.get("measured"):
        from farrier.release.history import plan_stands_on

        lines.append(f"  stands on  {plan_stands_on(one['measured'])}")
    lines += [*served(one), *deploys(one)]
    return "\n".join(lines)


def served(one: dict[str, Any]) -> Iterator[str]:
    """What the serving colour answered, and what of it went wrong."""
    found = one["traffic"]
    if found:
        quick = ", ".join(
            f"{name} {milliseconds(found[key])}"
            for name, key in (("p50", "p50_seconds"), ("p95", "p95_seconds"))
            if found[key] is not None
        )
        yield (
            f"  traffic    {found['requests']} requests since it started, {found['error_share']:.2%} errors"
            f"{', ' if quick else ''}{quick}"
        )
    bad = [f"{one['endings'][name]} {name}" for name in BAD_ENDINGS if name in one["endings"]]
    if bad:
        yield f"  endings    workers: {', '.join(bad)}; farrier doctor says what to do"
    refused = (one["last_reload"] or {}).get("refused")
    if refused:
        yield f"  reload     the last one was refused: {refused}"


def deploys(one: dict[str, Any]) -> Iterator[str]:
    """How the last deploy went, and the one that is under way."""
    if one["last_deploy"]:
        yield f"  last       {outcome(one['last_deploy'])}"
    now = one["deploy"]
    if now:
        what = " of ".join(word for word in (now["action"] or "deploy", now["release"]) if word)
        since = f"for {duration(now['seconds'])}, at {now['step'] or 'its start'}"
        log = f"journalctl -fu farrier-deploy-{one['app']}"
        yield f"  deploy     {what} by {now['who'] or 'somebody'} {since}: {log}"
    if len(one["colours"]) < 2:
        return
    for colour in one["colours"]:
        mark = "serves" if colour["name"] == one["instance"] else "is beside it"
        workers = f"{colour['ready']} of {known(colour['wanted'])} workers ready"
        release = f"release {colour['release'] or '?'} ({colour['state']})"
        yield f"  {colour['name']:<11}{mark}, {workers}, {release}"


def outcome(entry: Mapping[str, Any]) -> str:
    """One entry of the history in a line; entries of older versions have fewer keys."""
    how = str(entry.get("outcome") or "?")
    words = [
        how if how == "good" else how.upper(),
        " of ".join(word for word in (entry.get("action") or "deploy", entry.get("release")) if word),
        f"by {entry['strategy']}" if entry.get("strategy") else "",
        f"{str(entry.get('time') or '?')[:16].replace('T', ' ')} UTC",
        entry.get("who") or "",
        duration(entry["seconds"]) if entry.get("seconds") is not None else "",
        entry.get("message") or "",
    ]
    return ", ".join(word for word in words if word)


def milliseconds(seconds: float) -> str:
    """A latency as people read it: 8 ms, 1.2 s."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def known(value: int | None) -> str:
    """A number, or ? where it could not be read."""
    return "?" if value is None else str(value)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 42 s, 7 min, 3 h, 5 d."""
    if seconds is None:
        return "?"
    for limit, unit, divisor in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
