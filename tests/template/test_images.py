"""data=images: folders of images of any kind, in memory or decoded by workers."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import Run
from PIL import Image
from sklearn.datasets import load_digits
from test_vision import HAS_TORCHVISION

from descent.data.batches import Batches, Loader
from descent.data.images.augmentation import build_augmentation
from descent.data.images.decoding import decode
from descent.data.images.images import images
from descent.data.samples import FromSamples
from descent.errors import ConfigError

SETTINGS: dict[str, Any] = {
    "size": None,
    "color": "auto",
    "augment": "none",
    "corrupt": "fail",
    "in_memory": "auto",
    "workers": 0,
    "batch_size": 16,
    "eval_batch_size": 64,
    "val_fraction": 0.2,
    "test_fraction": 0.2,
    "seed": 0,
    "label_noise": 0.0,
    "fold": None,
    "folds": 5,
}


def data_of(folder: Path, **settings: Any) -> FromSamples:
    """Return the data of a folder of images, with settings in place of those of `SETTINGS`."""
    return FromSamples(images, path=str(folder), **{**SETTINGS, **settings})


def digits(root: Path, each: int = 1000, suffix: str = ".png") -> Path:
    """Handwritten digits as files, a folder for each."""
    data = load_digits()
    for digit in range(10):
        (root / str(digit)).mkdir(parents=True)
        for number, image in enumerate(data.images[data.target == digit][:each]):
            pixels = (image * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(root / str(digit) / f"{number:03}{suffix}")
    return root


def test_digits_as_files_train_evaluate_and_predict(run: Run, tmp_path: Path) -> None:
    digits(tmp_path / "digits")
    finished = run("data=images", "data.path=digits", "trainer.max_epochs=5")
    assert finished.code == 0, finished.err
    assert "digits: 1,797 images of 8×8 pixels, taken as 8×8, grey, kept in memory" in finished.out
    test = json.loads((tmp_path / "run/result.json").read_text())["test"]
    assert test["test/acc"] > 0.9
    assert run("run=run", command="evaluate").code == 0
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    assert metrics["loss"] == pytest.approx(test["test/loss"], rel=1e-4)
    assert run("run=run", "input=digits", "output=out.csv", "keep=[file]", command="predict").code == 0
    frame = pl.read_csv(tmp_path / "out.csv", infer_schema=False)
    assert frame["file"].to_list() == sorted(frame["file"])
    right = frame["file"].str.head(1) == frame["predicted_class"]
    assert right.mean() > 0.95  # type: ignore[operator]


def test_images_read_from_files_train_and_give_the_runs_figures(run: Run, tmp_path: Path) -> None:
    digits(tmp_path / "digits", 20)
    words = ("data.in_memory=false", "data.workers=0", "trainer.max_epochs=1")
    finished = run("data=images", "data.path=digits", *words)
    assert finished.code == 0, finished.err
    assert run("run=run", command="evaluate").code == 0
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    test = json.loads((tmp_path / "run/result.json").read_text())["test"]
    assert metrics["loss"] == pytest.approx(test["test/loss"], rel=1e-4)


def test_files_and_memory_hold_the_same_data_in_the_same_order(tmp_path: Path) -> None:
    digits(tmp_path / "digits", 6)
    (tmp_path / "digits/4/002.png").write_text("no image")
    kept, read = (data_of(tmp_path / "digits", in_memory=keep, corrupt="skip") for keep in (True, False))
    assert torch.equal(kept.scaling.input_mean, read.scaling.input_mean)
    assert torch.equal(kept.scaling.input_std, read.scaling.input_std)
    assert torch.equal(kept.take("test")[0], read.take("test")[0])
    assert kept.describe() == read.describe()
    pixels = np.asarray(Image.open(tmp_path / "digits/3/001.png"))
    Image.fromarray(pixels[::-1]).save(tmp_path / "digits/3/001.png")  # of the same mean and deviation
    for keep in (True, False):
        changed = data_of(tmp_path / "digits", in_memory=keep, corrupt="skip")
        assert changed.fingerprint != kept.fingerprint
    Image.fromarray(pixels).save(tmp_path / "digits/3/001.png")
    one, two = kept.train_dataloader(), read.train_dataloader()
    assert isinstance(one, Batches)
    assert isinstance(two, Loader)
    for (inputs, targets), (same, labels) in zip(one, two, strict=True):
        assert torch.equal(inputs, same)
        assert torch.equal(targets, labels)


def test_where_images_are_kept_may_change_when_a_run_goes_on_and_the_weights_do_not(
    run: Run, tmp_path: Path
) -> None:
    digits(tmp_path / "digits", 6)
    words = ("data=images", "data.path=digits", "threads=1")
    assert run(*words, "data.in_memory=true", "trainer.max_epochs=2", "folder=whole").code == 0
    assert run(*words, "data.in_memory=true", "trainer.max_epochs=1", "folder=half").code == 0
    further = ("data.in_memory=false", "data.workers=1", "trainer.max_epochs=2")
    finished = run("resume=half", *further)
    assert finished.code == 0, finished.err
    one, two = (torch.load(tmp_path / f / "checkpoints/last.ckpt") for f in ("whole", "half"))
    assert all(torch.equal(t, two["state_dict"][name]) for name, t in one["state_dict"].items())


def test_the_order_is_of_the_seed_and_the_epoch_whatever_the_workers(tmp_path: Path) -> None:
    digits(tmp_path / "digits", 6)

    def epoch(number: int, workers: int) -> torch.Tensor:
        loader = data_of(tmp_path / "digits", in_memory=False, workers=workers).train_dataloader()
        loader.set_epoch(number)
        return torch.cat([inputs for inputs, _ in loader])

    assert torch.equal(epoch(0, 0), epoch(0, 2))
    assert not torch.equal(epoch(0, 0), epoch(1, 0))


def test_folders_train_val_and_test_are_the_splits(tmp_path: Path) -> None:
    for name, each in (("train", 8), ("val", 3), ("test", 2)):
        digits(tmp_path / "digits" / name, each)
    data = data_of(tmp_path / "digits", label_noise=0.5)
    assert [len(rows) for rows in data.rows.values()] == [80, 30, 20]
    assert data.take("val")[1].bincount().tolist() == [3] * 10


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".tif", ".webp", ".ppm"])
def test_every_common_format_is_brought_to_one_size(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"image{suffix}"
    Image.fromarray(np.full((30, 20, 3), (200, 100, 50), dtype=np.uint8)).save(file)
    colour = decode(file, (8, 6), 3)
    assert (colour.shape, colour.dtype) == ((3, 8, 6), torch.uint8)
    assert colour.float().mean((1, 2)).tolist() == pytest.approx([200, 100, 50], abs=8)
    assert decode(file, (8, 6), 1).float().mean().item() == pytest.approx(124, abs=4)


def test_transparency_is_white_and_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decode(tmp_path / "clear.png", (4, 4), 1).unique().tolist() == [255]
    Image.fromarray(np.full((4, 4), 257 * 100, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert decode(tmp_path / "deep.png", (4, 4), 1).unique().tolist() == [100]


def test_damaged_images_are_listed_and_left_out_by_choice(tmp_path: Path) -> None:
    digits(tmp_path / "digits", 6)
    whole = (tmp_path / "digits/3/001.png").read_bytes()
    (tmp_path / "digits/3/001.png").write_bytes(whole[:40])
    (tmp_path / "digits/4/002.png").write_text("no image")
    with pytest.raises(
        ConfigError, match=r"2 of 60 can not be decoded: .*3/001.png.*4/002.png.*corrupt=skip"
    ):
        data_of(tmp_path / "digits")
    data = data_of(tmp_path / "digits", corrupt="skip")
    assert sum(map(len, data.rows.values())) == 58
    assert "left out" in data.preview
    assert "3/001.png" in data.preview
    for image in (tmp_path / "digits").rglob("*.png"):
        image.write_bytes(whole[:50])
    with pytest.raises(ConfigError, match="expected an image of 0 that can be decoded"):
        data_of(tmp_path / "digits", corrupt="skip")


def bomb(path: Path) -> None:
    """Write a PNG of a few bytes that says that it is of 40,000×40,000 pixels."""
    Image.new("L", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def test_what_is_skipped_in_training_is_skipped_and_told_ever_after(run: Run, tmp_path: Path) -> None:
    digits(tmp_path / "digits", 6)
    (tmp_path / "digits/4/002.png").write_text("no image")
    bomb(tmp_path / "digits/5/003.png")
    words = ("data=images", "data.path=digits", "trainer.max_epochs=1")
    refused = run(*words)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "5/003.png (Image size (1600000000 pixels)" in refused.err
    finished = run(*words, "data.corrupt=skip")
    assert (finished.code, finished.err) == (0, ""), finished.err
    predicted = run("run=run", "input=digits", command="predict")
    assert "left out digits/4/002.png (cannot identify" in predicted.out
    assert "left out digits/5/003.png (Image size" in predicted.out
    frame = pl.read_csv(tmp_path / "predictions.csv", infer_schema=False)
    assert len(frame) == 58
    assert (frame.columns[0], frame["file"][0]) == ("file", "0/000.png")
    evaluated = run("run=run", "input=digits", command="evaluate")
    assert "left out digits/4/002.png" in evaluated.out
    assert "58 samples" in evaluated.out
    assert run("run=run", command="evaluate").code == 0
    (tmp_path / "digits").rename(tmp_path / "gone")
    exported = run("run=run", "format=torch_export", command="export")
    assert exported.code == 0, exported.err


def test_what_a_shape_cuts_off_is_told(tmp_path: Path) -> None:
    digits(tmp_path / "digits", 6)
    Image.new("L", (32, 8)).save(tmp_path / "digits/3/wide.png")
    line = "  cut off   1 images are longer or wider: up to 75% of an image, at two of its sides"
    assert line in data_of(tmp_path / "digits").preview


def test_a_class_without_an_image_is_named(run: Run, tmp_path: Path) -> None:
    digits(tmp_path / "digits", 3)
    (tmp_path / "digits/empty").mkdir()
    finished = run("data=images", "data.path=digits")
    expected = "data.path=digits: expected images in the folder of each class, but digits/empty has none\n"
    assert (finished.code, finished.err) == (2, expected)
    assert run("data=images").err.startswith("data.path=null: expected a folder")


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is installed")
def test_without_torchvision_an_augmentation_is_one_line() -> None:
    with pytest.raises(ConfigError, match="augment=light: expected a torchvision that matches torch"):
        build_augmentation("light")


@pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not installed")
def test_an_augmented_image_keeps_its_shape_whatever_the_workers(tmp_path: Path) -> None:
    digits(tmp_path / "digits", 6)
    batches = []
    for workers in (0, 2):
        loader = data_of(tmp_path / "digits", augment="flip", workers=workers).train_dataloader()
        loader.set_epoch(3)
        batches.append(torch.cat([inputs for inputs, _ in loader]))
    assert batches[0].shape == (36, 1, 8, 8)
    assert torch.equal(*batches)


def test_workers_share_an_epoch_among_processes_and_repeat_it_where_batches_are_overfitted(
    run: Run, tmp_path: Path
) -> None:
    digits(tmp_path / "digits", each=20)
    words = [
        "data=images",
        "data.path=digits",
        "data.in_memory=false",
        "data.workers=1",
        "data.batch_size=16",
        "trainer.max_epochs=2",
    ]
    overfitted = run(*words, "trainer.overfit_batches=2", "trainer.num_sanity_val_steps=0", "folder=over")
    assert overfitted.code == 0, overfitted.err
    several = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    shared = run(*words, *several, "folder=shared", timeout=300)
    assert shared.code == 0, shared.err
    result = json.loads((tmp_path / "shared/result.json").read_text())
    assert result["steps"] == 2 * 5  # 160 images, 80 a process
