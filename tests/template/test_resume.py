"""A run that goes on is the run it was, or is refused in one line; what it made is never lost."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TRAIN, Run, make_run, send, start, wait_for
from test_table import houses
from test_train import DDP

from descent.errors import ConfigError, Stopped
from descent.run.checkpoints import read
from descent.run.folder import RunFolder, claim, read_yaml
from descent.run.resume import find_run

sys.path.insert(0, str(ROOT / "benchmarks"))
import random

import faults

SHORT = ("data.batch_size=64", "trainer.max_epochs=2", "checkpoint.every=5steps")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of these words."""
    return make_run(tmp_path_factory, *SHORT).folder / "run"


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def snapshot(folder: Path) -> dict[str, bytes]:
    """What is in each file of a folder, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.batch_size=32"], "data.batch_size=32: expected 64, as in the run that is resumed"),
        (["loss=mae"], "loss._target_=descent.losses.MeanAbsoluteError: expected descent.losses.by_task"),
        (["data.label_noise=0.5"], "data.label_noise=0.5: expected 0.0"),
        (["model.hidden=[32]"], "model.hidden=[32]: expected [256]"),
        (["optimizer=sgd"], "optimizer._target_=torch.optim.SGD: expected torch.optim.Adam"),
        (["trainer.overfit_batches=1"], "trainer.overfit_batches=1"),
        (["freeze=['1.*']"], "freeze=['1.*']: expected []"),
        (["callbacks=none"], "callbacks=none: expected the callback checkpoint"),
        (["seed=1"], "seed=1: expected 0"),
    ],
)
def test_words_that_would_make_another_run_of_it_are_refused_and_nothing_changes(
    run: Run, made: Path, words: list[str], line: str
) -> None:
    before = snapshot(made)
    finished = run(f"resume={made}", *words)
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert line in finished.err
    assert snapshot(made) == before


def test_a_typed_value_of_the_optimizer_wins_over_its_state_and_is_kept(run: Run, made: Path) -> None:
    words = ("trainer.max_epochs=3", "optimizer.lr=0.05", "optimizer.betas=[0.8,0.99]", "on_nan=skip")
    assert run(f"resume={made}", *words).code == 0
    (group,) = read(made / "checkpoints/last.ckpt")["optimizer_states"][0]["param_groups"]
    assert (group["lr"], list(group["betas"])) == (0.05, [0.8, 0.99])
    config = read_yaml(made / "config.yaml")
    assert (config["optimizer"]["lr"], config["on_nan"], config["trainer"]["max_epochs"]) == (0.05, "skip", 3)
    again = run(f"resume={made}")  # with the words that it has by now
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    ("words", "typed", "expected"),
    [
        ([], "optimizer.amsgrad=true", "expected False, with which the optimizer's state was begun"),
        (["optimizer=rmsprop"], "optimizer.momentum=0.9", "expected 0, with which"),
        (["optimizer=lbfgs"], "optimizer.history_size=3", "expected 10, with which"),
        (["optimizer=rprop"], "optimizer.lr=0.1", "with which the optimizer's state was begun"),
        (["optimizer=adagrad"], "optimizer.initial_accumulator_value=1.0", "with which"),
        (
            ["scheduler=cyclic", "optimizer=sgd"],
            "optimizer.momentum=0.3",
            "the scheduler sets it at each step",
        ),
    ],
)
def test_a_value_that_the_optimizer_s_state_cannot_take_up_is_refused(
    run: Run, tmp_path: Path, words: list[str], typed: str, expected: str
) -> None:
    assert run(*SHORT, *words).code == 0
    before = snapshot(tmp_path / "run")
    finished = run(f"resume={tmp_path}/run", "trainer.max_epochs=3", typed)
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert finished.err.startswith(typed)
    assert expected in finished.err
    assert snapshot(tmp_path / "run") == before


def test_words_for_a_run_that_has_ended_are_refused(run: Run, made: Path, tmp_path: Path) -> None:
    for word in ("optimizer.lr=0.05", "on_nan=skip"):
        before = snapshot(made)
        finished = run(f"resume={made}", word)
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert finished.err.startswith(f"{word}: expected a run that has not ended")
        assert snapshot(made) == before
    stops = ("callbacks=early_stopping", "callbacks.early_stopping.stopping_threshold=100")
    assert run(*SHORT, *stops, f"folder={tmp_path}/stopped").code == 0
    finished = run(f"resume={tmp_path}/stopped", "trainer.max_epochs=9")
    assert finished.err.startswith("trainer.max_epochs=9: expected a run that has not ended"), finished


def test_a_schedule_as_long_as_the_run_is_not_made_longer_and_a_constant_one_is(
    run: Run, tmp_path: Path
) -> None:
    assert run(*SHORT, "scheduler=one_cycle").code == 0
    finished = run(f"resume={tmp_path}/run", "trainer.max_epochs=3")
    expected = "trainer.max_epochs=3: expected 2, for scheduler.total_steps=null makes the schedule as long"
    assert finished.err.startswith(expected)
    step = ("scheduler=step", "scheduler.step_size=20", "scheduler.interval=step")
    for name, epochs in (("short", 2), ("long", 3)):
        words = (*SHORT, *step, f"trainer.max_epochs={epochs}", f"folder={tmp_path}/{name}")
        assert run(*words).code == 0
    assert run(f"resume={tmp_path}/short", "trainer.max_epochs=3").code == 0
    short, long = (faults.ending(tmp_path / name) for name in ("short", "long"))
    assert not [name for name in faults.differences(short, long) if "best" not in name]


def test_a_run_that_ended_within_an_epoch_is_not_made_longer(run: Run, tmp_path: Path) -> None:
    assert run("data.batch_size=64", "trainer.max_steps=30").code == 0
    finished = run(f"resume={tmp_path}/run", "trainer.max_steps=60")
    assert finished.err.startswith("trainer.max_steps=60: expected 30, for the run has ended there")


def test_a_run_of_so_many_steps_that_ended_with_an_epoch_is_made_longer(run: Run, tmp_path: Path) -> None:
    for name, steps in (("short", 46), ("long", 80)):  # of 23 an epoch
        words = ("data.batch_size=64", f"trainer.max_steps={steps}", f"folder={tmp_path}/{name}")
        assert run(*words).code == 0
    finished = run(f"resume={tmp_path}/short", "trainer.max_steps=80")
    assert (finished.code, finished.err) == (0, ""), finished
    short, long = (faults.ending(tmp_path / name) for name in ("short", "long"))
    assert not [name for name in faults.differences(short, long) if "best" not in name]


def test_other_data_than_the_run_has_seen_is_refused(run: Run, tmp_path: Path) -> None:
    path = houses(tmp_path / "houses.csv")
    words = ("data=table", "data.path=houses.csv", "data.target=price", "data.exclude=[id]", "loss=mae")
    lines = "+logger.lines={_target_:lightning.pytorch.loggers.CSVLogger,save_dir:'${folder}',name:a/b}"
    assert run(*words, lines, "trainer.max_epochs=1").code == 0
    head, *rows = path.read_text().splitlines()
    for changed, told in (
        ([head, *reversed(rows)], "samples have other values, or come in another order"),
        ([head, *rows[:200]], "samples have other values"),
        ([head.replace("area", "size"), *rows], "reader.columns[0].name was area and is size"),
    ):
        path.write_text("\n".join(changed) + "\n")
        before = snapshot(tmp_path / "run")
        finished = run(f"resume={tmp_path}/run", "trainer.max_epochs=2")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished
        assert f"expected the data that the run has seen; {told}" in finished.err, finished.err
        assert snapshot(tmp_path / "run") == before
    path.write_text("\n".join([head, *rows]) + "\n")
    assert run(f"resume={tmp_path}/run", "trainer.max_epochs=2").code == 0


def test_two_damaged_checkpoints_are_not_a_run_without_one(run: Run, made: Path) -> None:
    for path in (made / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    before = snapshot(made)
    finished = run(f"resume={made}")
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert "expected a checkpoint that can be read" in finished.err
    assert snapshot(made) == before


def test_an_accumulation_that_changes_by_epoch_ends_the_same_when_it_is_killed(tmp_path: Path) -> None:
    target = "lightning.pytorch.callbacks.GradientAccumulationScheduler"
    words = [f"+callbacks.more={{_target_:{target},scheduling:{{0:2,2:1}}}}", *SHORT, "trainer.max_epochs=4"]
    tally = faults.kills(words, 1, tmp_path, random.Random(3))
    assert not tally.differing, tally.notes


def test_a_callback_that_cannot_be_resumed_exactly_says_so_and_is_refused(run: Run, tmp_path: Path) -> None:
    target = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    word = f"+callbacks.swa={{_target_:{target},swa_lrs:0.01}}"
    finished = run(word, *SHORT)
    assert "This run cannot be resumed: StochasticWeightAveraging" in finished.out
    before = snapshot(tmp_path / "run")
    again = run(word, *SHORT, "resume=true")
    assert (again.code, again.err.count("\n")) == (2, 1), again.err
    assert snapshot(tmp_path / "run") == before


def test_a_failing_run_removes_what_it_made_and_nothing_else(tmp_path: Path) -> None:
    def fail(path: Path, *files: str) -> None:
        with (
            pytest.raises(ConfigError),
            claim(str(path), False, lambda folder: {folder.config: "a: 1\n"}) as folder,
        ):
            assert folder.config.read_text() == "a: 1\n"
            for name in files:
                (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
                (folder.path / name).write_text("")
            raise ConfigError("a", expected="something else")

    fail(tmp_path / "made/by/it", "events.out.tfevents.1", "csv/hparams.yaml")
    assert not (tmp_path / "made").exists()
    fail(tmp_path / "run", "notes/mine.part", "events.out.tfevents.1")
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["notes", "mine.part"]
    with pytest.raises(Stopped), claim(str(tmp_path / "file"), False, lambda _: {}) as folder:
        folder.lock.unlink()
        folder.path.rmdir()
        folder.path.write_text("mine")
        raise OSError
    assert (tmp_path / "file").read_text() == "mine"
    fail(tmp_path / "saved", "models/last.ckpt")
    assert RunFolder(tmp_path / "saved").config.exists()


def test_a_file_that_a_new_run_cannot_read_is_no_folder_that_went_away(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError),
        claim(str(tmp_path / "run"), False, lambda folder: {folder.config: "a: 1\n"}),
    ):
        (tmp_path / "nothing").read_text()
    assert not (tmp_path / "run").exists()


def test_the_reader_of_the_output_may_go_away(tmp_path: Path) -> None:
    train = f"{sys.executable} {ROOT}/src/train.py trainer.max_epochs=2"
    for number, rest in enumerate(("| head -1", ">&-", "> /dev/full", "2>&1 | true")):
        command = f"{train} folder={tmp_path}/{number} {rest}"
        answer = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
        )
        assert (answer.returncode, answer.stderr) == (0, "")
        assert json.loads((tmp_path / str(number) / "result.json").read_text())["epochs"] == 2


def test_a_folder_that_goes_away_is_one_line(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=300", "checkpoint.every=20steps"]
    job = faults.Job(words, tmp_path / "job")
    process = job.start()
    job.train(process)
    (tmp_path / "job/run").rename(tmp_path / "job/moved")
    process.join(60)
    assert (process.exitcode, job.error().count("\n")) == (1, 1), job.error()
    assert "could not be written" in job.error()


def assert_that_the_other_is_missed(process: BaseProcess, folder: Path) -> None:
    process.join(60)
    error = (folder / "err").read_text()
    assert process.exitcode == 1, error
    assert error.startswith("Another process of this run has ended or does not answer.")
    assert error.count("\n") == 1


def test_a_process_that_is_killed_ends_the_others_with_one_line(tmp_path: Path) -> None:
    words = [*DDP, "trainer.max_epochs=400", f"folder={tmp_path}/run"]
    process = start([TRAIN, *words], tmp_path, {}, tmp_path / "out", tmp_path / "err")
    wait_for(process, tmp_path / "out", "Epoch 2/")
    command = ["pgrep", "-P", str(process.pid), "-f", "train.py"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
    assert_that_the_other_is_missed(process, tmp_path)


def test_a_process_that_is_stopped_ends_the_others_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = [*DDP, "trainer.max_epochs=400", "trainer.strategy.timeout=10", f"folder={tmp_path}/run"]
    processes = []
    # not by Lightning, for the first would wait at most as long while the other imports torch
    for rank in "01":
        folder = tmp_path / rank
        folder.mkdir()
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": rank}
        processes.append(start([TRAIN, *words], folder, places, folder / "out", folder / "err"))
    first, second = processes
    wait_for(first, tmp_path / "0/out", "Epoch 2/")
    assert second.pid is not None
    os.kill(second.pid, signal.SIGSTOP)
    first.join(60)
    second.kill()
    assert_that_the_other_is_missed(first, tmp_path / "0")


def test_a_terminal_that_is_closed_saves_the_run(tmp_path: Path) -> None:
    job = faults.Job(["trainer.max_epochs=300"], tmp_path / "job")
    process = job.start()
    job.train(process)
    assert send(process, signal.SIGHUP) == 128 + signal.SIGHUP, job.error()
    assert read(tmp_path / "job/run/checkpoints/last.ckpt")["parts"]["processes"]


def test_what_is_printed_to_go_on_with_goes_on_after_an_extension(run: Run, tmp_path: Path) -> None:
    assert run("trainer.max_epochs=2").code == 0
    out, err = tmp_path / "out", tmp_path / "err"
    process = start([TRAIN, "resume=run", "trainer.max_epochs=150"], tmp_path, {}, out, err)
    wait_for(process, out, "Epoch 5/150")
    assert send(process, signal.SIGINT) == 130, err.read_text()
    assert err.read_text().rstrip().endswith("Go on with: python src/train.py resume=run")
    finished = run("resume=run")
    assert finished.code == 0, finished.err
    assert "Epoch 150/150" in finished.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_starting_ends_it_quietly(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-X", "importtime", TRAIN, f"folder={tmp_path}/run"]  # says what it imports
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "torch." in line)  # a part of torch, of which there are more
        process.send_signal(number)
        said, error = process.communicate(timeout=60)
    lines = [line for line in error.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said, lines) == (128 + number, "", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_training_ends_it_quietly(tmp_path: Path, number: int) -> None:
    job = faults.Job(["trainer.max_epochs=2"], tmp_path / "job")
    process = job.start()
    wait_for(process, job.folder / "out", "Epoch 2/2")
    assert send(process, number) in (128 + number, 0), job.error()
    assert "Traceback" not in job.said() + job.error()
    assert (tmp_path / "job/run").exists()


def test_a_folder_with_links_pipes_or_devices_is_not_written_to(run: Run, tmp_path: Path) -> None:
    assert run("trainer.max_epochs=1", "trainer.limit_train_batches=2").code == 0
    mine = tmp_path / "mine"
    mine.write_text("precious")
    for name in (".lock", "hparams.yaml", "metrics.csv", "checkpoints/x"):
        path = tmp_path / "run" / name
        path.unlink(missing_ok=True)
        path.symlink_to(mine)
        finished = run(f"resume={tmp_path}/run", "trainer.max_epochs=2")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        assert "links that lead elsewhere, such as" in finished.err
        path.unlink()
    for name in ("result.json", "metrics.csv", "checkpoints/best.ckpt"):
        path = tmp_path / "run" / name
        path.unlink(missing_ok=True)
        path.mkdir()
        finished = run(f"resume={tmp_path}/run", "trainer.max_epochs=2")
        assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
        path.rmdir()
    os.mkfifo(tmp_path / "run/hparams.yaml")
    finished = run(f"resume={tmp_path}/run", "trainer.max_epochs=2", timeout=30)
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert mine.read_text() == "precious"


def test_a_state_that_lacks_a_part_is_one_line(run: Run, made: Path) -> None:
    file = made / "checkpoints/last.ckpt"
    whole = file.read_bytes()

    def change(path: str, value: Any) -> None:
        *above, name = path.split("/")
        checkpoint = part = torch.load(file)
        for step in above:
            part = part[step]
        if value is None:
            del part[name]
        else:
            part[name] = value
        torch.save(checkpoint, file)

    for path, value in (
        ("parts", None),
        ("parts/folder", 3),
        ("parts/processes", None),
        ("loops/fit_loop/epoch_progress/total", None),
        ("state_dict/model.1.weight", None),
        ("state_dict/scaling.input_std", "x"),
        ("optimizer_states", []),
        ("epoch", "x"),
    ):
        change(path, value)
        finished = run(f"resume={made}", "trainer.max_epochs=3")
        assert (finished.code, finished.err.count("\n")) == (2, 1), (path, finished)
        file.write_bytes(whole)


def test_a_file_that_may_grow_no_further_is_one_line(tmp_path: Path) -> None:
    for kilobytes in (1, 4, 200):
        job = faults.Job([], tmp_path / f"{kilobytes}")
        assert job.finish(limit=1024 * kilobytes) in (1, 2), job.error()
        assert job.error().count("\n") == 1, job.error()
        assert "File too large" in job.error()


def test_the_lines_of_lightning_s_csv_logger_go_on_in_a_resumed_run(run: Run, tmp_path: Path) -> None:
    words = (*SHORT, "logger=csv")
    for name, epochs in (("long", 3), ("short", 2)):
        assert run(*words, f"folder={tmp_path}/{name}", f"trainer.max_epochs={epochs}").code == 0
    finished = run(f"resume={tmp_path}/short", "trainer.max_epochs=3")
    assert finished.code == 0, finished.err
    long, short = (
        [
            line
            for line in (tmp_path / name / "csv/metrics.csv").read_text().splitlines()
            if "test" not in line
        ]
        for name in ("long", "short")
    )
    assert len(short) >= len(long)
    assert set(long[1:3]) <= set(short)


def test_words_with_which_a_run_goes_on_are_applied_and_quiet(run: Run, made: Path, tmp_path: Path) -> None:
    for word in ("on_nan=skip", "checkpoint.every=3steps", "monitor=val/acc", "logger=csv", "threads=1"):
        shutil.copytree(made, tmp_path / "again")
        finished = run(f"resume={tmp_path}/again", "trainer.max_epochs=3", word)
        assert (finished.code, finished.err) == (0, ""), (word, finished)
        shutil.rmtree(tmp_path / "again")
    fewer = run(f"resume={made}", "trainer.max_epochs=1")
    assert (fewer.code, fewer.err.count("\n")) == (2, 1), fewer.err
    assert fewer.err.startswith("trainer.max_epochs=1: expected values that it takes")


def test_a_run_without_an_end_says_so_and_ctrl_c_saves_it(tmp_path: Path) -> None:
    job = faults.Job(["trainer.max_epochs=-1"], tmp_path / "job")
    process = job.start()
    wait_for(process, job.folder / "out", "Epoch 1")
    assert send(process, signal.SIGINT) == 130, job.error()
    said = job.said().splitlines()[1]
    assert said == "trainer.max_epochs=-1: trains until it is stopped, as by Ctrl-C, which saves"
    assert (tmp_path / "job/run/checkpoints/last.ckpt").exists()


def test_other_processes_than_the_run_had_are_one_line(run: Run, tmp_path: Path) -> None:
    assert run(*SHORT, "trainer.accelerator=cpu", "trainer=ddp", "trainer.devices=1").code == 0
    before = snapshot(tmp_path / "run")
    finished = run(f"resume={tmp_path}/run", "trainer.max_epochs=3", "trainer.devices=2")
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert snapshot(tmp_path / "run") == before


def test_a_folder_that_is_no_run_is_passed_over_by_resume_true(tmp_path: Path) -> None:
    for name in ("run", "without_words", "pipe"):
        (tmp_path / name).mkdir()
    (tmp_path / "run/overrides.yaml").write_text("- seed=1\n")
    (tmp_path / "without_words/config.yaml").write_text("seed: 1\n")
    os.mkfifo(tmp_path / "pipe/overrides.yaml")
    found = find_run(True, tmp_path / "new", ["seed=1"])
    assert found is not None
    assert found.path == tmp_path / "run"
