"""A folder of images as samples: in memory if they fit, otherwise decoded by workers."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.samples import Samples
from descent.data.scaling import to_deviation
from descent.data.stored import StoredInputs
from descent.data.torchvision_sets import import_torchvision
from descent.errors import require
from descent.images.files import count_passed, find_labelled, read_header, show
from descent.images.reader import ImageReader, find_pixels

LARGEST = 224  # pixels per side, unless the user sets the size
MEMORY = 2 << 30  # bytes of decoded images that in_memory=auto keeps
Augment = Literal["none", "light", "flip", "strong"]


def build_augmentation(augment: Augment, fill: float = 0) -> Callable[[Tensor], Tensor] | None:
    """Return a random change of one image, which fills empty areas with `fill`; None for "none"."""
    if augment == "none":
        return None
    v2 = import_torchvision("augment", augment).transforms.v2
    light = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), fill=fill)
    more = {"flip": light, "strong": v2.TrivialAugmentWide()}  # Müller & Hutter (2021)
    return light if augment == "light" else v2.Compose([v2.RandomHorizontalFlip(), more[augment]])


@dataclass
class StoredImages:
    """Images that are decoded in each epoch, or augmented: `StoredInputs` (see `descent.data.stored`)."""

    files: Sequence[Path]
    kept: Tensor  # the images `(n, channels, height, width)`, or no images
    reader: ImageReader
    sums: Tensor  # of each image: first pixel, sum and square sum about it, float64 `(n, 3, channels)`
    augment: Callable[[Tensor], Tensor] | None
    workers: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        image = self.kept[row] if len(self.kept) else self.reader.decode(self.files[row])
        if isinstance(image, str):  # the file has changed since the run began
            raise OSError(f"{show(self.files[row])} can not be decoded ({image})")
        return image

    def moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation like `find_moments`; for bytes, whose sums are exact, bit for bit."""
        first, total, square = self.sums[rows].unbind(1)
        each, apart = self.reader.size[0] * self.reader.size[1], first - first[0]
        square = (square + 2 * apart * total + each * apart.square()).sum(0) / (each * len(rows))
        total = (total + each * apart).sum(0) / (each * len(rows))
        return (first[0] + total).view(-1, 1, 1), to_deviation(square - total.square()).view(-1, 1, 1)


def images(
    path: str | None,
    size: tuple[int, int] | None,
    color: Literal["auto", "grey", "rgb"],
    augment: Augment,
    corrupt: Literal["fail", "skip"],
    in_memory: bool | Literal["auto"],
    workers: int | Literal["auto"],
) -> Samples:
    """Return the images in folders named after their classes.

    All are decoded once at the start, so that damaged ones are found before training, and the training
    split's mean and deviation are exact: the one scale for 8-bit, 16-bit and float images alike.
    """
    require(bool(path), "path", path, "a folder with a folder of images for each class")
    build_augmentation(augment)  # reports a missing library before an hour of decoding
    processes = min(8, max(1, (os.cpu_count() or 1) - 1)) if workers == "auto" else workers
    require(processes >= 0, "workers", workers, "auto, or a whole number of at least 0")
    named, passed = NamedPath("path", str(path)), Counter[str]()
    root = named.locate("folder")
    files, labels, splits = zip(*find_labelled(root, named, passed), strict=True)
    classes = sorted({label for label, split in zip(labels, splits, strict=True) if split == "train"})
    require(len(classes) >= 2, "path", path, f"at least two folders of classes, not {classes[0]} alone")
    if unknown := {*labels} - {*classes}:
        raise named.error(f"the classes of train, {', '.join(classes)}, in all splits, not {min(unknown)}")
    sizes, modes = zip(*read_headers(files, path), strict=True)
    height, width = size or (min(LARGEST, int(median(sides))) for sides in zip(*sizes, strict=True))
    require(min(height, width) >= 1, "size", size, "a height and a width of at least 1")
    pixels = Counter(map(find_pixels, modes)).most_common(1)[0][0]
    require(pixels == "uint8" or augment != "strong", "augment", augment, f"light or flip for {pixels}")
    grey = color == "grey" or (color == "auto" and {*modes} <= {"1", "L", "LA", "I", "I;16", "I;16B", "F"})
    shape = torch.Size((len(files), 1 if grey else 3, height, width))
    reader = ImageReader(str(root.resolve()), [height, width], shape[1], pixels, corrupt)
    keep = shape.numel() * (1 if pixels == "uint8" else 4) <= MEMORY if in_memory == "auto" else in_memory
    kept, whole, sums = decode(reader, files, named, shape if keep else None)
    targets = torch.tensor([classes.index(labels[row]) for row in whole], dtype=torch.int64)
    counts = dict(zip(classes, targets.bincount(minlength=len(classes)).tolist(), strict=True))
    for name in classes:
        require(counts[name] > 0, "path", path, f"an image of {name} that can be decoded")
    inputs: Tensor | StoredInputs = kept[: len(whole)]
    if augment != "none" or not keep or pixels != "uint8":
        change = build_augmentation(augment, 0 if pixels == "uint8" else sums[0][:, 0].mean().item())
        processes = 0 if keep and augment == "none" else processes
        inputs = StoredImages([files[row] for row in whole], kept, reader, torch.cat(sums), change, processes)
    taken = np.array(splits)[whole]
    given = {name: torch.from_numpy((taken == name).nonzero()[0]) for name in ("train", "val", "test")}
    kind = ("grey" if grey else "colour") + ("" if pixels == "uint8" else f" {pixels}")
    others = f" and {len({*sizes}) - 1:,} other sizes" if len({*sizes}) > 1 else ""
    lines = [
        f"{show(named.path)}: {len(files):,} images of {sizes[0][0]}×{sizes[0][1]}{others} pixels, "
        f"taken as {height}×{width}, {kind}, {'kept in memory' if keep else 'read from the files'}",
        f"  classes   {', '.join(f'{name} {n:,}' for name, n in [*counts.items()][:20])}",
        *(f"  {line}" for line in count_passed(passed)),
        *list_cut_off(sizes, height, width),
        *(f"  left out  {line}" for line in reader.left_out),
    ]
    description, preview = {"kind": "images", **asdict(reader)}, "".join(f"{line}\n" for line in lines)
    return Samples(inputs, targets, classes, given, per_channel=True, reader=description, preview=preview)


def read_headers(files: Sequence[Path], path: str | None) -> list[tuple[tuple[int, int], str]]:
    """Return height and width, in pixels, and Pillow's mode of each image that can be read."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = [header for header in pool.map(read_header, files) if header]
    require(bool(headers), "path", path, f"images, but not one of {len(files):,} can be read")
    return headers


def decode(
    reader: ImageReader, files: Sequence[Path], named: NamedPath, shape: torch.Size | None
) -> tuple[Tensor, list[int], list[Tensor]]:
    """Return the pixels, kept where a shape is given, the rows that decode, and each row's sums."""
    kept = torch.empty(shape or 0, dtype=getattr(torch, reader.pixels))
    whole, sums = list[int](), list[Tensor]()
    for rows, block in reader.decode_all(files, named):
        if shape:
            kept[len(whole) : len(whole) + len(rows)] = block
        whole += rows
        values = block.flatten(2).double()
        apart = values - values[..., :1]
        sums.append(torch.stack([values[..., 0], apart.sum(2), apart.square().sum(2)], 1))
    return kept, whole, sums


def list_cut_off(sizes: Iterable[tuple[int, int]], height: int, width: int) -> list[str]:
    """Return the line on images that lose a tenth or more of themselves, where there are such."""
    seen = [min(h * width, w * height) / max(h * width, w * height) for h, w in sizes]
    cut = f"{sum(share < 0.9 for share in seen):,} images are longer or wider: up to {1 - min(seen):.0%}"
    line = f"  cut off   {cut} of one, at two sides; data.size is [height, width]"
    return [line] if min(seen) < 0.9 else []
