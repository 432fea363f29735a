"""What is stored outlives versions: an older release reads a newer plan, and a newer one an older plan.

A version writes a key that an older one would not know only where it says something, and passes over what it
does not know itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any


def known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``data`` that are fields of the dataclass ``kind``: a newer version wrote the others."""
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in dict(data).items() if name in names}


def without_defaults(kind: type[Any], data: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """``data`` without those of ``names`` that hold the default of the dataclass ``kind``."""
    defaults = {
        one.name: one.default for one in fields(kind) if one.name in names and one.default is not MISSING
    }
    return {name: value for name, value in data.items() if name not in defaults or value != defaults[name]}
