"""What `make up` and the tests stand on: an engine, a base image, a host as real as a container can be.

Standard library only: this package runs with the machine's own Python before anything is installed.

    from lab.image import ensure_base
    from lab.host import Host

    with Host("web", memory="512m", cpus=1.0) as host:
        host.run(["systemctl", "is-system-running"])

Each module does one thing: `engine` finds or starts Docker, `machine` reads what this machine was told about
mirrors, proxies and certificates, `image` makes the base image, `host` runs it, `tools` makes `.venv`, `up`
is the story that `make up` tells, `hygiene` is the check of the tree that no linter has.
"""
