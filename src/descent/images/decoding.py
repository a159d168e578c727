"""Image files as tensors of one shape and one kind of pixels, decoded by Pillow."""

import warnings
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

Image.init()
# none of these has Pillow start another program, as EPS does
KINDS = [k for k in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "PPM") if k in Image.OPEN]
SUFFIXES = sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in KINDS)
DTYPES = {"bytes": torch.uint8, "integers": torch.int32, "floats": torch.float32}
ORIENTATION = 0x0112  # of EXIF: how the camera was held
MANY = 1 << 25  # pixels of an image beside which no other such image is decoded
alone = Lock()
# Pillow refuses 178 million pixels, which a small file can claim, and warns of half as many, as cameras take
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def open_image(file: Path) -> Image.Image:
    """Open an image of the kinds that are taken, whatever its name is."""
    if not file.is_file():  # a pipe would be waited for
        raise ValueError("it is no regular file")
    return Image.open(file, formats=KINDS)


def find_pixels(mode: str) -> str:
    """Return what a pixel is in a mode of Pillow: "bytes", "integers" of more bits, or "floats"."""
    return {"I": "integers", "F": "floats"}.get(mode[0], "bytes")


def read_header(file: Path) -> tuple[tuple[int, int], str] | None:
    """Return height and width, as the camera was held, and Pillow's mode; None where there is no image."""
    try:
        with open_image(file) as image:
            turned = image.getexif().get(ORIENTATION, 1) > 1
            upright = ImageOps.exif_transpose(image) if turned else image
            return (upright.height, upright.width), upright.mode
    except Exception:  # each of Pillow's formats raises what it likes
        return None


def decode(file: Path, size: tuple[int, int], channels: int, pixels: str) -> Tensor:
    """Return an image `(channels, height, width)`: bytes as uint8, integers as int32, floats as float32.

    It is turned as its camera says, laid on white where it is transparent, and scaled so that it fills the
    size; what sticks out on two sides is cut off. Integers and floats keep the values that the file has.

    Args:
        file: of any of `KINDS`.
        size: height and width.
        channels: 1 for grey, 3 for colour.
        pixels: "bytes", "integers" or "floats", see `find_pixels`.

    Raises:
        ValueError: the pixels are others, or not finite. Pillow raises all kinds of exceptions besides.
    """
    with open_image(file) as opened, alone if opened.width * opened.height > MANY else nullcontext():
        image = ImageOps.exif_transpose(opened)
        if (found := find_pixels(image.mode)) != pixels:
            raise ValueError(f"its pixels are {found}, not {pixels}")
        if pixels != "bytes":
            values = np.asarray(image)
            if not np.isfinite(values).all():
                raise ValueError("it has NaN or infinite pixels")
            image = Image.fromarray(values.astype(np.int32 if pixels == "integers" else np.float32))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if pixels == "bytes":
            image = image.convert("L" if channels == 1 else "RGB")
        if image.size != size[::-1]:
            image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
        array = torch.from_numpy(np.array(image)).reshape(*size, -1)
    return array.permute(2, 0, 1).expand(channels, *size).contiguous()
