"""Every constant of the sizing, in one place, with where it comes from.

All are first estimates unless a measurement is named; ``benchmarks/`` calibrates them.
"Measured" without more: in November 2026, with gunicorn 27.0.1 and Python 3.11 on Debian 12 with two cores.
"""

from __future__ import annotations

from .units import GIB, MIB

# --- reading limits ---------------------------------------------------------------------------------

CGROUP_UNLIMITED = 2**60
"""Bytes. cgroup v1 writes "no limit" as LONG_MAX rounded to a page (9223372036854771712)."""

# --- what others on a host need ---------------------------------------------------------------------

SYSTEM_BASE = 80 * MIB
SYSTEM_SHARE = 0.025
SYSTEM_MAXIMUM = GIB
"""Kernel, systemd, sshd, journald, of a machine's nominal memory: 80 MiB + 2.5 %. Measured on true Debian 12
VMs: 512 MB leaves 418 free after boot (94 gone; the formula: 93), 256 MB leaves 173 (83; the formula: 86)."""

SYSTEM_BASE_READ = 46 * MIB
SYSTEM_SHARE_READ = 0.015
"""The same where MemTotal was read: the kernel has already taken its own part (30-45 MiB on those VMs)."""

PROXY_MEMORY = 16 * MIB
"""nginx with one or two workers and TLS: first estimate, from its RSS on Debian 12 (10-14 MB)."""

LOG_SHIPPER_MEMORY = 8 * MIB
"""rsyslog with RELP: first estimate from its RSS on Debian 12."""

CONTAINER_RESERVE = 12 * MIB
"""In a container nothing else runs but an entry point and, now and then, a shell or a probe:
first estimate."""

HEADROOM_SHARE = 0.08
"""Left free within the app's own share: page cache, growth between two recycles, allocator fragments."""

# --- what an app needs ------------------------------------------------------------------------------

ARBITER_MEMORY = 22 * MIB
"""Gunicorn's master without the app: PSS of gunicorn 27 on Python 3.11 (20-22 MB)."""

UNSHARED_SHARE = 0.82
"""Part of an app's RSS that a second process has to pay for again without preload (the rest is mapped files).
Measured: 4 workers of a 148 MB app take 481 MiB, 120 MiB (0.81) each."""

RECLAIMABLE_SHARE = 0.5
"""Part of the mapped files that need not stay in memory: code that only the import ran, parts of libraries
that the app never calls. Counted only for whether an app runs at all. Two workers of a 148 MB app,
preloaded and frozen, used 136 MB in a limit of 256 MB, less than one process has mapped. First estimate."""

SHARED_FRACTION = 0.85
"""Part of a preloaded, frozen heap that stays shared with the master. Measured at rest 0.93 (4 workers of a
148 MB app: 155 MiB); real requests touch more pages, so 0.85 until an app is measured."""

SHARED_FRACTION_UNFROZEN = 0.45
"""The same without gc.freeze(): each full collection writes to every object's header. First estimate."""

THREAD_MEMORY = 256 * 1024
"""Bytes a pool thread keeps when idle (stack pages touched, thread locals, its malloc share).
First estimate."""

REQUEST_MEMORY = {"io": MIB // 2, "cpu": 4 * MIB, "mixed": 2 * MIB, "async": MIB // 2}
"""Bytes one request in flight takes, by kind. First estimates from JSON APIs (io) and rendering (cpu)."""

CONNECTION_MEMORY = MIB
CONNECTION_MEMORY_DJANGO = 2 * MIB
"""Bytes a connection takes in an async worker: 1-2 MB by experience, until measured. A greenlet's own stack
(gevent) is a few KiB of it."""

APP_MEMORY = {"django": 110 * MIB, "fastapi": 90 * MIB, "flask": 60 * MIB, None: 90 * MIB}
"""RSS of one process after import and warm-up, with an ORM and a driver: first estimates."""

BOOT_SECONDS = {"django": 2.5, "fastapi": 2.0, "flask": 1.0, None: 2.0}
"""Seconds of one CPU from fork to the first request: first estimates."""

COMPUTES_FROM = 0.003
COMPUTES_ONLY_BELOW = 0.1
WAITS_FROM = 4.0
"""What measured requests say of an app whose kind nobody stated. It computes only: 3 ms of CPU or more a
request (a front page that takes less says nothing of the rest) and below a tenth of that spent waiting; it is
I/O-bound: four times as much waiting as CPU, or more; else mixed. First estimates."""

MEASURED_REQUEST_AT_LEAST = 128 * 1024
MEASURED_CONNECTION_AT_LEAST = 64 * 1024
"""Bytes. The requests that were measured may be smaller than others of the same app: first estimates."""

MEASURED_SHARED_FACTOR = 1.25
"""Other requests than those that were measured write to other shared pages: a preloaded worker is taken to
cost a quarter more than its USS after the warm-up. First estimate."""

# --- workers and threads ----------------------------------------------------------------------------

LOW_MEMORY_BELOW = 512 * MIB
LOW_MEMORY_HOST_SHARE = 0.86
"""Below 512 MB low memory mode is chosen. A kernel keeps 30-60 MB of a nominal 512 MB host out of MemTotal,
so on a host the line is at 86 % of it (440 MiB)."""

CALIBRATION = "benchmarks/results/sizing"
"""Where `make bench-sizing` puts its runs (two cores, 2026-11-30), by which the constants marked "calibrated"
are judged. "io-512m-1cpu" is a cell of its cells.csv; samples.csv.gz has all points of the search. Figures
without a cell were taken before, in November 2026, on the same kind of machine."""

BUSY_MARGIN = 1.6
"""Calibrated. Requests in hand that keep the CPUs busy are cpus x (1 + wait / CPU), times this: a request
that is measured alone takes more CPU than one of many (2.3 ms where 640 a second leave it 1.6, with 1 ms of
work), and too few threads cost throughput where too many only wait. io-256m-1cpu: 35 threads by this margin
answer 614 req/s (p99 0.191 s), 32 answer 604 (0.181), 100 answer 577 (0.270); by 1.5 there were 30, with 0.95
of the best, and mixed-256m-1cpu had 6 threads as its best point (208 and 0.489 s; 8: 211 and 0.525), both in
an earlier run.

Several workers need more in all, for a thread that is free in one does nothing for another: what is above
the mean grows with the root of the mean (square-root staffing: Halfin and Whitt, Operations Research 29,
1981), so of k workers with a k-th each the margin is 1 + 0.6 x sqrt(k). io-512m-2cpu: 4 x 17 threads by 1.6
had 0.93 of the throughput of 4 x 32, and 4 x 24 were best in November 2026."""

SHARED_BY_MOST = 4
"""Workers up to which the margin grows: more were not measured."""

AT_ONCE_A_CPU_MOST = 256
"""Threads for each CPU, however long the waits are: first estimate."""

THREADS_A_CPU = {"io": 48, "mixed": 8}
"""Calibrated. Threads of all gthread workers together, a CPU, where nobody measured the app: 42 and 48 a
CPU were best for 1 ms + 50 ms on one and two CPUs, 6 a CPU for mixed; a few more, because a longer wait
wants more."""

THREADS_AT_MOST = 64
THREADS_AT_MOST_ON_MORE_CPUS = 32
"""Calibrated. Threads of one worker. On one CPU one worker with all threads is ahead of two (1 x 40: 740
req/s, p99 0.144 s; 2 x 20: 676 and 0.212; mixed 1 x 6: 174 and 0.243; 2 x 3: 163 and 0.340). On two CPUs
more than 32 threads wait for the interpreter's lock: 4 x 24 were best (1,268 req/s), mixed 2 x 6. 64 is a
first estimate."""

THREADS_COMPUTING = 2
"""Calibrated. Threads of a gthread worker of a CPU-bound app, one worker a CPU: 10 ms of CPU and no wait,
one CPU, 1 x 2 has 0.973 of the best throughput at 1.07 times its p99. More only lengthen the tail (6.3 s at
32)."""

WORKERS_PER_CPU = {("io", "sync"): 4.0, ("mixed", "sync"): 3.0, ("cpu", "sync"): 2.0}
SYNC_A_CPU_MOST = 12
"""Sync workers a CPU, from practice; where waits were measured as many as they ask for, up to 12. First
estimates. All other CPU-bound workers: one a CPU (more only queue: 88-96 req/s in every measured
configuration)."""

WORKERS_AT_LEAST = {"io": 2, "mixed": 2, "async": 2, "cpu": 2}
"""Sync workers: two, so that one answers while the other is busy; an app that was measured to compute only
may have one where more do not fit (1, 2 and 4 answered the same 88 to 90 req/s on one CPU, see
benchmarks/results/sizing, cpu-256m-1cpu). A worker with threads may be alone: threads that hang stop no
other, and a replacement serves before it ends (docs/decisions/0009)."""

WORKERS_WITH_FEW_THREADS = 2
"""Workers to which a plan goes at least, where a person set fewer threads than one worker would have."""

WORKERS_PER_CPU_AT_LEAST = 2.0
"""Where threads share too few database connections, workers give way down to this (the least that practice
advises for I/O-bound work), then threads do: the same connections serve as many threads either way, and fewer
workers take less memory. First estimate."""

LOOPS_PER_CPU = 1.5
LOOPS_AT_LEAST = 2
LOOPS_MANY = 12
"""Workers with an event loop. Calibrated up to two CPUs: 2, a third costs p99. Above that from practice
with async Django: 6 on 4 CPUs, 12 on 8 and more, which is 1.5 a CPU; beyond 12 CPUs one a CPU (ours)."""

INFO_ABOVE_CPUS = 2
INFO_BELOW_CPUS = 8
"""CPUs. Log level of kind async, from the same practice: warning on 1-2, info on 4, warning on 8 and more."""

THREADS_AT_LEAST = {"io": 4, "mixed": 2}
"""Threads below which a worker is not worth its memory or its connections. First estimate."""

SQUEEZED_THREADS = 4
"""Threads that an app may have where it fits only without headroom: first estimate."""

LOW_MEMORY_THREADS = {"io": 8, "mixed": 4, "cpu": 2, "async": 4}
"""Threads in low memory mode, only where they fit and where nobody measured the app: first estimate (1 x 8
threads did 153 req/s)."""

CONNECTIONS_AT_LEAST = 16
CONNECTIONS_AT_MOST = 1000
CONNECTIONS_FLOOR = 8
"""worker_connections of an async worker; 1000 is Gunicorn's own default. A browser opens up to six, and
a proxy keeps idle ones, which count as well: below 8 a worker would answer nobody else. First estimates."""

BACKLOG = 2048
"""Gunicorn's own default; the kernel cuts it to net.core.somaxconn (4096 since Linux 5.4)."""

# --- deploys ----------------------------------------------------------------------------------------

STRATEGIES = ("overlap", "rolling", "queue")
"""Deploy strategies among which the plan chooses, best first. Overlap and rolling hold no request back."""

RELOAD = "reload"
"""What only a person chooses: settings by HUP, and no new release."""

WORKERS_SHARE_WITHOUT_QUEUE = 0.5
"""Room for a deploy that holds nothing back may cost up to half of the workers; where it would cost more,
deploys queue, with at most that half. With rolling it costs one worker at most where nothing is preloaded
(the second arbiter is smaller than the replacement that the plan keeps room for), and more only where the
second base of a preloaded app comes on top. First estimate: a queue is felt at each deploy, a missing worker
only when all others are busy."""

SLOTS_SHARE = 0.5
SLOTS_ENOUGH = 64
"""What is better for a deploy (overlap instead of rolling, a gate before a queue) may cost up to half of the
threads or connections of a worker, and more where 64 are left. First estimates, by the same thought."""

# --- times ------------------------------------------------------------------------------------------

TIMEOUT_AT_EASE = 30
TIMEOUT_TIGHT = 60
TIMEOUT_LOW_MEMORY = 120
"""Seconds a worker may stay silent. 30 is Gunicorn's default; swapping and reclaim stretch requests, so more
where memory is short: from practice on 256 MB hosts."""

TIMEOUT_BOOTS = 3
"""A worker is silent while it imports, and boots vary: the timeout is at least three of
them. First estimate."""

GRACEFUL_AT_MOST = 30
"""Seconds. A request without an answer after 30 s counts as failed, so waiting longer saves none."""


STOP_TIMEOUTS = {"docker": 10, "cloudrun": 10, "kubernetes": 30}
"""Seconds between SIGTERM and SIGKILL: Docker's and Cloud Run's are 10, Kubernetes' grace period is 30."""
STOP_MARGIN = 2
SYSTEMD_STOP_MARGIN = 10
"""Seconds between the end of the graceful stop and the kill; in a unit of our own we can afford 10."""

PROXY_KEEPALIVE = 60
PROXY_KEEPALIVE_CLOUD_RUN = 600
KEEPALIVE_MARGIN = 5
"""Seconds. nginx closes idle upstream connections after 60 (keepalive_timeout of upstream), Google's front
ends after 600; the server must close later, or a request meets a closing connection."""

MAX_REQUESTS_AT_EASE = 1000
MAX_REQUESTS_TIGHT = 500
MAX_REQUESTS_LOW_MEMORY = 250
"""Requests after which a worker is replaced: 1000 from practice, sooner where a leak hurts sooner. So where
nobody measured how a worker grows."""
NO_GROWTH_FACTOR = 10
"""Calibrated. An app that was measured not to grow is recycled ten times less often: recycling at every 1,000
requests cost a CPU-bound app its p99 (0.31 s instead of 0.235 s)."""
GROWTH_ERRORS = 2.45
"""Standard errors that growth must pass to be seen, as ``farrier measure`` has it (Student's t)."""
GROWTH_MATTERS = MIB * 3 // 2
"""Bytes in 1,000 requests. Where more may hide in the error, none that was seen counts as not measured. More
than 1 MiB, because one arena of 256 KiB among 1,000 requests makes it 1.3 MiB."""
GROWTH_SHARE = 0.5
"""Part of the free memory that workers may fill before they are replaced: other requests may leak more than
those that were measured. First estimate."""
MAX_REQUESTS_LEAST = 100
MAX_REQUESTS_MOST = 100_000
"""Bounds of what growth asks for: a worker that lives shorter costs more than it saves. First estimates."""
JITTER_PER_WORKER = 0.05
JITTER_AT_LEAST = 0.10
JITTER_AT_MOST = 0.50
"""Share of max_requests. Gunicorn only adds jitter up to the number, so a worker lives between max_requests
and the sum; more workers need a wider spread not to be replaced together."""

QUEUE_DRAIN = 0.5
QUEUE_START = 0.5
"""Seconds of a deploy by queue that are not boot. The old workers accept while kept-alive connections are
idle, then answer what they have in hand (0.5 s is a first estimate); the new arbiter takes 0.2 to 0.5 s until
the app boots (measured on two busy cores with an app that imports nothing, from exec to the first answer)."""

# --- database ---------------------------------------------------------------------------------------

DATABASE_MAX_CONNECTIONS = 100
DATABASE_RESERVED_CONNECTIONS = 3
"""PostgreSQL's defaults: max_connections and superuser_reserved_connections."""
DATABASE_SPARE_CONNECTIONS = 2
"""For migrations, a console, a backup."""
THREADS_A_CONNECTION = 4
CONNECTIONS_WITH_THREADS = 2
"""Threads of a worker that may share one of its database connections, and the least connections of a worker
with threads: beyond that requests wait for a connection (SQLAlchemy's pool gives up after 30 s). First
estimate: a request holds its connection for a quarter of its time."""
POOL_AT_MOST = 20
"""Connections a worker: beyond that they wait for each other in the database (PostgreSQL's own advice is a
small multiple of its cores)."""
POOL_ASYNC = 10
"""The same where one event loop takes all requests (asgi, uvicorn, gevent): it has one CPU to put between
two queries, so more connections would only stand open. First estimate."""
POOL_LOW_MEMORY = 3
"""In low memory mode: the database is often on the same host, where each connection is a process."""
POOL_SHARE = 2 / 3
"""Part of a worker's connections that stays open (pool); the rest is overflow."""
CONN_MAX_AGE_WSGI = 600
"""Seconds a Django connection is kept under WSGI. Under ASGI persistent connections do harm: every thread of
the executor keeps its own (Django's database documentation, "Caveats"); under gevent every client would."""

# --- limits and Cloud Run ---------------------------------------------------------------------------

MEMORY_MAX_FACTOR = 2.0
"""Both releases together may take twice what the plan expects of them, never more than the app's share: an
estimate may be wrong, a leak must not take the host. First estimate."""
MEMORY_HIGH_SHARE = 0.95
"""Of memory_max: from here the kernel reclaims and throttles instead of killing. First estimate."""
CANDIDATE_FACTOR = 1.25
CANDIDATE_SLOTS = 2
"""A release that was not promoted yet gets a quarter more than the plan expects of it, and where that does
not fit at least its workers with two requests each, for the gate. First estimate."""
CLOUD_RUN_CONCURRENCY_MAXIMUM = 1000
CLOUD_RUN_MEMORY_FOR_CPUS = ((6.0, 4 * GIB), (4.0, 2 * GIB))
"""Cloud Run: 4 CPUs need 2 GiB, 6 and 8 need 4 GiB; below one CPU concurrency must be 1; at most 1000."""

# --- the verdict ------------------------------------------------------------------------------------

SERVES = (
    (0, "personal", "1-3"),
    (512 * MIB, "small team", "5-10"),
    (GIB, "medium", "10-50"),
    (4 * GIB, "large", "50+"),
)
"""From this much memory, for whom: from practice with small Django and FastAPI apps; first estimate."""
SERVES_HOST_SHARE = 0.86
SERVES_BY_CPUS = ((1.0, 1), (2.0, 2))
"""Below one CPU at most a small team, below two at most medium (index into SERVES): first estimate."""
SIZES_MIB = (
    64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048, 3072, 4096,
    6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 131072, 262144, 524288, 1048576,
)  # fmt: skip
"""Sizes tried for the smallest and the recommended memory."""

# --- processes --------------------------------------------------------------------------------------

MALLOC_ARENAS = 2
MALLOC_ARENAS_LOW_MEMORY = 1
"""MALLOC_ARENA_MAX, from practice with threaded Python on small hosts (glibc's default is 8 a CPU)."""
MALLOC_TRIM_THRESHOLD = 128 * 1024
"""Bytes. MALLOC_TRIM_THRESHOLD_ where memory is short. It is glibc's own start value, but setting it keeps
it there (mallopt(3)): else each large block that is freed raises it, up to 64 MiB. Measured with Python
3.11 and glibc 2.36, bursts of JSON in 4 and 8 threads: bodies of 8 MB left 94-116 MiB instead of 164-193,
of 1 MB 15 instead of 17-21, of 0.3 MB the same; it costs up to 40 % more CPU in such a burst and nothing
measurable below 1 MB."""
SHM = "/dev/shm"  # noqa: S108  # a tmpfs on every Linux; Gunicorn makes its file there with mkstemp
SHM_LEAST = MIB
"""Bytes. Gunicorn's heartbeat files are empty; what counts is that /dev/shm exists and is not full."""
