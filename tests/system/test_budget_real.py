"""read_budget() where the limits are real: in a Docker container and in systemd units."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from farrier.sizing import Budget
from lab import engine
from lab.host import Host
from lab.image import ensure_base

MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]
MOUNT = f"{ROOT / 'farrier'}:/opt/farrier:ro"
READ = (
    "import json, sys; sys.path.insert(0, '/opt'); sys.dont_write_bytecode = True;"
    "from farrier.sizing import read_budget;"
    "print(json.dumps(read_budget(ignore=sys.argv[1:]).to_dict()))"
)


def in_container(*options: str) -> Budget:
    docker = engine.ensure()
    command = [*docker.command, "run", "--rm", "-v", MOUNT, *options, ensure_base(), "python3", "-c", READ]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return Budget.from_dict(json.loads(answer.stdout))


@pytest.mark.docker
@pytest.mark.parametrize("namespace", ["host", "private"])
def test_a_container_gets_its_own_limits(namespace: str) -> None:
    budget = in_container("-m", "256m", "--memory-swap", "256m", "--cpus", "0.5", "--cgroupns", namespace)
    assert budget.memory_bytes == 256 * MIB
    assert budget.cpus == 0.5
    assert budget.scope == "container"
    assert budget.swap_bytes == 0
    assert "memory" in budget.memory_source
    assert "cpu" in budget.cpu_source


@pytest.mark.docker
def test_a_container_without_limits_gets_the_machine() -> None:
    budget = in_container()
    assert budget.memory_bytes == budget.machine_memory_bytes > 256 * MIB
    assert budget.memory_source == "/proc/meminfo MemTotal"


@pytest.mark.docker
def test_cpu_affinity_counts() -> None:
    budget = in_container("--cpuset-cpus", "0")
    assert budget.cpus == 1.0
    assert budget.cpu_source == "CPU affinity"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host("budget", memory="400m", cpus=1.0, volumes=(MOUNT,)) as host:
        yield host


def in_unit(host: Host, *properties: str, ignore: tuple[str, ...] = ()) -> Budget:
    answer = host.run(
        ["systemd-run", "--quiet", "--wait", "--pipe", *properties, "/usr/bin/python3", "-c", READ, *ignore]
    )
    return Budget.from_dict(json.loads(answer.stdout))


@pytest.mark.systemd
def test_a_unit_without_limits_shares_the_host(host: Host) -> None:
    budget = in_unit(host)
    assert budget.memory_bytes == budget.machine_memory_bytes == 400 * MIB
    assert budget.cpus == 1.0
    assert budget.scope == "host"


@pytest.mark.systemd
def test_a_unit_gets_its_memory_max_and_cpu_quota(host: Host) -> None:
    budget = in_unit(host, "-pMemoryMax=200M", "-pCPUQuota=30%")
    assert budget.memory_bytes == 200 * MIB
    assert budget.cpus == pytest.approx(0.3)
    assert budget.scope == "container"
    assert budget.machine_memory_bytes == 400 * MIB


@pytest.mark.systemd
def test_the_plans_own_slice_is_left_out(host: Host) -> None:
    host.write("/run/systemd/system/farrier-shop.slice", "[Slice]\nMemoryMax=150M\nCPUQuota=20%\n")
    host.run(["systemctl", "daemon-reload"])
    slice_ = ("--slice=farrier-shop.slice", "-pMemoryMax=100M")
    bound = in_unit(host, *slice_)
    assert (bound.memory_bytes, bound.cpus) == (100 * MIB, pytest.approx(0.2))
    free = in_unit(host, *slice_, ignore=("farrier-shop.slice",))
    assert (free.memory_bytes, free.cpus) == (400 * MIB, 1.0)
    assert free.scope == "host"
