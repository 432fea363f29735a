"""The stages of a measurement, one after the other and never two boots at once: a host may be small.

Import; boot alone, warm up, a second worker, requests one by one, several at once, connections; boot
preloaded, warm up. What does not fit the time or the memory is left out, and a note says so.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farrier.errors import FarrierError
from farrier.measure import figures, processes
from farrier.measure.asking import TRIES, Connection, NoAnswer, Request
from farrier.measure.processes import ProcessGone
from farrier.measure.server import AppFailed, Launch, Server, environment, start

if TYPE_CHECKING:
    from farrier.sizing import Budget

MIB = 1 << 20
#: Requests of the warm-up, for each worker, and the share of the time it may take.
WARM, WARM_SHARE = 100, 0.05
#: Requests one by one, from which times are taken, and the share of the time they may take.
TIMED, TIMED_SHARE = 200, 0.05
#: Requests from which growth is taken, and how many times as many where they do not tell it yet.
STEADY, LONGER = 1000, 4
#: Bursts before the samples of growth: every thread and connection has had requests then.
FIRST_BURSTS = 3
#: The share of more time that goes to more requests; the other stages take their own shares of it.
OF_MORE_TIME = 0.65
#: Requests at once: threads and loops are asked for so many.
AT_ONCE_THREADS, AT_ONCE_LOOP = 8, 16
#: Connections of which the second lot is compared with the first, which fills what the heap has free.
CONNECTIONS_FIRST, CONNECTIONS_MORE = 100, 300
#: Longest share of the time that one answer may take.
ANSWER_SHARE, ANSWER_MOST = 0.25, 10.0
#: Seconds that the connections of a loop take.
CONNECTIONS_SECONDS = 1.0
#: The part of what the preloaded boot is reckoned to take with which it is tried all the same.
LEAST_OF_RESERVE = 0.7
#: Seconds until the arbiter does what a signal asks for.
ARBITER_TURN = 0.8
#: Seconds in which a server stops, before the next may boot.
STOPPING = 0.5
#: Seconds of the time that are kept to end everything, and the share of it where that is less.
END, END_SHARE = 1.0, 0.1
#: The share of 5xx from which on a note tells them.
TOLD_FROM = 0.01
#: Bytes that must stay free beside what a stage is expected to take.
SPARE = 16 * MIB
#: Bytes with which no more requests are made, and after how many of them that is looked at: a little later
#: everything in the limit, this process too, would stand still for reading its own code again and again.
LEAST, LOOK_EVERY = 4 * MIB, 4
LOOPS = ("asgi", "uvicorn", "gevent")
SERVES = {"sync": "wsgi", "gthread": "wsgi", "gevent": "wsgi", "asgi": "asgi", "uvicorn": "asgi"}
#: Fields of the plan that glibc reads from the environment (mallopt(3)).
ALLOCATOR = {"malloc_arena_max": "MALLOC_ARENA_MAX", "malloc_trim_threshold": "MALLOC_TRIM_THRESHOLD_"}
HEALTH = Request("GET", "/health")
#: What is left out where no request succeeded in the end.
OF_REQUESTS = (
    *("growth_per_1000", "growth_error", "request_memory", "connection_memory", "connections"),
    *("cpu_per_request", "wait_per_request"),
)


class NoRoom(Exception):
    """One line: the memory is used up but for LEAST."""


@dataclass
class Question:
    """What a person asked."""

    app: str
    requests: list[Request]
    headers: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 20.0
    worker_class: str | None = None
    budget: Budget | None = None
    chdir: str = "."
    pythonpath: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)


def measure(question: Question) -> dict[str, Any]:
    """The measurement, schema 1 of docs/measure.md; ``failed`` is None or why a part has no figures.

    Raises AppFailed where there are none at all, FarrierError for a question that cannot be asked.
    """
    token = secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="farrier-measure-"))
    processes.adopt_orphans()
    others = processes.descendants()
    try:
        return Session(question, folder, token).run()
    finally:
        processes.end_marked(token)
        processes.end_descendants(others)
        shutil.rmtree(folder, ignore_errors=True)


class Session:
    """One measurement in its folder."""

    def __init__(self, question: Question, folder: Path, token: str) -> None:
        from farrier.sizing import read_budget

        self.question = question
        self.folder = folder
        self.began = time.monotonic()
        self.deadline = self.began + question.seconds - min(END, max(question.seconds * END_SHARE, 0.5))
        self.environ = environment(question.environ, token)
        self.budget = question.budget or read_budget()
        self.requests = list(question.requests)
        self.notes: list[str] = []
        self.findings: list[str] = []
        self.found: dict[str, Any] = {}
        self.imported: dict[str, Any] = {}
        self.warm_seconds = 0.0
        self.warmed = 0
        self.settled = False
        self.free_before = 0
        self.boots: bool | None = None
        self.worker = 0
        self.asked = HEALTH
        self.each = 0.0
        self.boot_wall = 0.0

    def run(self) -> dict[str, Any]:
        self.imported = self.look()
        self.findings = self.imported.pop("findings")
        launch = self.launch(self.choose_class())
        self.found.update(worker_class=launch.worker_class)
        failed: str | None = None
        log: tuple[str, ...] = ()
        try:
            self.alone(launch)
        except AppFailed as error:
            failed, log = str(error), error.log
        if failed is None:
            self.preloaded(launch)
        else:
            self.note(f"not preloaded: {failed}")
        return self.answer() | {"failed": failed, "log": list(log)}

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    # --- the import -------------------------------------------------------------------------------

    def look(self) -> dict[str, Any]:
        """What the process that imported the app has to say. Raises AppFailed."""
        answer, hang, log = (self.folder / name for name in ("import.json", "hang", "import.log"))
        environ = dict(self.environ)
        if self.question.pythonpath:
            paths = self.question.pythonpath.split(",")
            environ["PYTHONPATH"] = ":".join([*paths, *filter(None, [environ.get("PYTHONPATH")])])
        seconds = max(self.left - 0.5, 0.5)
        self.free_before = processes.free_memory()
        argv = [
            "-m",
            "farrier.measure.importing",
            self.question.app,
            str(answer),
            str(hang),
            f"{seconds:.2f}",
        ]
        argv += [self.question.worker_class] if self.question.worker_class else []
        process = start(argv, environ, self.question.chdir, log)
        try:
            process.wait(max(self.left, 0.5))
        except subprocess.TimeoutExpired:
            process.kill()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        if not answer.exists():
            raise AppFailed(self.not_imported(process.returncode, hang, seconds), lines)
        found: dict[str, Any] = json.loads(answer.read_text())
        if "error" in found:
            raise AppFailed(found["error"], [*lines, *str(found.get("stack") or "").splitlines()])
        return found

    def not_imported(self, status: int, hang: Path, seconds: float) -> str:
        app, room = self.question.app, f"there were {self.free_before // MIB} MiB free"
        text = hang.read_text(encoding="utf-8", errors="replace") if hang.exists() else ""
        if text:
            where = _innermost(text, self.question.chdir)
            tight = f"; {room}" if self.free_before < 512 * MIB else ""
            return f"{app}: still importing after {seconds:.0f} s {where}{tight}"
        if status == -9:
            return f"{app}: its import was killed, most likely for memory: {room}"
        return f"{app}: its import ended the process (status {status})"

    def choose_class(self) -> str:
        """A person's, else the plan's own for what the app speaks. Raises FarrierError."""
        interface, chosen = self.imported["interface"], self.question.worker_class
        if chosen is not None:
            if interface in ("asgi", "wsgi") and SERVES[chosen] != interface:
                fitting = ", ".join(name for name, serves in SERVES.items() if serves == interface)
                speaks = f"{self.question.app} is {interface.upper()}"
                raise FarrierError(f"worker class {chosen}: {speaks}; allowed are {fitting}")
            return chosen
        if interface != "asgi":
            return "gthread"
        return "uvicorn" if self.imported["framework"] == "fastapi" and self.imported["uvicorn"] else "asgi"

    def launch(self, worker_class: str) -> Launch:
        from farrier.sizing import Settings, Workload, plan

        workload = Workload.profile(
            worker_class=worker_class,
            framework=self.imported["framework"],
            app_memory=self.imported["import_memory"],
        )
        chosen = Settings.from_mapping({"worker_class": worker_class}, "--worker-class")
        made = plan(self.budget, workload, chosen)
        environ = dict(self.environ)
        for name, variable in ALLOCATOR.items():
            # As the unit of a release has it.
            if name in made and made.value(name):
                environ.setdefault(variable, str(made.value(name)))
        threads = int(str(made.value("threads") or 1)) if worker_class == "gthread" else 1
        folder, asked = self.folder, self.question
        return Launch(asked.app, worker_class, threads, environ, asked.chdir, asked.pythonpath, folder)

    # --- alone ------------------------------------------------------------------------------------

    def alone(self, launch: Launch) -> None:
        """Raises AppFailed where it does not boot, or answers nothing."""
        self.check_room(launch)
        began = time.monotonic()
        with Server(launch, 1, preload=False, deadline=self.deadline) as server:
            self.boot_wall = time.monotonic() - began
            self.found["boot_seconds"] = server.until_ready(1)
            self.worker = server.workers[0]
            try:
                self.found["app_memory"] = processes.memory(self.worker).rss
                self.found["alone"] = _at_rest(server)
                self.first_answers(server)
                self.warm_up(server, self.worker)
                self.leave_out_failing(server)
                self.found["app_memory"] = processes.memory(self.worker).rss
                self.settled = True
                self.found["alone"] = _at_rest(server)
                self.second(server, self.worker)
                self.worker = server.workers[0]
                self.one_by_one(server, self.worker)
                self.at_once(server, self.worker, launch)
                self.steady(server, self.worker, launch)
                if launch.worker_class in LOOPS:
                    self.connections(server, self.worker)
            except NoRoom as error:
                self.note(str(error))
            except (ProcessGone, NoAnswer) as error:
                self.note(self.what_ended(server, error))
            self.leave_out_failing(server)

    def check_room(self, launch: Launch) -> None:
        """Raises AppFailed where the app alone cannot fit: the kernel would take somebody for it."""
        free, needed = self.free(), int(self.imported["import_memory"])
        if free < needed:
            taken = f"{launch.app}: one process takes {needed // MIB} MiB after its import"
            raise AppFailed(f"{taken}, and {free // MIB} MiB are free")

    def free(self) -> int:
        """Bytes; of a smaller machine that was named no more than it has."""
        return min(processes.free_memory(), self.budget.memory_bytes)

    def look_for_room(self, count: int, every: int = LOOK_EVERY) -> None:
        """Raises NoRoom."""
        if count % every == 0 and self.free() < LEAST:
            raise NoRoom(f"the memory was used up after {count} requests: what follows was left out")

    def more(self, missing: float) -> str:
        """``--seconds N``, with which so many more seconds are there for what had none."""
        return f"--seconds {math.ceil(self.question.seconds + max(missing, 0.1) / OF_MORE_TIME)}"

    @property
    def patience_seconds(self) -> float:
        """For one answer."""
        return min(ANSWER_MOST, self.question.seconds * ANSWER_SHARE)

    @property
    def patience(self) -> float:
        """Until when an answer is waited for."""
        return min(time.monotonic() + self.patience_seconds, self.deadline)

    def first_answers(self, server: Server) -> None:
        """Asks each request and leaves out what fails. Raises AppFailed if all do."""
        wrong = []
        for request in self.requests:
            status = None
            for _ in range(TRIES):
                try:
                    with Connection(server.address) as connection:
                        status, _seconds = self.ask(connection, request)
                except NoAnswer as error:
                    text = f"{request.name}: {error}"
                    if isinstance(error.__cause__, TimeoutError):
                        text = f"{request.name} has no answer within {self.patience_seconds:g} s"
                    wrong.append((request, text))
                    killed = server.killed
                    # It may be stuck in that request for ever.
                    self.worker = server.replace(self.worker)
                    if server.killed > killed:
                        wrong[-1] = (request, f"{request.name} took more memory than there is")
                    break
                if status < 500:
                    break
            else:
                wrong.append((request, f"{request.name} answers {status}"))
        self.requests = [one for one in self.requests if all(one is not request for request, _ in wrong)]
        if not self.requests:
            why = "; ".join(text for _, text in wrong)
            raise AppFailed(f"no request succeeded: {why}", server.tail())
        for _, text in wrong:
            self.note(f"{text}: left out of every figure")

    def leave_out_failing(self, server: Server) -> None:
        """What answers 5xx too often by now. Raises AppFailed where nothing is left."""
        failing = [one for one in self.requests if one.failing]
        if not failing:
            return
        text = "; ".join(f"{one.name} answered {one.status} in {one.share_failed}" for one in failing)
        self.requests = [one for one in self.requests if not one.failing]
        # The one that fails now and then has its part in what was found so far.
        for name in OF_REQUESTS:
            self.found.pop(name, None)
        if not self.requests:
            raise AppFailed(f"no request succeeded: {text}", server.tail())
        self.note(f"{text}: the figures of requests were left out" if self.settled else f"{text}: left out")

    def ask(self, connection: Connection, request: Request) -> tuple[int, float]:
        self.asked = request
        status, seconds = connection.ask(
            request.message(self.question.headers), request.method, self.patience
        )
        request.statuses[status] += 1
        return status, seconds

    def warm_up(self, server: Server, worker: int) -> None:
        """The same number for each worker."""
        began = time.monotonic()
        limit = min(began + self.question.seconds * WARM_SHARE, self.deadline)
        most = self.warmed or WARM
        count = 0
        with server.only(worker), Connection(server.address) as connection:
            while count < most and (count < len(self.requests) or time.monotonic() < limit):
                self.ask(connection, self.requests[count % len(self.requests)])
                count += 1
                self.look_for_room(count)
        if not self.warmed:
            self.warmed, self.warm_seconds = count, time.monotonic() - began
            if count < WARM:
                self.note(f"warmed up by {count} requests only: they are slow")

    def second(self, server: Server, worker: int) -> None:
        """A second worker beside the first shows what two share; then it goes again."""
        # Requests come first, where they are slow: growth says more than what two workers share.
        steady = min(STEADY * self.warm_seconds / max(self.warmed, 1) / AT_ONCE_THREADS, 1.0)
        boot = max(1.3 * float(self.found["boot_seconds"]), ARBITER_TURN)
        needed_seconds = boot + self.warm_seconds + self.reserve + 0.6 + steady
        if self.left < needed_seconds:
            more = self.more(needed_seconds - self.left)
            self.note(f"one worker alone, not two: no time for the boot of another; {more}")
            return
        needed = processes.memory(worker).uss or int(self.found["app_memory"])
        if self.free() < needed * 1.2 + SPARE:
            self.note("one worker alone, not two: no memory for another, so its figures show nothing shared")
            return
        self.worker = added = server.add_worker()
        self.warm_up(server, added)
        self.found["alone"] = _at_rest(server)
        server.remove_worker()

    @property
    def preload_seconds(self) -> float:
        """What the preloaded boot takes; nothing where there is none."""
        if self.found["worker_class"] == "gevent":
            return 0.0
        return max(1.3 * self.boot_wall, 0.8) + 2.2 * self.warm_seconds

    @property
    def reserve(self) -> float:
        """Seconds that are kept for the preloaded boot, where there are so many."""
        needed = self.preload_seconds + (STOPPING if self.preload_seconds else 0.0)
        return needed if self.left > needed else 0.0

    def one_by_one(self, server: Server, worker: int) -> None:
        """CPU and wait, from requests one after the other. Raises NoRoom."""
        limit = max(min(self.question.seconds * TIMED_SHARE, self.left - self.reserve - 0.5), 0.3)
        full: NoRoom | None = None
        with Connection(server.address) as connection:
            base = self.transport(connection, worker)
            before = processes.memory(worker).uss or 0
            cpu, queued = processes.cpu_times(worker)
            stop = time.monotonic() + limit
            done, total = 0, 0.0
            while done < TIMED and (time.monotonic() < stop or not done):
                total += self.ask(connection, self.requests[done % len(self.requests)])[1]
                done += 1
                try:
                    self.look_for_room(done)
                except NoRoom as error:
                    full = error
                    break
            ran, waited = processes.cpu_times(worker)
        used, self.each = (ran - cpu) / done, total / done
        self.found["cpu_per_request"] = used
        self.found["wait_per_request"] = max(self.each - used - (waited - queued) / done - base, 0.0)
        if full is not None:
            self.used_up(worker, before, done)
            raise full

    def used_up(self, worker: int, before: int, done: int) -> None:
        """Growth where the memory did not last: what was used up."""
        self.found["growth_per_1000"] = max((processes.memory(worker).uss or 0) - before, 0) * 1000 // done

    def steady(self, server: Server, worker: int, launch: Launch) -> None:
        """Growth; from several requests at once where one by one they would take too long. Raises NoRoom."""
        limit = self.left - self.reserve - (CONNECTIONS_SECONDS if launch.worker_class in LOOPS else 0.1)
        several = 1 if self.each * STEADY < 0.8 * limit else _most_at_once(launch)
        least = figures.BLOCKS * (1 if several > 1 else 2)
        stop = time.monotonic() + limit
        # What one burst takes is seen at the first ones; these must not take all of the time.
        bursts = 0
        if limit > (least + FIRST_BURSTS) * self.each:
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(Connection(server.address)) for _ in range(several)]
                began = time.monotonic()
                for turn in range(FIRST_BURSTS):
                    self.burst(clients, turn)
                    self.look_for_room((turn + 1) * several, every=1)
                self.each = (time.monotonic() - began) / FIRST_BURSTS / several
                bursts = min(int(0.9 * (stop - time.monotonic()) / (self.each * several)), 10**6)
                if bursts >= least:
                    whole = math.ceil(STEADY / several / figures.BLOCKS)
                    self.sample(clients, worker, min(bursts // figures.BLOCKS, whole), stop)
        if bursts < least:
            fit, wanted = max(int(limit / self.each), 0) if not bursts else bursts * several, least * several
            more = self.more(STEADY * self.each - max(limit, 0))
            self.note(f"growth not measured: {fit} requests fit the time and it takes {wanted}; {more}")

    def sample(self, clients: Sequence[Connection], worker: int, block: int, stop: float) -> None:
        """Growth from blocks of so many bursts; longer ones where it is not told yet and time is left."""
        samples = [(0, processes.memory(worker).uss or 0)]
        bursts, several, began = 0, len(clients), time.monotonic()
        while time.monotonic() < stop:
            for _ in range(block):
                self.burst(clients, bursts)
                bursts += 1
                try:
                    self.look_for_room(bursts * several, every=LOOK_EVERY if several == 1 else 1)
                except NoRoom:
                    self.used_up(worker, samples[0][1], bursts * several)
                    raise
            samples.append((bursts * several, processes.memory(worker).uss or 0))
            if len(samples) <= figures.BLOCKS:
                continue
            again = time.monotonic() + 1.2 * (time.monotonic() - began)
            if self.growth(samples) or again > stop or bursts * several >= LONGER * STEADY:
                break
            samples, block = samples[::2], block * 2
        else:
            if "growth_error" not in self.found and len(samples) >= figures.SETTLING + 4:
                self.growth(samples)
        self.tell_growth(samples)

    def growth(self, samples: Sequence[tuple[int, int]]) -> bool:
        """Whether the samples tell it for good: a small slope that rises may be the last of the warm-up."""
        slope, error = figures.growth(samples)
        requests = figures.counted(samples)
        self.found["growth_per_1000"] = figures.grown(slope, error, requests)
        self.found["growth_error"] = round(error)
        self.found["growth_bound"] = figures.bound(slope, error)
        small = figures.rises(slope, error) and not figures.seen(slope, requests)
        return self.found["growth_per_1000"] is not None and not small

    def tell_growth(self, samples: Sequence[tuple[int, int]]) -> None:
        """Notes where it is not known, or from few requests."""
        from farrier.sizing import format_bytes

        done = samples[-1][0]
        more = f"; {self.more((STEADY - done) * self.each)}" if done < STEADY else ""
        if "growth_error" not in self.found:
            self.note(f"growth not measured: the time was over after {done} requests{more}")
        elif self.found["growth_per_1000"] is None:
            most = format_bytes(round(self.found["growth_bound"]))
            self.note(f"growth not known: from {done:,} requests it may be up to {most} in 1,000{more}")
        elif done < STEADY // 2:
            self.note(f"growth from {done} requests only{more}")

    def transport(self, connection: Connection, worker: int) -> float:
        """Seconds that a request takes beside the worker's CPU where no app waits: of the health answer."""
        cpu, queued = processes.cpu_times(worker)
        total, count = 0.0, 50
        self.asked = HEALTH
        for _ in range(count):
            total += connection.ask(HEALTH.message(), "GET", self.patience)[1]
        ran, waited = processes.cpu_times(worker)
        return max((total - (ran - cpu) - (waited - queued)) / count, 0.0)

    def at_once(self, server: Server, worker: int, launch: Launch) -> None:
        """What one more request in hand takes."""
        most = _most_at_once(launch)
        if self.left < self.reserve + 0.3 + self.each:
            more = self.more(self.reserve + 0.3 + self.each - self.left)
            self.note(f"memory of requests in hand not measured: no time; {more}")
            return
        self.asked = HEALTH
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Connection(server.address)) for _ in range(most)]
            # Every thread and connection has been used once, so that only the requests are new.
            for one in clients:
                one.send(b"GET /health HTTP/1.1\r\n", self.patience)
            if launch.worker_class == "gthread":
                _until_threads(worker, most)
            for one in clients:
                one.send(b"Host: localhost\r\n\r\n", self.patience)
                one.receive("GET", self.patience)
            if not processes.forget_peak(worker):
                self.note("memory of requests in hand not measured: the kernel does not tell the peak anew")
                return
            base = processes.peak(worker)
            stop = min(time.monotonic() + self.question.seconds * 0.05, self.deadline - self.reserve)
            for turn in range(5):
                if turn and (time.monotonic() + self.each > stop or self.free() < SPARE):
                    break
                self.burst(clients, turn)
            self.found["request_memory"] = max(processes.peak(worker) - base, 0) // max(most - 1, 1)

    def burst(self, clients: Sequence[Connection], turn: int) -> None:
        chosen = [self.requests[(turn + index) % len(self.requests)] for index in range(len(clients))]
        until = self.patience
        for one, request in zip(clients, chosen, strict=True):
            self.asked = request
            one.send(request.message(self.question.headers), until)
        for one, request in zip(clients, chosen, strict=True):
            self.asked = request
            request.statuses[one.receive(request.method, until)] += 1

    def connections(self, server: Server, worker: int) -> None:
        """What one more connection takes: idle after a request, or half-way through sending one."""
        if self.free() < SPARE + 32 * MIB:
            self.note("memory of a connection not measured: no memory for it")
            return
        if self.left < self.reserve + CONNECTIONS_SECONDS / 2:
            more = self.more(self.reserve + CONNECTIONS_SECONDS - self.left)
            self.note(f"memory of a connection not measured: no time for it; {more}")
            return
        self.asked = HEALTH
        idle = self.lot(server, worker, lambda one: one.ask(HEALTH.message(), "GET", self.patience))
        part = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: 1"
        slow = self.lot(server, worker, lambda one: one.send(part, self.patience))
        busy = max(idle, slow) + (self.found.get("request_memory") or 0)
        self.found["connections"] = {"idle": idle, "slow": slow, "busy": busy}
        self.found["connection_memory"] = max(idle, slow, busy)

    def lot(self, server: Server, worker: int, begin: Any) -> int:
        """Bytes of each of the second lot."""
        with contextlib.ExitStack() as stack:
            sizes = []
            for count in (CONNECTIONS_FIRST, CONNECTIONS_MORE):
                for _ in range(count):
                    begin(stack.enter_context(Connection(server.address)))
                # An answer on another connection: what was sent before it has been read.
                with Connection(server.address) as last:
                    last.ask(HEALTH.message(), "GET", self.patience)
                sizes.append(processes.memory(worker).uss or 0)
        return max(sizes[1] - sizes[0], 0) // CONNECTIONS_MORE

    # --- preloaded --------------------------------------------------------------------------------

    def preloaded(self, launch: Launch) -> None:
        """The same with the app loaded before the fork and its heap frozen."""
        if launch.worker_class == "gevent":
            self.note("not preloaded: gevent patches the standard library before the import, in each worker")
            return
        if self.left <= LEAST_OF_RESERVE * self.preload_seconds:
            more = self.more(self.preload_seconds - self.left)
            self.note(f"not preloaded: no time left for another boot; {more}")
            return
        free, app = self.free() - SPARE // 2, int(self.imported["import_memory"])
        # A worker of its own has a twentieth at least; what it takes beyond that is looked at as it grows.
        if free < app * 1.05:
            self.note("not preloaded: no memory for it")
            return
        workers = 2 if free > app * 1.3 else 1
        expected = {request.name: request.status for request in self.requests}
        try:
            with (
                Server(launch, workers, preload=True, deadline=self.deadline) as server,
                self.counted_apart(),
            ):
                self.compare(server, expected)
        except AppFailed as error:
            if self.left <= 0:
                self.note("preloaded it was not ready in the time that was left")
                return
            self.boots = False
            self.findings.append(f"preloaded it does not boot: {error}")

    @contextlib.contextmanager
    def counted_apart(self) -> Iterator[None]:
        """What fails preloaded is a finding, and no failure of the app's."""
        alone = [one.statuses for one in self.requests]
        for one in self.requests:
            one.statuses = Counter()
        try:
            yield
        finally:
            for one, before in zip(self.requests, alone, strict=True):
                if one.failing and self.boots is not False:
                    self.boots = False
                    self.findings.append(f"preloaded, {one.name} answered {one.status} in {one.share_failed}")
                one.statuses = before if one.failing else before + one.statuses

    def compare(self, server: Server, expected: Mapping[str, int | None]) -> None:
        """Whether each worker answers as an app that is not preloaded, and what it has of its own then."""
        try:
            for worker in server.workers:
                self.worker = worker
                wrong = self.differs(server, worker, expected)
                if wrong is not None:
                    self.boots = False
                    self.findings.append(wrong)
                    return
                self.warm_up(server, worker)
            self.boots = True
            self.found["shared"] = _at_rest(server)
        except NoRoom as error:
            self.note(f"preloaded, {error}")
        except NoAnswer as error:
            if self.left <= 0:
                self.note("preloaded, its requests were not over in the time that was left")
                return
            if server.killed or self.free() < SPARE:
                self.note(f"preloaded, the memory was used up: {error}")
                return
            self.boots = False
            self.findings.append(f"preloaded, {self.asked.name} has no answer: {error}")
        except ProcessGone as error:
            self.note(self.what_ended(server, error))

    def differs(self, server: Server, worker: int, expected: Mapping[str, int | None]) -> str | None:
        """A sentence, where one worker fails at what the app alone does. Raises NoAnswer."""
        with server.only(worker), Connection(server.address) as connection:
            for request in self.requests:
                # As often as alone: one that fails now and then does so in either.
                for _ in range(TRIES):
                    status, _seconds = self.ask(connection, request)
                    if status < 500:
                        break
                else:
                    return f"preloaded, {request.name} answers {status}, alone {expected[request.name]}"
        return None

    def what_ended(self, server: Server, error: Exception) -> str:
        """A sentence; the arbiter knows in a moment why the worker that was measured ended."""
        name = self.asked.name
        if self.left <= 0:
            return f"the time was over while {name} was asked: what follows was left out"
        until = time.monotonic() + (0.0 if isinstance(error.__cause__, TimeoutError) else 1.0)
        while (ended := server.ended(self.worker)) is None and not server.killed:
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        if server.killed:
            return "a worker was killed for memory: the figures that are missing would have come from it"
        if isinstance(error, ProcessGone):
            return f"{ended or error}: what follows was left out"
        return f"{ended or f'{name} had no answer ({error})'}: what follows was left out"

    # --- the answer -------------------------------------------------------------------------------

    def tell_statuses(self) -> None:
        """Notes for what was not answered as a page; what says nothing of the app's pages is dropped."""
        for one in self.requests:
            total, most = one.statuses.total(), one.status or 0
            if one.failures > TOLD_FROM * total:
                self.note(f"{one.name} answered 5xx in {one.share_failed}")
            if 300 <= most < 500:
                self.note(f"{one.name} answered {most}: name requests that your app answers")
            elif other := sum(count for status, count in one.statuses.items() if 300 <= status < 500):
                self.note(f"{one.name} answered 3xx or 4xx in {other:,} of {total:,} requests")
        if self.requests and all((one.status or 0) >= 300 for one in self.requests):
            for name in ("request_memory", "cpu_per_request", "wait_per_request"):
                self.found.pop(name, None)
            if not self.found.get("growth_per_1000"):
                self.found["growth_per_1000"] = None

    def answer(self) -> dict[str, Any]:
        """Every key of the schema."""
        from farrier.sizing import kind_of

        self.tell_statuses()
        found, imported = self.found, self.imported
        shared, app_memory = found.get("shared"), found.get("app_memory")
        fraction = None
        if shared and shared["uss"] is not None and app_memory and self.settled:
            fraction = round(figures.shared_fraction(app_memory, shared["uss"]), 3)
        cpu, wait = found.get("cpu_per_request"), found.get("wait_per_request")
        kind = kind_of(cpu, wait, imported["interface"]) if cpu is not None else None
        safe = False if self.findings else self.boots
        return {
            "schema": 1,
            "app": self.question.app,
            "interface": imported["interface"],
            "framework": imported["framework"],
            "worker_class": found["worker_class"],
            "worker_class_chosen": self.question.worker_class is not None,
            "python": imported["python"],
            "gunicorn": imported["gunicorn"],
            "machine": {"memory_bytes": self.budget.memory_bytes, "cpus": self.budget.cpus},
            "requests": [
                {
                    "method": one.method,
                    "path": one.path,
                    "status": one.status,
                    "count": one.statuses.total(),
                    "statuses": {str(status): count for status, count in sorted(one.statuses.items())},
                }
                for one in self.question.requests
            ],
            "seconds": round(time.monotonic() - self.began, 2),
            "import_memory": imported["import_memory"],
            "import_seconds": round(imported["import_seconds"], 3),
            "boot_seconds": _rounded(found.get("boot_seconds"), 3),
            "app_memory": app_memory,
            "alone": found.get("alone"),
            "shared": shared,
            "shared_fraction": fraction,
            "growth_per_1000": found.get("growth_per_1000"),
            "growth_error": found.get("growth_error"),
            "request_memory": found.get("request_memory"),
            "connection_memory": found.get("connection_memory"),
            "connections": found.get("connections"),
            "cpu_per_request": _rounded(cpu, 6),
            "wait_per_request": _rounded(wait, 6),
            "kind": kind,
            "preload_safe": safe if found["worker_class"] != "gevent" else None,
            "preload_findings": self.findings,
            "notes": self.notes,
        }


def _rounded(value: float | None, places: int) -> float | None:
    return None if value is None else round(value, places)


def _at_rest(server: Server) -> dict[str, int | None]:
    """The mean over the workers, and the master's own. Bytes. Raises ProcessGone."""
    pids = server.workers
    found = [processes.memory(pid) for pid in pids]

    def mean(name: str) -> int | None:
        values = [getattr(one, name) for one in found]
        return None if None in values or not values else sum(values) // len(values)

    master = processes.memory(server.process.pid).pss
    each = {name: mean(name) for name in ("rss", "pss", "uss")}
    return {"workers": len(pids), **each, "master_pss": master}


def _most_at_once(launch: Launch) -> int:
    """Requests that a worker of its class takes at once, of those that are asked here."""
    threads = min(launch.threads, AT_ONCE_THREADS)
    return {"sync": 1, "gthread": threads}.get(launch.worker_class, AT_ONCE_LOOP)


def _until_threads(worker: int, count: int) -> None:
    """Until a thread each waits for the rest of its request: the pool's, beside the main one."""
    until = time.monotonic() + 1.0
    while processes.threads(worker) <= count and time.monotonic() < until:
        time.sleep(0.005)


def _innermost(dump: str, folder: str) -> str:
    """``at main.py, line 3`` from faulthandler's dump: the app's own innermost line, else any."""
    import re

    frames = re.findall(r'^  File "(.+)", line (\d+) in (.+)$', dump, re.MULTILINE)
    here = str(Path(folder).resolve())
    own = [frame for frame in frames if frame[0].startswith(here + "/")]
    if not frames:
        return ""
    name, line, _ = (own or frames)[0]
    return f"at {name.removeprefix(here + '/')}, line {line}"
