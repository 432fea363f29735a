"""``farrier serve``: Gunicorn's own application class with farrier's settings and arbiter."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from typing import Any, NoReturn

from gunicorn import util
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import get_default_config_file
from gunicorn.errors import AppImportError, ConfigError

from farrier.errors import FarrierError
from farrier.serve import config


class FarrierApplication(WSGIApplication):
    """Takes the arguments of ``gunicorn``; ``-c`` names the person's own config file."""

    cfg: Any

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.app_uri: str | None = None
        super().__init__("%(prog)s [OPTIONS] [APP_MODULE]", prog="farrier serve")

    def do_load_config(self) -> None:
        """The first start: a mistake is one line and ends the process."""
        try:
            self._load()
        except FarrierError as error:
            print(f"farrier serve: {error}", file=sys.stderr, flush=True)
            sys.exit(error.status)

    def reload(self) -> None:
        """A HUP: raises FarrierError and leaves everything as it was when the new config is no good."""
        before = self.cfg, self.app_uri
        try:
            self._load()
        except BaseException:
            self.cfg, self.app_uri = before
            raise

    def _load(self) -> None:
        try:
            self.load_default_config()
            self.load_config()
            self.cfg.validate()
        except FarrierError:
            raise
        except Exception as error:
            raise FarrierError(" ".join(str(error).split()) or type(error).__name__, status=1) from error

    def load_config(self) -> None:
        parser = self.cfg.parser()
        arguments = _parsed(parser, self.argv, "")
        from_environ = _parsed(parser, self.cfg.get_cmd_args_from_env(), "GUNICORN_CMD_ARGS: ")
        self.init(parser, arguments, arguments.args)
        self.chdir()
        given = _given(from_environ) | _given(arguments)
        person = given.pop("config", None) or os.environ.get("FARRIER_CONFIG") or get_default_config_file()
        for name, value in config.evaluate(os.environ, given, person).items():
            self._set(name, value)
        for name, value in given.items():
            self._set(name, value)
        self._settle()
        # The config may have moved the working folder.
        self.chdir()
        if self.app_uri is None:
            self.app_uri = self.cfg.wsgi_app
        if self.app_uri is None:
            raise ConfigError(
                "no app is named; allowed is MODULE:APP, such as app.main:app or app.main:create_app()"
            )

    def _set(self, name: str, value: Any) -> None:
        try:
            self.cfg.set(name, value)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ConfigError(f"{name}={value!r}: {error}") from error

    def _settle(self) -> None:
        """What only the whole configuration decides."""
        if self.cfg.settings["worker_class"].get() == "sync" and self.cfg.threads > 1:
            # As Gunicorn does, but with farrier's class.
            self.cfg.set("worker_class", "gthread")
        chosen = self.cfg.settings["worker_class"].get()
        if chosen in ("uvicorn", "gevent") and find_spec(chosen) is None:
            raise ConfigError(
                f"worker_class {chosen} needs the package {chosen}: add it to the app's requirements"
            )
        if self.cfg.statsd_host and self.cfg.settings["logger_class"].get() == config.LOGGER_CLASS:
            self.cfg.set("logger_class", config.STATSD_LOGGER_CLASS)

    def run(self) -> None:
        """As Gunicorn's, with farrier's arbiter."""
        if self.cfg.print_config or self.cfg.check_config:
            self._check()
        if self.cfg.daemon:
            util.daemonize(self.cfg.enable_stdio_inheritance)
        for path in (self.cfg.pythonpath or "").split(","):
            if path and os.path.abspath(path) not in sys.path:  # noqa: PTH100
                sys.path.insert(0, os.path.abspath(path))  # noqa: PTH100
        from farrier.serve.arbiter import FarrierArbiter

        try:
            FarrierArbiter(self).run()
        except (RuntimeError, ValueError, FarrierError) as error:
            print(f"farrier serve: {error}", file=sys.stderr, flush=True)
            sys.exit(getattr(error, "status", 1))

    def _check(self) -> None:
        from farrier.health.checks import checks_in_force
        from farrier.serve.apps import AppRefused, load
        from farrier.serve.endings import WORKER_BOOT_ERROR

        if self.cfg.print_config:
            print(self.cfg)
        try:
            load(self, self.cfg.worker_class)
            checks_in_force()
        except FarrierError as error:
            # As at a start, where it is the worker's status.
            print(f"farrier serve: {error}", file=sys.stderr, flush=True)
            sys.exit(WORKER_BOOT_ERROR)
        except AppRefused as error:
            print(f"farrier serve: {error}", file=sys.stderr, flush=True)
            sys.exit(error.status)
        sys.exit(0)

    def load(self) -> Any:
        if self.app_uri is None:
            raise AppImportError("no app is named")
        return super().load()


def _given(parsed: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(parsed).items() if value is not None and name != "args"}


def _parsed(parser: argparse.ArgumentParser, arguments: list[str], where: str) -> Any:
    """What Gunicorn's parser makes of them; its complaint as one line, without its page of usage."""

    def refuse(message: str) -> NoReturn:
        raise FarrierError(f"{where}{message} (see: farrier serve --help)")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(arguments)
