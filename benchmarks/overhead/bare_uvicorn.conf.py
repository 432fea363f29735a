"""For Gunicorn with uvicorn-worker: the app logs its requests itself (apps.logged_asgi)."""

from typing import Any

from uvicorn_worker import UvicornWorker

UvicornWorker.CONFIG_KWARGS = {**UvicornWorker.CONFIG_KWARGS, "access_log": False}


def post_worker_init(worker: Any) -> None:
    for handler in worker.log.access_log.handlers:
        handler.formatter._fmt = "%(message)s"
