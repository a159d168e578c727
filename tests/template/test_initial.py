"""A run that starts from another one's weights."""

import random
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from conftest import Finished, Run
from polars.testing import assert_frame_equal
from test_sweep import weights
from test_table import data_of

from descent.data.like import order_targets
from descent.data.samples import Samples
from descent.errors import ConfigError

STAY = ("trainer.max_epochs=1", "optimizer.lr=1e-12")  # weights stay what they start as


def test_a_run_starts_from_anothers_weights_and_leaves_the_frozen_ones_alone(
    run: Run, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    short = ("trainer.max_epochs=1", "trainer.limit_train_batches=10")
    assert run(*short, f"folder={first}").code == 0
    finished = run(*short, "seed=1", f"init_from={first}", "freeze=['1.*']", f"folder={second}")
    assert finished.code == 0, finished.err
    before, after = weights(first, "best"), weights(second, "last")
    assert torch.equal(before["model.1.weight"], after["model.1.weight"])
    assert torch.equal(before["model.1.bias"], after["model.1.bias"])
    assert not torch.equal(before["model.3.weight"], after["model.3.weight"])
    assert "4 of 4" in finished.out, finished.out


def test_a_pattern_that_names_no_weight_is_one_line(run: Run) -> None:
    finished = run("freeze=['9.*']")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith("freeze=")


def houses(path: Path, towns: dict[str, int], kinds: list[str], order: list[str], scale: float) -> Path:
    """Houses whose kind and price follow from town and area.

    Args:
        path: where they go.
        towns: how often each town comes, of any number.
        kinds: those that there are.
        order: of the columns.
        scale: of the areas.
    """
    chance = random.Random(len(kinds))
    rows = []
    for i in range(240):
        town = chance.choices(list(towns), list(towns.values()))[0]
        area, kind = chance.uniform(20, 100) * scale, kinds[i % len(kinds)]
        size = 100 * len(kind) + area + 50 * (town == "Oslo")
        gap = i % 9 == 0
        rows.append(
            {"area": None if gap else area, "town": town, "size": size, "kind": kind, "price": 3 * size}
        )
    pl.DataFrame(rows).with_columns(garden=pl.Series(range(240))).select(order).write_csv(path)
    return path


ORDER = ["area", "town", "size", "kind", "price"]


@pytest.fixture
def first(run: Run, tmp_path: Path) -> Path:
    """A run on houses, whose kind it learned to tell."""
    houses(tmp_path / "houses.csv", {"Rome": 5, "Oslo": 2, "Bern": 1}, ["flat", "house", "villa"], ORDER, 1)
    assert train(run, "houses.csv", "kind", "first", "trainer.max_epochs=5").code == 0
    return tmp_path / "first"


def train(run: Run, file: str, target: str, folder: str, *words: str) -> Finished:
    exclude = {"kind": "price", "price": "kind"}[target]
    data = ("data=table", f"data.path={file}", f"data.target={target}", f"data.exclude=[{exclude}]")
    return run(*data, *words, f"folder={folder}", "threads=1")


def predict(run: Run, folder: str) -> pl.DataFrame:
    words = (f"run={folder}", "input=houses.csv", f"output={folder}.csv")
    finished = run(*words, command="predict")
    assert finished.code == 0, finished.err
    return pl.read_csv(finished.folder / f"{folder}.csv")


def test_a_start_from_another_table_keeps_what_each_weight_means(run: Run, first: Path) -> None:
    order = ["price", "size", "kind", "garden", "town", "area"]
    towns = {"Paris": 1, "Bern": 6, "Oslo": 2, "Rome": 1}
    houses(first.parent / "houses2.csv", towns, ["villa", "house"], order, 3)
    finished = train(run, "houses2.csv", "kind", "second", f"init_from={first}", *STAY)
    assert finished.code == 0, finished.err
    assert_frame_equal(predict(run, "second"), predict(run, "first"), abs_tol=1e-5)
    assert "4 of 4 weights start from" in finished.out
    assert "of other words" in finished.out  # Paris
    assert f"garden               init_from={first} did not learn from it" in finished.out
    evaluated = run("run=second", command="evaluate")  # the run's own data, read as it was in training
    assert evaluated.code == 0, evaluated.err


def test_a_start_from_values_of_another_mean_keeps_what_each_weight_means(run: Run, first: Path) -> None:
    assert train(run, "houses.csv", "price", "values", "loss=mse", "trainer.max_epochs=5").code == 0
    houses(first.parent / "houses2.csv", {"Bern": 3, "Oslo": 1}, ["house", "flat"], ORDER[::-1], 4)
    start = (f"init_from={first.parent / 'values'}", "loss=mse")
    assert train(run, "houses2.csv", "price", "second", *start, *STAY).code == 0
    assert_frame_equal(predict(run, "second"), predict(run, "values"), rel_tol=1e-5)


def test_classes_that_are_others_have_the_last_layer_start_anew(run: Run, first: Path) -> None:
    houses(first.parent / "houses2.csv", {"Rome": 1, "Oslo": 1}, ["hut", "barn", "tower"], ORDER, 1)
    finished = train(run, "houses2.csv", "kind", "second", f"init_from={first}", *STAY)
    assert finished.code == 0, finished.err
    assert "2 of 4 weights start from" in finished.out
    assert "  targets barn, hut, tower; there flat, house, villa: the last layer starts anew" in finished.out


def test_values_in_another_order_are_put_into_the_first_ones() -> None:
    like = {"run": "first", "task": "regression", "names": ["height", "width"]}
    targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    ordered = order_targets(Samples(torch.zeros(2, 1), targets, ["width", "height"]), like)
    assert (ordered.names, ordered.targets.tolist()) == (["height", "width"], [[2, 1], [4, 3]])


@pytest.mark.parametrize(
    ("target", "columns", "told"),
    [
        ("price", ORDER, "classes as targets, for init_from="),
        ("kind", ["area", "size", "kind", "price"], "not learned from here: town"),
    ],
)
def test_a_start_that_can_not_be_meant_is_one_line(
    run: Run, first: Path, target: str, columns: list[str], told: str
) -> None:
    houses(first.parent / "houses2.csv", {"Rome": 1, "Oslo": 1}, ["flat", "house"], columns, 1)
    finished = train(run, "houses2.csv", target, "second", f"init_from={first}", "loss=mse", *STAY)
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished.err
    assert told in finished.err


@pytest.mark.parametrize(
    ("columns", "settings", "told"),
    [
        (["a", "y"], {}, "the columns that init_from=first learned from; not learned from here: b"),
        (["a", "b", "y"], {"exclude": ["b"]}, "not learned from here: b"),
        (["a", "b", "y"], {"columns": ["b"]}, "not learned from here: a"),
        (["a", "b", "y"], {"val_path": ["b", "y"]}, "v.csv: expected a column a"),
        (["a", "b", "y"], {"test_path": ["a", "y"]}, "v.csv: expected a column b"),
    ],
)  # fmt: skip
def test_a_start_from_a_table_needs_all_of_its_columns_in_every_file(
    tmp_path: Path, columns: list[str], settings: dict[str, Any], told: str
) -> None:
    frame = pl.DataFrame({"a": range(40), "b": [f"w{i % 3}" for i in range(40)], "y": ["p", "q"] * 20})
    frame.write_csv(tmp_path / "first.csv")
    first = data_of(tmp_path / "first.csv", "y")
    like = {**first.describe(), "run": "first", "scaling": first.scaling.state_dict()}
    frame.select(columns).write_csv(tmp_path / "t.csv")
    for key in settings.keys() & {"val_path", "test_path"}:
        frame.select(settings[key]).write_csv(tmp_path / "v.csv")
        settings = {key: str(tmp_path / "v.csv")}
    with pytest.raises(ConfigError, match=re.escape(told)):
        data_of(tmp_path / "t.csv", "y", like=like, **settings)
