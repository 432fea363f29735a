"""Farrier fits Gunicorn to the machine it runs on."""

__version__ = "0.3.0"
