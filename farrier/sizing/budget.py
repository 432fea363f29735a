"""What memory and CPU a process really gets: the least of all limits that bind it.

Read from every ancestor cgroup (v1, v2 and both at once), the CPU affinity and MemTotal.
File formats: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst,
Documentation/scheduler/sched-bwc.rst and proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass

from .constants import CGROUP_UNLIMITED
from .stored import known
from .units import SizingError, parse_bytes, parse_cpus

SCOPES = ("host", "container", "given")


@dataclass(frozen=True)
class Limit:
    """One limit that was found: ``kind`` memory (bytes) or cpu (CPUs), and the file that said so."""

    kind: str
    value: float
    source: str


@dataclass(frozen=True)
class Budget:
    """The least of all limits. Memory in bytes, CPUs as a number (half a CPU is 0.5)."""

    memory_bytes: int
    cpus: float
    memory_source: str
    cpu_source: str
    machine_memory_bytes: int
    """MemTotal, or the limit of the container that plays the machine (its init is in that cgroup)."""
    memory_high_bytes: int | None = None
    swap_bytes: int = 0
    limits: tuple[Limit, ...] = ()
    scope: str = "given"
    """host: the system, the proxy and the log shipper share this memory; container: they do not."""
    taken_bytes: int = 0
    """What the plans of other apps on this machine take of it; memory_bytes is already without it."""

    @classmethod
    def given(cls, memory: str | int, cpus: str | float, scope: str = "given") -> Budget:
        """A budget that a person states. Raises SizingError."""
        if scope not in SCOPES:
            raise SizingError(f"scope {scope!r} is not known: allowed are {', '.join(SCOPES)}")
        memory_bytes = parse_bytes(memory)
        if memory_bytes <= 0:
            raise SizingError(f"memory {memory!r} must be above 0")
        return cls(memory_bytes, parse_cpus(cpus), "given", "given", memory_bytes, scope=scope)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        data = asdict(self)
        data["limits"] = [asdict(limit) for limit in self.limits]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> Budget:
        """The inverse of to_dict(); keys of a newer version are passed over. Raises SizingError."""
        try:
            found = known(cls, data)
            limits = found.pop("limits", ())
            return cls(limits=tuple(Limit(**known(Limit, limit)) for limit in limits), **found)
        except (TypeError, ValueError) as error:
            raise SizingError(f"not a budget: {error}") from None


def read_budget(root: str = "/", pid: str | int = "self", ignore: Collection[str] = ()) -> Budget:
    """The budget of process ``pid`` as the files under ``root`` state it.

    ``ignore`` names cgroups (a slice that the plan itself made): they and all below them are left out,
    so that a plan never reads back its own limit. Raises SizingError where not even MemTotal is readable.
    """
    files = _Files(root, str(pid))
    meminfo = files.meminfo()
    total = meminfo.get("MemTotal", 0)
    if total <= 0:
        raise SizingError(f"{files.path('/proc/meminfo')}: no MemTotal to read")
    found = list(_cgroup_limits(files, ignore))
    limits = [
        _Found("memory", total, "/proc/meminfo MemTotal", whole_machine=True),
        _Found("cpu", files.affinity(), "CPU affinity", whole_machine=True),
        *found,
    ]
    memory = min(
        (limit for limit in limits if limit.kind in ("memory", "high")), key=lambda limit: limit.value
    )
    cpu = min((limit for limit in limits if limit.kind == "cpu"), key=lambda limit: limit.value)
    highs = [limit.value for limit in limits if limit.kind == "high"]
    swaps = [limit.value for limit in limits if limit.kind == "swap"]
    machine = min(limit.value for limit in limits if limit.kind in ("memory", "high") and limit.whole_machine)
    return Budget(
        memory_bytes=int(memory.value),
        cpus=float(cpu.value),
        memory_source=memory.source,
        cpu_source=cpu.source,
        machine_memory_bytes=int(machine),
        memory_high_bytes=int(min(highs)) if highs else None,
        swap_bytes=int(min([meminfo.get("SwapTotal", 0), *swaps])),
        limits=tuple(
            Limit("memory" if limit.kind == "high" else limit.kind, limit.value, limit.source)
            for limit in limits
            if limit.kind != "swap"
        ),
        scope="host" if files.has_init() and memory.whole_machine else "container",
    )


@dataclass(frozen=True)
class _Found:
    kind: str  # memory, high, swap or cpu
    value: float
    source: str
    whole_machine: bool  # it binds PID 1 as well, so the system shares it


@dataclass(frozen=True)
class _Mount:
    root: str
    point: str
    version: int
    controllers: frozenset[str]


class _Files:
    """The few files of /proc and /sys that count, under another root where a test recorded them."""

    def __init__(self, root: str, pid: str) -> None:
        self.root = root.rstrip("/")
        self.pid = pid

    def path(self, path: str) -> str:
        return self.root + path

    def read(self, path: str) -> str | None:
        try:
            with open(self.path(path), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:  # a controller that is not there, or a file this user may not read
            return None

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(self.path(path))  # noqa: PTH112  # pathlib costs a third of the start-up

    def meminfo(self) -> dict[str, int]:
        values = {}
        for line in (self.read("/proc/meminfo") or "").splitlines():
            name, _, rest = line.partition(":")
            number = rest.split()[:1]
            if number and number[0].isdigit():
                values[name] = int(number[0]) * 1024
        return values

    def affinity(self) -> float:
        """CPUs that the scheduler lets this process use (cpusets show here as well)."""
        if not self.root:
            try:
                return float(len(os.sched_getaffinity(0 if self.pid == "self" else int(self.pid))))
            except (OSError, ValueError):
                return float(os.cpu_count() or 1)
        allowed = _cpu_list(self._status("Cpus_allowed_list"))
        online = _cpu_list((self.read("/sys/devices/system/cpu/online") or "").strip())
        return float(len(allowed & online if allowed and online else allowed or online) or 1)

    def _status(self, name: str) -> str:
        for line in (self.read(f"/proc/{self.pid}/status") or "").splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
        return ""

    def has_init(self) -> bool:
        """Whether a system runs here (sd_booted(3), or a PID 1 called init), not one lone program."""
        return self.is_dir("/run/systemd/system") or (self.read("/proc/1/comm") or "").strip() in (
            "systemd",
            "init",
        )

    def cgroups(self, pid: str) -> dict[str, str]:
        """Controller -> cgroup path of a process; the key of v2 is the empty string."""
        paths = {}
        for line in (self.read(f"/proc/{pid}/cgroup") or "").splitlines():
            _, _, rest = line.partition(":")
            controllers, colon, path = rest.partition(":")
            if colon:
                for controller in controllers.split(","):
                    paths[controller] = path
        return paths

    def mounts(self) -> list[_Mount]:
        """Mounted cgroup hierarchies, from /proc/PID/mountinfo (proc(5))."""
        mounts = []
        for line in (self.read(f"/proc/{self.pid}/mountinfo") or "").splitlines():
            left, separator, right = line.partition(" - ")
            fields, rest = left.split(), right.split()
            if not separator or len(fields) < 5 or len(rest) < 3 or rest[0] not in ("cgroup", "cgroup2"):
                continue
            version = 2 if rest[0] == "cgroup2" else 1
            controllers = frozenset([""]) if version == 2 else frozenset(rest[2].split(","))
            mounts.append(_Mount(_unescape(fields[3]), _unescape(fields[4]), version, controllers))
        return mounts


def _unescape(path: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, char)
    return path


def _cpu_list(text: str) -> set[int]:
    """``0-2,5`` as a set; nonsense as an empty one."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if first.isdigit() and (not dash or last.isdigit()):
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _cgroup_limits(files: _Files, ignore: Collection[str]) -> Iterator[_Found]:
    mounts = files.mounts()
    own, init = files.cgroups(files.pid), files.cgroups("1")
    for controller, readers in (
        ("", (_memory_v2, _cpu_v2)),
        ("memory", (_memory_v1,)),
        ("cpu", (_cpu_v1,)),
    ):
        if controller not in own:
            continue
        placed = _place(
            files, [mount for mount in mounts if controller in mount.controllers], own[controller]
        )
        if placed is None:
            continue
        mount, below = placed
        machine = _machine_level(mount, init.get(controller, "/"))
        parts = _cut([part for part in below.split("/") if part], ignore)
        for depth in range(len(parts), -1, -1):
            folder = "/".join([mount.point.rstrip("/"), *parts[:depth]])
            whole_machine = parts[:depth] == machine[:depth] and depth <= len(machine)
            for reader in readers:
                yield from reader(files, folder, whole_machine)
        if controller == "memory":
            yield from _above_mount_v1(files, mount)


def _place(files: _Files, mounts: list[_Mount], path: str) -> tuple[_Mount, str] | None:
    """The mount that shows most ancestors of the cgroup, and the cgroup's path below it.

    A mount may show the whole tree or, in a container, only the container's own group (its root in
    mountinfo). Where the path is not below that root (another cgroup namespace), the mount point itself is
    the nearest thing that binds this process.
    """
    best: tuple[_Mount, str] | None = None
    for mount in mounts:
        below = _below(path, mount.root)
        if below is None or not files.is_dir(mount.point + "/" + below):
            continue
        if best is None or len(below) > len(best[1]):
            best = (mount, below)
    if best is None and mounts:
        best = (mounts[-1], "")
    return best


def _below(path: str, root: str) -> str | None:
    if root == "/":
        return path.strip("/") if not path.startswith("/..") else None
    if path == root or path.startswith(root + "/"):
        return path[len(root) :].strip("/")
    return None


def _machine_level(mount: _Mount, init_path: str) -> list[str]:
    """Where PID 1 lives below the mount: a limit there or above binds the whole system, not this process."""
    below = _below(init_path, mount.root) or ""
    return [part for part in below.split("/") if part and part != "init.scope"]


def _cut(parts: list[str], ignore: Collection[str]) -> list[str]:
    for index, part in enumerate(parts):
        if part in ignore:
            return parts[:index]
    return parts


def _number(text: str | None) -> int | None:
    """A limit; None for ``max``, an absent file, nonsense, or v1's huge number for none."""
    text = (text or "").strip()
    if not text.isdigit():
        return None
    number = int(text)
    return number if number < CGROUP_UNLIMITED else None


def _memory_v2(files: _Files, folder: str, whole_machine: bool) -> Iterator[_Found]:
    for name, kind in (("memory.max", "memory"), ("memory.high", "high"), ("memory.swap.max", "swap")):
        value = _number(files.read(f"{folder}/{name}"))
        if value is not None and (value > 0 or kind == "swap"):
            yield _Found(kind, value, f"{folder}/{name}", whole_machine)


def _cpu_v2(files: _Files, folder: str, whole_machine: bool) -> Iterator[_Found]:
    fields = (files.read(f"{folder}/cpu.max") or "").split()
    if len(fields) == 2:
        quota, period = _number(fields[0]), _number(fields[1])
        if quota and period:
            yield _Found("cpu", quota / period, f"{folder}/cpu.max", whole_machine)


def _memory_v1(files: _Files, folder: str, whole_machine: bool) -> Iterator[_Found]:
    limit = _number(files.read(f"{folder}/memory.limit_in_bytes"))
    if limit:
        yield _Found("memory", limit, f"{folder}/memory.limit_in_bytes", whole_machine)
        both = _number(files.read(f"{folder}/memory.memsw.limit_in_bytes"))
        if both is not None and both >= limit:
            yield _Found("swap", both - limit, f"{folder}/memory.memsw.limit_in_bytes", whole_machine)


def _above_mount_v1(files: _Files, mount: _Mount) -> Iterator[_Found]:
    """What groups above the mount allow, which a container cannot see otherwise."""
    for line in (files.read(f"{mount.point}/memory.stat") or "").splitlines():
        name, _, text = line.partition(" ")
        value = _number(text) if name == "hierarchical_memory_limit" else None
        if value:
            yield _Found("memory", value, f"{mount.point}/memory.stat hierarchical_memory_limit", True)


def _cpu_v1(files: _Files, folder: str, whole_machine: bool) -> Iterator[_Found]:
    quota = _number(files.read(f"{folder}/cpu.cfs_quota_us"))
    period = _number(files.read(f"{folder}/cpu.cfs_period_us"))
    if quota and period:
        yield _Found("cpu", quota / period, f"{folder}/cpu.cfs_quota_us", whole_machine)
