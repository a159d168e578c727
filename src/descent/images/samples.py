"""A folder of images as samples: in memory if they fit, otherwise decoded by workers."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.data.samples import Samples
from descent.data.torchvision_sets import import_torchvision
from descent.errors import ConfigError, require
from descent.images.reader import ImageReader, count_passed, find_labelled, find_pixels, read_header, show

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
    """Images that are decoded in each epoch, or augmented, as `Samples.inputs`."""

    files: Sequence[Path]
    kept: Tensor  # the images `(n, channels, height, width)`, or no images
    reader: ImageReader
    augment: Callable[[Tensor], Tensor] | None
    workers: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Tensor) -> Tensor:
        if len(self.kept):
            return self.kept[rows]
        files, named = [self.files[row] for row in rows.tolist()], NamedPath("path", self.reader.path)
        try:
            return torch.cat([images for _, images in self.reader.decode_all(files, named)])
        except ConfigError as error:  # a file has changed since the run began
            raise OSError(str(error)) from error  # which a worker can send


def images(
    path: str | None,
    size: tuple[int, int] | None,
    color: Literal["auto", "grey", "rgb"],
    augment: Augment,
    corrupt: Literal["fail", "skip"],
    in_memory: bool | Literal["auto"],
    workers: int | Literal["auto"],
) -> Samples:
    """Return the images in folders named after their classes; all are decoded once, to find damaged ones."""
    require(bool(path), "path", path, "a folder with a folder of images for each class")
    build_augmentation(augment)  # without torchvision, an error before an hour of decoding
    processes = min(8, max(1, (os.cpu_count() or 1) - 1)) if workers == "auto" else workers
    require(processes >= 0, "workers", workers, "auto, or a whole number of at least 0")
    named, passed = NamedPath("path", str(path)), Counter[str]()
    root = named.locate("folder")
    files, labels, splits = zip(*find_labelled(root, named, passed), strict=True)
    classes = sorted({label for label, split in zip(labels, splits, strict=True) if split == "train"})
    require(len(classes) >= 2, "path", path, f"at least two folders of classes, not {classes[0]} alone")
    if unknown := {*labels} - {*classes}:
        raise named.error(f"the classes of train, {', '.join(classes)}, in all splits, not {min(unknown)}")
    with ThreadPoolExecutor() as pool:
        headers = [header for header in pool.map(read_header, files) if header]
    require(bool(headers), "path", path, f"images, but none of {len(files):,} can be read")
    sizes, modes = zip(*headers, strict=True)
    height, width = size or (min(LARGEST, int(median(sides))) for sides in zip(*sizes, strict=True))
    require(min(height, width) >= 1, "size", size, "a height and a width of at least 1")
    pixels = Counter(map(find_pixels, modes)).most_common(1)[0][0]
    require(pixels == "uint8" or augment != "strong", "augment", augment, f"light or flip for {pixels}")
    grey = color == "grey" or (color == "auto" and {*modes} <= {"1", "L", "LA", "I", "I;16", "I;16B", "F"})
    shape = torch.Size((len(files), 1 if grey else 3, height, width))
    reader = ImageReader(str(root.resolve()), [height, width], shape[1], pixels, corrupt)
    keep = shape.numel() * (1 if pixels == "uint8" else 4) <= MEMORY if in_memory == "auto" else in_memory
    kept, whole = torch.empty(shape if keep else 0, dtype=getattr(torch, pixels)), list[int]()
    for rows, block in reader.decode_all(files, named):
        if keep:
            kept[len(whole) : len(whole) + len(rows)] = block
        whole += rows
    inputs: Tensor | StoredImages = kept[: len(whole)]
    if augment != "none" or not keep:
        change = build_augmentation(augment, 0 if pixels == "uint8" else block.double().mean().item())
        strict = replace(reader, corrupt="fail")
        inputs = StoredImages([files[row] for row in whole], kept, strict, change, processes)
    targets = torch.tensor([classes.index(labels[row]) for row in whole])
    taken = np.array(splits)[whole]
    given = {name: torch.from_numpy((taken == name).nonzero()[0]) for name in {*splits}}
    counts = zip(classes, targets.bincount(minlength=len(classes)).tolist(), strict=True)
    others = " and other" if len({*sizes}) > 1 else ""
    lines = [
        f"{show(named.path)}: {len(files):,} images of {sizes[0][0]}×{sizes[0][1]}{others} pixels, "
        f"taken as {height}×{width}, {'grey' if grey else 'colour'} {pixels}, "
        f"{'kept in memory' if keep else 'read from the files'}",
        f"  classes   {', '.join(f'{name} {n:,}' for name, n in [*counts][:20])}",
        *(f"  {line}" for line in count_passed(passed)),
        *(f"  left out  {line}" for line in reader.left_out),
    ]
    if cut := sum(0.9 * max(h * width, w * height) > min(h * width, w * height) for h, w in sizes):
        lines.append(f"  cut off   over a tenth of {cut:,} images at two sides; data.size=[height,width]")
    preview = "\n".join([*lines, ""])
    return Samples(inputs, targets, classes, given, per_channel=True, reader=asdict(reader), preview=preview)
