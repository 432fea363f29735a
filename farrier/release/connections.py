"""Database connections of a host's apps together: each is planned as if the database were its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def too_many(plans: Mapping[str, Mapping[str, Any]]) -> str:
    """What is to be said where apps of a host hold more than there are; else empty. Pure.

    `plans`: the plan.json of each. An app whose maximum a person stated was given its part, or has a database
    of its own.
    """
    from ..sizing.plan import Plan
    from ..sizing.together import shared_database
    from ..sizing.units import SizingError

    undivided = []
    for name, data in sorted(plans.items()):
        try:
            made = Plan.from_dict(data)
        except SizingError:
            continue
        if "database_max_connections" not in made.settings:
            undivided.append((name, made))
    return shared_database(undivided) or ""
