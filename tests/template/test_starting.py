"""A fork: its own parts are tried without writing a test, and this machine's settings are its own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, finish

from descent.paths import list_choices

PYTHON = """
import lightning.pytorch as pl
import torch
import torchmetrics
from descent.module import Supervised
from descent.data.samples import Samples


class FocalLoss(torch.nn.Module):
    def __init__(self, gamma: float):
        super().__init__()
        self.gamma = gamma

    def forward(self, input, target):
        losses = torch.nn.functional.cross_entropy(input, target, reduction="none")
        return ((1 - torch.exp(-losses)) ** self.gamma * losses).mean()


class SignSGD(torch.optim.Optimizer):
    def __init__(self, params, lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad.sign())
        return loss


def halve(optimizer, every: int):
    return torch.optim.lr_scheduler.StepLR(optimizer, every, 0.5)


class Perceptron(torch.nn.Sequential):
    def __init__(self, input_shape: tuple[int, ...], outputs: int, units: int):
        size = torch.Size(input_shape).numel()
        layers = (torch.nn.Linear(size, units), torch.nn.Tanh(), torch.nn.Linear(units, outputs))
        super().__init__(torch.nn.Flatten(), *layers)


class Consistent(Supervised):
    def __init__(self, strength: float, **parts):
        super().__init__(**parts)
        self.strength = strength

    def compute_loss(self, inputs, outputs, targets):
        change = self.model(inputs + 0.1 * torch.randn_like(inputs)) - outputs
        return self.criterion(outputs, targets) + self.strength * change.square().mean()


class Doubt(torchmetrics.Metric):
    def __init__(self):
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, probabilities, targets):
        self.total += (1 - probabilities.max(1).values).sum()
        self.samples += len(targets)

    def compute(self):
        return self.total / self.samples


def rings():
    angle, ring = 6.3 * torch.rand(300), torch.arange(300) % 2
    return Samples(torch.stack([angle.cos(), angle.sin()], 1) * (ring[:, None] + 1), ring, ["inner", "outer"])


class Bell(pl.Callback):
    def on_train_end(self, trainer, pl_module):
        print("done")
"""
YAML = {
    "loss": "# leaves easy samples alone\n_target_: my_parts.FocalLoss\ngamma: 2.0\n",
    "optimizer": "# a step of one size\n_target_: my_parts.SignSGD\n_partial_: true\nlr: 0.001\n",
    "scheduler": "# half the rate, now and then\n_target_: descent.schedulers.Schedule\n"
    "scheduler: {_target_: my_parts.halve, _partial_: true}\ninterval: epoch\nevery: 3\n",
    "model": "# one hidden layer of tanh\n_target_: my_parts.Perceptron\nunits: 32\n",
    "module": "# outputs that noise leaves as they are\n_target_: my_parts.Consistent\nstrength: 0.1\n",
    "metrics": "# how unsure the model is\ndoubt: {_target_: my_parts.Doubt}\n",
    "data": "# two rings\ndefaults: [samples]\nsource: {_target_: my_parts.rings}\nbatch_size: 16\n",
    "callbacks": "# a word at the end\ndefaults: [default]\nbell: {_target_: my_parts.Bell}\n",
}


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    for part in ("src", "conf", "tests"):
        left_out = shutil.ignore_patterns("__pycache__", "template", "local", "tutorial.py")
        shutil.copytree(ROOT / part, tmp_path / "fork" / part, ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "fork")
    return tmp_path / "fork"


def try_mine(fork: Path) -> subprocess.CompletedProcess[str]:
    """Run the fork's own tests, of the parts that are called mine."""
    words = ["-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "tests/test_project.py", "-k", "mine"]
    return subprocess.run([sys.executable, *words], cwd=fork, capture_output=True, text=True, check=False)


def test_eight_parts_of_ones_own_are_found_and_tried_without_a_test_of_theirs(fork: Path) -> None:
    (fork / "src/my_parts.py").write_text(PYTHON)
    for group, text in YAML.items():
        (fork / f"conf/{group}/mine.yaml").write_text(text)
    done = try_mine(fork)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
    # each is composed and trained; a model learns by heart; models and modules are killed and resumed
    assert len(re.findall(r"^\.+", done.stdout, re.MULTILINE)[0]) == 8 + 8 + 1 + 2


def test_parts_that_do_not_work_are_found(fork: Path) -> None:
    deaf = PYTHON.replace("*layers)", "*layers)\n\n    def forward(self, inputs):\n        "
                          "return super().forward(inputs).detach() + 0 * self[3].bias")  # fmt: skip
    (fork / "src/my_parts.py").write_text(deaf)
    (fork / "conf/model/mine.yaml").write_text(YAML["model"])
    (fork / "conf/loss/mine_key.yaml").write_text("# a wrong key\n_target_: torch.nn.HuberLoss\ndelto: 1.0\n")
    (fork / "conf/loss/mine_line.yaml").write_text("_target_: torch.nn.L1Loss\n")
    text = "# not for classes\nrmse: {_target_: torchmetrics.MeanSquaredError}\n"
    (fork / "conf/metrics/mine.yaml").write_text(text)
    done = try_mine(fork)
    assert done.returncode == 1
    assert "does every weight get a gradient?" in done.stdout
    assert "expected an argument of torch.nn.HuberLoss; nearest: delta" in done.stdout
    assert "the first line is what --help shows" in done.stdout
    assert "metrics.rmse: expected values that it takes" in done.stdout


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
    assert "\nseed: 8\n" in done.out
    assert "\nfolds: 3\n" in done.out
    assert "CSVLogger" in done.out
    done = finish([str(fork / "src/train.py"), "--help"], fork, {}, 240)
    assert "local" not in re.findall(r"^(\w+)  \[", done.out, re.MULTILINE)
    assert "/conf/local/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_page_lists_every_logger() -> None:
    page = (ROOT / "docs/starting.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == sorted(
        {*list_choices("logger")} - {"none"}
    )
