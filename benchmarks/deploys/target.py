"""The host under load: a systemd host on one whole CPU, farrier's app and what people use today."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.deploys.cells import RECYCLE_AFTER, THREADS, WORKERS, Cell
from farrier.release import runtime
from lab.host import Host
from lab.machine import CA_BUNDLE, Machine

SITE = Path(__file__).parent / "site" / "main.py"
NAME, PORT = "bench", 8000
TODAY, TODAY_PORT = "/opt/today", 8001
#: What people use today, at the versions of the tools of this checkout.
PACKAGES = ("gunicorn", "uvicorn", "uvicorn-worker", "granian")
RELEASES = ("A", "B")
ASGI = ("asgi", "uvicorn")
#: The commands of today's servers, below /opt/today/bin.
SERVERS = {
    "gunicorn-sync": "gunicorn -w {workers} -b {bind} main:wsgi",
    "gunicorn-gthread": "gunicorn -w {workers} -k gthread --threads {threads} -b {bind} main:wsgi",
    "gunicorn-uvicorn": "gunicorn -w {workers} -k uvicorn_worker.UvicornWorker -b {bind} main:asgi",
    "uvicorn": "uvicorn --workers {workers} --host 0.0.0.0 --port {port} --no-access-log main:asgi",
    "granian": "granian --interface asgi --workers {workers} --host 0.0.0.0 --port {port} main:asgi",
}
#: As Gunicorn's own page on deploying has it; the others do not tell systemd when they are ready.
UNIT = """\
[Unit]
Description={name}, as people run it today

[Service]
Type={type}
User=nobody
WorkingDirectory={folder}/app
ExecStart={folder}/bin/{command}
ExecReload=/bin/kill -s HUP $MAINPID
KillMode=mixed
TimeoutStopSec=30
PrivateTmp=true
LimitNOFILE=16384
"""


@dataclass
class Deploy:
    """One deploy as it was asked for and as it went; times are Unix seconds."""

    asked: float
    ended: float
    release: str
    """The release that should answer from then on, or empty where only the processes change."""
    failed: str = ""
    id: str = ""
    """What farrier calls the release."""
    steps: list[dict[str, Any]] = field(default_factory=list)


class Target:
    """A host with both releases of the app; farrier's and today's servers never run at once."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.sources: dict[str, dict[str, str]] = {}
        self.wheel = ""
        self.serving: dict[str, Any] = {}
        self.turn = 0
        self.built: set[str] = set()
        self.ids: dict[str, str] = {}

    # --- once -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """The runtime wheel, both releases' archives."""
        version = runtime.find(None).version
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / f"farrier-{version}-py3-none-any.whl"
            runtime.pack(Path(runtime.__file__).parents[1], draft)
            self.wheel = f"/opt/farrier-bench/{draft.name}"
            self.host.put(draft, self.wheel)
            for release in RELEASES:
                self.sources[release] = self.upload(Path(folder), release)
        self.version = version
        self.let_nice_come_back()

    def let_nice_come_back(self) -> None:
        """What LimitNICE=+0 of the unit is on a machine: in a container systemd may not raise that limit."""
        drop_in = (
            "[Service]\nAmbientCapabilities=CAP_SYS_NICE\nCapabilityBoundingSet=CAP_SYS_NICE\n"
            "# Beside what serves a boot is nice, and comes back from that.\n"
        )
        self.host.write(f"/etc/systemd/system/{NAME}@.service.d/50-nice.conf", drop_in)

    def upload(self, folder: Path, release: str) -> dict[str, str]:
        """A source of type archive, lying where uploads lie."""
        buffer = io.BytesIO()
        texts = {"main.py": SITE.read_text(), "release.txt": release}
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

    def install_today(self) -> None:
        """A venv with what people use today, made once."""
        if not self.host.run(["test", "-e", f"{TODAY}/ready"], check=False).returncode:
            return
        wanted = [f"{name}=={metadata.version(name)}" for name in PACKAGES]
        self.host.run(["python3", "-m", "venv", TODAY])
        env = Machine.read().pip_environment()
        self.host.run([f"{TODAY}/bin/pip", "install", "-q", "--no-cache-dir", *wanted], env=env)
        self.host.write(f"{TODAY}/app/main.py", SITE.read_text())
        self.host.write(f"{TODAY}/ready", " ".join(wanted))

    # --- farrier's --------------------------------------------------------------------------------

    def spec(self, cell: Cell, release: str, **settings: Any) -> dict[str, Any]:
        """The wanted state for a cell."""
        chosen: dict[str, Any] = {
            "worker_class": cell.worker_class,
            "workers": WORKERS[cell.worker_class],
            "strategy": cell.strategy if cell.deploys else "overlap",
            "max_requests": 0 if cell.deploys else RECYCLE_AFTER,
            "max_requests_jitter": 0,
            # So that the journal tells of each worker that ends.
            "loglevel": "info",
        }
        if cell.worker_class == "gthread":
            chosen["threads"] = THREADS
        if cell.strategy == "reload":
            # What takes traffic first is not measured; only HUPs are.
            chosen["strategy"] = "overlap"
        machine = Machine.read()
        return {
            "schema": 1,
            "name": NAME,
            "app": "main:asgi" if cell.worker_class in ASGI else "main:wsgi",
            "bind": f"0.0.0.0:{PORT}",
            "who": "benchmark",
            "source": self.sources[release],
            "settings": chosen | settings,
            "guard": {"seconds": 2 if cell.strategy in ("overlap", "rolling") else 0},
            # A release that the guard turned back is deployed again: it is the load that is looked at here.
            "retry_bad": True,
            "keep_releases": 50,
            "runtime": self.wheel,
            "installer_env": machine.installer_environment()
            | ({"PIP_CERT": CA_BUNDLE, "SSL_CERT_FILE": CA_BUNDLE} if machine.bundle else {}),
        }

    def farrier(self, *arguments: str, input: str = "") -> Deploy:
        """One `farrier release` command; when it was asked is what the host's clock said just before."""
        script = (
            'date +%s.%N >&2; if [ -x /usr/local/bin/farrier ]; then exec farrier release "$@" --json; '
            'else exec python3 -m farrier release "$@" --json; fi'
        )
        done = self.host.run(
            ["sh", "-c", script, "sh", *arguments],
            input=input,
            check=False,
            env={"PYTHONPATH": self.wheel, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        asked = float(done.stderr.split("\n", 1)[0])
        if not done.stdout.startswith("{"):
            raise SystemExit(f"farrier release {arguments[0]}: {done.stdout}{done.stderr}")
        answer = json.loads(done.stdout)
        return Deploy(
            asked,
            time.time(),
            "",
            answer["msg"] if answer["failed"] else "",
            str(answer["release"]),
        )

    def apply(self, spec: dict[str, Any]) -> Deploy:
        """Brings the host to a spec."""
        self.serving = spec
        return self.farrier("apply", "-", input=json.dumps(spec))

    def serve(self, cell: Cell) -> None:
        """What a cell begins with: its class serves, both releases are built, and nothing else runs."""
        if not cell.ours:
            self.stop_ours()
            self.serve_today(cell)
            return
        self.stop_today()
        self.host.run(["systemctl", "start", f"{NAME}.socket"], check=False)
        for release in RELEASES[:1] if cell.worker_class in self.built else reversed(RELEASES):
            went = self.apply(self.spec(cell, release))
            if went.failed:
                raise SystemExit(f"{cell.name}: {went.failed}")
            self.ids[release] = went.id
        self.built.add(cell.worker_class)
        self.turn = 0

    def deploy(self, cell: Cell) -> Deploy:
        """The next deploy of a cell."""
        self.turn += 1
        release = RELEASES[self.turn % len(RELEASES)]
        if not cell.ours:
            return self.deploy_today(cell, release)
        before = time.time()
        if cell.strategy == "reload":
            went = self.hup(cell)
        elif self.turn % 2:
            went = self.apply(self.spec(cell, release))
        else:
            went = self.farrier("rollback", NAME, "--to", self.ids[release])
        went.release = "" if cell.strategy == "reload" else release
        went.steps = self.steps_since(before)
        return went

    def hup(self, cell: Cell) -> Deploy:
        """A setting that is changed, and in turns with it the command that reads them all anew."""
        if self.turn % 2:
            # Another value each time: the same again would be nothing to do.
            went = self.apply(self.spec(cell, RELEASES[0], timeout=30 + self.turn))
        else:
            went = self.farrier("reload", NAME)
        self.await_reload(went)
        return went

    def await_reload(self, went: Deploy) -> None:
        """A HUP is over when the arbiter says so."""
        end = time.monotonic() + 60
        while not [one for one in self.journal(went.asked) if one["event"] in ("reloaded", "reload_refused")]:
            if time.monotonic() > end:
                went.failed = went.failed or "no end of the reload within 60 s"
                break
            time.sleep(0.2)
        went.ended = time.time()

    def steps_since(self, since: float) -> list[dict[str, Any]]:
        """The last run's steps with when each began and ended, from events.jsonl."""
        began: dict[str, float] = {}
        found = []
        for line in self.host.shell(f"tail -n 200 /srv/{NAME}/events.jsonl").splitlines():
            event = json.loads(line)
            if event["t"] < since or "step" not in event:
                continue
            if event["event"] == "start":
                began[event["step"]] = event["t"]
            elif event["event"] in ("done", "failed"):
                found.append(
                    {
                        "name": event["step"],
                        "began": began.get(event["step"], event["t"]),
                        "ended": event["t"],
                        "detail": event.get("detail", ""),
                    }
                )
        return found

    def journal(self, since: float) -> list[dict[str, Any]]:
        """What the colours' arbiters and workers said since then: farrier's own events, with `unit`."""
        said = self.host.run(
            ["journalctl", f"--since=@{since:.3f}", "-u", f"{NAME}@*", "-o", "json", "-q", "--no-pager",
             "--output-fields=MESSAGE,_SYSTEMD_UNIT"],
        ).stdout  # fmt: skip
        found = []
        for line in said.splitlines():
            entry = json.loads(line)
            text = entry.get("MESSAGE", "")
            if isinstance(text, str) and text.startswith("{"):
                event = json.loads(text)
                event["at"] = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
                event["unit"] = entry.get("_SYSTEMD_UNIT", "")
                if "event" in event:
                    found.append(event)
        return found

    def said(self, since: float) -> str:
        """Everything that the host logged since then, to find out why a request failed."""
        return self.host.run(
            ["journalctl", f"--since=@{since:.3f}", "-q", "--no-pager", "-o", "short-precise"]
        ).stdout

    def stop_ours(self) -> None:
        self.host.run(["systemctl", "stop", f"{NAME}.socket", f"{NAME}@blue", f"{NAME}@green"], check=False)

    # --- today's ----------------------------------------------------------------------------------

    def serve_today(self, cell: Cell) -> None:
        self.install_today()
        self.stop_today()
        command = SERVERS[cell.server].format(
            workers=WORKERS[cell.worker_class],
            threads=THREADS,
            bind=f"0.0.0.0:{TODAY_PORT}",
            port=TODAY_PORT,
        )
        if not cell.deploys:
            command += f" --max-requests {RECYCLE_AFTER}"
        kind = "notify" if command.startswith("gunicorn") else "simple"
        text = UNIT.format(name=cell.server, type=kind, folder=TODAY, command=command)
        self.host.write("/etc/systemd/system/today.service", text)
        self.host.write(f"{TODAY}/app/release.txt", RELEASES[0])
        self.host.shell("systemctl daemon-reload && systemctl start today")
        ask = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{TODAY_PORT}/?1', timeout=5)"
        end = time.monotonic() + 30
        while self.host.run(["python3", "-c", ask], check=False).returncode:
            if time.monotonic() > end:
                raise SystemExit(f"{cell.name}: does not come up")
            time.sleep(0.2)
        self.turn = 0

    def deploy_today(self, cell: Cell, release: str) -> Deploy:
        """The new code is in place; then what the cell's name says."""
        self.host.write(f"{TODAY}/app/release.txt", release)
        verb = "reload" if cell.strategy == "hup" else "restart"
        done = self.host.run(["sh", "-c", f"date +%s.%N; systemctl {verb} today"], check=False)
        return Deploy(
            float(done.stdout.split()[0]),
            time.time(),
            release,
            done.stderr.strip() if done.returncode else "",
        )

    def stop_today(self) -> None:
        self.host.run(["systemctl", "stop", "today"], check=False)
