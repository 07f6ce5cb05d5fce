"""Files to arrays: pictures of any common kind as tensors, label masks as integer ids.

H W height and width, C channels. Pillow's (W, H) is swapped here and nowhere else.
"""

import io
import struct
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torchvision import tv_tensors

from densevit.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".npy")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".npy")

Color = tuple[int, int, int]

# What Pillow raises on bytes it cannot decode, depending on the format and on where the file breaks off.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # number of channels -> Pillow's name
_UNKNOWN = 254  # in the colour table: a colour of no class (255 is "ignore")


def read_image(path: str | Path, *, channels: int = 3) -> tv_tensors.Image:
    """Read a picture: (channels, H, W), uint8 for pictures, float32 for arrays and bands that are not uint8.

    EXIF orientation is applied. Grey, palette, RGBA (alpha dropped), CMYK and 16-bit pictures (65535 becomes 255) all
    arrive as 8-bit RGB for `channels` 3, as grey for 1, as RGBA for 4. Any other count needs a `.npy` array, (H, W, C)
    or (C, H, W), or a TIFF with that many bands or pages (extra `tiff`). UserError names the file: missing, not an
    image, cut off, or with another number of bands.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return _bands_to_image(_load_npy(path), path, channels=channels)
    if path.suffix.lower() in (".tif", ".tiff") and channels not in (1, 3, 4):
        return _bands_to_image(_load_tiff(path), path, channels=channels)
    if channels not in _MODES:
        raise UserError(
            f"{path} is a picture of 1, 3 or 4 channels, but {channels} are asked for; "
            "store the bands as .npy (H, W, C) or as multi-band TIFF"
        )
    with _opened(path, kind="image") as picture:
        return picture_to_image(picture, channels=channels, source=path)


def is_turned(path: str | Path) -> bool:
    """Whether a picture's EXIF tag turns it by a quarter, so that it is read with width and height exchanged."""
    try:
        with Image.open(path) as picture:
            return picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except _DECODE_ERRORS:
        return False


def image_from_bytes(data: bytes, *, channels: int = 3, source: object = "image") -> tv_tensors.Image:
    """An encoded picture (JPEG, PNG ...) to uint8 (channels, H, W), as `read_image` does; UserError names `source`."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as picture:
            warnings.simplefilter("ignore")
            picture.load()
            return picture_to_image(picture, channels=channels, source=source)
    except _DECODE_ERRORS as error:
        unknown = isinstance(error, UnidentifiedImageError)  # its text names an object in memory
        reason = "" if unknown else f"{error}; "
        raise UserError(
            f"cannot read image {source}: {reason}it is damaged, cut off or no picture; replace or remove it"
        ) from error


def picture_to_image(picture: Image.Image, *, channels: int = 3, source: object = "image") -> tv_tensors.Image:
    """A decoded Pillow picture to uint8 (channels, H, W), as `read_image` does; `channels` is 1, 3 or 4."""
    picture = _eight_bit(ImageOps.exif_transpose(picture), source)
    if channels == 4 and not picture.has_transparency_data:
        raise UserError(f"{source} has no fourth channel, which the model or data set wants; give RGBA or a .npy array")
    array = np.array(picture.convert(_MODES[channels]))
    return tv_tensors.Image(torch.from_numpy(array.reshape(*array.shape[:2], channels)).permute(2, 0, 1).contiguous())


def read_mask(path: str | Path, *, colors: Mapping[Color, int] | None = None, as_colors: bool = False) -> np.ndarray:
    """Read a label mask as ids: uint8 (H, W); a 16-bit mask stays int32 when it holds ids above 255.

    Grey and palette files give their stored indices; RGB files are looked up in `colors`, which maps (red, green,
    blue) to an id. With `as_colors` a palette file is looked up by its colours as well. UserError for an RGB mask
    without `colors`, and for a colour that is not in it.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return _compact_ids(_load_npy(path).squeeze(), path)
    with _opened(path, kind="mask") as picture:
        return picture_to_ids(picture, colors=colors, as_colors=as_colors, source=path)


def picture_to_ids(
    picture: Image.Image,
    *,
    colors: Mapping[Color, int] | None = None,
    as_colors: bool = False,
    source: object = "mask",
) -> np.ndarray:
    """A decoded Pillow picture to class ids (H, W), as `read_mask` does."""
    if not as_colors and picture.mode in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
        return _compact_ids(np.array(picture), source)
    rgb = np.asarray(picture.convert("RGB"))
    if colors is not None:
        return colors_to_ids(rgb, colors, source=source)
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all():
        return rgb[..., 0].copy()  # indices that some tool stored three times
    raise UserError(
        f"mask {source} holds colours (mode {picture.mode}), not class ids; "
        "give a class list with one colour for each class, or save the mask as an 8-bit index PNG"
    )


def colors_to_ids(rgb: np.ndarray, colors: Mapping[Color, int], *, source: object = "mask") -> np.ndarray:
    """Colours to class ids: uint8 (H, W, 3) -> (H, W). UserError names the first colour that is in no class."""
    codes = (rgb[..., 0].astype(np.uint32) << 16) | (rgb[..., 1].astype(np.uint32) << 8) | rgb[..., 2]
    ids = _color_table(tuple(colors.items()))[codes]
    unknown = ids == _UNKNOWN
    if unknown.any():
        found = np.unique(codes[unknown])
        first = int(found[0])
        color = (first >> 16, (first >> 8) & 255, first & 255)
        why = (
            "was it saved as JPEG or resized with smoothing? Export it again as PNG without smoothing"
            if len(found) > 20
            else "add the colour to the class list, or list it with the name 'ignore' to leave those pixels out"
        )
        raise UserError(
            f"mask {source} has {int(unknown.sum())} pixels of {len(found)} colours that are in no class, "
            f"such as {color}; {why}"
        )
    return ids


@lru_cache(maxsize=4)
def _color_table(colors: tuple[tuple[Color, int], ...]) -> np.ndarray:
    """One byte for each 24-bit colour: a single look-up per pixel, 16 MiB once per class list."""
    if any(index == _UNKNOWN for _, index in colors):
        raise UserError(f"colour masks can hold at most {_UNKNOWN} classes; use index masks for more")
    table = np.full(1 << 24, _UNKNOWN, dtype=np.uint8)
    for (red, green, blue), index in colors:
        table[(red << 16) | (green << 8) | blue] = index
    return table


class _opened:
    """`with _opened(path) as picture`: a fully decoded Pillow image, or a UserError that names the file."""

    def __init__(self, path: Path, *, kind: str) -> None:
        self.path, self.kind = path, kind

    def __enter__(self) -> Image.Image:
        check_is_file(self.path, kind=self.kind)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # e.g. a big picture: not an error below Pillow's hard limit
                self.picture = Image.open(self.path)
                self.picture.load()
        except _DECODE_ERRORS as error:
            raise UserError(
                f"cannot read {self.kind} {self.path}: {error}; the file is damaged, cut off or no picture: replace it"
            ) from error
        return self.picture

    def __exit__(self, *exc: Any) -> None:
        self.picture.close()


def check_is_file(path: Path, *, kind: str) -> None:
    """UserError unless `path` is a file that this user may read."""
    if path.is_dir():
        raise UserError(f"{kind} {path} is a folder; give a file")
    if not path.exists():
        raise UserError(f"{kind} {path} does not exist; check the path")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"cannot open {kind} {path}: {error.strerror}; check its permissions") from error


def _eight_bit(picture: Image.Image, source: object) -> Image.Image:
    """16-bit and float pictures to 8 bits; everything else unchanged."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"{source} has values {values.min()}..{values.max()}; pictures must fit in 16 bits")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode == "F":
        reals = np.asarray(picture)
        if not (np.isfinite(reals).all() and reals.min() >= 0 and reals.max() <= 1):
            raise UserError(
                f"{source} is a float picture with values {reals.min():g}..{reals.max():g}; "
                "scale it to 0..1, or store the bands as .npy"
            )
        return Image.fromarray((reals * 255 + 0.5).astype(np.uint8))
    return picture


_PARSING = Lock()
"""Python 3.11 may fail where two threads parse the header of an array at once ("AST constructor recursion depth")."""


def _load_npy(path: Path) -> np.ndarray:
    check_is_file(path, kind="array")
    try:
        with _PARSING:
            return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read array {path}: {error}; save it with numpy.save") from error


def _load_tiff(path: Path) -> np.ndarray:
    check_is_file(path, kind="image")
    try:
        import tifffile  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise UserError(f"{path} needs the package tifffile: pip install densevit[tiff]") from None
    try:
        return tifffile.imread(path)
    except Exception as error:  # tifffile raises its own types and those of every codec
        raise UserError(f"cannot read image {path}: {error}; the file is damaged or no TIFF: replace it") from error


def _bands_to_image(array: np.ndarray, path: Path, *, channels: int) -> tv_tensors.Image:
    """(H, W, C), (C, H, W) or (H, W) -> (C, H, W); uint8 stays, every other type becomes float32."""
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[-1] == channels:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] != channels:
        raise UserError(
            f"{path} holds an array of shape {array.shape}; expected {channels} channels as (H, W, C) or (C, H, W)"
        )
    array = np.ascontiguousarray(array if array.dtype == np.uint8 else array.astype(np.float32))
    return tv_tensors.Image(torch.from_numpy(array.copy()))


def _compact_ids(ids: np.ndarray, source: object) -> np.ndarray:
    """uint8 where the ids fit, else int32, so that a stray 300 is reported as 300 and not as 44."""
    if ids.ndim != 2 or ids.dtype.kind not in "uib":
        raise UserError(f"mask {source} holds {ids.dtype} of shape {ids.shape}; expected integer class ids (H, W)")
    if ids.dtype == np.uint8:
        return ids
    fits = ids.size == 0 or (ids.min() >= 0 and ids.max() <= 255)
    return ids.astype(np.uint8 if fits else np.int32)
