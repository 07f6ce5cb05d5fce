"""Augmentation of images with boxes and masks (HLG, section 4.4; mmdetection's numbers), on samples of `detection.py`.

    drop crowd regions -> resize -> flip -> photometric distortion -> drop boxes without area -> normalise

Sizes are (H, W). `mean` and `std` are in the image's own unit, 0..255 for pictures. Random numbers come from torch's
generator. Images are resized bilinearly without smoothing, as those of segmentation are, masks by nearest.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2 import query_size

from densevit.data.base import Transform
from densevit.data.photometric import PhotoMetricDistortion
from densevit.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalize,
    RandomCrop,
    eval_transform,
    fitted_size,
)
from densevit.errors import UserError

PER_OBJECT = ("boxes", "labels", "masks", "iscrowd", "area")
"""Entries of a sample with one row for each object."""
SHORT_SIDES = (640, 672, 704, 736, 768, 800)


def detection_train_transform(
    *,
    short_sides: Sequence[int] = SHORT_SIDES,
    long_side: int = 1333,
    jitter: tuple[float, float] | None = None,
    jitter_size: tuple[int, int] = (1024, 1024),
    flip: float = 0.5,
    photometric: bool = False,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Transform:
    """A sample -> a float32 image of varying size with the objects that can be learned from; none are left at times.

    The short side becomes one of `short_sides`, less where the long side would exceed `long_side`. With `jitter`
    instead, the image is fitted into `jitter_size` times a factor from this range, and what exceeds `jitter_size` is
    cut off at random (Ghiasi et al., 2021).
    """
    if jitter is None:
        resize: list[v2.Transform] = [RandomShortSide(short_sides, long_side=long_side)]
    else:
        resize = [ScaleJitter(jitter_size, scale_range=jitter), RandomCrop(jitter_size, cat_max_ratio=1.0)]
    steps = [DropCrowd(), *resize, v2.RandomHorizontalFlip(flip)]
    if photometric:
        steps.append(PhotoMetricDistortion())
    clean = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1, min_area=1, labels_getter=_per_object)]
    return v2.Compose([*steps, *clean, NormalizeImage(mean=mean, std=std)])


class DetectionEvalTransform:
    """A sample -> {"image", "size", "truth", "image_id", "id"}: the image fitted and normalised, the truth untouched.

    The short side becomes `short_side`, less where the long side would exceed `long_side`. "size" is the (H, W) of the
    stored image; "truth" has the sample's boxes, labels, iscrowd, area and masks in its pixels.
    """

    def __init__(
        self,
        *,
        short_side: int = 800,
        long_side: int = 1333,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self._prepare = eval_transform(resize=(long_side, short_side), mean=mean, std=std)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        image = sample["image"]
        return {
            **self._prepare({"image": image}),
            "size": (image.shape[-2], image.shape[-1]),
            "truth": {key: sample[key] for key in PER_OBJECT if key in sample},
            "image_id": sample["image_id"],
            "id": sample["id"],
        }


class DropCrowd:
    """Leave out crowd regions: they stand for many objects, and are none themselves."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        if not sample["iscrowd"].any():
            return sample
        single = ~sample["iscrowd"]
        kept = {key: sample[key][single] for key in PER_OBJECT if key in sample}
        for key in ("boxes", "masks"):
            if key in kept:
                kept[key] = tv_tensors.wrap(kept[key], like=sample[key])
        return sample | kept


class _Resize(v2.Transform):
    """Resize all of a sample to the (H, W) that `make_params` gives."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        size = list(params["size"])
        if isinstance(inpt, tv_tensors.Mask) and inpt.dtype == torch.bool:  # as bytes: else by way of float32
            return tv_tensors.Mask(F.resize(tv_tensors.Mask(inpt.view(torch.uint8)), size).view(torch.bool))
        return F.resize(inpt, size, interpolation=v2.InterpolationMode.BILINEAR, antialias=False)


class RandomShortSide(_Resize):
    """Bring the short side to one of `short_sides`, or the long side to `long_side` where it would be longer.

    torchvision's RandomShortestSize, with sides rounded as in mmdetection and never below one pixel.
    """

    def __init__(self, short_sides: Sequence[int], *, long_side: int) -> None:
        super().__init__()
        if not short_sides or min(short_sides) < 1 or long_side < max(short_sides):
            raise UserError(f"short_sides {tuple(short_sides)} must be positive and none above long_side {long_side}")
        self.short_sides, self.long_side = tuple(short_sides), long_side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        short = self.short_sides[int(torch.randint(len(self.short_sides), ()))]
        return {"size": fitted_size(query_size(flat_inputs), (self.long_side, short))}


class ScaleJitter(_Resize):
    """Fit into `target_size` (H, W), proportions kept, times a factor drawn from `scale_range`.

    torchvision's ScaleJitter takes (W, H), and fails where a narrow image would have a side of no pixel.
    """

    def __init__(self, target_size: tuple[int, int], *, scale_range: tuple[float, float]) -> None:
        super().__init__()
        if min(target_size) < 1:
            raise UserError(f"jitter_size {tuple(target_size)} must be two positive sizes (H, W)")
        if not 0 < scale_range[0] <= scale_range[1]:
            raise UserError(f"jitter {tuple(scale_range)} must be two positive numbers, the smaller first")
        self.target_size, self.scale_range = target_size, scale_range

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = query_size(flat_inputs)
        low, high = self.scale_range
        scale = low + (high - low) * float(torch.rand((), dtype=torch.float64))
        factor = scale * min(self.target_size[0] / height, self.target_size[1] / width)
        return {"size": (max(int(height * factor + 0.5), 1), max(int(width * factor + 0.5), 1))}


class NormalizeImage(Normalize):
    """`Normalize` for the image alone: masks of objects stay as they are."""

    _transformed_types: Any = (tv_tensors.Image,)


def _per_object(sample: dict[str, Any]) -> list[Tensor]:
    """What has to go with a box that is dropped, besides masks, which torchvision finds itself."""
    return [sample[key] for key in ("labels", "iscrowd", "area")]
