"""Find a Docker engine, or install and start one; stop only the one that was started here.

Docker is driven by its own command. An engine that answers is used as it is. Where none answers: systemd is
asked to start it; where systemd is not the init, `dockerd` is started directly and its pid is kept, so that
`make down` ends exactly that process. Debian's `docker.io` is installed only when the caller allows it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import checkout, packages
from lab.errors import LabError
from lab.privilege import as_root, is_possible
from lab.progress import Steps

_START_SECONDS = 60.0
LABEL = "farrier.lab"  # on every container of every lab; its value is the checkout's identity


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answers; `command` is how to reach it (`docker`, or sudo and docker)."""

    command: tuple[str, ...]
    version: str
    cgroup_version: int

    def call(
        self, *arguments: str, check: bool = True, timeout: float | None = 120, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a docker command and capture what it says.

        LabError with its last line where it fails, and where it takes longer than `timeout` seconds.
        """
        try:
            result = subprocess.run(
                [*self.command, *arguments],
                capture_output=True,
                text=True,
                timeout=timeout,
                input=stdin,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"docker {' '.join(arguments[:2])}: no end within {timeout:g} s") from error
        if check and result.returncode:
            said = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
            raise LabError(f"docker {' '.join(arguments[:2])}: {said[-1]}")
        return result

    def containers(self, *filters: str, running: bool = False) -> list[str]:
        """Ids of containers that match docker's own filters (`label=...`, `name=...`)."""
        flags = [part for condition in filters for part in ("--filter", condition)]
        listed = self.call("ps", "-q", "--no-trunc", *([] if running else ["-a"]), *flags)
        return listed.stdout.split()

    def has_image(self, name: str) -> bool:
        """Whether the engine holds this image."""
        return self.call("image", "inspect", name, check=False).returncode == 0


def find() -> Engine | None:
    """The engine that answers now, by our own right or by sudo."""
    if shutil.which("docker") is None:
        return None
    commands: list[tuple[str, ...]] = [("docker",)]
    if os.geteuid() and is_possible():
        commands.append(tuple(as_root(["docker"])))
    for command in commands:
        answer = subprocess.run(
            [*command, "info", "--format", "{{.ServerVersion}} {{.CgroupVersion}}"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        words = answer.stdout.split()
        if answer.returncode == 0 and len(words) == 2 and words[1].isdigit():
            return Engine(command, words[0], int(words[1]))
    return None


def ensure(install: bool = False, steps: Steps | None = None) -> Engine:
    """An engine that answers. Starts one where none does; installs one first where `install` allows it.

    LabError, in one line, where this machine cannot have one.
    """
    if engine := find():
        return engine
    if chosen := os.environ.get("DOCKER_HOST"):  # a person's choice: starting another one would not be it
        raise LabError(f"DOCKER_HOST={chosen} does not answer: start that engine, or unset DOCKER_HOST")
    if not (packages.has_program("dockerd") and packages.has_program("docker")):
        if not install:
            raise LabError("no Docker engine answers here: run `make engine`, or start yours, and try again")
        _install(steps or Steps())
        if engine := find():  # the package starts it where systemd runs
            return engine
    return _start()


def _install(steps: Steps) -> None:
    names = ["docker.io", "iptables"]
    # The client is a package of its own from Debian 13 on, and only recommended there.
    packages.install("Docker engine", names, steps)
    if not packages.has_program("docker") and packages.is_known("docker-cli"):
        packages.install("Docker engine", ["docker-cli"], steps)


def _start() -> Engine:
    log = _log()
    by_systemd = Path("/run/systemd/system").is_dir()
    pid = None if by_systemd else _spawn(log)
    if by_systemd:
        subprocess.run(as_root(["systemctl", "start", "docker"]), capture_output=True, check=False)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if engine := find():
            return engine
        if pid is not None and not is_alive(pid):
            break
        time.sleep(0.3)
    if pid is not None:
        _end(pid)
        raise LabError(f"the Docker engine does not start: {_last_error(log)}")
    raise LabError("the Docker engine does not start: `journalctl -u docker` says why")


def _spawn(log: Path) -> int:
    """Start dockerd in a session of its own: Ctrl-C at the terminal must not end it under a half-made image.

    The shell's `$!` is dockerd's own pid, also behind sudo: setsid and dockerd take over the same process.
    """
    log.touch()
    script = 'setsid dockerd >>"$1" 2>&1 </dev/null & echo $!'
    answer = subprocess.run(
        as_root(["sh", "-c", script, "sh", str(log)]), capture_output=True, text=True, check=False
    )
    if not answer.stdout.strip().isdigit():
        raise LabError(f"the Docker engine does not start: {answer.stderr.strip() or 'no pid'}")
    pid = int(answer.stdout)
    # Before it answers: interrupted now, the next `make down` still knows whom to end.
    _record().write_text(json.dumps({"pid": pid, "started": started_at(pid)}))
    return pid


def _last_error(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it said nothing'} (whole log: {log})"


def started_at(pid: int) -> str | None:
    """A process's start time in clock ticks since boot: with the pid, a name that is never used twice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[19]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _log() -> Path:
    return checkout.machine_state_dir() / "dockerd.log"


def _record() -> Path:
    return checkout.machine_state_dir() / "engine.json"


def started_here() -> int | None:
    """The pid of the engine that a lab of this person started and that still runs."""
    try:
        record: dict[str, Any] = json.loads(_record().read_text())
    except (FileNotFoundError, ValueError):
        return None
    pid = record.get("pid")
    if not isinstance(pid, int) or started_at(pid) != record.get("started"):
        return None
    return pid if is_alive(pid) else None


def stop() -> str:
    """Stop the engine if a lab started it and no container needs it; says in a few words what it did."""
    pid = started_here()
    if pid is None:
        _record().unlink(missing_ok=True)
        return "not started here, left as it is"
    engine = find()
    if engine and (others := engine.containers(running=True)):
        return f"left running, for {len(others)} container(s) of others use it"
    if not _end(pid):
        return f"asked to stop, still running after 30 s (pid {pid})"
    for left_over in (_record(), _log()):
        left_over.unlink(missing_ok=True)
    return "stopped"


def _end(pid: int) -> bool:
    subprocess.run(as_root(["kill", "-TERM", str(pid)]), capture_output=True, check=False)
    deadline = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not is_alive(pid)
