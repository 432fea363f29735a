"""DATABASES from ``DATABASE_URL`` (postgresql://…), else SQLite under ``DATA_DIR``; sized by the plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

try:
    from farrier.django import database_settings
except ImportError:  # a laptop without farrier: Django's own defaults

    def database_settings(*, pool: bool = False) -> dict[str, Any]:  # type: ignore[misc]
        return {}


def sqlite(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": folder / "tasks.db",
        # Two releases write side by side in a deploy: wait for the lock from the start of a transaction.
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 10,
            "init_command": "PRAGMA journal_mode=WAL",
        },
        **database_settings(),
    }


def postgresql(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql") or not parts.path.strip("/"):
        # Never the URL itself: it holds a password.
        raise ValueError(
            f"DATABASE_URL begins with {parts.scheme}:; allowed: postgresql://user:password@host/name"
        )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.strip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        **database_settings(pool=os.environ.get("DATABASE_POOL") == "1"),
    }


def databases(folder: Path) -> dict[str, dict[str, Any]]:
    url = os.environ.get("DATABASE_URL", "")
    return {"default": postgresql(url) if url else sqlite(folder)}
