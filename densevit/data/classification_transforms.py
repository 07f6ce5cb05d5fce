"""Augmentation and evaluation of classification images: timm's transforms on our samples.

A sample's "image" goes in as uint8 (3, H, W) and comes out normalised, float32 (3, height, width).
"""

from typing import Any

from timm.data import create_transform
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

Sizes = tuple[int, int]
Numbers = tuple[float, ...]


class OnImage:
    """Applies a transform of Pillow pictures to "image" and leaves the rest of the sample alone."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample | {"image": self.apply(sample["image"])}

    def apply(self, image: Tensor) -> Tensor:
        """uint8 (3, H, W) -> float32 (3, height, width)."""
        result: Tensor = self.transform(to_pil_image(image.as_subclass(Tensor)))
        return result


def classification_train_transform(
    *,
    image_size: Sizes,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    auto_augment: str | None = "rand-m9-mstd0.5-inc1",
    color_jitter: float = 0.4,
    erase: float = 0.25,
    interpolation: str = "bicubic",
    mean: Numbers,
    std: Numbers,
) -> OnImage:
    """Random crop to `image_size` (H, W), flip, RandAugment, random erasing with noise.

    `scale` is the share of the image's area that a crop covers, `ratio` its width / height. `color_jitter` is used
    where there is no `auto_augment` (as in timm and in the authors' code). `mean` and `std` are on the 0 .. 255 scale.
    """
    transform = create_transform(
        image_size,
        is_training=True,
        scale=scale,
        ratio=ratio,
        hflip=flip,
        auto_augment=auto_augment,
        color_jitter=color_jitter,
        re_prob=erase,
        re_mode="pixel",
        interpolation=interpolation,
        mean=_unit(mean),
        std=_unit(std),
    )
    return OnImage(transform)


def classification_eval_transform(
    *, image_size: Sizes, crop_pct: float = 0.875, interpolation: str = "bicubic", mean: Numbers, std: Numbers
) -> OnImage:
    """The short side to `image_size` / `crop_pct`, then the middle `image_size` (H, W)."""
    transform = create_transform(
        image_size, crop_pct=crop_pct, interpolation=interpolation, mean=_unit(mean), std=_unit(std)
    )
    return OnImage(transform)


def _unit(values: Numbers) -> Numbers:
    return tuple(value / 255 for value in values)
