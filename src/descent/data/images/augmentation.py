"""Random changes of training images that leave their class as it is."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from descent.data.torchvision_sets import import_torchvision


def build_augmentation(
    augment: Literal["none", "light", "flip", "strong"],
) -> Callable[[Tensor], Tensor] | None:
    """Return a random change of one image, uint8 `(channels, height, width)`, or None for "none".

    "light" turns by up to 10°, shifts by up to a tenth and scales by up to a tenth; "flip" also mirrors half
    of the images; "strong" mirrors half and then applies one change drawn from many (TrivialAugment, Müller
    & Hutter, 2021).
    """
    if augment == "none":
        return None
    v2 = import_torchvision("augment", augment).transforms.v2
    light = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1))
    steps = {
        "light": [light],
        "flip": [v2.RandomHorizontalFlip(), light],
        "strong": [v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()],
    }
    return v2.Compose(steps[augment])
