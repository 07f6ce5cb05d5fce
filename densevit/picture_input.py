"""Pictures that a program already holds, as tensors on one scale. C channels, H W height and width in pixels."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from densevit.errors import UserError

PictureLike = str | Path | Image.Image | NDArray[np.generic] | Tensor
PICTURE_CHANNELS = (1, 3, 4)
_PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def to_tensor(picture: Image.Image | NDArray[np.generic] | Tensor, *, channels: int) -> Tensor:
    """PIL image, array (H, W, C) or (H, W), or tensor (C, H, W) or (H, W) -> (channels, H, W), pictures on 0 .. 255.

    uint8 is taken as it is, uint16 scaled from 0 .. 65535, floats from 0 .. 1. For 1, 3 or 4 `channels`, grey is
    repeated and alpha dropped as needed; other counts are bands, which must match and keep their own scale.
    UserError for other types, shapes or ranges.
    """
    if isinstance(picture, Image.Image):
        picture = _from_pil(picture, channels=channels)
    if isinstance(picture, np.ndarray):
        pixels = torch.from_numpy(picture.astype(_torch_knows(picture), order="C"))
        pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels
        layout = "(H, W, C)"
    elif isinstance(picture, Tensor):
        pixels, layout = picture.detach().as_subclass(Tensor), "(C, H, W)"
    else:
        raise UserError(f"a picture is a path, PIL image, array or tensor, not {type(picture).__name__}")
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise UserError(f"a picture of shape {tuple(picture.shape)} cannot be used; give one picture as {layout}")
    pixels = _match_channels(pixels, channels=channels, shape=tuple(picture.shape), layout=layout)
    return _to_byte_scale(pixels) if channels in PICTURE_CHANNELS else pixels


def display_picture(pixels: Tensor) -> NDArray[np.uint8]:
    """(C, H, W) -> (H, W, 3) uint8 for people to look at; bands beyond pictures show their first three, stretched."""
    shown = pixels[:3] if pixels.shape[0] >= 3 else pixels[:1].expand(3, -1, -1)
    if pixels.dtype != torch.uint8:
        if pixels.shape[0] not in PICTURE_CHANNELS:
            low, high = shown.amin(dim=(1, 2), keepdim=True), shown.amax(dim=(1, 2), keepdim=True)
            shown = 255 * (shown - low) / (high - low).clamp(min=1e-12)
        shown = shown.round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(shown.permute(1, 2, 0).cpu().numpy())


def _from_pil(picture: Image.Image, *, channels: int) -> NDArray[np.generic]:
    """(H, W) or (H, W, C), upright; 16-bit pictures stay 16 bits for the common scaling."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        return np.asarray(picture).astype(np.uint16)
    if picture.mode == "F":
        return np.asarray(picture)
    return np.asarray(picture.convert(_PIL_MODES.get(channels, picture.mode)))


def _torch_knows(array: NDArray[np.generic]) -> np.dtype:
    """A type that holds the array's values and that every operation of PyTorch supports."""
    if array.dtype == bool or array.dtype.kind not in "uif":
        raise UserError(f"an array of {array.dtype} is no picture; give uint8, uint16 or floats in 0 .. 1")
    return (
        np.dtype(np.uint8)
        if array.dtype == np.uint8
        else np.dtype(np.int32 if array.dtype.kind in "ui" else np.float32)
    )


def _match_channels(pixels: Tensor, *, channels: int, shape: tuple[int, ...], layout: str) -> Tensor:
    found = pixels.shape[0]
    if found == channels:
        return pixels
    if channels in (3, 4) and found == 1:
        pixels = pixels.expand(3, -1, -1)
        found = 3
    if channels == 3 and found in (3, 4):
        return pixels[:3]
    raise UserError(f"a picture of shape {shape} does not fit a model of {channels} channels; give it as {layout}")


def _to_byte_scale(pixels: Tensor) -> Tensor:
    """uint8 stays; 16-bit whole numbers and floats in 0 .. 1 become float32 on 0 .. 255."""
    if pixels.dtype == torch.uint8:
        return pixels
    low, high = pixels.min().item(), pixels.max().item()
    if pixels.is_floating_point():
        if not (low >= 0 and high <= 1):  # also refuses nan
            raise UserError(f"a float picture has values {low:g} .. {high:g}; scale it to 0 .. 1 or give uint8")
        return pixels.float() * 255
    if low < 0 or high > 65535:
        raise UserError(f"a picture has values {low} .. {high}; give uint8 (0 .. 255) or uint16 (0 .. 65535)")
    return pixels.float() / 257
