"""What farrier's workers with an event loop share: accepting, signals, readiness, the stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any

from farrier.health.checks import checks_in_force, run_checks_async
from farrier.serve import events
from farrier.serve.board import DRAINING
from farrier.serve.workers.accepting import Acceptor
from farrier.serve.workers.base import READY_AGAIN, FarrierWorker
from farrier.serve.workers.calls import Calls, Turns
from farrier.serve.workers.drain import LOOK, Drain, end_for_sure, has_bytes, is_unsent
from farrier.serve.workers.share import Connections, Share

#: Seconds between two looks of a worker's main loop.
TICK = 0.1
#: Seconds between two of its signs of life, the least ``timeout`` being one.
TOLD = 0.5


def _wake(pause: asyncio.Future[None]) -> None:
    if not pause.done():
        pause.set_result(None)


class LoopAcceptor(Acceptor):
    """For a worker with an event loop; ``protocol`` makes what serves a connection."""

    def __init__(
        self,
        worker: LoopWorker,
        sockets: Iterable[socket.socket],
        protocol: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext | None,
    ) -> None:
        sockets = list(sockets)
        share = Share(worker.slot, sockets, worker.cfg.worker_connections)
        super().__init__(sockets, worker.cfg.worker_connections, lambda: len(worker.in_hand), share)
        self.loop = asyncio.get_running_loop()
        self.worker = worker
        self.protocol = protocol
        self.context = context
        self.handshaking: set[asyncio.Task[Any]] = set()
        #: Accepted, and none of the worker's connections yet.
        self.coming: set[asyncio.BaseProtocol] = set()
        worker.connections.told = self._told

    def watch(self) -> None:
        for listener in self.sockets:
            self.loop.add_reader(listener.fileno(), self.accept, listener)

    def unwatch(self) -> None:
        for listener in self.sockets:
            self.loop.remove_reader(listener.fileno())

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.loop.call_later(seconds, call)

    def held(self) -> int:
        return len(self.worker.connections) + len(self.coming)

    def _told(self, one: Any) -> None:
        self.coming.discard(one)
        self.tell()

    def kept(self) -> Collection[Any]:
        return list(filter(self.worker.is_kept, self.worker.connections))

    def see_off(self, one: Any) -> None:
        self.worker.see_off(one)

    def hand_over(self, client: socket.socket, listener: socket.socket, address: Any) -> None:
        client.setblocking(False)
        made = self.protocol()
        self.coming.add(made)
        task = self.loop.create_task(self._connect(client, made))
        self.handshaking.add(task)
        task.add_done_callback(self.handshaking.discard)

    async def _connect(self, client: socket.socket, made: asyncio.BaseProtocol) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: made, client, ssl=self.context)
        except (OSError, ssl.SSLError, asyncio.CancelledError):
            # The client left, does not speak TLS, or did not in the time of a stop.
            client.close()
        finally:
            self.coming.discard(made)
            self.tell()


class LoopWorker(FarrierWorker):
    """A mixin for asgi and uvicorn. ``stopping`` ends the main loop; ``quick`` drops what is in hand."""

    interface = "asgi"
    quick = False
    acceptor: LoopAcceptor | None = None
    calls: Calls
    #: A stop has begun: responses announce the close.
    draining = False
    _turns: Turns | None = None
    #: What tick() waits for, and when it gave the last sign of life.
    _pause: asyncio.Future[None] | None = None
    _told = 0.0
    #: Each has a ``transport``.
    connections: Connections
    #: Whose request Calls is asked next, where the server does not announce the close itself.
    asking: Any = None

    def is_idle(self, connection: Any) -> bool:
        """Whether no request of it is in hand and none has begun to arrive."""
        raise NotImplementedError

    def is_kept(self, connection: Any) -> bool:
        """Whether it is kept alive after a request, with no other one begun. Called often."""
        raise NotImplementedError

    @property
    def announces(self) -> bool:
        """Whether the last response on a connection says that it is closed."""
        return self.draining or (self.acceptor is not None and self.acceptor.crowded)

    def announced(self, message: dict[str, Any], connection: Any) -> dict[str, Any]:
        """A response's start while the worker announces the close, with it where no other one follows."""
        return message

    @property
    def turns(self) -> Turns:
        """One for each request that the plan has memory for; further ones wait, first come, first served."""
        if self._turns is None:
            self._turns = Turns(max(1, self.cfg.worker_connections))
        return self._turns

    def put_down(self, token: object, request_id: str | None = None) -> float:
        if self.acceptor is not None and not self.acceptor.open and not self.acceptor.closed:
            # A moment later: the connection is closed or idle only after this.
            asyncio.get_running_loop().call_later(0.001, self.acceptor.resume)
        return super().put_down(token, request_id)

    def around(self, app: Any) -> Any:
        self.calls = Calls(app, self)
        return self.calls

    def watch_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """TERM drains, QUIT and INT drop; ABRT is taken even while the app blocks the loop."""
        self.stopping = asyncio.Event()
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGQUIT, self._stop_at_once)
        loop.add_signal_handler(signal.SIGINT, self._stop_at_once)
        loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)
        # Not through the loop, which may be the very thing that hangs.
        signal.signal(signal.SIGABRT, self.handle_abort)
        signal.siginterrupt(signal.SIGUSR1, False)

    def _stop(self) -> None:
        self.stopping.set()
        if self._pause is not None:
            _wake(self._pause)

    def _stop_at_once(self) -> None:
        if not self.quick:
            self.quick = True
            self.cfg.worker_int(self)
            end_for_sure()
        self._stop()

    def handle_abort(self, sig: int, frame: Any) -> None:
        """The server would catch SystemExit as the app's error: say it, then really end."""
        try:
            super().handle_abort(sig, frame)
        finally:
            os._exit(1)

    async def starts(self, startup: Coroutine[Any, Any, None]) -> bool:
        """The app's startup. A stop gives it up: it may wait for what never comes, and nothing is in hand."""
        start, stop = asyncio.ensure_future(startup), asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if start.done():
            start.result()
            return True
        start.cancel()
        return False

    async def wait_ready_async(self) -> bool:
        """As wait_ready(), on the loop and after the app's startup, so that its own pools are open."""
        checks = checks_in_force()
        while checks and not self.stopping.is_set():
            self.notify()
            failed = [one for one in await run_checks_async(checks) if not one.ok]
            if not failed or self.gave_up(failed):
                break
            await asyncio.sleep(READY_AGAIN)
        return not self.stopping.is_set()

    async def tick(self) -> bool:
        """Wait a tenth of a second or for the stop, and show life; False when it is time to drain."""
        if not self.stopping.is_set():
            # asyncio.wait_for() makes a task each time, ten a second in every idle worker.
            loop = asyncio.get_running_loop()
            self._pause = loop.create_future()
            later = loop.call_later(TICK, _wake, self._pause)
            try:
                await self._pause
            finally:
                later.cancel()
                self._pause = None
        # By the clock, not by ticks: a loop that is busy turns slowly, and two turns may take seconds.
        if time.monotonic() - self._told >= TOLD:
            self.notify()
            self._told = time.monotonic()
        if not self.alive:
            # Gunicorn's reloader (development) says it this way; nobody waits for idle connections there.
            self.quick = True
            return False
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            return False
        return not (self.due() or self.stopping.is_set())

    # --- the end ----------------------------------------------------------------------------------

    async def drain(self, acceptor: LoopAcceptor) -> Drain:
        """A graceful stop, until nothing is left or the grace is over."""
        self.draining = True
        drain = Drain(self.cfg.graceful_timeout, self.slot is not None and self.slot.alone)
        if self.slot is not None:
            self.slot.stage = DRAINING
        if not self.quick:
            acceptor.last_look()
        told = False
        while not self.quick:
            leaving = {one for one in self.connections if one.transport.is_closing()}
            idle = [one for one in self.connections if self.is_idle(one) and one not in leaving]
            for one in drain.look([*idle, *acceptor.handshaking], leaving):
                self.see_off(one)
            if drain.accepting:
                acceptor.balance()
            else:
                acceptor.close()
                if not (self.connections or acceptor.handshaking or self.calls.going):
                    break
            if drain.over:
                await self._cut()
                break
            if not told and time.monotonic() >= drain.farewell:
                told = True
                self._say_goodbye()
            self.notify()
            await asyncio.sleep(LOOK)
        acceptor.close()
        return drain

    def see_off(self, one: Any) -> None:
        """End an idle connection, or a handshake that does not come to an end."""
        if isinstance(one, asyncio.Task):
            one.cancel()
            return
        transport = one.transport
        client = transport.get_extra_info("socket")
        descriptor = -1 if client is None else client.fileno()
        if descriptor < 0 or is_unsent(descriptor):
            # It is gone (with TLS its protocol hears that a turn later), or a slow client has its last
            # response still to read.
            return
        if transport.is_closing():
            # With TLS a client may take its time to agree.
            transport.abort()
        elif not has_bytes(descriptor):
            transport.close()

    def _say_goodbye(self) -> None:
        count = self.calls.say_goodbye()
        if count:
            message = f"worker {self.pid}: {count} websockets are told that the service restarts (1012)"
            events.emit(self.log, "info", "websockets_closed", message, worker=self.pid, websockets=count)

    async def _cut(self) -> None:
        """End what the grace did not: the app's ``finally`` blocks run, the client gets no last chunk."""
        if self.in_hand:
            self.say_cut()
        await self.calls.cut()
        if self.calls.going:
            end_for_sure()
        for connection in list(self.connections):
            connection.transport.close()
        # Until the loop has written what it holds and sent FIN.
        await asyncio.sleep(LOOK)
