"""Reads the certificate once before anything depends on it: a worker would find out at every connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farrier.errors import FarrierError


def check(cfg: Any) -> None:
    """Build the context that the workers will build. Raises FarrierError, one line that names the file."""
    import ssl

    from gunicorn import sock

    if cfg.keyfile and not cfg.certfile:
        raise FarrierError(f"keyfile {cfg.keyfile} is given without its certfile", 1)
    try:
        sock.ssl_context(cfg)
    except (ssl.SSLError, OSError, ValueError, TypeError) as error:
        raise FarrierError(_why(cfg, error), 1) from error


def _why(cfg: Any, error: Exception) -> str:
    key = cfg.keyfile or cfg.certfile
    for name, path, wanted in (
        ("certfile", cfg.certfile, "BEGIN CERTIFICATE"),
        ("keyfile", key, "PRIVATE KEY"),
        ("ca_certs", cfg.ca_certs, "BEGIN CERTIFICATE"),
    ):
        fault = _fault(path, wanted) if path else None
        if fault:
            return f"{name} {path}: {fault}"
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"keyfile {key} is not the key of certfile {cfg.certfile}"
    text = " ".join(str(error).split())
    return f"certfile {cfg.certfile} with keyfile {key} cannot be used: {text}"


def _fault(path: str, wanted: str) -> str | None:
    try:
        text = Path(path).read_text(encoding="latin-1")
    except OSError as error:
        return error.strerror or str(error)
    return None if wanted in text else f"it holds no PEM block {wanted.removeprefix('BEGIN ')}"
