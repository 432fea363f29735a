"""Sizes and shares as people write them, and the one error of this package."""

from __future__ import annotations

KIB = 2**10
MIB = 2**20
GIB = 2**30

_SUFFIXES = {"": 1, "b": 1} | {
    letter + rest: 2**power
    for letter, power in (("k", 10), ("m", 20), ("g", 30), ("t", 40))
    for rest in ("", "b", "i", "ib")
}


class SizingError(ValueError):
    """One line that says what was given and what is allowed."""


def parse_bytes(size: str | int | float) -> int:
    """Bytes of a size such as ``512MiB``, ``512M``, ``512 MB``, ``1.5g`` or ``536870912``.

    M, MB and MiB all mean 2**20, as Docker, systemd and Kubernetes' Mi have it: who writes
    "a 512 MB machine" means that. A bare number is bytes. Raises SizingError.
    """
    if isinstance(size, bool) or not isinstance(size, (str, int, float)):
        raise _bad_size(size)
    text = str(size).strip().lower().replace(" ", "")
    digits = text.rstrip("bikmgt")
    factor = _SUFFIXES.get(text[len(digits) :])
    try:
        number = float(digits)
    except ValueError:
        raise _bad_size(size) from None
    if factor is None or not 0 <= number * factor < 2**63:  # NaN fails this as well
        raise _bad_size(size)
    return int(digits) * factor if digits.isdigit() else int(number * factor)


def _bad_size(given: object) -> SizingError:
    return SizingError(f"{given!r} is not a size: write bytes or a number with K, M, G or T, such as 512MiB")


def format_bytes(size: int) -> str:
    """``512 MiB``, ``1.5 GiB``: at most one decimal, for people."""
    if size < 0:
        return "-" + format_bytes(-size)
    if size < KIB:
        return f"{size} B"
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        # whole MiB up to 10 GiB unless they are exact GiB: 1536 MiB says more than 1.5 GiB
        if size >= unit and (unit != GIB or size % (GIB // 2) == 0 or size >= 10 * GIB):
            number = size / unit
            if unit == MIB and number >= 10:
                return f"{round(number)} {name}"
            return f"{number:.1f}".rstrip("0").rstrip(".") + f" {name}"
    raise AssertionError(size)


def parse_cpus(cpus: str | int | float) -> float:
    """CPUs of ``0.5``, ``500m`` (Kubernetes' thousandths) or ``2``. Raises SizingError."""
    bad = SizingError(f"{cpus!r} is not a number of CPUs: write a number above 0, such as 0.5, 2 or 500m")
    if isinstance(cpus, bool) or not isinstance(cpus, (str, int, float)):
        raise bad
    text = str(cpus).strip().lower()
    try:
        number = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        raise bad from None
    if not 0 < number <= 65536:
        raise bad
    return number


def format_cpus(cpus: float) -> str:
    """``0.5``, ``2``: without a needless ``.0``."""
    return f"{cpus:.3f}".rstrip("0").rstrip(".")


def counted(number: float, noun: str) -> str:
    """``1 worker``, ``2 workers``, ``0.5 CPUs``."""
    return f"{format_cpus(number)} {noun}{'' if number == 1 else 's'}"
