"""Image files in folders that have the names of their classes. What is passed over is counted."""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from descent.data.named_path import NamedPath
from descent.images.decoding import SUFFIXES, read_header

SPLIT = re.compile(r"(?:^|[^a-z])(train|val|test)(?:ing|id|idation)?(?:set|data)?(?:[^a-z]|$)")


@dataclass
class Found:
    """The images of a folder: the class index and the split of each; and how many others of which kind."""

    classes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)


def show(path: str | Path) -> str:
    """Return a path as text: what is not UTF-8 in a name becomes replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def count_passed(passed: Counter[str]) -> list[str]:
    """Return a line that counts what is passed over, or no line."""
    kinds = [f"{n:,} {kind}" for kind, n in passed.most_common() if n]
    return [f"passed over {passed.total():,}: {', '.join(kinds)}"] if kinds else []


def find_images(root: Path, passed: Counter[str]) -> list[Path]:
    """Return the images at any depth, in the order of their paths, and count the rest in `passed`.

    Links are followed, to each folder once. A file is an image by its name, and decoding shows its damage, or
    by what it contains.
    """
    images, folders, met = [], [root], set()
    while folders:
        folder = folders.pop()
        if folder.resolve() in met:
            passed["links to folders that were read"] += 1
            continue
        met.add(folder.resolve())
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                passed["hidden"] += 1
            elif path.is_dir():
                folders.append(path)
            elif not path.is_file():
                passed["pipes or broken links"] += 1
            elif path.suffix.lower() in SUFFIXES or read_header(path):
                images.append(path)
            else:
                passed[show(path.suffix.lower()) or "without a suffix"] += 1
    return sorted(images)


def list_folders(root: Path) -> dict[str, list[Path]]:
    """Return the folders in a folder by name, in order. Names that look alike, because one has a letter and
    its accent apart (NFD), are one name."""
    folders: dict[str, list[Path]] = {}
    for path in root.glob("[!.]*"):
        if path.is_dir():
            folders.setdefault(normalize("NFC", path.name), []).append(path)
    return {name: sorted(folders[name]) for name in sorted(folders)}


def find_labelled(root: Path, named: NamedPath, split: str = "train", found: Found | None = None) -> Found:
    """Return the images of a folder with a folder for each class, after those `found` in another split.

    Errors are about the path `named`: `root` has no folders, or a class of its own, or one without an image.
    """
    found, folders = found or Found(), list_folders(root)
    names = [show(name) for name in folders]
    if not names or len(set(names)) < len(names):
        raise named.error(f"a folder of images for each class in {show(root)}, with names in UTF-8")
    found.classes = found.classes or names
    found.passed["beside the folders of classes"] += sum(path.is_file() for path in root.glob("[!.]*"))
    for name, paths in zip(names, folders.values(), strict=True):
        if name not in found.classes:
            raise named.error(f"the classes of train in {show(root)}, not {name}")
        passed: Counter[str] = Counter()
        images = [image for path in paths for image in find_images(path, passed)]
        if not images:
            told = "".join(f" ({line})" for line in count_passed(passed))
            raise named.error(f"images in the folder of each class, but {show(paths[0])} has none{told}")
        found.passed.update(passed)
        found.files += images
        found.targets += [found.classes.index(name)] * len(images)
        found.splits += [split] * len(images)
    return found


def find_splits(root: Path, named: NamedPath) -> Found:
    """Return the images of a folder that holds a folder for each class, or a folder for each split with
    those in it: `Training` and `Testing`, `train_set` and `test_set`, `train`, `valid` and `test`."""
    folders = [path for paths in list_folders(root).values() for path in paths]
    splits = {path: match[1] for path in folders if (match := SPLIT.search(path.name.lower()))}
    trained = any(split == "train" and list_folders(path) for path, split in splits.items())
    if not trained or 1 == len(splits) < len(folders):
        return find_labelled(root, named)
    found = Found(passed=Counter({"beside the folders of splits": len(folders) - len(splits)}))
    for path in sorted(splits, key=lambda path: splits[path] != "train"):
        find_labelled(path, named, splits[path], found)
    return found
