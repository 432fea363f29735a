"""The command line: one file per command, each imported only when it runs."""

from farrier.cli.main import main

__all__ = ["main"]
