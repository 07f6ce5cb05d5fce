"""The paper's augmentation as torchvision v2 transforms on sample dicts (SETR, section 4.1; mmsegmentation's numbers).

    random resize -> random crop -> flip -> photometric distortion -> normalise -> pad

Sizes are (H, W), except `resize_base`, which is (long side, short side). `mean` and `std` are in the image's own unit,
0..255 for pictures. Every random number comes from torch's generator, so `torch.manual_seed` repeats a run.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2 import query_size

from densevit.data.photometric import PhotoMetricDistortion
from densevit.errors import UserError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""RGB, 0..255; the paper uses them for the ViT and the DeiT weights alike."""


def train_transform(
    *,
    crop_size: tuple[int, int],
    resize_base: tuple[int, int] | None = None,
    ratio_range: tuple[float, float] = (0.5, 2.0),
    cat_max_ratio: float = 0.75,
    flip: float = 0.5,
    photometric: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    ignore_index: int = 255,
) -> v2.Transform:
    """A sample {"image" uint8 (C, H, W), "mask" (H, W)} -> float32 and int64, both of exactly `crop_size`.

    `resize_base` (long, short) times a ratio from `ratio_range` bounds the resized image, whose proportions are kept;
    None stands for the image's own size. `cat_max_ratio` 1 accepts any crop; `flip` is a probability.
    """
    steps: list[v2.Transform] = [
        RandomResize(base=resize_base, ratio_range=ratio_range),
        RandomCrop(crop_size, cat_max_ratio=cat_max_ratio, ignore_index=ignore_index),
        v2.RandomHorizontalFlip(flip),
    ]
    if photometric:
        steps.append(PhotoMetricDistortion())
    return v2.Compose([*steps, Normalize(mean=mean, std=std), PadTo(crop_size, ignore_index=ignore_index)])


def eval_transform(
    *,
    resize: tuple[int, int] | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> v2.Transform:
    """A sample -> float32 image, int64 mask. With `resize` (long, short) the image alone is fitted to that size.

    The mask keeps its original size: scores are computed there, on logits that are resized back.
    """
    normalize = Normalize(mean=mean, std=std)
    return normalize if resize is None else v2.Compose([ResizeImage(resize), normalize])


def fitted_size(image_size: tuple[int, int], scale: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) of an image fitted into `scale` (long, short) with its proportions kept, rounded half up.

    >>> fitted_size((1024, 2048), (2049, 1025))
    (1025, 2049)
    """
    long, short = max(scale), min(scale)
    height, width = image_size
    factor = min(long / max(height, width), short / min(height, width))
    return max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1)


class RandomResize(v2.Transform):
    """Fit the sample into `base` (long, short) x U(ratio_range): images bilinear, masks nearest."""

    def __init__(self, *, base: tuple[int, int] | None = None, ratio_range: tuple[float, float] = (0.5, 2.0)) -> None:
        super().__init__()
        low, high = ratio_range
        if not 0 < low <= high:
            raise UserError(f"ratio_range {ratio_range} must be two positive numbers, the smaller first")
        if base is not None and min(base) < 1:
            raise UserError(f"resize_base {base} must be two positive sizes (long side, short side)")
        self.base, self.ratio_range = base, ratio_range

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        low, high = self.ratio_range
        ratio = low + (high - low) * float(torch.rand((), dtype=torch.float64))
        return {"size": self.size_for(query_size(flat_inputs), ratio)}

    def size_for(self, image_size: tuple[int, int], ratio: float) -> tuple[int, int]:
        """The (H, W) that `ratio` gives; each side of the base is cut to an integer before it is fitted."""
        base = self.base or image_size
        return fitted_size(image_size, (max(int(base[0] * ratio), 1), max(int(base[1] * ratio), 1)))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _resize(inpt, params["size"])


class ResizeImage(v2.Transform):
    """Fit the image alone into `scale` (long, short); the mask stays as it is."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, scale: tuple[int, int]) -> None:
        super().__init__()
        if min(scale) < 1:
            raise UserError(f"resize {scale} must be two positive sizes (long side, short side)")
        self.scale = scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image = next(x for x in flat_inputs if isinstance(x, tv_tensors.Image))
        return {"size": fitted_size((image.shape[-2], image.shape[-1]), self.scale)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _resize(inpt, params["size"])


class RandomCrop(v2.Transform):
    """Cut a random window of at most `crop_size`; draw again while one class fills `cat_max_ratio` of it.

    At most ten crops are drawn, and the last one is taken as it is. A crop is accepted when it shows more than one
    class and the largest covers less than `cat_max_ratio` of the labelled pixels. A smaller image is not padded here.
    """

    tries = 10

    def __init__(self, crop_size: tuple[int, int], *, cat_max_ratio: float = 0.75, ignore_index: int = 255) -> None:
        super().__init__()
        if min(crop_size) < 1:
            raise UserError(f"crop_size {crop_size} must be two positive sizes (H, W)")
        if not 0 < cat_max_ratio <= 1:
            raise UserError(f"cat_max_ratio {cat_max_ratio} must be above 0 and at most 1")
        self.crop_size, self.cat_max_ratio, self.ignore_index = crop_size, cat_max_ratio, ignore_index

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = query_size(flat_inputs)
        crop_height, crop_width = min(self.crop_size[0], height), min(self.crop_size[1], width)
        mask = next((x for x in flat_inputs if isinstance(x, tv_tensors.Mask)), None)
        num_tries = 1 if mask is None or self.cat_max_ratio >= 1 else self.tries
        for _ in range(num_tries):
            top = int(torch.randint(height - crop_height + 1, ()))
            left = int(torch.randint(width - crop_width + 1, ()))
            if mask is None or self.accepts(mask[..., top : top + crop_height, left : left + crop_width]):
                break
        return {"top": top, "left": left, "height": crop_height, "width": crop_width}

    def accepts(self, mask: Tensor) -> bool:
        """Whether no class dominates the labelled pixels of this crop."""
        counts = np.bincount(mask.numpy().reshape(-1), minlength=self.ignore_index + 1)
        counts[self.ignore_index] = 0
        return bool((counts > 0).sum() > 1 and counts.max() / counts.sum() < self.cat_max_ratio)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)


class Normalize(v2.Transform):
    """Image -> float32 (image - mean) / std; mask -> int64, as losses want it."""

    _transformed_types = (tv_tensors.Image, tv_tensors.Mask)

    def __init__(self, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise UserError(f"mean {tuple(mean)} and std {tuple(std)} must have one value a channel, and std above 0")
        self.mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self.std = torch.tensor(std, dtype=torch.float32)[:, None, None]

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            return tv_tensors.wrap(inpt.as_subclass(Tensor).long(), like=inpt)
        if inpt.shape[-3] != len(self.mean):
            raise UserError(f"the image has {inpt.shape[-3]} channels but mean and std have {len(self.mean)} values")
        if inpt.dtype == torch.uint8 and float(self.std.max()) < 1:
            raise UserError(f"std {self.std.flatten().tolist()} is for images in 0..1; multiply mean and std by 255")
        image = inpt.as_subclass(Tensor).to(torch.float32, copy=True)
        return tv_tensors.wrap(image.sub_(self.mean).div_(self.std), like=inpt)


class PadTo(v2.Transform):
    """Pad right and bottom up to `size` (H, W): the normalised image with 0, the mask with `ignore_index`."""

    def __init__(self, size: tuple[int, int], *, ignore_index: int = 255) -> None:
        super().__init__()
        self.size, self.ignore_index = size, ignore_index

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = query_size(flat_inputs)
        return {"padding": [0, 0, max(self.size[1] - width, 0), max(self.size[0] - height, 0)]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not any(params["padding"]):
            return inpt
        fill = float(self.ignore_index) if isinstance(inpt, tv_tensors.Mask) else 0.0
        return F.pad(inpt, params["padding"], fill=fill)


def _resize(inpt: Any, size: tuple[int, int]) -> Any:
    """Bilinear without smoothing for images, as the paper's code does; `F.resize` takes masks by nearest."""
    return F.resize(inpt, list(size), interpolation=v2.InterpolationMode.BILINEAR, antialias=False)
