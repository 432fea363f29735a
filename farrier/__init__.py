"""Farrier fits Gunicorn to the machine it runs on."""

__version__ = "0.1.0"
