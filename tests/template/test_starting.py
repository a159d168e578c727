"""A fork: its own parts are tried without writing a test, and this machine's settings are its own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, finish

from descent.paths import list_choices

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"In `((?:src|conf)/\S+)`[^\n]*:\n\n```\w+\n(.*?)^```", PAGE, re.M | re.S))
MINE = {  # parts of one's own; all but one are the page's
    "loss": "focal", "optimizer": "sign_sgd", "model": "perceptron", "module": "consistent",
    "metrics": "doubt", "data": "spirals", "callbacks": "bell", "scheduler": "halved",
}  # fmt: skip
TRY = "pytest -n 0 -q -p no:cacheprovider tests/test_project.py -k"  # the fork's own tests
HALVED = """# half the rate, now and then
_target_: descent.schedulers.Schedule
scheduler: {_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 3, gamma: 0.5}
interval: epoch
"""


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    for part in ("src", "conf", "tests"):
        left_out = shutil.ignore_patterns("__pycache__", "template", "local", "tutorial.py")
        shutil.copytree(ROOT / part, tmp_path / "fork" / part, ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "fork")
    return tmp_path / "fork"


def add(fork: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (fork / name).write_text(text)


def call(fork: Path, *words: str) -> tuple[int, str]:
    """Run a tool in the fork; returns its exit code and what it printed."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=fork, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_eight_parts_of_ones_own_are_tried_without_a_test_of_theirs_and_pass_the_lint(fork: Path) -> None:
    add(fork, {name: text for name, text in FILES.items() if name.startswith("src/")})
    conf = {f"conf/{group}/{word}.yaml" for group, word in MINE.items()}
    add(fork, {name: FILES.get(name, HALVED) for name in conf})
    code, out = call(fork, *TRY.split(), " or ".join(MINE.values()))
    assert code == 0, out
    assert "skipped" not in out
    # each is composed and trained; a model learns by heart; models and modules are killed and resumed
    assert len(re.findall(r"^\.+", out, re.MULTILINE)[0]) == 8 + 8 + 1 + 2
    used = "".join(FILES.get(name, "") for name in conf)
    parts = [f"src/{module}.py" for module in re.findall(r"(my_\w+)\.", used)]
    assert len(parts) == 7
    for tool in ("ruff check", "ruff format --check", f"mypy --follow-imports=silent {' '.join(parts)}"):
        code, out = call(fork, *tool.split())
        assert code == 0, out


def test_parts_that_do_not_work_are_found(fork: Path) -> None:
    python = FILES["src/my_models.py"]
    add(fork, {
        "src/my_models.py": python.replace("nn.Sequential(\n", "nn.Sequential(\n        Deaf(),\n", 1)
        + "\n\nclass Deaf(nn.Module):\n    def forward(self, inputs):\n        return 0 * inputs\n",
        "conf/model/mine.yaml": FILES["conf/model/perceptron.yaml"],
        "conf/loss/mine_key.yaml": "# a wrong key\n_target_: torch.nn.HuberLoss\ndelto: 1.0\n",
        "conf/loss/mine_line.yaml": "_target_: torch.nn.L1Loss\n",
        "conf/metrics/mine.yaml": "# not for classes\nrmse: {_target_: torchmetrics.MeanSquaredError}\n",
    })  # fmt: skip
    code, out = call(fork, *TRY.split(), "mine")
    assert code == 1
    assert "does every weight get a gradient?" in out
    assert "expected an argument of torch.nn.HuberLoss; nearest: delta" in out
    assert "the first line is what --help shows" in out
    assert "metrics.rmse: expected valid values" in out


def test_what_a_fork_keeps_knows_nothing_of_the_templates_own_tests() -> None:
    own = {file.stem for file in (ROOT / "tests/template").glob("*.py")}
    for file in (ROOT / "tests").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not own & set(re.findall(r"^ *(?:from|import) (\w+)", text, re.MULTILINE)), file
        assert "README" not in text, file


def test_a_machines_own_settings_count_less_than_what_is_typed(fork: Path) -> None:
    (fork / "conf/local").mkdir()
    text = "# @package _global_\ndefaults: [{override /logger: csv}]\nseed: 7\nfolds: 3\n"
    (fork / "conf/local/default.yaml").write_text(text)
    done = finish([str(fork / "src/train.py"), "--cfg", "job", "seed=8"], fork, {}, 240)
    assert done.code == 0, done.err
    assert all(part in done.out for part in ("\nseed: 8\n", "\nfolds: 3\n", "CSVLogger")), done.out
    done = finish([str(fork / "src/train.py"), "--help"], fork, {}, 240)
    assert "local" not in re.findall(r"^(\w+)  \[", done.out, re.MULTILINE)
    assert "/conf/local/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_page_lists_every_logger() -> None:
    listed = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs/starting.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {*listed} == {*list_choices("logger")} - {"none"}
