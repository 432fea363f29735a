"""``farrier measure``: what an app takes, found by running it. Standard library and Gunicorn only.

``session`` goes through the stages; ``importing`` is a process that imports the app and looks what is
``alive`` then; ``server`` boots it as it will serve; ``asking`` sends requests; ``processes`` reads /proc;
``figures`` computes; ``table`` prints.
"""
