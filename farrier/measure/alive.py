"""What an import left alive that a fork would break or share: threads, loops, children, connections, locks.

A fork copies the memory and the descriptors, and of the threads only the one that forks (fork(2)). So a
preloaded app's workers miss every other thread, and share with each other every socket and every lock.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from typing import Any

#: The classes of open database connections, by module and name; a subclass is one as well.
CONNECTIONS = {
    "sqlite3": ("Connection",),
    "psycopg2.extensions": ("connection",),
    "psycopg": ("Connection", "AsyncConnection"),
    "psycopg_pool": ("ConnectionPool", "AsyncConnectionPool"),
    "pymysql.connections": ("Connection",),
    "MySQLdb.connections": ("Connection",),
    "redis.connection": ("Connection",),
    "asyncpg.connection": ("Connection",),
    "pymongo": ("MongoClient",),
}
#: Seconds in which a thread that has been joined leaves /proc (faulthandler's own, for one).
THREAD_ENDS = 0.3
#: OpenBLAS ends its threads before a fork and starts them anew after it (its pthread_atfork handlers); the
#: names under which builds of it tell how many it has.
OPENBLAS_COUNTS = ("openblas_get_num_threads", "openblas_get_num_threads64_")


class Alive:
    """Made before the import; findings() after it."""

    def __init__(self) -> None:
        self.files = set(_descriptors())
        self.threads = {thread.ident for thread in threading.enumerate()}
        self.named: set[int] = set()

    def findings(self) -> list[str]:
        """One sentence each, the most telling first. Empty: nothing that a fork would break."""
        found = [*self._threads(), *self._loops(), *self._children()]
        found += [*self._connections(), *self._sockets(), *self._locks()]
        return list(dict.fromkeys(found))

    def _threads(self) -> Iterator[str]:
        known = {thread.native_id for thread in threading.enumerate()}
        for thread in threading.enumerate():
            if thread.ident not in self.threads and thread.is_alive():
                yield f"thread '{thread.name}' ({_defined(thread)}) is alive after the import"
        native, count = _native(known)
        until = time.monotonic() + THREAD_ENDS
        while count > 0 and time.monotonic() < until:
            time.sleep(0.01)
            native, count = _native(known)
        if native and count > 0:
            names = ", ".join(sorted(set(native)))
            plural = "" if count == 1 else "s"
            yield f"{count} thread{plural} of a native library ({names}) alive after the import"

    def _loops(self) -> Iterator[str]:
        loops = sys.modules.get("asyncio")
        if loops is None:
            return
        for loop in _instances(loops.AbstractEventLoop):
            if loop.is_closed():
                continue
            for end in ("_ssock", "_csock"):
                # The pair by which it wakes itself up is its own.
                with contextlib.suppress(AttributeError, OSError):
                    self.named.add(getattr(loop, end).fileno())
            state = "runs" if loop.is_running() else "is open"
            yield f"event loop {type(loop).__module__}.{type(loop).__qualname__} {state} after the import"

    def _children(self) -> Iterator[str]:
        for number in children(os.getpid()):
            yield f"child process {number} ({_command(number)}) runs after the import"

    def _connections(self) -> Iterator[str]:
        for module, names in CONNECTIONS.items():
            if module not in sys.modules:
                continue
            for name in names:
                kind = getattr(sys.modules[module], name, None)
                for one in _instances(kind) if isinstance(kind, type) else ():
                    yield from self._connection(f"{module.partition('.')[0]}", one)

    def _connection(self, driver: str, one: Any) -> Iterator[str]:
        if driver == "sqlite3":
            # One in memory has no file that workers would share.
            with contextlib.suppress(Exception):
                for _, _, path in one.execute("PRAGMA database_list"):
                    if path:
                        yield f"an open sqlite3 connection to {_short(path)}"
            return
        if getattr(one, "closed", False):
            return
        where = ""
        with contextlib.suppress(Exception):
            sock = getattr(one, "_sock", None)
            number = sock.fileno() if sock is not None else one.fileno()
            if number < 0:
                return
            self.named.add(number)
            where = f" to {_peer(number)}"
        if where or driver in ("psycopg_pool", "pymongo"):
            yield f"an open {driver} {type(one).__name__}{where}"

    def _sockets(self) -> Iterator[str]:
        for number, target in _descriptors().items():
            if number not in self.files and number not in self.named and target.startswith("socket:"):
                yield f"a socket {_peer(number)} is open after the import"

    def _locks(self) -> Iterator[str]:
        held: dict[str, str] = {}
        with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as file:
            for line in file:
                words = line.split()
                if "->" not in words and len(words) > 5 and words[4] == str(os.getpid()):
                    held[words[5].rpartition(":")[2]] = words[1]
        for number, target in _descriptors().items():
            if number in self.files or not target.startswith("/"):
                continue
            with contextlib.suppress(OSError):
                kind = held.get(str(os.fstat(number).st_ino))
                if kind == "POSIX":
                    yield f"a lock on {_short(target)} is held, which a fork does not have"
                elif kind:
                    yield f"a lock on {_short(target)} is held, which workers would share"


def children(pid: int) -> list[int]:
    """Direct children of a process, those of all its threads."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    return sorted(found)


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - bytes of memory count
    return found


def _tasks() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{name}/comm", encoding="utf-8") as file:
            yield int(name), file.read().strip()


def _native(known: set[int | None]) -> tuple[list[str], int]:
    """Names of the threads that Python does not know, and how many of them a fork would break."""
    names = [name for number, name in _tasks() if number not in known]
    return names, len(names) - (_openblas_threads() if names else 0)


def _instances(kind: type) -> list[Any]:
    found = []
    for one in gc.get_objects():
        # A proxy or a mock may answer anything to isinstance().
        if issubclass(type(one), kind):
            found.append(one)
    return found


def _defined(thread: threading.Thread) -> str:
    """The file that the thread's function is in; for one of the standard library's the app's own, if any."""
    target = getattr(thread, "_target", None)
    code = getattr(getattr(target, "__func__", target), "__code__", None)
    if code is None:
        code = getattr(type(thread).run, "__code__", None)
    path = code.co_filename if code is not None else ""
    if not path or _of_python(path):
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None:
            if not _of_python(frame.f_code.co_filename):
                path = frame.f_code.co_filename
            frame = frame.f_back
    return _short(path) if path else "defined in a native library"


def _of_python(path: str) -> bool:
    return path.startswith((sysconfig.get_path("stdlib"), "<frozen")) and "-packages" not in path


def _short(path: str) -> str:
    """Relative to the app's folder, or to the folder of the packages."""
    for folder in (os.getcwd(), *sorted(sys.path, key=len, reverse=True)):
        if folder and path.startswith(folder.rstrip("/") + "/"):
            return path[len(folder.rstrip("/")) + 1 :]
    return path


def _command(number: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{number}/cmdline", "rb") as file:
        words = file.read().decode("utf-8", "replace").split("\0")
        return " ".join(word for word in words if word)[:80] or "no command"
    return "ended meanwhile"


def _peer(number: int) -> str:
    """``to 127.0.0.1:5432``, ``listening at 0.0.0.0:9000``: what is at the other end of a descriptor."""
    try:
        one = socket.socket(fileno=os.dup(number))
    except OSError:
        return "of an unknown kind"
    with one:
        with contextlib.suppress(OSError):
            return f"to {_address(one.getpeername())}"
        with contextlib.suppress(OSError):
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return f"listening at {_address(one.getsockname())}"
        with contextlib.suppress(OSError):
            family = socket.AddressFamily(one.family).name
            return f"({family}, {socket.SocketKind(one.type).name}) at {_address(one.getsockname())}"
    return "of an unknown kind"


def _address(given: Any) -> str:
    if isinstance(given, tuple) and len(given) >= 2:
        host = f"[{given[0]}]" if ":" in str(given[0]) else given[0]
        return f"{host}:{given[1]}"
    if isinstance(given, bytes):
        given = given.decode("utf-8", "replace")
    return str(given) or "a nameless peer"


def _openblas_threads() -> int:
    """Threads that OpenBLAS keeps beside the main one, in all the copies of it that are loaded."""
    libraries = set()
    with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8") as file:
        for line in file:
            path = line.rstrip("\n").partition("/")[2]
            if "openblas" in path.lower():
                libraries.add("/" + path)
    if not libraries:
        return 0
    import ctypes

    count = 0
    for path in libraries:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(path)
            for name in [prefix + one for prefix in ("", "scipy_") for one in OPENBLAS_COUNTS]:
                if hasattr(library, name):
                    count += int(getattr(library, name)()) - 1
                    break
    return count
