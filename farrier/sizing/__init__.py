"""From a machine, an app and a person's choices to every number, each with its reason.

Standard library and relative imports only: the same files are linked into the Ansible collection.
"""

from .apportion import App, apportion, needs, part_of
from .budget import Budget, Limit, read_budget
from .explain import explain, render_plan
from .fields import GUNICORN_FIELDS, Field, Verdict
from .measurement import kind_of, workload_of
from .plan import Plan, plan
from .settings import Setting, Settings
from .units import SizingError, format_bytes, format_cpus, parse_bytes, parse_cpus
from .workload import WORKER_CLASSES, Workload, normalise_worker_class

__all__ = [
    "GUNICORN_FIELDS",
    "WORKER_CLASSES",
    "App",
    "Budget",
    "Field",
    "Limit",
    "Plan",
    "Setting",
    "Settings",
    "SizingError",
    "Verdict",
    "Workload",
    "apportion",
    "explain",
    "format_bytes",
    "format_cpus",
    "kind_of",
    "needs",
    "normalise_worker_class",
    "parse_bytes",
    "parse_cpus",
    "part_of",
    "plan",
    "read_budget",
    "render_plan",
    "workload_of",
]
