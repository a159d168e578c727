"""The command line as users meet it: words, help, and bad input in one line that names the nearest choice."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
import torch
import yaml
from conftest import ROOT, TRAIN, Finished, Run, finish

from descent.build import read_signature
from descent.cli.check import accepts
from descent.cli.commands import gather
from descent.cli.compose import compose
from descent.cli.main import split
from descent.cli.overrides import parse, quote, quote_word
from descent.cli.wrong import expectation
from descent.errors import clean
from descent.paths import CONF, list_choices, list_groups

SLOW = {"torch", "lightning", "numpy", "torchmetrics", "sklearn"}  # imports
# what is typed, and what the line contains; the first part of it begins the line
WRONG = {
    "loss=mea": ("loss=mea: expected one of", "nearest: mae"),
    "optimiser=sgd": ("optimiser=sgd: expected a key of the config", "nearest: optimizer"),
    "optimizer.lr=abc": ("optimizer.lr=abc: expected a number",),
    "optimizer.weight_decy=0.9": ("optimizer.weight_decy=0.9", "nearest: optimizer.weight_decay"),
    "trainer.accelerator=gpuu": ("trainer.accelerator=gpuu: expected", "nearest: gpu"),
    "trainer.precision=bf15-mixed": ("trainer.precision=bf15-mixed: expected one of", "nearest: bf16-mixed"),
    "model.hidden=[0]": ("model.hidden=[0]: expected", "at least 1"),
    "data.batch_size=0": ("data.batch_size=0: expected", "at least 1"),
    "seed=${foo}": ("seed=${foo}: expected a value that exists",),
    "monitor=val/acccc": ("monitor=val/acccc: expected one of", "nearest: val/acc"),
    "lr=0.1": ("lr=0.1: expected a key of the config; nearest: optimizer.lr",),
    "metrics=[accuracy,aurc]": ("metrics=aurc: expected one of", "nearest: auroc"),
    "loss=[mae,mse]": ("loss=[mae,mse]: expected one of",),
    "loss=mae,mse": ("loss=mae,mse: expected one of", "or -m to run each"),
    "optimizer.lr=0.1,0.2": ("optimizer.lr=0.1,0.2: expected a number", "-m to run each"),
    "optimizer.lr=${oc.env:HOME}": ("optimizer.lr=", "a number: 'optimizer.lr=${oc.decode:${oc.env:HOME}}'"),
    "optimizer.lr=${oc.env:MISSING}": ("optimizer.lr=${oc.env:MISSING}: expected a value that exists",),
    "monitor=[a]": ("monitor=['a']: expected text", """: "monitor='[a]'\""""),
    "optimizer.lr=-1": ("optimizer.lr=-1: expected valid values (Invalid learning rate: -1)",),
    "loss.weight=balancd": ("loss.classes.weight=balancd: expected a list of numbers, or balanced",),
    "loss._target_=torch.nn.L2Loss": ("loss._target_=torch.nn.L2Loss: expected", "nearest: torch.nn.L1Loss"),
    "optimizer._target_=torch.optim": ("optimizer._target_=torch.optim: expected a class or function",),
    "loss=mae loss.label_smoothing=2": ("loss.label_smoothing=2: expected",),
    "trainer.num_nodes=3": ("trainer.num_nodes=3", "MASTER_ADDR"),
    "trainer.accumulate_grad_batches=0": ("trainer.accumulate_grad_batches=0: expected at least 1",),
    "trainer.max_epochs=-5": ("trainer.max_epochs=-5: expected at least -1",),
    "trainer.val_check_interval=99": ("trainer.val_check_interval=99: expected",),
    "trainer.strategy=ddp_spawn": ("trainer.strategy=ddp_spawn: expected ddp or fsdp, because",),
    "threads=100000000": ("threads=100000000: expected", "from 1 to"),
    "folder=a$HOME": ("folder=", "without $"),
    "seed=${seed": ("seed='${seed': expected an override that Hydra can compose",),
    "logger=null": ("logger=null: expected one of", "nearest: none"),
    "callbacks.progress=null": ("callbacks.progress=null: expected", "or ~callbacks.progress to leave"),
    "~loss": ("~loss: expected",),
    "+loss=mae": ("+loss=mae: expected", "override loss"),
    "++opitmizer.foreach=1": ("opitmizer.foreach=1: expected a key of the config; nearest: optimizer",),
    "+optimizer.foo=1": ("optimizer.foo=1: expected an argument of torch.optim.Adam",),
    "++loss.wieght=1": ("loss.wieght=1: expected null, because",),
    "+data.nan_at=3": ("data.nan_at=3: expected",),
    "checkpoint.every=often": ("callbacks.checkpoint.every=often: expected auto, or as in 100steps",),
    "@=1": ("@=1: expected key=value",),
    "scheduler=plateau scheduler.monitor=val/los": ("scheduler.monitor=val/los", "nearest: val/loss"),
    "optimizer=sparse_adam": ("optimizer=sparse_adam: expected", "dense gradients"),
    "data=diabetes loss=cross_entropy": ("loss=cross_entropy: expected",),
    "resume=nowhere": ("resume=nowhere: expected a run's folder",),
    "freeze=['9.*']": ("freeze=9.*: expected a pattern of names among 1.weight",),
    "--cfg nope": ("--cfg=nope: expected one of job, hydra, all",),
    "--multirunn": ("--multirunn: expected key=value, or one of --help", "nearest: --multirun"),
    "--config-dir": ("--config-dir=: expected a folder",),
    "-callbacks.checkpoint=null": ("-callbacks.checkpoint=null: expected key=value, or one of",),
}  # fmt: skip
if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
    WRONG["trainer.accelerator=gpu"] = ("trainer.accelerator=gpu: expected what this machine has",)


def test_what_is_wrong_is_one_line_that_names_it_and_other_command_lines_run(tmp_path: Path) -> None:
    others = fuzz.command_lines()[::12]  # benchmarks/faults.py tries all 600
    (tmp_path / "lines.json").write_text(json.dumps([*(words.split(" ") for words in WRONG), *others]))
    finished = finish([fuzz.__file__, "lines.json"], tmp_path, {}, timeout=600)
    assert finished.code == 0, finished.err
    tried = {" ".join(one["words"]): one for one in map(json.loads, finished.out.splitlines())}
    assert len(tried) >= len(WRONG) + 40
    assert not [(words, fault) for words, one in tried.items() if (fault := fuzz.fault(one))]
    for words, parts in WRONG.items():
        code, line = tried[words]["code"], tried[words]["err"]
        assert code == 2 and line.startswith(parts[0]) and all(part in line for part in parts), tried[words]


def assert_one_line(finished: Finished, *parts: str) -> None:
    """Exit code 2, one line on stderr with these parts, nothing else, and no folder left."""
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished
    assert all(part in finished.err for part in parts), finished
    assert {path.name for path in finished.folder.iterdir()} <= {".out", ".err", "conf"}


def test_the_traceback_is_there_for_who_asks_and_for_a_bug_of_ones_own(run: Run) -> None:
    asked, bug = run("model.hidden=[0]", HYDRA_FULL_ERROR="1"), run("model._target_=augmented.broken")
    assert (asked.code, bug.code) == (1, 1)
    assert "Traceback" in asked.err and "hidden=[0]" in asked.err
    assert "NameError: name 'forgotten' is not defined" in bug.err and "augmented.py" in bug.err


def learn(*words: str) -> tuple[str, set[str]]:
    """Return what a command prints at once, and the modules that it imports."""
    command = [sys.executable, "-X", "importtime", TRAIN, *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return answer.stdout, {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}


def test_help_lists_every_choice_with_a_line_on_it_without_slow_imports() -> None:
    out, imported = learn("--help")
    assert max(map(len, out.splitlines())) <= 80 and not imported & SLOW
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    for group in list_groups():
        assert any(line[:1] == [group] for line in lines), group
        for word in list_choices(group):
            assert any(line[0] == word and len(line) == 2 for line in lines if line), (group, word)


def test_cfg_job_prints_the_run_without_running_it_or_slow_imports() -> None:
    out, imported = learn("--cfg", "job", "loss=mae", "optimizer.lr=0.5", "seed=3")
    assert "descent.cli.main" in imported and not imported & SLOW
    config = yaml.safe_load(out)
    assert config["loss"]["_target_"] == "descent.losses.MeanAbsoluteError"
    assert (config["optimizer"]["lr"], config["name"]) == (0.5, "mae-adam-mlp-digits-lr=0.5-seed=3")
    assert re.fullmatch(rf"{ROOT}/logs/mae-adam-mlp-digits-lr=0.5-seed=3-\d{{8}}-\d{{6}}", config["folder"])
    assert not Path(config["folder"]).exists()


def test_output_that_is_not_utf_8_ends_no_command(tmp_path: Path) -> None:
    words = ("experiment=regression", "metrics=regression_full", "trainer.max_epochs=1")
    for line in (["--help"], [*words, f"folder={tmp_path}/run"]):
        command, ascii = [sys.executable, TRAIN, *line], {**os.environ, "PYTHONIOENCODING": "ascii"}
        answer = subprocess.run(command, env=ascii, capture_output=True, check=False)
        assert (answer.returncode, answer.stderr) == (0, b"")


def test_names_of_any_letters_reach_files_and_no_escape_reaches_the_terminal(
    run: Run, tmp_path: Path
) -> None:
    pytest.importorskip("descent.table", reason="a room that may be taken out")
    rows = "".join(f"집{i},{i % 7},{i % 5}\n" for i in range(60))
    (tmp_path / "집값, 서울.csv").write_text(f"이름,면적,값\n{rows}", encoding="utf-8")
    table = ("data=table", "data.path=집값, 서울.csv", "data.target=값", "data.exclude=[이름]")
    finished = run(*table, "trainer.max_epochs=1", "folder=\x1b[31m실행")
    assert finished.code == 0, finished.err
    assert (tmp_path / "\x1b[31m실행/result.json").exists()
    assert "\x1b" not in finished.out
    wrong = run("loss=\x1b[31mmae")
    assert (wrong.code, "\x1b" in wrong.err) == (2, False)
    assert clean("a\x1b[2Jb\r\n") == "a\ufffd[2Jb\ufffd\n"


def test_outside_of_the_environment_one_line_names_the_way_in(tmp_path: Path) -> None:
    # -S: without what a virtual environment has installed
    command = [sys.executable, "-S", TRAIN, "loss=mae"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1), answer
    assert "uv run python src/train.py" in answer.stderr


def test_another_command_says_which_runs_there_are_and_has_no_sweeps(run: Run) -> None:
    assert_one_line(run("run=null", command="evaluate"), "run=null: expected the folder of a run, such as ")
    assert_one_line(run("-m", "run=nowhere", command="evaluate"), "--multirun: expected src/train.py")


def test_a_folder_of_any_name_is_resumed(run: Run, tmp_path: Path) -> None:
    name = f"{tmp_path}/a 1 'c'\\"
    first = run(f"folder={name}", "trainer.max_epochs=1", "trainer.limit_train_batches=1")
    assert first.code == 0, first.err
    again = run(f"resume={name}", "trainer.max_epochs=2")
    assert "Resumes" in again.out, again
    assert list(Path(name).glob("events.*"))


def test_parts_are_left_out_and_added(run: Run) -> None:
    stop = "+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss}"
    words = ("~callbacks.progress", "~logger.tensorboard", "~metrics.classes", stop)
    finished = run(*words, "trainer.fast_dev_run=1", "loss._target_=torch.nn.MultiMarginLoss")
    assert finished.code == 0, finished.err
    assert "Epoch 1" not in finished.out


def test_config_of_ones_own_lies_anywhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "conf/optimizer").mkdir(parents=True)
    shutil.copy(CONF / "optimizer/sgd.yaml", tmp_path / "conf/optimizer/mine.yaml")
    finished = run("--config-dir", "conf", "optimizer=mine", "--cfg", "job")
    assert yaml.safe_load(finished.out)["optimizer"]["_target_"] == "torch.optim.SGD"
    assert "mine" in run("--config-dir=conf", "optimizer=mien").err
    (tmp_path / "conf/loss").mkdir()
    (tmp_path / "conf/loss/lame.yaml").write_text("reduction: mean\n")  # without a _target_
    assert run("--config-dir=conf", "loss=lame").err.startswith("loss=lame: expected one of ")
    latin = tmp_path / "conf/loss/latin.yaml"
    latin.write_text("# caf\xe9\n_target_: torch.nn.L1Loss\n", encoding="latin-1")
    assert_one_line(run("--config-dir=conf", "loss=latin"), f"{latin}: expected text in UTF-8", "0xe9")


# ---- words -------------------------------------------------------------------------------------------------


def test_flags_stand_anywhere_among_the_words() -> None:
    for words in (["-m", "loss=mae", "seed=0,1"], ["loss=mae", "--multirun", "seed=0,1"]):
        assert split(words) == ({"--multirun": ""}, ["loss=mae", "seed=0,1"])
    for words in (["a=1", "--cfg", "job", "b=2"], ["-c=job", "a=1", "b=2"]):
        assert split(words) == ({"--cfg": "job"}, ["a=1", "b=2"])


TEXTS = ["한글.csv", "x,1.csv", "a=b.csv", "a(b.csv", "it's.csv", "50%.csv", "~/x.csv", "best-{epoch}",
         "{epoch}", "a#b", "[x", "a\\'", "range(1,2)", "a;b!"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_any_characters_reaches_the_config_as_it_is(text: str) -> None:
    word = quote_word(f"data.path={text}", sweeps=False)
    assert (parse(word).key_or_group, parse(word).value()) == ("data.path", text)
    word = f"+data.path={quote(f'{text}${{seed}}')}"
    assert compose("train", [word]).config["data"]["path"] == f"{text}${{seed}}"


@pytest.mark.parametrize("texts", [["나이", "id"], ["size (cm)", "5%", "x y"], ["a=b"]])
def test_a_list_of_texts_of_any_characters_is_a_list_and_in_a_sweep_each_is_a_value(texts: list[str]) -> None:
    for sweeps in (False, True):
        word = quote_word(f"data.columns=[{','.join(texts)}]", sweeps)
        assert parse(word).value() == texts
    values = parse(quote_word(f"data.path={','.join(['a', *texts])}", sweeps=True)).sweep_string_iterator()
    assert [parse(f"x={value}").value() for value in values] == ["a", *texts]


def test_a_run_whose_folder_has_an_equals_sign_is_compared() -> None:
    assert gather(["logs/lr=0.1", "by=val/acc", "logs/b"]) == ["runs=['logs/lr=0.1','logs/b']", "by=val/acc"]


def test_a_tensor_is_a_list_of_numbers_or_balanced_where_a_number_will_not_do() -> None:
    weight, rate = read_signature(torch.nn.CrossEntropyLoss).hints["weight"], float | torch.Tensor
    assert all(accepts(value, weight) for value in ([1, 2.5], "balanced", None))
    assert not any(accepts(value, weight) for value in (["a"], "balancd", 1))
    assert expectation(weight) == "a list of numbers, or balanced, or null"
    assert accepts(0.1, rate)
    assert not accepts("balanced", rate)


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export", "compare"])
def test_a_command_imports_next_to_nothing_before_it_catches_signals(command: str) -> None:
    if not (ROOT / f"src/{command}.py").exists():
        pytest.skip("it was taken out with its room")
    code = f"import {command}, sys; print(*sys.modules)"
    found = subprocess.check_output([sys.executable, "-S", "-c", code], cwd=ROOT / "src", text=True).split()
    ours = {name for name in found if re.match(rf"(descent|hydra|omegaconf|yaml|{command})\b", name)}
    assert ours == {command, "descent", "descent.cli", "descent.cli.main", "descent.errors"}
