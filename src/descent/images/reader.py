"""Finds images, and reads them in the size, channels and pixel type that a model was trained on."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from unicodedata import normalize

import numpy as np
import polars as pl
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.utils.data import get_worker_info

from descent.data.named_path import NamedPath
from descent.errors import first_line

Image.init()
# for none of these does Pillow start another program, as it does for EPS
KINDS = sorted({"AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"} & {*Image.OPEN})
SUFFIXES = sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in KINDS)
SPLIT = re.compile(r"(?:^|[^a-z])(train|val|test)(?:ing|id|idation)?(?:set|data|images)?(?:[^a-z]|$)")
MANY = 1 << 24  # pixels of decoded images in memory at once


def show(path: str | Path) -> str:
    """Return a path as text: bytes that are not UTF-8 become `\\xb0`, so different names stay different."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_header(file: Path) -> tuple[tuple[int, int], str] | None:
    """Return height and width after EXIF rotation, and Pillow's mode; None if it is not an image."""
    try:
        with file.open("rb") as stream, Image.open(stream, formats=KINDS) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            upright = ImageOps.exif_transpose(image) if turned else image
            return (upright.height, upright.width), upright.mode
    except Exception:  # each of Pillow's formats raises its own errors
        return None


def count_passed(passed: Counter[str]) -> list[str]:
    """Return a line that counts the skipped files, if there are any."""
    kinds = [f"{n:,} {kind}" for kind, n in passed.most_common() if n]
    return [f"skipped {passed.total():,}: {', '.join(kinds)}"] if kinds else []


def find_images(root: Path, passed: Counter[str]) -> list[Path]:
    """Return all images at any depth, by name or content, in order, and count the rest in `passed`."""
    images = []
    for top, folders, names in os.walk(root, followlinks=True):
        passed["hidden"] += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(top, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES or read_header(path):
                images.append(path)
            else:
                passed[show(path.suffix.lower()) or "without a suffix"] += 1
    return sorted(images)


def find_labelled(root: Path, named: NamedPath, passed: Counter[str]) -> list[tuple[Path, str, str]]:
    """Return the images in class folders, with their class and split: "train", "val" or "test".

    Split folders, such as `Training`, may contain the class folders. Names that differ only in Unicode form
    (NFD) are one class.
    """
    images = find_images(root, passed)
    folders = [path for path in sorted(root.glob("[!.]*")) if path.is_dir()]
    splits = {path.name: match[1] for path in folders if (match := SPLIT.search(path.name.lower()))}
    within = [path for top in folders if top.name in splits for path in top.glob("[!.]*") if path.is_dir()]
    trained = any(splits[path.parent.name] == "train" for path in within)
    given = trained and (len(splits) > 1 or len(folders) == 1)
    places = {path.relative_to(root).parts for path in (within if given else folders)}
    found, empty = [], {*places}
    for image in images:
        place = image.relative_to(root).parts[: 2 if given else 1]
        if place in places:
            empty.discard(place)
            split = splits[place[0]] if given else "train"
            found.append((image, normalize("NFC", show(place[-1])), split))
        else:
            passed["next to the folders of classes"] += 1
    if empty or not found:
        lacks = f", but {show(root.joinpath(*min(empty)))} has none" if empty else ""
        why = "".join(f" ({line})" for line in count_passed(passed))
        raise named.error(f"a folder with a folder of images for each class{lacks}{why}")
    return found


def find_pixels(mode: str) -> str:
    """Return the pixel type of one of Pillow's modes: uint8, int32 (16 bits and more) or float32."""
    return {"I": "int32", "F": "float32"}.get(mode[0], "uint8")


@dataclass
class ImageReader:
    """Reads image files."""

    path: str  # the folder that the run learned from
    size: list[int]  # height and width
    channels: int  # 1 for grey, 3 for colour
    pixels: str  # as from `find_pixels`; images of another type cannot be decoded
    corrupt: str  # "skip" omits images that cannot be decoded, "fail" ends with a list of them
    kind: str = "images"

    def __post_init__(self) -> None:
        self.targets, self.left_out, self.passed = ["class"], list[str](), Counter[str]()

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Return the reader with these values of its fields."""
        return cls(**description)

    def encoder(self) -> None:
        """Return None, because an image's pixels are already the numbers to scale."""

    def decode(self, file: Path) -> Tensor | str:
        """Return an image `(channels, height, width)`, or a line that says why it cannot be decoded.

        It is rotated according to EXIF, put on white where it is transparent, and scaled so that it fills
        the size; what extends beyond it on two sides is cropped.
        """
        try:
            # as a stream, because Pillow 13 scrambles the pixels of a rotated raw TIFF opened by path
            with file.open("rb") as stream, Image.open(stream, formats=KINDS) as opened:
                image = ImageOps.exif_transpose(opened)
                if (found := find_pixels(image.mode)) != self.pixels:
                    return f"its pixels are {found}, not {self.pixels}"
                if found != "uint8":
                    image = Image.fromarray(np.asarray(image, found))
                else:
                    if image.has_transparency_data:
                        image = image.convert("RGBA")
                        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                    image = image.convert("L" if self.channels == 1 else "RGB")
                image = ImageOps.fit(image, (self.size[1], self.size[0]), Image.Resampling.BILINEAR)
                pixels = torch.from_numpy(np.array(image)).reshape(*self.size, -1).permute(2, 0, 1)
        except Exception as error:  # each of Pillow's formats raises what it likes
            return show(first_line(error)).partition(" <")[0]
        if not pixels.isfinite().all():
            return "it has NaN or infinite pixels"
        return pixels.expand(self.channels, *self.size).contiguous()

    def decode_all(self, files: Sequence[Path], named: NamedPath) -> Iterator[tuple[list[int], Tensor]]:
        """Yield blocks of the images that can be decoded, in order, and the indices of their files."""
        at_once = min(256, 1 + MANY // (self.channels * self.size[0] * self.size[1]))
        threads = 1 if get_worker_info() else None  # workers decode side by side
        with ThreadPoolExecutor(threads) as pool:  # Pillow releases Python's lock while it decodes
            for first in range(0, len(files), at_once):
                block = list(enumerate(pool.map(self.decode, files[first : first + at_once]), first))
                self.left_out += [f"{show(files[row])} ({why})" for row, why in block if isinstance(why, str)]
                images = {row: image for row, image in block if isinstance(image, Tensor)}
                if images:
                    yield list(images), torch.stack(list(images.values()))
        if self.left_out and self.corrupt == "fail":
            some = ", ".join(self.left_out[:5]) + (", …" if len(self.left_out) > 5 else "")
            damaged = f"{len(self.left_out):,} of {len(files):,} cannot be decoded: {some}"
            raise named.error(f"images, but {damaged}; a run with data.corrupt=skip leaves them out")

    def read(self, file: NamedPath) -> Iterator[tuple[pl.DataFrame, Tensor]]:
        """Yield blocks of a folder's images, or the one at the path: a frame of "file", and pixels."""
        root = file.locate("folder")
        files = find_images(root, self.passed) if root.is_dir() else [root]
        if not files:
            raise file.error(f"images ({', '.join(SUFFIXES)}), but there is none")
        for rows, images in self.decode_all(files, file):
            names = [files[row].relative_to(root if root.is_dir() else root.parent) for row in rows]
            yield pl.DataFrame({"file": [show(name.as_posix()) for name in names]}), images

    def read_with_targets(self, file: NamedPath, classes: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of images and of class indices, int64, from a folder with one folder per class."""
        files, labels, splits = zip(*find_labelled(file.locate("folder"), file, self.passed), strict=True)
        if unknown := {*labels} - {*classes} or {*splits} - {"train"}:
            raise file.error(f"folders of the classes {', '.join(classes)}, not {min(unknown)}")
        targets = torch.tensor([classes.index(label) for label in labels])
        for rows, images in self.decode_all(files, file):
            yield images, targets[rows]

    def notes(self) -> list[str]:
        """Return a line that counts the skipped files, and one for each image that was left out."""
        return count_passed(self.passed) + [f"left out {line}" for line in self.left_out]
