"""Runs side by side: a ranking, what differs, and a page that a browser opens."""

import csv
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from conftest import Run

from descent.run.folder import RunFolder
from descent.sweep.comparison import compare_runs, leave_out_followers, list_differences
from descent.sweep.plan import Point
from descent.sweep.ranking import (
    Measure,
    choose_measure,
    collect,
    holds_zero,
    rank,
    tabulate,
    to_csv,
    to_markdown,
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def make_run(path: Path, config: dict, values: list[float]) -> RunFolder:
    """A run's files as a run leaves them, with a figure of each epoch."""
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.config.write_text(
        yaml.safe_dump({"folder": str(path), "monitor": "val/acc", "mode": "max", **config})
    )
    folder.overrides.write_text(yaml.safe_dump([f"seed={config['seed']}"]))
    lines = [f"{epoch},{value}" for epoch, value in enumerate(values, 1)]
    folder.metrics.write_text("\n".join(["epoch,val/acc", *lines]) + "\n")
    best = {"epoch": 1, "val/acc": max(values)}
    result = {"seconds": 2.0, "final": best, "best": best, "test": {"test/acc": max(values) - 0.01}}
    folder.result.write_text(json.dumps(result))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    figures = {"big": [0.91, 0.95, 0.93], "small": [0.90, 0.95, 0.92], "<b>none</b>": [0.5, 0.51, 0.52]}
    for loss, values in figures.items():
        for seed, value in enumerate(values):
            config = {"loss": {"_target_": loss, "eps": len(loss)}, "seed": seed, "data": {"seed": seed}}
            make_run(tmp_path / f"runs/{loss.strip('</>')[:4]}{seed}", config, [value - 0.1, value])
    return tmp_path / "runs"


def test_choices_are_ranked_and_what_is_near_the_best_is_marked(runs: Path) -> None:
    comparison = compare_runs([str(runs)], None)
    table = tabulate(comparison.rows, comparison.measure)
    assert [line[:2] for line in table] == [
        ["", "loss"],
        ["best", "big"],
        ["≈", "small"],
        ["", "<b>none</b>"],
    ]
    assert table[1][2:] == ["0.93 ± 0.02", "0.92 ± 0.02", "3", "2.0"]
    assert "≈: within the noise" in comparison.text()
    assert "loss.eps" in comparison.differences
    assert "folder" not in comparison.differences


def test_noise_is_judged_by_paired_differences() -> None:
    assert holds_zero([0.1, 0.11, 0.1]) is False  # as much better with each seed
    assert holds_zero([0.3, -0.2, 0.1]) is True
    assert holds_zero([0.0, 0.0]) is True
    assert holds_zero([0.1]) is None


def test_one_seed_says_nothing_of_noise(tmp_path: Path) -> None:
    for name, value in (("a", 0.9), ("b", 0.8)):
        make_run(tmp_path / name, {"loss": {"_target_": name}, "seed": 0}, [value])
    comparison = compare_runs([str(tmp_path)], None)
    assert [row.near for row in comparison.rows] == [None, None]
    assert "One run of each, so nothing is said of noise" in comparison.text()


def test_values_of_different_losses_are_not_compared() -> None:
    figures = {"val/loss": 0.1, "val/mae": 3.0, "test/loss": 0.1}
    measure = choose_measure("val/loss", "min", ["loss", "seed"], figures)
    assert (measure.metric, measure.lower) == ("val/mae", True)
    assert choose_measure("val/loss", "min", ["optimizer", "seed"], figures).metric == "val/loss"
    assert choose_measure("val/acc", "max", ["loss"], {"val/acc": 1}) == Measure(
        "val/acc", False, "val/acc at each run's best epoch"
    )


def test_files_hold_the_ranking(runs: Path) -> None:
    points = [
        Point({"loss": path.name[:-1], "seed": path.name[-1]}, (), RunFolder(path)) for path in runs.iterdir()
    ]
    ranked = rank(collect(points), Measure("val/acc", False, ""))
    lines = list(csv.DictReader(to_csv(ranked).splitlines()))
    assert [line["rank"] for line in lines] == ["1", "2", "3"]
    assert float(lines[0]["val/acc mean"]) == pytest.approx(0.93)
    assert float(lines[0]["val/acc std"]) == pytest.approx(0.02)
    assert to_markdown([["a|b", "c"], ["1", "2"]]) == "| a\\|b | c |\n|---|---|\n| 1 | 2 |\n"


def test_what_follows_from_another_difference_is_no_column() -> None:
    configs = [
        {"optimizer._target_": name, "optimizer.lr": lr, "seed": seed, "data.seed": seed}
        for name, lr in (("SGD", 0.01), ("Adam", 0.001))
        for seed in (0, 1)
    ]
    differences = list_differences([*configs, {**configs[0], "freeze": "x"}])
    assert list(differences) == ["optimizer._target_", "optimizer.lr", "seed", "freeze"]
    assert list(leave_out_followers(differences)) == ["optimizer._target_", "seed"]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name.split(":")[-1] in ("href", "src")]


def test_the_command_writes_a_page_that_needs_nothing_else(run: Run, runs: Path, tmp_path: Path) -> None:
    finished = run(str(runs / "big0"), f"{runs}/smal*", str(runs), command="compare")
    assert finished.code == 0, finished.err
    text = (tmp_path / "compare.html").read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("table") == 2
    assert page.tags.count("svg") == 1
    assert "b" not in page.tags  # what configs say is text
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert "url(http" not in text
    again = run(str(runs), "by=test/acc", command="compare")
    assert again.code == 0, again.err
    assert "Ranked by test/acc" in again.out


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_browser_opens_the_page(run: Run, runs: Path, tmp_path: Path) -> None:
    assert run(str(runs), command="compare").code == 0
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=2000",
        f"--user-data-dir={tmp_path}/b",
    ]
    answer = subprocess.run(
        [str(CHROMIUM), *flags, "--dump-dom", f"file://{tmp_path}/compare.html"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    dom = Page()
    dom.feed(answer.stdout)
    assert dom.tags.count("tr") == 4 + 1 + 3  # the ranking, and the head and three keys
    assert "svg" in dom.tags
    assert "&lt;b&gt;none&lt;/b&gt;" in answer.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothere"], "runs=nothere: expected the folder of a run"),
        ([], "runs=[]: expected folders of runs"),
        (["runs", "by=val/nope"], "by=val/nope: expected one of"),
        (["runs", "output=runs/big0/config.yaml"], "expected a new file, or a page that this command wrote"),
    ],
)
def test_bad_input_is_one_line(run: Run, runs: Path, words: list[str], told: str) -> None:
    finished = run(*words, command="compare")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert told in finished.err


def test_a_folder_with_commas_and_equals_signs_is_a_path(run: Run, runs: Path, tmp_path: Path) -> None:
    for name in ("big0", "big1"):
        (runs / name).rename(tmp_path / f"loss=mae,seed={name[-1]}")
    finished = run("loss=mae,seed=0", "loss=mae,seed=1", command="compare")
    assert finished.code == 0, finished.err
