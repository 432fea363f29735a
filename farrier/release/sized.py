"""From a spec to a plan: the seam between this package and farrier.sizing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import FarrierError
from . import files
from . import state as states
from .layout import CLAIM, ETC
from .spec import WEIGHT

if TYPE_CHECKING:
    from pathlib import Path

    from ..sizing.budget import Budget
    from ..sizing.plan import Plan
    from ..sizing.settings import Settings
    from ..sizing.together import Neighbour
    from ..sizing.workload import Workload
    from .layout import Layout
    from .spec import Spec

SETTINGS_SOURCE = "settings.json"


def workload_of(given: Mapping[str, Any]) -> Workload:
    """The workload that a person described. Raises SizingError, for an unknown key too."""
    from ..sizing.workload import Workload

    return Workload.from_mapping(given)


def settings_of(spec: Spec, env: Mapping[str, str]) -> Settings:
    """A person's choices: names in the app's environment (WORKERS …) stand above the spec's settings."""
    from ..sizing.settings import Settings

    lower = Settings.from_mapping({"runtime": "systemd", **spec.settings}, SETTINGS_SOURCE)
    return Settings.merged(Settings.from_environ(env), lower)


@dataclass(frozen=True)
class Fitted:
    """The plan of an app beside the others of its host, and what becomes of theirs."""

    plan: Plan
    too_large: tuple[tuple[Neighbour, int], ...] = ()
    """Who has more than its part by weight, and that part in bytes."""
    must_shrink: bool = False
    """This app does not fit before they have their part only."""

    def told(self, one: Neighbour, part: int) -> str:
        """A line for a person."""
        from ..sizing.units import format_bytes

        return (
            f"the plan of {one.name} would now be of {format_bytes(part)} by weight instead of "
            f"{format_bytes(one.taken)}; its next deploy takes that"
        )


def others(name: str) -> list[Neighbour]:
    """The other apps of this host: by the plan in force, or the claim of a run under way if that is larger.

    The claim of a run that is gone counts for nothing: its app's lock is free.
    """
    found = []
    for folder in _folders(name):
        claim, now = _live_claim(folder), files.read_json(folder / "plan.json")
        taken = [size for one in (claim, now) if one is not None and (size := _taken(one)) is not None]
        if taken:
            # What serves stays as large as it is until the run has made it smaller.
            found.append(_neighbour(folder, claim, now or {}, max(taken)))
    return found


def plans_of_others(name: str) -> dict[str, dict[str, Any]]:
    """The plans of the other apps of this host: claimed by a run under way, or in force."""
    found = {one.name: _live_claim(one) or files.read_json(one / "plan.json") for one in _folders(name)}
    return {name: plan for name, plan in found.items() if plan is not None}


def _folders(name: str) -> list[Path]:
    return sorted(path for path in ETC.glob("*") if path.name != name)


def _live_claim(folder: Path) -> dict[str, Any] | None:
    """The claim in an app's folder, if the run that made it is under way."""
    data = files.read_json(folder / CLAIM)
    try:
        return data if data is not None and states.is_locked(states.layout_of(folder.name)) else None
    except FarrierError:
        return None


def _taken(plan: Mapping[str, Any]) -> int | None:
    """Bytes that an app is expected to take by a plan; None where that cannot be read."""
    try:
        return min(int(plan["memory_deploy_peak"]), int(plan.get("memory_max") or sys.maxsize))
    except (KeyError, TypeError, ValueError):
        return None


def _neighbour(
    folder: Path, claim: Mapping[str, Any] | None, now: Mapping[str, Any], taken: int
) -> Neighbour:
    from ..sizing.settings import Settings
    from ..sizing.together import OWN_LIMITS, Neighbour
    from ..sizing.units import SizingError
    from ..sizing.workload import Workload

    wanted = files.read_json(folder / "wanted.json") if claim is not None else None
    weight = (wanted or files.read_json(folder / "app.json") or {}).get("weight", WEIGHT)
    inputs = (now if claim is None else claim).get("inputs") or {}
    try:
        workload, settings = Workload.from_dict(inputs["workload"]), Settings.from_dict(inputs["settings"])
    except (SizingError, KeyError, TypeError):
        return Neighbour(folder.name, taken, weight)
    if any(name in settings for name in OWN_LIMITS):
        return Neighbour(folder.name, taken, weight)
    return Neighbour(folder.name, taken, weight, workload, settings)


def plan_for(
    spec: Spec, layout: Layout, measured: Mapping[str, Any], env: Mapping[str, str], serves: bool = False
) -> Plan:
    """The plan of this app on this host, now: that of :func:`fitted`."""
    return fitted(spec, layout, measured, env, serves).plan


def fitted(
    spec: Spec,
    layout: Layout,
    measured: Mapping[str, Any],
    env: Mapping[str, str],
    serves: bool = False,
    by_part: bool = False,
) -> Fitted:
    """The plan of this app on this host, now, beside the other apps.

    `measured` is what is known of the release. `serves`: it is the one that serves, which keeps its part as
    long as all fit. `by_part`: this app gives way to another one, to its part by weight.

    Where all fit as each would be alone, each is planned so. Else each has a part by weight; others keep what
    they have until their own next deploy, if this one finds room for its least beside them. Raises
    SizingError, and FarrierError that says what does not fit and what would.
    """
    from ..sizing.budget import read_budget
    from ..sizing.memory import share_of
    from ..sizing.plan import plan
    from ..sizing.together import OWN_LIMITS

    # The machine as its init sees it: a limit of the caller's own session is none of the app's.
    budget = read_budget(pid=1, ignore=(layout.slice,))
    workload, settings = workload_for(spec, measured), settings_of(spec, env)
    alone = plan(budget, workload, settings)
    beside = others(spec.name)
    taken = sum(one.taken for one in beside)
    expected, available = peak(alone), share_of(budget, workload, settings).available
    wishes = sum(one.wish(budget) for one in beside)
    if not beside or expected + max(taken, wishes) <= available:
        return Fitted(alone)
    if any(name in settings for name in OWN_LIMITS):
        if expected + taken > budget.memory_bytes:
            raise FarrierError(_too_much(spec.name, expected, beside, budget.memory_bytes))
        return Fitted(alone)
    if serves and not by_part and (kept := _in_force(layout, budget, workload, settings, available - taken)):
        return Fitted(kept)
    part, least, parts = _parts(spec, budget, workload, settings, beside)
    left = available - taken
    mine = part if by_part or left < least else min(part, left)
    found = plan(_budget_of(budget, workload, settings, mine, beside), workload, settings)
    too_large = tuple((one, parts[one.name]) for one in beside if one.taken > parts[one.name])
    return Fitted(found, too_large, left < least)


def peak(made: Plan) -> int:
    """Bytes that an app is expected to take by its plan, a deploy included."""
    return int(str(made.value("memory_deploy_peak")))


def _in_force(
    layout: Layout, budget: Budget, workload: Workload, settings: Settings, left: int
) -> Plan | None:
    """The plan that the app serves with, made again of its own part; None where it is not to stay.

    It stays for the same host, app and choices, and where the others leave what it takes.
    """
    from ..sizing.plan import Plan, plan
    from ..sizing.units import SizingError

    try:
        known = Plan.from_dict(files.read_json(layout.etc / "plan.json") or {})
    except SizingError:
        return None
    of_host = (known.budget.memory_bytes + known.budget.taken_bytes, known.budget.cpus)
    if of_host != (budget.memory_bytes, budget.cpus) or (known.workload, known.settings.to_dict()) != (
        workload,
        settings.to_dict(),
    ):
        return None
    again = plan(known.budget, workload, settings)
    return again if min(peak(again), int(str(again.value("memory_max") or sys.maxsize))) <= left else None


def _parts(
    spec: Spec, budget: Budget, workload: Workload, settings: Settings, beside: list[Neighbour]
) -> tuple[int, int, dict[str, int]]:
    """This app's part in bytes, the least that it needs, and the parts of all. Raises FarrierError."""
    from ..sizing.apportion import App, apportion, needs
    from ..sizing.memory import share_of
    from ..sizing.units import SizingError

    share = share_of(budget, workload, settings)
    try:
        least, wanted = needs(budget, workload, settings)
        apps = [App(spec.name, spec.weight, least, wanted)]
        for one in beside:
            apps.append(App(one.name, one.weight, *one.needs(budget)))
        parts = apportion(share.available, apps, share.reserved)
    except SizingError as error:
        raise FarrierError(f"memory: {error}") from None
    return parts[spec.name], least, parts


def _budget_of(
    budget: Budget, workload: Workload, settings: Settings, part: int, beside: list[Neighbour]
) -> Budget:
    """The budget of a part of the host."""
    from ..sizing.apportion import part_of

    found = part_of(budget, workload, settings, part)
    return replace(found, memory_source=f"{budget.memory_source}, shared with {_names(beside)}")


def _names(beside: list[Neighbour]) -> str:
    return ", ".join(one.name for one in beside)


def _too_much(name: str, needed: int, beside: list[Neighbour], memory: int) -> str:
    from ..sizing.units import format_bytes

    named = ", ".join(f"{format_bytes(one.taken)} for {one.name}" for one in beside)
    return (
        f"memory: {name} needs {format_bytes(needed)} beside {named}, and this host has "
        f"{format_bytes(memory)} in all; lower settings.memory_limit (gunicorn_app_memory) of an app that "
        "needs less, or give the host more"
    )


def workload_for(spec: Spec, measured: Mapping[str, Any]) -> Workload:
    """What the person said of the app, then what the import check saw, then the profile."""
    given = dict(spec.workload)
    for name in ("framework", "worker_class"):
        if name not in given and measured.get(name):
            given[name] = measured[name]
    if spec.settings.get("worker_class"):
        given["worker_class"] = spec.settings["worker_class"]
    if measured.get("measurement"):
        from ..sizing.measurement import workload_of as workload_measured

        return workload_measured(measured["measurement"], given)
    assumed = workload_of(given)
    # A bare import sees less than a warm process: it may only raise the profile's assumption.
    memory = int(measured.get("app_memory", 0))
    if "app_memory" not in given and memory > assumed.app_memory_bytes:
        given["app_memory"] = memory
    seconds = float(measured.get("boot_seconds", 0))
    if "boot_seconds" not in given and seconds > assumed.boot_seconds:
        given["boot_seconds"] = seconds
    return workload_of(given)
