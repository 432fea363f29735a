"""What runs in the app's process. Gunicorn's config file is two lines::

from farrier.serve import settings

globals().update(settings())
"""

from __future__ import annotations

from typing import Any

__all__ = ["plan_in_force", "settings"]


def settings() -> dict[str, Any]:
    """Gunicorn's settings and hooks for this machine, this app and this person, evaluated anew.

    See farrier.serve.config for where each comes from. A mistake is one line on stderr: it ends the
    process at the first start, and leaves the settings in force at a HUP.
    """
    from farrier.serve import config

    return config.settings()


def plan_in_force() -> Any:
    """The ``farrier.sizing.plan.Plan`` that this process runs by; None before ``settings()``."""
    from farrier.serve import config

    return config.plan_in_force()
