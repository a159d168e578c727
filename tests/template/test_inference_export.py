"""export.py: the whole model in a file that runs without this project, or in a folder for the hub."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run

from descent.errors import ConfigError
from descent.inference import exporting, load

VALUES = ("data=arrays", "data.inputs=x.npy", "data.targets=y.npy", "data.names=[a,b]", "loss=mae")


def write_values(folder: Path) -> None:
    """Write inputs and targets in float64, far from 0."""
    x = 1e9 + np.random.default_rng(0).normal(size=(200, 3))
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", x[:, :2] * [1.0, -3.0])


def test_torch_export_takes_raw_rows_of_any_number(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_values(tmp_path)
    assert run(*VALUES, "trainer.max_epochs=1").code == 0
    finished = run("run=run", "format=torch_export", command="export")
    assert finished.code == 0, finished.err
    assert "run/model.pt2: torch.float64 inputs (3,), in batches of any size; on 16 samples" in finished.out
    model, files = load(tmp_path / "run"), {"model.json": ""}
    exported = torch.export.load(tmp_path / "run/model.pt2", extra_files=files).module()
    described = (tmp_path / "run/model.json").read_text()
    assert files["model.json"] == described
    assert json.loads(described)["outputs"]["names"] == ["a", "b"]
    assert json.loads(described)["outputs"]["values"] == "values in their own units"
    inputs = torch.from_numpy(np.load(tmp_path / "x.npy"))
    for batch in (inputs, inputs[:1], inputs[:7]):
        torch.testing.assert_close(exported(batch), model(batch), rtol=1e-12, atol=1e-5)
    (tmp_path / "run/model.json").write_text("mine")
    again = run("run=run", "format=torch_export", command="export")
    assert (again.code, "overwrite=true" in again.err) == (2, True)
    monkeypatch.setattr(exporting, "to_torch_export", lambda program, text: (b"", lambda x: model(x) + 0.01))
    with pytest.raises(ConfigError, match=r"expected outputs within 0.001 of the run's, not 0.0097"):
        exporting.export(model, "torch_export", str(tmp_path / "other.pt2"), overwrite=False)
    assert not list(tmp_path.glob("other.*"))


@pytest.mark.parametrize("words", [("model=cnn",), VALUES], ids=["cnn", "values"])
def test_onnx_gives_the_same(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    pytest.importorskip("onnxscript", reason="of the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="of the extra onnx")
    write_values(tmp_path)
    assert run(*words, "trainer.max_epochs=1").code == 0
    finished = run("run=run", "output=m.onnx", command="export")
    assert finished.code == 0, finished.err
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    model = load(tmp_path / "run")
    assert session.get_inputs()[0].shape[0] == session.get_outputs()[0].shape[0] == "batch"
    assert session.get_modelmeta().custom_metadata_map["model"] == (tmp_path / "m.json").read_text()
    for size in (1, 33):
        inputs = model.examples[torch.arange(size) % len(model.examples)]
        found = torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])
        torch.testing.assert_close(found, model(inputs), rtol=1e-4, atol=1e-4)


def test_a_folder_for_the_hub_is_loaded_and_evaluated_without_its_run(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="of the extra hub")
    write_values(tmp_path)
    assert run(*VALUES, "trainer.max_epochs=1").code == 0
    finished = run("run=run", "format=hub", "output=folder", command="export")
    assert finished.code == 0, finished.err
    folder, names = tmp_path / "folder", {"README.md", "config.json", "model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    expected = load(tmp_path / "run").predict(tmp_path / "x.npy")
    shutil.move(tmp_path / "run", tmp_path / "gone")
    assert load(folder).predict(tmp_path / "x.npy").equals(expected)
    with pytest.raises(ConfigError, match=r"format=hub: expected no_such_package; `uv sync --extra hub`"):
        exporting.find_package("hub", "no_such_package")
    card, test = (folder / "README.md").read_text(), json.loads((tmp_path / "gone/result.json").read_text())
    assert card.startswith("---\nlibrary_name: descent\ntags: [pytorch, lightning, values]\n---\n")
    assert f"- test/loss: {test['test']['test/loss']:.4g}" in card
    assert "160 train, 20 val, 20 test samples" in card
    assert str(tmp_path) not in card + (folder / "config.json").read_text()
    np.savez(tmp_path / "new.npz", inputs=np.load(tmp_path / "x.npy"), targets=np.load(tmp_path / "y.npy"))
    evaluated = run("run=folder", "input=new.npz", command="evaluate")
    assert "200 samples: loss" in evaluated.out, evaluated.err
    assert "does not contain the run's data" in run("run=folder", command="evaluate").err
    again = run("run=gone", "format=hub", "output=folder", command="export")
    assert (again.code, again.out) == (0, finished.out)  # it would write the same
    (folder / "README.md").write_text("mine")
    refused = run("run=gone", "format=hub", "output=folder", command="export")
    assert (refused.code, "overwrite=true" in refused.err) == (2, True)
    config = json.loads((folder / "config.json").read_text())
    for content in ("{", "[]", json.dumps({**config, "model": {"_target_": "os.system", "command": "x"}})):
        (folder / "config.json").write_text(content)
        with pytest.raises(
            ConfigError, match=r"^[^\n]*: expected (a folder that export.py|a name that conf/)"
        ):
            load(folder)


def test_a_table_is_exported_from_its_raw_columns(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("descent.table.reader", reason="a room that may be taken out")
    pytest.importorskip("onnxscript", reason="of the extra onnx")
    rows = (
        f"{i},{'' if i % 9 == 0 else i % 7},{'abc'[i % 3]},20{i % 20:02d}-03-04,{i % 7 * 2.5}"
        for i in range(99)
    )
    (tmp_path / "houses.csv").write_text("\n".join(["id,area,town,built,price", *rows]))
    words = ("data=table", "data.path=houses.csv", "data.target=price", "loss=mae", "trainer.max_epochs=1")
    assert run(*words).code == 0
    finished = run("run=run", "format=onnx", command="export")
    assert finished.code == 0, finished.err
    described = json.loads((tmp_path / "run/model.json").read_text())
    assert [c["name"] for c in described["reader"]["columns"]] == ["id", "area", "town", "built"]
    assert described["inputs"] == {"type": "float64", "shape": ["batch", 4]}
