"""Image files as bytes of one shape, decoded by Pillow."""

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor

from descent.errors import first_line

AHEAD = 256  # images that are decoded before the first of them is needed


def decode(file: Path, size: tuple[int, int], channels: int) -> Tensor:
    """Return an image as bytes, uint8 `(channels, height, width)`.

    It is turned as its camera says, laid on white where it is transparent, and scaled so that it fills the
    size; what sticks out on two sides is cut off.

    Args:
        file: in any format that Pillow knows.
        size: height and width.
        channels: 1 for grey, 3 for colour.
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


def decode_each(files: Sequence[Path], size: tuple[int, int], channels: int) -> Iterator[Tensor | str]:
    """Yield each image in order, as `decode` returns it, or a line that says why it cannot be decoded.

    Pillow refuses an image of more than 178 million pixels, which a small file can claim to be, and warns
    about one of half as many, which a camera can take.
    """
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases Python's lock while it decodes
        for start in range(0, len(files), AHEAD):
            yield from pool.map(decode_or_say, files[start : start + AHEAD], repeat(size), repeat(channels))


def decode_or_say(file: Path, size: tuple[int, int], channels: int) -> Tensor | str:
    """Return the image, or a line that says why it cannot be decoded."""
    try:
        return decode(file, size, channels)
    except Exception as error:  # each of Pillow's formats raises what it likes
        return first_line(error)
