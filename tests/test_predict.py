"""predict.py and `load`: rows in, rows out, with the model of a run's folder and nothing else."""

import shutil
import sys
from pathlib import Path
from subprocess import run as execute

import numpy as np
import polars as pl
import pytest
import torch
from conftest import ROOT, Run
from test_table import bundled, houses

from descent.errors import ConfigError
from descent.predictor import build, load


def test_rows_come_back_in_their_order_with_names_and_probabilities(run: Run, tmp_path: Path) -> None:
    bundled("iris", tmp_path / "iris.csv")
    assert run("data=table", "data.path=iris.csv", "data.target=kind", "trainer.max_epochs=20").code == 0
    words = ("run=run", "input=iris.csv", "output=out.csv", "keep=[kind]")
    finished = run(*words, command="predict")
    assert (finished.code, finished.out) == (0, "150 rows in out.csv\n"), finished.err
    frame, known = pl.read_csv(tmp_path / "out.csv"), pl.read_csv(tmp_path / "iris.csv")["kind"]
    assert frame.columns == ["kind", "predicted_kind", "p(setosa)", "p(versicolor)", "p(virginica)"]
    assert (frame["kind"] == known).all()
    assert (frame["predicted_kind"] == known).mean() > 0.85  # type: ignore[operator]
    assert frame[:, 2:].sum_horizontal().to_numpy() == pytest.approx(1, abs=1e-5)

    again = run(*words, command="predict")
    assert again.err == "output=out.csv: expected a file that does not exist, or overwrite=true\n"
    (tmp_path / "bad.csv").write_text((tmp_path / "iris.csv").read_text().replace("5.1", "five", 1))
    bad = run("run=run", "input=bad.csv", "output=bad_out.csv", command="predict")
    expected = (
        "input=bad.csv: expected a number in each row of column sepal length (cm), but row 1 has 'five'\n"
    )
    assert (bad.code, bad.err) == (2, expected)
    assert {p.name for p in tmp_path.iterdir() if "out.csv" in p.name} == {"out.csv"}


def test_values_are_in_the_targets_units_and_unseen_words_are_told(run: Run, tmp_path: Path) -> None:
    houses(tmp_path / "houses.csv")
    words = (
        "data.target=price",
        "data.exclude=[id]",
        "loss=mae",
        "optimizer.lr=0.01",
        "trainer.max_epochs=20",
    )
    assert run("data=table", "data.path=houses.csv", *words).code == 0
    text = (tmp_path / "houses.csv").read_text().replace("Bern", "Lima")
    (tmp_path / "new.csv").write_text(text)
    finished = run("run=run", "input=new.csv", "output=out.csv", "keep=[id,price]", command="predict")
    assert "column town: " in finished.out
    assert "values are none of the words that training knew" in finished.out
    frame = pl.read_csv(tmp_path / "out.csv")
    assert frame["id"].to_list() == list(range(400))
    assert pl.DataFrame(frame).select(pl.corr("price", "predicted_price")).item() > 0.8


def test_a_file_in_blocks_gives_what_it_gives_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    houses(tmp_path / "houses.csv")
    words = ("data.target=price", "loss=mae", "trainer.max_epochs=1")
    assert run("data=table", "data.path=houses.csv", *words).code == 0
    model = load(tmp_path / "run")
    at_once = model.predict(str(tmp_path / "houses.csv"))
    frame = pl.read_csv(tmp_path / "houses.csv", null_values=["NA"], try_parse_dates=True)
    frame.write_parquet(tmp_path / "houses.parquet")
    monkeypatch.setattr("descent.data.files.BLOCK", 1000)
    for name in ("houses.csv", "houses.parquet"):
        blocks = list(model.predict_blocks(str(tmp_path / name)))
        assert len(blocks) > 2
        assert pl.concat(blocks).to_numpy() == pytest.approx(at_once.to_numpy(), rel=1e-5)


def test_a_run_loads_without_conf_hydra_and_lightning_and_gives_what_training_gave(
    run: Run, tmp_path: Path
) -> None:
    assert run("trainer.max_epochs=1").code == 0
    images = torch.rand(5, 1, 8, 8) * 16
    np.save(tmp_path / "images.npy", images.numpy())
    shutil.copytree(ROOT / "src/descent", tmp_path / "elsewhere/descent")
    code = (
        "import sys\n"
        "from descent.predictor import load\n"
        "model = load('run')\n"
        "print(model.predict('images.npy').columns[0], 'hydra' in sys.modules, 'lightning' in sys.modules)\n"
        "import torch, numpy\n"
        "torch.save(model(torch.from_numpy(numpy.load('images.npy'))), 'out.pt')\n"
    )
    environment = {"PYTHONPATH": str(tmp_path / "elsewhere")}
    done = execute(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "predicted_class False False\n", done.stderr
    model = load(tmp_path / "run", "last")
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), model(images))


def test_a_checkpoint_of_something_else_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other/checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"expected a run's folder, with config.yaml and checkpoints/"):
        load(tmp_path / "other")
    (tmp_path / "other/config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        load(tmp_path / "other")
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other/checkpoints/best.ckpt")
    finished = run("run=other", "input=x.csv", command="predict")
    assert finished.code == 2
    assert (
        finished.err == "run=other: expected a checkpoint of this template; best.ckpt is of something else\n"
    )
    torch.save({"state_dict": Path}, tmp_path / "other/checkpoints/best.ckpt")
    with pytest.raises(ConfigError, match="refused, for it holds more than tensors and plain values"):
        load(tmp_path / "other")


@pytest.mark.parametrize(
    "target", ["os.system", "torch.nn.functional.torch.hub.load", "torch.load", "builtins.eval"]
)
def test_only_networks_are_built_from_a_runs_config(target: str) -> None:
    with pytest.raises(ConfigError, match=r"model\._target_="):
        build("model", {"_target_": target}, ())
