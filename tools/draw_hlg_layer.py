"""Draw the figure of docs/hlg.md: the HLG layer, and which tokens see each other.

python tools/draw_hlg_layer.py docs/images/hlg-layer.svg
"""

import sys
from pathlib import Path

INK, PALE, BLUE, ORANGE, GREEN = "#333333", "#eef1f4", "#2f6fb0", "#d9822b", "#3d8f5f"
CELL, SIDE, WINDOW = 11, 14, 7


def text(x: float, y: float, content: str, *, size: int = 13, anchor: str = "middle", color: str = INK) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{color}">{content}</text>'


def box(x: float, y: float, width: float, height: float, lines: list[str], *, color: str = PALE) -> str:
    shape = (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{color}" '
        f'fill-opacity="{1 if color == PALE else 0.18}" stroke="{INK if color == PALE else color}"/>'
    )
    top = y + height / 2 - 8 * (len(lines) - 1) + 4
    return shape + "".join(
        text(x + width / 2, top + 16 * i, line, size=14 if i == 0 else 12) for i, line in enumerate(lines)
    )


def line(*points: tuple[float, float], arrow: bool = True, color: str = INK) -> str:
    path = " ".join(f"{'L' if i else 'M'}{x} {y}" for i, (x, y) in enumerate(points))
    tip = ' marker-end="url(#tip)"' if arrow else ""
    return f'<path d="{path}" fill="none" stroke="{color}"{tip}/>'


def plus(x: float, y: float) -> str:
    return f'<circle cx="{x}" cy="{y}" r="10" fill="white" stroke="{INK}"/>' + text(x, y + 5, "+", size=16)


def grid(left: float, top: float, fill: dict[tuple[int, int], str], *, rule: int | None = None) -> str:
    cells = [
        f'<rect x="{left + column * CELL}" y="{top + row * CELL}" width="{CELL}" height="{CELL}" fill="{color}"/>'
        for (row, column), color in fill.items()
    ]
    full = SIDE * CELL
    rules = []
    for i in range(SIDE + 1):
        color = INK if i % (rule or SIDE) == 0 else "#c3cad1"
        rules += [line((left + i * CELL, top), (left + i * CELL, top + full), arrow=False, color=color)]
        rules += [line((left, top + i * CELL), (left + full, top + i * CELL), arrow=False, color=color)]
    return "".join(cells + rules)


def layer() -> list[str]:
    """The layer from top to bottom; the residual branches on the left."""
    x, width, middle = 110, 300, 260
    local = "q = W_Q n,  v = W_V n,  n = LN(x)  (Eq. 4)", "softmax(q qᵀ/√d + B_W) v  (Eq. 5)"
    return [
        text(middle, 28, "x (B, H, W, C)", size=14),
        line((middle, 36), (middle, 66)),
        box(x, 66, width, 62, ["DWMLP", "1x1, BN, GELU · 3x3 depth-wise, BN, GELU", "1x1 · LayerNorm"]),
        line((middle, 46), (70, 46), (70, 148), (250, 148)),
                text(20, 42, "(or 3x3 stride 2)", size=11, anchor="start"),
        line((middle, 128), (middle, 138)),
        plus(middle, 148),
        line((middle, 158), (middle, 176)),
        box(x, 176, width, 44, ["spatial smoothing (stages 1-3)", "GELU(x + 1x1 · 3x3 · 1x1)"]),
        line((middle, 220), (middle, 250)),
        line((middle, 230), (70, 230), (70, 348), (250, 348)),
        box(x, 250, width, 62, ["local attention", *local], color=BLUE),
        line((middle, 312), (middle, 338)),
        plus(middle, 348),
        line((middle, 358), (middle, 384)),
        text(270, 376, "Z_L", size=12, anchor="start"),
        box(x, 384, width, 44, ["window embedding", "mean of each window · LN → Z_G"], color=GREEN),
        line((middle, 428), (middle, 458)),
        text(270, 447, "k = W_K Z_G, v = W_V Z_G", size=12, anchor="start"),
        line((410, 325), (450, 325), (450, 485), (412, 485)),
        line((middle, 325), (410, 325), arrow=False),
        text(458, 396, "Q_L = q +", size=12, anchor="start"),
        text(458, 412, "DWConv(LN(local))", size=12, anchor="start"),
        text(458, 428, "(Eq. 9)", size=12, anchor="start"),
        box(x, 458, width, 44, ["global attention (Eq. 6-8)", "W_O softmax(Q_L kᵀ/√d + B_G) v"], color=ORANGE),
        line((middle, 370), (70, 370), (70, 532), (250, 532)),
        line((middle, 502), (middle, 522)),
        plus(middle, 532),
        line((middle, 542), (middle, 566)),
    ]  # fmt: skip


def pictures() -> list[str]:
    """On a map of 14 x 14: a plain window, a dilated one, and what the global step sees from one token."""
    left, top, step = 620, 30, 186
    window = range(WINDOW)
    plain = {(row, column): BLUE for row in window for column in window}
    dilated = {(2 * row, 2 * column): BLUE for row in window for column in window}
    centres = {(row, column): GREEN for row in (3, 10) for column in (3, 10)} | {(5, 8): ORANGE}
    titles = [
        ("even layers: plain windows", "7 x 7 neighbours see each other", plain, WINDOW),
        ("odd layers: dilated windows", "one token in D = side / 7; spans the map", dilated, None),
        ("global step", "a token sees every window's mean", centres, WINDOW),
    ]
    parts = []
    for i, (title, below, fill, rule) in enumerate(titles):
        y = top + i * step
        parts += [grid(left, y, fill, rule=rule)]
        parts += [text(left + 170, y + 24, title, size=14, anchor="start")]
        parts += [text(left + 170, y + 44, below, size=12, anchor="start")]
    return parts


def main() -> None:
    style = "font-family='Helvetica, Arial, sans-serif'"
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>'
    )
    body = "\n".join([tip, '<rect width="1060" height="580" fill="white"/>', *layer(), *pictures()])
    Path(sys.argv[1]).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 580" {style}>\n{body}\n</svg>\n', encoding="utf-8"
    )


if __name__ == "__main__":
    main()
