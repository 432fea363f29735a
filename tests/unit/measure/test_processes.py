"""What /proc says, held against processes that do a known thing."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time

import pytest

from farrier.measure import processes
from farrier.measure.server import environment

MIB = 1 << 20


def test_cpu_is_what_was_burnt_and_waiting_is_none_of_it() -> None:
    before = processes.cpu_times(os.getpid())[0]
    mine, until = time.process_time(), time.process_time() + 0.05
    while time.process_time() < until:
        pass
    time.sleep(0.05)
    burnt = time.process_time() - mine
    assert processes.cpu_times(os.getpid())[0] - before == pytest.approx(burnt, abs=0.03)


def test_a_peak_is_seen_after_it_is_over_and_forgotten_when_asked() -> None:
    assert processes.forget_peak(os.getpid())
    base = processes.peak(os.getpid())
    held = bytearray(b"x" * (32 * MIB))
    del held
    assert processes.peak(os.getpid()) - base > 28 * MIB
    processes.forget_peak(os.getpid())
    assert processes.peak(os.getpid()) - base < 16 * MIB


def test_a_process_that_has_ended_is_gone_for_every_question() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for ask in (processes.memory, processes.peak, processes.threads, processes.cpu_times):
        with pytest.raises(processes.ProcessGone, match=f"process {ended.pid} has ended"):
            ask(ended.pid)
    assert not processes.alive(ended.pid)


def test_free_memory_is_at_most_what_the_machine_has_left() -> None:
    assert 0 < processes.free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_whatever_carries_the_mark_is_ended_and_nothing_else() -> None:
    token, other = secrets.token_hex(8), secrets.token_hex(8)
    code = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    environ = {"PATH": os.environ["PATH"], processes.MARK: token}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)
    spared = subprocess.Popen(["sleep", "60"], env={**environ, processes.MARK: other})
    try:
        assert len(processes.marked(token)) == 1
        processes.end_marked(token)
        assert processes.marked(token) == []
        assert spared.poll() is None
    finally:
        spared.kill()
        spared.wait()


def test_a_child_of_another_session_and_environment_is_ended_with_its_parent_gone() -> None:
    """In a process of its own, which adopts; what it had started before is spared."""
    code = '''
import subprocess, sys
from farrier.measure import processes
spared = subprocess.Popen(["sleep", "60"])
processes.adopt_orphans()
others = processes.descendants()
assert others == {spared.pid}, others
leaves = """
from subprocess import DEVNULL, Popen
print(Popen(["sleep", "60"], start_new_session=True, env={}, stdout=DEVNULL, stderr=DEVNULL).pid)
"""
orphan = int(subprocess.run([sys.executable, "-c", leaves], stdout=subprocess.PIPE, check=True).stdout)
assert orphan in processes.descendants()
processes.end_descendants(others)
assert processes.descendants() == others and spared.poll() is None
assert not processes.alive(orphan)
spared.kill()
spared.wait()
'''
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_the_app_sees_its_own_variables_and_none_of_the_callers_service() -> None:
    given = {
        "DATABASE_URL": "postgres://db",
        "FARRIER_PLAN": "{}",
        "FARRIER_READY": "app:ready",
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "LISTEN_FDS": "1",
        "GUNICORN_CMD_ARGS": "--bind 0.0.0.0:80",
        "PRELOAD_APP": "1",
    }
    found = environment(given, "token")
    assert found.keys() - {"PYTHONPATH"} == {"DATABASE_URL", processes.MARK}
