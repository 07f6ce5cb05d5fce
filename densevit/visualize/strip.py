"""Picture strips: rows of pictures under column titles, such as image | truth | prediction, with a legend.

Pictures are (H, W, 3) uint8 RGB of any sizes; label maps (H, W) integers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from densevit.visualize.overlay import INK, PAPER, Picture, legend, overlay
from densevit.visualize.palette import Palette
from densevit.visualize.text import draw_text, load_font

GAP = 8
MAX_LEGEND_CLASSES = 40


def prediction_strip(
    images: Sequence[Picture],
    truths: Sequence[NDArray[np.integer] | None],
    predictions: Sequence[NDArray[np.integer]],
    *,
    classes: Sequence[str],
    palette: Palette,
    captions: Sequence[str] | None = None,
    cell_width: int = 384,
    alpha: float = 0.7,
) -> Picture:
    """One row image | truth | prediction for each sample, with the classes that occur as a legend below.

    A truth of None leaves its cell empty; if all are None the column is left out. `captions` are written on the
    left of each row's image, e.g. file names. The legend names the most frequent classes if they are very many.
    """
    with_truth = any(truth is not None for truth in truths)
    rows: list[list[Picture | None]] = []
    for image, truth, prediction in zip(images, truths, predictions, strict=True):
        shown = None if truth is None else overlay(image, truth, palette=palette, alpha=alpha)
        predicted = overlay(image, prediction, palette=palette, alpha=alpha)
        rows.append([image, shown, predicted] if with_truth else [image, predicted])
    titles = ["image", "truth", "prediction"] if with_truth else ["image", "prediction"]
    grid = picture_grid(rows, titles=titles, captions=captions, cell_width=cell_width)
    present = _frequent_classes([*truths, *predictions], len(classes))
    key = legend(classes, palette=palette, width=grid.shape[1] - 2 * GAP, present=present)
    key = np.pad(key, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    return np.concatenate([grid, key])


def picture_grid(
    rows: Sequence[Sequence[Picture | None]],
    *,
    titles: Sequence[str],
    captions: Sequence[str] | None = None,
    cell_width: int = 384,
) -> Picture:
    """Rows of pictures, each `cell_width` wide with its proportions kept, under bold titles: (H, W, 3) uint8."""
    title_font, caption_font = load_font(18, bold=True), load_font(13)
    title_height, caption_height = 34, 20 if captions else 0
    columns = len(titles)
    heights = [max((_height(cell, cell_width) for cell in row if cell is not None), default=0) for row in rows]
    width = columns * (cell_width + GAP) + GAP
    height = title_height + sum(heights) + len(rows) * (GAP + caption_height)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    lefts = [GAP + column * (cell_width + GAP) for column in range(columns)]
    for left, title in zip(lefts, titles, strict=True):
        box = (left, 0, left + cell_width, title_height)
        draw_text(draw, title, box=box, font=title_font, fill=INK, centred=True)
    top = title_height
    for index, (row, row_height) in enumerate(zip(rows, heights, strict=True)):
        if captions:
            box = (GAP, top, width - GAP, top + caption_height)
            draw_text(draw, captions[index], box=box, font=caption_font, fill=(96, 96, 104))
            top += caption_height
        for left, cell in zip(lefts, row, strict=True):
            if cell is not None:
                size = (cell_width, _height(cell, cell_width))
                canvas.paste(Image.fromarray(cell).resize(size, Image.Resampling.LANCZOS), (left, top))
        top += row_height + GAP
    return np.asarray(canvas)


def _height(picture: Picture, width: int) -> int:
    """Height in pixels of a picture scaled to `width`."""
    return max(round(picture.shape[0] * width / picture.shape[1]), 1)


def _frequent_classes(label_maps: Sequence[NDArray[np.integer] | None], num_classes: int) -> list[int]:
    """Classes that occur, in class order; only the most frequent ones if there are too many to list."""
    counts = np.zeros(num_classes, dtype=np.int64)
    for labels in label_maps:
        if labels is not None:
            known = labels[(labels >= 0) & (labels < num_classes)]
            counts += np.bincount(known.ravel().astype(np.int64), minlength=num_classes)
    order = np.argsort(-counts, kind="stable")[:MAX_LEGEND_CLASSES]
    return sorted(int(k) for k in order if counts[k])
