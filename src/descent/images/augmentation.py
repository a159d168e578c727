"""Random changes of training images that leave their class as it is."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from descent.data.torchvision_sets import import_torchvision

Augment = Literal["none", "light", "flip", "strong"]


def build_augmentation(augment: Augment, fill: float = 0) -> Callable[[Tensor], Tensor] | None:
    """Return a random change of one image `(channels, height, width)`, or None for "none".

    "light" turns by up to 10°, shifts by up to a tenth and scales by up to a tenth, with `fill` where no
    image is; "flip" also mirrors half of the images; "strong" mirrors half and then applies one change to
    bytes drawn from many (TrivialAugment, Müller & Hutter, 2021).
    """
    if augment == "none":
        return None
    v2 = import_torchvision("augment", augment).transforms.v2
    if augment == "strong":
        return v2.Compose([v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()])
    light = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), fill=fill)
    return light if augment == "light" else v2.Compose([v2.RandomHorizontalFlip(), light])
