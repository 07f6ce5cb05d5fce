"""Label maps over their images, and the legend to read them by. Images are (H, W, 3) uint8 RGB, labels (H, W)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from densevit.errors import UserError
from densevit.visualize.palette import Palette, colourize
from densevit.visualize.text import draw_text, load_font

Picture = NDArray[np.uint8]
INK = (34, 34, 38)
PAPER = (255, 255, 255)


def overlay(
    image: Picture, labels: NDArray[np.integer], *, palette: Palette, alpha: float = 0.55, outline: bool = True
) -> Picture:
    """Colour the classes of an image, with a light line where they meet: (H, W, 3) -> (H, W, 3), a new array.

    `alpha` is the opacity of the colours in 0 .. 1. Ignored pixels, those outside the palette, keep the image.
    """
    if not 0 <= alpha <= 1:
        raise UserError(f"overlay alpha is {alpha}; it must lie in 0 .. 1")
    if image.shape[:2] != labels.shape:
        raise ValueError(f"image is {image.shape[:2]} but labels are {labels.shape}; resize the labels first")
    known = ((labels >= 0) & (labels < len(palette)))[..., None]
    blended = (1 - alpha) * image + alpha * colourize(labels, palette=palette).astype(np.float32)
    picture: Picture = np.where(known, np.rint(blended), image).astype(np.uint8)
    if outline:
        picture[boundaries(labels)] = PAPER
    return picture


def boundaries(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour has another class: (H, W) -> (H, W) bool, lines one pixel wide."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def legend(
    classes: Sequence[str], *, palette: Palette, width: int, present: Sequence[int] | None = None, text_size: int = 14
) -> Picture:
    """Colour patches with class names, in columns over `width` pixels: (h, width, 3) uint8.

    `present` limits it to some class indices, in the order given; all classes when None. Long names are shortened.
    """
    shown = list(range(len(classes)) if present is None else present)
    font, patch, line = load_font(text_size), text_size, round(text_size * 1.7)
    gap = text_size // 2
    names_width = max((int(font.getlength(classes[k])) + 1 for k in shown), default=0)
    cell = min(patch + gap + names_width + 2 * gap, max(width, patch + 2 * gap))
    columns = max(min(width // cell, len(shown)), 1)
    rows = -(-len(shown) // columns)
    canvas = Image.new("RGB", (width, rows * line + (gap if rows else 0)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, k in enumerate(shown):
        column, row = divmod(place, rows)  # down the columns, as one reads a list
        x, y = column * (width // columns), row * line + (line - patch) // 2
        draw.rectangle((x, y, x + patch - 1, y + patch - 1), fill=tuple(palette[k]))
        right = min(x + width // columns - gap, width)
        draw_text(draw, classes[k], box=(x + patch + gap, row * line, right, (row + 1) * line), font=font, fill=INK)
    return np.asarray(canvas)
