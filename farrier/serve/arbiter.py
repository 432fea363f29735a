"""Gunicorn's arbiter with the few things that losing nothing needs.

It says READY only when the workers have marked themselves on the board, exchanges workers one by one
with ``replace()``, and comes out of a bad config or a release that does not boot as it went in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from gunicorn import sock, util
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError, HaltServer
from gunicorn.pidfile import Pidfile

from farrier.errors import FarrierError
from farrier.health.checks import one_line
from farrier.serve import config, events, oom, quiet
from farrier.serve.board import READY, STAGES, Board
from farrier.serve.endings import (
    APP_LOAD_ERROR,
    MOST_BACKOFF,
    REASONS,
    WORKER_BOOT_ERROR,
    Ending,
    MemoryKills,
    SpawnFailed,
    describe,
    pause,
    why_ended,
)
from farrier.serve.notify import Notifier
from farrier.serve.recycling import Recycling
from farrier.serve.state import StateFile, another_serves, instance_name, release_name
from farrier.serve.traffic import Pace, Traffic

#: Seconds between two looks at the board while somebody waits for a worker.
WATCHFUL = 0.05
#: Seconds that a replacement may take to boot and pass its checks, at least; more if ``timeout`` is long.
BOOT_LIMIT = 60.0
#: Seconds after ``graceful_timeout`` until a worker that did not end is killed.
OVERDUE = 2.0
#: Seconds after ``graceful_timeout`` in which a stopping worker may say what it leaves undone.
LAST_WORDS = 0.5
#: Seconds that the first worker loads the app alone. Most apps that do not import fail within this time,
#: and one that takes longer is not made to start twice as late.
FIRST_ALONE = 1.0
#: Deaths before the first readiness that end it all: something is wrong that another try does not mend.
HOPELESS = 5

#: Seconds for which the state file's traffic stays: a little less than a turn of the main loop.
TRAFFIC_EVERY = 0.9

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: Two of them are two workers; two of the others are one wish.
COUNTS = (signal.SIGTTIN, signal.SIGTTOU)
AT_ONCE = (*STOPS, signal.SIGCHLD, signal.SIGUSR1)


@dataclass
class _Before:
    """What a HUP that fails goes back to."""

    cfg: Any
    num_workers: int
    listeners: list[Any]


class _NoSockets(list[Any]):
    """A gate's: nothing to accept from, and Gunicorn opens none because some are there."""

    def __bool__(self) -> bool:
        return True


class FarrierArbiter(Arbiter):
    """Run by ``farrier serve``."""

    farrier = True
    # From Gunicorn's arbiter
    LISTENERS: list[Any]
    pidfile: Any
    reexec_pid: int
    _last_logged_active_worker_count: int | None
    _num_workers: int

    def __init__(self, app: Any) -> None:
        self.notifier = Notifier.take(os.environ)
        self.board = Board()
        self.memory_kills = MemoryKills()
        self.phase = "starting"
        self.was_ready = False
        self.boot_failures = 0
        self.spawn_not_before = 0.0
        self.first_workers = config.first_workers(os.environ)
        self.gate = config.gate(os.environ)
        #: The number is not the config's: by TTIN and TTOU, or given for the start.
        self.counted = False
        #: The start is given up: only its reason is worth a line.
        self.hopeless = False
        self.started_at = time.time()
        self.state: StateFile | None = None
        #: What workers that have ended had answered, and why they ended.
        self.past = Traffic()
        self.endings = dict.fromkeys(REASONS, 0)
        self.last_reload: dict[str, Any] | None = None
        self._traffic: dict[str, Any] = {}
        self._traffic_at = 0.0
        self._pace = Pace()
        self._deferred: list[int] = []
        self.recycling = Recycling(self)
        try:
            super().__init__(app)
        except AppImportError as error:
            raise FarrierError(f"{app.app_uri}: {error}", status=APP_LOAD_ERROR) from error
        # USR2 starts this again, whichever way it was started.
        self.START_CTX["args"] = [sys.executable, "-m", "farrier", "serve", *app.argv]

    def setup(self, app: Any) -> None:
        """With preload the app is imported here: its mistakes are one line as well."""
        if app.cfg.preload_app and app.callable is None:
            from farrier.serve import apps, stdio
            from farrier.serve.log import wants_json

            try:
                with stdio.taken_over(wants_json() and app.cfg.capture_output):
                    apps.load(app, None)
            except apps.AppRefused as error:
                if error.stack:
                    print(error.stack, file=sys.stderr, flush=True)
                raise FarrierError(str(error), status=error.status) from error
        super().setup(app)

    # --- the number -----------------------------------------------------------------------------

    def _set_num_workers(self, value: int) -> None:
        """A HUP tries numbers before one holds: the hook hears of the one that holds, see reload()."""
        before: int | None = self._num_workers
        if before is None and (given := self._given_number()):
            value, self.counted = given, True
        self._num_workers = value
        if self.phase != "reloading":
            self._count_changed(before)

    def _given_number(self) -> int | None:
        """A gate's single worker, or FARRIER_FIRST_WORKERS; TTIN goes on from there."""
        return 1 if self.gate else self.first_workers

    num_workers = property(Arbiter._get_num_workers, _set_num_workers)

    def _count_changed(self, before: int | None) -> None:
        if self._num_workers == before:
            return
        try:
            self.cfg.nworkers_changed(self, self._num_workers, before)
        except Exception as error:
            said = f"the nworkers_changed hook failed: {one_line(error)}"
            if before is None:
                raise FarrierError(said, 1) from error
            events.emit(self.log, "error", "hook_failed", said)

    # --- start ----------------------------------------------------------------------------------

    def start(self) -> None:
        self.pid = os.getpid()
        quiet.end()
        self.state = StateFile.from_environ(os.environ, self.log)
        self.write_state()
        self._check_config()
        if self.gate:
            # Neither systemd's sockets nor own ones, which the release that serves may hold.
            self.LISTENERS = _NoSockets()
            for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
                os.environ.pop(name, None)
        elif not self.LISTENERS and not self.cfg.reuse_port and not _inherits_sockets():
            self.LISTENERS = self.listen(self.cfg.address, {})
        super().start()
        self.notifier.status("booting workers")

    def listen(self, addresses: list[Any], held: dict[Any, Any]) -> list[Any]:
        """A listener for each address, those of ``held`` kept. Raises FarrierError, one line."""
        found = []
        for address in addresses:
            if address in held:
                found.append(held[address])
                continue
            try:
                found.append(self._listen_patiently(address))
            except (OSError, ValueError) as error:
                for listener in found:
                    if listener not in held.values():
                        listener.close()
                reason = getattr(error, "strerror", None) or error
                advice = _listen_advice(error)
                raise FarrierError(f"cannot listen at {_shown(address)}: {reason}; {advice}", 1) from error
        return found

    def _listen_patiently(self, address: Any) -> Any:
        """As Gunicorn, five tries a second apart, for a port that is just being given up."""
        for left in range(4, -1, -1):
            try:
                return (
                    sock._sock_type(address)(address, self.cfg, self.log)
                    if not isinstance(address, int)
                    else (sock.create_sockets(self.cfg, self.log, [address])[0])
                )
            except OSError as error:
                # Only a port in use may become free by waiting.
                if not left or self.was_ready or error.errno != errno.EADDRINUSE:
                    raise
                if left == 4:
                    said = f"{_shown(address)} is in use: trying again for {left} s"
                    events.emit(self.log, "warning", "listening_later", said)
                time.sleep(1)
        raise AssertionError("unreachable")

    # --- the main loop --------------------------------------------------------------------------

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        self.tick()
        watchful = not self.was_ready or self.recycling.exchange is not None
        pace = min(timeout, WATCHFUL) if watchful else timeout
        found: list[int] = super().wait_for_signals(self.notifier.pace(pace))
        # A stop that came together with a HUP must not wait for the end of it.
        return sorted(found, key=lambda number: number not in STOPS)

    def tick(self) -> None:
        """What is due on every turn of the main loop, and of a loop that waits inside of it."""
        self.notifier.watchdog()
        if self.phase == "starting" and len(self.ready_workers()) >= self.num_workers:
            self.become_ready()
        self._end_quiet()
        self.write_state()

    def _end_quiet(self) -> None:
        """A boot beside others that takes long gets its full share of the CPU."""
        for worker in self.WORKERS.values():
            if worker.quiet and (worker.slot.ready or time.time() - worker.started_at > quiet.QUIET):
                worker.quiet = False
                if not worker.slot.ready:
                    with contextlib.suppress(OSError):
                        quiet.restore(os.getpriority(os.PRIO_PROCESS, 0), worker.pid)

    def serving(self) -> list[Any]:
        """The workers that count, the oldest first: not those that were asked to end or are on trial."""
        found = [worker for worker in self.WORKERS.values() if not worker.retired and not worker.extra]
        return sorted(found, key=lambda worker: worker.age)

    def ready_workers(self) -> list[Any]:
        return [worker for worker in self.serving() if self.is_ready(worker)]

    def is_ready(self, worker: Any) -> bool:
        """By its mark; a class that is not farrier's never marks itself: alive for a second has to do."""
        silent = not hasattr(worker, "mark_ready") and not worker.slot.proven
        if silent and time.time() - worker.started_at > 1.0:
            worker.slot.stage = READY
        return bool(worker.slot.ready)

    def become_ready(self) -> None:
        self.phase, self.was_ready = "ready", True
        seconds = round(time.time() - self.started_at, 3)
        count = len(self.ready_workers())
        self.write_state()
        self.notifier.ready(self.status_line())
        events.emit(
            self.log,
            "info",
            "ready",
            f"ready: {_workers(count)} after {seconds:g} s",
            workers=count,
            seconds=seconds,
        )

    def status_line(self) -> str:
        ready, wanted = len(self.ready_workers()), self.num_workers
        return f"{ready} of {_workers(wanted)} ready"

    def manage_workers(self) -> None:
        """As Gunicorn's, for the workers that count: one that drains is no longer among them."""
        self.recycling.step()
        serving = self.serving()
        missing = self.num_workers - len(serving)
        wanted = missing - self.recycling.waits_for_memory
        if wanted > 0 and time.monotonic() >= self.spawn_not_before:
            self._spawn(min(wanted, self._trusted()))
        # Those that do not serve yet first: one that does is worth more.
        for worker in sorted(serving, key=self.is_ready)[: max(0, -missing)]:
            self.retire(worker)
        self._kill_overdue()
        self._say_metrics(len(serving))

    def _trusted(self) -> int:
        """How many may be forked now: at a start one, until it has loaded the app or has tried for a while.

        So an app that does not import says so once, and not once for each worker.
        """
        wanted: int = self.num_workers
        if self.was_ready:
            return wanted
        serving = self.serving()
        if not serving:
            return 1
        first = serving[0]
        loaded = first.slot.booted or not hasattr(first, "mark_ready")
        return wanted if loaded or time.time() - first.started_at > FIRST_ALONE else 0

    def _spawn(self, count: int) -> None:
        """``count`` workers; one that cannot be made is tried again later, as one that does not boot."""
        try:
            for _ in range(count):
                self.spawn_worker()
        except SpawnFailed as error:
            if not self.was_ready:
                raise HaltServer(str(error), WORKER_BOOT_ERROR) from error
            events.emit(self.log, "error", "spawn_failed", f"no new worker: {error}")
            self._back_off()

    def murder_workers(self) -> None:
        """End those that serve and give no sign of life: ABRT, so that they say why, then KILL.

        One that was asked to end has ``graceful_timeout`` instead, see _kill_overdue(). One that hangs while
        it loads the app never gave a sign, and would count as serving for ever.
        """
        for worker in list(self.WORKERS.values()):
            # Its own: a HUP may have brought another one.
            timeout = worker.cfg.timeout
            if not timeout or (worker.retired and not worker.aborted):
                continue
            try:
                silent = time.monotonic() - worker.tmp.last_update()
            except (OSError, ValueError):
                continue
            if silent > timeout or self._hangs_at_boot(worker):
                self.kill_worker(worker.pid, signal.SIGKILL if worker.aborted else signal.SIGABRT)
                worker.aborted = True

    def _hangs_at_boot(self, worker: Any) -> bool:
        """Beside others or in their place; of a first start whoever waits for READY has the patience."""
        if not self.was_ready or worker.extra or worker.slot.booted or not hasattr(worker, "mark_ready"):
            return False
        return bool(time.time() - worker.started_at > self.boot_limit())

    def _kill_overdue(self) -> None:
        limit = time.monotonic() - OVERDUE
        for worker in list(self.WORKERS.values()):
            if worker.retired and worker.retired + worker.cfg.graceful_timeout < limit:
                self.kill_worker(worker.pid, signal.SIGKILL)

    def _say_metrics(self, count: int) -> None:
        """Gunicorn's gauges, which its statsd logger sends."""
        if count != self._last_logged_active_worker_count:
            self._last_logged_active_worker_count = count
            extra = {"metric": "gunicorn.workers", "value": count, "mtype": "gauge"}
            self.log.debug("%d workers", count, extra=extra)
        if self.cfg.enable_backlog_metric:
            waiting = sum(listener.get_backlog() or 0 for listener in self.LISTENERS)
            if waiting >= 0:
                extra = {"metric": "gunicorn.backlog", "value": waiting, "mtype": "histogram"}
                self.log.debug("socket backlog: %d", waiting, extra=extra)

    # --- workers --------------------------------------------------------------------------------

    def spawn_worker(self, extra: bool = False) -> int:
        """Fork a worker with a slot on the board. ``extra``: on trial, beside those that count.

        Raises SpawnFailed: a person's hook, a full tmp folder or a full process table must not take the
        master, and with it the site.
        """
        self.worker_age += 1
        worker = self._new_worker(extra)
        try:
            self.cfg.pre_fork(self, worker)
        except Exception as error:
            self._discard(worker)
            raise SpawnFailed(f"the pre_fork hook failed: {one_line(error)}") from error
        # A signal between fork and the worker's own handlers would end in the master's queue, unread.
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
            self._discard(worker)
            raise SpawnFailed(f"no process could be made: {error.strerror}") from error
        if pid == 0:
            self._be_worker(worker)
        worker.pid = pid
        self.WORKERS[pid] = worker
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
        self._stats["workers_spawned"] += 1
        return pid

    def _new_worker(self, extra: bool) -> Any:
        try:
            worker = self.worker_class(
                self.worker_age, self.pid, self.LISTENERS, self.app, self.timeout / 2.0, self.cfg, self.log
            )
        except Exception as error:
            raise SpawnFailed(f"a worker could not be made: {one_line(error)}") from error
        try:
            worker.slot = self.board.take()
        except RuntimeError as error:
            worker.tmp.close()
            raise SpawnFailed(str(error)) from error
        worker.gated = extra or self.gate or (not self.was_ready and self.notifier.awaited)
        if hasattr(worker, "due"):
            # It would end by itself at its limit; it says that it is due instead, see recycle().
            worker.max_requests = sys.maxsize
        worker.quiet = extra or self._beside_another()
        worker.extra, worker.retired, worker.ended, worker.recycled = extra, 0.0, None, False
        worker.started_at = time.time()
        return worker

    def _beside_another(self) -> bool:
        """Whether what boots here stands in the way of another colour that serves."""
        if self.gate or (self.first_workers is not None and not self.was_ready):
            return True
        return another_serves(os.environ)

    def _discard(self, worker: Any) -> None:
        """A worker that was never forked."""
        worker.tmp.close()
        self.board.give_back(worker.slot)

    def _be_worker(self, worker: Any) -> None:
        """The child's whole life; never returns."""
        for number in (*STOPS, signal.SIGCHLD):
            # Until the worker has its own handlers nothing is in hand, so a stop may end it.
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
        for sibling in self.WORKERS.values():
            sibling.tmp.close()
        worker.pid = os.getpid()
        oom.go_first()
        if worker.quiet and hasattr(worker, "mark_ready"):
            worker.former_nice = quiet.lower(self.cfg.uid)
        try:
            util._setproctitle(f"worker [{self.proc_name}]")
            if self.cfg.reuse_port and not self.gate:
                worker.sockets = sock.create_sockets(self.cfg, self.log)
            self.cfg.post_fork(self, worker)
            worker.init_process()
            sys.exit(0)
        except SystemExit:
            raise
        except AppImportError as error:
            worker.slot.note = str(error)
            self.log.error("%s", error)
            sys.exit(APP_LOAD_ERROR)
        except Exception as error:
            if not worker.booted:
                worker.slot.note = f"{type(error).__name__}: {error}"
            self.log.exception("Exception in worker process")
            sys.exit(-1 if worker.booted else WORKER_BOOT_ERROR)
        finally:
            try:
                worker.tmp.close()
                self.cfg.worker_exit(self, worker)
            except Exception:
                self.log.exception("Exception during worker exit")
            for number in STOPS:
                # It is ending: in the interpreter's own end a handler would raise where nobody catches.
                signal.signal(number, signal.SIG_IGN)

    def spawn_workers(self) -> None:
        """Gunicorn's pauses between forks are not needed: its herd was the reason, ours accepts later."""
        self._spawn(min(self.num_workers - len(self.serving()), self._trusted()))

    def retire(self, worker: Any) -> None:
        """Ask a worker to finish what it has and end."""
        if not worker.retired:
            others = any(one is not worker for one in self.ready_workers())
            worker.slot.alone = not (others or self._others_accept())
            worker.retired = time.monotonic()
            self.kill_worker(worker.pid, signal.SIGTERM)

    def _others_accept(self) -> bool:
        """Whether another master takes connections from the same socket: another colour, or one by USR2."""
        if self.reexec_pid or self.master_pid:
            return True
        return self.systemd and another_serves(os.environ)

    def kill_worker(self, pid: int, sig: int) -> None:
        """Signal a worker. One that is gone already is none to worry about: it is buried once."""
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            worker = self.WORKERS.pop(pid, None)
            if worker is not None:
                worker.retired = worker.retired or time.monotonic()
                self._bury(worker, Ending("stopped", "info", "it was gone before it was asked"))
            return
        if sig in (signal.SIGTERM, signal.SIGKILL):
            self._stats["workers_killed"] += 1

    def kill_workers(self, sig: int) -> None:
        for worker in list(self.WORKERS.values()):
            if sig in STOPS and not worker.retired:
                worker.retired = time.monotonic()
            self.kill_worker(worker.pid, sig)

    def reap_workers(self) -> None:
        """Take note of every child that ended, and why."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.reexec_pid:
                self.reexec_pid = 0
                if self.state is not None:
                    self.state.forget()
            elif pid == self.dirty_arbiter_pid:
                self.handle_dirty_arbiter_exit(pid, status)
            elif pid in self.WORKERS:
                worker = self.WORKERS.pop(pid)
                killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                self._bury(worker, describe(worker, status, killed and self.memory_kills.happened()))

    def _bury(self, worker: Any, ending: Ending) -> None:
        worker.ended = ending
        worker.tmp.close()
        try:
            self.cfg.child_exit(self, worker)
        except Exception:
            # A person's hook must not take the master, and with it the site.
            self.log.exception("Exception in the child_exit hook")
        asked = worker.retired or ending.signal in ("SIGTERM", "SIGINT", "SIGQUIT")
        died_booting = not worker.slot.proven and not asked
        note = ending.message if ending.failed_to_boot else f"{ending.reason}: {ending.message}"
        self.endings[ending.reason] += 1
        self.past.add(worker.slot.traffic)
        # What it had in hand got no answer, and it did not live to count it.
        self.past.lost(worker.slot.in_hand)
        self.board.give_back(worker.slot)
        if died_booting:
            self._boot_failed(worker, ending, note)
        elif not worker.retired:
            self.boot_failures = 0

    def _boot_failed(self, worker: Any, ending: Ending, note: str) -> None:
        """Fatal before the first readiness, as in Gunicorn; later the others go on serving."""
        worker.failure = note
        if worker.extra:
            return
        self._back_off()
        if not self.was_ready:
            code = ending.exit_code if ending.exit_code in (WORKER_BOOT_ERROR, APP_LOAD_ERROR) else None
            if code is not None or self.boot_failures >= HOPELESS:
                self.hopeless = True
                raise HaltServer(note, code or WORKER_BOOT_ERROR)

    def _back_off(self) -> None:
        """The next try after twice the pause of the last one."""
        self.boot_failures += 1
        seconds = pause(self.boot_failures, 1.0 if self.cfg.reload else MOST_BACKOFF)
        self.spawn_not_before = time.monotonic() + seconds

    # --- one for one ----------------------------------------------------------------------------

    def replace(self, worker: Any | None) -> str | None:
        """Start a replacement, wait for its mark, then end exactly ``worker`` (if any), and wait for its end.

        Returns None when done, else one line that says why the replacement did not become ready:
        ``worker`` then serves on as if nothing had been. At no time are there more workers than one
        above their number. TERM, INT and QUIT are obeyed meanwhile; other signals wait.
        """
        try:
            newcomer = self.WORKERS[self.spawn_worker(extra=True)]
        except SpawnFailed as error:
            return str(error)
        failure = self._await_mark(newcomer)
        if failure is not None:
            self.retire(newcomer)
            self.await_end(newcomer)
            return failure
        newcomer.extra = False
        if worker is not None and worker.pid in self.WORKERS:
            self.retire(worker)
            self.await_end(worker)
        return None

    def boot_limit(self) -> float:
        """Seconds that a replacement may take until it is ready."""
        return max(BOOT_LIMIT, 2.0 * float(self.cfg.timeout))

    def _await_mark(self, worker: Any) -> str | None:
        limit = self.boot_limit()
        deadline = time.monotonic() + limit
        while worker.pid in self.WORKERS:
            if self.is_ready(worker):
                return None
            if time.monotonic() > deadline:
                return worker.slot.note or f"it was not ready within {limit:g} s"
            self._turn()
        return why_ended(worker)

    def _await_count(self) -> None:
        """Until those that came on top are ready as well; no longer than a boot may take."""
        deadline = time.monotonic() + BOOT_LIMIT
        while len(self.ready_workers()) < self.num_workers and time.monotonic() < deadline:
            self._turn()

    def await_end(self, worker: Any) -> None:
        while worker.pid in self.WORKERS:
            self._turn()

    def _turn(self) -> None:
        """One short turn of the main loop within an exchange of workers."""
        self.tick()
        for number in super().wait_for_signals(WATCHFUL):
            if number in AT_ONCE:
                # The stopping ones leave by StopIteration, which ends the main loop.
                getattr(self, f"handle_{self.SIG_NAMES[number]}")()
            elif number in COUNTS or number not in self._deferred:
                self._deferred.append(number)
        self.reap_workers()
        self.murder_workers()
        self.manage_workers()

    # --- HUP ------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the config anew and exchange the workers one by one; refuse what does not hold."""
        began = time.monotonic()
        self._stats["reloads"] += 1
        self.phase = "reloading"
        events.emit(self.log, "info", "reloading", "reloading: a replacement first, then one by one")
        self.notifier.reloading()
        self.write_state()
        self.recycling.stop()
        before = _Before(self.cfg, self.num_workers, list(self.LISTENERS))
        failure = self._adopt_config(before)
        if failure is None:
            try:
                failure = self._exchange(before)
            except StopIteration:
                raise
            except Exception as error:
                # Whatever it is, the workers that serve are worth more than a tidy end.
                self.log.exception("a reload was not finished")
                failure = f"it was not finished: {one_line(error)}"
        self.phase = "ready" if self.was_ready else "starting"
        self._count_changed(before.num_workers)
        if self.was_ready:
            self.notifier.ready(self.status_line())
        seconds = round(time.monotonic() - began, 3)
        self.last_reload = {"at": round(time.time(), 3), "refused": failure}
        self.write_state()
        if failure is None:
            events.emit(self.log, "info", "reloaded", f"reloaded in {seconds:g} s", seconds=seconds)
        else:
            how = "not reloaded, all goes on as it was" if self.cfg is before.cfg else "reloaded in part"
            message = f"{how}: {failure}"
            events.emit(self.log, "error", "reload_refused", message, seconds=seconds)
        for number in self._deferred:
            self.SIG_QUEUE.put_nowait(number)
        self._deferred.clear()

    def _adopt_config(self, before: _Before) -> str | None:
        """Put the new config in force; on any mistake the old one, and why."""
        _forget_environment(before.cfg)
        try:
            self.app.reload()
            self._check_config()
            self.setup(self.app)
            self.LISTENERS = self._new_listeners(before)
            self.cfg.on_reload(self)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - no mistake in a config may end the site
            self._go_back(before)
            return " ".join(str(error).split()) or type(error).__name__
        if self.counted and self.cfg.workers == before.cfg.workers:
            # TTIN and TTOU hold until somebody changes the number itself.
            self.num_workers = before.num_workers
        else:
            self.counted = False
        if self.cfg.preload_app:
            self.log.warning(
                "preload_app is on: the code is the one loaded at the start; restart to load another"
            )
        return None

    def _check_config(self) -> None:
        """What would only be found missing in the middle of setup."""
        _ = self.app.cfg.worker_class
        folder = self.app.cfg.worker_tmp_dir
        if folder and not os.path.isdir(folder):  # noqa: PTH112
            raise FarrierError(f"worker_tmp_dir {folder} is not a folder", 1)
        folder = os.path.dirname(self.app.cfg.pidfile or "")  # noqa: PTH120
        if folder and not os.path.isdir(folder):  # noqa: PTH112
            raise FarrierError(f"pidfile {self.app.cfg.pidfile}: there is no folder {folder}", 1)
        for name in (self.app.cfg.certfile, self.app.cfg.keyfile):
            if name and not os.path.exists(name):  # noqa: PTH110
                raise FarrierError(f"{name} does not exist", 1)
        for address in self.app.cfg.address:
            if isinstance(address, tuple) and not 0 <= address[1] <= 65535:
                raise FarrierError(f"bind {_shown(address)}: the port must be 0 to 65535", 2)
        if self.app.cfg.is_ssl:
            from farrier.serve import tls

            tls.check(self.app.cfg)

    def _new_listeners(self, before: _Before) -> list[Any]:
        if self.gate or before.cfg.address == self.cfg.address or self.cfg.reuse_port:
            return before.listeners
        if self.systemd:
            self.log.warning("bind is not changed: the sockets are systemd's")
            return before.listeners
        return self.listen(self.cfg.address, {one.cfg_addr: one for one in before.listeners})

    def _go_back(self, before: _Before) -> None:
        for listener in self.LISTENERS:
            if listener not in before.listeners:
                listener.close()
        _forget_environment(self.app.cfg)
        self.LISTENERS = before.listeners
        self.app.cfg = before.cfg
        with contextlib.suppress(FarrierError):
            self.setup(self.app)
        self.num_workers = before.num_workers

    def _exchange(self, before: _Before) -> str | None:
        """First one replacement, which must boot; then the others, one after the other."""
        old = self.serving()
        # The new number counts once a worker of the new config has proven that it boots.
        wanted, self._num_workers = self.num_workers, before.num_workers
        # None is left when their boot kept failing: the new code or config may mend that.
        failure = self.replace(old[0] if old else None)
        if failure is not None:
            self._go_back(before)
            return failure
        self._num_workers = wanted
        self.manage_workers()
        for worker in old[1:]:
            if worker.pid not in self.WORKERS or worker.retired:
                continue
            failure = self.replace(worker)
            if failure is not None:
                return f"some workers are exchanged, then one failed: {failure}"
        self._await_count()
        gone = [listener for listener in before.listeners if listener not in self.LISTENERS]
        # A unix socket's file goes with it, unless another master (USR2) still answers there.
        sock.close_sockets(gone, self.reexec_pid == self.master_pid == 0)
        self._renew_pidfile(before)
        self.log.reopen_files()
        self.spawn_not_before, self.boot_failures = 0.0, 0
        return None

    def _renew_pidfile(self, before: _Before) -> None:
        if before.cfg.pidfile == self.cfg.pidfile:
            return
        created = None
        if self.cfg.pidfile is not None:
            created = Pidfile(self.cfg.pidfile)
            created.create(self.pid)
        if self.pidfile is not None:
            self.pidfile.unlink()
        self.pidfile = created

    # --- other signals --------------------------------------------------------------------------

    def handle_ttin(self) -> None:
        self.counted = True
        super().handle_ttin()
        self._say_count()

    def handle_ttou(self) -> None:
        if self.num_workers > 1:
            self.counted = True
        super().handle_ttou()
        self._say_count()

    def handle_winch(self) -> None:
        if self.cfg.daemon:
            # The HUP that starts them again goes by the config.
            self.counted = False
        super().handle_winch()

    def _say_count(self) -> None:
        self.log.info("%s by signal, until the number itself is changed", _workers(self.num_workers))

    def handle_usr1(self) -> None:
        super().handle_usr1()
        events.emit(self.log, "info", "log_reopened", "log files are opened anew")

    def handle_usr2(self) -> None:
        """A second master beside this one; not where systemd owns the sockets and tracks this pid."""
        if self.systemd:
            events.emit(
                self.log, "error", "usr2_refused",
                "USR2 is refused: under socket activation systemd would track the wrong master; "
                "deploy with 'farrier release apply', or reload with HUP",
            )  # fmt: skip
            return
        super().handle_usr2()

    def reexec(self) -> None:
        self.notifier.restore(self.cfg.env_orig)
        given = config.given_plan()
        if given:
            self.cfg.env_orig["FARRIER_PLAN"] = given
        else:
            self.cfg.env_orig.pop("FARRIER_PLAN", None)
        # Said for this start alone.
        self.cfg.env_orig.pop("FARRIER_FIRST_WORKERS", None)
        try:
            super().reexec()
        except Exception as error:  # noqa: BLE001 - neither a hook nor a full process table may end the site
            said = f"no second master: {one_line(error)}"
            events.emit(self.log, "error", "usr2_refused", said)
            if os.getpid() != self.pid:
                # A copy of the master, which would end the workers on its way out.
                os._exit(1)

    # --- the end --------------------------------------------------------------------------------

    def stop(self, graceful: bool = True) -> None:
        """Workers end by themselves within ``graceful_timeout``; of the others the log says what they had."""
        if self.phase != "stopping":
            self.phase = "stopping"
            self.notifier.stopping()
            self.write_state()
            how = "gracefully" if graceful else "at once"
            if not self.hopeless:
                events.emit(self.log, "info", "stopping", f"stopping {how}", workers=len(self.WORKERS))
        # A second master goes on with the same sockets, and systemd's are not ours to remove.
        alone = self.reexec_pid == self.master_pid == 0
        sock.close_sockets(self.LISTENERS, alone and not self.systemd and not self.cfg.reuse_port)
        self.LISTENERS = []
        if graceful and self.systemd and not self._others_accept():
            for worker in self.WORKERS.values():
                worker.slot.alone = True
        self._end_children(signal.SIGTERM if graceful else signal.SIGQUIT)
        deadline = time.monotonic() + self.cfg.graceful_timeout + LAST_WORDS
        while self._children_left(deadline):
            if graceful and self._hurried():
                graceful = False
                self._end_children(signal.SIGQUIT)
                deadline = min(deadline, time.monotonic() + OVERDUE)
        self._end_children(signal.SIGKILL)
        deadline = time.monotonic() + OVERDUE
        while self._children_left(deadline):
            pass

    def _end_children(self, number: int) -> None:
        self.kill_workers(number)
        if self.dirty_arbiter_pid:
            self.kill_dirty_arbiter(number)

    def _children_left(self, deadline: float) -> bool:
        """Bury those that have ended, and wait a moment for the others; False when none is left, or late."""
        self.notifier.watchdog()
        self.reap_workers()
        self.reap_dirty_arbiter()
        if not (self.WORKERS or self.dirty_arbiter_pid) or time.monotonic() >= deadline:
            return False
        time.sleep(WATCHFUL)
        return True

    def _hurried(self) -> bool:
        """Whether INT or QUIT came while a graceful stop waits."""
        with contextlib.suppress(queue.Empty):
            while True:
                if self.SIG_QUEUE.get_nowait() in (signal.SIGINT, signal.SIGQUIT):
                    events.emit(self.log, "info", "stopping", "stopping at once", workers=len(self.WORKERS))
                    return True
        return False

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """Gunicorn's end without its own two lines; the last one says why."""
        self._stop_control_server()
        self.stop()
        if self.pidfile is not None:
            self.pidfile.unlink()
        if self.state is not None and not self.reexec_pid:
            self.state.remove()
        try:
            self.cfg.on_exit(self)
        except Exception as error:  # noqa: BLE001 - the status says how it ended, not the hook
            events.emit(self.log, "error", "hook_failed", f"the on_exit hook failed: {one_line(error)}")
        if reason is not None:
            events.emit(self.log, "critical", "halted", f"not started: {reason}", exit_status=exit_status)
        sys.exit(exit_status)

    # --- what others may know -------------------------------------------------------------------

    def write_state(self) -> None:
        if self.state is None or self.state.path is None or self.reexec_pid:
            # After USR2 the file is the second master's.
            return
        workers = sorted(self.WORKERS.values(), key=lambda worker: worker.age)
        self.state.write(
            {
                "schema": 1,
                "app": os.environ.get("FARRIER_APP") or self.app.app_uri,
                "instance": instance_name(os.environ),
                "pid": self.pid,
                "started": self.started_at,
                "release": release_name(os.environ, self.cfg.chdir),
                "phase": self.phase,
                "ready": self.was_ready,
                "gate": self.gate,
                "workers_wanted": self.num_workers,
                "settings": _in_force(self.cfg),
                "listeners": [str(listener) for listener in self.LISTENERS],
                "workers": [_shown_worker(worker) for worker in workers],
                "traffic": self.traffic(),
                "endings": self.endings,
                "last_reload": self.last_reload,
            }
        )

    def traffic(self) -> dict[str, Any]:
        """Of this master's whole life, counted together at most once a second."""
        now = time.monotonic()
        if now - self._traffic_at >= TRAFFIC_EVERY:
            self._traffic_at = now
            slots = [one.slot for one in self.WORKERS.values()]
            whole = self.past.plus(slot.traffic for slot in slots)
            in_hand, rate = sum(slot.in_hand for slot in slots), self._pace.add(now, whole.requests)
            self._traffic = {**whole.shown(), "in_hand": in_hand, "rate": round(rate, 3)}
        return self._traffic


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def _shown_worker(worker: Any) -> dict[str, Any]:
    slot = worker.slot
    return {
        "pid": worker.pid,
        "age": worker.age,
        "started": worker.started_at,
        "booted": slot.booted,
        "ready": slot.ready,
        "stage": "retiring" if worker.retired else STAGES.get(slot.stage, "?"),
        "note": slot.note or None,
    }


def _in_force(cfg: Any) -> dict[str, Any]:
    """The settings that are plain values, those of TLS keys and the environment left out."""
    hidden = ("raw_env", "keyfile", "raw_paste_global_conf")
    found = {}
    for name, setting in sorted(cfg.settings.items()):
        value = setting.get()
        if name not in hidden and isinstance(value, (str, int, float, bool, list, tuple, type(None))):
            found[name] = value
    return found


def _inherits_sockets() -> bool:
    return os.environ.get("LISTEN_PID") == str(os.getpid()) or "GUNICORN_FD" in os.environ


def _forget_environment(cfg: Any) -> None:
    """Undo what ``raw_env`` of a config had set."""
    for name in cfg.env:
        if name in cfg.env_orig:
            os.environ[name] = cfg.env_orig[name]
        else:
            os.environ.pop(name, None)


def _listen_advice(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror):
        return "no such host name: choose an address of this machine, or 0.0.0.0"
    if number == errno.EADDRINUSE:
        return "stop what holds it, or choose another --bind"
    if number == errno.EADDRNOTAVAIL:
        return "it is no address of this machine: choose one that is, or 0.0.0.0"
    if number in (errno.EACCES, errno.EPERM):
        return "this user may not: choose a port of 1024 or above, or a folder that it may write"
    return "choose another --bind"


def _shown(address: Any) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
