"""The board: memory that master and workers share, one slot per worker.

A worker writes its own slot and nobody else's; the master reads all and clears a slot before it gives
it to a new worker. Only ``alone`` goes the other way, and siblings read each other's two numbers. So no
lock is needed: a number is one aligned store, and text is only for people.
"""

from __future__ import annotations

import mmap
import struct
import time

from farrier.serve import traffic

#: Workers that one master can have at once, old ones that still drain included. 1 MiB of address
#: space, of which only the pages in use take memory (4 slots a page).
SLOTS = 1024
SIZE = 1024

FORKED, BOOTED, READY, DRAINING = 1, 2, 3, 4
STAGES = {0: "free", FORKED: "forked", BOOTED: "booted", READY: "ready", DRAINING: "draining"}
#: Why a worker ends by itself, as it says so itself.
RECYCLED, CODE_CHANGED = 1, 2

_STAGE, _ENDING, _ALONE, _DUE, _IN_HAND, _REQUESTS = 0, 1, 2, 3, 4, 8
_BOOTED_AT, _READY_AT = 16, 24
_CONNECTIONS, _QUEUE = 32, 36
#: In place of a number of connections: whoever comes new is for the others.
NOT_TAKING = 2**32 - 1
_DOING, _DOING_SIZE = 64, 184
_NOTE, _NOTE_SIZE = 248, 264
_TRAFFIC = 512

_BYTE = struct.Struct("@B")
_LONG = struct.Struct("@Q")
_TIME = struct.Struct("@d")


class Slot:
    """One worker's line on the board. Times are ``time.time()`` seconds."""

    def __init__(self, board: Board, index: int) -> None:
        self.index = index
        self.board = board
        self._memory = board.memory
        self._at = index * SIZE
        start = self._at + _TRAFFIC
        self._traffic = memoryview(board.memory)[start : start + traffic.SIZE]
        self.counters = traffic.Counters(self._traffic)
        self._counts = memoryview(board.memory)[self._at : self._at + _QUEUE + 4].cast("I")

    def clear(self) -> None:
        self._memory[self._at : self._at + SIZE] = bytes(SIZE)
        self.connections = NOT_TAKING
        self.stage = FORKED

    def _get(self, kind: struct.Struct, offset: int) -> float:
        return kind.unpack_from(self._memory, self._at + offset)[0]  # type: ignore[no-any-return]

    def _put(self, kind: struct.Struct, offset: int, value: float) -> None:
        kind.pack_into(self._memory, self._at + offset, value)

    @property
    def stage(self) -> int:
        return int(self._get(_BYTE, _STAGE))

    @stage.setter
    def stage(self, value: int) -> None:
        if value == BOOTED:
            self._put(_TIME, _BOOTED_AT, time.time())
        elif value == READY:
            self._put(_TIME, _READY_AT, time.time())
        self._put(_BYTE, _STAGE, value)

    @property
    def ready(self) -> bool:
        return self.stage == READY

    @property
    def booted(self) -> bool:
        """Whether the app was loaded, whatever came after."""
        return self.booted_at > 0

    @property
    def proven(self) -> bool:
        """Whether it was ready once, whatever came after."""
        return self.ready_at > 0

    @property
    def booted_at(self) -> float:
        return self._get(_TIME, _BOOTED_AT)

    @property
    def ready_at(self) -> float:
        return self._get(_TIME, _READY_AT)

    @property
    def ending(self) -> int:
        return int(self._get(_BYTE, _ENDING))

    @ending.setter
    def ending(self, value: int) -> None:
        self._put(_BYTE, _ENDING, value)

    @property
    def alone(self) -> bool:
        """Set by the arbiter before it asks this worker to end: nobody else accepts from the socket then.

        Such a worker goes on accepting while it lingers, saying ``Connection: close``.
        """
        return bool(self._get(_BYTE, _ALONE))

    @alone.setter
    def alone(self, value: bool) -> None:
        self._put(_BYTE, _ALONE, value)

    @property
    def due(self) -> bool:
        """Set by a worker that has served ``max_requests``: it serves on until the arbiter replaces it."""
        return bool(self._get(_BYTE, _DUE))

    @due.setter
    def due(self, value: bool) -> None:
        self._put(_BYTE, _DUE, value)

    @property
    def requests(self) -> int:
        return int(self._get(_LONG, _REQUESTS))

    @requests.setter
    def requests(self, value: int) -> None:
        self._put(_LONG, _REQUESTS, value)

    @property
    def in_hand(self) -> int:
        """Requests being served at this moment."""
        return self._counts[_IN_HAND // 4]

    @in_hand.setter
    def in_hand(self, value: int) -> None:
        self._counts[_IN_HAND // 4] = value

    @property
    def connections(self) -> int:
        """Those that it holds, or ``NOT_TAKING``: its siblings look whose the next one is."""
        return self._counts[_CONNECTIONS // 4]

    @connections.setter
    def connections(self, value: int) -> None:
        self._counts[_CONNECTIONS // 4] = value

    @property
    def queue(self) -> int:
        """Of those that listen on the same sockets it is the same number."""
        return self._counts[_QUEUE // 4]

    @queue.setter
    def queue(self, value: int) -> None:
        self._counts[_QUEUE // 4] = value

    @property
    def traffic(self) -> traffic.Traffic:
        """What it has answered so far."""
        return traffic.Traffic.read(self._traffic)

    @property
    def doing(self) -> str:
        """The request that was taken up last; it may have ended if nothing is in hand."""
        return self._text(_DOING, _DOING_SIZE)

    @doing.setter
    def doing(self, value: str) -> None:
        self._write(_DOING, _DOING_SIZE, value)

    @property
    def note(self) -> str:
        """Why it did not boot, or what is not ready."""
        return self._text(_NOTE, _NOTE_SIZE)

    @note.setter
    def note(self, value: str) -> None:
        self._write(_NOTE, _NOTE_SIZE, value)

    def _text(self, offset: int, size: int) -> str:
        raw = self._memory[self._at + offset : self._at + offset + size]
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")

    def _write(self, offset: int, size: int, value: str) -> None:
        raw = value.encode("utf-8", "replace")[: size - 1]
        if b"\0" in raw:
            raw = raw.replace(b"\0", b" ")
        start = self._at + offset
        self._memory[start : start + len(raw) + 1] = raw + b"\0"


class Board:
    """Anonymous shared memory, inherited by every fork."""

    def __init__(self, slots: int = SLOTS) -> None:
        # Behind the slots: how many of them were ever in use, which workers that were forked before see too.
        self.memory = mmap.mmap(-1, slots * SIZE + 4)
        words = memoryview(self.memory).cast("I")
        self._used = words[slots * SIZE // 4 :]
        self._connections = words[_CONNECTIONS // 4 : slots * SIZE // 4 : SIZE // 4]
        self._in_hand = words[_IN_HAND // 4 : slots * SIZE // 4 : SIZE // 4]
        self._queues = words[_QUEUE // 4 : slots * SIZE // 4 : SIZE // 4]
        self._free = list(range(slots - 1, -1, -1))

    def numbers(self) -> tuple[list[int], list[int]]:
        """Of each slot that was ever in use: connections, and requests in hand."""
        used = self._used[0]
        return self._connections[:used].tolist(), self._in_hand[:used].tolist()

    def queue_of(self, index: int) -> int:
        """Slot.queue of one of them."""
        return self._queues[index]

    def take(self) -> Slot:
        """A cleared slot for a worker about to be forked. RuntimeError when all are taken."""
        if not self._free:
            raise RuntimeError(f"the board has no free slot: {SLOTS} workers are alive")
        slot = Slot(self, self._free.pop())
        self._used[0] = max(self._used[0], slot.index + 1)
        slot.clear()
        return slot

    def give_back(self, slot: Slot) -> None:
        slot.connections = NOT_TAKING
        self._free.append(slot.index)
