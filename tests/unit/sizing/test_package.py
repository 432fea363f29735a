"""The package itself: it exists once, imports nothing it does not need, and starts fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SIZING = ROOT / "farrier" / "sizing"
LINKS = ROOT / "plugins" / "module_utils" / "sizing"


def test_the_collection_links_every_file_and_nothing_else() -> None:
    files = sorted(path.name for path in SIZING.glob("*.py"))
    assert sorted(path.name for path in LINKS.iterdir() if path.name != "__pycache__") == files
    for name in files:
        assert (LINKS / name).readlink() == Path("../../../farrier/sizing") / name


def test_only_the_standard_library_and_relative_imports() -> None:
    for path in SIZING.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            else:
                continue
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names, (path.name, name)


def test_nothing_reads_a_clock_a_file_or_the_environment_but_the_budget() -> None:
    for path in SIZING.glob("*.py"):
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert (
            not imported & {"os", "time", "datetime", "pathlib", "random", "subprocess"}
            or path.name == "budget.py"
        )


def test_it_runs_from_the_collections_links_alone(tmp_path: Path) -> None:
    code = "from sizing import *; print(plan(read_budget(), Workload.profile('io')).value('workers'))"
    # a copy of what the links point to, as the collection's artifact has it
    folder = tmp_path / "sizing"
    folder.mkdir()
    for link in LINKS.glob("*.py"):
        (folder / link.name).write_text(link.read_text())
    answer = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(answer.stdout) >= 1


def test_importing_and_planning_takes_less_than_a_fifth_of_a_second_of_cpu() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from farrier.sizing import read_budget, plan, render_plan, Workload\n"
        "render_plan(plan(read_budget(), Workload.profile('io')), 80)\n"
        "import resource; used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime)\n"
    )
    command = [sys.executable, "-I", "-c", code, str(ROOT)]
    runs = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)
    ]
    assert min(runs) < 0.2, runs
