"""Text on pictures, in a font that every installation has and that knows more than ASCII."""

from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont


@lru_cache(maxsize=16)
def load_font(size: int, *, bold: bool = False) -> Font:
    """DejaVu Sans of `size` pixels: matplotlib brings it along, with Latin, Greek, Cyrillic and more."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def shorten(text: str, *, font: Font, width: int) -> str:
    """`text`, or as much of its beginning as fits `width` pixels with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def draw_text(
    draw: ImageDraw.ImageDraw, text: str, *, box: tuple[int, int, int, int], font: Font,
    fill: tuple[int, int, int], centred: bool = False,
) -> None:  # fmt: skip
    """Write one line inside `box` (left, top, right, bottom), vertically centred and shortened to its width."""
    left, top, right, bottom = box
    text = shorten(text, font=font, width=right - left)
    x = (left + right) / 2 if centred else left
    draw.text((x, (top + bottom) / 2), text, font=font, fill=fill, anchor="mm" if centred else "lm")
