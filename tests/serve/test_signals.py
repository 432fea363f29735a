"""Every signal of docs/serving.md's table, against a real server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import CLASSES, HUP, TERM, TTIN, TTOU, Serve, app_of
from .test_endings import ask_in_background, until_taken
from .test_gate import on_socket
from .test_reload import children, pids

# --- TERM, INT, QUIT ------------------------------------------------------------------------------


def test_term_finishes_what_is_in_hand_and_ends_with_0(serve: Serve) -> None:
    site = serve(WORKERS="2", WORKER_CLASS="gthread")
    connection = site.connection()
    connection.request("GET", "/slow?0.5")
    until_taken(connection.sock)
    site.signal(TERM)
    assert connection.getresponse().read() == b"one"
    connection.close()
    assert site.wait() == 0
    assert site.event("stopping")["message"] == "stopping gracefully"
    assert not (serve.run / "app.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("worker_class", CLASSES)
def test_int_and_quit_drop_what_is_in_hand_and_name_it(serve: Serve, worker_class: str, number: int) -> None:
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class)
    connection = site.connection()
    connection.request("GET", "/slow?20")
    until_taken(connection.sock)
    # Taken from the kernel's queue is not yet noted; a request behind it is only answered after that.
    time.sleep(0.2)
    began = time.monotonic()
    site.signal(number)
    assert site.wait() == 0
    # Gunicorn's sync worker waits up to 2 s for the client to close.
    assert time.monotonic() - began < 6
    connection.close()
    assert site.event("stopping")["message"] == "stopping at once"
    (dropped,) = site.event("worker_int")["requests_in_hand"]
    assert dropped["request"] == "GET /slow?20"


def test_quit_hurries_a_graceful_stop(serve: Serve) -> None:
    site = serve(WORKERS="1", WORKER_CLASS="sync", GRACEFUL_TIMEOUT="30")
    ask_in_background(site, "/slow?20")
    time.sleep(0.3)
    site.signal(TERM)
    site.event("stopping")
    site.signal(signal.SIGQUIT)
    assert site.wait(5) == 0


# --- HUP ------------------------------------------------------------------------------------------


def test_hup_loads_new_code(serve: Serve, tmp_path: Path) -> None:
    site = serve(WORKERS="2")
    assert site.get() == (200, b"one")
    app = tmp_path / "wsgi_app.py"
    app.write_text(app.read_text().replace('VERSION = b"one"', 'VERSION = b"two"'))
    site.signal(HUP)
    site.event("reloaded")
    assert {site.get()[1] for _ in range(8)} == {b"two"}


@pytest.mark.parametrize("worker_class", CLASSES)
def test_hup_onto_code_that_does_not_import_leaves_the_site_up(
    serve: Serve, tmp_path: Path, worker_class: str
) -> None:
    site = serve(app_of(worker_class), WORKERS="2", WORKER_CLASS=worker_class)
    before = pids(serve)
    app = tmp_path / f"{app_of(worker_class).split(':')[0]}.py"
    good = app.read_text()
    app.write_text("import no_such_module\n")
    site.signal(HUP)
    refused = site.event("reload_refused")
    assert "No module named 'no_such_module'" in refused["message"]
    assert pids(serve) == before
    assert site.get() == (200, b"one")
    app.write_text(good)
    site.signal(HUP)
    site.event("reloaded")
    assert not before & pids(serve)
    assert site.get() == (200, b"one")


@pytest.mark.parametrize(
    ("name", "broken", "says"),
    [
        ("settings.json", '{"workers": 0}', "workers"),
        ("settings.json", "{", "not JSON"),
        ("gunicorn.conf.py", "workers = = 2", "line 1"),
        ("gunicorn.conf.py", "import no_such_module", "no_such_module"),
        ("gunicorn.conf.py", "worker_tmp_dir = '/no/such/folder'", "/no/such/folder"),
        ("gunicorn.conf.py", "keepalive = 'long'", "keepalive"),
        ("gunicorn.conf.py", "bind = '256.0.0.1:1'", "cannot listen"),
        ("gunicorn.conf.py", "pidfile = '/no/such/folder/pid'", "/no/such/folder"),
    ],
)
def test_hup_onto_a_broken_config_leaves_everything_as_it_was(
    serve: Serve, tmp_path: Path, name: str, broken: str, says: str
) -> None:
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "gunicorn.conf.py").write_text("keepalive = 7\nbind = '127.0.0.1:0'\n")
    site = serve(bind="", WORKERS="1", FARRIER_SETTINGS=str(tmp_path / "settings.json"))
    before = pids(serve)
    (tmp_path / name).write_text(broken)
    site.signal(HUP)
    assert says in site.event("reload_refused")["message"]
    assert pids(serve) == before
    assert serve.state()["settings"]["keepalive"] == 7
    assert site.get()[0] == 200
    assert "Traceback" not in site.text


def test_the_count_of_ttin_survives_hup_until_the_number_is_changed(serve: Serve, tmp_path: Path) -> None:
    chosen = tmp_path / "settings.json"
    chosen.write_text(json.dumps({"workers": 1}))
    site = serve(FARRIER_SETTINGS=str(chosen))
    site.signal(TTIN)
    site.event("worker_booted", 2)
    site.signal(HUP)
    site.event("reloaded")
    assert serve.state()["workers_wanted"] == 2
    chosen.write_text(json.dumps({"workers": 3}))
    site.signal(HUP)
    site.event("reloaded", 2)
    assert serve.state()["workers_wanted"] == 3


def test_usr2_is_refused_under_socket_activation(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = on_socket(serve, listener, "wsgi_app:app", "ready", WORKERS="1")
        site.address = listener.getsockname()
        site.signal(signal.SIGUSR2)
        said = site.event("usr2_refused")["message"]
        assert "socket activation" in said and "farrier release apply" in said
        assert site.get()[0] == 200


def test_a_stop_during_a_reload_is_obeyed(serve: Serve, tmp_path: Path) -> None:
    site = serve(WORKERS="2")
    app = tmp_path / "wsgi_app.py"
    app.write_text("import time; time.sleep(30)\n" + app.read_text())
    site.signal(HUP)
    site.event("reloading")
    began = time.monotonic()
    site.process.terminate()
    assert site.wait() == 0
    assert time.monotonic() - began < 5


# --- TTIN, TTOU -----------------------------------------------------------------------------------


def test_a_stop_that_comes_together_with_a_hup_does_not_wait_for_it(serve: Serve, tmp_path: Path) -> None:
    site = serve(WORKERS="1")
    app = tmp_path / "wsgi_app.py"
    app.write_text("import time; time.sleep(20)\n" + app.read_text())
    # The kernel hands them over in the order of their numbers, HUP first.
    for number in (signal.SIGSTOP, HUP, TERM, signal.SIGCONT):
        site.signal(number)
    assert site.wait(10) == 0


def test_ttin_adds_a_worker_and_ttou_takes_one_but_never_the_last(serve: Serve) -> None:
    site = serve(WORKERS="1", WORKER_CLASS="sync")
    (first,) = pids(serve)
    site.signal(TTIN)
    until(lambda: sum(worker["ready"] for worker in serve.state()["workers"]) == 2)
    site.signal(TTOU)
    assert site.event("worker_ended")["worker"] == first
    site.signal(TTOU)
    # Said after each of them: 2, 1, and 1 again.
    site.until(lambda: "".join(site.lines).count("by signal, until the number") == 3)
    assert serve.state()["workers_wanted"] == 1
    assert site.get() == (200, b"one")


def test_a_worker_that_still_boots_is_taken_before_one_that_serves(serve: Serve, tmp_path: Path) -> None:
    site = serve(WORKERS="1", WORKER_CLASS="sync")
    before = pids(serve)
    app = tmp_path / "wsgi_app.py"
    app.write_text("import time; time.sleep(30)\n" + app.read_text())
    site.signal(TTIN)
    until(lambda: len(children(site)) == 2)
    site.signal(TTOU)
    until(lambda: len(children(site)) == 1)
    assert {int(pid) for pid in children(site)} == before
    assert site.get() == (200, b"one")


def test_each_ttin_during_a_reload_counts_afterwards(serve: Serve, tmp_path: Path) -> None:
    site = serve(WORKERS="1", WORKER_CLASS="sync")
    app = tmp_path / "wsgi_app.py"
    app.write_text("import time; time.sleep(1)\n" + app.read_text())
    site.signal(HUP)
    site.event("reloading")
    for number in (TTIN, TTIN, TTOU, TTIN):
        site.signal(number)
        # Signals of one kind that nobody has taken yet are one signal.
        time.sleep(0.1)
    site.event("reloaded")
    until(lambda: serve.state()["workers_wanted"] == 3)
    until(lambda: sum(worker["ready"] for worker in serve.state()["workers"]) == 3)


# --- USR1, USR2, WINCH ----------------------------------------------------------------------------


def test_usr1_opens_log_files_anew(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    site = serve("wsgi_app:app", "--access-logfile", str(log), WORKERS="1", WORKER_CLASS="sync")
    assert site.get("/before")[0] == 200
    # The line comes after the response.
    until(lambda: "/before" in log.read_text())
    log.rename(tmp_path / "access.log.1")
    site.signal(signal.SIGUSR1)
    site.event("log_reopened")

    def seen() -> bool:
        site.get("/after")
        return log.exists() and "/after" in log.read_text()

    until(seen)
    assert "/before" in (tmp_path / "access.log.1").read_text()
    assert "/before" not in log.read_text()


def test_usr2_starts_a_second_master_that_goes_on_when_the_first_ends(serve: Serve) -> None:
    site = serve(WORKERS="1", WORKER_CLASS="gthread")
    site.signal(signal.SIGUSR2)
    second = site.event("ready", 2)["pid"]
    assert second != site.process.pid
    try:
        site.signal(TERM)
        assert site.process.wait(15) == 0
        assert {site.get() for _ in range(5)} == {(200, b"one")}
        assert serve.state()["pid"] == second
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(second, TERM)
    site.event("stopped", 2)


def test_usr1_with_a_file_that_cannot_be_opened_leaves_all_as_it_was(serve: Serve, tmp_path: Path) -> None:
    """As after a logrotate that took the folder, or gave the file to somebody else."""
    folder = tmp_path / "logs"
    folder.mkdir()
    site = serve("wsgi_app:app", "--access-logfile", str(folder / "access.log"), WORKERS="2")
    before = pids(serve)
    shutil.rmtree(folder)
    site.signal(signal.SIGUSR1)
    # The master and both workers.
    site.until(lambda: site.text.count("log files are not opened anew") == 3)
    assert site.get() == (200, b"one")
    assert pids(serve) == before


def test_usr2_that_cannot_be_done_leaves_the_site_up(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("def pre_exec(server):\n    raise RuntimeError('not today')\n")
    site = serve(WORKERS="2")
    before = pids(serve)
    site.signal(signal.SIGUSR2)
    refused = site.event("usr2_refused")
    assert "not today" in refused["message"] and refused["pid"] != site.process.pid
    site.signal(HUP)
    site.event("reloaded")
    ended = [one for one in site.events if one["event"] == "worker_ended"]
    assert [one["worker"] for one in ended] == list(before)
    assert {one["message"].split(": ")[1] for one in ended} == {"as asked"}


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_worker_ignores_what_is_the_masters(serve: Serve, worker_class: str) -> None:
    """``systemctl kill --signal=…`` sends it to every process of the unit."""
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class)
    (worker,) = pids(serve)
    for number in (HUP, TTIN, TTOU, signal.SIGUSR2):
        os.kill(worker, number)
    assert site.get("/slow?0.3") == (200, b"one")
    assert list(pids(serve)) == [worker]


def test_winch_is_nothing_in_the_foreground(serve: Serve) -> None:
    site = serve(WORKERS="1", WORKER_CLASS="sync")
    before = pids(serve)
    site.signal(signal.SIGWINCH)
    site.signal(HUP)
    site.event("reloaded")
    assert len(pids(serve)) == 1
    assert [one["worker"] for one in site.events if one["event"] == "worker_ended"] == list(before)


def test_winch_stops_the_workers_of_a_daemon_until_hup(serve: Serve) -> None:
    site = serve("wsgi_app:app", "--daemon", wait=None, WORKERS="2", WORKER_CLASS="sync")
    site.process.wait(10)
    until(lambda: (serve.run / "app.json").exists() and serve.state()["ready"])
    daemon = serve.state()["pid"]
    try:
        os.kill(daemon, TTIN)
        until(lambda: sum(worker["ready"] for worker in serve.state()["workers"]) == 3)
        os.kill(daemon, signal.SIGWINCH)
        until(lambda: not serve.state()["workers"])
        os.kill(daemon, HUP)
        until(lambda: sum(worker["ready"] for worker in serve.state()["workers"]) == 2)
    finally:
        os.kill(daemon, TERM)
        until(lambda: not (serve.run / "app.json").exists())


def until(seen: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what no line of the log tells."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
