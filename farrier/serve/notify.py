"""What systemd is told, and when: sd_notify(3) over NOTIFY_SOCKET.

The socket is taken out of the environment, so that neither Gunicorn (which says READY before a worker
has booted) nor the app and its children can speak for the service.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping


class Notifier:
    """Tells whoever started the service. Without NOTIFY_SOCKET every call does nothing."""

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self.address = address
        self.watchdog_seconds = watchdog_seconds
        self._watchdog_due = 0.0
        self._status = ""
        self._taken: dict[str, str] = {}

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of ``environ``."""
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        taken = {name: environ.pop(name) for name in names if name in environ}
        usec, pid = taken.get("WATCHDOG_USEC", ""), taken.get("WATCHDOG_PID", "")
        ours = pid in ("", str(os.getpid()))
        notifier = cls(taken.get("NOTIFY_SOCKET"), int(usec) / 1e6 if usec.isdigit() and ours else None)
        notifier._taken = taken
        return notifier

    def restore(self, environ: MutableMapping[str, str]) -> None:
        """Give back what was taken, for a master that is about to be started anew (USR2)."""
        environ.update({name: value for name, value in self._taken.items() if name != "WATCHDOG_PID"})

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for READY."""
        return self.address is not None

    def tell(self, *lines: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.connect(address)
                sender.sendall("\n".join(lines).encode())
        except OSError:
            # A service manager that went away must not take the site with it.
            return

    def ready(self, status: str) -> None:
        self._status = status
        self.tell("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def reloading(self) -> None:
        # systemd 253 and later match the reload by the monotonic time that it began at.
        self.tell("RELOADING=1", f"MONOTONIC_USEC={int(time.monotonic() * 1e6)}", "STATUS=reloading")

    def stopping(self) -> None:
        self.tell("STOPPING=1", "STATUS=stopping: requests in hand are finished")

    def status(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self.tell(f"STATUS={status}")

    def watchdog(self) -> None:
        """Say that the main loop turns, twice in each interval that was asked for."""
        if self.watchdog_seconds and time.monotonic() >= self._watchdog_due:
            self._watchdog_due = time.monotonic() + self.watchdog_seconds / 2
            self.tell("WATCHDOG=1")

    def pace(self, seconds: float) -> float:
        """At most ``seconds``, and short enough for the watchdog."""
        return min(seconds, self.watchdog_seconds / 4) if self.watchdog_seconds else seconds
