"""A boot beside serving workers is nicer, only as long as it is one, and only where the way back is open."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest

from farrier.serve import quiet

from .conftest import CLASSES, HUP, TTIN, Serve, Site, app_of
from .test_reload import children, pids
from .test_signals import until

USUAL = os.getpriority(os.PRIO_PROCESS, 0)
ALLOWED = USUAL + quiet.STEP <= 19 and quiet._may_go_back(USUAL, os.geteuid())
needs_the_way_back = pytest.mark.skipif(
    not ALLOWED, reason="this user may not lower a nice value again, or has no nicer one"
)

#: Imported slowly once ``slow`` is there, with a thread of its own that stays.
SLOW = """
import os, threading, time
threading.Thread(target=threading.Event().wait, daemon=True).start()
while os.path.exists("slow"): time.sleep(0.01)
"""


def nice(pid: int | str) -> set[int]:
    """Of every thread."""
    tasks = [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
    return {os.getpriority(os.PRIO_PROCESS, task) for task in tasks}


def newcomer(serve: Serve, site: Site, before: set[int]) -> int:
    until(lambda: len(children(site)) > len(before))
    (pid,) = {int(one) for one in children(site)} - before
    return pid


def slow_site(serve: Serve, worker_class: str, *arguments: str, **environ: str) -> tuple[Site, set[int]]:
    path = serve.folder / f"{app_of(worker_class).split(':')[0]}.py"
    path.write_text(SLOW + path.read_text())
    site = serve(app_of(worker_class), *arguments, WORKERS="1", WORKER_CLASS=worker_class, **environ)
    (serve.folder / "slow").touch()
    return site, pids(serve)


@needs_the_way_back
@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_replacement_is_nicer_until_it_is_ready(serve: Serve, worker_class: str) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    site, before = slow_site(serve, worker_class)
    site.signal(HUP)
    pid = newcomer(serve, site, before)
    until(lambda: nice(pid) == {usual + quiet.STEP})
    if worker_class != "gevent":
        # The thread that the app starts while it is imported is nicer as well.
        until(lambda: len(list(Path(f"/proc/{pid}/task").iterdir())) >= 2)
    assert nice(before.pop()) == {usual}
    (serve.folder / "slow").unlink()
    site.event("reloaded")
    assert nice(pid) == {usual}
    assert nice(site.process.pid) == {usual}


@needs_the_way_back
def test_a_boot_that_takes_long_gets_its_share(serve: Serve) -> None:
    (serve.folder / "gunicorn.conf.py").write_text("from farrier.serve import quiet\nquiet.QUIET = 1.0\n")
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    site, before = slow_site(serve, "sync")
    site.signal(HUP)
    pid = newcomer(serve, site, before)
    until(lambda: nice(pid) == {usual + quiet.STEP})
    until(lambda: nice(pid) == {usual})
    (serve.folder / "slow").unlink()
    site.event("reloaded")


@needs_the_way_back
def test_a_colour_beside_another_is_nicer_and_one_alone_is_not(serve: Serve) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    blue = serve(WORKERS="1", WORKER_CLASS="sync", FARRIER_INSTANCE="blue")
    (serve.folder / "wsgi_app.py").write_text(
        "import os; open('nice', 'a').write(f'{os.getpriority(os.PRIO_PROCESS, 0)} ')\n"
        + (serve.folder / "wsgi_app.py").read_text()
    )
    green = serve(WORKERS="1", WORKER_CLASS="sync", FARRIER_INSTANCE="green")
    blue.stop()
    # Nobody else serves any more: what comes now is in nobody's way.
    green.signal(TTIN)
    until(lambda: len((serve.folder / "nice").read_text().split()) == 2)
    assert (serve.folder / "nice").read_text().split() == [str(usual + quiet.STEP), str(usual)]


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="drops a capability: root, setpriv"
)
def test_without_the_way_back_nothing_is_done(serve: Serve) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    drop = (
        "import os, sys; os.execvp('setpriv', ['setpriv', '--bounding-set=-sys_nice', '--inh-caps=-sys_nice',"
        " sys.executable, '-m', 'farrier', 'serve', *sys.argv[1:]])"
    )
    path = serve.folder / "wsgi_app.py"
    path.write_text(SLOW + path.read_text())
    site = serve(command=("-c", drop), WORKERS="1", WORKER_CLASS="sync")
    (serve.folder / "slow").touch()
    before = pids(serve)
    site.signal(HUP)
    pid = newcomer(serve, site, before)
    until(lambda: len(list(Path(f"/proc/{pid}/task").iterdir())) >= 2)
    assert nice(pid) == {usual}
    (serve.folder / "slow").unlink()
    site.event("reloaded")


@pytest.mark.parametrize(
    ("limit", "former", "may"), [(20, 0, True), (19, 0, False), (15, 5, True), (40, -20, True), (0, 0, False)]
)
def test_the_limit_allows_the_way_back(
    monkeypatch: pytest.MonkeyPatch, limit: int, former: int, may: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    monkeypatch.setattr(quiet, "_capabilities", lambda: 0)
    assert quiet._may_go_back(former, os.geteuid()) is may


def test_a_change_of_user_takes_the_capability_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (0, 0))
    monkeypatch.setattr(quiet, "_capabilities", lambda: 1 << quiet.CAP_SYS_NICE)
    assert quiet._may_go_back(0, os.geteuid())
    assert not quiet._may_go_back(0, os.geteuid() + 1)


@needs_the_way_back
def test_a_master_is_nicer_while_it_imports_and_its_workers_are_not(serve: Serve) -> None:
    """With preload the app is imported there: what it sees is the nice value of that."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    serve(WORKERS="1", WORKER_CLASS="sync", FARRIER_INSTANCE="blue")
    (serve.folder / "wsgi_app.py").write_text(
        "import os; open('nice', 'a').write(f'{os.getpriority(os.PRIO_PROCESS, 0)} ')\n"
        + (serve.folder / "wsgi_app.py").read_text()
    )
    green = serve(app_of("sync"), "--preload", WORKERS="1", WORKER_CLASS="sync", FARRIER_INSTANCE="green")
    green.event("ready")
    assert (serve.folder / "nice").read_text().split() == [str(usual + quiet.STEP)]
    assert nice(green.process.pid) == {usual}
    assert {value for pid in children(green) for value in nice(pid)} == {usual}
