"""Objects drawn on their picture: masks in colour, boxes, and tags that keep out of each other's way.

Pictures are (H, W, 3) uint8 RGB; boxes (n, 4) XYXY and masks (n, H, W) bool are in their pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from densevit.errors import UserError
from densevit.visualize.overlay import INK, PAPER, Picture
from densevit.visualize.palette import Palette
from densevit.visualize.text import Font, load_font, shorten

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom."""


def draw_objects(
    image: Picture,
    *,
    boxes: NDArray[np.floating],
    labels: Sequence[int] | NDArray[np.integer],
    texts: Sequence[str],
    palette: Palette,
    masks: NDArray[np.bool_] | None = None,
    alpha: float = 0.5,
    text_size: int | None = None,
) -> Picture:
    """Draw n objects, the first in front: (H, W, 3) -> (H, W, 3), a new array.

    `labels` choose the colours, `texts` stand beside the boxes ("" for none). `alpha` is the opacity of the masks in
    0 .. 1; `text_size`, in pixels, follows from the picture's size when None.
    """
    if not 0 <= alpha <= 1:
        raise UserError(f"the opacity of masks is {alpha}; it must lie in 0 .. 1")
    if masks is not None and len(masks) and masks.shape[1:] != image.shape[:2]:
        raise ValueError(f"image is {image.shape[:2]} but masks are {masks.shape[1:]}; resize the masks first")
    height, width = image.shape[:2]
    colours = [_colour(palette[int(label)]) for label in labels]
    line = max(round(min(height, width) / 240), 1)
    canvas = image.copy()
    if masks is not None:
        for mask, colour in reversed(list(zip(masks, colours, strict=True))):
            _paint_mask(canvas, mask, colour, alpha=alpha, line=line)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    frames = [_frame(box, (height, width)) for box in boxes]
    for frame, colour in reversed(list(zip(frames, colours, strict=True))):
        draw.rectangle(frame, outline=colour, width=line if masks is not None else 2 * line)
    font = load_font(text_size or min(max(round(min(height, width) / 32), 11), 32))
    for tag in _place_tags(frames, texts, font=font, size=(height, width)):
        colour = colours[tag.index]
        left, top, _, bottom = tag.place
        draw.rectangle(tag.place, fill=colour)
        middle = (left + _padding(font), (top + bottom) / 2)
        draw.text(middle, tag.text, font=font, fill=_ink_on(colour), anchor="lm")
    return np.asarray(picture)


def scale_to_width(
    image: Picture,
    *,
    boxes: NDArray[np.floating],
    masks: NDArray[np.bool_] | None,
    width: int,
    size: tuple[int, int] | None = None,
) -> tuple[Picture, NDArray[np.floating], NDArray[np.bool_] | None]:
    """Picture, boxes and masks at `width` pixels with the proportions kept, so that what is drawn stays legible.

    Boxes and masks are in pixels of a picture of `size` (H, W), which is that of `image` when None.
    """
    old_height, old_width = size or image.shape[:2]
    height = max(round(old_height * width / old_width), 1)
    picture = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    scale = np.array([width / old_width, height / old_height] * 2)
    if masks is not None:
        rows = (2 * np.arange(height) + 1) * old_height // (2 * height)  # the pixel under the middle of each new one
        columns = (2 * np.arange(width) + 1) * old_width // (2 * width)
        masks = masks[:, rows[:, None], columns]
    return picture, boxes * scale, masks


@dataclass(frozen=True, kw_only=True)
class _Tag:
    index: int
    """Whose tag it is."""
    text: str
    place: Rectangle


def _place_tags(frames: Sequence[Rectangle], texts: Sequence[str], *, font: Font, size: tuple[int, int]) -> list[_Tag]:
    """A place for each text at its frame: where no earlier tag is, else where the least of them is covered."""
    height, width = size
    tags: list[_Tag] = []
    for index, (frame, text) in enumerate(zip(frames, texts, strict=True)):
        if not text:
            continue
        text = shorten(text, font=font, width=max(width - 2 * _padding(font), 1))
        tag_width = round(font.getlength(text)) + 2 * _padding(font)
        tag_height = round(1.35 * font.size)
        left, top, right, bottom = frame
        choices = []
        for x, y in [
            (left, top - tag_height), (left, top), (right - tag_width, top - tag_height), (right - tag_width, top),
            (left, bottom), (left, bottom - tag_height), (right - tag_width, bottom - tag_height),
        ]:  # fmt: skip
            x, y = min(max(x, 0), max(width - tag_width, 0)), min(max(y, 0), max(height - tag_height, 0))
            choices.append((x, y, x + tag_width, y + tag_height))
        place = min(choices, key=lambda choice: sum(_overlap(choice, tag.place) for tag in tags))
        tags.append(_Tag(index=index, text=text, place=place))
    return tags[::-1]  # the first object's is drawn last, on top


def _paint_mask(
    canvas: Picture, mask: NDArray[np.bool_], colour: tuple[int, int, int], *, alpha: float, line: int
) -> None:
    """Blend a colour into `canvas` where `mask` is true, opaque along its edge. Changes `canvas`."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    inside = mask[part]
    core = np.pad(inside, 1)
    for _ in range(line):
        core[1:-1, 1:-1] &= core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    edge = inside & ~core[1:-1, 1:-1]
    pixels = canvas[part]
    pixels[inside] = np.rint((1 - alpha) * pixels[inside] + alpha * np.array(colour)).astype(np.uint8)
    pixels[edge] = colour


def _frame(box: NDArray[np.floating], size: tuple[int, int]) -> Rectangle:
    """The outermost pixels of a box, inside the picture."""
    height, width = size
    left, top, right, bottom = (float(side) for side in box)
    x, y = min(max(round(left), 0), width - 1), min(max(round(top), 0), height - 1)
    return x, y, max(min(round(right) - 1, width - 1), x), max(min(round(bottom) - 1, height - 1), y)


def _overlap(one: Rectangle, other: Rectangle) -> int:
    """Common area in pixels."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _padding(font: Font) -> int:
    return max(round(0.3 * font.size), 2)


def _colour(colour: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return int(red), int(green), int(blue)


def _ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Dark or light text, whichever stands out on `colour` (luma of ITU-R BT.601)."""
    red, green, blue = colour
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else PAPER
