"""Farrier's worker classes: Gunicorn's, with readiness, diagnosis, health and a stop that loses nothing."""
