"""What must work before a worker takes requests (FARRIER_READY=tasks.ready:database)."""

from __future__ import annotations

from django.db import connection

from tasks.models import Task


def database() -> None:
    """Raises when the database does not answer or the migrations were not run."""
    try:
        Task.objects.exists()
    finally:
        # The check runs outside a request, where nothing else would give the connection back.
        connection.close()
