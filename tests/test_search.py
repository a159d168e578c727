"""Search: trials follow from what the folders hold, whatever was killed in between."""

import json
import random
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import Run, send
from test_compare import make_run
from test_sweep import assert_same, start, wait_for_metrics

from descent.errors import ConfigError
from descent.sweep.plan import Plan
from descent.sweep.search import BOARD, Range, Search, Settings, expand_ranges, suggest_rate

SHORT = ["trainer.max_epochs=2", "data.batch_size=64"]
WORDS = ["optimizer.lr=tag(log,interval(1e-4,1))", "model.hidden=[8],[16]", *SHORT]
NEEDS_OPTUNA = pytest.mark.skipif(find_spec("optuna") is None, reason="Optuna is not installed")
SAMPLERS = ["random", pytest.param("tpe", marks=NEEDS_OPTUNA)]


def test_numbers_are_drawn_from_their_range_and_can_be_typed_again() -> None:
    chance = random.Random(0)
    rates = [Range(1e-4, 1.0, log=True, whole=False).draw(chance) for _ in range(2_000)]
    assert all(1e-4 <= rate <= 1 and float(f"{rate:.4g}") == rate for rate in rates)
    assert 0.45 < sum(rate < 1e-2 for rate in rates) / len(rates) < 0.55  # evenly over the logarithms
    sizes = {Range(1, 8, log=False, whole=True).draw(chance) for _ in range(500)}
    assert sizes == set(range(1, 9))


def test_a_grid_cuts_ranges_into_steps() -> None:
    space: dict[str, Range | list[str]] = {"loss": ["mae", "mse"]}
    space["lr"] = Range(1e-4, 1.0, log=True, whole=False)
    assert expand_ranges(space, 5) == {
        "lr": ["0.0001", "0.001", "0.01", "0.1", "1.0"],
        "loss": ["mae", "mse"],
    }
    assert Range(1, 3, log=False, whole=True).divide(9) == [1, 2, 3]


def test_the_suggested_rate_is_not_one_lucky_run_nor_beside_one_that_fails() -> None:
    tried = [0.001, 0.01, 0.1, 1.0, 10.0]
    assert suggest_rate({0.001: 0.9, 0.01: 0.5, 0.1: 0.45, 1.0: 0.6}, tried, lower=True) == 0.1
    lucky = {0.001: 0.2, 0.01: 2.0, 0.1: 0.4, 1.0: 0.35, 10.0: 0.4}
    assert suggest_rate(lucky, tried, lower=True) == 1.0
    failing = {0.001: 2.0, 0.01: 0.5, 0.1: 0.4}  # the others diverged
    assert suggest_rate(failing, tried, lower=True) == 0.01
    assert suggest_rate({0.1: 0.9, 1.0: 0.99, 10.0: 0.95}, tried, lower=False) == 10.0
    assert suggest_rate({}, tried, lower=True) is None


def propose(folder: Path, sampler: str, number: int) -> list[dict[str, str]]:
    """The values of trials one after another, each with a figure that its rate decides."""
    space = {"optimizer.lr": Range(1e-4, 1.0, log=True, whole=False), "model.hidden": ["[8]", "[16]"]}
    plan = Plan(folder, [], {"optimizer.lr": [""], "model.hidden": ["[8]", "[16]"]}, {"sampler": sampler})
    found: list[dict[str, str]] = []
    while len(found) < number:  # anew each time, as after a kill
        search = Search(plan, Settings(sampler, 3, None), space, number, ("val/acc", "max"))  # type: ignore[arg-type]
        point = search.take()
        assert point is not None
        found.append(dict(point.values))
        run = make_run(point.folder.path, {"seed": 0}, [1 - abs(float(point.values["optimizer.lr"]) - 0.1)])
        words = [f"{key}={value}" for key, value in point.values.items()]
        run.overrides.write_text("".join(f"- {word!r}\n" for word in words))
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_follow_from_the_folders_alone(tmp_path: Path, sampler: str) -> None:
    first, again = propose(tmp_path / "a", sampler, 8), propose(tmp_path / "b", sampler, 8)
    assert first == again
    assert len({tuple(values.items()) for values in first}) == 8


def test_a_trial_that_is_behind_the_best_third_is_hopeless(tmp_path: Path) -> None:
    space = {"optimizer.lr": Range(1e-4, 1.0, log=True, whole=False)}
    plan = Plan(tmp_path, [], {"optimizer.lr": [""]}, {"sampler": "random"})
    search = Search(plan, Settings("random", 1, 3), space, 9, ("val/acc", "max"))
    judged = []
    for values in ([0.5, 0.9, 0.9], [0.4, 0.9, 0.9], [0.6, 0.7, 0.8], [0.9, 0.9, 0.9]):
        point = search.take()
        assert point is not None
        make_run(point.folder.path, {"seed": 0}, values)
        judged.append(search.is_hopeless(point))
    # the first has nothing to be behind; the second is at epoch 1; the third at epoch 3, where 0.9 is best
    assert judged == [False, True, True, False]


def test_optuna_is_asked_for_in_one_line() -> None:
    if find_spec("optuna") is not None:
        pytest.skip("Optuna is installed")
    with pytest.raises(ConfigError, match="uv sync --extra search"):
        Settings("tpe", 1, None)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_is_killed_goes_on_with_the_same_trials(run: Run, tmp_path: Path, sampler: str) -> None:
    words = [f"search={sampler}", "search.startup=2", "trials=4", "jobs=1", *WORDS]
    whole = run("-m", *words, "folder=whole")
    assert whole.code == 0, whole.err
    process = start(tmp_path, *words, "folder=killed", "checkpoint.every=5steps")
    wait_for_metrics(tmp_path / "killed", 3)
    send(process, signal.SIGKILL)
    more = run("-m", "resume=killed", "trials=4", "jobs=1")
    assert more.code == 0, more.err
    folders = [path.parent for path in sorted(tmp_path.glob("whole/*/result.json"))]
    assert len(folders) == 4
    assert sorted(path.parent.name for path in tmp_path.glob("killed/*/result.json")) == [
        f.name for f in folders
    ]
    for folder in folders:
        assert_same(folder, tmp_path / "killed" / folder.name)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_launcher_runs_the_same_trials(run: Run, tmp_path: Path, sampler: str) -> None:
    words = [f"search={sampler}", "search.startup=2", "trials=3", "jobs=1", *WORDS]
    ours = run("-m", *words, "folder=ours")
    theirs = run("-m", "hydra/launcher=basic", *words, "folder=theirs")
    assert (ours.code, theirs.code) == (0, 0), theirs.err
    folders = [path.parent for path in sorted(tmp_path.glob("ours/*/result.json"))]
    assert len(folders) == 3
    assert "\nbest  " in theirs.out
    for folder in folders:
        assert_same(folder, tmp_path / "theirs" / folder.name)


@NEEDS_OPTUNA
def test_optuna_dashboard_gets_the_trials_that_have_ended(tmp_path: Path) -> None:
    import optuna

    space = {"optimizer.lr": Range(1e-4, 1.0, log=True, whole=False)}
    plan = Plan(tmp_path, [], {"optimizer.lr": [""]}, {"sampler": "random"})
    search = Search(plan, Settings("random", 1, None), space, 3, ("val/acc", "max"))
    for values in ([0.5, 0.9], [0.4, 0.8], None):
        point = search.take()
        assert point is not None
        if values:
            make_run(point.folder.path, {"seed": 0}, values)
            words = [f"{key}={value}" for key, value in point.values.items()]
            point.folder.overrides.write_text(json.dumps(words))
        search.ended(point)
    for states in (["COMPLETE", "COMPLETE", "FAIL"], ["COMPLETE", "COMPLETE"]):
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / BOARD))
        (study,) = optuna.get_all_study_summaries(optuna.storages.JournalStorage(backend))
        found = optuna.load_study(
            study_name=study.study_name, storage=optuna.storages.JournalStorage(backend)
        )
        assert [trial.state.name for trial in found.trials] == states
        assert found.best_trial.intermediate_values == {1: 0.5, 2: 0.9}
        assert (tmp_path / found.best_trial.user_attrs["folder"]).is_dir()
        Search(plan, Settings("random", 1, None), space, 3, ("val/acc", "max"))  # makes the file anew


def test_halving_ends_runs_early_and_the_best_is_a_recipe(run: Run, tmp_path: Path) -> None:
    words = [
        "search=halving",
        "optimizer.lr=tag(log,interval(1e-5,0.1))",
        "optimizer=sgd",
        "trials=4",
        "trainer.max_epochs=30",
    ]
    finished = run("-m", *words, "jobs=1", "folder=sweep")
    assert finished.code == 0, finished.err
    assert "runs were ended early" in finished.out
    again = run("-m", "resume=sweep", "trials=4")
    assert "4 runs, 4 of them done" in again.out
    recipe = (tmp_path / "sweep/experiment/best.yaml").read_text()
    assert "  - override /optimizer: sgd\n" in recipe
    one = run("--config-dir", "sweep", "experiment=best", "trainer.max_epochs=1", f"folder={tmp_path}/one")
    assert one.code == 0, one.err


def test_a_learning_rate_is_suggested_and_rates_that_diverge_are_no_failure(run: Run, tmp_path: Path) -> None:
    words = ["search=lr_range", "search.low=1e-4", "search.high=1e30", "search.steps=3", "search.epochs=1"]
    finished = run("-m", *words, "optimizer=sgd", "data.batch_size=64", "folder=sweep")
    assert finished.code == 0, finished.err
    assert "\nSuggestion:  optimizer.lr=0.0001, " in finished.out
    assert "failed" not in finished.out
    assert (tmp_path / "sweep/line.png").exists()
