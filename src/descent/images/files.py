"""Finds image files in folders named after their classes, and counts the files it skips."""

import os
import re
from collections import Counter
from pathlib import Path
from unicodedata import normalize

from PIL import ExifTags, Image, ImageOps

from descent.data.named_path import NamedPath

Image.init()
# for none of these does Pillow start another program, as it does for EPS
KINDS = sorted({"AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"} & {*Image.OPEN})
SUFFIXES = sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in KINDS)
SPLIT = re.compile(r"(?:^|[^a-z])(train|val|test)(?:ing|id|idation)?(?:set|data|images)?(?:[^a-z]|$)")


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
