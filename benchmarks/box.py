"""A box: a server in a Docker container that is held to so much memory and CPU, with what it used to read.

    with Boxes("sizing") as boxes:
        box = boxes.start(["farrier", "serve", "app:wsgi"], memory=256 * 2**20, cpus=0.5, app=FOLDER)
        box.wait_ready("/")
        ... load on 127.0.0.1, box.port ...
        print(box.usage())

The image is the lab's Debian with a venv of what people serve apps with, at the versions that this
checkout pins. Farrier itself is not in it: a copy of the checkout's, made when the run began, lies beside it,
so that a run measures one version of it from end to end. A box uses the machine's own network and is told to
listen on loopback: nothing stands between the load and the server, and nobody else reaches it.

All boxes of a run are gone when its `with` ends, by whatever it ends; those of a run that was killed go when
the next one begins.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lab import checkout, engine
from lab.engine import LABEL, Engine
from lab.errors import LabError
from lab.host import OWNER_LABEL, sweep
from lab.image import ensure_base
from lab.machine import Machine

REPOSITORY = "farrier-box"
BOX_LABEL = "farrier.box"  # its value is the name of the run
#: What people serve a Python app with; their versions are those of requirements/dev.txt.
PACKAGES = (
    "gunicorn", "flask", "fastapi", "starlette", "uvicorn", "uvicorn-worker", "httptools", "granian",
    "gevent",
)  # fmt: skip
VENV, FARRIER, APP = "/opt/venv", "/opt/farrier", "/opt/app"
#: An account of Debian's that owns nothing.
NOBODY = "65534:65534"
CGROUPS = Path("/sys/fs/cgroup")
#: Seconds that a server gets between TERM and KILL.
STOP_SECONDS = 10

_LAUNCHER = f"""#!{VENV}/bin/python
import sys
from farrier.cli import main
sys.exit(main())
"""


# --- the image ------------------------------------------------------------------------------------------


def ensure_image(
    packages: Sequence[str] = PACKAGES, debian: Sequence[str] = (), docker: Engine | None = None
) -> str:
    """The name of an image that holds these packages in /opt/venv, made now if the engine lacks it.

    packages: names that requirements/dev.txt pins, or `name==version`. debian: packages from apt besides. The
    tag is the digest of all that goes in. About 30 s when it has to be made. LabError where it cannot be.
    """
    machine = Machine.read()
    base = ensure_base(machine=machine)
    docker = docker or engine.ensure()
    pins = _pins()
    wanted = [_pinned(name, pins) for name in packages]
    script = _script(wanted, pins, debian)
    digest = hashlib.sha256("\0".join((base, script)).encode()).hexdigest()[:12]
    name = f"{REPOSITORY}:{digest}"
    if not docker.has_image(name):
        _make(docker, base, name, script, machine)
    return name


def _pins() -> dict[str, str]:
    """name -> `name==version ; marker` of every package that the checkout pins."""
    text = (checkout.ROOT / "requirements" / "dev.txt").read_text()
    lines = [line.rstrip(" \\") for line in text.splitlines() if re.match(r"[a-z0-9]", line)]
    return {line.split("==")[0]: line for line in lines}


def _pinned(name: str, pins: Mapping[str, str]) -> str:
    if "==" in name:
        return name
    if name not in pins:
        raise LabError(f"package {name!r} is not in requirements/dev.txt: allowed is NAME==VERSION besides")
    return pins[name].split(" ;")[0]


def _script(wanted: Sequence[str], pins: Mapping[str, str], debian: Sequence[str]) -> str:
    """What makes the image out of the base."""
    constraints = "\n".join(line for line in pins.values() if "python_full_version >=" not in line)
    apt = (
        f"apt-get -q update\napt-get -q -y install {' '.join(debian)}\nrm -rf /var/lib/apt/lists/*\n"
        if debian
        else ""
    )
    return f"""set -e
export DEBIAN_FRONTEND=noninteractive
{apt}python3 -m venv {VENV}
cat > /tmp/constraints.txt <<'END'
{constraints}
END
{VENV}/bin/pip install -q --no-cache-dir --disable-pip-version-check -c /tmp/constraints.txt \\
  {" ".join(wanted)}
echo {FARRIER} > {VENV}/lib/python3.11/site-packages/farrier.pth
cat > {VENV}/bin/farrier <<'END'
{_LAUNCHER}END
chmod 755 {VENV}/bin/farrier
mkdir -p {FARRIER} {APP}
rm /tmp/constraints.txt
"""


def _make(docker: Engine, base: str, name: str, script: str, machine: Machine) -> None:
    settings = [part for key, value in machine.pip_environment().items() for part in ("-e", f"{key}={value}")]
    container = docker.call(
        "create", "--network", "host", *_labels(), *settings,
        base, "/bin/sh", "-c", script,
    ).stdout.strip()  # fmt: skip
    try:
        done = docker.call("start", "-a", container, check=False, timeout=600)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise LabError(f"image for the boxes: {said[-1]}")
        path = f"ENV PATH={VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        docker.call("commit", "-c", path, "-c", f"LABEL {BOX_LABEL}.image=yes", container, name, timeout=300)
    finally:
        docker.call("rm", "-f", "-v", container, check=False)


def _labels() -> list[str]:
    """By which the next run finds what this one leaves behind if it is killed, half-made images too."""
    owner = f"{os.getpid()}-{engine.started_at(os.getpid())}"
    return ["--label", f"{LABEL}={checkout.identity()}", "--label", f"{OWNER_LABEL}={owner}"]


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """name -> version of what is in the image."""
    pins = _pins()
    return dict(_pinned(name, pins).split("==") for name in packages)


# --- farrier as it is now -------------------------------------------------------------------------------


def copy_of_farrier(image: str, docker: Engine) -> Path:
    """A folder that holds a copy of the checkout's package `farrier`, compiled as the image's Python does it.

    Named by its content, in the cache folder: the same files are copied once.
    """
    source = checkout.ROOT / "farrier"
    files = sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    content = {path.relative_to(source): path.read_bytes() for path in files}
    digest = hashlib.sha256(image.encode())
    for name, data in content.items():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    folder = checkout.cache_dir() / "box" / f"farrier-{digest.hexdigest()[:12]}"
    if folder.is_dir():
        os.utime(folder)
        return folder
    _forget_old(folder.parent)
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    for name, data in content.items():
        path = draft / "farrier" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    draft.chmod(0o755)
    docker.call(
        "run", "--rm", *_labels(), "--user", f"{os.getuid()}:{os.getgid()}",
        "-v", f"{draft}:{FARRIER}", image, f"{VENV}/bin/python", "-m", "compileall", "-q", FARRIER,
    )  # fmt: skip
    try:
        draft.rename(folder)
    except OSError:  # another run made it meanwhile
        shutil.rmtree(draft)
    return folder


def _forget_old(folder: Path) -> None:
    """Copies that nobody has used for a week."""
    for old in folder.glob("farrier-*"):
        if time.time() - old.stat().st_mtime > 7 * 86400:
            shutil.rmtree(old, ignore_errors=True)


# --- boxes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """What a box has used so far: bytes and seconds."""

    memory: int
    """In use now, page cache included, as the limit counts it."""
    rss: int
    """Anonymous memory of all its processes now: what cannot be dropped."""
    peak: int
    """The most that was in use at once. At the limit where the page cache filled it: see `oom_kills`."""
    oom_kills: int
    times_full: int
    """How often the limit was reached, so that memory had to be found: 0 means that it never counted."""
    cpu_seconds: float
    throttled_seconds: float
    """How long it was held back by its CPU quota."""


class Box:
    """One server in its container. Made by `Boxes.start`."""

    def __init__(self, docker: Engine, name: str, container: str, port: int) -> None:
        self.docker = docker
        self.name = name
        self.container = container
        self.port = port
        self._groups: dict[str, Path] = {}
        self._last: Usage | None = None

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it; 0 when it has ended."""
        return int(self.docker.call("inspect", "-f", "{{.State.Pid}}", self.container).stdout)

    def is_running(self) -> bool:
        """Whether its first process still runs."""
        said = self.docker.call("inspect", "-f", "{{.State.Running}}", self.container, check=False)
        return said.stdout.strip() == "true"

    def exit_status(self) -> int | None:
        """How its first process ended; None while it runs."""
        said = self.docker.call(
            "inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", self.container
        ).stdout.split()
        return None if said[0] == "true" else int(said[1])

    def usage(self) -> Usage:
        """What it has used so far; the last that was known where it has ended."""
        try:
            self._last = read_usage(self._cgroups())
        except (OSError, LabError):
            if self._last is None:
                raise
        assert self._last is not None
        return self._last

    def _cgroups(self) -> dict[str, Path]:
        if not self._groups:
            self._groups = cgroups_of(self.pid, self.container)
        return self._groups

    def logs(self) -> str:
        """All that the server said, both streams in their order."""
        done = subprocess.run(
            [*self.docker.command, "logs", self.container],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
        )  # fmt: skip
        return done.stdout.decode(errors="replace")

    def result(self, seconds: float) -> tuple[int, str]:
        """Waits for a command that ends by itself: its exit status, and what it wrote to standard output.

        `usage()` then tells of the last look, a quarter of a second before its end at most. LabError where it
        takes longer than so many seconds.
        """
        end = time.monotonic() + seconds
        with contextlib.suppress(LabError, OSError):  # it may be over before the first look
            self.usage()
        while self.is_running():
            if time.monotonic() > end:
                raise LabError(f"{self.name}: not over within {seconds:.0f} s")
            with contextlib.suppress(LabError, OSError):
                self.usage()
            time.sleep(0.25)
        done = subprocess.run(
            [*self.docker.command, "logs", self.container],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False,
        )  # fmt: skip
        return self.exit_status() or 0, done.stdout.decode(errors="replace")

    def execute(
        self, command: Sequence[str], timeout: float = 60, check: bool = True, user: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """A command inside the box, within its limits."""
        who = ["--user", user] if user else []
        return self.docker.call("exec", *who, self.container, *command, timeout=timeout, check=check)

    def signal(self, number: int) -> None:
        """A signal to its first process (tini, which hands it to the server)."""
        self.docker.call("kill", "--signal", str(int(number)), self.container)

    def wait_ready(self, path: str = "/", seconds: float = 60) -> float:
        """Seconds until the server answered `path` with a status below 500. LabError where it does not."""
        began = time.monotonic()
        looked = began
        while True:
            if answers(self.port, path):
                return time.monotonic() - began
            now = time.monotonic()
            if now - began > seconds:
                raise LabError(f"{self.name}: no answer within {seconds:.0f} s")
            if now - looked > 1:
                looked = now
                self.usage()  # its last word, should it end
                if not self.is_running():
                    raise LabError(f"{self.name}: ended with status {self.exit_status()} before it answered")
            time.sleep(0.05)

    def stop(self, seconds: int = STOP_SECONDS) -> None:
        """TERM, then KILL after so many seconds; it can still be asked for its logs."""
        self.docker.call("stop", "-t", str(seconds), self.container, check=False, timeout=seconds + 60)

    def remove(self) -> None:
        """Away with it, whatever it does."""
        self.docker.call("rm", "-f", "-v", self.container, check=False)


class Boxes:
    """All boxes of one run. A context manager: they are gone after it, whatever happened inside.

    name: of the run, a part of its containers' names. packages, debian: see `ensure_image`. Inside it TERM
    and HUP end the run as Ctrl-C does.
    """

    def __init__(self, name: str, packages: Sequence[str] = PACKAGES, debian: Sequence[str] = ()) -> None:
        self.name = name
        self.packages = tuple(packages)
        self.debian = tuple(debian)
        self.image = ""
        self.contents = repr(sorted(versions(self.packages).items())) + repr(sorted(self.debian))
        """What is in the image, in words: equal on machines whose images have different names."""
        self.started: list[Box] = []
        self._number = 0
        self._handlers: dict[int, Any] = {}
        self._run = f"{name}-{os.getpid()}"

    def __enter__(self) -> Boxes:
        self.docker = engine.ensure()
        sweep(self.docker)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, _interrupt)
        try:
            self.image = ensure_image(self.packages, self.debian, self.docker)
            self.farrier = copy_of_farrier(self.image, self.docker)
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave half of them behind.
        ignored = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                ignored[number] = signal.signal(number, signal.SIG_IGN)
        try:
            self.remove_all()
        finally:
            for number, handler in ignored.items():
                signal.signal(number, handler)
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def start(
        self,
        command: Sequence[str],
        *,
        memory: int,
        cpus: float,
        app: Path | None = None,
        cpuset: str = "",
        environment: Mapping[str, str] | None = None,
        name: str = "",
        port: int | None = None,
        user: str = NOBODY,
        volumes: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> Box:
        """Starts `command` in a box.

        `{port}` in a part of the command stands for the port to bind on loopback; nothing else is replaced.
        What reads its environment finds it there as BIND=127.0.0.1:PORT (Gunicorn knows PORT alone, and binds
        all addresses then). memory: bytes, and no swap. cpus: the quota. cpuset: processors of the machine
        that it is held to. app: a folder that is its working directory, read-only. user: as Docker takes it,
        "0:0" for root. LabError where it cannot start.
        """
        self._number += 1
        port = free_port() if port is None else port
        stem = f"{self._run}-{self._number}" + (f"-{name}" if name else "")
        given = {"BIND": f"127.0.0.1:{port}", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"}
        given |= environment or {}
        container = self.docker.call(
            "run", "-d", "--name", f"farrier-box-{stem}", "--network", "host",
            *_labels(), "--label", f"{BOX_LABEL}={self._run}",
            "--memory", str(memory), "--memory-swap", str(memory), "--cpus", f"{cpus:g}",
            *(["--cpuset-cpus", cpuset] if cpuset else []),
            "--user", user, "--security-opt", "no-new-privileges", "--log-opt", "max-size=20m",
            *(part for key, value in given.items() for part in ("-e", f"{key}={value}")),
            "-v", f"{self.farrier}:{FARRIER}:ro",
            *(["-v", f"{app}:{APP}:ro", "-w", APP] if app else []),
            *(part for volume in volumes for part in ("-v", volume)),
            *options, "--entrypoint", "/usr/bin/tini", self.image, "--",
            *(part.replace("{port}", str(port)) for part in command),
        ).stdout.strip()  # fmt: skip
        box = Box(self.docker, name or stem, container, port)
        self.started.append(box)
        return box

    def remove(self, *boxes: Box) -> None:
        """Away with these, in one call: each alone would take half a second."""
        if boxes:
            self.docker.call("rm", "-f", "-v", *(box.container for box in boxes), check=False)
        self.started = [box for box in self.started if box not in boxes]

    def remove_all(self) -> None:
        """Away with every box of this run, also with one that was being made when the run was stopped."""
        left = self.docker.containers(f"label={BOX_LABEL}={self._run}")
        if left:
            self.docker.call("rm", "-f", "-v", *left, check=False)
        self.started.clear()


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, path: str = "/", timeout: float = 5) -> bool:
    """Whether a server on loopback answers this path with a status below 500."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n".encode())
            head = connection.recv(64)
    except OSError:
        return False
    words = head.split()
    return len(words) > 1 and words[0].startswith(b"HTTP/") and words[1] < b"500"


# --- cgroups --------------------------------------------------------------------------------------------


def cgroups_of(pid: int, container: str, root: Path = CGROUPS, proc: Path = Path("/proc")) -> dict[str, Path]:
    """The folders of a container's own cgroup: `memory`, `cpu` and `cpuacct`, which v2 has in one.

    LabError where /proc/PID/cgroup does not name it (the process has ended).
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    found = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        at = path.find(container)
        if at < 0:
            continue
        # Processes may lie below the container's own group, whose name ends after the container's id.
        end = path.find("/", at)
        own = path[: end if end >= 0 else len(path)].lstrip("/")
        for controller in controllers.split(",") if controllers else ("",):
            found[controller] = root / controllers / own if controllers else root / own
    if "memory" in found and "cpuacct" in found:
        return {name: found[name] for name in ("memory", "cpu", "cpuacct") if name in found}
    if "" in found and (found[""] / "memory.current").exists():
        return dict.fromkeys(("memory", "cpu", "cpuacct"), found[""])
    raise LabError(f"no cgroup of {container[:12]} in /proc/{pid}/cgroup")


def read_usage(groups: Mapping[str, Path]) -> Usage:
    """What a cgroup has used, of v1 or v2. OSError where it is gone."""
    memory = groups["memory"]
    stat = _table(memory / "memory.stat")
    if (memory / "memory.current").exists():
        cpu = _table(groups["cpu"] / "cpu.stat")
        peak = memory / "memory.peak"  # since Linux 5.19
        return Usage(
            memory=_number(memory / "memory.current"),
            rss=stat.get("anon", 0),
            peak=_number(peak) if peak.exists() else 0,
            oom_kills=_table(memory / "memory.events").get("oom_kill", 0),
            times_full=_table(memory / "memory.events").get("max", 0),
            cpu_seconds=cpu.get("usage_usec", 0) / 1e6,
            throttled_seconds=cpu.get("throttled_usec", 0) / 1e6,
        )
    throttled = _table(groups["cpu"] / "cpu.stat") if "cpu" in groups else {}
    return Usage(
        memory=_number(memory / "memory.usage_in_bytes"),
        rss=stat.get("total_rss", 0),
        peak=_number(memory / "memory.max_usage_in_bytes"),
        oom_kills=_table(memory / "memory.oom_control").get("oom_kill", 0),
        times_full=_number(memory / "memory.failcnt"),
        cpu_seconds=_number(groups["cpuacct"] / "cpuacct.usage") / 1e9,
        throttled_seconds=throttled.get("throttled_time", 0) / 1e9,
    )


def _number(path: Path) -> int:
    return int(path.read_text())


def _table(path: Path) -> dict[str, int]:
    """A file of lines `name number`."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
