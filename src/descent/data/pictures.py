"""Image files: found in folders, decoded by Pillow, brought to one size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from descent.errors import ConfigError, nearest

if TYPE_CHECKING:
    import polars as pl

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
AHEAD = 256  # images that are decoded before the first of them is taken
BLOCK = 1 << 26  # bytes of decoded images that are in memory at once in prediction


class ImageReader:
    """Images in folders as bytes of one shape, as the model of a run was trained on.

    Args:
        path: the folder that the run learned from.
        size: height and width.
        channels: 1 for grey, 3 for colour.
        classes: their names, which are those of the folders.
    """

    def __init__(self, path: str, size: tuple[int, int], channels: int, classes: Sequence[str]) -> None:
        self.path, self.size, self.channels, self.classes = path, size, channels, list(classes)

    def state(self) -> dict[str, object]:
        """As plain values, for a checkpoint."""
        size = list(self.size)
        return {
            "kind": "images",
            "path": self.path,
            "size": size,
            "channels": self.channels,
            "classes": self.classes,
        }

    def encoder(self) -> nn.Module:
        return nn.Identity()

    def read(self, path: str, source: str) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Blocks of a folder's images, in the order of their names: a frame of "file" and bytes, uint8
        `(images, channels, height, width)`.

        Raises:
            ConfigError: no such folder or image, or one that can not be decoded.
        """
        import polars as pl

        root = existing(path, source)
        files = [root] if root.is_file() else images_in(root)
        if not files:
            raise ConfigError(f"{source}: expected images ({', '.join(SUFFIXES)}), but there is none")
        for block, images in self._blocks(files, source):
            names = [file.name if file == root else file.relative_to(root).as_posix() for file in block]
            yield pl.DataFrame({"file": names}), images

    def read_with_targets(
        self, path: str, source: str, classes: Sequence[str]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of images and of class indices, int64, from a folder for each class.

        Raises:
            ConfigError: beside those of `read`, a folder of another name than the classes'.
        """
        root = existing(path, source)
        files, targets, found = labelled(root, source)
        for name in found:
            if name not in classes:
                raise ConfigError(
                    f"{source}: expected folders of the classes {', '.join(classes)}, not {name}"
                    + nearest(name, classes)
                )
        indices = torch.tensor([classes.index(name) for name in found])[torch.tensor(targets)]
        first = 0
        for block, images in self._blocks(files, source):
            yield images, indices[first : first + len(block)]
            first += len(block)

    def notes(self) -> list[str]:
        return []

    def _blocks(self, files: Sequence[Path], source: str) -> Iterator[tuple[Sequence[Path], Tensor]]:
        at_once = max(1, BLOCK // (self.channels * self.size[0] * self.size[1]))
        for start in range(0, len(files), at_once):
            block = files[start : start + at_once]
            images = []
            for file, image in zip(block, decoded(block, self.size, self.channels), strict=True):
                if isinstance(image, str):
                    raise ConfigError(f"{source}: expected images, but {file} can not be decoded ({image})")
                images.append(image)
            yield block, torch.stack(images)


def existing(path: str, source: str) -> Path:
    root = Path(path).expanduser()
    if not root.exists():
        siblings = [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else []
        raise ConfigError(f"{source}: expected a folder that exists{nearest(root.name, siblings)}")
    return root


def images_in(root: Path) -> list[Path]:
    """Image files at any depth, in the order of their paths; hidden files and folders are passed over."""
    return sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )


def labelled(root: Path, source: str) -> tuple[list[Path], list[int], list[str]]:
    """The images of a folder that has a folder for each class, the class index of each, and the classes.

    Raises:
        ConfigError: it is no folder or has none in it, or the folder of a class has no image.
    """
    folders = sorted(p for p in root.glob("*") if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ConfigError(f"{source}: expected a folder with a folder of images for each class")
    files: list[Path] = []
    targets: list[int] = []
    for index, folder in enumerate(folders):
        images = images_in(folder)
        if not images:
            raise ConfigError(f"{source}: expected images in the folder of each class, but {folder} has none")
        files += images
        targets += [index] * len(images)
    return files, targets, [folder.name for folder in folders]


def decoded(files: Sequence[Path], size: tuple[int, int], channels: int) -> Iterator[Tensor | str]:
    """Each image as of `decode`, or in one line why it can not be decoded; a few at once, in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
        for start in range(0, len(files), AHEAD):
            block = files[start : start + AHEAD]
            yield from pool.map(decode_or_say, block, repeat(size), repeat(channels))


def decode_or_say(file: Path, size: tuple[int, int], channels: int) -> Tensor | str:
    # what Pillow raises for damaged files: of its formats, each its own
    try:
        return decode(file, size, channels)
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]


def decode(file: Path, size: tuple[int, int], channels: int) -> Tensor:
    """One image as bytes, uint8 `(channels, height, width)`.

    It is turned as its camera says, laid on white where it is transparent, and scaled so that it fills the
    size; what sticks out on two sides is cut off.
    """
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        image.load()
    if image.mode.startswith(("I", "F")):  # 16 bits or more a pixel
        values = np.asarray(image, dtype=np.float32)
        scaled = values / 257 if values.max() > 255 else values
        image = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    array = np.array(image).reshape(*size, channels)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()
