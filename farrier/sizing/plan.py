"""plan(budget, workload, settings): every number, why it is that, and what bound it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import timing
from .advice import warnings_of
from .budget import Budget
from .fields import GUNICORN_FIELDS, Field, Verdict
from .limits import fill_memory
from .pools import fill_database
from .processes import fill_concurrency, fill_process
from .settings import Settings, Value
from .sheet import Sheet
from .stored import known
from .strategy import Problem, fit, strategy_reason
from .units import SizingError
from .verdict import verdict
from .workload import Workload

SCHEMA = 1
ORDER = (
    *GUNICORN_FIELDS,
    "low_memory_mode",
    "freeze_heap",
    "malloc_arena_max",
    "malloc_trim_threshold",
    "db_pool_size",
    "db_max_overflow",
    "db_conn_max_age",
    "db_conn_health_checks",
    "recycling",
    "strategy",
    "queue_seconds",
    "gate_beside",
    "stop_timeout",
    "cloud_run_concurrency",
    "memory_peak",
    "memory_deploy_peak",
    "memory_max",
    "memory_high",
    "candidate_memory_max",
)
"""All fields, in the order in which they are shown."""


@dataclass(frozen=True)
class Plan:
    """Every number of one app on one machine, with its reasons."""

    fields: dict[str, Field]
    verdict: Verdict
    warnings: tuple[str, ...]
    budget: Budget
    workload: Workload
    settings: Settings

    def __getitem__(self, name: str) -> Field:
        return self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def value(self, name: str) -> Value:
        """The value of a field. Raises KeyError for what is no field."""
        return self.fields[name].value

    def gunicorn_settings(self) -> dict[str, Value]:
        """Gunicorn's own settings only, and ``bind`` where a person set it."""
        values = {name: self.fields[name].value for name in GUNICORN_FIELDS}
        if "bind" in self.settings:
            values["bind"] = self.settings["bind"].value
        return values

    def to_dict(self) -> dict[str, object]:
        """JSON-ready: flat values, and the reasons, verdict, warnings and inputs beside them."""
        return {
            "schema": SCHEMA,
            **{name: field.value for name, field in self.fields.items()},
            "fields": {name: field.to_dict() for name, field in self.fields.items()},
            "verdict": self.verdict.to_dict(),
            "warnings": list(self.warnings),
            "inputs": {
                "budget": self.budget.to_dict(),
                "workload": self.workload.to_dict(),
                "settings": self.settings.to_dict(),
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Plan:
        """The inverse of to_dict(); keys of a newer version are passed over. Raises SizingError for what is
        no plan of this schema."""
        if data.get("schema") != SCHEMA:
            raise SizingError(f"not a plan: schema is {data.get('schema')!r}, this version reads {SCHEMA}")
        fields, inputs, judged, warned = (
            data.get(key) for key in ("fields", "inputs", "verdict", "warnings")
        )
        try:
            return cls(
                {
                    name: Field(**{**known(Field, field), "name": name})
                    for name, field in fields.items()  # type: ignore[attr-defined]
                },
                Verdict(**known(Verdict, judged)),  # type: ignore[arg-type]
                tuple(warned),  # type: ignore[arg-type]
                Budget.from_dict(inputs["budget"]),  # type: ignore[index]
                Workload.from_dict(inputs["workload"]),  # type: ignore[index]
                Settings.from_dict(inputs["settings"]),  # type: ignore[index]
            )
        except SizingError:
            raise
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise SizingError(f"not a plan: {error}") from None


def plan(budget: Budget, workload: Workload, settings: Settings | None = None) -> Plan:
    """The plan for an app on a machine, with what a person chose. Pure. Raises SizingError."""
    chosen = Settings() if settings is None else settings
    problem = Problem.of(budget, workload, chosen)
    one = fit(problem)
    sheet = Sheet(problem, one)
    fill_concurrency(sheet)
    _times(sheet)
    fill_process(sheet)
    fill_memory(sheet)
    fill_database(sheet)
    fields = {name: sheet.fields[name] for name in ORDER}
    return Plan(fields, verdict(problem, one), warnings_of(problem, one, fields), budget, workload, chosen)


def _times(sheet: Sheet) -> None:
    problem, one = sheet.problem, sheet.one
    sheet.add("timeout", *timing.timeout(problem, one))
    sheet.add("graceful_timeout", *timing.graceful_timeout(problem, sheet.whole("timeout")))
    sheet.add("stop_timeout", *timing.stop_timeout(problem, sheet.whole("graceful_timeout")))
    sheet.add("keepalive", *timing.keepalive(problem))
    sheet.add("max_requests", *timing.max_requests(problem, one))
    sheet.add("max_requests_jitter", *timing.max_requests_jitter(sheet.whole("max_requests"), one.workers))
    sheet.add("recycling", *timing.recycling(problem, one))
    sheet.add("strategy", *strategy_reason(*sheet.view("strategy")))
    sheet.add("gate_beside", *timing.gate_beside(problem, one))
    sheet.add("queue_seconds", *timing.queue_seconds(problem, one))
