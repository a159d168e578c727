"""Every command of README and docs does what it says, and every list in them is the one in conf/."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Run, finish
from small import train_here

from descent.paths import CONF, list_choices

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = ("extending", "examples", "starting", "project", "rooms")  # pages with a test of their own
README = PAGES[0].read_text(encoding="utf-8")
ROOMS = (ROOT / "docs/rooms.md").read_text(encoding="utf-8")
SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "logger=none")
# commands that CI, another test or a person runs: they install, need a network or machines, or are slow
ELSEWHERE = (
    "git ", "cd ", "pip install", "uv venv", "uv pip", "uv run pytest", "uv run --no-sync", "uv sync", "uvx",
    "uv run tensorboard", "tensorboard", "torchrun", "srun", "export ", "bash benchmarks",
    "python benchmarks", "rm ", "ray ", "uv run ruff",
)  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    parts = [list(words) for line in lines for last, words in groupby(line, "&&".__eq__) if not last]
    return [words[2:] if words[:3] == ["uv", "run", "python"] else words for words in parts]


def is_ours(words: list[str]) -> bool:
    """Whether a command runs a file of src/, and no test of its own runs it as well."""
    others = ("trainer=ddp", "executor=", "search=")
    return words[0] == "python" and "src/" in words[1] and not any(w.startswith(others) for w in words)


ALL = [(page, block) for page in PAGES if page.stem not in OTHERS for block in blocks(page, "sh")]
OURS = [(page.stem, block) for page, block in ALL if any(map(is_ours, commands(block)))]


def test_there_is_no_command_that_no_test_runs() -> None:
    others = {
        " ".join(w) for _, block in ALL for w in commands(block) if w[0] != "python" or "src/" not in w[1]
    }
    assert [command for command in others if not command.startswith(ELSEWHERE)] == []
    command = "pip install uv && uv run pytest"
    assert command in (ROOT / ".ci/run").read_text() and command in README


@pytest.mark.parametrize(("page", "block"), OURS, ids=[page for page, _ in OURS])
def test_the_commands_of_a_page_run_in_their_order(tmp_path: Path, page: str, block: str) -> None:
    for mark, room in ((" -m ", "sweep"), ("data=table", "table"), ("trainer=fast", "fast")):
        if mark in block:
            pytest.importorskip(f"descent.{room}", reason="a room that may be taken out")
    write_files(tmp_path)
    (tmp_path / "logs").mkdir()
    for number, (_, file, *typed) in enumerate(filter(is_ours, commands(block))):
        # of a sweep, two values of each
        words = [re.sub(r"^(\w+=[^,]+,[^,]+),.*", r"\1", word) if "-m" in typed else word for word in typed]
        if file == "src/train.py" and not any(w.startswith(("--", "resume=")) for w in words):
            named = any(word.startswith("folder=") for word in words)
            words += [*SHORT, *([] if named else [f"folder={number}"])]
        finished = finish([str(ROOT / file), *words], tmp_path, {}, 120)
        if "trainer.accelerator=gpu" in words and not torch.cuda.is_available():
            assert finished.code == 2
            assert finished.err.startswith("trainer.accelerator=gpu: expected what this machine has")
        else:
            assert finished.code == 0, finished.err
    if "predict.py" in block:
        assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 20


def write_files(folder: Path) -> None:
    """Write a small file of each name that the pages use."""
    sizes = {"houses.csv": 300, "new.csv": 20, "train.csv": 60, "val.csv": 20, "test.csv": 20}
    for name, rows in sizes.items():
        areas = [50 + 7 * (row % 30) for row in range(rows)]
        lines = [f"{area},{('south', 'north')[area % 3 > 0]},{1000.5 * area}" for area in areas]
        (folder / name).write_text("\n".join(["area,side,price", *lines]) + "\n")
    sales = [f"{1 + i % 9},5;{2 + i % 9:02}/0{3 + i % 5}/2020;{('café', 'thé')[i % 2]}" for i in range(60)]
    (folder / "sales.csv").write_text("\n".join(["price;day;sold", *sales]) + "\n", encoding="latin-1")


def test_what_it_answers_to_a_wrong_word_is_what_a_command_answers(run: Run) -> None:
    shown = (ROOT / "docs/choices.md").read_text().split("$ python src/train.py loss=mea\n")[1].split("\n")[0]
    assert run("loss=mea").err.strip() == shown


def test_the_table_of_choices_is_complete() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs/choices.md").read_text(), re.MULTILINE))
    for group in (folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "local"):
        listed, there = set(re.findall(r"`(\w+)`", rows[group])), set(list_choices(group))
        assert there <= listed, group
        assert all(f"conf/{group}/{word}.yaml" in ROOMS for word in listed - there), group  # gone with a room


def test_readme_is_short_and_every_link_leads_somewhere() -> None:
    assert len(README.split()) <= 1000
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            there = (page.parent / link).exists() or f"docs/{Path(link).name}" in ROOMS  # gone with a room
            assert there, f"{page.name}: {link}"


def test_its_loss_and_its_module_train_and_touch_one_yaml_and_one_python_file_each(tmp_path: Path) -> None:
    for part in ("src", "conf"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    examples = zip(("loss", "module"), blocks(PAGES[0], "python"), blocks(PAGES[0], "yaml"), strict=True)
    for group, code, config in examples:
        name = re.search(r"_target_: (my_\w+)\.", config)
        assert name is not None
        (tmp_path / f"src/{name.group(1)}.py").write_text(code)
        (tmp_path / f"conf/{group}/mine.yaml").write_text(config)
        words = [f"{group}=mine", f"folder={tmp_path}/{group}", "trainer.max_epochs=3"]
        finished = finish([str(tmp_path / "src/train.py"), *words], tmp_path, {}, 120)
        assert finished.code == 0, finished.err
    assert "val_loss is monitored" in finished.out
    assert all(path.read_bytes() == content for path, content in before.items())  # nothing else was touched


def test_the_table_says_who_calls_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: dict[str, str] = {}
    calls: Any = ((torch.optim.SGD, "step"), (torch.Tensor, "backward"), (torch.optim.Optimizer, "zero_grad"))
    for owner, name in calls:
        original = getattr(owner, name)

        def noted(*arguments: Any, own: Any = original, name: str = name, **more: Any) -> Any:
            stacks.setdefault(name, "".join(traceback.format_stack()))
            return own(*arguments, **more)

        monkeypatch.setattr(owner, name, noted)
    train_here(tmp_path / "run", "optimizer=sgd", "trainer.max_epochs=1")
    assert len(stacks) == len(calls)
    for stack in stacks.values():
        assert "lightning/pytorch/loops/optimization/automatic.py" in stack
        assert "descent/fast" not in stack


def test_the_lock_has_a_hash_for_each_pin_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert len(entries) > 20
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert not re.search(r"^lightning==2\.6\.[23]\b", text, re.MULTILINE)


def test_the_lock_is_remade_by_its_command(tmp_path: Path) -> None:
    uv, lock, own = shutil.which("uv"), tmp_path / "requirements.lock", ROOT / "requirements.lock"
    if uv is None:
        pytest.skip("uv is not installed")
    page = (ROOT / "docs/install.md").read_text()
    words = re.findall("^uv (pip compile .*) -o requirements.lock$", page, re.MULTILINE)[0].split()
    shutil.copy(own, lock)  # pins that still hold are kept
    env = {k: v for k, v in os.environ.items() if k != "UV_TORCH_BACKEND"}  # else it locks the CPU build
    argv = [uv, *words, "-o", str(lock)]
    answer = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    if answer.returncode and "fetch" in answer.stderr:
        pytest.skip("no package index in reach")
    assert answer.returncode == 0, answer.stderr
    pins, expected = (re.findall(r"^[^#\s]*==\S*", file.read_text(), re.MULTILINE) for file in (lock, own))
    assert pins == expected != []


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    cells = json.loads((ROOT / "docs/notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code = code.replace('"loss=mae"', f'"folder={tmp_path}/run", "loss=mae"')
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    check = "\nassert run.metrics['test/acc'] > 0.3 and len(run.predict(digits)) == len(digits)"
    subprocess.run([sys.executable, "-c", code + check], check=True, cwd=tmp_path, env=environment)
