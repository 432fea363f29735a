"""What must work before a worker takes requests (FARRIER_READY=app.ready:database)."""

from __future__ import annotations

from app.store import LinkStore, data_dir


def database() -> None:
    """Raises when the database cannot be opened and read."""
    LinkStore(data_dir() / "links.db").check()
