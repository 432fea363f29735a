"""The state file: what the master knows, for ``farrier status`` and ``top``.

``FARRIER_RUN_DIR/<instance>.json`` (a tmpfs folder), replaced atomically whenever something changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any


class StateFile:
    """Written by the master alone. What cannot be written is said once and tried again: a tmpfs may be full
    for a moment, and others go by this file."""

    def __init__(self, path: str | None, log: Any) -> None:
        self.path = path
        self.log = log
        self._written = b""
        self._said = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], log: Any) -> StateFile:
        folder = environ.get("FARRIER_RUN_DIR")
        if not folder:
            return cls(None, log)
        return cls(os.path.join(folder, instance_name(environ) + ".json"), log)  # noqa: PTH118 - master memory

    def write(self, state: dict[str, Any]) -> None:
        if self.path is None:
            return
        body = json.dumps(state, indent=1, default=str).encode() + b"\n"
        if body == self._written:
            return
        beside = f"{self.path}.{os.getpid()}"
        try:
            with open(beside, "wb") as file:
                # Readable for the app's group (an operator), not for the world: it shows the settings.
                os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP)
                file.write(body)
            os.replace(beside, self.path)  # noqa: PTH105 - see above
        except OSError as error:
            if not self._said:
                self.log.warning(
                    "The state file %s cannot be written: %s", self.path, error.strerror or error
                )
            self._said = True
        else:
            self._written, self._said = body, False

    def forget(self) -> None:
        """Somebody else may have written the file meanwhile: the next write is one, whatever it says."""
        self._written = b""

    def remove(self) -> None:
        """Take the file away, unless another master (USR2) has written its own there."""
        if self.path is not None:
            with contextlib.suppress(OSError), open(self.path, "rb") as file:
                if file.read() != self._written:
                    return
                os.unlink(self.path)  # noqa: PTH108 - see above


def another_serves(environ: Mapping[str, str]) -> bool:
    """Whether another colour of this app has a worker that accepts, by its state file beside ours."""
    return any(_accepts(state) for state in _others(environ))


def another_runs(environ: Mapping[str, str]) -> bool:
    """Whether another colour of this app is up, in whatever phase."""
    return any(True for _ in _others(environ))


def _others(environ: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The state files beside ours whose masters live; one that was killed leaves its file behind."""
    folder = environ.get("FARRIER_RUN_DIR")
    ours = instance_name(environ) + ".json"
    try:
        names = (
            [name for name in os.listdir(folder) if name.endswith(".json") and name != ours] if folder else []
        )
    except OSError:
        return
    for name in names:
        # A process of another user that may not be signalled is no colour of this app.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with open(os.path.join(str(folder), name), "rb") as file:  # noqa: PTH118 - master memory
                state: dict[str, Any] = json.load(file)
            os.kill(int(state["pid"]), 0)
            yield state


def _accepts(state: dict[str, Any]) -> bool:
    if state.get("phase") not in ("ready", "reloading") or state.get("gate"):
        return False
    workers = state.get("workers")
    return isinstance(workers, list) and any(isinstance(one, dict) and one.get("ready") for one in workers)


def instance_name(environ: Mapping[str, str]) -> str:
    """The colour, else the app's name, else ``app``; never a path."""
    chosen = environ.get("FARRIER_INSTANCE") or environ.get("FARRIER_APP") or "app"
    return chosen.replace("/", "_").lstrip(".") or "app"


def release_name(environ: Mapping[str, str], folder: str) -> str | None:
    """``FARRIER_RELEASE``, else the ID in ``…/releases/ID/…`` that the working folder resolves to."""
    if environ.get("FARRIER_RELEASE"):
        return environ["FARRIER_RELEASE"]
    parts = os.path.realpath(folder).split(os.sep)  # noqa: PTH206 - see above
    if "releases" in parts[:-1]:
        return parts[parts.index("releases") + 1]
    return None
