"""One host of a tier: the app deployed by farrier's release machine, or by Gunicorn as usually configured."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.matrix.image import DRIVER, TODAY
from benchmarks.matrix.tiers import BALLAST, LEAK_KIB, Tier
from benchmarks.matrix.watch import Cgroup
from farrier.release import runtime
from lab.engine import Engine
from lab.host import Host
from lab.machine import CA_BUNDLE, Machine

#: Read once: what is edited while the matrix runs is not what it measures.
SITE = (Path(__file__).parent / "site" / "main.py").read_text()
NAME, PORT = "bench", 8000
RELEASES = ("A", "B")
#: What a person says who has a database on the same host: PostgreSQL as Debian ships it, and its connections.
DATABASE_MEMORY = "48MiB"
#: At 256 MB all of it counts, so a person says what such a host really takes: there is no proxy and no log
#: shipper on it (30 MiB for systemd, sshd and the journal), and PostgreSQL has two or three connections.
LEAN = {"reserve_memory": "32MiB", "database_memory": "32MiB"}
DATABASE = "postgresql://bench:bench@127.0.0.1/bench"
#: As Gunicorn's page on deploying has it, with a restart that most add.
UNIT = """\
[Unit]
Description=the app, as Gunicorn is usually run
After=network.target

[Service]
Type=notify
User=nobody
WorkingDirectory={folder}/app
{environment}
ExecStart={folder}/bin/gunicorn -w {workers} -b 0.0.0.0:{port} main:app
ExecReload=/bin/kill -s HUP $MAINPID
KillMode=mixed
TimeoutStopSec=5
PrivateTmp=true
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


def pack(folder: Path) -> Path:
    """The checkout's farrier as a wheel."""
    wheel = folder / f"farrier-{runtime.find(None).version}-py3-none-any.whl"
    runtime.pack(Path(runtime.__file__).parents[1], wheel)
    return wheel


class Target:
    """A host with one app on it. A context manager; the host goes away with it."""

    #: The runtime wheel, packed once for all hosts.
    packed: Path | None = None

    def __init__(
        self, docker: Engine, image: str, tier: Tier, app: str, who: str, cores: str, leak: bool
    ) -> None:
        self.tier, self.app, self.who = tier, app, who
        self.leak = leak
        part = f"matrix-{tier.name}-{app}-{who}" + ("-leak" if leak else "")
        # By cpuset where the host has cores to itself: a quota would throttle it in slices.
        self.host = Host(
            part, memory=tier.memory, cpuset=cores, cpus=float(tier.cpus), image=image, docker=docker,
            capabilities=["SYS_NICE"],
        )  # fmt: skip
        self.sources: dict[str, dict[str, str]] = {}
        self.went: dict[str, Any] = {}
        self.address = ""

    def __enter__(self) -> Target:
        self.host.start()
        try:
            self.address = self.host.address
            # As on a machine: the journal is on the disk, not in memory that the app could have.
            self.host.shell("mkdir -p /var/log/journal && systemctl restart systemd-journald")
            if self.app == "postgres":
                self.host.shell("systemctl enable --now postgresql")
            if self.ours:
                self.prepare()
                self.went = self.deploy("A")
            else:
                self.install()
        except BaseException:
            self.host.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.host.remove()

    @property
    def ours(self) -> bool:
        return self.who == "farrier"

    @property
    def workers_today(self) -> int:
        """Gunicorn's documented rule."""
        return 2 * self.tier.cpus + 1

    def environment(self) -> dict[str, str]:
        """What the app is told."""
        found = {"BALLAST_MIB": str(BALLAST[self.app])}
        if self.app == "postgres":
            found["DATABASE"] = DATABASE
        if self.leak:
            found["LEAK_KIB"] = str(LEAK_KIB)
        return found

    def alive(self) -> bool:
        """Whether the host still runs: its first process, too, can be killed for memory."""
        if not self.host.container:
            return False
        said = self.host.docker.call("inspect", "-f", "{{.State.Running}}", self.host.container, check=False)
        return said.stdout.strip() == "true"

    def cgroup(self) -> Cgroup:
        pid = int(self.host.docker.call("inspect", "-f", "{{.State.Pid}}", self.host.container).stdout)
        return Cgroup.of(pid, self.host.container)

    # --- farrier's --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """The runtime wheel and both releases, as the role would send them."""
        with tempfile.TemporaryDirectory() as folder:
            draft = self.packed or pack(Path(folder))
            self.wheel = f"/opt/farrier-bench/{draft.name}"
            self.host.put(draft, self.wheel)
            for release in RELEASES:
                self.sources[release] = self.upload(Path(folder), release)
        # What LimitNICE=+0 of the unit is on a machine: in a container systemd may not raise that limit.
        drop_in = "[Service]\nAmbientCapabilities=CAP_SYS_NICE\nCapabilityBoundingSet=CAP_SYS_NICE\n"
        self.host.write(f"/etc/systemd/system/{NAME}@.service.d/50-nice.conf", drop_in)

    def upload(self, folder: Path, release: str) -> dict[str, str]:
        """A source of type archive, lying where uploads lie."""
        from importlib import metadata

        texts = {
            "main.py": SITE,
            "release.txt": release,
            "requirements.txt": f"flask=={metadata.version('flask')}\n"
            + (f"{DRIVER}\n" if self.app == "postgres" else ""),
        }
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, text in texts.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(text.encode()), 0o644
                archive.addfile(entry, io.BytesIO(text.encode()))
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        local = folder / release
        local.write_bytes(buffer.getvalue())
        path = f"/var/lib/farrier/uploads/{digest}.tar.gz"
        self.host.put(local, path)
        return {"type": "archive", "path": path, "sha256": digest}

    def spec(self, release: str) -> dict[str, Any]:
        """The wanted state: what a person would write, no number of ours but what the database takes."""
        machine = Machine.read()
        settings: dict[str, Any] = {"loglevel": "info"}
        if self.app == "postgres":
            settings |= {"database_memory": DATABASE_MEMORY} if self.tier.memory_mib > 256 else LEAN
        else:
            settings |= {"uses_database": False}
        return {
            "schema": 1,
            "name": NAME,
            "app": "main:app",
            "bind": f"0.0.0.0:{PORT}",
            "who": "benchmark",
            "source": self.sources[release],
            "env": self.environment(),
            "settings": settings,
            "guard": {"seconds": 5},
            "retry_bad": True,
            "runtime": self.wheel,
            "installer_env": machine.installer_environment()
            | ({"PIP_CERT": CA_BUNDLE, "SSL_CERT_FILE": CA_BUNDLE} if machine.bundle else {}),
        }

    def deploy(self, release: str) -> dict[str, Any]:
        """`farrier release apply`: its answer, with `asked` and `ended` (Unix seconds)."""
        script = (
            "date +%s.%N >&2; if [ -x /usr/local/bin/farrier ]; then exec farrier release apply - --json; "
            "else exec python3 -m farrier release apply - --json; fi"
        )
        done = self.host.run(
            ["sh", "-c", script], input=json.dumps(self.spec(release)), check=False,
            env={"PYTHONPATH": self.wheel, "PYTHONDONTWRITEBYTECODE": "1"}, timeout=600,
        )  # fmt: skip
        ended = time.time()
        asked = float(done.stderr.split("\n", 1)[0] or 0)
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            lines = (done.stdout + done.stderr).strip().splitlines()
            answer = {"failed": True, "msg": lines[-1] if lines else f"exit status {done.returncode}"}
        return {**answer, "asked": asked, "ended": ended}

    def state(self) -> dict[str, Any]:
        """What the serving colour's arbiter says of itself; empty where none does."""
        files = [f"/run/farrier/{NAME}/{colour}.json" for colour in ("blue", "green")]
        said = self.host.run(["cat", *files], check=False)
        best: dict[str, Any] = {}
        decoder, text = json.JSONDecoder(), said.stdout.strip()
        while text.startswith("{"):
            found, end = decoder.raw_decode(text)
            text = text[end:].lstrip()
            if found.get("started", 0) >= best.get("started", 0):
                best = found
        return best

    # --- today's ----------------------------------------------------------------------------------

    def install(self) -> None:
        """The code and the unit; the venv is in the image."""
        environment = "\n".join(f"Environment={k}={v}" for k, v in self.environment().items())
        text = UNIT.format(folder=TODAY, workers=self.workers_today, port=PORT, environment=environment)
        self.host.write("/etc/systemd/system/today.service", text)
        self.host.write(f"{TODAY}/app/main.py", SITE)
        self.host.write(f"{TODAY}/app/release.txt", "A")
        self.host.shell("systemctl daemon-reload; systemctl enable today; systemctl start --no-block today")

    # --- both -------------------------------------------------------------------------------------

    @property
    def units(self) -> list[str]:
        """What is started, in the order of a boot."""
        return [f"{NAME}.socket"] if self.ours else ["today.service"]

    def stop(self) -> None:
        more = [f"{NAME}@blue", f"{NAME}@green"] if self.ours else []
        self.host.run(["systemctl", "stop", *self.units, *more], check=False)

    def start(self) -> float:
        """Start the units without waiting; the host's clock just before."""
        script = 'date +%s.%N; exec systemctl start --no-block "$@"'
        colour = [f"{NAME}@{self.colour()}"] if self.ours else []
        # Units that are not there after a refused deploy are no error of ours: nothing will answer.
        done = self.host.run(["sh", "-c", script, "sh", *self.units, *colour], check=False)
        return float(done.stdout.split()[0])

    def colour(self) -> str:
        """The colour that the switch names; blue where a refused deploy left none."""
        said = self.host.run(["cat", f"/etc/systemd/system/{NAME}.socket.d/active.conf"], check=False).stdout
        return "green" if "@green" in said else "blue"

    def reboot(self) -> float:
        """Restart the host; Unix seconds at which it began to boot."""
        self.host.docker.call("stop", "-t", "20", self.host.container, timeout=60)
        began = time.time()
        self.host.docker.call("start", self.host.container)
        self.address = self.host.address
        return began

    def signal(self, pid: int, name: str) -> None:
        self.host.run(["kill", f"-{name}", str(pid)], check=False)

    def main_pid(self) -> int:
        unit = f"{NAME}@{self.colour()}" if self.ours else "today"
        return int(self.host.run(["systemctl", "show", "-P", "MainPID", unit]).stdout.strip() or 0)

    def workers(self) -> list[int]:
        """Pids of the workers: the main process's children."""
        main = self.main_pid()
        if not main:
            return []
        said = self.host.run(["cat", f"/proc/{main}/task/{main}/children"], check=False).stdout
        return [int(pid) for pid in said.split()]

    def pss(self) -> list[int]:
        """Proportional bytes of the main process and each worker, now."""
        pids = [self.main_pid(), *self.workers()]
        script = 'for p in "$@"; do grep -m1 "^Pss:" /proc/$p/smaps_rollup; done'
        said = self.host.run(["sh", "-c", script, "sh", *map(str, pids)], check=False).stdout
        return [int(line.split()[1]) * 1024 for line in said.splitlines() if line.startswith("Pss:")]

    def journal(self, since: float) -> list[dict[str, Any]]:
        """What the app's units said since then: {at, unit, text}, and farrier's own events as `event`."""
        pattern = [f"{NAME}@*"] if self.ours else ["today"]
        command = (
            ["journalctl", f"--since=@{since:.3f}", *(part for unit in pattern for part in ("-u", unit)),
             "-o", "json", "-q", "--no-pager", "--output-fields=MESSAGE,_SYSTEMD_UNIT"]
        )  # fmt: skip
        # On a host without memory journalctl itself can be killed; half of what was said is no result.
        done = self.host.run(command, check=False)
        said = (done if done.returncode == 0 else self.host.run(command)).stdout
        found = []
        for line in said.splitlines():
            entry = json.loads(line)
            text = entry.get("MESSAGE") or ""
            if not isinstance(text, str):
                continue
            at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
            one = {"at": at, "unit": entry.get("_SYSTEMD_UNIT", ""), "text": text}
            if text.startswith("{"):
                with contextlib.suppress(ValueError):
                    one["event"] = json.loads(text)
            found.append(one)
        return found

    def raw_journal(self, since: float) -> str:
        """Everything that the host logged since then, the access log left out."""
        said = self.host.run(
            ["journalctl", f"--since=@{since:.3f}", "-q", "--no-pager", "-o", "short-precise"], check=False
        ).stdout
        return "\n".join(line for line in said.splitlines() if '"method"' not in line) + "\n"
