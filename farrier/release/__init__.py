"""The host's state machine: build beside, check, start, gate, switch, prune, roll back.

Standard library only: it runs from an unpacked wheel (or straight from the wheel) under the
host's own ``python3``, before any app has an environment. See ``docs/releases.md``.
"""
