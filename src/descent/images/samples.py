"""A folder of images as samples: in memory where they fit, else decoded by workers."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.samples import Samples, StoredInputs
from descent.errors import ConfigError, require
from descent.images.augmentation import Augment, build_augmentation
from descent.images.decoding import DTYPES, find_pixels, read_header
from descent.images.folders import count_passed, find_splits, show
from descent.images.reader import ImageReader

LARGEST = 224  # pixels of a side, unless a person gives the size
KEPT = 0.9  # share of an image; if less of it is seen, the preview says so
MEMORY = 2 << 30  # bytes of decoded images that in_memory=auto keeps


class StoredImages:
    """The `StoredInputs` of `descent.data.samples`, for images.

    Args:
        files: of the images.
        kept: the images `(n, channels, height, width)`, or no images, and then they are decoded.
        reader: decodes them.
        moments: mean and variance of each image's channels, float64 `(n, 2, channels)`.
        augment: a random change of one training image, or None.
        workers: processes that read; "auto" is one for each core but the one that trains, at most 8.
    """

    def __init__(
        self,
        files: Sequence[Path],
        kept: Tensor,
        reader: ImageReader,
        moments: Tensor,
        augment: Callable[[Tensor], Tensor] | None,
        workers: int | Literal["auto"],
    ) -> None:
        self.files, self.kept, self.reader, self.augment = files, kept, reader, augment
        self.each = moments
        self.workers = min(8, max(1, (os.cpu_count() or 1) - 1)) if workers == "auto" else workers
        require(self.workers >= 0, "workers", workers, "auto, or a whole number of at least 0")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        image = self.kept[row] if len(self.kept) else self.reader.decode(self.files[row])
        if isinstance(image, str):  # it could be decoded when the run began
            raise ConfigError(show(self.files[row]), expected=f"an image that can be decoded ({image})")
        return image

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each channel over some rows, float64 `(channels, 1, 1)`."""
        means, variances = self.each[rows].unbind(1)
        apart = means - means[0]
        variance = variances.mean(0) + apart.var(0, correction=0)
        return (means[0] + apart.mean(0)).reshape(-1, 1, 1), variance.reshape(-1, 1, 1)


def images(
    path: str | None,
    size: tuple[int, int] | None,
    color: Literal["auto", "grey", "rgb"],
    augment: Augment,
    corrupt: Literal["fail", "skip"],
    in_memory: bool | Literal["auto"],
    workers: int | Literal["auto"],
) -> Samples:
    """Return the images in folders that have the names of their classes.

    All are decoded once at the start, so that damaged ones show before training, and mean and deviation of
    the training split are exact. Images of bytes stay bytes; 16-bit, integer and float images keep their
    values, and mean and deviation of the training split are their scale.

    Args:
        path: a folder with a folder for each class, or with folders of splits and those in them.
        size: height and width of every image; None for the median size, with sides of at most 224.
        color: "auto" is grey if all images are.
        augment: the random change of training images; see `build_augmentation`.
        corrupt: "fail" ends with a list of the images that cannot be decoded, "skip" leaves them out.
        in_memory: whether to keep the decoded images; "auto" does so up to 2 GiB.
        workers: processes that decode or augment, if that is needed; "auto" goes by the machine's cores.

    Raises:
        ConfigError: the folder has fewer than two classes, a class has no images, or images are damaged.
    """
    if not path:
        raise ConfigError("path", None, expected="a folder with a folder of images for each class")
    build_augmentation(augment)  # needs torchvision, which is known before an hour of decoding
    named = NamedPath("path", path)
    root = named.locate("folder")
    found = find_splits(root, named)
    classes, only = found.classes, f"at least two folders of classes, not {found.classes[0]} alone"
    require(len(classes) >= 2, "path", path, only)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = [header for header in pool.map(read_header, found.files) if header]
    if not headers:
        raise named.error(f"images, but not one of {len(found.files):,} can be read")
    sizes, modes = zip(*headers, strict=True)
    if size is None:
        height, width = (int(median(sides)) for sides in zip(*sizes, strict=True))
        size = min(LARGEST, height), min(LARGEST, width)
    require(min(size) >= 1, "size", list(size), "a height and a width of at least 1")
    pixels = Counter(map(find_pixels, modes)).most_common(1)[0][0]
    grey = color == "grey" or (color == "auto" and set(modes) <= {"1", "L", "LA", "I", "I;16", "I;16B", "F"})
    require(pixels == "bytes" or augment != "strong", "augment", augment, f"light or flip with {pixels}")
    reader = ImageReader(str(root.resolve()), list(size), 1 if grey else 3, pixels, classes, corrupt)
    shape = reader.channels, *size
    if in_memory == "auto":
        in_memory = len(found.files) * torch.Size(shape).numel() * DTYPES[pixels].itemsize <= MEMORY
    kept = torch.empty(len(found.files) if in_memory else 0, *shape, dtype=DTYPES[pixels])
    whole, each = list[int](), list[Tensor]()
    for rows, block in reader.decode_all(found.files, named):
        if in_memory:
            kept[len(whole) : len(whole) + len(rows)] = block
        whole += rows
        values = block.flatten(2).double()
        shift = values[..., :1]
        apart = values - shift  # so that nothing cancels, and what is constant has no variance
        each.append(torch.stack([shift[..., 0] + apart.mean(2), apart.var(2, correction=0)], 1))
    targets = torch.tensor(found.targets)[whole]
    counts = dict(zip(classes, targets.bincount(minlength=len(classes)).tolist(), strict=True))
    for name, count in counts.items():
        require(count > 0, "path", path, f"an image of {name} that can be decoded")
    moments, kept = torch.cat(each), kept[: len(whole)]
    inputs: Tensor | StoredInputs = kept
    if augment != "none" or not in_memory:
        change = build_augmentation(augment, 0 if pixels == "bytes" else moments[:, 0].mean().item())
        inputs = StoredImages([found.files[row] for row in whole], kept, reader, moments, change, workers)
    splits = {
        split: torch.tensor([i for i, row in enumerate(whole) if found.splits[row] == split], dtype=torch.int64)
        for split in ("train", "val", "test")
    }
    kind = ("grey" if grey else "colour") + ("" if pixels == "bytes" else f" {pixels}")
    storage = "kept in memory" if in_memory else "read from the files"
    lines = [
        f"{show(path)}: {len(found.files):,} images of {list_sizes(sizes)} pixels, "
        f"taken as {size[0]}×{size[1]}, {kind}, {storage}",
        f"  classes   {', '.join(f'{name} {count:,}' for name, count in list(counts.items())[:20])}",
        *(f"  {line}" for line in count_passed(found.passed)),
        *describe_cuts(sizes, size),
        *(f"  left out  {line}" for line in reader.left_out),
    ]
    text = "".join(f"{line}\n" for line in lines)
    return Samples(inputs, targets, classes, splits, per_channel=True, reader=reader.describe(), preview=text)


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
