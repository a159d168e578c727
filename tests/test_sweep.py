"""A sweep: the same bits as runs alone, an answer at its end, and nothing lost whatever is killed."""

import json
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import conftest
import pytest
import torch
from conftest import TRAIN, Run, finish, send
from pretended import tell_session

from descent.errors import ConfigError
from descent.sweep.conduct import launch_batches
from descent.sweep.plan import DONE, PLAN, Plan, Point, Source, find_plan, name_folder
from descent.sweep.workers import Limits, Workers

SHORT = ["trainer.max_epochs=2", "data.batch_size=64"]
WORDS = ["loss=mae,cross_entropy", "optimizer=sgd,adam", "seed=0,1", *SHORT]


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def assert_same(one: Path, other: Path) -> None:
    for name in ("last", "best"):
        first, second = weights(one, name), weights(other, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def results(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    answer = finish([TRAIN, "-m", *WORDS, f"folder={folder}/sweep"], folder, {}, 120)
    assert answer.code == 0, answer.err
    (folder / "out").write_text(answer.out)
    return folder / "sweep"


def test_each_run_has_the_weights_that_it_has_alone(undisturbed: Path, run: Run, tmp_path: Path) -> None:
    assert len(results(undisturbed)) == 8
    for loss, optimizer in (("mae", "adam"), ("cross_entropy", "sgd")):
        assert (
            run(f"loss={loss}", f"optimizer={optimizer}", "seed=1", *SHORT, f"folder={tmp_path}/{loss}").code
            == 0
        )
        assert_same(undisturbed / f"loss={loss},optimizer={optimizer},seed=1", tmp_path / loss)


def test_it_ends_with_a_ranking_in_words_and_files(undisturbed: Path) -> None:
    out = (undisturbed.parent / "out").read_text()
    assert "\nbest  " in out
    assert "Epoch" not in out  # what each run prints is in its folder
    assert "Epoch 2/2" in (undisturbed / "loss=mae,optimizer=sgd,seed=0/log.txt").read_text()
    assert "Ranked by val/acc at each run's best epoch by val/loss" in out
    assert "\nBest run:    python " in out
    lines = (undisturbed / "ranking.csv").read_text().splitlines()
    assert lines[0].startswith("rank,loss,optimizer,")
    assert len(lines) == 1 + 4  # choices, each over two seeds
    assert (undisturbed / "ranking.md").read_text().startswith("|  | loss | optimizer | val/acc | ")
    assert (undisturbed / "curves.png").read_bytes().startswith(b"\x89PNG")
    best = out.split("Best run:    python ")[1].splitlines()[0].split()[1:]
    assert {word.partition("=")[0] for word in best} == {
        "loss",
        "optimizer",
        "seed",
        "trainer.max_epochs",
        "data.batch_size",
    }


def test_what_is_done_is_left_alone_and_values_are_added(undisturbed: Path, run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("*/result.json")}
    again = run("-m", *WORDS, "resume=true", f"folder={undisturbed}")
    assert again.code == 0, again.err
    assert "8 runs, 8 of them done" in again.out
    more = run("-m", f"resume={undisturbed}", "seed=2", "optimizer=sgd")
    assert more.code == 0, more.err
    assert "12 runs, 8 of them done" in more.out
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert len(results(undisturbed)) == 12


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["loss=mae,mea"], "loss=mea: expected one of"),
        (["data.batch_size=16,many"], "data.batch_size=many: expected a whole number"),
        (["optimizer.lr=interval(0.1,1)"], "or search="),
        (["seed=0,1", "folder=${name}"], "expected the folder of the sweep"),
        (["seed=0,1", "resume=true"], "expected a sweep of these words"),
        (["search=tpee", "optimizer.lr=interval(0.1,1)"], "search=tpee: expected one of"),
        (
            ["search=random", "search.startup=0", "optimizer.lr=interval(0.1,1)"],
            "search.startup=0: expected a",
        ),
        (["search=random", "loss=mae"], "expected words with several values, or with a range"),
        (["search=random", "optimizer.lr=tag(log,interval(0,1))"], "expected an interval from a lower"),
        (["seed=0,1", "jobs=0"], "jobs=0: expected auto, or how many"),
        (["search=random", "optimizer.lr=0.1,1", "trials=auto"], "trials=auto: expected how many runs"),
        (["seed=0,1", "nope=1"], "nope=1: expected a key of the config"),
        (
            ["search=halving", "optimizer.lr=0.1,1", "hydra/launcher=basic"],
            "search.reduction=3: expected null beside a launcher",
        ),
    ],
)
def test_bad_words_end_before_the_first_run(run: Run, tmp_path: Path, words: list[str], told: str) -> None:
    folder = [] if any("folder" in word for word in words) else ["folder=sweep"]
    if "resume=true" in words:
        folder = [f"folder={tmp_path}/none/sweep"]
    finished = run("-m", *words, *folder)
    assert finished.code == 2, finished.out
    assert told in finished.err
    assert finished.err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_another_sweep_in_the_folder_is_refused(run: Run, undisturbed: Path) -> None:
    for words in (
        ["seed=0,1"],
        ["seed=0,1", "resume=true"],
        ["model.hidden=[8],[9]", f"resume={undisturbed}"],
    ):
        finished = run("-m", *words, f"folder={undisturbed}")
        assert (finished.code, finished.err.count("\n")) == (2, 1)
    finished = run("-m", *WORDS, f"folder={undisturbed}")
    assert finished.err.startswith(
        f"folder={os.path.relpath(undisturbed, finished.folder)}: expected a folder without"
    )


def test_a_run_that_fails_is_told_and_the_others_go_on(run: Run) -> None:
    finished = run("-m", "seed=0,1", "optimizer=sgd", "optimizer.lr=1e30,0.01", *SHORT, "folder=sweep")
    assert finished.code == 1
    assert "2 runs in " in finished.out
    first = finished.out.index("failed: seed=0,optimizer.lr=1e+30: The loss is nan at step 2")
    assert first < finished.out.index("\nbest  ") < finished.out.rindex("failed: seed=0")
    assert "Traceback" not in finished.out + finished.err
    again = run("-m", "resume=sweep")
    assert again.code == 1
    assert "4 runs, 2 of them done" in again.out


def test_a_single_run_and_one_of_an_experiment_that_is_a_sweep_can_be_resumed(
    run: Run, tmp_path: Path
) -> None:
    words = ["experiment=mae_vs_cross_entropy", "trainer.max_epochs=1", "folder=sweep"]
    assert run(*words).code == 0
    one = run(f"resume={tmp_path}/sweep/loss=mae", "trainer.max_epochs=2")
    assert one.code == 0, one.err
    assert "Epoch 2/2" in one.out


# ---- kills and signals -------------------------------------------------------------------------------------


def start(folder: Path, *words: str) -> BaseProcess:
    """Start a sweep and do not wait for it."""
    return conftest.start([TRAIN, "-m", *words], folder, {}, folder / "out", folder / "err")


def workers_of(process: BaseProcess) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def wait_for_metrics(folder: Path, number: int = 1) -> None:
    limit = time.monotonic() + 60
    while len(list(folder.glob("*/metrics.csv"))) < number and time.monotonic() < limit:
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of children")
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_after_sigkill_a_sweep_ends_as_an_undisturbed_one(
    undisturbed: Path, tmp_path: Path, victim: str, run: Run
) -> None:
    process = start(tmp_path, *WORDS, "folder=sweep", "checkpoint.every=10steps")
    wait_for_metrics(tmp_path / "sweep", random.Random(victim).randrange(1, 5))
    if victim == "worker":
        os.kill(workers_of(process)[0], signal.SIGKILL)
        process.join(60)
        assert process.exitcode == 1
    else:
        assert send(process, signal.SIGKILL) == -signal.SIGKILL
    finished = run("-m", *WORDS, "checkpoint.every=10steps", "folder=sweep", "resume=true")
    assert finished.code == 0, finished.err
    for name in ("loss=mae,optimizer=adam", "loss=cross_entropy,optimizer=sgd"):
        for seed in (0, 1):
            assert_same(undisturbed / f"{name},seed={seed}", tmp_path / f"sweep/{name},seed={seed}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_every_run_and_says_how_to_go_on(tmp_path: Path, number: int, run: Run) -> None:
    words = ["seed=0,1", "trainer.max_epochs=300", "folder=sweep", "jobs=2"]
    process = start(tmp_path, *words)
    wait_for_metrics(tmp_path / "sweep", 2)
    assert send(process, number) == 128 + number
    out = (tmp_path / "out").read_text() + (tmp_path / "err").read_text()
    assert "Stopped and saved: 0 of 2 runs are done. Go on with: python " in out
    assert " -m resume=sweep" in out
    assert "Traceback" not in out
    for log in tmp_path.glob("sweep/*/log.txt"):
        assert "Stopped and saved in epoch" in log.read_text()
    assert len(list(tmp_path.glob("sweep/*/checkpoints/last.ckpt"))) == 2


def test_a_sweep_that_runs_is_not_run_a_second_time(tmp_path: Path, run: Run) -> None:
    process = start(tmp_path, "seed=0,1", "trainer.max_epochs=300", "folder=sweep")
    wait_for_metrics(tmp_path / "sweep")
    finished = run("-m", "resume=sweep")
    assert send(process, signal.SIGTERM) == 128 + signal.SIGTERM
    assert (finished.code, finished.err) == (2, "resume=sweep: expected what has ended; this is running\n")


def test_what_a_sweeps_folder_says_runs_no_code(run: Run, tmp_path: Path) -> None:
    for word in (
        "loss._target_=os.system",
        "+callbacks.x={_target_: os.system}",
        "hydra/launcher=joblib",
        "+logger.tensorboard.comment=${oc.env:HOME}",
        "seed",
    ):
        folder = tmp_path / "crafted"
        folder.mkdir(exist_ok=True)
        plan = Plan(folder, [word], {"seed": ["0", "1"]})
        content = {"words": plan.words, "values": plan.values, "search": {}}
        (folder / PLAN).write_text(json.dumps(content))
        finished = run("-m", "resume=crafted")
        assert (finished.code, finished.err.count("\n")) == (2, 1), word
        assert [path.name for path in folder.iterdir()] == [PLAN]


def test_the_newest_sweep_of_the_same_words_is_found(tmp_path: Path) -> None:
    plans = [Plan(tmp_path / name, ["a=1"], {"seed": ["0"]}) for name in ("old", "new", "other")]
    plans[2].words = ["a=2"]
    for at, plan in enumerate(plans):
        plan.folder.mkdir()
        plan.write()
        os.utime(plan.folder / PLAN, (at, at))
    found = find_plan(Plan(tmp_path / "x", ["a=1"], {"seed": ["0", "1"]}), tmp_path)
    assert found is not None
    assert found.folder.name == "new"
    assert find_plan(Plan(tmp_path / "x", ["a=1"], {"loss": ["mae"]}), tmp_path) is None


def test_a_run_of_two_processes_is_a_command_of_its_own(run: Run, tmp_path: Path) -> None:
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "seed=0,1", *SHORT]
    finished = run("-m", *words, "folder=sweep")
    assert finished.code == 0, finished.err
    assert [result["steps"] for result in results(tmp_path / "sweep").values()] == [2 * 12] * 2


# ---- Hydra's launchers -------------------------------------------------------------------------------------


def test_a_launcher_of_hydras_gives_the_same_runs_and_the_ranking(run: Run, tmp_path: Path) -> None:
    words = ["loss=mae,cross_entropy", "seed=0", "optimizer=adam", *SHORT]
    ours = run("-m", *words, "folder=ours")
    theirs = run("-m", "hydra/launcher=basic", *words, "folder=theirs")
    assert (ours.code, theirs.code) == (0, 0), theirs.err
    for loss in ("mae", "cross_entropy"):
        assert_same(tmp_path / f"ours/loss={loss}", tmp_path / f"theirs/loss={loss}")
        assert "Epoch 2/2" in (tmp_path / f"theirs/loss={loss}/log.txt").read_text()
    assert "\nbest  " in theirs.out
    again = run("-m", "hydra/launcher=basic", "resume=theirs", "loss=mae,mse")
    assert again.code == 0, again.err
    assert "3 runs, 2 of them done" in again.out


def test_a_launcher_that_loses_a_run_does_not_cost_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(tmp_path, [], {"seed": ["0", "1", "2"]})
    lost = ConfigError("hydra/launcher", "x", expected="values that Hydra takes (time limit)")

    def launch(points: list[Point]) -> None:
        for point in points:
            if point.values["seed"] != "1":
                point.folder.path.mkdir()
                point.folder.config.touch()
                (point.folder.path / DONE).touch()
        raise lost

    failed = launch_batches(Source(plan.points()), launch, size=3)
    assert [point.name for point in failed] == ["seed=1"]
    assert capsys.readouterr().out == f"{lost.line({})}\n"
    with pytest.raises(ConfigError):  # no run was started: the words are wrong
        launch_batches(Source(plan.points()), launch, size=3)


def test_a_launcher_that_is_not_there_is_one_line(run: Run) -> None:
    finished = run("-m", "hydra/launcher=nope", "seed=0,1", "folder=sweep")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert "hydra/launcher" in finished.err


# ---- parts -------------------------------------------------------------------------------------------------


def test_folders_have_readable_names_that_differ() -> None:
    assert name_folder(["loss=mae", "seed=0"]) == "loss=mae,seed=0"
    assert name_folder(["model.hidden=[64,64]"]) == "model.hidden=64,64"
    odd = {name_folder([f"data.path={text}"]) for text in ("a/b", "a b", "a:b", "x" * 300, "x" * 301)}
    assert len(odd) == 5
    assert all(len(name) < 150 and "/" not in name for name in odd)


class Counted(Source):
    """Points that wait to be run, and how many at most were out at the same time."""

    out = most = 0

    def take(self) -> Point | None:
        point = super().take()
        self.out += point is not None
        self.most = max(self.most, self.out)
        return point

    def ended(self, point: Point) -> None:
        self.out -= 1


@pytest.mark.parametrize(
    ("limits", "devices"),
    [
        (Limits(None, 2, ["4", "7"], None, 1, spawn=True), [["4", "7"], 2]),
        (Limits(None, 8, ["4", "7"], None, 2, spawn=False), [["4,7"], 1]),
        (Limits(4, 8, ["4"], None, 1, spawn=False), [["4"], 4]),
        (Limits(None, 3, [], 2, 1, spawn=False), [["None"], 1]),
        (Limits(None, 4, [], 1, 2, spawn=False), [["None"], 2]),
    ],
)
def test_a_gpu_has_one_run_and_cores_have_as_many_as_their_threads(
    tmp_path: Path, limits: Limits, devices: list
) -> None:
    plan = Plan(tmp_path / "sweep", [], {"seed": ["0", "1", "2", "3"]})
    plan.folder.mkdir()
    source, workers = Counted(plan.points()), Workers(tell_session, limits, lambda workers: None)
    assert workers.run(source) is None
    assert workers.failed == {}
    said = [(tmp_path / f"sweep/seed={seed}/log.txt").read_text().split() for seed in range(4)]
    assert sorted({words[0] for words in said}) == devices[0]
    assert all(words[1] == "True" for words in said)
    assert source.most == devices[1]
