"""New images as a trained model takes them: with the size and the channels that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from descent.data.images.decoding import decode_each
from descent.data.images.folders import SUFFIXES, find_images, find_labelled
from descent.data.named_path import NamedPath
from descent.errors import nearest

if TYPE_CHECKING:
    import polars as pl

BYTES = 1 << 26  # of decoded images that are in memory at once


class ImageReader:
    """A reader (see `descent.data.readers`) of image files.

    Args:
        path: the folder that the run learned from.
        size: height and width.
        channels: 1 for grey, 3 for colour.
        classes: their names, which are those of the folders.
        corrupt: "skip" leaves out images that cannot be decoded, "fail" ends at the first one.
    """

    def __init__(
        self, path: str, size: tuple[int, int], channels: int, classes: Sequence[str], corrupt: str
    ) -> None:
        self.path, self.size, self.channels, self.classes = path, size, channels, list(classes)
        self.corrupt, self.targets = corrupt, ["class"]
        self.left_out: list[str] = []

    def describe(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        values = {"kind": "images", "path": self.path, "size": list(self.size), "channels": self.channels}
        return {**values, "classes": self.classes, "corrupt": self.corrupt}

    @classmethod
    def from_description(cls, values: Mapping[str, Any]) -> ImageReader:
        """Return the reader that `describe` told of."""
        size, names = tuple(values["size"]), ("channels", "classes", "corrupt")
        return cls(values["path"], size, *(values[name] for name in names))

    def encoder(self) -> None:
        """Return None: an image's bytes are the numbers that are normalised."""

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of a folder's images, or the one image at the path: a frame of "file", and bytes,
        uint8 `(images, channels, height, width)`, both in the order of the names."""
        import polars as pl

        root = file.locate("folder")
        files = [root] if root.is_file() else find_images(root)
        if not files:
            raise file.error(f"images ({', '.join(SUFFIXES)}), but there is none")
        for rows, images in self._decode_blocks(files, file):
            block = [files[row] for row in rows]
            names = [image.name if image == root else image.relative_to(root).as_posix() for image in block]
            yield pl.DataFrame({"file": names}), images

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of images and of class indices, int64, from a folder with a folder for each class."""
        files, targets, found = find_labelled(file.locate("folder"), file)
        for name in sorted(set(found) - set(classes)):
            error = file.error(f"folders of the classes {', '.join(classes)}, not {name}")
            error.nearest = nearest(name, classes)
            raise error
        indices = torch.tensor([classes.index(name) for name in found])[torch.tensor(targets)]
        for rows, images in self._decode_blocks(files, file):
            yield images, indices[rows]

    def notes(self) -> list[str]:
        """Return a line for each image that was left out."""
        return [f"left out {line}" for line in self.left_out]

    def _decode_blocks(self, files: Sequence[Path], named: NamedPath) -> Iterator[tuple[list[int], Tensor]]:
        """Yield blocks of images, and which of the files they are."""
        at_once = max(1, BYTES // (self.channels * self.size[0] * self.size[1]))
        decoded = enumerate(decode_each(files, self.size, self.channels))
        while block := list(islice(decoded, at_once)):
            images: dict[int, Tensor] = {}
            for row, image in block:
                if isinstance(image, Tensor):
                    images[row] = image
                elif self.corrupt == "fail":
                    raise named.error(f"images, but {files[row]} can not be decoded ({image})")
                else:
                    self.left_out.append(f"{files[row]} ({image})")
            if images:
                yield list(images), torch.stack(list(images.values()))
