"""The short table that a person reads."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from farrier.measure.asking import TRIES
from farrier.sizing import format_bytes

NOT_MEASURED = "not measured"


def render(found: Mapping[str, Any], width: int = 100) -> str:
    """A measurement (schema 1) as text."""
    rows = [*_asked(found), *_memory(found), *_requests(found), *_preload(found)]
    label = max(len(name) for name, _ in rows) + 2
    lines = [_heading(found), ""]
    for name, text in rows:
        lines += _wrapped(name.ljust(label), text, label, width)
    if found["notes"]:
        lines.append("")
        for note in found["notes"]:
            lines += _wrapped("note: ", note, 6, width)
    return "\n".join(lines)


def _heading(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    return (
        f"{found['app']}: {found['worker_class']} workers, Python {found['python']}, gunicorn "
        f"{found['gunicorn']}, {format_bytes(machine['memory_bytes'])} and {_cpus(machine['cpus'])}; "
        f"took {found['seconds']:.1f} s"
    )


def _wrapped(head: str, text: str, indent: int, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _asked(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            "asked" if index == 0 else "",
            f"{one['method']} {one['path']}: {_statuses(one)}",
        )
        for index, one in enumerate(found["requests"])
    ]


def _statuses(one: Mapping[str, Any]) -> str:
    """``200, 1,443 times``; each of them where there are several."""
    several = one.get("statuses") or {}
    if len(several) > 1:
        return ", ".join(f"{status} {count:,} times" for status, count in several.items())
    return f"{one['status'] or 'no answer'}, {one['count']:,} times"


def _memory(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    few = sum(one["count"] for one in found["requests"]) <= TRIES * len(found["requests"])
    warm = "its boot" if few else "the warm-up"
    rows = [
        ("import", f"{_bytes(found['import_memory'])} in {_seconds(found['import_seconds'])}"),
        ("boot of a worker", _seconds(found["boot_seconds"])),
        ("memory of a worker", f"{_bytes(found['app_memory'])} (RSS after {warm})"),
    ]
    for name, key in (("  nothing preloaded", "alone"), ("  preloaded, frozen", "shared")):
        one = found[key]
        text = NOT_MEASURED
        if one is not None:
            plural = "" if one["workers"] == 1 else "s"
            text = (
                f"{_bytes(one['uss'])} its own, {_bytes(one['pss'])} with its part of what is shared (PSS); "
                f"{one['workers']} worker{plural}, master {_bytes(one['master_pss'])}"
            )
        rows.append((name, text))
    if found["shared_fraction"] is not None:
        rows.append(("  kept by a fork", f"{found['shared_fraction']:.0%} of the app's memory"))
    growth = found["growth_per_1000"]
    text = NOT_MEASURED if growth is None else f"{_bytes(growth)} in 1,000 requests"
    if growth == 0:
        text = "none, or next to none"
    return [*rows, ("growth", text)]


def _requests(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    text = NOT_MEASURED
    if found["cpu_per_request"] is not None:
        text = (
            f"{_seconds(found['cpu_per_request'])} of CPU, {_seconds(found['wait_per_request'])} of waiting"
        )
        text += f": {found['kind']}" if found["kind"] else ""
    rows = [("a request", text), ("  one more in hand", _bytes(found["request_memory"]))]
    if found["connection_memory"] is not None:
        parts = ", ".join(f"{name} {_bytes(size)}" for name, size in found["connections"].items())
        rows.append(("a connection", f"{_bytes(found['connection_memory'])} ({parts})"))
    return rows


def _preload(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    safe = {True: "safe: nothing is alive after the import, and preloaded it answers", False: "not safe"}
    rows = [("preload", safe.get(found["preload_safe"], NOT_MEASURED))]
    return rows + [("", one) for one in found["preload_findings"]]


def _cpus(count: float) -> str:
    return f"{count:g} CPU" if count == 1 else f"{count:g} CPUs"


def _bytes(size: int | None) -> str:
    if size is None:
        return NOT_MEASURED
    if size < 1 << 20:
        return f"{size / 1024:.0f} KiB"
    return f"{size / (1 << 20):.1f} MiB" if size < 100 << 20 else format_bytes(size)


def _seconds(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.3g} ms"
