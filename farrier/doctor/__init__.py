"""What looks wrong with an app on this host, and what to change.

``snapshot`` looks (files, /proc, cgroups, systemd), ``checks`` judges: a check is a pure function from
a snapshot to a finding, so each is tested without a host.
"""

from farrier.doctor.checks import CHECKS, Finding, examine
from farrier.doctor.snapshot import Snapshot

__all__ = ["CHECKS", "Finding", "Snapshot", "examine"]
