"""A sweep: the bits of runs alone, nothing lost whatever is killed, and no harm from what a folder says."""

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest
import torch
import yaml
from conftest import ROOT, TRAIN, Finished, Run, finish, send, server
from filelock import FileLock
from small import last_weights

from descent.cli.sweeping import plan_sweep
from descent.errors import ConfigError
from descent.sweep.conduct import Queue, Sweeping
from descent.sweep.engines import Local
from descent.sweep.plan import PLAN, Plan, find_before, name_folder

SHORT = ["trainer.max_epochs=2", "data.batch_size=64"]
WORDS = ["loss=mae,cross_entropy", "seed=0,1", *SHORT]


def assert_same(one: Path, other: Path) -> None:
    for name in ("last", "best"):
        first, second = last_weights(one, name), last_weights(other, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("whole")
    finished = finish([TRAIN, "-m", *WORDS, "folder=sweep"], folder, {}, 120)
    assert finished.code == 0, finished.err
    return Finished(0, finished.out, finished.err, folder / "sweep")


def test_it_ends_with_a_ranking_and_each_run_has_the_weights_that_it_has_alone(
    undisturbed: Finished, run: Run, tmp_path: Path
) -> None:
    assert run("loss=mae", "seed=1", *SHORT, "folder=alone").code == 0
    sweep, out = undisturbed.folder, undisturbed.out
    assert_same(sweep / "loss=mae,seed=1", tmp_path / "alone")
    assert "Ranked by val/acc at the best epoch by val/loss" in out
    assert "\nbest  " in out and "Epoch" not in out  # what each run prints is in its folder
    assert "Epoch 2/2" in (sweep / "loss=mae,seed=0/log.txt").read_text()
    assert len((sweep / "ranking.csv").read_text().splitlines()) == 1 + 2  # choices, each over two seeds
    assert (sweep / "curves.png").read_bytes().startswith(b"\x89PNG")
    best = out.split("Best run:    ")[1].splitlines()[0].split("train.py ")[1].split()
    assert {word.partition("=")[0] for word in best} == {
        "trainer.max_epochs",
        "data.batch_size",
        "loss",
        "seed",
    }
    assert [path.name for path in sweep.glob(".*")] == [".lock"]
    assert "  - override /loss: " in (sweep / "experiment/best.yaml").read_text()
    again = run("--config-dir", str(sweep), "experiment=best", "folder=again")
    assert again.code == 0, again.err
    assert_same(sweep.parent / out.split("Its folder:  ")[1].splitlines()[0], tmp_path / "again")
    shutil.copytree(sweep, tmp_path / "moved")
    lines = run(f"resume={tmp_path}/moved", UV="uv").out.splitlines()  # as under `uv run`
    commands = [line for line in lines if line.startswith(("Best run:", "As a recipe:", "TensorBoard:"))]
    assert len(commands) == 3
    assert all(" uv run " in line for line in commands), commands


def test_what_is_done_is_left_alone_values_are_added_and_another_sweep_is_refused(
    undisturbed: Finished, run: Run
) -> None:
    sweep = undisturbed.folder
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/result.json")}
    for words, told in (
        ([*WORDS, "resume=true", f"folder={sweep}"], "4 runs, 4 of them done"),
        ([f"resume={sweep}", "seed=2", "loss=mae"], "6 runs, 4 of them done"),
    ):
        finished = run("-m", *words)
        assert (finished.code, told in finished.out) == (0, True), finished.err
    for words in (["seed=0,1"], ["seed=0,1", "resume=true"], ["optimizer=sgd", f"resume={sweep}"], WORDS):
        finished = run("-m", *words, f"folder={sweep}")
        assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert "expected a folder without a sweep, or" in finished.err
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("loss=mae,mea", "loss=mea: expected one of"),
        ("seed=range(0,1000000)", "at most"),
        ("data.batch_size=16,32,many", "data.batch_size=many: expected a whole number"),
        ("optimizer.lr=interval(0.1,1)", "or search="),
        ("seed=0,1 resume=true folder=none/sweep", "expected a sweep with these overrides"),
        ("search=rendom optimizer.lr=interval(0.1,1)", "search=rendom: expected one of"),
        ("search=grid search.steps=1 optimizer.lr=interval(0.1,1)", "a whole number of at least 2"),
        ("search=grid loss=mae", "expected an override with several values or a range"),
        ("search=grid optimizer.lr=tag(log,interval(0,1))", "expected an interval from a lower"),
        ("seed=0,1 jobs=0", "jobs=0: expected"),
        ("seed=0,1 folder=a,b", "folder=a,b: expected one value"),
        ("search=tpe loss=mae,mse", "monitor=val/loss: expected a metric such as val/acc"),
        *([] if find_spec("optuna") else [("search=tpe seed=0,1", "uv sync --extra search")]),
        ("seed=0,1 executor=slrum", "executor=slrum: expected one of local, ray, slurm; nearest: slurm"),
    ],
)
def test_bad_words_end_before_the_first_run(run: Run, tmp_path: Path, words: str, told: str) -> None:
    finished = run("-m", *words.split(), *([] if "folder" in words else ["folder=sweep"]))
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.out + finished.err
    assert told in finished.err
    assert not (tmp_path / "sweep").exists()


def test_a_run_that_fails_is_named_and_the_others_go_on(run: Run) -> None:
    finished = run("-m", "seed=0,1", "optimizer=sgd", "optimizer.lr=1e30,0.01", *SHORT, "folder=sweep")
    assert finished.code == 1
    assert "2 runs in " in finished.out
    first = finished.out.index("failed: seed=0,optimizer.lr=1e+30: The loss is nan")
    assert first < finished.out.index("\nbest  ") < finished.out.rindex("failed: seed=0")
    assert "Traceback" not in finished.out + finished.err
    again = run("-m", "resume=sweep")
    assert (again.code, "4 runs, 2 of them done" in again.out) == (1, True)
    assert not list(finished.folder.glob("sweep/*-2"))


def test_a_recipe_that_is_a_sweep_runs_and_one_of_its_runs_is_resumed_alone(run: Run, tmp_path: Path) -> None:
    assert run("experiment=mae_vs_cross_entropy", "trainer.max_epochs=1", "folder=sweep").code == 0
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 2
    one = run(f"resume={tmp_path}/sweep/loss=mae", "trainer.max_epochs=2")
    assert one.code == 0, one.err
    assert "Epoch 2/2" in one.out


def test_a_pattern_finds_words_of_a_group_and_a_sweep_without_the_monitored_value_is_no_success(
    run: Run, tmp_path: Path
) -> None:
    words = ["trainer.limit_val_batches=0", "trainer.max_epochs=1", "folder=sweep"]
    finished = run("-m", "loss=glob(ms*)", *words)
    assert (finished.code, "No run has val/loss" in finished.out) == (1, True)
    assert [path.parent.name for path in tmp_path.glob("sweep/*/result.json")] == ["loss=mse"]


def test_code_that_a_sweep_names_is_typed_again(run: Run) -> None:
    targets = "optimizer._target_=torch.optim.SGD,torch.optim.RMSprop"
    words = ["-m", "optimizer=sgd", targets, "trainer.max_epochs=1", "folder=sweep"]
    assert [run(*words).code, run("-m", "resume=sweep").code, run(*words, "resume=true").code] == [0, 2, 0]


# ---- kills and signals -------------------------------------------------------------------------------------


def wait_for_metrics(folder: Path, number: int = 1) -> None:
    limit = time.monotonic() + 60
    while len(list(folder.glob("*/metrics.csv"))) < number and time.monotonic() < limit:
        time.sleep(0.02)


def start(folder: Path, runs: int, *words: str) -> BaseProcess:
    """Start a sweep, and return once this many of its runs have metrics."""
    words = ("-m", *words, "folder=sweep", "jobs=2")
    process = conftest.start([TRAIN, *words], folder, {}, folder / "out", folder / "err")
    limit = time.monotonic() + 60
    while len(list(folder.glob("sweep/*/metrics.csv"))) < runs and time.monotonic() < limit:
        time.sleep(0.02)
    return process


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of children")
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_after_sigkill_a_sweep_ends_as_an_undisturbed_one(
    undisturbed: Finished, tmp_path: Path, victim: str, run: Run
) -> None:
    words = [*WORDS, "checkpoint.every=10steps"]
    process = start(tmp_path, 1, *words)
    if victim == "worker":
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        process.join(60)
        assert process.exitcode == 1
        assert "signal 9 ended it" in (tmp_path / "out").read_text()
    else:
        assert send(process, signal.SIGKILL) == -signal.SIGKILL
    finished = run("-m", *words, "folder=sweep", "resume=true")
    assert finished.code == 0, finished.err
    for name in ("loss=mae,seed=0", "loss=mae,seed=1", "loss=cross_entropy,seed=0"):
        assert_same(undisturbed.folder / name, tmp_path / "sweep" / name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_every_run_and_nobody_else_runs_it_meanwhile(
    tmp_path: Path, number: int, run: Run
) -> None:
    process = start(tmp_path, 2, "seed=0,1", "trainer.max_epochs=2000")
    if number == signal.SIGTERM:
        active = "resume=sweep: expected one that has ended; this one is active\n"
        second = run("-m", "resume=sweep")
        assert (second.code, second.err) == (2, active)
    assert send(process, number) == 128 + number
    out = (tmp_path / "out").read_text() + (tmp_path / "err").read_text()
    assert "Stopped and saved: 0 of 2 runs are done. Continue with: " in out
    assert " -m resume=sweep" in out
    assert "Traceback" not in out
    logs = [log.read_text() for log in tmp_path.glob("sweep/*/log.txt")]
    assert ["Stopped and saved in epoch" in log for log in logs] == [True, True]
    assert len(list(tmp_path.glob("sweep/*/checkpoints/last.ckpt"))) == 2


# ---- engines -----------------------------------------------------------------------------------------------

FAKE = r"""
import pathlib, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(words["folder"].strip("'"))
print("begins")
folder.mkdir(exist_ok=True)
(folder / "config.yaml").touch()
time.sleep(float(words["nap"]))
sys.exit(int(words["code"]))
"""


def begin(plan: Plan, tmp_path: Path) -> Sweeping:
    """A sweep of runs of FAKE in threads, an engine of one's own with two places."""
    (tmp_path / "fake.py").write_text(FAKE)
    plan.folder.mkdir()
    engine = SimpleNamespace(places=lambda threads: 2, submit=ThreadPoolExecutor(9).submit)
    config = {"jobs": "auto", "threads": 1}
    return Sweeping(plan.folder, Queue(plan.points()), engine, config, tmp_path / "fake.py")


def test_an_engine_of_one_s_own_runs_all_of_it(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "sweep", ["nap=0.1"], {"code": ["0", "1"], "seed": ["0", "1"]})
    sweeping = begin(plan, tmp_path)
    assert sweeping.run() is None
    assert sorted(point.name for point in sweeping.failed) == ["code=1,seed=0", "code=1,seed=1"]
    done = [point for point in plan.points() if point.is_over()]
    assert [point.folder.log.read_text() for point in done] == ["begins\n"] * 2


def test_a_stopped_sweep_stops_what_runs_elsewhere_and_starts_nothing_more(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "sweep", ["nap=240", "code=0"], {"seed": ["0", "1", "2"]})
    sweeping, begun = begin(plan, tmp_path), time.monotonic()

    class Signals(SimpleNamespace):
        received = property(lambda self: 15 if len(list(plan.folder.glob("*/config.yaml"))) == 2 else None)

    sweeping.signals = Signals(catch=lambda: None, release=lambda: None)  # type: ignore[assignment]
    assert sweeping.run() == signal.SIGTERM
    assert time.monotonic() - begun < 120
    assert len(list(plan.folder.glob("*/config.yaml"))) == 2  # the two that there were places for


def test_a_run_that_is_at_work_is_never_started_a_second_time(tmp_path: Path) -> None:
    plan = Plan(tmp_path, ["code=0"], {"seed": ["0", "1", "2"]})
    here, by_hand, gone = plan.points()
    by_hand.folder.path.mkdir()
    gone.beside(".live").touch()  # of a process that was killed
    with here.claim(), FileLock(by_hand.folder.lock):
        queue = Queue(plan.points())
        assert [point.name for point in iter(queue.take, None)] == ["seed=2"]
        assert queue.left() == 2  # which are waited for
        here.folder.path.mkdir()
        here.folder.config.touch()
        here.leave(0)  # as its own process does
    assert [point.name for point in iter(queue.take, None)] == ["seed=1"]
    assert queue.left() == 0


def report(words: list[str]) -> int:
    computes = torch.mm(torch.ones(400, 400), torch.ones(400, 400))[0, 0] == 400
    own_session, gpus = os.getsid(0) == os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")
    os.write(1, f"{gpus} {torch.get_num_threads()} {computes} {own_session}".encode())
    return 1


@pytest.mark.parametrize(
    "case",
    [
        ("4,7", 2, 1, ["4", "7"], 2),
        ("4,7", 8, 2, ["4,7"], 1),
        ("", 3, 1, ["None"], 3),
        ("", 4, 2, ["None"], 2),
    ],
)
def test_a_gpu_has_one_run_and_cores_have_as_many_as_their_threads(tmp_path: Path, case: tuple) -> None:
    # in a process of its own, as a sweep is: children of one that has computed with several threads may hang
    process = server.Process(target=sweep_on, args=(tmp_path, *case))
    with chdir(ROOT / "tests"):
        process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0


def sweep_on(folder: Path, gpus: str, cores: int, processes: int, devices: list[str], places: int) -> None:
    """In a new process: sweep three runs on a machine with these GPUs and cores."""
    torch.cuda.device_count = lambda: len(gpus.split(",")) if gpus else 0
    os.sched_getaffinity = lambda pid: set(range(cores))  # type: ignore[assignment]
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    os.environ.update({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {})
    before = torch.get_num_threads()
    engine = Local(report, {"trainer": {"accelerator": "auto", "devices": processes}})
    torch.mm(torch.ones(400, 400), torch.ones(400, 400))  # a child would hang where this had threads
    assert engine.places(1) == places
    sweeping = begin(Plan(folder / "sweep", [], {"seed": ["0", "1", "2"]}), folder)
    sweeping.engine = engine
    assert sweeping.run() is None
    said = [(folder / f"sweep/.seed={seed}.log").read_text().split() for seed in range(3)]
    assert sorted({words[0] for words in said}) == devices
    assert all(words[1:] == [str(before), "True", "True"] for words in said)


@pytest.mark.parametrize(
    ("words", "library"), [("executor=slurm executor.cluster=local", "submitit"), ("executor=ray", "ray")]
)
def test_other_engines_give_the_same_runs(
    undisturbed: Finished, run: Run, tmp_path: Path, words: str, library: str
) -> None:
    values = ["loss=mae", "seed=0,1", "optimizer.lr=0.001,1e30", *SHORT]
    finished = run("-m", *values, "folder=sweep", *words.split())
    if find_spec(library) is None:
        assert (finished.code, finished.err.count("\n")) == (2, 1)
        assert "uv sync --extra" in finished.err
        return
    assert finished.code == 1, finished.out  # two runs of which fail
    for seed in (0, 1):
        assert_same(
            undisturbed.folder / f"loss=mae,seed={seed}", tmp_path / f"sweep/seed={seed},optimizer.lr=0.001"
        )
    assert "4 runs, 2 of them done" in run("-m", "resume=sweep").out  # on this machine's own engine


# ---- what a folder says is data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "crafted",
    [
        *({"words": [word]} for word in (
            "loss._target_=os.system", "+callbacks.x={_target_: os.system}", "seed", "loss=../../x",
            "+logger.tensorboard.comment=${oc.env:HOME}", "hydra.run.dir=/tmp/x", "folder=/tmp/x",
            "trainer.default_root_dir=/tmp/x", "allow=[os]", "executor=local",
        )),
        {"search": ["search.sampler._target_=os.system"]},
        {"values": {"loss._target_": ["os.system"]}},
        {"values": {"seed": ["0", "${oc.env:HOME}"]}},
        {"values": {f"k{number}": ["0"] * 1_000 for number in range(4)}},  # means 10^12 runs
        {"values": {"seed": []}}, {"values": {"seed": 3}}, {"words": None},
    ],
)  # fmt: skip
def test_a_crafted_plan_is_refused_before_anything_is_touched(
    run: Run, tmp_path: Path, crafted: dict
) -> None:
    folder = tmp_path / "crafted"
    folder.mkdir()
    content = {"words": [], "values": {"seed": ["0"]}, "search": [], **crafted}
    (folder / PLAN).write_text(yaml.safe_dump(content))
    finished = run("-m", "resume=crafted")
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert [path.name for path in folder.iterdir()] == [PLAN]


@pytest.mark.parametrize("name", ["seed=0", "curves.png", "seed=1/log.txt", "seed=1/pipe"])
def test_a_sweep_with_a_link_in_it_is_refused_before_anything_is_touched(
    run: Run, tmp_path: Path, name: str
) -> None:
    folder, precious = tmp_path / "crafted", tmp_path / "precious"
    (folder / "seed=1").mkdir(parents=True)
    precious.mkdir()
    (precious / "config.yaml").write_text("a: 1")
    Plan(folder, SHORT, {"seed": ["0", "1"]}).write()
    if "pipe" in name:
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(precious / "config.yaml" if "." in name else precious)
    finished = run("-m", "resume=crafted")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert "expected a folder of regular files" in finished.err
    assert [path.read_text() for path in precious.iterdir()] == ["a: 1"]


# ---- parts -------------------------------------------------------------------------------------------------


def test_folders_have_readable_names_that_differ() -> None:
    assert name_folder(["loss=mae", "seed=0"]) == "loss=mae,seed=0"
    assert name_folder(["model.hidden=[64,64]"]) == "model.hidden=64,64"
    odd = {name_folder([f"data.path={text}"]) for text in ("a/b", "a b", "a:b", "x" * 300, "x" * 301)}
    assert len(odd) == 5
    assert all(len(name) < 150 and "/" not in name for name in odd)


def test_the_newest_sweep_of_the_same_words_is_found(tmp_path: Path) -> None:
    for at, (name, words) in enumerate({"old": ["a=1"], "new": ["a=1"], "other": ["a=2"]}.items()):
        (tmp_path / name).mkdir()
        Plan(tmp_path / name, words, {"seed": ["0"]}).write()
        os.utime(tmp_path / name / PLAN, (at, at))
    found = find_before(Plan(tmp_path / "x", ["a=1"], {"seed": ["0", "1"]}), True)
    assert found and found.folder.name == "new"
    with pytest.raises(ConfigError, match="there is none"):
        find_before(Plan(tmp_path / "x", ["a=1"], {"loss": ["mae"]}), True)


def test_a_sweep_over_many_keys_has_a_short_name() -> None:
    keys = ("accumulate_grad_batches", "check_val_every_n_epoch", "max_epochs", "min_epochs", "min_steps")
    words = [f"trainer.{key}=1,2" for key in (*keys, "gradient_clip_val", "val_check_interval", "devices")]
    plan = plan_sweep(words, multirun=True)
    assert plan is not None
    assert plan.folder.name.startswith("accumulate_grad_batches-check_val_every_n_epoch-max_epochs-")
    assert len(plan.folder.name) <= 100 + len("-20260102-030405")
