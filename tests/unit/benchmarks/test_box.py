"""What a box reads of its cgroup, of either version; the container itself is
tests/system/test_bench_sizing.py's."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.box import cgroups_of, read_usage
from lab.engine import Engine
from lab.errors import LabError

ID = "0123456789abcdef" * 4


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_v1(tmp_path: Path) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    write(
        proc,
        {"7/cgroup": f"9:memory:/docker/{ID}\n4:cpu,cpuacct:/docker/{ID}/below\n1:name=systemd:/\n"},
    )
    write(
        root,
        {
            f"memory/docker/{ID}/memory.usage_in_bytes": "300\n",
            f"memory/docker/{ID}/memory.max_usage_in_bytes": "500\n",
            f"memory/docker/{ID}/memory.failcnt": "12\n",
            f"memory/docker/{ID}/memory.stat": "cache 40\nrss 1\ntotal_rss 200\n",
            f"memory/docker/{ID}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            f"cpu,cpuacct/docker/{ID}/cpuacct.usage": "1500000000\n",
            f"cpu,cpuacct/docker/{ID}/cpu.stat": "nr_periods 5\nnr_throttled 1\nthrottled_time 250000000\n",
        },
    )
    usage = read_usage(cgroups_of(7, ID, root, proc))
    assert (usage.memory, usage.rss, usage.peak) == (300, 200, 500)
    assert (usage.oom_kills, usage.times_full) == (3, 12)
    assert (usage.cpu_seconds, usage.throttled_seconds) == (1.5, 0.25)


def test_v2(tmp_path: Path) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    write(proc, {"7/cgroup": f"0::/system.slice/docker-{ID}.scope\n"})
    group = f"system.slice/docker-{ID}.scope"
    write(
        root,
        {
            f"{group}/memory.current": "300\n",
            f"{group}/memory.peak": "500\n",
            f"{group}/memory.stat": "anon 200\nfile 40\n",
            f"{group}/memory.events": "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\n",
            f"{group}/cpu.stat": "usage_usec 1500000\nnr_throttled 1\nthrottled_usec 250000\n",
        },
    )
    usage = read_usage(cgroups_of(7, ID, root, proc))
    assert (usage.memory, usage.rss, usage.peak) == (300, 200, 500)
    assert (usage.oom_kills, usage.times_full) == (3, 12)
    assert (usage.cpu_seconds, usage.throttled_seconds) == (1.5, 0.25)


def test_a_process_that_has_ended_or_is_another_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no cgroup of 0123456789ab"):
        cgroups_of(7, ID, tmp_path, tmp_path)
    write(tmp_path, {"8/cgroup": "9:memory:/docker/ffff\n"})
    with pytest.raises(LabError, match="no cgroup"):
        cgroups_of(8, ID, tmp_path, tmp_path)


def test_an_engine_that_does_not_answer_in_time_is_one_clear_line() -> None:
    stuck = Engine(("tail", "-f"), "0", 1)
    with pytest.raises(LabError, match=r"docker /dev/null: no end within 0\.1 s"):
        stuck.call("/dev/null", timeout=0.1)
