"""A plan for people: a table to read at 3 a.m., and one number with its arithmetic."""

from __future__ import annotations

from textwrap import wrap

from .plan import Plan, shown


def render_plan(plan: Plan, width: int = 100) -> str:
    """The plan as text no wider than ``width`` columns."""
    lines = [plan.verdict.level + ": " + plan.verdict.why]
    for name, field in plan.fields.items():
        lines += wrap(
            f"{name:22} {shown(name, field.value):10} {field.why} [{field.bound_by}]",
            width,
            subsequent_indent=" " * 33,
        )
    return "\n".join(lines)


def explain(plan: Plan, name: str) -> str:
    """One number: its inputs, its arithmetic, what bound it."""
    field = plan[name]
    return f"{name} = {shown(name, field.value)}\n{field.why}\nbound by {field.bound_by}"
