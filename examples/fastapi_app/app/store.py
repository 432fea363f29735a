"""The links, in one SQLite file that every worker and every release shares."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

SCHEMA = """
CREATE TABLE IF NOT EXISTS links (
    slug    TEXT PRIMARY KEY,
    url     TEXT NOT NULL,
    title   TEXT NOT NULL DEFAULT '',
    visits  INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL
)
"""


class SlugTaken(ValueError):
    """The slug belongs to another link."""


def data_dir() -> Path:
    """Where the data lives: ``DATA_DIR``, else ``data`` beside the app (a shared folder on a host)."""
    return Path(os.environ.get("DATA_DIR") or PROJECT / "data")


class LinkStore:
    """One connection per operation: cheap with SQLite, and safe across threads, forks and releases."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connect() as connection:
            # Readers go on while one worker writes; the mode is kept in the file.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(SCHEMA)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def add(self, slug: str, url: str, title: str) -> dict[str, object]:
        try:
            with self._connect() as connection:
                connection.execute(
                    "INSERT INTO links (slug, url, title, created) VALUES (?, ?, ?, ?)",
                    (slug, url, title, time.time()),
                )
        except sqlite3.IntegrityError as error:
            raise SlugTaken(slug) from error
        return {"slug": slug, "url": url, "title": title, "visits": 0}

    def list(self, limit: int = 50) -> list[dict[str, object]]:
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT slug, url, title, visits FROM links ORDER BY created DESC LIMIT ?", (limit,)
            )
            return [dict(row) for row in rows]

    def visit(self, slug: str) -> str | None:
        """The address behind the slug, with the visit counted; None where there is none."""
        with self._connect() as connection:
            row = connection.execute("SELECT url FROM links WHERE slug = ?", (slug,)).fetchone()
            if row is None:
                return None
            connection.execute("UPDATE links SET visits = visits + 1 WHERE slug = ?", (slug,))
            return str(row["url"])

    def remove(self, slug: str) -> bool:
        with self._connect() as connection:
            return connection.execute("DELETE FROM links WHERE slug = ?", (slug,)).rowcount > 0

    def check(self) -> None:
        """Raises sqlite3.Error when the file cannot be read."""
        with self._connect() as connection:
            connection.execute("SELECT 1 FROM links LIMIT 1").fetchone()
