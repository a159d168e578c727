"""The house as it is meant: who may know whom, and how much a person has to read."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

SRC = ROOT / "src"
FILES = sorted((SRC / "descent").rglob("*.py"))
ROOMS = ("table", "images", "inference", "sweep", "fast")
EVENING = ("module", "task", "losses", "models", "optimizers", "schedulers", "metrics")
LINES = {"evening": 850, "all of src": 8_600}  # at most
LOOK = """
import atexit, runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
def look():
    files = {m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "descent" and m.__file__}
    print("LOADED", len(files), sum(len(Path(f).read_text("utf-8").splitlines()) for f in files))
atexit.register(look)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(node: ast.AST, inner: bool = True) -> Iterator[str]:
    """Every module that a file imports, at its top or, if `inner`, in a function; not for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif inner or not isinstance(child, ast.FunctionDef):
            yield from imports(child, inner)


def count(files: list[Path]) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def test_only_the_command_line_knows_hydra_and_omegaconf() -> None:
    for path in FILES:
        known = {name.split(".")[0] for name in imports(tree(path))}
        assert path.parent.name == "cli" or not known & {"hydra", "omegaconf"}, path


def test_a_room_is_known_to_nobody_but_itself_unless_an_override_asks_for_it() -> None:
    for path in FILES:
        here = dotted(path).split(".")[1] if "." in dotted(path) else ""
        for name in imports(tree(path), inner=path.name != "main.py"):  # `main` sweeps only when asked
            room = name.split(".")[1] if name.startswith("descent.") else ""
            assert room not in ROOMS or room == here or path.name == "sweeping.py", f"{path} imports {name}"


def test_there_is_no_circle_of_imports() -> None:
    names = {dotted(path): path for path in FILES}
    graph = {
        name: {other for other in imports(tree(path), inner=False) if other in names and other != name}
        for name, path in names.items()
    }
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_private_names_of_libraries_are_in_the_room_fast_alone() -> None:
    for path in FILES:
        if path.parent.name != "fast":
            private = [
                name for name in imports(tree(path))
                if re.match(r"(lightning|torch|torchmetrics|hydra|optuna)\b.*\._[a-z]", name)
            ]  # fmt: skip
            assert private == [], path


def test_a_function_fits_on_a_screen_and_every_file_and_public_class_has_a_docstring() -> None:
    for path in [*FILES, *(f for f in SRC.glob("*.py") if f.name != "tutorial.py")]:
        assert ast.get_docstring(tree(path)), path
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"


def test_it_stays_as_small_as_it_is() -> None:
    assert count([SRC / f"descent/{name}.py" for name in EVENING]) <= LINES["evening"]
    own = [p for p in SRC.rglob("*.py") if "examples" not in p.parts and p.name != "tutorial.py"]
    assert count(own) <= LINES["all of src"]
    assert count([SRC / "train.py"]) <= 75


@pytest.mark.parametrize(
    ("words", "most"),
    [(["--cfg", "job"], 600), (["loss=mae", "optimizer=sgd", "trainer.max_epochs=1"], 3_650)],
    ids=["--cfg job", "a run"],
)
def test_a_command_loads_few_lines(tmp_path: Path, words: list[str], most: int) -> None:
    folder = [f"folder={tmp_path}/run"] if "--cfg" not in words else []
    command = [sys.executable, "-c", LOOK, str(SRC / "train.py"), *words, *folder]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    files, lines = map(int, out.split("LOADED")[1].split())
    assert files > 5
    assert lines <= most
