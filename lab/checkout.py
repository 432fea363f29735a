"""Where this checkout keeps what it makes. Two clones never share a name, a container or a state folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def identity() -> str:
    """Eight hex digits that stand for this checkout's path in names of containers and folders."""
    return hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]


def _xdg(variable: str, fallback: str) -> Path:
    given = os.environ.get(variable, "")
    # The XDG rule: a relative path is to be ignored.
    return Path(given) if given.startswith("/") else Path.home() / fallback


def cache_dir() -> Path:
    """What is worth keeping after `make down`: FARRIER_CACHE, else farrier/ in the XDG cache folder."""
    given = os.environ.get("FARRIER_CACHE")
    path = Path(given).expanduser().resolve() if given else _xdg("XDG_CACHE_HOME", ".cache") / "farrier"
    path.mkdir(parents=True, exist_ok=True)
    return path


def machine_state_dir() -> Path:
    """State that all checkouts of one person share: the Docker engine that a lab started."""
    path = _xdg("XDG_STATE_HOME", ".local/state") / "farrier"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def state_dir() -> Path:
    """State of this checkout: keys, inventories, logs. Outside the tree, so that no build ships a key."""
    path = machine_state_dir() / identity()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
