"""Each check looks at one thing in a snapshot and says what it saw and what to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from farrier.doctor.snapshot import Snapshot
from farrier.sizing import format_bytes
from farrier.sizing.units import counted

Level = Literal["ok", "look", "wrong", "unknown"]

MIB = 2**20
# A worker's heartbeat file is empty; the room is for apps that spool uploads beside it. Docker's own
# default for /dev/shm is 64 MiB.
TMP_ROOM_BYTES = 8 * MIB
# Use above this share of a limit leaves no room for one burst of requests (first estimate).
MEMORY_NEAR = 0.9
FILES_NEAR = 0.8
# The share of errors that the guard of a deploy takes for bad as well, and the least requests to tell one.
ERRORS_SHARE = 0.05
REQUESTS_LEAST = 20
# Ends of workers that nobody asked for, by the arbiter's words; kills for memory are the memory check's.
BROKEN = ("crashed", "timed out", "failed to boot")
# A deploy holds the lock while it builds; half an hour is longer than any build seen in the tests.
LOCK_OLD_SECONDS = 1800


@dataclass(frozen=True)
class Finding:
    """What one check saw. ``change`` is empty when nothing needs to be done."""

    check: str
    level: Level
    seen: str
    change: str = ""


Check = Callable[[Snapshot], Finding]


def examine(snapshot: Snapshot) -> list[Finding]:
    """Every check's finding, in the order a person would ask."""
    return [check(snapshot) for check in CHECKS]


def running(s: Snapshot) -> Finding:
    state = s.unit.get("ActiveState")
    if not s.deployed:
        if s.pid is None:
            return Finding("running", "unknown", "no server of farrier's has left its state here")
        return Finding("running", "ok", f"{s.name} runs as process {s.pid}")
    if state is None:
        return Finding("running", "unknown", "systemd did not answer")
    unit = f"{s.name}@{s.instance}" if s.instance else s.name
    restarts = int(s.unit.get("NRestarts") or 0)
    if state != "active":
        return Finding(
            "running",
            "wrong",
            f"{unit} is {state} ({s.unit.get('Result') or 'no result'})",
            f"journalctl -u {unit} -n 50 shows why; systemctl start {s.name}.socket brings it back",
        )
    if restarts:
        return Finding(
            "running",
            "look",
            f"{unit} is active, but systemd restarted it {restarts} times",
            f"journalctl -u {unit} shows what ended it",
        )
    return Finding("running", "ok", f"{unit} is active")


def workers(s: Snapshot) -> Finding:
    if s.in_force is None:
        return Finding("workers", "unknown", "the arbiter's state file is not there")
    want = int(s.in_force.get("workers") or 0)
    ready = sum(1 for worker in s.workers if worker.get("ready"))
    if ready < want:
        return Finding(
            "workers",
            "wrong" if ready == 0 else "look",
            f"{ready} of {want} workers are ready",
            f"{s.logs} shows what the others wait for",
        )
    has = s.workers_wanted
    if has is not None and has != want and s.lock_age is None:
        cut = ", or a rolling exchange that was cut" if s.deployed else ""
        signal, count = ("TTIN", want - has) if has < want else ("TTOU", has - want)
        return Finding(
            "workers",
            "look",
            f"it has {has} workers where {want} are planned: TTIN or TTOU{cut}",
            f"{s.signal(signal)}{f', {count} times' if count > 1 else ''}",
        )
    return Finding("workers", "ok", f"{ready} of {want} workers are ready")


def endings(s: Snapshot) -> Finding:
    if s.traffic is None and not s.endings:
        return Finding("endings", "unknown", "the server does not tell how its workers ended")
    told = [f"{s.endings[name]} {name}" for name in BROKEN if s.endings.get(name)]
    if told:
        return Finding(
            "endings",
            "look",
            f"workers ended since the server started: {', '.join(told)}",
            f"{s.logs} names each with the requests that it had in hand (worker_ended, worker_timeout)",
        )
    return Finding("endings", "ok", "no worker crashed, hung or failed to boot")


def errors(s: Snapshot) -> Finding:
    if s.traffic is None:
        return Finding("errors", "unknown", "the server does not count its answers")
    recent = s.recent if s.recent and s.recent.requests >= REQUESTS_LEAST else None
    now, when = (recent, "while doctor looked") if recent else (s.traffic, "since the server started")
    seen = f"{now.errors} errors in {counted(now.requests, 'request')} {when} ({now.share:.1%})"
    if now.requests >= REQUESTS_LEAST and now.share > ERRORS_SHARE:
        back = f"; farrier release rollback {s.name} goes back to {s.rollback}" if s.rollback else ""
        return Finding("errors", "wrong" if recent else "look", seen, f"{s.logs} shows them{back}")
    return Finding("errors", "ok", seen)


def reload(s: Snapshot) -> Finding:
    refused = (s.last_reload or {}).get("refused")
    if not refused:
        return Finding("reload", "ok", "none was refused")
    again = f"farrier release reload {s.name}" if s.deployed else s.reload
    return Finding(
        "reload", "look", f"the last reload was refused, the settings before it hold: {refused}",
        f"mend that, then {again}",
    )  # fmt: skip


def settings_in_force(s: Snapshot) -> Finding:
    if s.plan is None or s.in_force is None:
        return Finding("settings", "unknown", "no plan or no running arbiter to compare")
    fields: dict[str, Any] = dict(s.plan.get("fields", {}))
    differing = [
        f"{name} is {s.in_force[name]}, planned {fields[name]['value']}"
        for name in sorted(set(fields) & set(s.in_force))
        if not same(s.in_force[name], fields[name]["value"])
    ]
    if differing:
        return Finding(
            "settings",
            "look",
            "; ".join(differing),
            f"{s.reload} applies the plan; "
            "GUNICORN_CMD_ARGS, the environment or your own config file may set it otherwise",
        )
    return Finding("settings", "ok", "what runs is what was planned")


def same(left: Any, right: Any) -> bool:
    """Equal as settings: 30 and 30.0 are, and so are None and an empty string."""
    if left in (None, "") and right in (None, ""):
        return True
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return float(left) == float(right)
    return str(left) == str(right)


def memory(s: Snapshot) -> Finding:
    if s.oom_kills:
        return Finding(
            "memory",
            "wrong",
            f"the kernel killed {s.oom_kills} processes of this app for memory",
            "give the app more memory, or fewer workers: farrier explain workers shows the sum",
        )
    if s.memory_used is None:
        return Finding("memory", "unknown", "the app's control group could not be read")
    if s.memory_limit is None:
        return Finding(
            "memory",
            "look",
            f"uses {format_bytes(s.memory_used)}, and nothing limits it",
            f"set a limit ({'deploy again' if s.deployed else 'of the container or the unit'}): without one "
            "a leak takes the whole machine",
        )
    share = s.memory_used / s.memory_limit
    seen = f"uses {format_bytes(s.memory_used)} of {format_bytes(s.memory_limit)} ({share:.0%})"
    if share > MEMORY_NEAR:
        return Finding("memory", "look", seen, "page cache counts too; if it grows: lower max_requests")
    return Finding("memory", "ok", seen)


def viable(s: Snapshot) -> Finding:
    verdict = (s.plan or {}).get("verdict")
    if not verdict:
        return Finding("viable", "unknown", "no plan with a verdict to go by")
    if verdict.get("level") == "not viable":
        return Finding(
            "viable",
            "look",
            f"{s.name} is not viable here by its plan: {verdict.get('why')}",
            "give the host that much memory, or the app less to keep: farrier explain memory_peak",
        )
    return Finding("viable", "ok", f"{verdict.get('level')} by its plan")


def limits(s: Snapshot) -> Finding:
    planned = (s.plan or {}).get("memory_max")
    if planned is None or s.memory_limit is None:
        return Finding("limits", "unknown", "no planned or no actual memory limit to compare")
    # the kernel rounds a limit to whole pages
    if abs(int(planned) - s.memory_limit) > MIB:
        return Finding(
            "limits",
            "look",
            f"the memory limit is {format_bytes(s.memory_limit)}, the plan wants {format_bytes(planned)}",
            "deploy again; if it stays, a drop-in changes it: systemctl cat shows which",
        )
    return Finding("limits", "ok", f"the memory limit is the plan's {format_bytes(planned)}")


def swap(s: Snapshot) -> Finding:
    if s.swap is None or s.machine_memory is None:
        return Finding("swap", "unknown", "/proc/meminfo could not be read")
    if s.swap == 0 and s.machine_memory < 1024 * MIB:
        return Finding(
            "swap",
            "look",
            f"no swap on a machine of {format_bytes(s.machine_memory)}",
            "a swap file of 512 MiB keeps package upgrades and one-off commands from being killed",
        )
    return Finding("swap", "ok", f"{format_bytes(s.swap)} of swap")


def machine(s: Snapshot) -> Finding:
    if s.machine_memory is None or s.machine_available is None:
        return Finding("machine", "unknown", "/proc/meminfo could not be read")
    seen = f"{format_bytes(s.machine_available)} of {format_bytes(s.machine_memory)} available"
    if s.machine_available < max(32 * MIB, s.machine_memory * 0.05):
        return Finding("machine", "wrong", seen, "something else takes the memory: ps aux --sort=-rss | head")
    return Finding("machine", "ok", seen)


def backlog(s: Snapshot) -> Finding:
    planned = (s.plan or {}).get("backlog")
    if s.queue_limit is None:
        return Finding("backlog", "unknown", "the listening socket was not found")
    seen = f"{s.queue_depth} connections wait, room for {s.queue_limit}"
    if planned is not None and s.queue_limit < int(planned):
        kernel = f" (net.core.somaxconn is {s.somaxconn})" if s.somaxconn is not None else ""
        return Finding(
            "backlog",
            "look",
            f"{seen}, planned {planned}{kernel}",
            f"sysctl -w net.core.somaxconn={planned}, then {s.reopen}"
            if s.somaxconn is not None and s.somaxconn < int(planned)
            else f"{s.reopen} applies the planned backlog",
        )
    if s.queue_depth and s.queue_depth * 2 > s.queue_limit:
        return Finding("backlog", "look", seen, "the workers do not keep up: farrier explain workers")
    return Finding("backlog", "ok", seen)


def overflow(s: Snapshot) -> Finding:
    if s.overflows is None:
        return Finding("overflow", "unknown", "this kernel does not tell of full listen queues")
    if s.overflows_recent:
        return Finding(
            "overflow",
            "wrong",
            f"{counted(s.overflows_recent, 'connection')} met a full listen queue of this host meanwhile",
            "ss -ltn shows whose Recv-Q stands at its Send-Q; if it is this app's: farrier explain workers",
        )
    return Finding("overflow", "ok", f"no listen queue is full (since the boot: {s.overflows} connections)")


def descriptors(s: Snapshot) -> Finding:
    if s.files_limit is None or s.files_open is None:
        return Finding("descriptors", "unknown", "the arbiter's limits could not be read (root can)")
    seen = f"the arbiter has {s.files_open} of {s.files_limit} open"
    wanted = int((s.plan or {}).get("worker_connections") or 0) + 64
    if s.files_limit < wanted:
        return Finding(
            "descriptors",
            "wrong",
            f"{seen}; a worker may need {wanted}",
            f"set LimitNOFILE={wanted * 2} in a drop-in of {s.name}@.service"
            if s.deployed
            else f"raise it to {wanted * 2}: ulimit -n, or --ulimit nofile of the container",
        )
    if s.files_open > s.files_limit * FILES_NEAR:
        return Finding("descriptors", "look", seen, "something leaks descriptors: ls -l /proc/PID/fd")
    return Finding("descriptors", "ok", seen)


def heartbeat(s: Snapshot) -> Finding:
    if s.tmp_dir is None or s.tmp_type is None:
        return Finding("heartbeat", "unknown", "worker_tmp_dir is not known")
    if s.tmp_type not in ("tmpfs", "ramfs"):
        return Finding(
            "heartbeat",
            "look",
            f"worker_tmp_dir {s.tmp_dir} is on {s.tmp_type}, a disk",
            "set worker_tmp_dir to /dev/shm: a disk that stalls makes the arbiter kill healthy workers",
        )
    if s.tmp_free is not None and s.tmp_free < TMP_ROOM_BYTES:
        return Finding(
            "heartbeat",
            "wrong",
            f"{s.tmp_dir} has {format_bytes(s.tmp_free)} free",
            f"remove what fills it: du -sh {s.tmp_dir}/*",
        )
    return Finding("heartbeat", "ok", f"worker_tmp_dir {s.tmp_dir} is in memory")


def disk(s: Snapshot) -> Finding:
    if s.disk_free is None:
        return Finding("disk", "unknown", "the app's folder could not be read")
    needed = 2 * (s.release_size or 100 * MIB)
    seen = f"{format_bytes(s.disk_free)} free"
    if s.disk_free < needed:
        return Finding(
            "disk",
            "look",
            f"{seen}; the next release wants about {format_bytes(needed)}",
            "lower gunicorn_app_keep_releases, or free some space",
        )
    return Finding("disk", "ok", seen)


def lock(s: Snapshot) -> Finding:
    if s.lock_age is not None and s.lock_age > LOCK_OLD_SECONDS:
        return Finding(
            "lock",
            "look",
            f"a deploy holds the lock since {s.lock_age / 60:.0f} minutes",
            f"systemctl status farrier-deploy-{s.name} shows it; the next deploy takes a dead one's lock",
        )
    return Finding("lock", "ok", "no deploy hangs")


def health(s: Snapshot) -> Finding:
    if s.health is None:
        return Finding("health", "unknown", "not asked: the app's address is not known")
    good, line = s.health
    if good:
        return Finding("health", "ok", line)
    return Finding("health", "wrong", line, f"{s.logs} shows the failing check")


def deploy(s: Snapshot) -> Finding:
    mend = f"the next deploy goes on from there; now: farrier release recover {s.name}"
    left = f"; left over: {', '.join(s.leftovers)}" if s.leftovers else ""
    if s.cut_off is not None:
        serves = {
            "switched": "the new release serves already",
            # A queue that was cut between the old colour's end and the switch, by a power cut for one.
            "replace": f"the colour that {s.name}.socket names serves, which may be the new one",
        }.get(s.cut_off, "what served before serves")
        step = s.step or s.cut_off
        return Finding("deploy", "look", f"the last deploy was cut off at '{step}'; {serves}{left}", mend)
    if s.undo_pending:
        return Finding("deploy", "look", f"a killed deploy has left files behind{left}", mend)
    if left:
        remove = f"rm {' '.join(s.leftovers)} && systemctl daemon-reload"
        return Finding(
            "deploy", "look", f"a colour is held back as a candidate, and no deploy runs{left}", remove
        )
    return Finding("deploy", "ok", "none was cut off")


def last_deploy(s: Snapshot) -> Finding:
    if s.last is None:
        return Finding("last deploy", "ok", "none is remembered")
    outcome, release = str(s.last.get("outcome")), s.last.get("release") or "a release"
    told = f": {s.last['message']}" if s.last.get("message") else ""
    if outcome == "failed":
        return Finding(
            "last deploy",
            "look",
            f"the last one failed{told}",
            f"mend that and deploy again; {s.release or 'nothing'} serves; farrier release list {s.name}",
        )
    if outcome == "rolled back":
        return Finding(
            "last deploy",
            "look",
            f"the last one, {release}, was rolled back{told}",
            f"mend it and deploy again ({s.release} serves); the same once more needs retry_bad: true",
        )
    return Finding("last deploy", "ok", f"the last one was {outcome}{told}")


def releases(s: Snapshot) -> Finding:
    if s.release is not None and s.release in s.bad:
        others = f"farrier release rollback {s.name} goes back to {s.rollback}" if s.rollback else ""
        return Finding(
            "releases",
            "wrong",
            f"{s.release}, which serves, is marked as bad: {s.bad[s.release]}",
            others or f"deploy a good one, or farrier release mark {s.name} {s.release} --good",
        )
    if not s.bad:
        return Finding("releases", "ok", "none is marked as bad")
    marked = "; ".join(f"{name}: {why}" for name, why in s.bad.items())
    if s.rollback is None:
        return Finding(
            "releases",
            "look",
            f"no good release is left to go back to; bad are {marked}",
            f"farrier release mark {s.name} RELEASE --good for one that is not",
        )
    return Finding("releases", "ok", f"a rollback would take {s.rollback}, never the bad {marked}")


def colours(s: Snapshot) -> Finding:
    if s.second is not None:
        return Finding(
            "colours",
            "wrong",
            f"{s.second} runs beside {s.name}@{s.instance}: both answer, perhaps with different releases",
            # Which of the two is to stay, the run knew that was cut off.
            f"farrier release recover {s.name}" if s.cut_off else f"systemctl stop {s.second}",
        )
    if len(s.colours) > 1:
        return Finding("colours", "ok", "two run, while a deploy exchanges them")
    return Finding("colours", "ok", "one colour runs")


def account(s: Snapshot) -> Finding:
    if s.account is not None:
        return Finding(
            "account",
            "wrong",
            f"{s.account} does not exist: the app cannot start again",
            "run the playbook again, which makes it",
        )
    return Finding("account", "ok", "user and group exist")


def neighbours(s: Snapshot) -> Finding:
    if s.together is None or s.machine_memory is None or not s.neighbours:
        return Finding("neighbours", "ok", "no other app of farrier's on this host")
    names = ", ".join(s.neighbours)
    seen = f"with {names}: {format_bytes(s.together)} expected of {format_bytes(s.machine_memory)}"
    if s.together > s.machine_memory:
        return Finding(
            "neighbours", "look", seen, "set gunicorn_app_memory for each, so that they fit together"
        )
    return Finding("neighbours", "ok", seen)


def database(s: Snapshot) -> Finding:
    if s.connections:
        seen, _, change = s.connections.partition(": ")
        return Finding("database", "look", seen, change)
    return Finding("database", "ok", "the apps of this host have connections enough by their plans")


CHECKS: tuple[Check, ...] = (
    running,
    workers,
    health,
    errors,
    endings,
    settings_in_force,
    reload,
    memory,
    viable,
    limits,
    machine,
    swap,
    backlog,
    overflow,
    descriptors,
    heartbeat,
    disk,
    lock,
    deploy,
    last_deploy,
    releases,
    colours,
    account,
    neighbours,
    database,
)
