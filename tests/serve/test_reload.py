"""HUP: what it applies, what it refuses, and that the site stays up either way."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from .conftest import HUP, TTIN, Serve, Site


def pids(serve: Serve) -> set[int]:
    return {worker["pid"] for worker in serve.state()["workers"]}


def test_hup_applies_an_edited_settings_file(serve: Serve, tmp_path: Path) -> None:
    chosen = tmp_path / "settings.json"
    chosen.write_text(json.dumps({"workers": 1, "timeout": 31}))
    site = serve(FARRIER_SETTINGS=str(chosen))
    before = pids(serve)
    assert serve.state()["settings"]["timeout"] == 31
    chosen.write_text(json.dumps({"workers": 2, "timeout": 41}))
    site.signal(HUP)
    site.event("reloaded")
    state = serve.state()
    assert state["settings"]["timeout"] == 41
    assert len(state["workers"]) == 2
    assert not before & pids(serve)
    assert "workers 1 -> 2" in site.event("plan_changed")["message"]


def test_workers_are_exchanged_one_by_one(serve: Serve) -> None:
    """Never more than one above their number: the peak of memory that the plan counts with."""
    site = serve(WORKERS="3")
    before = pids(serve)
    site.signal(HUP)
    most = 0
    while not any(one["event"] == "reloaded" for one in site.events):
        most = max(most, len(children(site)))
        time.sleep(0.005)
    assert most == 4
    assert len(pids(serve)) == 3
    assert not before & pids(serve)


def children(site: Site) -> list[str]:
    pid = site.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_port_in_use_is_one_line(serve: Serve) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        site = serve(bind=f"127.0.0.1:{port}", wait=None, WORKERS="1")
        assert site.wait() == 1
        last = site.lines[-1]
        assert last.startswith(f"farrier serve: cannot listen at 127.0.0.1:{port}: Address already in use")
        assert "Traceback" not in site.text
        assert "trying again" in site.event("listening_later")["message"]


@pytest.mark.parametrize(
    ("bind", "says"),
    [
        ("203.0.113.9:80", "it is no address of this machine"),
        ("no.such.host.invalid:80", "no such host name"),
        ("unix:/no/such/folder/a.sock", "choose another --bind"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_line_at_once(serve: Serve, bind: str, says: str) -> None:
    site = serve(bind=bind, wait=None, WORKERS="1")
    began = time.monotonic()
    assert site.wait() == 1
    assert time.monotonic() - began < 4
    assert says in site.lines[-1]
    assert len([line for line in site.lines if "annot listen" in line]) == 1


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        ("def pre_fork(server, worker):\n    raise RuntimeError('no fork today')\n", "no fork today"),
        ("def on_reload(server):\n    raise RuntimeError('no reload today')\n", "no reload today"),
    ],
)
def test_hup_onto_a_hook_that_raises_leaves_the_site_up(
    serve: Serve, tmp_path: Path, hook: str, says: str
) -> None:
    own = tmp_path / "gunicorn.conf.py"
    own.write_text("")
    site = serve(WORKERS="2")
    before = pids(serve)
    own.write_text(hook)
    site.signal(HUP)
    assert says in site.event("reload_refused")["message"]
    assert pids(serve) == before
    assert site.get() == (200, b"one")
    own.write_text("keepalive = 9\n")
    site.signal(HUP)
    site.event("reloaded")
    assert serve.state()["settings"]["keepalive"] == 9


def test_an_old_worker_keeps_its_own_limits_at_hup(serve: Serve, tmp_path: Path) -> None:
    """The new, shorter ones would end what it was promised, and an idle sync worker as one that hangs."""
    own, app = tmp_path / "gunicorn.conf.py", tmp_path / "wsgi_app.py"
    own.write_text("timeout, graceful_timeout = 60, 30\n")
    site = serve(WORKERS="2", WORKER_CLASS="sync")
    app.write_text("import time; time.sleep(2.5)\n" + app.read_text())
    own.write_text("timeout, graceful_timeout = 2, 1\n")
    client = site.connection(20)
    client.request("GET", "/slow?9")
    time.sleep(0.3)
    site.signal(HUP)
    assert client.getresponse().read() == b"one"
    client.close()
    site.event("reloaded", seconds=30)
    ended = [one for one in site.events if one["event"] == "worker_ended"]
    assert [one["message"].split(" ", 2)[2] for one in ended] == ["stopped: as asked"] * 2


def test_a_hup_that_is_refused_where_no_worker_is_left_leaves_none_behind(
    serve: Serve, tmp_path: Path
) -> None:
    limit = (
        "import sys, farrier.serve.arbiter as arbiter; arbiter.BOOT_LIMIT = 2; sys.argv[0] = 'farrier'; "
        "from farrier.cli import main; sys.exit(main())"
    )
    site = serve(command=("-c", limit, "serve"), WORKERS="1", WORKER_TIMEOUT="1")
    app = tmp_path / "wsgi_app.py"
    good = app.read_text()
    app.write_text("no_such_name\n")
    os.kill(pids(serve).pop(), signal.SIGKILL)
    site.event("boot_failed", 3)
    while pids(serve):
        time.sleep(0.01)
    # For two seconds none is tried.
    app.write_text("import time; time.sleep(60)\n")
    site.signal(HUP)
    site.event("reloading")
    while not (tried := pids(serve)):
        time.sleep(0.01)
    site.event("reload_refused")
    assert not tried & pids(serve)
    app.write_text(good)
    for pid in pids(serve):
        os.kill(pid, signal.SIGKILL)
    site.signal(HUP)
    site.event("reloaded")
    assert site.get() == (200, b"one")


def test_a_hook_that_raises_at_a_respawn_is_tried_again(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "import os\ndef pre_fork(server, worker):\n"
        "    if os.path.exists('broken'): raise RuntimeError('no fork today')\n"
    )
    site = serve(WORKERS="2", WORKER_CLASS="sync")
    (tmp_path / "broken").touch()
    os.kill(min(pids(serve)), signal.SIGKILL)
    assert "no fork today" in site.event("spawn_failed", 2)["message"]
    assert site.get() == (200, b"one")
    (tmp_path / "broken").unlink()
    site.event("worker_booted", 3)
    assert site.process.poll() is None


def test_a_hook_that_raises_at_the_start_is_one_line(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("def pre_fork(server, worker):\n    1/0\n")
    site = serve(wait=None, WORKERS="2")
    assert site.wait() == 3
    assert "pre_fork hook failed: ZeroDivisionError" in site.event("halted")["message"]
    assert "Traceback" not in site.text


def test_the_hook_of_the_number_hears_of_each_change_once(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "def nworkers_changed(server, new, old):\n"
        "    open('counts', 'a').write(f'{old}>{new} ')\n"
        "    if old: raise RuntimeError('not mine')\n"
    )
    chosen = tmp_path / "settings.json"
    chosen.write_text('{"workers": 1}')
    site = serve(FARRIER_SETTINGS=str(chosen))
    site.signal(TTIN)
    site.event("worker_booted", 2)
    site.signal(HUP)
    site.event("reloaded")
    chosen.write_text('{"workers": 3}')
    site.signal(HUP)
    site.event("reloaded", 2)
    assert (tmp_path / "counts").read_text().split() == ["None>1", "1>2", "2>3"]
    assert "not mine" in site.event("hook_failed", 2)["message"]


def test_hup_from_a_unix_socket_to_a_port_removes_the_file(serve: Serve, tmp_path: Path) -> None:
    path, own = tmp_path / "app.sock", tmp_path / "gunicorn.conf.py"
    own.write_text(f"bind = 'unix:{path}'\n")
    site = serve(bind="", WORKERS="1")
    assert path.exists()
    own.write_text("bind = '127.0.0.1:0'\n")
    site.signal(HUP)
    site.event("reloaded")
    assert not path.exists()
    (where,) = serve.state()["listeners"]
    site.address = ("127.0.0.1", int(where.rsplit(":", 1)[1]))
    assert site.get() == (200, b"one")


def test_a_pidfile_of_another_that_runs_does_not_end_the_site_at_hup(serve: Serve, tmp_path: Path) -> None:
    own, taken = tmp_path / "gunicorn.conf.py", tmp_path / "taken.pid"
    own.write_text(f"pidfile = '{tmp_path}/mine.pid'\n")
    taken.write_text(f"{os.getpid()}\n")
    site = serve(WORKERS="1")
    own.write_text(f"pidfile = '{taken}'\n")
    site.signal(HUP)
    said = site.event("reload_refused")["message"]
    assert said.startswith("reloaded in part") and "Already running" in said
    assert site.get() == (200, b"one")
    assert (tmp_path / "mine.pid").read_text().strip() == str(site.process.pid)
