"""Every command of the README does what it says, and every list in it is the one in conf/."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from importlib.metadata import requires
from itertools import groupby
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Run, finish
from packaging.requirements import Requirement
from PIL import Image
from test_table import data_of
from test_train import DDP

from descent.cli.paths import CONF, list_choices
from descent.inference import load

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=2")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [list(words) for line in lines for last, words in groupby(line, "&&".__eq__) if not last]


STEPS = [block for block in blocks("sh") if "folder=logs/" in block]  # commands that need the one before
COMMANDS = [" ".join(words) for block in blocks("sh") for words in commands(block)]
TRAININGS = [
    words[words.index("src/train.py") + 1 :]
    for block in blocks("sh")
    for words in commands(block)
    if "src/train.py" in words and block not in STEPS
]
TRAININGS.remove(DDP)  # slow, and tests/test_train.py runs it


def test_there_is_no_command_that_no_test_runs() -> None:
    known = (
        "src/",
        "uvx pip-audit",
        "pip install uv",
        "uv venv",
        "uv pip install",
        "uv run pytest",
        "uv run ruff",
        "uv run mypy",
        "uv run --no-project",  # the newest of everything, which is not for every change
        "uv pip compile",
        "tensorboard",
    )
    assert [command for command in COMMANDS if not any(word in command for word in known)] == []
    ci = (ROOT / ".ci/run").read_text()
    for command in COMMANDS:  # those that CI itself runs
        if command.startswith("uv run ") and "src/train.py" not in command and "--no-project" not in command:
            assert command in ci
    assert "pip install uv && uv run pytest" in ci
    assert "pip install uv && uv run pytest" in README


@pytest.mark.parametrize("words", TRAININGS, ids=" ".join)
def test_a_training_command_runs(run: Run, tmp_path: Path, words: list[str]) -> None:
    if "--help" in words or "--cfg" in words:
        assert run(*words).code == 0
        return
    finished = run(
        *words, *SHORT, f"folder={tmp_path}/sweep" if "-m" in words else f"folder={tmp_path}/${{name}}"
    )
    if "trainer.accelerator=gpu" in words and not (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    ):
        assert finished.code == 2
        assert finished.err.startswith("trainer.accelerator=gpu: expected what this machine has")
        return
    assert finished.code == 0, finished.err
    runs = 6 if "-m" in words else 1
    assert len(list(tmp_path.rglob("result.json"))) == runs
    assert finished.out.count("\nTensorBoard: ") == 1


@pytest.mark.parametrize("block", STEPS, ids=["own data", "resume"])
def test_commands_that_build_on_each_other_run_in_their_order(run: Run, tmp_path: Path, block: str) -> None:
    write_houses(tmp_path / "houses.csv", 300)
    write_houses(tmp_path / "new.csv", 20)
    write_photos(tmp_path / "photos")
    write_sales(tmp_path / "sales.csv")
    for _, command, *words in commands(block):
        short = SHORT if command == "src/train.py" and not any("resume=" in word for word in words) else ()
        named = any(word.startswith(("folder=", "run=", "resume=")) for word in words)
        finished = run(
            *words,
            *short,
            *(() if named else (f"folder={tmp_path}/{len(words)}",)),
            command=Path(command).stem,
        )
        assert finished.code == 0, finished.err
        if "data.decimal=comma" in words:
            assert "left out" not in finished.out
            assert "number    price                from 1.234 to " in finished.out
            assert "date      day                  from 2020-03-02 to " in finished.out
    if "predict.py" in block:
        assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 20
        predictions = load(tmp_path / "logs/houses")
        assert len(predictions.predict(str(tmp_path / "new.csv"))) == 20  # the README's two lines


def write_houses(path: Path, rows: int) -> None:
    areas = [50 + 7 * (row % 30) for row in range(rows)]
    lines = [f"{area},{'north' if row % 3 else 'south'},{1000.5 * area}" for row, area in enumerate(areas)]
    path.write_text("\n".join(["area,side,price", *lines]) + "\n")


def write_sales(path: Path) -> None:
    lines = [
        f"{1 + i % 9},{234 + i};{2 + i % 9:02}/0{3 + i % 5}/2020;{i};{('café', 'thé')[i % 2]}"
        for i in range(60)
    ]
    path.write_text("\n".join(["price;day;number;sold", *lines]) + "\n", encoding="latin-1")


def test_the_lines_on_columns_that_can_be_read_in_two_ways_are_those_of_a_run(tmp_path: Path) -> None:
    write_sales(tmp_path / "sales.csv")
    preview = data_of(tmp_path / "sales.csv", "sold", encoding="latin-1").preview
    shown = [line for line in README.splitlines() if line.startswith("  left out  ")]
    assert len(shown) == 2
    assert set(shown) <= set(preview.splitlines())


def write_photos(folder: Path) -> None:
    for number in range(40):
        name = "dark" if number % 2 else "bright"
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 90, 30 if number % 2 else 230)).save(
            folder / name / f"{number}.png"
        )


def test_tensorboard_opens_on_the_runs_under_their_names(run: Run, tmp_path: Path) -> None:
    assert run(*SHORT, "loss=mae", f"folder={tmp_path}/logs/${{name}}").code == 0
    code = "import sys; from tensorboard.main import run_main; sys.argv[0] = 'tensorboard'; run_main()"
    arguments = ["--logdir", str(tmp_path / "logs"), "--port", "0", "--load_fast", "false"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    ) as board:
        assert board.stderr is not None
        address = next(m.group() for line in board.stderr if (m := re.search(r"http://\S+/", line)))
        try:
            with urllib.request.urlopen(f"{address}data/runs", timeout=60) as answer:
                names = answer.read().decode()
        finally:
            board.kill()
    assert "mae-adam-mlp-digits-" in names


def test_the_lock_is_remade_by_its_command(tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    command = next(command for command in COMMANDS if command.startswith("uv pip compile")).split()
    lock = tmp_path / "requirements.lock"
    lock.write_text((ROOT / "requirements.lock").read_text())  # pins that still hold are kept
    answer = subprocess.run(
        [uv, *command[1:-1], str(lock)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    if answer.returncode and "fetch" in answer.stderr:
        pytest.skip("no package index in reach")
    assert answer.returncode == 0, answer.stderr

    def pins(text: str) -> list[str]:
        return [line.split(" ")[0] for line in text.splitlines() if "==" in line and not line.startswith("#")]

    assert pins(lock.read_text()) == pins((ROOT / "requirements.lock").read_text())


def required_by(package: str) -> set[str]:
    """The names of what an installed package brings along, without its extras."""
    found = [Requirement(text) for text in requires(package) or []]
    return {one.name.lower() for one in found if one.marker is None or one.marker.evaluate({"extra": ""})}


def test_the_command_that_tries_the_newest_names_every_dependency_and_no_bound() -> None:
    command = next(command for command in COMMANDS if command.startswith("uv run --no-project"))
    named = re.findall(r"--with ([a-z-]+)(?= )", command)
    assert command == " ".join(["uv run --no-project", *(f"--with {name}" for name in named), "pytest"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {Requirement(text).name for text in project["dependencies"]}
    assert needed - {*named} <= {name for package in named for name in required_by(package)}


def test_the_lock_has_a_hash_for_each_pin_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert len(entries) > 20
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert not re.search(r"^lightning==2\.6\.[23]\b", text, re.MULTILINE)


def test_the_table_of_choices_is_complete() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE))
    for group in (folder.name for folder in CONF.iterdir() if folder.is_dir()):
        words = re.findall(r"`(\w+)`", rows[group])
        assert sorted(words) == list_choices(group), group


EXAMPLES = (
    "loss",
    "loss",
    "module",
    "metrics",
    "optimizer",
    "model",
    "data",
)  # the groups, as README has them


def test_what_it_shows_to_add_works_and_touches_one_yaml_and_one_python_file_each(tmp_path: Path) -> None:
    for part in ("src", "conf"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    python, yaml = blocks("python"), blocks("yaml")
    for number, (group, code, config) in enumerate(zip(EXAMPLES, python, yaml, strict=True)):
        module = re.search(r"_target_: (my_\w+)\.", config)
        assert module is not None
        (tmp_path / "src" / f"{module.group(1)}.py").write_text(code)
        (tmp_path / "conf" / group / f"mine{number}.yaml").write_text(config)
    words = ["loss=mine0", "metrics=[default,mine3]", "optimizer=mine4", "model=mine5", "data=mine6"]
    for more in ([], ["loss=mine1"], ["module=mine2", "loss.gamma=0.5"]):
        folder = f"folder={tmp_path}/run{len(more)}{''.join(more)[:6]}"
        finished = finish(
            [str(tmp_path / "src/train.py"), *words, *more, folder, "trainer.max_epochs=15"],
            tmp_path,
            {},
            120,
        )
        assert finished.code == 0, finished.err
        assert float(finished.out.split("Test Acc: ")[1][:6]) > 0.8
        assert "Val doubt: " in finished.out
        assert "Test top2: " in finished.out
    assert all(path.read_bytes() == content for path, content in before.items())  # nothing else was touched
    new = {path for part in ("src", "conf") for path in (tmp_path / part).rglob("*.*") if path not in before}
    suffixes = sorted(path.suffix for path in new if path.suffix != ".pyc")
    assert suffixes == [".py"] * len(EXAMPLES) + [".yaml"] * len(EXAMPLES)
