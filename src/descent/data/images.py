"""A person's own images, a folder for each class: in memory where they fit, else decoded by workers."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from descent.data.loader import Loader
from descent.data.memory import InMemory, draw_missing
from descent.data.pictures import ImageReader, decode, decoded, existing, labelled
from descent.errors import ConfigError, require

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LARGEST = 224  # pixels of a side, where the images' own size is taken
MEMORY = 2 << 30  # bytes of decoded images that are kept where in_memory is "auto"


def images(
    path: str | None,
    size: tuple[int, int] | None,
    color: Literal["auto", "grey", "rgb"],
    augment: Literal["none", "light", "flip", "strong"],
    corrupt: Literal["fail", "skip"],
    in_memory: bool | Literal["auto"],
    workers: int | Literal["auto"],
    batch_size: int,
    eval_batch_size: int,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> "InMemory | FromFiles":
    """Images in folders named for their classes, decoded once at the start: so damaged ones show before
    training, and the training split's mean and deviation a channel are exact.

    Args:
        path: a folder of classes, or one of `train` and, where they are given, `val` and `test`, each a
            folder of classes.
        size: height and width of every image; None for the median size, with sides of at most 224.
        color: "auto" is grey where all images are.
        augment: "none", or a word of `augmentation`, for the training images.
        corrupt: "fail" ends with a list of the images that can not be decoded, "skip" leaves them out.
        in_memory: keep what is decoded, as bytes; "auto" does so up to 2 GiB.
        workers: processes that decode or augment, where they are needed; "auto" is by the machine's cores.
        batch_size, eval_batch_size, val_fraction, test_fraction, seed: those of `InMemory`.

    Raises:
        ConfigError: no such folder, a class without images, fewer than two classes, damaged images, or an
            augmentation without torchvision.
    """
    if not path:
        raise ConfigError("path=null: expected a folder with a folder of images for each class")
    transform = augmentation(augment)
    source, root = f"path={path}", existing(path, f"path={path}")
    files, labels, given, classes = find(root, source)
    require(len(classes) >= 2, "path", path, f"at least two folders of classes, not {classes[0]} alone")
    sizes, modes = headers(files)
    if not sizes:
        raise ConfigError(f"{source}: expected images, but not one of {len(files):,} can be read")
    if size is None:
        size = min(LARGEST, int(median(h for h, _ in sizes))), min(LARGEST, int(median(w for _, w in sizes)))
    require(min(size) >= 1, "size", list(size), "a height and a width of at least 1")
    grey = color == "grey" or (color == "auto" and set(modes) <= {"1", "L", "I", "I;16", "F"})
    reader = ImageReader(str(root.resolve()), (size[0], size[1]), 1 if grey else 3, classes)
    need = len(files) * reader.channels * size[0] * size[1]
    keep = need <= MEMORY if in_memory == "auto" else in_memory

    kept, moments, damaged = decode_all(files, reader, keep)
    if damaged and corrupt == "fail":
        some = ", ".join(f"{files[row]} ({reason})" for row, reason in list(damaged.items())[:5])
        more = f", and {len(damaged) - 5:,} more" if len(damaged) > 5 else ""
        raise ConfigError(
            f"{source}: expected images, but {len(damaged):,} of {len(files):,} can not be decoded: "
            f"{some}{more}; data.corrupt=skip leaves them out"
        )
    targets, whole = torch.tensor(labels), torch.ones(len(files), dtype=torch.bool)
    whole[list(damaged)] = False
    counts = targets[whole].bincount(minlength=len(classes)).tolist()
    for name, count in zip(classes, counts, strict=True):
        require(count > 0, "path", path, f"an image of {name} that can be decoded")
    splits = split_rows(whole, targets, given, val_fraction, test_fraction, seed)
    kinds = [f"{h}×{w}" for h, w in dict.fromkeys(sizes)]
    shown = ", ".join(kinds[:3]) + (f" and {len(kinds) - 3:,} other sizes" if len(kinds) > 3 else "")
    preview = [
        f"{path}: {len(files):,} images of {shown} pixels, taken as {size[0]}×{size[1]},"
        f" {'grey' if grey else 'colour'}, {'kept in memory' if keep else 'read from the files'}",
        f"  classes   {', '.join(f'{n} {c:,}' for n, c in list(zip(classes, counts, strict=True))[:20])}",
        *(f"  left out  {files[row]} ({reason})" for row, reason in damaged.items()),
    ]
    text = "".join(line + "\n" for line in preview)
    if keep and transform is None:
        return InMemory(
            kept,
            targets,
            classes,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=seed,
            per_channel=True,
            splits=splits,
            reader=reader.state(),
            preview=text,
        )
    get = kept.__getitem__ if keep else partial(decode_file, files, reader)
    sizes_of_batches = batch_size, eval_batch_size
    return FromFiles(
        get, targets, splits, reader, moments[splits[0]], transform, workers, *sizes_of_batches, seed, text
    )


def find(root: Path, source: str) -> tuple[list[Path], list[int], list[str], list[str]]:
    """The image files, the class index of each, the split that its folder says or "", and the classes."""
    folders = {p.name.lower(): p for p in sorted(root.glob("*")) if p.is_dir() and not p.name.startswith(".")}
    if "train" not in folders or not set(folders) <= set(SPLITS):
        files, targets, classes = labelled(root, source)
        return files, targets, [""] * len(files), classes
    files, targets, classes = labelled(folders.pop("train"), source)
    splits = ["train"] * len(files)
    for name, folder in folders.items():
        more, labels, names = labelled(folder, source)
        for unknown in set(names) - set(classes):
            raise ConfigError(f"{source}: expected the classes of train in {folder}, not {unknown}")
        files += more
        targets += [classes.index(names[label]) for label in labels]
        splits += [SPLITS[name]] * len(more)
    return files, targets, splits, classes


def headers(files: Sequence[Path]) -> tuple[list[tuple[int, int]], list[str]]:
    """Height and width, and Pillow's mode, of each image whose header can be read."""
    from PIL import Image, UnidentifiedImageError

    sizes, modes = [], []
    for file in files:
        with suppress(OSError, UnidentifiedImageError, SyntaxError, ValueError), Image.open(file) as image:
            sizes.append((image.height, image.width))
            modes.append(image.mode)
    return sizes, modes


def decode_all(
    files: Sequence[Path], reader: ImageReader, keep: bool
) -> tuple[Tensor, Tensor, dict[int, str]]:
    """The images, uint8 `(n, channels, height, width)` (none unless `keep`); the mean and the mean square
    of each channel, float64 `(n, 2, channels)`; and by row why an image can not be decoded."""
    shape = (reader.channels, *reader.size)
    kept = torch.empty(len(files) if keep else 0, *shape, dtype=torch.uint8)
    moments = torch.zeros(len(files), 2, reader.channels, dtype=torch.float64)
    damaged = {}
    for row, image in enumerate(decoded(files, reader.size, reader.channels)):
        if isinstance(image, str):
            damaged[row] = image
            continue
        values = image.flatten(1).float()
        moments[row] = torch.stack([values.mean(1), values.square().mean(1)])
        if keep:
            kept[row] = image
    return kept, moments, damaged


def split_rows(
    whole: Tensor,
    targets: Tensor,
    given: Sequence[str],
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for training, validation and test: those of the folders, or drawn from the training images."""
    parts = {
        name: (whole & torch.tensor([split == name for split in given])).nonzero().flatten()
        for name in ("val", "test")
    }
    train = (whole & torch.tensor([split in ("", "train") for split in given])).nonzero().flatten()
    return draw_missing(train, parts, targets, val_fraction, test_fraction, seed)


class FromFiles(LightningDataModule):
    """Images that are decoded, or augmented, one by one: by worker processes, ahead of the training.

    The order of an epoch, and what the augmentation draws for each image, are functions of (seed, epoch)
    alone: the number of workers changes nothing. Batches are bytes until they are on the device.

    Args:
        get: the image of a row, uint8 `(channels, height, width)`.
        targets: class indices of all rows, int64.
        splits: rows of the training, validation and test data.
        reader: what is told to the checkpoint.
        moments: mean and mean square a channel of the training images, `(n, 2, channels)`.
        transform: augmentation of a training image, or None.
        workers: processes, or "auto".
        batch_size, eval_batch_size, seed, preview: those of `InMemory`.
    """

    def __init__(
        self,
        get: Callable[[int], Tensor],
        targets: Tensor,
        splits: tuple[Tensor, Tensor, Tensor],
        reader: ImageReader,
        moments: Tensor,
        transform: Callable[[Tensor], Tensor] | None,
        workers: int | Literal["auto"],
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        preview: str,
    ) -> None:
        super().__init__()
        require(batch_size >= 1, "batch_size", batch_size, "a whole number of at least 1")
        require(eval_batch_size >= 1, "eval_batch_size", eval_batch_size, "a whole number of at least 1")
        require(
            workers == "auto" or workers >= 0, "workers", workers, "auto, or a whole number of at least 0"
        )
        self.task, self.classes, self.target_names = "classification", reader.classes, list[str]()
        self.input_shape, self.outputs = (reader.channels, *reader.size), len(reader.classes)
        self.reader, self.preview = reader.state(), preview
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        # one worker a core, but for the one that trains
        self.workers = min(8, max(1, (os.cpu_count() or 1) - 1)) if workers == "auto" else workers
        mean, square = moments.mean(0)
        std = (square - mean.square()).clamp(min=0).sqrt()
        std = torch.where(std > 1e-6 * (1 + mean), std, torch.ones_like(std))
        self.input_mean, self.input_std = (m.float().reshape(-1, 1, 1) for m in (mean, std))
        self.statistics = {
            "input_mean": self.input_mean,
            "input_std": self.input_std,
            "target_mean": torch.zeros(1),
            "target_std": torch.ones(1),
        }
        self.train, self.val, self.test = (
            Images(get, targets, rows, transform if name == "train" else None)
            for name, rows in zip(("train", "val", "test"), splits, strict=True)
        )

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, name)):,} {name}" for name in ("train", "val", "test"))
        return f"{sizes} samples of shape {self.input_shape}, {self.outputs} classes"

    def state_dict(self) -> dict[str, Any]:
        """What Lightning keeps in each checkpoint: all that reading new files and naming outputs needs."""
        names = ("task", "input_shape", "outputs", "classes", "target_names", "reader")
        return {name: getattr(self, name) for name in names}

    def train_dataloader(self) -> Loader:
        # overfit_batches: the same batches each epoch
        same = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._loader(self.train, self.batch_size, None if same else self.seed)

    def val_dataloader(self) -> Loader:
        return self._loader(self.val, self.eval_batch_size)

    def test_dataloader(self) -> Loader:
        return self._loader(self.test, self.eval_batch_size)

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        images, targets = batch
        if self.input_mean.device != images.device:
            self.input_mean, self.input_std = (
                self.input_mean.to(images.device),
                self.input_std.to(images.device),
            )
        return images.float().sub_(self.input_mean).div_(self.input_std), targets

    def _loader(self, dataset: "Images", batch_size: int, seed: int | None = None) -> Loader:
        rank, world_size = (
            (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        )
        return Loader(
            dataset,
            batch_size,
            seed,
            rank=rank,
            world_size=world_size,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if self.workers else None,
            persistent_workers=self.workers > 0,
        )


class Images(Dataset):
    """One image and its class index at a time; the arguments are those of `FromFiles`."""

    def __init__(
        self,
        get: Callable[[int], Tensor],
        targets: Tensor,
        rows: Tensor,
        transform: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.get, self.transform = get, transform
        self.rows, self.targets = rows, targets[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.get(int(self.rows[index]))
        # what it draws is set by the batch: see Loader
        return image if self.transform is None else self.transform(image), self.targets[index]


def decode_file(files: Sequence[Path], reader: ImageReader, row: int) -> Tensor:
    return decode(files[row], reader.size, reader.channels)


def augmentation(word: Literal["none", "light", "flip", "strong"]) -> Callable[[Tensor], Tensor] | None:
    """A random change that leaves the class as it is, of one image in bytes.

    Args:
        word: "light" turns by up to 10°, shifts by up to a tenth and scales by up to a tenth; "flip" mirrors
            half of the images as well; "strong" mirrors and then applies one change drawn from many
            (TrivialAugment, Müller & Hutter, 2021).

    Raises:
        ConfigError: torchvision is missing, or does not match torch.
    """
    if word == "none":
        return None
    try:
        from torchvision.transforms import v2
    except (ImportError, RuntimeError) as error:  # RuntimeError: built against another torch
        raise ConfigError(
            f"augment={word}: expected a torchvision that matches torch; `uv sync --extra images` or"
            f" `pip install -e '.[images]'` ({str(error).splitlines()[0]})"
        ) from error
    light = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1))
    steps = {
        "light": [light],
        "flip": [v2.RandomHorizontalFlip(), light],
        "strong": [v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()],
    }
    return v2.Compose(steps[word])
