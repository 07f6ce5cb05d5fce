"""Class colours: distinct default palettes, label maps as colours, and palette PNGs.

A palette is one (red, green, blue) of 0 .. 255 for each class, in class order.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densevit.errors import UserError

Palette = Sequence[Sequence[int]]
IGNORE_COLOUR = (0, 0, 0)
IGNORE_INDEX = 255

# The first classes get colours chosen by hand; the rest are as far from all earlier ones as the eye can tell.
_FIRST = (
    (70, 110, 180), (232, 133, 58), (84, 158, 92), (205, 72, 76), (142, 104, 184), (240, 196, 78),
    (92, 190, 196), (222, 130, 178), (140, 98, 74), (160, 200, 100), (52, 60, 120), (250, 170, 160),
    (110, 128, 50), (150, 190, 235), (130, 40, 80), (168, 168, 160), (20, 112, 112), (250, 226, 170),
)  # fmt: skip


@lru_cache(maxsize=8)
def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Distinct, pleasant colours, the same for every run; a longer palette begins with the shorter one.

    After a few fixed colours each next one is the candidate whose distance in the Oklab space (Ottosson, 2020) to
    the nearest colour already taken, and to the black of ignored pixels, is largest.
    """
    if num_classes < 1:
        raise UserError(f"a palette of {num_classes} colours was asked for; give at least 1")
    if num_classes <= len(_FIRST):
        return _FIRST[:num_classes]
    candidates = _candidates()
    taken = [*_FIRST, IGNORE_COLOUR, (255, 255, 255)]
    points = _oklab(candidates)
    nearest = np.min([((points - point) ** 2).sum(-1) for point in _oklab(np.array(taken))], axis=0)
    palette = list(_FIRST)
    while len(palette) < num_classes:
        best = int(nearest.argmax())
        palette.append((int(candidates[best][0]), int(candidates[best][1]), int(candidates[best][2])))
        nearest = np.minimum(nearest, ((points - points[best]) ** 2).sum(-1))
    return tuple(palette)


def colourize(
    labels: NDArray[np.integer], *, palette: Palette, ignore_colour: Sequence[int] = IGNORE_COLOUR
) -> NDArray[np.uint8]:
    """Label map (H, W) -> colours (H, W, 3) uint8; ignored values (outside the palette) get `ignore_colour`."""
    table = np.array([*palette, ignore_colour], dtype=np.uint8)
    outside = (labels < 0) | (labels >= len(palette))
    return table[np.where(outside, len(palette), labels)]


def write_label_png(labels: NDArray[np.integer], path: Path | str, *, palette: Palette) -> None:
    """Write (H, W) class indices as a PNG whose pixel values are the classes.

    Up to 255 classes: 8 bits with the palette inside, so that viewers show colours; 255 is ignored and black. More
    classes: 16-bit grey, without colours.
    """
    if len(palette) > IGNORE_INDEX:
        Image.fromarray(labels.astype(np.uint16)).save(path)
        return
    if labels.size and (labels.min() < 0 or labels.max() > IGNORE_INDEX):
        raise ValueError(f"labels span {labels.min()} .. {labels.max()}; an 8-bit PNG holds 0 .. {IGNORE_INDEX}")
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = np.array(palette, dtype=np.uint8)
    table[IGNORE_INDEX] = IGNORE_COLOUR
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(table.tobytes())
    image.save(path, optimize=True)


def _candidates() -> NDArray[np.uint8]:
    """A grid of colours neither too dark, too pale nor too grey: (n, 3) sRGB."""
    levels = np.linspace(0, 255, 18).round()  # 5832 colours before the choice
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(grid)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    pleasant = (lab[:, 0] > 0.4) & (lab[:, 0] < 0.93) & (chroma > 0.035) & (chroma < 0.19)
    kept: NDArray[np.uint8] = grid[pleasant].astype(np.uint8)
    return kept


def _oklab(colours: NDArray[np.generic]) -> NDArray[np.float64]:
    """sRGB (n, 3) of 0 .. 255 -> Oklab (n, 3), in which equal distances look about equally different."""
    srgb = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_cone = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                        [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
    to_lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                       [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    lab: NDArray[np.float64] = np.cbrt(linear @ to_cone.T) @ to_lab.T
    return lab
