"""The files that a run would change, before and after: for ``--diff``, secrets as digests."""

from __future__ import annotations

import difflib
import json

from . import envfile, units
from .files import File
from .view import View


def of(view: View, wanted: list[units.Unit]) -> list[dict[str, str]]:
    """Before and after of every file that differs; secrets as digests."""
    found = []
    every: list[File] = list(wanted)
    colour = view.state.active or "blue"
    every.append(units.active(view.layout, colour))
    for file in every:
        try:
            before = file.path.read_text(encoding="utf-8")
        except OSError:
            before = ""
        after = file.text
        if before == after:
            continue
        if file.secret:
            before, after = _masked(before), _masked(after)
        elif file.path.name == "plan.json":
            before, after = _values(before), _values(after)
        header = str(file.path)
        found.append({"before_header": header, "after_header": header, "before": before, "after": after})
    return found


_PLAIN = frozenset(
    {
        "FARRIER_PLAN",
        "FARRIER_SETTINGS",
        "FARRIER_APP",
        "FARRIER_INSTANCE",
        "FARRIER_RELEASE",
        "FARRIER_SLICE",
        "FARRIER_RUN_DIR",
        "FARRIER_HEALTH_PATH",
        "FARRIER_READY",
        "FARRIER_CONFIG",
        "MALLOC_ARENA_MAX",
        "PATH",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE",
    }
)


def _masked(text: str) -> str:
    if not text:
        return ""
    values = envfile.parse_dotenv(text, "env")
    return envfile.masked(values, _PLAIN)


def _values(text: str) -> str:
    """A plan's values alone, one a line: the reasons are in ``plan`` of the same answer."""
    try:
        data = json.loads(text or "{}")
    except ValueError:
        return text
    flat = {name: value for name, value in data.items() if not isinstance(value, dict | list)}
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in sorted(flat.items()))


def unified(found: list[dict[str, str]]) -> str:
    """The diffs as a person reads them."""
    out: list[str] = []
    for one in found:
        pair = (one["before"].splitlines(keepends=True), one["after"].splitlines(keepends=True))
        out += difflib.unified_diff(*pair, one["before_header"], one["after_header"])
    return "".join(line if line.endswith("\n") else line + "\n" for line in out)
