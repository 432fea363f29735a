"""max_requests under farrier's arbiter: replacement first where memory is kept for it, and nothing lost."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farrier.sizing import Budget, Settings, Workload, plan

from .conftest import CLASSES, HUP, TERM, TTIN, TTOU, Serve, Site, app_of
from .test_endings import memory_cgroup
from .test_lossless import load
from .test_reload import children
from .test_signals import until


class Watch(threading.Thread):
    """Calls ``look`` every few milliseconds and keeps the least and the most that it saw."""

    def __init__(self, look: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self.look = look
        self.seen: set[int] = set()
        self.end = threading.Event()

    def run(self) -> None:
        while not self.end.wait(0.003):
            self.seen.add(self.look())

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.join(5)


def ready(serve: Serve) -> int:
    """Workers that are ready and not asked to end."""
    return sum(worker["stage"] == "ready" for worker in serve.state()["workers"])


def recycled(site: Site) -> list[dict[str, Any]]:
    return [one for one in site.events if one["event"] == "worker_ended" and one["reason"] == "recycled"]


def small(**workload: Any) -> str:
    """A plan of a machine that has no memory for a second worker beside the one that ends."""
    made = plan(Budget.given("256MiB", 1), Workload.profile(app_memory="120MiB", **workload), Settings())
    assert made.value("recycling") == "retire-first"
    return json.dumps(made.to_dict(), default=str)


@pytest.mark.parametrize("worker_class", CLASSES)
def test_the_replacement_serves_before_the_old_one_ends(serve: Serve, worker_class: str) -> None:
    site = serve(
        app_of(worker_class),
        WORKERS="2",
        WORKER_CLASS=worker_class,
        MAX_REQUESTS="20",
        MAX_REQUESTS_JITTER="0",
    )
    with Watch(lambda: ready(serve)) as count, Watch(lambda: len(children(site))) as processes:
        with load(site.address):
            site.event("worker_ended", 4, seconds=60, reason="recycled")
    assert min(count.seen) == 2, "fewer than planned were ready"
    # One on trial or draining at a time: the memory that the plan has reserved.
    assert max(processes.seen) == 3
    assert all(one["requests"] >= 20 and one["severity"] == "INFO" for one in recycled(site))
    assert serve.state()["endings"]["recycled"] == len(recycled(site))


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_single_worker_goes_before_its_successor_comes(serve: Serve, worker_class: str) -> None:
    site = serve(
        app_of(worker_class), WORKERS="1", MAX_REQUESTS="20", MAX_REQUESTS_JITTER="0",
        FARRIER_PLAN=small(worker_class=worker_class),
    )  # fmt: skip
    with Watch(lambda: len(children(site))) as processes, load(site.address):
        site.event("worker_ended", 3, seconds=60, reason="recycled")
    assert max(processes.seen) == 1


def test_many_that_are_due_at_once_go_one_after_the_other(serve: Serve) -> None:
    """Preloaded and without jitter they reach their limit together."""
    site = serve(
        WORKERS="4", WORKER_CLASS="sync", PRELOAD_APP="1", MAX_REQUESTS="10", MAX_REQUESTS_JITTER="0"
    )
    first = {worker["pid"] for worker in serve.state()["workers"]}
    with Watch(lambda: ready(serve)) as count, Watch(lambda: len(children(site))) as processes:
        with load(site.address):
            for pid in first:
                site.event("worker_ended", worker=pid, reason="recycled", seconds=60)
    assert min(count.seen) == 4
    assert max(processes.seen) == 5


def test_a_replacement_that_does_not_boot_leaves_the_old_one_serving(serve: Serve, tmp_path: Path) -> None:
    site = serve(WORKERS="1", WORKER_CLASS="sync", MAX_REQUESTS="5", MAX_REQUESTS_JITTER="0")
    (pid,) = (worker["pid"] for worker in serve.state()["workers"])
    app = tmp_path / "wsgi_app.py"
    good = app.read_text()
    app.write_text("import no_such_module\n")
    for _ in range(8):
        assert site.get() == (200, b"one")
    said = [site.event("recycle_failed", count) for count in (1, 2, 3)]
    assert "No module named 'no_such_module'" in said[0]["message"]
    assert [one["seconds"] for one in said] == [0.5, 1, 2]
    assert site.json("/health/worker")[1]["pid"] == pid
    assert not [one for one in site.events if one["event"] == "worker_ended" and one["severity"] != "DEBUG"]
    app.write_text(good)
    assert site.event("worker_ended", worker=pid, reason="recycled")["requests"] >= 9
    assert site.get() == (200, b"one")


def test_after_a_replacement_is_killed_for_memory_the_old_one_goes_first(
    serve: Serve, tmp_path: Path
) -> None:
    group = memory_cgroup(f"farrier-recycle-{os.getpid()}")
    if group is None:
        pytest.skip("no memory cgroup that may be written here")
    app, boots = tmp_path / "wsgi_app.py", tmp_path / "boots"
    app.write_text(
        f"with open({str(boots)!r}, 'a+') as file:\n    file.write('x')\n    file.seek(0)\n"
        "    if len(file.read()) == 2:\n        kept = [bytes(bytearray(1 << 20)) for _ in range(600)]\n"
        + app.read_text()
    )
    try:
        (group / "memory.limit_in_bytes").write_text(str(400 << 20))
        enter = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));"
        run = "import sys; os.execv(sys.executable, [sys.executable, '-m', 'farrier', *sys.argv[1:]])"
        site = serve(
            "serve", "wsgi_app:app", command=("-c", enter + run),
            WORKERS="1", WORKER_CLASS="sync", PRELOAD_APP="0", MAX_REQUESTS="5", MAX_REQUESTS_JITTER="0",
        )  # fmt: skip
        (old,) = (worker["pid"] for worker in serve.state()["workers"])
        with Watch(lambda: len(children(site))) as processes, load(site.address):
            assert site.event("recycle_turned", seconds=30)["worker"] == old
            processes.seen.clear()
            site.event("worker_ended", worker=old, reason="recycled")
            site.event("worker_booted", 2)
            assert max(processes.seen) == 1, "a third one was booted beside the old one"
        site.stop()
        assert site.event("worker_ended", reason="killed for memory")["worker"] != old
        assert not [one for one in site.events if one["event"] == "recycle_failed"]
    finally:
        group.rmdir()


def test_nothing_is_recycled_while_another_colour_is_up(serve: Serve) -> None:
    """A candidate may stand on the memory that is kept for a replacement."""
    chosen = {"WORKERS": "1", "WORKER_CLASS": "sync", "MAX_REQUESTS_JITTER": "0"}
    blue = serve(FARRIER_INSTANCE="blue", MAX_REQUESTS="5", **chosen)
    green = serve(FARRIER_INSTANCE="green", FARRIER_GATE="1", wait=None, **chosen)
    green.event("ready")
    with Watch(lambda: len(children(blue))) as processes:
        for _ in range(8):
            assert blue.get() == (200, b"one")
        until(lambda: serve.state("blue")["traffic"]["requests"] == 8)
        time.sleep(1.5)
    assert processes.seen == {1}
    green.stop()
    assert blue.event("worker_ended", reason="recycled")["requests"] == 8


def start_recycling(serve: Serve, tmp_path: Path, workers: str, boot: float) -> Site:
    """A site whose worker is due and whose replacement takes ``boot`` seconds to import."""
    site = serve(WORKERS=workers, WORKER_CLASS="sync", MAX_REQUESTS="5", MAX_REQUESTS_JITTER="0")
    app = tmp_path / "wsgi_app.py"
    app.write_text(f"import time; time.sleep({boot})\n" + app.read_text())
    count = int(workers)
    deadline = time.monotonic() + 10
    while len(children(site)) == count and time.monotonic() < deadline:
        assert site.get() == (200, b"one")
    assert len(children(site)) == count + 1
    return site


def test_a_stop_while_a_replacement_boots_is_obeyed(serve: Serve, tmp_path: Path) -> None:
    site = start_recycling(serve, tmp_path, "2", 30)
    began = time.monotonic()
    site.signal(TERM)
    assert site.wait() == 0
    assert time.monotonic() - began < 3


def test_a_hup_while_a_replacement_boots_does_not_wait_for_it(serve: Serve, tmp_path: Path) -> None:
    site = start_recycling(serve, tmp_path, "1", 30)
    app = tmp_path / "wsgi_app.py"
    app.write_text(app.read_text().replace("time.sleep(30)", "0").replace('b"one"', 'b"two"'))
    began = time.monotonic()
    site.signal(HUP)
    site.event("reloaded")
    assert time.monotonic() - began < 8
    assert site.get() == (200, b"two")
    assert len(children(site)) == 1


def test_ttin_and_ttou_while_a_replacement_boots(serve: Serve, tmp_path: Path) -> None:
    site = start_recycling(serve, tmp_path, "1", 3)
    began = time.monotonic()
    site.signal(TTIN)
    deadline = began + 2.5
    while len(children(site)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(children(site)) == 3
    # The one that has not booted yet is given up, never the one that serves.
    site.signal(TTOU)
    site.event("worker_ended", reason="recycled")
    assert serve.state()["workers_wanted"] == 1
    assert ready(serve) == 1


@pytest.mark.parametrize("worker_class", CLASSES)
def test_under_plain_gunicorn_a_worker_ends_by_itself(
    serve: Serve, tmp_path: Path, worker_class: str
) -> None:
    conf = tmp_path / "farrier.conf.py"
    conf.write_text("from farrier.serve import settings\n\nglobals().update(settings())\n")
    site = serve(
        app_of(worker_class), "-c", str(conf), command=("-m", "gunicorn"), wait="worker_booted",
        WORKERS="1", WORKER_CLASS=worker_class, MAX_REQUESTS="5", MAX_REQUESTS_JITTER="0",
    )  # fmt: skip
    for _ in range(5):
        assert site.get()[0] == 200
    site.event("worker_ended")
    site.event("worker_booted", 2)
    assert site.get()[0] == 200
