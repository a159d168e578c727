"""A run that goes on is the run it was, to the last bit, or is refused in one line; nothing is ever lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, TRAIN, Run, make_run, start, wait_for

sys.path.insert(0, str(ROOT / "benchmarks"))
import faults

from descent.callbacks.checkpoint import parse_interval
from descent.cli.resume import find_resumed
from descent.errors import ConfigError, Stopped
from descent.run.checkpoints import CheckpointFiles, read
from descent.run.folder import RunFolder, claim
from descent.run.rewind import rewind

SHORT = ("data.batch_size=64", "trainer.max_epochs=2", "checkpoint.every=5steps")
DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
KILL = "+callbacks.kill._target_=plain.Kill"  # sends a signal after the step that KILL_AT names
PLAIN = (KILL, "module._target_=plain.Module", "data._target_=plain.Data", "trainer.max_epochs=3")
EVERY, LONGER = "checkpoint.every=1epoch", "trainer.max_epochs=3"
SCHEDULE = ("scheduler=one_cycle", "trainer.limit_train_batches=4")
SWA = "lightning.pytorch.callbacks.StochasticWeightAveraging"
AVERAGED = (f"+callbacks.swa={{_target_: {SWA}, swa_lrs: 0.01}}",)

# what a run is, and the step after which it is killed
JOBS = {
    "dropout, cosine by step": ((*SHORT, KILL, "scheduler=cosine", "model.dropout=0.3"), 33),
    "accumulation, one cycle": (
        (*SHORT, KILL, "optimizer=sgd", "optimizer.momentum=0.9", "scheduler=one_cycle",
         "scheduler.max_lr=0.1", "trainer.accumulate_grad_batches=3"), 12,
    ),
    "accumulation that changes": (
        (*SHORT, KILL, "+callbacks.more={_target_:lightning.pytorch.callbacks.GradientAccumulationScheduler,"
         "scheduling:{0:2,1:1}}", "trainer.max_epochs=3"), 29,
    ),
    "early stopping, plateau, validation within epochs": (
        (*SHORT, KILL, "callbacks=early_stopping", "callbacks.early_stopping.patience=2", "scheduler=plateau",
         "optimizer.lr=0.03", "trainer.val_check_interval=0.4", "trainer.max_epochs=4"), 19,
    ),
    "averaged weights": ((*SHORT, KILL, "callbacks=ema", "callbacks.ema.decay=0.9"), 33),
    "augmentation": ((KILL, "data._target_=augmented.Digits", "+data.workers=0", *SHORT[1:]), 32),
    "the fast loop": ((*SHORT, KILL, "trainer=fast"), 33),
    "plain Lightning, two workers": ((*PLAIN, EVERY, "+data.workers=2"), 60),
    "a stream without a length": ((*PLAIN, EVERY, "+data.kind=stream"), 25),
    "two optimizers by hand": ((*PLAIN, EVERY, "module._target_=plain.Pair"), 120),
    "a loader with a state": (
        (KILL, "data._target_=plain.Data", "+data.kind=stateful", "model._target_=plain.net",
         "metrics=none", "loss=cross_entropy", "trainer.max_epochs=3", "checkpoint.every=4steps"), 35,
    ),
}  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_a_killed_run_that_is_resumed_ends_as_if_nothing_had_been(run: Run, tmp_path: Path, job: str) -> None:
    words, step = JOBS[job]
    if "trainer=fast" in words:
        pytest.importorskip("descent.fast", reason="a room that may be taken out")
    whole = run(*words, f"folder={tmp_path}/whole")
    assert whole.code == 0, whole.err
    assert run(*words, KILL_AT=str(step)).code == -signal.SIGKILL
    resumed = run(*words, "resume=true")
    assert (resumed.code, resumed.err) == (0, whole.err), resumed
    assert resumed.out.startswith("Resumes run from epoch "), resumed.out
    assert not faults.differences(faults.ending(tmp_path / "whole"), faults.ending(tmp_path / "run"))
    previous, last = (read(tmp_path / f"run/checkpoints/{name}.ckpt") for name in ("previous", "last"))
    assert previous["global_step"] < last["global_step"]
    once = "Checkpoints are written only at the start of an epoch, because DataLoader cannot"
    assert whole.out.count(once) == (words[1:3] == PLAIN[1:3]), whole.out


def test_a_resumed_run_goes_on_wherever_it_is_and_is_made_longer(run: Run, tmp_path: Path) -> None:
    assert run(*SHORT, LONGER, f"folder={tmp_path}/whole").code == run(*SHORT).code == 0
    before, result = faults.ending(tmp_path / "run"), tmp_path / "run/result.json"
    result.write_text(result.read_text().partition(',\n  "test"')[0] + "}")  # as if killed before its test
    assert run(*SHORT, "resume=true").code == 0  # a run that has ended stays as it is
    assert not faults.differences(before, faults.ending(tmp_path / "run"))
    shutil.move(tmp_path / "run", tmp_path / "moved")
    moved = RunFolder(tmp_path / "moved")
    shutil.copy(moved.last, moved.previous)
    moved.last.write_bytes(moved.last.read_bytes()[:-1000])
    longer = run("resume=moved", LONGER, f"folder={tmp_path}/moved")
    assert longer.code == 0, longer.err
    assert "; it is skipped\nResumes moved from epoch 3, step 46 (previous.ckpt)" in longer.out
    assert not faults.differences(faults.ending(tmp_path / "whole"), faults.ending(tmp_path / "moved"))
    assert not (tmp_path / "run").exists()
    config, overrides = (yaml.safe_load(file.read_text()) for file in (moved.config, moved.overrides))
    assert (config["trainer"]["max_epochs"], config["folder"]) == (3, str(tmp_path / "moved"))
    assert LONGER in overrides
    fewer = run("resume=moved", "trainer.max_epochs=1", f"folder={tmp_path}/moved")
    assert (fewer.code, fewer.err.count("\n")) == (2, 1), fewer.err


@pytest.mark.parametrize(
    ("words", "key", "short", "long"),
    [
        ((*PLAIN, EVERY, "+data.kind=stream"), "trainer.max_epochs", 1, 2),
        (("data.batch_size=64",), "trainer.max_steps", 46, 80),
    ],
)
def test_a_finished_run_on_a_stream_or_of_so_many_steps_is_made_longer(
    run: Run, tmp_path: Path, words: tuple[str, ...], key: str, short: int, long: int
) -> None:
    for name, length in (("short", short), ("long", long)):
        assert run(*words, f"{key}={length}", f"folder={tmp_path}/{name}").code == 0
    finished = run(f"resume={tmp_path}/short", f"{key}={long}", "allow=[plain]")
    assert (finished.code, finished.err) == (0, ""), finished
    one, other = (faults.ending(tmp_path / name) for name in ("short", "long"))
    different = faults.differences(one, other)
    assert not [name for name in different if "test/" not in name and "tens" not in name]


# ---- what may change ---------------------------------------------------------------------------------------


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


def assert_refused(run: Run, made: Path, *words: str) -> str:
    """One line, exit code 2, and nothing of the folder changed; returns the line."""
    before = snapshot(made)
    finished = run(f"resume={made}", *words)
    assert (finished.code, finished.err.count("\n")) == (2, 1), (words, finished)
    assert snapshot(made) == before
    return finished.err


AGAIN = "start a new run from its weights by init_from=run"


@pytest.mark.parametrize(
    ("first", "words", "told"),
    [
        ((), ("data.batch_size=32",), f"=32: expected 64, as in the resumed run; {AGAIN}"),
        ((), ("loss=mae",), f"loss=mae: expected default, as in the resumed run; {AGAIN}"),
        ((), ("experiment=tutorial",), f"experiment=tutorial: expected None, as in the resumed run; {AGAIN}"),
        ((), ("model.hidden=[32]",), "model.hidden=[32]: expected [256]"),
        ((), ("freeze=['1.*']",), "freeze=['1.*']: expected []"),
        ((), ("callbacks=none",), "callbacks=none: expected the callback checkpoint"),
        ((), ("trainer.max_epoch=3",), "nearest: trainer.max_epochs"),
        (SCHEDULE, ("optimizer.lr=1.0",), "optimizer.lr=1.0: expected"),
        (SCHEDULE, (LONGER,), "expected 2, because scheduler.total_steps=null makes the schedule as long"),
        (AVERAGED, (f"allow=[{SWA}]", LONGER), "StochasticWeightAveraging"),
        ((*DDP, "trainer.devices=1"), ("trainer.devices=2", LONGER), "devices=2: expected 1 processes"),
        (("trainer.max_steps=30",), ("trainer.max_steps=60",), "expected 30, because the run ended there"),
    ],
)  # fmt: skip
def test_what_would_make_another_run_of_it_or_cannot_be_exact_is_refused(
    run: Run, made: Path, first: tuple[str, ...], words: tuple[str, ...], told: str
) -> None:
    if first:
        shutil.rmtree(made)
        assert run(*SHORT, *first).code == 0
    assert told in assert_refused(run, made, *words)


def test_what_may_change_changes_and_is_kept(run: Run, made: Path) -> None:
    words = (LONGER, "optimizer.lr=0.05", "checkpoint.every=3steps", "logger=csv")
    finished = run(f"resume={made}", *words)
    assert (finished.code, finished.err) == (0, ""), finished
    (group,) = read(made / "checkpoints/last.ckpt")["optimizer_states"][0]["param_groups"]
    assert group["lr"] == 0.05
    config = yaml.safe_load((made / "config.yaml").read_text())
    assert (config["optimizer"]["lr"], list(config["logger"])) == (0.05, ["csv"])
    assert (made / "csv/metrics.csv").exists()
    assert run(f"resume={made}").code == 0  # with the words that it has by now


def test_other_data_than_the_run_has_seen_is_refused(run: Run, tmp_path: Path) -> None:
    inputs, targets = np.random.default_rng(0).normal(size=(120, 3)), np.arange(120) % 4
    np.save(tmp_path / "x.npy", inputs)
    np.save(tmp_path / "y.npy", targets)
    assert run("data=arrays", "data.inputs=x.npy", "data.targets=y.npy", "trainer.max_epochs=1").code == 0
    np.save(tmp_path / "x.npy", inputs[::-1])
    told = assert_refused(run, tmp_path / "run", "trainer.max_epochs=2")
    assert "the data that the run was trained on; the samples have different values or a" in told
    np.save(tmp_path / "x.npy", inputs)
    assert run(f"resume={tmp_path}/run", "trainer.max_epochs=2").code == 0


def test_a_damaged_checkpoint_never_takes_the_place_of_the_one_before(run: Run, made: Path) -> None:
    folder = RunFolder(made)
    good = folder.last.read_bytes()
    folder.previous.write_bytes(good)
    folder.last.write_bytes(good[:1000])
    path, trim = rewind(folder)
    assert path == folder.previous
    trim()
    CheckpointFiles(made).save_checkpoint({}, folder.last)
    assert folder.previous.read_bytes() == good
    for file in (made / "checkpoints").glob("*.ckpt"):  # which is no run without a checkpoint
        file.write_bytes(good[:1000])
    assert "expected a checkpoint that can be read" in assert_refused(run, made)


def test_resume_true_finds_the_newest_run_of_this_command(run: Run, tmp_path: Path) -> None:
    finished = run("resume=true")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith("resume=true: expected an earlier run of this command in")
    assert not (finished.folder / "run").exists()
    for name in ("run", "without_words", "pipe"):
        (tmp_path / name).mkdir()
    (tmp_path / "run/overrides.yaml").write_text("- seed=1\n")
    for name in ("run", "without_words"):
        (tmp_path / name / "config.yaml").write_text("seed: 1\n")
    os.mkfifo(tmp_path / "pipe/overrides.yaml")
    found = find_resumed(True, tmp_path / "new", ["seed=2", "seed=1"])  # a resumed run keeps the last
    assert found is not None and found.path == tmp_path / "run"


# ---- signals, disks, terminals -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(run: Run, tmp_path: Path, number: signal.Signals) -> None:
    signalled = {"KILL_AT": "7", "KILL_WITH": str(int(number))}
    stopped = run("trainer.max_epochs=-1", KILL, **signalled)
    assert "\ntrainer.max_epochs=-1: trains until you stop it; Ctrl-C saves and ends it" in stopped.out
    assert stopped.code == 128 + number
    said = [line for line in stopped.err.splitlines() if line]
    assert said[0].startswith(f"{number.name}: finishing the step and saving")
    assert said[1].startswith("Stopped and saved in epoch 1, after step 7. Continue with: ")
    assert said[1].endswith("python src/train.py resume=run") and len(said) == 2
    assert read(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_starting_ends_it_quietly(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-X", "importtime", TRAIN, f"folder={tmp_path}/run"]  # says what it imports
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "torch." in line)  # a part of torch, of which there are more
        process.send_signal(number)
        said, error = process.communicate(timeout=60)
    lines = [line for line in error.splitlines() if not line.startswith("import time:")]
    assert (said, lines) == ("", [])
    assert process.returncode in (-number, 128 + number)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_of_the_output_that_goes_away_counts_as_a_closed_terminal(tmp_path: Path) -> None:
    def shell(words: str, first: str = "") -> subprocess.CompletedProcess[str]:
        line = ["bash", "-c", f"{first}{sys.executable} {TRAIN} {words}"]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    answer = shell(f"trainer.max_epochs=2000 folder={tmp_path}/run | head -2", "set -o pipefail; ")
    assert answer.returncode == 128 + signal.SIGHUP, answer
    assert answer.stderr.count("\n") == 3  # with an empty one
    assert "Stopped and saved in epoch" in answer.stderr
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()
    assert shell("--help | head -1").stderr == ""
    assert shell(f"trainer.max_epochs=1 folder={tmp_path}/closed >&- 2>&-").returncode == 0


def test_slurm_s_warning_saves_and_requeues_and_the_requeued_job_goes_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    warned = run(*SHORT, KILL, KILL_AT="7", KILL_WITH=str(int(signal.SIGUSR1)), **slurm)
    assert warned.code == 128 + signal.SIGUSR1, warned.err
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    again = run(*SHORT, KILL, SLURM_RESTART_COUNT="1", **slurm)
    assert again.out.startswith("Resumes run from epoch 1, step 7 "), again


def test_a_file_that_may_grow_no_further_is_one_line_about_the_disk(tmp_path: Path) -> None:
    assert not (tally := faults.full_disk(tmp_path, (60_000,))).differing, tally.notes
    empty = faults.Job([], tmp_path / "empty")
    assert empty.finish(limit=4096) in (1, 2), empty.error()
    assert empty.error().count("\n") == 1 and "File too large" in empty.error()
    full = faults.Job(["trainer.max_epochs=2", "data.batch_size=256"], tmp_path / "full")
    assert full.finish() == 0
    full.words[0] = f"resume={full.folder}/run"
    code, told = full.finish("trainer.max_epochs=3", limit=300), full.error()
    assert (code, told.count("\n")) == (1, 1), told
    assert "could not be written" in told and "logger" not in told


def test_nan_is_told_with_its_step_and_sample_and_is_in_no_checkpoint(tmp_path: Path) -> None:
    assert not (tally := faults.not_a_number(tmp_path, 1, random.Random(2))).differing, tally.notes


def test_a_damaged_checkpoint_is_noticed_wherever_it_is_cut(tmp_path: Path) -> None:
    assert not (tally := faults.truncations(tmp_path, 30)).differing, tally.notes


def test_a_folder_that_goes_away_is_one_line(tmp_path: Path) -> None:
    job = faults.Job(["trainer.max_epochs=3000", "checkpoint.every=20steps"], tmp_path / "job")
    process = job.start()
    job.train(process)
    (tmp_path / "job/run").rename(tmp_path / "job/moved")
    process.join(60)
    assert (process.exitcode, job.error().count("\n")) == (1, 1), job.error()
    assert "could not be written" in job.error()


def test_a_process_that_is_killed_ends_the_others_with_one_line(tmp_path: Path) -> None:
    words = [*DDP, "trainer.max_epochs=400", f"folder={tmp_path}/run"]
    process = start([TRAIN, *words], tmp_path, {}, tmp_path / "out", tmp_path / "err")
    wait_for(process, tmp_path / "out", "Epoch 2/")
    command = ["pgrep", "-P", str(process.pid), "-f", "train.py"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
    process.join(60)
    error = (tmp_path / "err").read_text()
    # Lightning watches its processes too, and may end this one while it leaves
    assert process.exitcode in (1, -signal.SIGKILL), error
    assert error.startswith("Another process of this run has ended or does not answer.")
    assert "Traceback" not in error


# ---- parts -------------------------------------------------------------------------------------------------


def test_a_failing_run_removes_what_it_made_and_nothing_else(tmp_path: Path) -> None:
    def left(name: str, *files: str, error: Exception | None = None, ends: type = ConfigError) -> list[str]:
        """Claim a folder, write files in it, fail, and return the names of what is left."""
        with pytest.raises(ends), claim(tmp_path / name, False, lambda run: {run.config: "a: 1\n"}) as folder:
            assert folder.config.read_text() == "a: 1\n"
            for file in files:
                (folder.path / file).parent.mkdir(parents=True, exist_ok=True)
                (folder.path / file).write_text("")
            raise error or ConfigError("a", expected="something else")
        return sorted(path.name for path in (tmp_path / name).rglob("*"))

    assert left("made/by/it", "events.out.tfevents.1", "csv/hparams.yaml") == []
    assert left("run", "notes/mine.part", "events.out.tfevents.1", ".x.part") == ["mine.part", "notes"]
    assert {"config.yaml", "last.ckpt"} < {*left("saved", "models/last.ckpt")}
    # a file that is missing is no folder that went away
    assert left("new", error=FileNotFoundError(2, "x"), ends=FileNotFoundError) == []
    assert {path.name for path in tmp_path.iterdir()} == {"run", "saved"}
    with pytest.raises(Stopped), claim(tmp_path / "gone", False, lambda _: {}) as folder:
        folder.lock.unlink()
        folder.path.rmdir()
        folder.path.write_text("mine")
        raise OSError
    assert (tmp_path / "gone").read_text() == "mine"


def test_a_run_that_came_to_no_checkpoint_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("metrics.csv", "events.out.tfevents.1", ".x.part"):
        (tmp_path / name).write_text("x")
    assert rewind(RunFolder(tmp_path))[0] is None
    assert list(tmp_path.iterdir()) == []
    assert "because it has no checkpoint yet" in capsys.readouterr().out


def test_how_often_to_save_is_said_in_words() -> None:
    words = {
        "auto": (0, "auto"),
        "100steps": (100, "step"),
        "1 epoch": (1, "epoch"),
        "5minutes": (5, "minute"),
    }
    assert {every: parse_interval(every) for every in words} == words
