"""Root where it is needed, by sudo where we are not root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache

from lab.errors import LabError


@cache
def _prefix() -> tuple[str, ...]:
    if os.geteuid() == 0:
        return ()
    if shutil.which("sudo") is None:
        raise LabError(
            "this needs root, and there is no sudo here: run it as root, or install sudo and try again"
        )
    if subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0:
        return ("sudo", "-n")
    if sys.stdin.isatty() and subprocess.run(["sudo", "-v"], check=False).returncode == 0:
        return ("sudo",)
    raise LabError(
        "this needs root, and sudo asks for a password that nobody can type here: run `sudo -v` first"
    )


def as_root(command: list[str]) -> list[str]:
    """The command as root would run it; LabError where there is no way to become root."""
    return [*_prefix(), *command]


def needs_terminal() -> bool:
    """Whether sudo knows us by this terminal only: a session of its own would be asked again."""
    return _prefix() == ("sudo",)


def is_possible() -> bool:
    """Whether `as_root` can answer at all."""
    try:
        _prefix()
    except LabError:
        return False
    return True
