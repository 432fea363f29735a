"""Finding the interpreter that an app asks for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import FarrierError

# gunicorn 27 needs 3.10.
LEAST = (3, 10)
# The wheel of pip that ensurepip would install: in its own folder, or where a distribution keeps wheels.
_ASK = """
import json, sys, sysconfig, glob, os, importlib.util as u
e = u.find_spec("ensurepip")
folders = [os.path.join(os.path.dirname(e.origin), "_bundled")] if e and e.origin else []
folders.append(sysconfig.get_config_var("WHEEL_PKG_DIR") or "/usr/share/python-wheels")
pip = [w for f in folders for w in glob.glob(os.path.join(f, "pip-*.whl"))]
print(json.dumps([list(sys.version_info[:3]), bool(e and u.find_spec("venv")),
    sys.implementation.cache_tag, pip[-1] if pip else ""]))
"""


@dataclass(frozen=True)
class Python:
    """An interpreter of this host."""

    path: str
    version: str
    tag: str
    can_venv: bool
    pip_wheel: str = ""

    @property
    def identity(self) -> str:
        """What a virtual environment depends on: another patch release needs no new one."""
        return f"{self.tag}:{self.path}"


@cache
def find(wanted: str | None) -> Python:
    """The interpreter for ``"3.11"``, ``"/path/to/python"`` or None (the host's ``python3``).

    Raises FarrierError with what there is instead.
    """
    name = "python3" if wanted is None else wanted if wanted.startswith("/") else f"python{wanted}"
    search = os.pathsep.join(("/usr/local/bin", "/usr/bin", "/opt/python/bin"))
    path = name if name.startswith("/") else shutil.which(name, path=search)
    if path is None or not os.access(path, os.X_OK) or Path(path).is_dir():
        have = ", ".join(installed()) or "none"
        raise FarrierError(
            f"python: given {wanted or 'python3'}, which this host does not have; it has {have}; "
            "install it, or give its absolute path"
        )
    found = _ask(path)
    version = tuple(int(part) for part in found.version.split("."))
    if version[:2] < LEAST:
        raise FarrierError(f"python: given {path}, which is {found.version}; allowed: 3.10 or later")
    return found


def installed() -> list[str]:
    """The versions that lie in the usual folders, such as ``["3.11", "3.13"]``."""
    names = {p.name for d in ("/usr/bin", "/usr/local/bin") for p in Path(d).glob("python3.*")}
    versions = {n.removeprefix("python") for n in names if n.removeprefix("python3.").isdigit()}
    return sorted(versions, key=lambda text: int(text.split(".")[1]))


def _ask(path: str) -> Python:
    try:
        done = subprocess.run([path, "-Ic", _ASK], capture_output=True, text=True, timeout=30)
        version, can_venv, tag, pip_wheel = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise FarrierError(f"python: given {path}, which does not answer as a Python interpreter") from None
    return Python(path, ".".join(map(str, version)), tag, can_venv, pip_wheel)
