"""data=images: folders of images of any kind, in memory or decoded by workers"""

import importlib.util
import json
import unicodedata
import zlib
from collections import Counter
from os import fsdecode
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import Run
from PIL import Image
from sklearn.datasets import load_digits
from small import result_of, take

from descent.data.named_path import NamedPath
from descent.data.samples import FromSamples
from descent.data.stored import Loader
from descent.errors import ConfigError
from descent.images.reader import ImageReader, find_images
from descent.images.samples import images

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
SETTINGS: dict[str, Any] = {
    "size": None, "color": "auto", "augment": "none", "corrupt": "fail", "in_memory": "auto", "workers": 0,
}  # fmt: skip
SPLITS = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": 0, "label_noise": 0.0, "fold": None, "folds": 5}


def data_of(folder: Path, **settings: Any) -> FromSamples:
    """Return the data of a folder of images, with settings in place of those of `SETTINGS`."""
    return FromSamples(images, 16, 64, path=str(folder), **{**SPLITS, **SETTINGS, **settings})


def decode(file: Path, size: tuple[int, int], channels: int, pixels: str = "uint8") -> torch.Tensor:
    image = ImageReader("", list(size), channels, pixels, "fail").decode(file)
    assert isinstance(image, torch.Tensor), image
    return image


def digits(root: Path, each: int = 1000) -> Path:
    """Handwritten digits as files, a folder for each."""
    data = load_digits()
    for digit in range(10):
        (root / str(digit)).mkdir(parents=True)
        for number, image in enumerate(data.images[data.target == digit][:each]):
            Image.fromarray((image * 15.9).astype(np.uint8)).save(root / str(digit) / f"{number:03}.png")
    return root


def two_classes(root: Path, arrays: dict[str, np.ndarray], suffix: str, **options: Any) -> Path:
    """Six images a class, each pixel a little more than that of the class."""
    for name, array in arrays.items():
        (root / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(array + array.dtype.type(i)).save(root / name / f"{i}{suffix}", **options)
    return root


def test_files_and_memory_hold_the_same_data_in_the_same_order(tmp_path: Path) -> None:
    digits(tmp_path / "digits", 6)
    (tmp_path / "digits/4/002.png").write_text("no image")
    read = data_of(tmp_path / "digits", in_memory=False, corrupt="skip", workers=2)
    kept = data_of(tmp_path / "digits", in_memory=True, corrupt="skip")
    for name, buffer in kept.scaling.named_buffers():
        assert torch.equal(buffer, read.scaling.get_buffer(name))
    assert torch.equal(take(kept, "test")[0], take(read, "test")[0])
    assert kept.describe() == read.describe()
    loader = read.train_dataloader()
    assert isinstance(loader, Loader)
    for ours, theirs in zip(kept.train_dataloader(), loader, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    if HAS_TORCHVISION:
        for augment in ("light", "flip", "strong"):
            one, two = (
                data_of(tmp_path / "digits", corrupt="skip", augment=augment, workers=n) for n in (0, 2)
            )
            for ours, theirs in zip(one.train_dataloader(), two.train_dataloader(), strict=True):
                assert torch.equal(ours[0], theirs[0])
    pixels = np.asarray(Image.open(tmp_path / "digits/3/001.png"))
    Image.fromarray(pixels[::-1]).save(tmp_path / "digits/3/001.png")  # of the same mean and deviation
    assert data_of(tmp_path / "digits", in_memory=False, corrupt="skip").fingerprint != kept.fingerprint
    (tmp_path / "digits/3/001.png").write_text("no image any more")
    with pytest.raises(OSError, match=r"3/001.png \(cannot identify image file\)"):
        take(read, "train"), take(read, "val"), take(read, "test")


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Training", "VAL_SET", "test-data")])
def test_folders_of_splits_are_the_splits_whatever_they_are_called(
    tmp_path: Path, names: tuple[str, str, str]
) -> None:
    for name, each in zip(names, (8, 3, 2), strict=True):
        digits(tmp_path / "digits" / name, each)
    (tmp_path / "digits/labels").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "digits/labels/a.png")
    data = data_of(tmp_path / "digits", label_noise=0.5)
    assert [len(rows) for rows in data.rows.values()] == [80, 30, 20]
    assert take(data, "val")[1].bincount().tolist() == [3] * 10
    assert "skipped 1: 1 next to the folders of classes" in data.preview
    (tmp_path / f"digits/{names[2]}/9").rename(tmp_path / f"digits/{names[2]}/ten")
    with pytest.raises(ConfigError, match=r"the classes of train, 0, .*, not ten"):
        data_of(tmp_path / "digits")
    vehicles = two_classes(tmp_path, dict.fromkeys(("v/train", "v/bus"), np.zeros((4, 4), np.uint8)), ".png")
    (vehicles / "v/train/2019").mkdir()
    (vehicles / "v/train/0.png").rename(vehicles / "v/train/2019/0.png")
    assert images(str(vehicles / "v"), **SETTINGS).names == ["bus", "train"]


FORMATS = [".jfif", ".JPG", ".png", ".bmp", ".gif", ".tif", ".webp", ".ppm", ".avif", ""]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_common_format_is_brought_to_one_size(tmp_path: Path, suffix: str) -> None:
    if suffix not in ("", ".JPG") and suffix not in Image.registered_extensions():
        pytest.skip(f"Pillow does not know {suffix}")
    file = tmp_path / f"image{suffix}"
    picture = Image.fromarray(np.full((30, 20, 3), (200, 100, 50), dtype=np.uint8))
    picture.save(file, format="JPEG" if suffix in ("", ".jfif", ".JPG") else None)
    assert find_images(tmp_path, Counter()) == [file]
    colour = decode(file, (8, 6), 3)
    assert (colour.shape, colour.dtype) == ((3, 8, 6), torch.uint8)
    assert colour.float().mean((1, 2)).tolist() == pytest.approx([200, 100, 50], abs=8)
    assert decode(file, (8, 6), 1).float().mean().item() == pytest.approx(124, abs=4)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decode(tmp_path / "clear.png", (4, 4), 1).unique().tolist() == [255]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_the_size_of_a_photo_is_that_after_its_turn(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by 90°
    lying = {"a": np.full((20, 40), 9, np.uint8), "b": np.full((20, 40), 99, np.uint8)}
    data = data_of(two_classes(tmp_path, lying, suffix, exif=exif))
    assert data.examples.shape[2:] == (40, 20)
    assert "12 images of 40×20 pixels, taken as 40×20" in data.preview
    assert "cut off" not in data.preview
    assert "over a tenth of 12 images" in data_of(tmp_path, size=(40, 40)).preview


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("array", "pixels"),
    [
        (np.array([[-300.5, -20], [-20, 7]], np.float32), "float32"),
        (np.array([[60_000, 30_000], [250, 12]], np.uint16), "int32"),
        (np.array([[-4, 4000], [250, 70_000_001]], np.int32), "int32"),
    ],
)
def test_deep_and_float_pixels_keep_their_values_and_their_scale_is_of_the_training_images(
    tmp_path: Path, array: np.ndarray, pixels: str, in_memory: bool
) -> None:
    two_classes(tmp_path, {"a": array, "b": array + array.dtype.type(3)}, ".tif")
    assert torch.equal(decode(tmp_path / "a/0.tif", (2, 2), 1, pixels)[0], torch.tensor(array.tolist()))
    data = data_of(tmp_path, in_memory=in_memory)
    assert f"grey {pixels}" in data.preview
    assert data.reader["pixels"] == pixels
    batches = torch.cat([inputs for inputs, _ in data.train_dataloader()])
    assert (batches.mean().item(), batches.std(correction=0).item()) == pytest.approx((0, 1), abs=1e-5)
    reader = ImageReader.from_description(data.reader)
    Image.new("L", (2, 2)).save(tmp_path / "a/bytes.png")
    with pytest.raises(ConfigError, match=rf"bytes.png \(its pixels are uint8, not {pixels}\)"):
        list(reader.read(NamedPath("input", str(tmp_path))))


def test_images_with_nan_and_of_other_pixels_than_most_are_listed(tmp_path: Path) -> None:
    zeros = np.zeros((4, 4), np.float32)
    two_classes(tmp_path, {"a": zeros, "b": zeros + 9}, ".tif")
    zeros[1, 2] = np.nan
    Image.fromarray(zeros).save(tmp_path / "a/0.tif")
    Image.new("L", (4, 4)).save(tmp_path / "b/x.png")
    with pytest.raises(ConfigError, match=r"2 of 13 .*0.tif \(it has NaN .*x.png \(its pixels are uint8"):
        data_of(tmp_path)
    assert sum(map(len, data_of(tmp_path, corrupt="skip").rows.values())) == 11


def test_digits_as_files_train_evaluate_predict_and_tell_what_they_skip(run: Run, tmp_path: Path) -> None:
    root = digits(tmp_path / "digits")
    (root / "4/002.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    bomb = bytearray((root / "5/003.png").read_bytes())
    bomb[16:24] = (40_000).to_bytes(4, "big") * 2  # says that it is of 40,000×40,000 pixels
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (root / "5/003.png").write_bytes(bomb)
    (root / "6/notes.TXT").touch()
    (root / "6/.hidden.png").touch()
    (root / "9").rename(tmp_path / "nines")
    (root / "9").symlink_to(tmp_path / "nines")
    words, skipped = (
        ("data=images", "data.path=digits", "trainer.max_epochs=5"),
        "skipped 2: 1 hidden, 1 .txt",
    )
    refused = run(*words)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "2 of 1,797 cannot be decoded: digits/4/002.png (cannot identify image file), " in refused.err
    assert "5/003.png (Image size (1600000000 pixels)" in refused.err
    finished = run(*words, "data.corrupt=skip")
    assert (finished.code, finished.err) == (0, ""), finished.err
    assert "digits: 1,797 images of 8×8 pixels, taken as 8×8, grey uint8, kept in memory" in finished.out
    assert f"\n  {skipped}\n" in finished.out
    test = result_of(tmp_path / "run")["test"]
    assert test["test/acc"] > 0.9
    assert run("run=run", command="evaluate").code == 0
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    assert metrics["loss"] == pytest.approx(test["test/loss"], rel=1e-4)
    evaluated = run("run=run", "input=digits", command="evaluate")
    assert "left out digits/5/003.png (Image size" in evaluated.out
    assert "1,795 samples" in evaluated.out
    predicted = run("run=run", "input=digits", "keep=[file]", command="predict")
    assert skipped in predicted.out
    assert "left out digits/4/002.png (cannot identify" in predicted.out
    frame = pl.read_csv(tmp_path / "predictions.csv", infer_schema=False)
    assert (len(frame), frame["file"].to_list()) == (1795, sorted(frame["file"]))
    right = frame["file"].str.head(1) == frame["predicted_class"]
    assert right.mean() > 0.95  # type: ignore[operator]
    root.rename(tmp_path / "gone")
    exported = run("run=run", "format=torch_export", command="export")
    assert exported.code == 0, exported.err


def test_names_that_are_no_utf8_or_only_look_alike_are_classes_and_files(tmp_path: Path) -> None:
    korean = [fsdecode(b"\xb0\xa1"), fsdecode(b"\xb0\xa2")]  # two syllables of EUC-KR
    accents = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    for name in (*korean, *accents):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / f"{korean[0]}.png")
    samples = images(str(tmp_path), **SETTINGS)
    assert samples.names == ["\\xb0\\xa1", "\\xb0\\xa2", "café"]
    assert samples.targets.bincount().tolist() == [1, 1, 2]
    reader, folder = ImageReader.from_description(samples.reader), NamedPath("input", str(tmp_path))
    ((frame, _),) = reader.read(folder)
    assert frame["file"].n_unique() == 4
    ((_, targets),) = reader.read_with_targets(folder, samples.names)
    assert targets.tolist() == samples.targets.tolist()


def test_a_class_without_an_image_is_named(run: Run, tmp_path: Path) -> None:
    digits(tmp_path / "digits", 3)
    (tmp_path / "digits/empty").mkdir()
    (tmp_path / "digits/empty/1.heic").touch()
    finished = run("data=images", "data.path=digits")
    line = "data.path=digits: expected a folder with a folder of images for each class"
    assert finished.code == 2
    assert finished.err == f"{line}, but digits/empty has none (skipped 1: 1 .heic)\n"
    assert run("data=images").err.startswith("data.path=null: expected a folder")
    assert "for each class" in run("data=images", "data.path=digits/3/000.png").err
    if not HAS_TORCHVISION:
        line = "data.augment=light: expected a torchvision that matches torch; `uv sync --extra images`"
        assert run("data=images", "data.path=digits", "data.augment=light").err.startswith(line)
