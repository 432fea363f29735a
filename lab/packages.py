"""Debian packages that the lab itself needs, installed when they lack."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Sequence

from lab import checkout
from lab.errors import LabError
from lab.privilege import as_root
from lab.progress import Steps

_lock = threading.Lock()  # steps run side by side, apt does not
_APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]


def has_program(name: str) -> bool:
    """Whether a program is there, also where only root's PATH leads to."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def is_known(package: str) -> bool:
    """Whether apt could install this package."""
    answer = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True, check=False)
    return "Candidate:" in answer.stdout and "Candidate: (none)" not in answer.stdout


def install(step: str, names: Sequence[str], steps: Steps) -> None:
    """Install packages inside a step; LabError where this machine has no apt or apt fails."""
    if shutil.which("apt-get") is None:
        raise LabError(
            f"{' and '.join(names)} are missing and this is not Debian or Ubuntu: install them first"
        )
    log = checkout.state_dir() / "apt.log"
    command = as_root([*_APT, "-y", "install", "--no-install-recommends", *names])
    with _lock:
        try:
            steps.stream(step, command, log, shield=True)
        except LabError:  # the lists are stale, or were never fetched
            steps.stream(step, as_root([*_APT, "update"]), log, shield=True)
            steps.stream(step, command, log, shield=True)
