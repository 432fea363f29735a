"""What the app is: measured where it can be, assumed from a named profile where it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from . import constants
from .stored import known, without_defaults
from .units import SizingError, parse_bytes

KINDS = ("io", "cpu", "mixed", "async")
WORKER_CLASSES = ("sync", "gthread", "asgi", "uvicorn", "gevent")
ASGI_CLASSES = ("asgi", "uvicorn")
WSGI_CLASSES = tuple(one for one in WORKER_CLASSES if one not in ASGI_CLASSES)
"""What they serve."""
LOOP_CLASSES = (*ASGI_CLASSES, "gevent")
"""Those whose workers run an event loop: many requests at once in one thread."""
FRAMEWORKS = ("django", "flask", "fastapi")

SINCE_0_3 = (
    "growth_per_1000",
    "cpu_per_request",
    "wait_per_request",
    "private_memory_bytes",
    "shared_private_bytes",
    "shared_base_bytes",
    "any_class",
    "preload_finding",
)
"""Keys of a stored workload that a release built by Farrier 0.2 refuses: written where they say something."""

SECONDS_AT_MOST = 86_400
"""The longest boot or request that is believed: a longer one is a slip."""

_SECONDS = ("boot_seconds", "cpu_per_request", "wait_per_request")
_NUMBERS = (
    *_SECONDS,
    "app_memory_bytes",
    "shared_fraction",
    "request_memory_bytes",
    "connection_memory_bytes",
    "growth_per_1000",
    "private_memory_bytes",
    "shared_private_bytes",
    "shared_base_bytes",
)
_LARGEST = 2**63

_LONG_NAMES = {
    "sync": "sync",
    "gunicorn.workers.sync.SyncWorker": "sync",
    "gthread": "gthread",
    "gunicorn.workers.gthread.ThreadWorker": "gthread",
    "asgi": "asgi",
    "gunicorn.workers.gasgi.ASGIWorker": "asgi",
    "uvicorn": "uvicorn",
    "uvicorn.workers.UvicornWorker": "uvicorn",
    "uvicorn.workers.UvicornH11Worker": "uvicorn",
    "uvicorn_worker.UvicornWorker": "uvicorn",
    "uvicorn_worker.UvicornH11Worker": "uvicorn",
    "gevent": "gevent",
    "gunicorn.workers.ggevent.GeventWorker": "gevent",
}
_REFUSED = {
    "eventlet": "it left Gunicorn in version 26",
    "gevent_wsgi": "it brings a server of its own, which cannot drain; use gevent",
    "gevent_pywsgi": "it brings a server of its own, which cannot drain; use gevent",
    "geventpywsgi": "it brings a server of its own, which cannot drain; use gevent",
    "tornado": "it cannot drain without losing requests",
}


def normalise_worker_class(name: object) -> str:
    """The short name of a worker class given short, dotted or as ``egg:gunicorn#…``. Raises SizingError."""
    text = str(name).strip()
    short = _LONG_NAMES.get(text.removeprefix("egg:gunicorn#"))
    if short is None and text.startswith("farrier.serve.workers"):
        short = next(
            (one for one in WORKER_CLASSES if one in text.lower().removeprefix("farrier.serve")), None
        )
    if short is not None:
        return short
    allowed = f"allowed are {', '.join(WORKER_CLASSES)}"
    for refused, reason in _REFUSED.items():
        if refused in text.lower():
            raise SizingError(f"worker_class {text!r} is refused: {reason}; {allowed}")
    raise SizingError(f"worker_class {text!r} is not known: {allowed}")


@dataclass(frozen=True)
class Workload:
    """One app. Bytes and seconds; ``profile_name`` says where the numbers come from."""

    kind: str = "io"
    worker_class: str = "gthread"
    framework: str | None = None
    app_memory_bytes: int = constants.APP_MEMORY[None]
    """RSS of one process after import and warm-up."""
    shared_fraction: float = constants.SHARED_FRACTION
    """Part of it that a forked worker keeps sharing with a preloaded, frozen master."""
    request_memory_bytes: int = constants.REQUEST_MEMORY["io"]
    connection_memory_bytes: int = constants.CONNECTION_MEMORY
    boot_seconds: float = constants.BOOT_SECONDS[None]
    preload_safe: bool | None = None
    """None: nobody has tried."""
    measured: bool = False
    profile_name: str = "generic io"
    growth_per_1000: int | None = None
    """Bytes a worker grows in 1,000 requests after its warm-up; 0: none was seen. None, here and below:
    nobody has measured."""
    cpu_per_request: float | None = None
    """Seconds of CPU, the server's own included."""
    wait_per_request: float | None = None
    """Seconds in which a request waits for others: a database, a disk, another service."""
    private_memory_bytes: int | None = None
    """USS of a worker that loaded the app itself: what one more of them costs."""
    shared_private_bytes: int | None = None
    """USS of a worker forked from a preloaded master with a frozen heap."""
    shared_base_bytes: int | None = None
    """What such a master and its workers take together, less the USS of the workers."""
    any_class: bool = False
    """Nobody chose its worker class, so that the plan may take another one that serves the same interface."""
    preload_finding: str | None = None
    """What makes preloading unsafe, as ``farrier measure`` has it; the first of several."""

    def __post_init__(self) -> None:
        _one_of("workload", self.kind, KINDS)
        if self.framework is not None:
            _one_of("framework", self.framework, FRAMEWORKS)
        _one_of("worker_class", self.worker_class, WORKER_CLASSES)
        for name in _NUMBERS:
            if (number := getattr(self, name)) is not None or name not in SINCE_0_3:
                _finite(name, number)
        for name in ("preload_safe", "measured", "any_class"):
            flag = getattr(self, name)
            if not isinstance(flag, bool) and (flag is not None or name != "preload_safe"):
                raise SizingError(f"{name} {flag!r} must be true or false")
        if self.app_memory_bytes <= 0:
            raise SizingError(f"app_memory {self.app_memory_bytes} must be above 0")
        if min(self.request_memory_bytes, self.connection_memory_bytes) < 0:
            raise SizingError("request_memory and connection_memory must be 0 or more")
        if not 0 <= self.shared_fraction < 1:
            raise SizingError(f"shared_fraction {self.shared_fraction} must be from 0 to below 1")
        for name in ("boot_seconds", *SINCE_0_3):
            value = getattr(self, name)
            if name in _NUMBERS and value is not None and value < 0:
                raise SizingError(f"{name.removesuffix('_bytes')} {value} must be 0 or more")
        for name in _SECONDS:
            value = getattr(self, name)
            if value is not None and value > SECONDS_AT_MOST:
                raise SizingError(f"{name} {value:g} must be at most {SECONDS_AT_MOST} (a day)")

    @property
    def is_async(self) -> bool:
        """Whether its workers are event loops: asgi, uvicorn, gevent."""
        return self.worker_class in LOOP_CLASSES

    @property
    def interface(self) -> str:
        """What its worker class serves: ``asgi`` or ``wsgi``."""
        return "asgi" if self.worker_class in ASGI_CLASSES else "wsgi"

    @property
    def waits_a_cpu_second(self) -> float | None:
        """Seconds of waiting for each second of CPU; None where nobody measured both."""
        if not self.cpu_per_request or self.wait_per_request is None:
            return None
        return self.wait_per_request / self.cpu_per_request

    @property
    def only_computes(self) -> bool:
        """Measured to compute and not to wait, by requests that compute enough to tell."""
        waits = self.waits_a_cpu_second
        return (
            waits is not None
            and waits < constants.COMPUTES_ONLY_BELOW
            and (self.cpu_per_request or 0.0) >= constants.COMPUTES_FROM
        )

    @classmethod
    def profile(
        cls,
        kind: str | None = None,
        worker_class: str | None = None,
        framework: str | None = None,
        app_memory: str | int | None = None,
        shared_fraction: float | None = None,
        request_memory: str | int | None = None,
        connection_memory: str | int | None = None,
        boot_seconds: float | None = None,
        preload_safe: bool | None = None,
        measured: bool = False,
        growth_per_1000: str | int | None = None,
        cpu_per_request: float | None = None,
        wait_per_request: float | None = None,
        private_memory: str | int | None = None,
        shared_private: str | int | None = None,
        shared_base: str | int | None = None,
        any_class: bool = False,
    ) -> Workload:
        """A workload from what is known; the rest is assumed from the profile. Raises SizingError."""
        short = None if worker_class is None else normalise_worker_class(worker_class)
        if kind is None:
            kind = "async" if framework == "fastapi" or short in ASGI_CLASSES else "io"
        _one_of("workload", kind, KINDS)
        if framework is not None:
            _one_of("framework", framework, FRAMEWORKS)
        default_connection = (
            constants.CONNECTION_MEMORY_DJANGO if framework == "django" else constants.CONNECTION_MEMORY
        )
        return cls(
            kind=kind,
            worker_class=short or default_worker_class(kind, framework),
            framework=framework,
            app_memory_bytes=constants.APP_MEMORY[framework]
            if app_memory is None
            else parse_bytes(app_memory),
            shared_fraction=(
                constants.SHARED_FRACTION
                if shared_fraction is None
                else _number("shared_fraction", shared_fraction)
            ),
            request_memory_bytes=(
                constants.REQUEST_MEMORY[kind] if request_memory is None else parse_bytes(request_memory)
            ),
            connection_memory_bytes=(
                default_connection if connection_memory is None else parse_bytes(connection_memory)
            ),
            boot_seconds=(
                constants.BOOT_SECONDS[framework]
                if boot_seconds is None
                else _number("boot_seconds", boot_seconds)
            ),
            preload_safe=preload_safe,
            measured=measured,
            profile_name="measured" if measured else f"{framework or 'generic'} {kind}",
            growth_per_1000=_bytes_or_none(growth_per_1000),
            cpu_per_request=None if cpu_per_request is None else _number("cpu_per_request", cpu_per_request),
            wait_per_request=(
                None if wait_per_request is None else _number("wait_per_request", wait_per_request)
            ),
            private_memory_bytes=_bytes_or_none(private_memory),
            shared_private_bytes=_bytes_or_none(shared_private),
            shared_base_bytes=_bytes_or_none(shared_base),
            any_class=any_class,
        )

    @classmethod
    def from_mapping(cls, given: Mapping[str, object], source: str = "workload") -> Workload:
        """A profile() from the keys of a file or a role variable. Raises SizingError for unknown keys."""
        allowed = (
            "kind",
            "worker_class",
            "framework",
            "app_memory",
            "shared_fraction",
            "request_memory",
            "connection_memory",
            "boot_seconds",
            "preload_safe",
            "measured",
            "growth_per_1000",
            "cpu_per_request",
            "wait_per_request",
            "private_memory",
            "shared_private",
            "shared_base",
        )
        for key in given:
            if key not in allowed:
                raise SizingError(f"{source}: {key!r} is not known: allowed are {', '.join(allowed)}")
        try:
            return cls.profile(**given)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise SizingError(f"{source}: {error}") from None

    def to_dict(self) -> dict[str, object]:
        """JSON-ready; the profile's name has the key ``profile``. See SINCE_0_3 for what is left out."""
        data = without_defaults(type(self), asdict(self), SINCE_0_3)
        data["profile"] = data.pop("profile_name")
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Workload:
        """The inverse of to_dict(); keys of a newer version are passed over. Raises SizingError."""
        try:
            found = known(cls, data)
            if "profile" in data:
                found["profile_name"] = data["profile"]
            return cls(**found)
        except (TypeError, ValueError) as error:
            raise SizingError(f"not a workload: {error}") from None


def default_worker_class(kind: str, framework: str | None) -> str:
    """FastAPI speaks ASGI and brings uvicorn; other loops run in Gunicorn's own; the rest in threads."""
    if framework == "fastapi":
        return "uvicorn"
    return "asgi" if kind == "async" else "gthread"


def _bytes_or_none(given: str | int | None) -> int | None:
    return None if given is None else parse_bytes(given)


def _number(name: str, given: object) -> float:
    """A number, or a text that is one, as an option of a role may be. Raises SizingError."""
    bad = SizingError(f"{name} {given!r} must be a number")
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise bad
    try:
        return float(given)
    except (ValueError, OverflowError):
        raise bad from None


def _finite(name: str, given: object) -> None:
    number = not isinstance(given, bool) and isinstance(given, (int, float))
    if not number or not -_LARGEST < given < _LARGEST:  # type: ignore[operator]  # NaN fails this as well
        raise SizingError(f"{name.removesuffix('_bytes')} {given!r} must be a number below 2**63")


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SizingError(f"{name} {value!r} is not known: allowed are {', '.join(allowed)}")
