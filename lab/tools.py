"""The checkout's own tools in `.venv`, at exactly the versions that requirements/dev.txt pins.

A stamp of what went in makes the second call free. uv installs them, itself installed by its own pinned
hash; pip takes over where uv cannot reach what pip was configured for.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from lab import checkout, packages
from lab.errors import LabError
from lab.machine import Machine
from lab.progress import Steps

VENV = checkout.ROOT / ".venv"
REQUIREMENTS = checkout.ROOT / "requirements" / "dev.txt"
COLLECTION = checkout.ROOT / ".ansible/collections/ansible_collections/farrier/web"
STEP = "Tools in .venv"  # its name in every command's progress


def bin_path(program: str) -> str:
    """A program of the tools."""
    return str(VENV / "bin" / program)


def environment() -> dict[str, str]:
    """The environment for running the tools: `.venv/bin` first, no stray Python settings of the caller."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return env | {
        "PATH": f"{VENV / 'bin'}:{env.get('PATH', '/usr/bin:/bin')}",
        "VIRTUAL_ENV": str(VENV),
        # Ansible refuses to start under a locale that is not UTF-8, which a bare machine has.
        "LC_ALL": "C.UTF-8",
    }


def ansible_environment() -> dict[str, str]:
    """For the checkout's playbooks: its ansible.cfg, which Ansible ignores in a folder open to all."""
    return environment() | {"ANSIBLE_CONFIG": str(checkout.ROOT / "ansible.cfg")}


def ensure(steps: Steps) -> str:
    """Make `.venv` what the pins say; in a few words what was done. LabError where it cannot be made."""
    link_collection()
    stamp = VENV / ".stamp"
    wanted = _stamp()
    if stamp.is_file() and stamp.read_text() == wanted:
        return "as pinned"
    log = checkout.state_dir() / "tools.log"
    log.unlink(missing_ok=True)
    if not _runs(VENV / "bin" / "python"):
        _make_venv(steps, log)
    _install(steps, log)
    stamp.write_text(wanted)
    return f"{sum('==' in line for line in REQUIREMENTS.read_text().splitlines())} packages by hash"


def link_collection() -> None:
    """Let Ansible find the checkout itself as the collection `farrier.web`."""
    COLLECTION.parent.mkdir(parents=True, exist_ok=True)
    if not COLLECTION.is_symlink():
        COLLECTION.symlink_to("../../../..")


def _stamp() -> str:
    parts = (REQUIREMENTS.read_bytes(), sys.version.encode(), str(checkout.ROOT).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _runs(python: Path) -> bool:
    """Whether this interpreter is there and is the version that runs us: a venv dies with its Python."""
    code = f"import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])!r})"
    return python.exists() and subprocess.run([str(python), "-c", code], check=False).returncode == 0


def _make_venv(steps: Steps, log: Path) -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    try:
        steps.stream(STEP, command, log)
    except LabError:
        # Debian ships venv apart from Python.
        packages.install(STEP, ["python3-venv"], steps)
        steps.stream(STEP, command, log)


def _install(steps: Steps, log: Path) -> None:
    pip = [
        bin_path("python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--require-hashes",
        "-r",
    ]
    env = environment()
    only_uv = VENV / "uv.txt"
    only_uv.write_text(_pins_of("uv"))
    steps.stream(STEP, [*pip, str(only_uv)], log, env)
    uv = [bin_path("uv"), "pip"]
    uv_env = env | _uv_settings()
    try:
        steps.stream(STEP, [*uv, "sync", "--require-hashes", str(REQUIREMENTS)], log, uv_env)
    except LabError:
        steps.detail(STEP, "uv cannot, pip tries")
        steps.stream(STEP, [*pip, str(REQUIREMENTS)], log, env)
    editable = ["install", "--no-deps", "--no-build-isolation", "--offline", "-e", str(checkout.ROOT)]
    steps.stream(STEP, [*uv, *editable], log, uv_env)


def _uv_settings() -> dict[str, str]:
    """What pip was configured for, in uv's words."""
    machine = Machine.read()
    settings = {name: value for name, value in machine.environment.items() if name.startswith("UV_")}
    if machine.bundle:
        settings["SSL_CERT_FILE"] = os.environ.get("SSL_CERT_FILE") or machine.bundle
    return settings


def _pins_of(package: str) -> str:
    """The requirement of one package with its hashes, out of the pinned list."""
    lines = REQUIREMENTS.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{package}=="))
    taken = [lines[start]]
    for line in lines[start + 1 :]:
        if not line.startswith("    --hash"):
            break
        taken.append(line)
    return "\n".join(taken).rstrip("\\ ") + "\n"
