"""read_budget() on recorded and written file trees of cgroup v1, v2 and both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farrier.sizing import Budget, SizingError, read_budget

MIB = 2**20
RECORDED = Path(__file__).parents[2] / "data" / "cgroups"
UNLIMITED_V1 = "9223372036854771712\n"


def lay(root: Path, files: dict[str, str]) -> str:
    """Write {path: text} under root; a path that ends in / is a folder."""
    for path, text in files.items():
        place = root / path.lstrip("/")
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
    return str(root)


def recorded(root: Path, name: str) -> str:
    return lay(root, json.loads((RECORDED / f"{name}.json").read_text()))


def machine(memory_mib: int = 4096, cpus: str = "0-3", init: str = "systemd") -> dict[str, str]:
    files = {
        "/proc/meminfo": f"MemTotal: {memory_mib * 1024} kB\nMemFree: 1 kB\nSwapTotal: {1024 * 1024} kB\n",
        "/proc/self/status": f"Name:\tpython3\nCpus_allowed_list:\t{cpus}\n",
        "/sys/devices/system/cpu/online": "0-63\n",
        "/proc/1/comm": f"{init}\n",
    }
    if init == "systemd":
        files["/run/systemd/system/"] = ""
    return files


def v2(
    own: str, groups: dict[str, dict[str, str]], *, root: str = "/", init: str = "/init.scope"
) -> dict[str, str]:
    """A pure v2 tree: own cgroup, and {cgroup below the mount: {file: text}}."""
    files = {
        "/proc/self/cgroup": f"0::{own}\n",
        "/proc/1/cgroup": f"0::{init}\n",
        "/proc/self/mountinfo": f"30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
        "/sys/fs/cgroup/": "",
    }
    for group, values in groups.items():
        files[f"/sys/fs/cgroup{group}/"] = ""
        files |= {f"/sys/fs/cgroup{group}/{name}": text for name, text in values.items()}
    return files


# --- recorded from real kernels ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["docker-v1", "docker-v1-private"])
def test_docker_on_v1(tmp_path: Path, name: str) -> None:
    budget = read_budget(recorded(tmp_path, name))
    assert budget.memory_bytes == 256 * MIB
    assert budget.memory_source.startswith("/sys/fs/cgroup/memory/memory.")
    assert budget.cpus == 0.5
    assert budget.cpu_source == "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
    assert budget.scope == "container"


def test_a_systemd_unit_on_v1_inside_a_container_host(tmp_path: Path) -> None:
    root = recorded(tmp_path, "systemd-unit-v1")
    bound = read_budget(root)
    assert bound.memory_bytes == 100 * MIB
    assert bound.memory_source.endswith(".service/memory.limit_in_bytes")
    assert bound.cpus == 0.2
    assert bound.cpu_source.endswith("farrier-shop.slice/cpu.cfs_quota_us")
    assert (bound.machine_memory_bytes, bound.scope) == (400 * MIB, "container")
    free = read_budget(root, ignore=("farrier-shop.slice",))
    assert (free.memory_bytes, free.cpus, free.scope) == (400 * MIB, 1.0, "host")


# --- v2 ---------------------------------------------------------------------------------------------


def test_nested_v2_limits_the_least_wins_wherever_it_is(tmp_path: Path) -> None:
    groups = {
        "": {},
        "/system.slice": {"memory.max": f"{2048 * MIB}\n", "cpu.max": "150000 100000\n"},
        "/system.slice/web.slice": {
            "memory.max": f"{300 * MIB}\n",
            "memory.high": "max\n",
            "cpu.max": "max 100000\n",
        },
        "/system.slice/web.slice/app.service": {"memory.max": "max\n", "cpu.max": "200000 100000\n"},
    }
    budget = read_budget(lay(tmp_path, machine() | v2("/system.slice/web.slice/app.service", groups)))
    assert budget.memory_bytes == 300 * MIB
    assert budget.memory_source == "/sys/fs/cgroup/system.slice/web.slice/memory.max"
    assert budget.cpus == 1.5
    assert budget.cpu_source == "/sys/fs/cgroup/system.slice/cpu.max"
    assert budget.scope == "container"
    assert budget.machine_memory_bytes == 4096 * MIB
    assert {limit.value for limit in budget.limits if limit.kind == "cpu"} == {4.0, 1.5, 2.0}


def test_max_everywhere_is_no_limit(tmp_path: Path) -> None:
    groups = {"/a": {"memory.max": "max\n", "memory.high": "max\n", "cpu.max": "max 100000\n"}}
    budget = read_budget(lay(tmp_path, machine() | v2("/a", groups)))
    assert (budget.memory_bytes, budget.cpus) == (4096 * MIB, 4.0)
    assert (budget.memory_source, budget.cpu_source) == ("/proc/meminfo MemTotal", "CPU affinity")
    assert (budget.memory_high_bytes, budget.scope) == (None, "host")


def test_memory_high_counts_because_the_kernel_throttles_there(tmp_path: Path) -> None:
    groups = {"/a": {"memory.max": f"{512 * MIB}\n", "memory.high": f"{400 * MIB}\n"}}
    budget = read_budget(lay(tmp_path, machine() | v2("/a", groups)))
    assert budget.memory_bytes == budget.memory_high_bytes == 400 * MIB
    assert budget.memory_source == "/sys/fs/cgroup/a/memory.high"


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [("50000 100000", 0.5), ("12500 50000", 0.25), ("max 100000", 4.0), ("max", 4.0), ("", 4.0)],
)
def test_cpu_max(tmp_path: Path, cpu_max: str, cpus: float) -> None:
    assert read_budget(lay(tmp_path, machine() | v2("/a", {"/a": {"cpu.max": cpu_max}}))).cpus == cpus


def test_a_missing_controller_is_no_limit(tmp_path: Path) -> None:
    budget = read_budget(lay(tmp_path, machine() | v2("/a", {"/a": {"memory.max": f"{100 * MIB}\n"}})))
    assert (budget.memory_bytes, budget.cpus) == (100 * MIB, 4.0)


def test_a_container_in_its_own_namespace(tmp_path: Path) -> None:
    files = machine(init="tini") | v2(
        "/", {"": {"memory.max": f"{256 * MIB}\n", "cpu.max": "50000 100000\n"}}, init="/"
    )
    budget = read_budget(lay(tmp_path, files))
    assert (budget.memory_bytes, budget.cpus, budget.scope) == (256 * MIB, 0.5, "container")
    assert budget.machine_memory_bytes == 256 * MIB


def test_a_mount_that_shows_only_the_containers_own_group(tmp_path: Path) -> None:
    group = "/system.slice/docker-1f.scope"
    files = machine(init="tini") | v2(
        f"{group}/app",
        {"": {"memory.max": f"{256 * MIB}\n"}, "/app": {"memory.max": f"{128 * MIB}\n"}},
        root=group,
        init=group,
    )
    budget = read_budget(lay(tmp_path, files))
    assert budget.memory_bytes == 128 * MIB
    assert budget.memory_source == "/sys/fs/cgroup/app/memory.max"


def test_a_cgroup_outside_of_the_namespace_falls_back_to_the_mount(tmp_path: Path) -> None:
    files = machine() | v2("/../../elsewhere", {"": {"memory.max": f"{200 * MIB}\n"}})
    assert read_budget(lay(tmp_path, files)).memory_bytes == 200 * MIB


def test_a_slice_of_the_plans_own_is_ignored_with_all_below_it(tmp_path: Path) -> None:
    groups = {
        "/farrier.slice": {"memory.max": f"{2000 * MIB}\n"},
        "/farrier.slice/farrier-shop.slice": {"memory.max": f"{300 * MIB}\n", "cpu.max": "50000 100000\n"},
        "/farrier.slice/farrier-shop.slice/shop@blue.service": {"memory.max": f"{200 * MIB}\n"},
    }
    own = "/farrier.slice/farrier-shop.slice/shop@blue.service"
    root = lay(tmp_path, machine() | v2(own, groups))
    assert read_budget(root).memory_bytes == 200 * MIB
    budget = read_budget(root, ignore=("farrier-shop.slice",))
    assert (budget.memory_bytes, budget.cpus) == (2000 * MIB, 4.0)
    assert read_budget(root, ignore=("farrier-other.slice",)).memory_bytes == 200 * MIB


def test_swap_is_the_least_of_the_machines_and_the_groups(tmp_path: Path) -> None:
    assert read_budget(lay(tmp_path / "a", machine() | v2("/a", {"/a": {}}))).swap_bytes == 1024 * MIB
    none = v2("/a", {"/a": {"memory.swap.max": "0\n"}})
    assert read_budget(lay(tmp_path / "b", machine() | none)).swap_bytes == 0


# --- v1 and hybrids ---------------------------------------------------------------------------------


def v1(own: str, memory: dict[str, dict[str, str]], cpu: dict[str, dict[str, str]]) -> dict[str, str]:
    files = {
        "/proc/self/cgroup": f"5:memory:{own}\n4:cpu,cpuacct:{own}\n1:name=systemd:{own}\n0::{own}\n",
        "/proc/1/cgroup": "5:memory:/init.scope\n4:cpu,cpuacct:/\n0::/init.scope\n",
        "/proc/self/mountinfo": (
            "31 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
            "32 31 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            "33 31 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "34 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        ),
        f"/sys/fs/cgroup/unified{own}/": "",
    }
    for mount, groups in (("memory", memory), ("cpu,cpuacct", cpu)):
        for group, values in groups.items():
            files[f"/sys/fs/cgroup/{mount}{group}/"] = ""
            files |= {f"/sys/fs/cgroup/{mount}{group}/{name}": text for name, text in values.items()}
    return files


def test_a_hybrid_hierarchy_takes_limits_from_v1(tmp_path: Path) -> None:
    files = v1(
        "/system.slice/app.service",
        {
            "": {"memory.limit_in_bytes": UNLIMITED_V1},
            "/system.slice": {"memory.limit_in_bytes": f"{700 * MIB}\n"},
            "/system.slice/app.service": {"memory.limit_in_bytes": UNLIMITED_V1},
        },
        {
            "/system.slice": {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"},
            "/system.slice/app.service": {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"},
        },
    )
    budget = read_budget(lay(tmp_path, machine() | files))
    assert (budget.memory_bytes, budget.cpus) == (700 * MIB, 0.5)
    assert budget.memory_source == "/sys/fs/cgroup/memory/system.slice/memory.limit_in_bytes"
    assert budget.cpu_source == "/sys/fs/cgroup/cpu,cpuacct/system.slice/app.service/cpu.cfs_quota_us"


def test_v1_unlimited_is_a_huge_number_and_no_limit(tmp_path: Path) -> None:
    files = v1("/a", {"/a": {"memory.limit_in_bytes": UNLIMITED_V1}}, {"/a": {}})
    budget = read_budget(lay(tmp_path, machine() | files))
    assert budget.memory_bytes == 4096 * MIB
    assert [limit.source for limit in budget.limits if limit.kind == "memory"] == ["/proc/meminfo MemTotal"]


def test_v1_shows_a_limit_above_the_mount_in_memory_stat(tmp_path: Path) -> None:
    files = v1("/", {"": {"memory.stat": f"cache 0\nhierarchical_memory_limit {350 * MIB}\n"}}, {})
    assert read_budget(lay(tmp_path, machine() | files)).memory_bytes == 350 * MIB


def test_v1_swap_is_memory_and_swap_less_memory(tmp_path: Path) -> None:
    memory = {"memory.limit_in_bytes": f"{256 * MIB}\n", "memory.memsw.limit_in_bytes": f"{300 * MIB}\n"}
    assert read_budget(lay(tmp_path, machine() | v1("/a", {"/a": memory}, {}))).swap_bytes == 44 * MIB


# --- CPUs, machines, nonsense -----------------------------------------------------------------------


@pytest.mark.parametrize(("allowed", "cpus"), [("0-3", 4.0), ("0,2-3", 3.0), ("5", 1.0), ("0-127", 64.0)])
def test_affinity_within_the_cpus_that_are_online(tmp_path: Path, allowed: str, cpus: float) -> None:
    assert read_budget(lay(tmp_path, machine(cpus=allowed) | v2("/", {}))).cpus == cpus


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    budget = read_budget(lay(tmp_path, machine(init="init")))
    assert (budget.memory_bytes, budget.cpus, budget.scope) == (4096 * MIB, 4.0, "host")


@pytest.mark.parametrize("text", ["lots\n", "", "-5\n", "12 34\n"])
def test_an_odd_limit_file_is_no_limit(tmp_path: Path, text: str) -> None:
    assert (
        read_budget(lay(tmp_path, machine() | v2("/a", {"/a": {"memory.max": text}}))).memory_bytes
        == 4096 * MIB
    )


def test_a_machine_that_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SizingError, match=r"/proc/meminfo: no MemTotal to read$"):
        read_budget(str(tmp_path))


def test_another_process(tmp_path: Path) -> None:
    files = machine() | v2("/a", {"/a": {"memory.max": f"{99 * MIB}\n"}})
    moved = {path.replace("/proc/self/", "/proc/4711/"): text for path, text in files.items()}
    assert read_budget(lay(tmp_path, moved), pid=4711).memory_bytes == 99 * MIB


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    files = machine() | {
        "/proc/self/cgroup": "0::/a\n",
        "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/my\\040groups rw - cgroup2 cgroup2 rw\n",
        "/sys/fs/my groups/a/memory.max": f"{77 * MIB}\n",
    }
    assert read_budget(lay(tmp_path, files)).memory_bytes == 77 * MIB


def test_this_very_process_has_a_budget() -> None:
    budget = read_budget()
    assert budget.memory_bytes > 0
    assert budget.cpus > 0
    assert budget.memory_bytes == min(one.value for one in budget.limits if one.kind == "memory")
    assert budget.cpus == min(one.value for one in budget.limits if one.kind == "cpu")


def test_json_round_trip(tmp_path: Path) -> None:
    budget = read_budget(recorded(tmp_path, "systemd-unit-v1"))
    assert Budget.from_dict(json.loads(json.dumps(budget.to_dict()))) == budget


def test_a_given_budget() -> None:
    budget = Budget.given("512MiB", "0.5")
    assert (budget.memory_bytes, budget.cpus, budget.scope) == (512 * MIB, 0.5, "given")
    with pytest.raises(SizingError, match="'lots' is not a size"):
        Budget.given("lots", 1)
    with pytest.raises(SizingError, match="scope 'moon' is not known: allowed are host, container, given"):
        Budget.given("1G", 1, scope="moon")
    with pytest.raises(SizingError, match="not a budget"):
        Budget.from_dict({"memory": 5})
