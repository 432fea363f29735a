"""A process that imports the app as a worker would, and writes what that took and what is alive then.

``python -m farrier.measure.importing APP ANSWER HANG SECONDS [WORKER_CLASS]``: ANSWER gets one JSON object,
HANG where the import hangs if it takes longer than SECONDS.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
from importlib.util import find_spec
from typing import Any


class Named:
    """What of Gunicorn's application class ``apps.load`` wants."""

    def __init__(self, uri: str) -> None:
        self.app_uri = uri

    def wsgi(self) -> Any:
        from gunicorn.util import import_app

        return import_app(self.app_uri)


def look(uri: str, worker_class: str | None) -> dict[str, Any]:
    """Imports the app: what it is and what it took, or ``error`` in one line."""
    if worker_class == "gevent" and find_spec("gevent") is not None:
        # As its worker does, before it imports the app.
        from gevent import monkey

        monkey.patch_all()
    import gunicorn

    from farrier.health.memory import process_memory
    from farrier.measure.alive import Alive
    from farrier.serve.apps import AppRefused, interface, load

    before = Alive()
    began, cpu = time.monotonic(), time.process_time()
    try:
        app = load(Named(uri), None)
    except AppRefused as error:
        return {"error": str(error), "stack": without_ours(error.stack or "")}
    found = {
        "import_seconds": time.monotonic() - began,
        "import_cpu": time.process_time() - cpu,
        "import_memory": process_memory().rss,
        "interface": interface(app),
        "framework": next((one for one in ("django", "fastapi", "flask") if one in sys.modules), None),
        "uvicorn": find_spec("uvicorn") is not None,
        "python": ".".join(map(str, sys.version_info[:3])),
        "gunicorn": gunicorn.__version__,
    }
    # Its watch is a thread as well.
    faulthandler.cancel_dump_traceback_later()
    return found | {"findings": before.findings()}


def without_ours(stack: str) -> str:
    """A traceback's text without this file's own frame."""
    kept, ours = [], False
    for line in stack.splitlines():
        if not line.startswith("    "):
            ours = f'File "{__file__}"' in line
        if not ours:
            kept.append(line)
    return "\n".join(kept)


def main(argv: list[str]) -> None:
    uri, answer, hang, seconds, *rest = argv
    sys.path.insert(0, os.getcwd())
    with open(hang, "w", encoding="utf-8") as file:
        # From a thread of its own, so that an extension module that never comes back is told as well.
        faulthandler.dump_traceback_later(float(seconds), exit=True, file=file)
        found = look(uri, rest[0] if rest else None)
        beside = f"{answer}.new"
        with open(beside, "w", encoding="utf-8") as out:
            json.dump(found, out)
        os.replace(beside, answer)  # noqa: PTH105
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that the app started would keep this process for ever.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
