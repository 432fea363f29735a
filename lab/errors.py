"""The one error of the lab: a line for a person."""

from __future__ import annotations


class LabError(Exception):
    """Something that this machine lacks or refused, in one line that says what to do."""
