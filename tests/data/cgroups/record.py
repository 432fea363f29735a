"""Record what read_budget() reads on this machine, as JSON on standard output: {path: text}.

Run it where the process would run: `python3 record.py > NAME.json`. Standard library only.
"""

import json
import sys
from pathlib import Path

NAMES = (
    *("memory.max", "memory.high", "memory.swap.max", "cpu.max"),
    *("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.stat"),
    *("cpu.cfs_quota_us", "cpu.cfs_period_us"),
)
LINES = {
    "/proc/meminfo": ("MemTotal", "SwapTotal"),
    "/proc/self/status": ("Cpus_allowed_list",),
    "/proc/self/mountinfo": (" - cgroup",),
}
LINES_OF_NAME = {"memory.stat": ("hierarchical_memory_limit",)}


def read(path: str, keep: tuple[str, ...] = ()) -> str:
    try:
        with open(path) as file:
            lines = [line for line in file if not keep or any(part in line for part in keep)]
    except OSError:
        return ""
    return "".join(lines)


def main() -> None:
    files = {
        path: read(path, LINES.get(path, ()))
        for path in (
            *LINES,
            "/proc/self/cgroup",
            "/proc/1/cgroup",
            "/proc/1/comm",
            "/sys/devices/system/cpu/online",
        )
    }
    if Path("/run/systemd/system").is_dir():
        files["/run/systemd/system/"] = ""
    groups = {line.rstrip("\n").split(":", 2)[2] for line in files["/proc/self/cgroup"].splitlines()}
    for line in files["/proc/self/mountinfo"].splitlines():
        root, point = line.split()[3:5]
        for group in groups:
            below = group if root == "/" else group[len(root) :] if group.startswith(root) else ""
            folder = point + below.rstrip("/")
            while Path(folder).is_dir() and folder.startswith(point):
                files[folder + "/"] = ""
                for name in NAMES:
                    text = read(folder + "/" + name, LINES_OF_NAME.get(name, ()))
                    if text:
                        files[folder + "/" + name] = text
                folder = str(Path(folder).parent)
    json.dump(files, sys.stdout, indent=1, sort_keys=True)
    print()


main()
