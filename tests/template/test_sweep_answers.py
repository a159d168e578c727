"""What a sweep answers: the ranking and its noise, pictures, comparisons, and what a search proposes."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from conftest import Run

from descent.errors import ConfigError
from descent.run.folder import RunFolder
from descent.sweep.pictures import read_curve
from descent.sweep.plan import PRUNED, Plan, Point
from descent.sweep.ranking import Measure, Row, best_figures, choose_measure, collect, is_near, rank
from descent.sweep.search import BOARD, Range, Search, divide
from descent.sweep.tables import publish, show

HIGHER = Measure("val/acc", lower=False)
NEEDS_OPTUNA = pytest.mark.skipif(find_spec("optuna") is None, reason="Optuna is not installed")


def make_run(path: Path, values: list[float], *words: str) -> RunFolder:
    """A run's files as a run leaves them, with a figure of each epoch."""
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    content = {"folder": str(path), "monitor": "val/acc", "mode": "max"}
    folder.config.write_text(yaml.safe_dump(content))
    folder.overrides.write_text(yaml.safe_dump(list(words)))
    lines = [f"{epoch},{value}" for epoch, value in enumerate(values, 1)]
    folder.metrics.write_text("\n".join(["epoch,val/acc", *lines]) + "\n")
    best = {"epoch": 1, "val/acc": max(values), "val/auroc": None}
    folder.result.write_text(json.dumps({"seconds": 2.0, "best": best, "test": {"test/acc": max(values)}}))
    return folder


def make_rows(tmp_path: Path, **choices: list[float]) -> list:
    """Ranked choices of a loss, with a run for each seed."""
    points = [
        Point({"loss": loss, "seed": str(seed)}, (), make_run(tmp_path / f"{loss}{seed}", [value / 2, value]))
        for loss, values in choices.items()
        for seed, value in enumerate(values)
    ]
    return rank(collect(points), HIGHER)


# ---- the ranking -------------------------------------------------------------------------------------------


def test_noise_is_judged_seed_by_seed_and_only_where_there_are_enough_of_them() -> None:
    base = [0.90, 0.95, 0.93, 0.91, 0.94]
    assert is_near([(x - 0.01, x) for x in base]) is False  # as much worse with each seed
    assert is_near(list(zip([0.91, 0.94, 0.94, 0.90, 0.94], base, strict=True))) is True
    assert is_near([(0.91, 0.90), (0.94, 0.95)]) is None  # too few seeds to tell
    assert is_near([(70.0, 0.1), (75.0, 0.11)]) is False  # outside both spreads, however few
    assert is_near([(0.9, 0.9)]) is None


def test_choices_are_ranked_and_what_is_near_the_best_is_marked(tmp_path: Path) -> None:
    five, other = [0.91, 0.95, 0.93, 0.92, 0.94], [0.92, 0.94, 0.93, 0.91, 0.94]
    text = show(make_rows(tmp_path, big=five, 작은=other, few=[0.91, 0.95], bad=[0.5, 0.51]), HIGHER)
    lines = text.splitlines()[1:5]
    starts = [["best", "big"], ["?", "few"], ["≈", "작은"], ["bad", "0.505"]]
    assert [line.split()[:2] for line in lines] == starts
    assert "≈: within the noise" in text and "?: too few seeds to tell" in text
    assert len({line.index("0.") + 2 * line.count("작은") for line in lines}) == 1  # a Korean letter is wide


def test_a_table_fits_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = show(make_rows(tmp_path, **{"a" * 50: [0.1, 0.2], "가" * 30: [0.3, 0.4]}), HIGHER)
    assert max(len(line) + line.count("가") for line in text.splitlines()) <= 80
    assert text.count("가") == 30  # nothing is lost
    rows = make_rows(tmp_path, big=[0.91, 0.95], bad=[0.5, 0.51])
    for width in range(45, 90):  # columns are left out, but no figure wraps
        monkeypatch.setenv("COLUMNS", str(width))
        table = show(rows, HIGHER).split("\n\n")[0].splitlines()
        assert len(table) == 3 and max(map(len, table)) <= width


@pytest.mark.parametrize(
    ("monitor", "varies", "figures", "chosen"),
    [
        ("val/loss", "loss", ["val/loss", "val/mae", "test/loss"], Measure("val/mae", True, "val/loss")),
        ("val/loss", "optimizer", ["val/loss", "val/mae"], Measure("val/loss", True)),
        ("train/mae", "loss", ["train/mae", "val/acc"], Measure("train/mae", True)),
    ],
)
def test_values_of_different_losses_are_not_compared(
    monitor: str, varies: str, figures: list[str], chosen: Measure
) -> None:
    rows = [Row({varies: "x"}, figures={(): dict.fromkeys(figures, 0.5)})]
    assert choose_measure({"monitor": monitor, "mode": "min"}, rows) == chosen


def test_files_contain_the_ranking_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    publish(make_rows(tmp_path, **{"a|$x": [0.9, 0.92], "b": [0.7, 0.72]}), HIGHER, tmp_path / "out")
    lines = list(csv.DictReader((tmp_path / "out/ranking.csv").read_text().splitlines()))
    assert [(line["rank"], line["loss"]) for line in lines] == [("1", "a|$x"), ("2", "b")]
    assert float(lines[0]["val/acc mean"]) == pytest.approx(0.91)
    for keys, picture in (["a"], "line.png"), (["a", "b"], "map.png"):
        runs = [make_run(tmp_path / str(at), [value]) for at, value in enumerate([0.1, 0.5, 0.6, 1e9])]
        values = [{key: str(10.0**at if key == "a" else at % 2) for key in keys} for at in range(4)]
        points = [Point(value, (), folder) for value, folder in zip(values, runs, strict=True)]
        publish(rank(collect(points), HIGHER), HIGHER, tmp_path / "out")
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_what_damaged_files_of_runs_say_is_left_out_and_what_crafted_ones_say_is_refused(
    tmp_path: Path,
) -> None:
    folder = make_run(tmp_path / "run", [0.1])
    folder.metrics.write_text("epoch,val/acc\nx,y\n")
    folder.result.write_text('{"best": {"a": NaN, "b": null}')
    assert (read_curve(folder, "val/acc"), best_figures(folder)) == ({}, {})
    for text in ("[1]", "3", '{"best": [1]}', '{"best": {"a": {"b": 1}}}', '{"test": 1}', '{"seconds": "x"}'):
        folder.result.write_text(text)
        with pytest.raises(ConfigError, match=r"run/result.json: expected .* by name"):
            best_figures(folder)


# ---- runs side by side -------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, value in {"mae0": 0.91, "mae1": 0.95, "mse0": 0.7, "mse1": 0.72}.items():
        words = (f"loss={name[:3]}", f"seed={name[3]}", "optimizer=sgd")
        make_run(tmp_path / f"runs/{name}", [value - 0.1, value], *words)
    (tmp_path / "runs/mse1/result.json").unlink()
    return tmp_path / "runs"


def test_runs_are_compared_by_choices_as_typed(run: Run, runs: Path, tmp_path: Path) -> None:
    finished = run("runs", command="compare")
    assert finished.code == 0, finished.err
    starts = [["loss", "val/acc", "runs"], ["best", "mae", "0.93"], ["?", "mse", "0.7"]]
    assert [line.split()[:3] for line in finished.out.splitlines()[:3]] == starts
    assert "Unfinished: runs/mse1" in finished.out
    assert {path.name for path in tmp_path.iterdir()} == {"runs", ".out", ".err"}  # nothing is written
    again = run("runs/mae0", "runs/ms*", "by=test/acc", "output=made", command="compare")
    assert again.code == 0, again.err
    assert "Ranked by test/acc" in again.out
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        "curves.png",
        "ranking.csv",
        "ranking.md",
    }
    other = runs / "mae1/result.json"
    other.write_text(other.read_text().replace("val/acc", "val/f1"))
    assert "Without val/acc: runs/mae1\n" in run("runs", command="compare").out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("runs/mae0 runs/mea1", "or one that contains runs; nearest: runs/m"),
        ("", "runs=[]: expected folders of runs"),
        ("runs by=val/nope", "by=val/nope: expected one of"),
        ("runs output=runs/mae0", "expected a new folder"),
    ],
)  # fmt: skip
def test_bad_input_of_a_comparison_is_one_line(run: Run, runs: Path, words: str, told: str) -> None:
    finished = run(*words.split(), command="compare")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert told in finished.err


# ---- search ------------------------------------------------------------------------------------------------


def test_a_grid_cuts_ranges_into_steps() -> None:
    assert divide(Range(1e-4, 1.0, True), 5) == ["0.0001", "0.001", "0.01", "0.1", "1.0"]
    assert divide(Range(1, 3, False), 9) == ["1", "2", "3"]


def make_search(folder: Path, trials: int, pruner: object = None, sampler: str = "TPESampler") -> Search:
    import optuna

    folder.mkdir(exist_ok=True)
    values = {"lr": ["tag(log,interval(1e-4,1.0))"], "hidden": ["[8]", "[16]"]}
    plan = Plan(folder, [], values, ["search=x"])
    return Search(getattr(optuna.samplers, sampler), pruner, plan, trials, 0, "val/acc", "max")


@NEEDS_OPTUNA
@pytest.mark.parametrize("sampler", ["RandomSampler", "TPESampler"])
def test_trials_follow_from_the_journal_alone(tmp_path: Path, sampler: str) -> None:
    found = []
    for folder, killed in ((tmp_path / "a", False), (tmp_path / "b", True)):
        search, names = make_search(folder, 13, sampler=sampler), []
        while point := search.take():
            rate = float(point.values["lr"])
            assert rate == float(f"{rate:.4g}")  # so that it can be typed again
            names.append(point.name)
            make_run(point.folder.path, [1 - abs(rate - 0.1)])
            if killed:  # before it could note that
                search = make_search(folder, 13, sampler=sampler)
            else:
                search.ended(point, 0)
        found.append(names)
    assert found[0] == found[1]
    assert len({name.partition(",")[2] for name in found[0]}) == 13


@NEEDS_OPTUNA
def test_a_trial_that_is_behind_the_others_ends_early(tmp_path: Path) -> None:
    import optuna

    search = make_search(tmp_path, 9, optuna.pruners.SuccessiveHalvingPruner(1, reduction_factor=3))
    judged = []
    for values in ([0.5, 0.9, 0.9], [0.6, 0.7, 0.8], [0.4, 0.9, 0.9], [0.9, 0.9, 0.9]):
        point = search.take()
        assert point is not None
        make_run(point.folder.path, values).result.unlink()
        search.look(point)
        judged.append((point.folder.path / PRUNED).exists())
        if not judged[-1]:
            make_run(point.folder.path, values)
        search.ended(point, 143 if judged[-1] else 0)
    assert judged[2:] == [True, False]
    assert {trial.state.name for trial in search.study.trials} == {"COMPLETE", "PRUNED"}
    assert make_search(tmp_path, 4).take() is None


@NEEDS_OPTUNA
def test_what_was_killed_runs_again_and_what_failed_does_not(tmp_path: Path) -> None:
    search = make_search(tmp_path, 2)
    killed, failed = search.take(), search.take()
    assert killed and failed
    search.ended(killed, -9)
    search.ended(failed, 1)
    again = make_search(tmp_path, 2).take()
    assert again and again.name == killed.name
    text = (tmp_path / BOARD).read_text()
    for crafted in (text.replace("[16]", "[16];x").replace("[8]", "[8];x"), "[]\n" + text):
        (tmp_path / BOARD).write_text(crafted)
        with pytest.raises(ConfigError, match=r"values of this search|an Optuna journal"):
            make_search(tmp_path, 1)


@NEEDS_OPTUNA
def test_halving_ends_runs_early(run: Run, tmp_path: Path) -> None:
    words = ["search=halving", "optimizer.lr=tag(log,interval(1e-5,0.1))", "optimizer=sgd", "trials=5",
             "trainer.max_epochs=60", "jobs=1", "folder=sweep"]  # fmt: skip
    finished = run("-m", *words)
    assert finished.code == 0, finished.err
    assert "Ended early: " in finished.out
    assert "6 runs, 5 of them done" in run("-m", "resume=sweep", "trials=6").out
