"""Loads the app, says in one line what is wrong with it, and wraps it for one request at a time.

The wrapper answers the health paths and gives every request an id (``X-Request-ID``, the client's or a
new one), which the app sees, the response carries and the access line shows.
"""

from __future__ import annotations

import inspect
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn import util
from gunicorn.errors import AppImportError

from farrier.health.checks import one_line
from farrier.serve.endings import APP_LOAD_ERROR, WORKER_BOOT_ERROR
from farrier.serve.stdio import JsonStream

#: Longest request id that is taken from a client, and what may be in it: it goes into logs.
MOST_ID = 128


class AppRefused(Exception):
    """One line; ``stack`` is the app's part of the traceback, ``status`` the worker's exit status."""

    def __init__(self, message: str, status: int, stack: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.stack = stack


def load(application: Any, worker_class: Any) -> Any:
    """The app that ``application`` names. Raises AppRefused."""
    uri = str(getattr(application, "app_uri", None) or application.cfg.wsgi_app or "the app")
    module = uri.partition(":")[0]
    try:
        app = application.wsgi()
    except AppImportError as error:
        advice = f"say {module}:NAME, with the app's name in that module"
        raise AppRefused(f"{uri}: {error}; {advice}", APP_LOAD_ERROR) from error
    except ModuleNotFoundError as error:
        # Without the class name: "app.main: No module named 'x'" says it all.
        text = f"{module}: {error}"
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            # Not a package that is missing, but the app itself.
            text += "; start it in the app's folder, or name that with --chdir or PYTHONPATH"
        raise AppRefused(text, WORKER_BOOT_ERROR, app_stack(error)) from error
    except SystemExit as error:
        raise AppRefused(
            f"{module}: it called sys.exit({error.code!r}) while it was imported", WORKER_BOOT_ERROR
        ) from error
    except SyntaxError as error:
        where = f"{error.filename}, line {error.lineno}"
        raise AppRefused(f"{module}: {error.msg} ({where})", WORKER_BOOT_ERROR, app_stack(error)) from error
    except Exception as error:
        raise AppRefused(f"{module}: {one_line(error)}", WORKER_BOOT_ERROR, app_stack(error)) from error
    _suits(uri, app, getattr(worker_class, "interface", None))
    return app


def app_stack(error: BaseException) -> str:
    """The traceback without Gunicorn's, farrier's and importlib's own frames."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = (
        f"{os.sep}gunicorn{os.sep}",
        f"{os.sep}farrier{os.sep}serve{os.sep}",
        "<frozen importlib",
        f"importlib{os.sep}__init__",
    )
    kept = [frame for frame in frames if not any(part in frame.filename for part in ours)]
    return "".join([*traceback.format_list(kept), *traceback.format_exception_only(error)]).rstrip()


def _suits(uri: str, app: Any, wanted: str | None) -> None:
    found = interface(app)
    if found == "factory":
        raise AppRefused(f"{uri} takes no arguments: if it makes the app, say '{uri}()'", APP_LOAD_ERROR)
    if wanted is None or found is None or found == wanted:
        return
    kind, classes = (
        ("an ASGI", "asgi or uvicorn") if found == "asgi" else ("a WSGI", "sync, gthread or gevent")
    )
    other = "ASGI" if wanted == "asgi" else "WSGI"
    raise AppRefused(
        f"{uri} is {kind} app, and the worker class in force serves {other}: set WORKER_CLASS to {classes}",
        APP_LOAD_ERROR,
    )


def interface(app: Any) -> str | None:
    """``wsgi``, ``asgi``, ``factory`` (nothing to pass), or None when it cannot be told."""
    call = app
    if not (inspect.isfunction(app) or inspect.ismethod(app) or inspect.isclass(app)):
        call = type(app).__call__.__get__(app)
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(app):
        return "asgi"
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return None
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one for one in positional if one.default is one.empty]
    if not positional and inspect.isfunction(app):
        return "factory"
    return {2: "wsgi", 3: "asgi"}.get(len(needed))


def broken_app(text: str, kind: str | None) -> Any:
    """An app that answers every request with ``text`` and status 500."""
    if kind != "asgi":
        return util.make_fail_app(text)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 500, "headers": headers})
            await send({"type": "http.response.body", "body": text.encode()})

    return app


#: Of its own: an app may seed the module's, in every worker alike. Costs a third of a system call.
_ids = random.Random()  # noqa: S311 - not a secret
os.register_at_fork(after_in_child=_ids.seed)


def request_id(given: str | None) -> str:
    """The client's own id if it is fit for a log line, else a new one of 16 hex digits."""
    if given and len(given) <= MOST_ID and given.isprintable() and '"' not in given:
        return given
    return f"{_ids.getrandbits(64):016x}"


class WSGIRequest:
    """Gives every request its id; around the app, inside the health paths."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # For whoever counts this request, see FarrierWorker.count_wsgi(). Not the response itself: it
        # holds the request and the client's socket, and only the collector would find such a circle.
        request = getattr(getattr(start_response, "__self__", None), "req", None)
        if request is not None:
            request.answer = None
        if isinstance(sys.stderr, JsonStream):
            # Gunicorn's writes to the log's handlers themselves, past every format.
            environ["wsgi.errors"] = sys.stderr
        chosen = environ["HTTP_X_REQUEST_ID"] = request_id(environ.get("HTTP_X_REQUEST_ID"))

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            for name, _ in headers:
                if len(name) == 12 and name.lower() == "x-request-id":
                    break
            else:
                headers = [*headers, ("X-Request-ID", chosen)]
            write = start_response(status, headers, *rest)
            if request is not None:
                request.answer = int(status[:3])
            return write

        return self.app(environ, start)
