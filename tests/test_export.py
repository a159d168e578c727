"""export.py: the whole model in a file that runs without this project, and gives the same."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from conftest import Run
from test_table import houses

from descent.data.named_path import NamedPath
from descent.data.table.columns import to_inputs
from descent.data.table.table_reader import TableReader
from descent.inference import load

HOUSES = ("data=table", "data.path=houses.csv", "data.target=price", "loss=mae", "trainer.max_epochs=1")


def test_torch_export_takes_raw_rows_of_any_number(run: Run, tmp_path: Path) -> None:
    houses(tmp_path / "houses.csv")
    assert run(*HOUSES).code == 0
    finished = run("run=run", "format=torch_export", command="export")
    assert finished.code == 0, finished.err
    assert "run/model.pt2: float32 inputs (batch, 5) of any batch size; on 16 samples" in finished.out

    model = load(tmp_path / "run")
    assert isinstance(model.reader, TableReader)
    frame = pl.read_csv(tmp_path / "houses.csv", infer_schema=False, null_values=["NA", ""])
    inputs = to_inputs(model.reader.columns, frame, NamedPath("input", "houses.csv"))
    assert inputs.isnan().any()
    files = {"names.json": "", "model.json": ""}
    exported = torch.export.load(tmp_path / "run/model.pt2", extra_files=files).module()
    assert json.loads(files["names.json"]) == ["price"]
    described = (tmp_path / "run/model.json").read_text()
    assert files["model.json"] == described
    assert [c["name"] for c in json.loads(described)["reader"]["columns"]] == [
        c.name for c in model.reader.columns
    ]
    (tmp_path / "rows.py").write_text(
        "import json, sys\n"
        "from model_reader import load_rows\n"
        "json.dump(load_rows('houses.csv', 'run/model.json'), open('rows.json', 'w'))\n"
        "assert not {'descent', 'polars', 'torch'} & set(sys.modules)\n"
    )
    environment = {"PYTHONPATH": str(tmp_path / "run")}
    subprocess.run([sys.executable, "rows.py"], cwd=tmp_path, env=environment, check=True)
    rows = torch.tensor(json.loads((tmp_path / "rows.json").read_text()))
    torch.testing.assert_close(rows, inputs, equal_nan=True)
    for batch in (inputs, inputs[:1], inputs[:7]):
        torch.testing.assert_close(exported(batch), model(batch))
    again = run("run=run", "format=torch_export", command="export")
    assert (again.code, "overwrite=true" in again.err) == (2, True)


@pytest.mark.parametrize("words", [("model=cnn",), HOUSES], ids=["cnn", "table"])
def test_onnx_gives_the_same(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    pytest.importorskip("onnxscript", reason="of the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="of the extra onnx")
    houses(tmp_path / "houses.csv")
    assert run(*words, "trainer.max_epochs=1").code == 0
    finished = run("run=run", "output=m.onnx", command="export")
    assert finished.code == 0, finished.err
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    model = load(tmp_path / "run")
    batch, *shape = session.get_inputs()[0].shape
    assert batch == session.get_outputs()[0].shape[0] == "batch"
    assert session.get_modelmeta().custom_metadata_map["model"] == (tmp_path / "m.json").read_text()
    for size in (1, 33):
        inputs = torch.rand(size, *shape) * 16
        expected = model(inputs)
        found = torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_missing_exporter_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        assert run("trainer.max_epochs=1").code == 0
        finished = run("run=run", command="export")
        assert finished.code == 2
        assert finished.err.startswith("format=onnx: expected onnx, onnxscript and onnxruntime; `uv sync")
    else:
        pytest.skip("it is there")
