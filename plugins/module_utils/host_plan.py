# Copyright: The Farrier project
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of one app on this host beside the others, and what to change where there is none.

farrier/release/sized.py makes the plan in force by the same rules; a test compares the two.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from .app_options import chosen_settings
from .host import Refused
from .sizing.apportion import WEIGHT, App, apportion, needs, part_of
from .sizing.budget import Budget, read_budget
from .sizing.database import connections_of, worker_count_in_deploy
from .sizing.memory import share_of
from .sizing.plan import Plan, plan
from .sizing.settings import Settings
from .sizing.together import OWN_LIMITS, Neighbour
from .sizing.units import MIB, SizingError, format_bytes
from .sizing.workload import Workload

ETC = Path("/etc/farrier")
CLAIM = "claim.json"
#: A machine sold as 512 MiB shows its init less: kernel and firmware keep up to a sixth of small ones.
NOMINAL = 1.2
#: Step, in bytes, in which the least memory of an app is looked for.
STEP = 4 * MIB


def plan_beside_others(options: dict, budget: Budget | None = None) -> tuple[Budget, Plan]:
    """What the app gets on this host, and its plan. Raises Refused with one line that names the variable."""
    prefix = options["prefix"]
    # Of pid 1: what the host gives its services, not what this login session happens to get.
    host = budget or read_budget(pid="1")
    try:
        chosen = {"runtime": "systemd", **chosen_settings(options)}
        given = {key: value for key, value in (options["workload"] or {}).items() if value is not None}
        workload = _measured(options["name"], given) or Workload.profile(
            worker_class=chosen.get("worker_class"), **given
        )
        settings = Settings.from_mapping(chosen, f"{prefix}settings")
        _refuse_more_than_there_is(options, host, settings)
        alone = plan(host, workload, settings)
        _refuse_no_connection(options, alone)
        if alone.verdict.level == "not viable":
            raise Refused(_too_small(options, host, workload, settings, alone))
        return _beside(options, host, workload, settings, alone)
    except SizingError as refused:
        told = str(refused)
        raise Refused(
            told if told.startswith(prefix) and prefix else f"{prefix}settings: {told}"
        ) from refused


def _measured(name: str, given: dict) -> Workload | None:
    """The app as its last deploy measured it here, if what is said of it is what was said then.

    By its profile an app that serves beside others would be refused where it fits.
    """
    known, spec = _json(ETC / name / "plan.json"), _json(ETC / name / "app.json")
    said = {key: value for key, value in (spec.get("workload") or {}).items() if value is not None}
    if said != given:
        return None
    try:
        found = Workload.from_dict(known["inputs"]["workload"])
    except (SizingError, KeyError, TypeError):
        return None
    return found if found.measured else None


def others(name: str) -> list[Neighbour]:
    """The other apps of this host: by the plan in force, or a larger claim of a run under way."""
    found = []
    for folder in sorted(path for path in ETC.glob("*") if path.name != name):
        claim, now = _live_claim(folder), _json(folder / "plan.json")
        taken = [size for one in (claim, now) if (size := _taken(one)) is not None]
        if taken:
            found.append(_neighbour(folder, claim, now, max(taken)))
    return found


def _live_claim(folder: Path) -> dict:
    """The claim in an app's folder, if the run that made it is under way: it holds the app's lock."""
    claim = _json(folder / CLAIM)
    spec = _json(folder / "app.json") or _json(folder / "wanted.json")
    if not claim or not spec:
        return {}
    try:
        lock = Path(spec.get("root") or f"/srv/{folder.name}") / "lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return claim
    finally:
        os.close(descriptor)
    return {}


def _taken(known: dict) -> int | None:
    """Bytes that an app is expected to take by a plan; None where that cannot be read."""
    try:
        return min(int(known["memory_deploy_peak"]), int(known.get("memory_max") or sys.maxsize))
    except (KeyError, TypeError, ValueError):
        return None


def _neighbour(folder: Path, claim: dict, now: dict, taken: int) -> Neighbour:
    wanted = _json(folder / "wanted.json") if claim else {}
    weight = (wanted or _json(folder / "app.json")).get("weight", WEIGHT)
    inputs = (claim or now).get("inputs") or {}
    try:
        workload, settings = Workload.from_dict(inputs["workload"]), Settings.from_dict(inputs["settings"])
    except (SizingError, KeyError, TypeError):
        return Neighbour(folder.name, taken, weight)
    if any(name in settings for name in OWN_LIMITS):
        return Neighbour(folder.name, taken, weight)
    return Neighbour(folder.name, taken, weight, workload, settings)


def _json(path: Path) -> dict:
    """A file's object; empty where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _beside(
    options: dict, host: Budget, workload: Workload, settings: Settings, alone: Plan
) -> tuple[Budget, Plan]:
    """The plan beside the other apps: as if alone where all fit so, else of this app's part by weight."""
    beside = others(options["name"])
    taken, expected = sum(one.taken for one in beside), _peak(alone)
    share = share_of(host, workload, settings)
    wishes = sum(one.wish(host) for one in beside)
    if not beside or expected + max(taken, wishes) <= share.available:
        return host, alone
    if any(name in settings for name in OWN_LIMITS):
        if expected + taken > host.memory_bytes:
            raise Refused(_crowded(options, expected, beside, host))
        return host, alone
    try:
        least, wanted = needs(host, workload, settings)
        mine = App(options["name"], options["weight"], least, wanted)
        apps = [mine, *(App(one.name, one.weight, *one.needs(host)) for one in beside)]
        part = apportion(share.available, apps, share.reserved)[options["name"]]
    except SizingError as error:
        known = workload.measured or (options["workload"] or {}).get("app_memory")
        less = (
            ""
            if known
            else f"; or say {options['prefix']}workload.app_memory if it takes less than others do"
        )
        raise Refused(f"{options['prefix']}memory: {error}{less}") from error
    left = share.available - taken
    own = part_of(host, workload, settings, part if left < least else min(part, left))
    names = ", ".join(one.name for one in beside)
    own = replace(own, memory_source=f"{host.memory_source}, shared with {names}")
    return own, plan(own, workload, settings)


def _peak(made: Plan) -> int:
    return int(str(made.value("memory_deploy_peak")))


def _crowded(options: dict, needed: int, beside: list, host: Budget) -> str:
    prefix = options["prefix"]
    named = ", ".join(f"{format_bytes(one.taken)} for {one.name}" for one in beside)
    return (
        f"{prefix}memory: {options['name']} needs {format_bytes(needed)} beside {named}, and this "
        f"host has {format_bytes(host.memory_bytes)} in all; lower {prefix}memory of an app that needs less, "
        "or give the host more"
    )


def _refuse_more_than_there_is(options: dict, host: Budget, settings: Settings) -> None:
    wanted = int(str(settings.value("memory_limit", 0)))
    if wanted > host.memory_bytes * NOMINAL:
        written = "memory" if options["memory"] else "settings.memory_limit"
        raise Refused(
            f"{options['prefix']}{written}: given {format_bytes(wanted)}, more than this host has "
            f"({format_bytes(host.memory_bytes)})"
        )


def _refuse_no_connection(options: dict, made: Plan) -> None:
    """Workers that the database leaves no connection for would only answer with errors."""
    connections = connections_of(made.settings)
    workers = int(str(made.value("workers")))
    needed = worker_count_in_deploy(str(made.value("strategy")), workers)
    if connections is None or connections.usable >= needed:
        return
    prefix, database = options["prefix"], options["database"] or {}
    in_settings = "database_max_connections" in options["settings"]
    written = "settings.database_max_connections" if in_settings else "database.max_connections"
    if "workers" in options["settings"]:
        written = "settings.workers"
    reserve = "" if "reserved_connections" in database else f", or say {prefix}database.reserved_connections"
    count = f"{workers} worker{'s' if workers > 1 else ''}"
    raise Refused(
        f"{prefix}{written}: {connections.sentence()}, and {count} in a deploy by {made.value('strategy')} "
        f"need {needed}; allowed: at least {needed + connections.reserved} connections{reserve}"
    )


def _too_small(options: dict, host: Budget, workload: Workload, settings: Settings, made: Plan) -> str:
    """The choice without which the app would fit, by its variable; else that the host is too small."""
    prefix, why = options["prefix"], made.verdict.why
    for name in settings:
        without = Settings({key: one for key, one in settings.items() if key != name})
        if plan(host, workload, without).verdict.level == "not viable":
            continue
        if name == "memory_limit" and options["memory"]:
            least = format_bytes(_least_limit(host, workload, without, f"{prefix}memory"))
            return f"{prefix}memory: given {options['memory']}; {options['name']} needs at least {least} here"
        if name == "database_memory" and "database_memory" not in options["settings"]:
            return f"{prefix}database.memory: {format_bytes(_size(settings, name))} leave too little: {why}"
        return f"{prefix}settings.{name}: {settings.value(name)} does not fit on this host: {why}"
    return f"this host is too small for {options['name']}: {why}"


def _size(settings: Settings, name: str) -> int:
    return int(str(settings.value(name)))


def _least_limit(host: Budget, workload: Workload, settings: Settings, source: str) -> int:
    """The smallest memory_limit, in steps of 4 MiB, with which the app is viable on this host; by halving."""
    low, high = 0, host.memory_bytes // STEP
    while low + 1 < high:
        middle = (low + high) // 2
        limit = Settings.from_mapping({"memory_limit": middle * STEP}, source)
        if plan(host, workload, Settings.merged(limit, settings)).verdict.level == "not viable":
            low = middle
        else:
            high = middle
    return high * STEP
