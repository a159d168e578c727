"""A folder of images as samples: in memory where they fit, else decoded by workers."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from descent.data.images.augmentation import build_augmentation
from descent.data.images.decoding import decode_each
from descent.data.images.folders import find_split
from descent.data.images.image_reader import ImageReader
from descent.data.images.stored_images import StoredImages
from descent.data.named_path import NamedPath
from descent.data.samples import Samples, StoredInputs
from descent.errors import ConfigError, require

LARGEST = 224  # pixels of a side, unless a person gives the size
KEPT = 0.9  # share of an image; if less of it is seen, the preview says so
MEMORY = 2 << 30  # bytes of decoded images that in_memory=auto keeps


def images(
    path: str | None,
    size: tuple[int, int] | None,
    color: Literal["auto", "grey", "rgb"],
    augment: Literal["none", "light", "flip", "strong"],
    corrupt: Literal["fail", "skip"],
    in_memory: bool | Literal["auto"],
    workers: int | Literal["auto"],
) -> Samples:
    """Return the images in folders that have the names of their classes.

    All are decoded once at the start, so that damaged ones show before training, and mean and deviation of
    the training split are exact.

    Args:
        path: a folder with a folder for each class, or with the folders `train` and, if you like, `val` and
            `test`, each with a folder for each class.
        size: height and width of every image; None for the median size, with sides of at most 224.
        color: "auto" is grey if all images are.
        augment: the random change of training images; see `build_augmentation`.
        corrupt: "fail" ends with a list of the images that cannot be decoded, "skip" leaves them out.
        in_memory: whether to keep the decoded images, as bytes; "auto" does so up to 2 GiB.
        workers: processes that decode or augment, if that is needed; "auto" goes by the machine's cores.

    Raises:
        ConfigError: the folder has fewer than two classes, a class has no images, or images are damaged.
    """
    if not path:
        raise ConfigError("path", None, expected="a folder with a folder of images for each class")
    change, named = build_augmentation(augment), NamedPath("path", path)
    root = named.locate("folder")
    files, labels, given, classes = find_split(root, named)
    require(len(classes) >= 2, "path", path, f"at least two folders of classes, not {classes[0]} alone")
    sizes, size, channels = choose_shape(files, named, size, color)
    reader = ImageReader(str(root.resolve()), size, channels, classes, corrupt)
    if in_memory == "auto":
        in_memory = len(files) * channels * size[0] * size[1] <= MEMORY
    kept, sums, damaged = decode_all(files, reader, in_memory)
    if corrupt == "fail":
        refuse_damaged(damaged, files, named)
    whole = [row for row in range(len(files)) if row not in damaged]
    targets = torch.tensor([labels[row] for row in whole], dtype=torch.int64)
    counts = count_images(targets, classes, named)
    inputs: Tensor | StoredInputs = kept
    if change is not None or not in_memory:
        inputs = StoredImages([files[row] for row in whole], kept, reader, sums, change, workers)
    rows = {
        split: torch.tensor([given[row] == split for row in whole]).nonzero().flatten()
        for split in ("train", "val", "test")
    }
    storage = "kept in memory" if in_memory else "read from the files"
    lines = [
        f"{path}: {len(files):,} images of {list_sizes(sizes)} pixels, taken as {size[0]}×{size[1]}, "
        f"{'grey' if channels == 1 else 'colour'}, {storage}",
        f"  classes   {', '.join(f'{n} {c:,}' for n, c in list(counts.items())[:20])}",
        *describe_cuts(sizes, size),
        *(f"  left out  {files[row]} ({reason})" for row, reason in damaged.items()),
    ]
    text = "".join(f"{line}\n" for line in lines)
    return Samples(inputs, targets, classes, rows, per_channel=True, reader=reader.describe(), preview=text)


def count_images(targets: Tensor, classes: Sequence[str], named: NamedPath) -> dict[str, int]:
    """Return the number of images of each class; a class without an image raises a `ConfigError`."""
    counts = dict(zip(classes, targets.bincount(minlength=len(classes)).tolist(), strict=True))
    for name, count in counts.items():
        if count == 0:
            raise named.error(f"an image of {name} that can be decoded")
    return counts


def choose_shape(
    files: Sequence[Path], named: NamedPath, size: tuple[int, int] | None, color: str
) -> tuple[list[tuple[int, int]], tuple[int, int], int]:
    """Return the size of each image, then the height and width and the channels that all will have."""
    sizes, modes = read_headers(files)
    if not sizes:
        raise named.error(f"images, but not one of {len(files):,} can be read")
    if size is None:
        heights, widths = zip(*sizes, strict=True)
        size = min(LARGEST, int(median(heights))), min(LARGEST, int(median(widths)))
    require(min(size) >= 1, "size", list(size), "a height and a width of at least 1")
    grey = color == "grey" or (color == "auto" and set(modes) <= {"1", "L", "I", "I;16", "F"})
    return sizes, (size[0], size[1]), 1 if grey else 3


def read_headers(files: Sequence[Path]) -> tuple[list[tuple[int, int]], list[str]]:
    """Return height and width, and Pillow's mode, of each image whose header can be read."""
    from PIL import Image

    sizes, modes = [], []
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    for file in files:
        # each of Pillow's formats raises what it likes; `decode_all` names the images that are damaged
        with suppress(Exception), Image.open(file) as image:
            sizes.append((image.height, image.width))
            modes.append(image.mode)
    return sizes, modes


def decode_all(
    files: Sequence[Path], reader: ImageReader, keep: bool
) -> tuple[Tensor, list[Tensor], dict[int, str]]:
    """Decode each image once.

    Returns:
        The images that can be decoded, uint8 `(n, channels, height, width)`, or no images unless they are to
        be kept; the exact sum and sum of squares of each image's channels, float64 `(2, channels)`; and why
        the others cannot be decoded, by row.
    """
    shape = (reader.channels, *reader.size)
    kept = torch.empty(len(files) if keep else 0, *shape, dtype=torch.uint8)
    sums: list[Tensor] = []
    damaged = {}
    for row, image in enumerate(decode_each(files, reader.size, reader.channels)):
        if isinstance(image, str):
            damaged[row] = image
            continue
        if keep:
            kept[len(sums)] = image
        values = image.flatten(1).double()
        sums.append(torch.stack([values.sum(1), values.square().sum(1)]))
    return kept[: len(sums)], sums, damaged


def refuse_damaged(damaged: dict[int, str], files: Sequence[Path], named: NamedPath) -> None:
    """Raise a `ConfigError` that lists the first images that cannot be decoded, if there are any."""
    if damaged:
        some = ", ".join(f"{files[row]} ({reason})" for row, reason in list(damaged.items())[:5])
        more = f", and {len(damaged) - 5:,} more" if len(damaged) > 5 else ""
        which = f"{len(damaged):,} of {len(files):,} can not be decoded: {some}{more}"
        raise named.error(f"images, but {which}; data.corrupt=skip leaves them out")


def describe_cuts(sizes: Sequence[tuple[int, int]], size: tuple[int, int]) -> list[str]:
    """Return a line on the images whose sides are cut off, because their shape is not that of `size`."""
    height, width = size
    kept = [min(h * width, w * height) / max(h * width, w * height) for h, w in sizes]
    cut = [share for share in kept if share < KEPT]
    if not cut:
        return []
    lost = f"up to {1 - min(cut):.0%} of an image, at two of its sides"
    return [f"  cut off   {len(cut):,} images are longer or wider: {lost}; data.size is [height, width]"]


def list_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    """Return the first three different sizes, and how many others there are, in words."""
    kinds = [f"{height}×{width}" for height, width in dict.fromkeys(sizes)]
    others = f" and {len(kinds) - 3:,} other sizes" if len(kinds) > 3 else ""
    return ", ".join(kinds[:3]) + others
