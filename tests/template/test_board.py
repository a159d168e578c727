"""What TensorBoard shows, read back from its files."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Run


def load(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    return events


def test_it_opens_on_one_layout_of_training_and_validation_and_has_rate_and_gradient(
    run: Run, tmp_path: Path
) -> None:
    assert run("scheduler=cosine", "data.batch_size=64", "trainer.max_epochs=3").code == 0
    events = load(tmp_path / "run")
    assert {"train/loss", "val/loss", "train/acc", "val/acc", "lr", "grad_norm"} <= set(
        events.Tags()["scalars"]
    )
    assert len({event.step for event in events.Scalars("lr")}) == len(events.Scalars("lr")) >= 3  # by step
    assert len(events.Scalars("grad_norm")) == 3
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert (
        layout.index(b"train/loss")
        < layout.index(b"val/loss")
        < layout.index(b"train/acc")
        < layout.index(b"lr")
    )


@pytest.mark.parametrize(("data", "picture"), [("digits", "confusion"), ("diabetes", "predicted_and_true")])
def test_insight_shows_weights_gradients_and_the_worst_predictions(
    run: Run, tmp_path: Path, data: str, picture: str
) -> None:
    words = ("callbacks=insight", "callbacks.insight.every=2", "data.batch_size=128", "trainer.max_epochs=3")
    assert run(f"data={data}", *words).code == 0
    events = load(tmp_path / "run")
    tags = events.Tags()
    assert {"weights/model.1.weight", "gradients/model.1.weight"} <= set(tags["histograms"])
    assert len(events.Histograms("weights/model.1.weight")) == 2  # of epochs 1 and 2
    assert picture in tags["images"]
    assert ("worst" in tags["images"]) == (data == "digits")
    table = events.Tensors("worst/text_summary")[0].tensor_proto.string_val[0].decode()
    assert table.count(", is ") == 9
