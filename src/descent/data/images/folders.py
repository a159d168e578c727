"""Image files in folders that have the names of their classes."""

from pathlib import Path

from descent.data.named_path import NamedPath

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def find_images(root: Path) -> list[Path]:
    """Return the image files at any depth, in the order of their paths, without hidden ones."""
    return sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )


def list_class_folders(root: Path) -> list[Path]:
    """Return the folders in a folder in the order of their names, without hidden ones."""
    return sorted(path for path in root.glob("*") if path.is_dir() and not path.name.startswith("."))


def find_labelled(root: Path, named: NamedPath) -> tuple[list[Path], list[int], list[str]]:
    """Return the images of a folder with a folder for each class, the class index of each, and the classes.

    Errors are about the path `named`: `root` has no folder in it, or the folder of a class has no image.
    """
    folders = list_class_folders(root)
    if not folders:
        raise named.error("a folder with a folder of images for each class")
    files: list[Path] = []
    targets: list[int] = []
    for index, folder in enumerate(folders):
        images = find_images(folder)
        if not images:
            raise named.error(f"images in the folder of each class, but {folder} has none")
        files += images
        targets += [index] * len(images)
    return files, targets, [folder.name for folder in folders]


def find_split(root: Path, named: NamedPath) -> tuple[list[Path], list[int], list[str], list[str]]:
    """Return the images, the class index of each, the split of each, and the classes; see `find_labelled`.

    The root holds a folder for each class, and then every split is "train"; or it holds the folders train,
    val and test, and each of those has folders of the classes of train.
    """
    folders = {folder.name.lower(): folder for folder in list_class_folders(root)}
    if "train" not in folders or not set(folders) <= set(SPLITS):
        folders = {"train": root}
    files, targets, classes = find_labelled(folders.pop("train"), named)
    splits = ["train"] * len(files)
    for name, folder in folders.items():
        more, labels, names = find_labelled(folder, named)
        for unknown in sorted(set(names) - set(classes)):
            raise named.error(f"the classes of train in {folder}, not {unknown}")
        files += more
        targets += [classes.index(names[label]) for label in labels]
        splits += [SPLITS[name]] * len(more)
    return files, targets, splits, classes
