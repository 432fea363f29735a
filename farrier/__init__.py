"""Farrier fits Gunicorn to the machine it runs on."""

__version__ = "0.2.0"
