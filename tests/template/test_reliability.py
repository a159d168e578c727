"""Runs that are broken on purpose: a short version of benchmarks/faults.py, and who may resume what."""

import json
import os
import random
import shutil
import signal
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Run, finish, send, wait_for
from torch import nn

sys.path.insert(0, str(ROOT / "benchmarks"))
import faults
import fuzz

from descent.callbacks.checkpoint import parse_interval
from descent.callbacks.nan_guard import LAG, Losses, finite_gradients
from descent.errors import ConfigError
from descent.run.checkpoints import DamagedError, read

SHORT = ["data.batch_size=64", "trainer.max_epochs=2", "checkpoint.every=5steps"]


def assert_none(tally: faults.Tally) -> None:
    assert tally.faults
    assert not tally.differing, tally.notes


@pytest.mark.parametrize("name", ["accumulation", "early stopping", "augmentation"])
def test_a_killed_run_that_is_resumed_ends_as_if_it_had_never_been(tmp_path: Path, name: str) -> None:
    words = next(words for job, words in faults.JOBS.items() if name in job)
    if name == "augmentation":
        words = [
            *words,
            "+data.workers=0",
        ]  # workers outlive a kill by seconds; benchmarks/faults.py has them
    assert_none(faults.kills(words, 1, tmp_path, random.Random(1)))


def test_a_damaged_checkpoint_is_noticed_wherever_it_is_cut_and_the_one_before_is_used(
    tmp_path: Path,
) -> None:
    assert_none(faults.truncations(tmp_path, 50))


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_whole(tmp_path: Path) -> None:
    assert_none(faults.full_disk(tmp_path, (60_000,)))


def test_signals_save_and_tell_how_to_go_on(tmp_path: Path) -> None:
    assert_none(faults.signals(tmp_path, 2, random.Random(1)))


def test_nan_is_told_with_its_step_and_sample_and_is_in_no_checkpoint(tmp_path: Path) -> None:
    assert_none(faults.not_a_number(tmp_path, 1, random.Random(2)))


def test_slurm_s_warning_saves_and_requeues_and_the_requeued_job_goes_on(tmp_path: Path) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    job = faults.Job(["trainer.max_epochs=300"], tmp_path / "job", slurm)
    process = job.start()
    wait_for(process, job.folder / "out", "Epoch 1/")
    assert send(process, signal.SIGUSR1) == 128 + signal.SIGUSR1, job.error()
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    job.environment["SLURM_RESTART_COUNT"] = "1"
    process = job.start()
    job.train(process)
    process.kill()
    process.join()
    assert job.said().startswith("Resumes run from epoch ")


def test_on_nan_skip_passes_over_the_batch(run: Run) -> None:
    words = ["data._target_=augmented.digits", "+data.nan_at=3", "data.batch_size=64", "trainer.max_epochs=1"]
    finished = run(*words, "on_nan=skip", PYTHONPATH=str(ROOT / "tests"))
    assert finished.code == 0, finished.err
    assert "Step 3, batch 3: not finite, passed over" in finished.out
    weights = read(finished.folder / "run/checkpoints/last.ckpt")["state_dict"]
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_a_checkpoint_that_would_run_something_is_refused(tmp_path: Path) -> None:
    assert_none(faults.crafted(tmp_path))


def repack(file: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write an archive again, with some records in the place of its own or beside them."""
    with zipfile.ZipFile(file) as archive:
        whole = {name: archive.read(name) for name in archive.namelist()}
    top = next(iter(whole)).partition("/")[0]
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in (
            whole | {f"{top}/{name}": content for name, content in records.items()}
        ).items():
            archive.writestr(name, content)


def test_a_checkpoint_is_bounded_by_its_own_size(tmp_path: Path) -> None:
    ring: list[Any] = [torch.zeros(2)]
    ring.append(ring)
    file = tmp_path / "x.ckpt"

    def refuse(expected: str) -> None:
        with pytest.raises(DamagedError) as error:
            read(file)
        assert expected in str(error.value)
        assert "\n" not in str(error.value)

    for weights in (torch.zeros(1).expand(10**6, 10**6), torch.empty(10**6, 10**6, device="meta")):
        torch.save({"x": weights, "ring": ring}, file)
        refuse("expected tensors that fit in the file; one has 1,000,000,000,000 numbers")
    for content, expected in (
        (
            b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\xff\xff\xff\xff\xff\x0f\x85R.",
            "an archive of another kind",
        ),
        (b"\x80\x02}(X\x01\x00\x00\x00aX\xff\xff\xff\x7f.", "a checkpoint of torch"),
        (b"\x80\x02]" + b"]" * 100_000 + b".", "it holds a list"),
    ):
        torch.save({"x": torch.zeros(2)}, file)
        repack(file, {"data.pkl": content})
        refuse(expected)
    torch.save({"x": torch.zeros(2)}, file)
    repack(file, {"data/1": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    refuse("an archive of another kind")
    torch.save({"x": torch.zeros(2)}, file)
    repack(file, {"constants.pkl": b"", "code/x.py": b""})  # as TorchScript has
    refuse("an archive of another kind")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="it is not a regular file"):
        read(file)


def test_resume_without_a_run_to_resume_is_one_line(run: Run) -> None:
    finished = run("resume=true")
    assert finished.code == 2
    assert finished.err.startswith("resume=true: expected a run of this same command in")
    assert not (finished.folder / "run").exists()


def test_a_finished_run_resumed_is_the_same_run_and_can_be_made_longer(run: Run, tmp_path: Path) -> None:
    assert run(*SHORT).code == 0
    before = faults.ending(tmp_path / "run")
    # as a kill leaves it that comes between the two renames of the last save
    (tmp_path / "run/checkpoints/last.ckpt").rename(tmp_path / "run/checkpoints/new.ckpt")
    assert run(*SHORT, "resume=true").code == 0
    assert not faults.differences(before, faults.ending(tmp_path / "run"))
    shutil.move(tmp_path / "run", tmp_path / "moved")
    longer = run(f"resume={tmp_path}/moved", "trainer.max_epochs=3", "hydra.verbose=false")
    assert longer.code == 0, longer.err
    assert (tmp_path / "moved/metrics.csv").read_text().count("\n") == 4
    assert json.loads((tmp_path / "moved/result.json").read_text())["epochs"] == 3
    assert not (tmp_path / "run").exists()


def test_a_run_is_only_resumed_as_it_was(run: Run, tmp_path: Path) -> None:
    assert run(*SHORT).code == 0
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 0.002"))
    finished = run(*SHORT, "resume=true")
    assert finished.code == 2
    assert "expected that optimizer.lr stays 0.002; it would be 0.001 now" in finished.err


def test_a_folder_with_other_words_than_a_run_has_is_refused(run: Run, tmp_path: Path) -> None:
    for word in ("hydra.searchpath=[/tmp]", "--config-dir=/tmp"):
        folder = tmp_path / "crafted"
        folder.mkdir(exist_ok=True)
        (folder / "overrides.yaml").write_text(f"- {word}\n")
        finished = run(f"resume={folder}", "hydra.verbose=false")
        assert finished.code == 2
        assert "expected keys of the config and words of its groups" in finished.err


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("auto", (0, "auto")),
        ("100steps", (100, "step")),
        ("1 epoch", (1, "epoch")),
        ("10minutes", (10, "minute")),
    ],
)
def test_how_often_to_save_is_said_in_words(every: str, expected: tuple[int, str]) -> None:
    assert parse_interval(every) == expected
    with pytest.raises(ConfigError, match="every=often"):
        parse_interval("often")


def test_a_bad_loss_on_a_device_is_found_without_waiting_for_it() -> None:
    class Elsewhere(torch.Tensor):
        """Says that it is not on the CPU, as a loss on a GPU does."""

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("meta")

    def locate(step: int) -> tuple[int, int, int]:
        return step + 1, step % 20, step // 20

    losses, found = Losses(), None
    for step in range(3 * LAG):
        value = torch.tensor(float("nan") if step == 25 else 1.0).as_subclass(Elsewhere)
        if found := losses.look(value, partial(locate, step)):
            break
    assert found is not None
    assert (found.step, found.batch, found.epoch) == (26, 5, 1)
    assert step < 2 * LAG


def test_wrong_command_lines_of_all_kinds_are_told_in_one_line_or_run(tmp_path: Path) -> None:
    # each ninth of 580; benchmarks/faults.py tries all
    finished = finish([str(ROOT / "tests" / "fuzz.py"), "9"], tmp_path, {}, timeout=300)
    assert finished.code == 0, finished.err
    tried = [json.loads(line) for line in finished.out.splitlines()]
    assert len(tried) > 60
    assert not [(one["words"], fault) for one in tried if (fault := fuzz.fault(one))]


def test_gradients_that_are_not_numbers_are_seen() -> None:
    layer = nn.Linear(2, 1)
    assert finite_gradients(layer.parameters())
    layer.weight.grad = torch.tensor([[1.0, float("nan")]])
    assert not finite_gradients(layer.parameters())
