"""The house as it is meant: who may know whom, how long things are, and what is said in one place alone."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

SRC = ROOT / "src"
FILES = sorted((SRC / "descent").rglob("*.py"))
COMMANDS = sorted(SRC.glob("*.py"))
CORE = ("module", "losses", "models", "optimizers", "schedulers", "metrics", "scaling")
LINES = 1_200  # of the core, what can be read in an evening

# the rooms, and the rooms that each of them may know; a room may know itself
ROOMS = {
    "errors": (),
    "core": ("errors",),
    "data": ("errors", "core"),
    "run": ("errors",),
    "drive": ("errors", "core", "run"),  # trainer, loop, step_graph, kernels, machine
    "callbacks": ("errors", "core", "run", "drive"),
    "inference": ("errors", "core", "data", "run"),
    "sweep": ("errors", "run"),
    "cli": ("errors", "run", "sweep"),
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room(name: str) -> str:
    first = name.split(".")[1] if "." in name else "errors"
    if first in CORE:
        return "core"
    return "drive" if first in ("trainer", "loop", "step_graph", "kernels", "machine") else first


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or in a function; not those of type checkers alone."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in node.body:
                inner.names = []  # type: ignore[attr-defined]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.names:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_only_the_command_line_knows_hydra_and_omegaconf(path: Path) -> None:
    known = {name.split(".")[0] for name in imports(path)}
    assert room(dotted(path)) == "cli" or not known & {"hydra", "omegaconf"}


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_a_room_knows_those_below_it_alone_and_none_knows_a_command(path: Path) -> None:
    here = room(dotted(path))
    commands = {command.stem for command in COMMANDS}
    for name in imports(path):
        assert name.split(".")[0] not in commands
        if name.startswith("descent."):
            assert room(name) in (here, *ROOMS[here]), f"{dotted(path)} imports {name}"


def test_there_is_no_circle_of_imports() -> None:
    names = {dotted(path): path for path in FILES}
    graph = {name: {other for other in imports(path) if other in names} for name, path in names.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("path", [*FILES, *COMMANDS], ids=dotted)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    for function in functions(path):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= 60, f"{function.name} has {lines} lines"


def filled_by_yaml() -> set[str]:
    """The names of everything that conf/ names as a target: a YAML file's fields are its parameters."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "conf").rglob("*.yaml"))
    return {name for text in texts for name in re.findall(r"_target_: [\w.]*?(\w+)\b(?!\.)", text)}


@pytest.mark.parametrize("path", [*FILES, *COMMANDS], ids=dotted)
def test_a_signature_has_at_most_eight_parameters_unless_yaml_fills_them(path: Path) -> None:
    free = filled_by_yaml()
    for node in ast.walk(tree(path)):
        inner = node.body if isinstance(node, ast.ClassDef | ast.Module) else ()
        for function in (f for f in inner if isinstance(f, ast.FunctionDef)):
            owner = node.name if isinstance(node, ast.ClassDef) else function.name
            arguments = [*function.args.args, *function.args.kwonlyargs]
            count = len([a for a in arguments if a.arg not in ("self", "cls")])
            assert count <= 8 or owner in free, f"{owner}.{function.name} has {count} parameters"


def test_train_reads_as_one_screen() -> None:
    (train,) = (f for f in functions(SRC / "train.py") if f.name == "train")
    text = (SRC / "train.py").read_text(encoding="utf-8").splitlines()
    lines = text[train.body[0].lineno - 1 : train.end_lineno]
    assert len([line for line in lines if line.strip()]) <= 45


def test_the_core_can_be_read_in_an_evening() -> None:
    core = [
        *(SRC / "descent" / f"{name}.py" for name in CORE),
        SRC / "descent/data/module.py",
        SRC / "train.py",
    ]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in core)
    assert lines <= LINES
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{lines:,} lines" in readme, f"the README should say that the core has {lines:,} lines"


@pytest.mark.parametrize("path", [*FILES, *COMMANDS], ids=dotted)
def test_the_files_of_a_run_are_named_in_one_place(path: Path) -> None:
    if path.name == "folder.py":
        return
    names = {"config.yaml", "overrides.yaml", "result.json", "metrics.csv", "environment.json", "git.txt",
             "git.diff", "data.txt", "last.ckpt", "previous.ckpt", "best.ckpt", "checkpoints"}  # fmt: skip
    strings = {
        n.value for n in ast.walk(tree(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }
    assert not strings & names


def test_no_two_files_functions_or_classes_have_one_name() -> None:
    # descent/module.py and descent/data/module.py are the LightningModule and the LightningDataModule
    stems = Counter(path.stem for path in FILES if path.name not in ("__init__.py", "module.py"))
    assert [name for name, count in stems.items() if count > 1] == []
    nodes = [node for path in FILES for node in tree(path).body]
    names = Counter(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", [*FILES, *COMMANDS], ids=dotted)
def test_every_file_and_every_public_class_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path))
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
