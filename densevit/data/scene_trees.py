"""The trees and bushes of a generated street scene, drawn in perspective at (x, z) in metres."""

import numpy as np

from densevit.data.scene_canvas import RGB, Canvas
from densevit.data.scene_palette import AUTUMN, GREENS, TREE, pick


def tree(canvas: Canvas, rng: np.random.Generator, *, x: float, z: float, height: float) -> None:
    """A round tree, a conifer, or (below 2 m) a bush, with its shadow."""
    light, camera = canvas.light, canvas.camera
    green = pick(rng, AUTUMN if rng.random() < 0.12 else GREENS)
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    offset = -light.sun_side * light.shadow_length * height * 0.45
    canvas.shadow_disc(x + offset, z, height * 0.32)
    if height >= 2:
        half = max(unit * height * 0.026, 1.5)
        top = foot[1] - unit * height * 0.5
        canvas.polygon(
            [
                (foot[0] - half * 1.3, foot[1]),
                (foot[0] + half * 1.3, foot[1]),
                (foot[0] + half * 0.7, top),
                (foot[0] - half * 0.7, top),
            ],
            light.on((92, 70, 52), z, 0.9),
            TREE,
        )
    if height >= 2 and rng.random() < 0.25:
        _conifer(canvas, green, foot=foot, unit=unit, height=height, z=z)
    else:
        _crown(canvas, rng, green, foot=foot, unit=unit, height=height, z=z)


def _conifer(canvas: Canvas, green: RGB, *, foot: tuple[float, float], unit: float, height: float, z: float) -> None:
    light = canvas.light
    for level in range(4):
        base = foot[1] - unit * height * (0.14 + 0.2 * level)
        tip = base - unit * height * (0.36 - 0.03 * level)
        half = unit * height * (0.25 - 0.045 * level)
        middle = foot[0] + light.sun_side * half * 0.25
        outline = [(foot[0] - half, base), (foot[0], tip), (foot[0] + half, base)]
        canvas.polygon(outline, light.on(green, z, 0.62), TREE)
        lit_side = [(middle, base), (foot[0], tip), (foot[0] + light.sun_side * half, base)]
        canvas.polygon(lit_side, light.on(green, z, 0.85))


def _crown(
    canvas: Canvas,
    rng: np.random.Generator,
    green: RGB,
    *,
    foot: tuple[float, float],
    unit: float,
    height: float,
    z: float,
) -> None:
    """Overlapping blobs: all of them dark first, then the same blobs smaller, brighter and towards the light."""
    light = canvas.light
    bush = height < 2
    middle_y = foot[1] - unit * height * (0.45 if bush else 0.66)
    spread = (unit * height * (0.55 if bush else 0.2), unit * height * (0.14 if bush else 0.15))
    count = 9 if unit * height > 60 else 5
    blobs = [
        (foot[0] + dx * spread[0], middle_y + dy * spread[1], unit * height * size)
        for dx, dy, size in zip(
            rng.uniform(-1, 1, count), rng.uniform(-1, 1, count), rng.uniform(0.13, 0.2, count), strict=True
        )
    ]
    canvas.ellipse((foot[0], middle_y), (spread[0] * 1.15, spread[1] * 1.5), light.on(green, z, 0.58), TREE)
    for blob_x, blob_y, radius in blobs:
        canvas.ellipse((blob_x, blob_y), (radius, radius * 0.92), light.on(green, z, 0.58), TREE)
    for tone, size, lift in ((0.82, 0.72, 0.22), (1.08, 0.42, 0.42)):
        for blob_x, blob_y, radius in blobs:
            center = (blob_x + light.sun_side * radius * lift, blob_y - radius * lift)
            canvas.ellipse(center, (radius * size, radius * size * 0.85), light.on(green, z, tone))
