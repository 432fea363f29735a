"""The unit files of one app, and what each colour reads: environment, plan, settings.

A socket, one template with the instances blue and green, and a slice. What may differ between the two
colours while both run (command, folder, limits) is a drop-in of the colour, so that a candidate never
changes how the serving one would start again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import envfile, files, older
from .files import File
from .layout import UNITS, Layout
from .spec import WEIGHT, Spec

if TYPE_CHECKING:
    from ..sizing.plan import Plan

# A boot takes longer beside a serving colour on a busy CPU; five times was never reached in the lab.
START_FACTOR = 5
START_LEAST = 30
# What else an app opens: logs, files, connections to databases and other services.
OPEN_FILES_LEAST = 16384
# A candidate is what the kernel should take first when memory runs out.
CANDIDATE_OOM_SCORE = 500


@dataclass(frozen=True)
class Unit(File):
    """A file, and what a change of it needs: ``live`` (daemon-reload), ``reload`` (HUP) or ``restart``."""

    needs: str = "restart"


def everything(
    spec: Spec,
    layout: Layout,
    colour: str,
    plan: Plan,
    env: Mapping[str, str],
    gid: int,
    runtime: str = "",
) -> list[Unit]:
    """Every file that `colour` needs, except the one that says which colour is active.

    `runtime`: the version that the release serves with, where it is not this one.
    """
    return [
        socket(spec, layout, plan),
        slice_(spec, layout, plan),
        template(spec, layout),
        command(spec, layout, colour, plan),
        limits(spec, layout, colour, plan),
        *colour_files(spec, layout, colour, plan, env, gid, runtime),
    ]


def socket(spec: Spec, layout: Layout, plan: Plan) -> Unit:
    listen = spec.listen
    lines = [f"ListenStream={listen.listen_stream}", f"Backlog={plan.value('backlog')}"]
    if listen.kind == "unix":
        lines += ["RemoveOnStop=yes"]
    elif listen.host not in ("", "0.0.0.0", "::", "127.0.0.1", "::1"):
        # The address may come up after the socket does.
        lines += ["NoDelay=yes", "FreeBind=yes"]
    else:
        lines += ["NoDelay=yes"]
    text = f"""\
{layout.mark}
[Unit]
Description={spec.name}: the socket that its two colours share

[Socket]
{_lines(lines)}
# A burst of connections while a colour boots must never close the socket.
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
"""
    return Unit(UNITS / layout.socket, text, needs="live")


def listen_stream(layout: Layout) -> str:
    """Where the socket's file says that it listens; empty where there is none."""
    try:
        text = (UNITS / layout.socket).read_text(encoding="utf-8")
    except OSError:
        return ""
    return text.partition("ListenStream=")[2].partition("\n")[0]


def socket_moves(spec: Spec, layout: Layout) -> bool:
    """True if the socket listens elsewhere than the spec says: systemd then has to open it anew."""
    return listen_stream(layout) not in ("", spec.listen.listen_stream)


def active(layout: Layout, colour: str) -> File:
    """The drop-in that is the switch: renamed into place, it decides for connections, boots and crashes."""
    return File(layout.active_drop_in, _named(layout, colour))


def passing(layout: Layout, colour: str) -> File:
    """The same before the switch, for a colour that takes the other's place: a boot knows nothing of it."""
    return File(layout.passing_drop_in, _named(layout, colour))


def _named(layout: Layout, colour: str) -> str:
    service = layout.service(colour)
    return f"{layout.mark}\n[Unit]\nWants={service}\n\n[Socket]\nService={service}\n"


def slice_(spec: Spec, layout: Layout, plan: Plan) -> Unit:
    total = memory_total(plan)
    lines = [f"MemoryMax={total}"] if total else []
    if spec.weight != WEIGHT:
        # systemd's own is the same 100.
        lines.append(f"CPUWeight={spec.weight}")
    text = f"""\
{layout.mark}
[Unit]
Description={layout.name}: both colours together

[Slice]
MemoryAccounting=yes
{_lines(lines)}
"""
    return Unit(UNITS / layout.slice, text, needs="live")


def memory_total(plan: Plan) -> int | None:
    """Bytes that both colours may have together; the one that serves may have all of it."""
    return int(number(plan, "memory_max")) or None


def template(spec: Spec, layout: Layout) -> Unit:
    home = "read-only" if spec.root.startswith(("/home/", "/root/")) else "yes"
    writable = [f"-{layout.shared}"]
    candidate = layout.candidate_drop_in("%i")
    # The first of these that is there names the colour, as systemd has it too.
    named = f"{layout.passing_drop_in} {layout.active_drop_in}"
    text = f"""\
{layout.mark}
[Unit]
Description={spec.name} (%i), served by Farrier
After=network.target {layout.socket}
Requires={layout.socket}
# A candidate that fails over and over must not fail the socket with it.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={spec.user}
Group={spec.group}
Slice={layout.slice}
Sockets={layout.socket}
# Whether accept() waits is a property of the socket itself, which both colours have; without this each start
# of one would let the workers of the other one wait.
NonBlocking=yes
EnvironmentFile={layout.etc}/%i/env
# A colour starts only as the one that serves or as the candidate: there are never two by accident.
ExecCondition=/bin/sh -c 'test -e {candidate} || grep -hsm1 ^Service= {named} | head -n1 | \
  grep -qxF "Service={spec.name}@%i.service"'
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
Restart=always
RestartSec=1
# A worker that is killed for memory is replaced; the others serve on.
OOMPolicy=continue
# A candidate's workers boot nicely, and come back from it.
LimitNICE=+0
RuntimeDirectory=farrier/{spec.name}
RuntimeDirectoryPreserve=yes
UMask=0027
{_lines(f"ReadWritePaths={path}" for path in writable)}
ProtectHome={home}
{_lines(HARDENING)}
"""
    return Unit(UNITS / layout.template, text)


HARDENING = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "LockPersonality=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged",
    # Refused calls answer EPERM instead of killing a worker.
    "SystemCallErrorNumber=EPERM",
)


def command(spec: Spec, layout: Layout, colour: str, plan: Plan) -> Unit:
    """What this colour runs. A change needs a restart, so it goes to the other colour."""
    link = layout.link(colour)
    folder = f"{link}/src/{spec.chdir}" if spec.chdir else f"{link}/src"
    text = f"""\
{layout.mark}
[Service]
WorkingDirectory={folder}
ExecStart={link}/venv/bin/farrier serve {_word(spec.app)}
LimitNOFILE={open_files(plan)}
"""
    return Unit(layout.drop_ins(colour) / "50-command.conf", text)


def limits(spec: Spec, layout: Layout, colour: str, plan: Plan) -> Unit:
    """This colour's share of the machine; systemd applies a change while it runs."""
    lines = [
        f"TimeoutStartSec={start_timeout(spec, plan)}",
        f"TimeoutStopSec={math.ceil(number(plan, 'stop_timeout'))}",
    ]
    for key, name in (("MemoryMax", "memory_max"), ("MemoryHigh", "memory_high")):
        if number(plan, name):
            lines.append(f"{key}={int(number(plan, name))}")
    return Unit(
        layout.drop_ins(colour) / "60-limits.conf",
        f"{layout.mark}\n[Service]\n{_lines(lines)}\n",
        needs="live",
    )


def candidate(
    layout: Layout, colour: str, plan: Plan, strategy: str, old: str | None = None, gate: bool = False
) -> File:
    """What holds a candidate back until it is promoted; removed then, and by a reboot.

    Rolling: it starts with one worker. A queue's gate: with one that accepts nothing. A queue: its start
    waits for the end of the old colour, whoever asked for both.
    """
    lines = [f"OOMScoreAdjust={CANDIDATE_OOM_SCORE}", "Restart=no"]
    beside = number(plan, "candidate_memory_max")
    if beside and strategy == "overlap":
        lines += [f"MemoryMax={int(beside)}", "MemoryHigh=infinity"]
    if strategy == "rolling":
        lines += ["Environment=FARRIER_FIRST_WORKERS=1"]
    unit = ""
    if gate:
        lines += ["Environment=FARRIER_GATE=1"]
    elif strategy == "queue" and old:
        unit = f"[Unit]\nAfter={layout.service(old)}\n\n"
    return File(layout.candidate_drop_in(colour), f"{layout.mark}\n{unit}[Service]\n{_lines(lines)}\n")


def number(plan: Plan, name: str) -> float:
    """A field that is a number, 0 where it is none or the plan does not hold it."""
    value = plan.value(name) if name in plan else None
    return float(value) if isinstance(value, int | float) else 0.0


def open_files(plan: Plan) -> int:
    """File descriptors: a worker's connections twice (client and upstream), to the next power of two.

    Steps, so that a setting that HUP can apply seldom needs a restart for this.
    """
    connections = int(number(plan, "worker_connections"))
    return int(max(OPEN_FILES_LEAST, 2 ** math.ceil(math.log2(2 * connections + 1024))))


def start_timeout(spec: Spec, plan: Plan) -> int:
    """Seconds until a colour that is not ready counts as failed: as a person says, else from the boot."""
    if spec.start_timeout:
        return spec.start_timeout
    boot = plan.workload.boot_seconds * max(1.0, number(plan, "workers")) / max(plan.budget.cpus, 0.1)
    return int(START_LEAST + math.ceil(START_FACTOR * boot))


def colour_files(
    spec: Spec,
    layout: Layout,
    colour: str,
    plan: Plan,
    env: Mapping[str, str],
    gid: int,
    runtime: str = "",
) -> list[Unit]:
    folder = layout.colour_dir(colour)
    chosen = files.dump(older.settings(spec.settings, runtime))
    told = files.dump(older.plan(plan.to_dict(), runtime))
    return [
        Unit(folder / "env", envfile.systemd_env(env), 0o600, secret=True),
        Unit(folder / "plan.json", told, 0o640, gid, needs="reload"),
        Unit(folder / "settings.json", chosen, 0o640, gid, needs="reload"),
    ]


def environment(
    spec: Spec,
    layout: Layout,
    colour: str,
    plan: Plan,
    release: str,
    given: Mapping[str, str],
    paths: list[str],
) -> dict[str, str]:
    """The whole environment of a colour: the app's own, then what farrier.serve is told."""
    folder = layout.colour_dir(colour)
    link = layout.link(colour)
    out: dict[str, str] = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    arenas = plan.value("malloc_arena_max")
    if arenas:
        out["MALLOC_ARENA_MAX"] = str(arenas)
    if "malloc_trim_threshold" in plan and plan.value("malloc_trim_threshold"):
        out["MALLOC_TRIM_THRESHOLD_"] = str(plan.value("malloc_trim_threshold"))
    out["PATH"] = f"{link}/venv/bin:/usr/local/bin:/usr/bin:/bin"
    out.update(given)
    python_path = [f"{link}/src/{path}".rstrip("/") for path in paths]
    if python_path:
        out["PYTHONPATH"] = ":".join([*python_path, *filter(None, [given.get("PYTHONPATH")])])
    out.update(
        FARRIER_PLAN=str(folder / "plan.json"),
        FARRIER_SETTINGS=str(folder / "settings.json"),
        FARRIER_APP=spec.name,
        FARRIER_INSTANCE=colour,
        FARRIER_RELEASE=release,
        FARRIER_SLICE=layout.slice,
        FARRIER_RUN_DIR=str(layout.run_dir),
        FARRIER_HEALTH_PATH=spec.health_path,
    )
    if spec.ready:
        out["FARRIER_READY"] = ",".join(spec.ready)
    if spec.config_file:
        inside = not spec.config_file.startswith("/")
        out["FARRIER_CONFIG"] = f"{link}/src/{spec.config_file}" if inside else spec.config_file
    return out


def _lines(lines: Any) -> str:
    return "\n".join(lines)


def _word(text: str) -> str:
    """One word of ``ExecStart=``: systemd expands % and $ and reads quotes and backslashes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return (
        f'"{escaped}"'
        if escaped != text or not escaped.replace(":", "").replace(".", "").isidentifier()
        else text
    )
