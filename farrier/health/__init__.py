"""Health of one worker process: /health, /health/worker and /health/ready.

``farrier serve`` puts it around any app by itself. By hand::

    from farrier.health.asgi import HealthMiddleware   # or farrier.health.wsgi
    app = HealthMiddleware(app)

The app's own readiness checks are registered with the decorator::

    from farrier.health import ready_check

    @ready_check
    def database() -> None:
        connection.execute("SELECT 1")     # raise, or return False: not ready
"""

from __future__ import annotations

from farrier.health.checks import Check, Outcome, checks_in_force, ready_check, run_checks, run_checks_async

__all__ = ["Check", "Outcome", "checks_in_force", "ready_check", "run_checks", "run_checks_async"]
