"""Augmentation and evaluation of classification images: timm's transforms on our samples.

A sample's "image" goes in as uint8 (3, H, W) and comes out normalised, float32 (3, height, width).
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from densevit.errors import UserError

POLICY = re.compile(
    r"rand(-(m\d+|n\d+|p\d*\.?\d+|mstd\d*\.?\d+|mmax\d+|inc[01]|t(weights|3aw?)))*"
    r"|(original|originalr|v0|v0r|3a)(-mstd\d*\.?\d+)?"
    r"|augmix(-(m\d+|w\d+|d\d+|a\d*\.?\d+|b[01]|mstd\d*\.?\d+))*"
)
"""timm's names of augmentation policies; it passes over what it does not know in them."""

Sizes = tuple[int, int]
Numbers = tuple[float, ...]


class OnImage:
    """Applies a transform of Pillow pictures to "image" and leaves the rest of the sample alone."""

    def __init__(self, transform: Any, *, channels: int = 3) -> None:
        self.transform, self.channels = transform, channels

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample | {"image": self.apply(sample["image"])}

    def apply(self, image: Tensor) -> Tensor:
        """uint8 (C, H, W) -> float32 (C, height, width)."""
        if image.dtype != torch.uint8:
            raise UserError(f"pictures to classify hold 0 .. 255 in 8 bits (uint8), not {image.dtype}; save them so")
        if len(image) != self.channels:
            raise UserError(f"pictures to classify have {self.channels} channels, not {len(image)}; read them as RGB")
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
    if auto_augment is not None and not POLICY.fullmatch(auto_augment):
        raise UserError(
            f"auto_augment {auto_augment!r} is no policy of timm; use such as 'rand-m9-mstd0.5-inc1', 'original', "
            "'augmix-m3-w3', or null for none"
        )
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
    for step in transform.transforms:
        for op in _operations(step):
            if op.name.startswith("Posterize"):
                op.aug_fn = posterize
    return OnImage(transform, channels=len(mean))


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """The picture with so many bits of each channel kept; 0 of them, which timm draws too, leave it black.

    Pillow 13 refuses 0 bits, before that it was black.
    """
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def _operations(step: Any) -> Iterator[AugmentOp]:
    """All operations of a policy of timm; none of another transform."""
    yield from getattr(step, "ops", ())
    for operations in getattr(step, "policy", ()):
        yield from operations


def classification_eval_transform(
    *, image_size: Sizes, crop_pct: float = 0.875, interpolation: str = "bicubic", mean: Numbers, std: Numbers
) -> OnImage:
    """The short side to `image_size` / `crop_pct`, then the middle `image_size` (H, W)."""
    transform = create_transform(
        image_size, crop_pct=crop_pct, interpolation=interpolation, mean=_unit(mean), std=_unit(std)
    )
    return OnImage(transform, channels=len(mean))


def _unit(values: Numbers) -> Numbers:
    return tuple(value / 255 for value in values)
