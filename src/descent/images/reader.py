"""Images as a trained model takes them: with the size, the channels and the pixels that it was trained on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from descent.data.named_path import NamedPath
from descent.errors import first_line, nearest
from descent.images.decoding import SUFFIXES, decode
from descent.images.folders import count_passed, find_images, find_labelled, show

if TYPE_CHECKING:
    import polars as pl

PIXELS = 1 << 24  # of decoded images that are in memory at once


@dataclass
class ImageReader:
    """A reader (see `descent.data.readers`) of image files.

    Args:
        path: the folder that the run learned from.
        size: height and width.
        channels: 1 for grey, 3 for colour.
        pixels: "bytes", "integers" or "floats"; an image of other pixels cannot be decoded.
        classes: their names, which are those of the folders.
        corrupt: "skip" leaves out images that cannot be decoded, "fail" ends with a list of them.
    """

    path: str
    size: list[int]
    channels: int
    pixels: str
    classes: list[str]
    corrupt: str

    def __post_init__(self) -> None:
        self.targets, self.left_out, self.passed = ["class"], list[str](), Counter[str]()

    def describe(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {"kind": "images"} | {part.name: getattr(self, part.name) for part in fields(self)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ImageReader:
        """Return the reader that `describe` described."""
        return cls(*(description[part.name] for part in fields(cls)))

    def encoder(self) -> None:
        """Return None: an image's pixels are the numbers that are normalised."""

    def decode(self, file: Path) -> Tensor | str:
        """Return an image `(channels, height, width)`, or a line that says why it cannot be decoded."""
        try:
            return decode(file, (self.size[0], self.size[1]), self.channels, self.pixels)
        except Exception as error:  # each of Pillow's formats raises what it likes
            return show(first_line(error))

    def decode_all(self, files: Sequence[Path], named: NamedPath) -> Iterator[tuple[list[int], Tensor]]:
        """Yield blocks of the images that can be decoded, in order, and which of the files they are."""
        block = min(256, 1 + PIXELS // (self.channels * self.size[0] * self.size[1]))
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases Python's lock while it decodes
            for first in range(0, len(files), block):
                decoded = dict(enumerate(pool.map(self.decode, files[first : first + block]), first))
                images = {row: image for row, image in decoded.items() if isinstance(image, Tensor)}
                damaged = decoded.keys() - images.keys()
                self.left_out += [f"{show(files[row])} ({decoded[row]})" for row in sorted(damaged)]
                if images:
                    yield list(images), torch.stack(list(images.values()))
        if self.left_out and self.corrupt == "fail":
            some = ", ".join([*self.left_out[:5], f"and {len(self.left_out) - 5:,} more"][: len(self.left_out)])
            damaged = f"{len(self.left_out):,} of {len(files):,} can not be decoded: {some}"
            raise named.error(f"images, but {damaged}; a run with data.corrupt=skip leaves them out")

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of a folder's images, or the one image at the path: a frame of "file", and pixels
        `(images, channels, height, width)`, both in the order of the names."""
        import polars as pl

        root = file.locate("folder")
        files = find_images(root, self.passed) if root.is_dir() else [root]
        if not files:
            raise file.error(f"images ({', '.join(SUFFIXES)}), but there is none")
        for rows, images in self.decode_all(files, file):
            block = [files[row] for row in rows]
            names = [image.name if image == root else image.relative_to(root).as_posix() for image in block]
            yield pl.DataFrame({"file": [show(name) for name in names]}), images

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of images and of class indices, int64, from a folder with a folder for each class."""
        found = find_labelled(file.locate("folder"), file)
        self.passed.update(found.passed)
        for name in sorted(set(found.classes) - set(classes)):
            error = file.error(f"folders of the classes {', '.join(classes)}, not {name}")
            error.nearest = nearest(name, classes)
            raise error
        indices = torch.tensor([classes.index(found.classes[target]) for target in found.targets])
        for rows, images in self.decode_all(found.files, file):
            yield images, indices[rows]

    def notes(self) -> list[str]:
        """Return a line that counts what was passed over, and one for each image that was left out."""
        return count_passed(self.passed) + [f"left out {line}" for line in self.left_out]
