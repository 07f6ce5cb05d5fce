"""Photometric distortion (SETR, section 4.1; mmsegmentation's numbers): every step a table of a byte's 256 values."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from densevit.errors import UserError


class PhotoMetricDistortion(v2.Transform):
    """Random brightness, contrast, saturation and hue of a uint8 RGB image, each with probability one half.

    Brightness adds U(-32, 32); contrast and saturation multiply by U(0.5, 1.5); hue turns by -18..17 steps of 2
    degrees. Contrast comes before the colour steps or after them, by a coin. Values are cut to 0..255 at each step.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(
        self,
        *,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
        p: float = 0.5,
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue, self.p = brightness, contrast, saturation, hue, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        chosen = (torch.rand(4) < self.p).tolist()
        contrast_first = bool(torch.randint(2, ()))
        return {
            "brightness": _uniform(-self.brightness, self.brightness) if chosen[0] else None,
            "contrast": _uniform(*self.contrast) if chosen[1] else None,
            "contrast_first": contrast_first,
            "saturation": _uniform(*self.saturation) if chosen[2] else None,
            "hue": int(torch.randint(-self.hue, self.hue, ())) if chosen[3] else None,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return tv_tensors.wrap(distort(inpt, **params), like=inpt)


def distort(
    image: Tensor,
    *,
    brightness: float | None = None,
    contrast: float | None = None,
    contrast_first: bool = True,
    saturation: float | None = None,
    hue: int | None = None,
) -> Tensor:
    """Photometric distortion with given amounts: uint8 (3, H, W) -> the same. None leaves a step out.

    `hue` is in units of 2 degrees, so 90 turns red into cyan. Every step is a table of 256 entries, and at most one
    round trip to 8-bit HSV is made.
    """
    if image.dtype != torch.uint8 or image.shape[-3] != 3:
        raise UserError(
            f"photometric distortion needs uint8 RGB images, not {image.dtype} with {image.shape[-3]} channels; "
            "set photometric=False"
        )
    before, after = _Table(), _Table()
    if brightness is not None:
        before.apply(1.0, brightness)
    if contrast is not None:
        (before if contrast_first else after).apply(contrast, 0.0)
    if saturation is None and hue is None:
        if not (before.changed or after.changed):
            return image
        return torch.from_numpy(np.take(after.values[before.values], image.numpy()))
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    picture = Image.fromarray(np.take(before.values, pixels) if before.changed else pixels)
    hsv_tables = [
        _hue_table(hue or 0),
        _Table().apply(1.0 if saturation is None else saturation, 0.0).values,
        _IDENTITY,
    ]
    picture = picture.convert("HSV").point(np.concatenate(hsv_tables).tolist()).convert("RGB")
    pixels = np.asarray(picture)
    return (
        torch.from_numpy(np.take(after.values, pixels) if after.changed else pixels.copy())
        .permute(2, 0, 1)
        .contiguous()
    )


_IDENTITY = np.arange(256, dtype=np.uint8)


class _Table:
    """A chain of steps on a byte, folded into one table."""

    def __init__(self) -> None:
        self.values, self.changed = _IDENTITY, False

    def apply(self, scale: float, shift: float) -> "_Table":
        """Append x -> cut(x * scale + shift), with the fraction dropped as a cast to uint8 does."""
        self.values = np.clip(self.values * scale + shift, 0, 255).astype(np.uint8)
        self.changed = True
        return self


def _hue_table(steps: int) -> np.ndarray:
    """Turn Pillow's hue (256 steps a circle) by `steps` of 180 a circle."""
    return ((_IDENTITY.astype(np.int64) + round(steps * 256 / 180)) % 256).astype(np.uint8)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
