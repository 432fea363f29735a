"""The sheet on which a plan's fields are worked out, a person's choice above the plan's own."""

from __future__ import annotations

from .fields import UNITS, Field
from .settings import Settings, Value
from .strategy import Fit, Problem, fit
from .units import format_bytes

SHAPING = (
    "workers",
    "threads",
    "worker_connections",
    "preload_app",
    "freeze_heap",
    "strategy",
    "low_memory_mode",
)
"""Choices that change the arrangement itself: what the plan would have said is worked out without them."""


class Sheet:
    """Fields as they are worked out.

    ``one`` is the arrangement in force; ``own`` the one that the plan would make without a person's choices
    about it, for the reasons.
    """

    def __init__(self, problem: Problem, one: Fit) -> None:
        self.problem, self.one = problem, one
        self.own_problem, self.own = problem, one
        self.fields: dict[str, Field] = {}
        if any(name in problem.settings for name in SHAPING):
            kept = {name: setting for name, setting in problem.settings.items() if name not in SHAPING}
            self.own_problem = Problem.of(problem.budget, problem.workload, Settings(kept))
            self.own = fit(self.own_problem)

    def view(self, name: str) -> tuple[Problem, Fit]:
        """What a field's answer is worked out from: without a person's choices where they chose this one."""
        chosen = name in self.problem.settings
        return (self.own_problem, self.own) if chosen else (self.problem, self.one)

    def add(self, name: str, value: Value, why: str, bound_by: str) -> Value:
        """The plan's answer, or the person's with the plan's beside it."""
        unit, setting = UNITS.get(name, ""), self.problem.settings.get(name)
        field = Field(name, value, unit, why, bound_by)
        if setting is not None:
            same = "the plan says the same" if setting.value == value else f"the plan: {shown(name, value)}"
            why = f"set by {setting.source}; {same}, {why}"
            field = Field(name, setting.value, unit, why, "person", setting.source)
        self.fields[name] = field
        return field.value

    def whole(self, name: str) -> int:
        """The value of a field that is a whole number."""
        return int(str(self.fields[name].value))


def shown(name: str, value: Value) -> str:
    """A value as people read it: bytes and seconds with a unit, switches as on and off."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if UNITS.get(name) == "bytes" and isinstance(value, int):
        return format_bytes(value)
    return f"{value} s" if UNITS.get(name) == "s" else str(value)
