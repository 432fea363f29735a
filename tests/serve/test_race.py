"""A worker that dies between being reaped and being killed is none to worry about."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

from .conftest import TTIN, TTOU, Serve
from .test_reload import children


def test_workers_that_die_while_being_killed_leave_no_traceback(serve: Serve, tmp_path: Path) -> None:
    """Hundreds of workers are killed from outside while the arbiter kills and starts them itself."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "def worker_exit(server, worker):\n    raise ProcessLookupError('a hook that does not help')\n"
        "def child_exit(server, worker):\n    raise ProcessLookupError('a hook that does not help')\n"
    )
    site = serve(WORKERS="4", WORKER_CLASS="sync")
    chance = random.Random(1)
    killed: set[int] = set()
    children = Path(f"/proc/{site.process.pid}/task/{site.process.pid}/children")
    deadline = time.monotonic() + 60
    while len(killed) < 200:
        assert time.monotonic() < deadline, f"only {len(killed)} workers were killed"
        assert site.process.poll() is None
        if chance.random() < 0.2:
            site.signal(chance.choice((TTIN, TTOU)))
        ready = {worker["pid"] for worker in serve.state()["workers"] if worker["ready"]}
        for pid in map(int, children.read_text().split()):
            # A kill before it is ready would count as a failed boot, after which the arbiter takes its time.
            ways = [signal.SIGTERM, signal.SIGQUIT, *([signal.SIGKILL] if pid in ready else [])]
            if chance.random() < 0.5:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, chance.choice(ways))
                    killed.add(pid)
        time.sleep(0.01)
    site.signal(signal.SIGTERM)
    assert site.wait(30) == 0
    stacks = [one for one in site.text.splitlines() if "ProcessLookupError" in one or "Traceback" in one]
    assert [one for one in stacks if "a hook that does not help" not in one] == []
    assert "Unhandled exception" not in site.text


def test_killing_a_worker_that_was_reaped_elsewhere(serve: Serve, tmp_path: Path) -> None:
    """The very race, on the real arbiter: a real worker is gone and reaped before kill_worker() runs."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "import os, signal\n"
        "def when_ready(server):\n"
        "    for count in range(300):\n"
        "        pid = server.spawn_worker()\n"
        "        os.kill(pid, signal.SIGKILL)\n"
        "        os.waitpid(pid, 0)\n"
        "        server.kill_worker(pid, (signal.SIGTERM, signal.SIGKILL, signal.SIGABRT)[count % 3])\n"
        "        server.kill_worker(pid, signal.SIGTERM)\n"
        "        assert pid not in server.WORKERS\n"
    )
    site = serve(WORKERS="1", WORKER_CLASS="sync")
    assert site.get()[0] == 200
    gone = [one for one in site.events if one["event"] == "worker_ended"]
    assert (len(gone), {one["reason"] for one in gone}) == (300, {"stopped"})
    assert "Traceback" not in site.text and "ProcessLookupError" not in site.text


def test_a_successor_that_hangs_while_it_loads_is_replaced(serve: Serve) -> None:
    """It would count as serving, and with one worker nobody would."""
    (serve.folder / "gunicorn.conf.py").write_text(
        "from farrier.serve import arbiter\narbiter.BOOT_LIMIT = 2.0\n"
    )
    path = serve.folder / "wsgi_app.py"
    path.write_text("import os, time\nwhile os.path.exists('hang'): time.sleep(0.1)\n" + path.read_text())
    site = serve("wsgi_app:app", "--timeout", "1", WORKERS="1", WORKER_CLASS="sync")
    (serve.folder / "hang").touch()
    (worker,) = children(site)
    os.kill(int(worker), signal.SIGKILL)
    site.event("worker_ended", reason="timed out", seconds=30)
    (serve.folder / "hang").unlink()
    assert site.get("/")[0] == 200
