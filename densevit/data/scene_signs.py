"""The traffic signs and lights of a generated street scene, drawn in perspective at (x, z) in metres."""

import math

import numpy as np

from densevit.data.scene_canvas import RGB, Canvas
from densevit.data.scene_palette import SIGN, scaled


def sign(canvas: Canvas, rng: np.random.Generator, *, x: float, z: float) -> None:
    """A traffic sign or a traffic light on its post."""
    light, id_ = canvas.light, canvas.new_object(SIGN)
    unit = canvas.camera.pixels(1.0, z)
    foot = canvas.camera.project(x, 0, z)
    height = float(rng.uniform(2.4, 3.1))
    half = max(0.07 * unit, 1.6)
    canvas.rectangle(
        (foot[0] - half, foot[1]), (foot[0] + half, foot[1] - height * unit), light.on((128, 132, 138), z, 0.9), id_
    )
    center, radius = (foot[0], foot[1] - height * unit), 0.5 * unit
    kind = int(rng.integers(5))
    if kind == 0:
        canvas.ellipse(center, (radius, radius), light.on((204, 36, 40), z), id_)
        canvas.ellipse(center, (radius * 0.68, radius * 0.68), light.on((244, 244, 240), z))
    elif kind == 1:
        canvas.polygon(_regular(center, radius * 1.15, 3), light.on((204, 36, 40), z), id_)
        canvas.polygon(_regular((center[0], center[1]), radius * 0.68, 3), light.on((248, 240, 220), z))
    elif kind == 2:
        canvas.polygon(_regular(center, radius, 8), light.on((196, 30, 36), z), id_)
        canvas.rectangle(
            (center[0] - radius * 0.6, center[1] - radius * 0.16),
            (center[0] + radius * 0.6, center[1] + radius * 0.16),
            light.on((244, 240, 236), z),
        )
    elif kind == 3:
        box = (radius * 1.1, radius * 0.85)
        canvas.rectangle(
            (center[0] - box[0], center[1] - box[1]),
            (center[0] + box[0], center[1] + box[1]),
            light.on((34, 92, 184), z),
            id_,
        )
        canvas.polygon(_regular((center[0], center[1] + box[1] * 0.1), radius * 0.55, 3), light.on((240, 244, 248), z))
    else:
        _traffic_light(canvas, rng, center=center, radius=radius, z=z, id_=id_)


def _traffic_light(
    canvas: Canvas, rng: np.random.Generator, *, center: tuple[float, float], radius: float, z: float, id_: int
) -> None:
    canvas.rectangle(
        (center[0] - radius * 0.5, center[1] - radius * 1.3),
        (center[0] + radius * 0.5, center[1] + radius * 1.3),
        canvas.light.on((38, 40, 42), z),
        id_,
    )
    shining = int(rng.integers(3))
    for index, color in enumerate(((255, 60, 50), (255, 190, 50), (70, 230, 110))):
        at = (center[0], center[1] + (index - 1) * radius * 0.82)
        shown = canvas.light.lamp(color, z) if index == shining else canvas.light.on(scaled(color, 0.3), z)
        canvas.ellipse(at, (radius * 0.32, radius * 0.32), shown)
        if index == shining and canvas.light.lamps > 0.2:
            canvas.glow(at, radius * 1.6, color, id_)


def gantry(canvas: Canvas, rng: np.random.Generator, *, half_width: float, z: float) -> None:
    """A motorway sign on two posts across the road."""
    light, project, id_ = canvas.light, canvas.camera.project, canvas.new_object(SIGN)
    color: RGB = (30, 112, 76) if rng.random() < 0.5 else (34, 84, 170)
    for x in (-half_width, half_width):
        canvas.rectangle(project(x - 0.16, 0, z), project(x + 0.16, 6.6, z), light.on((120, 124, 130), z, 0.85), id_)
    canvas.rectangle(project(-half_width, 6.1, z), project(half_width, 6.5, z), light.on((132, 136, 142), z), id_)
    for left, right in ((-half_width * 0.85, -0.3), (0.3, half_width * 0.85)):
        canvas.rectangle(project(left, 4.9, z), project(right, 7.3, z), light.on(color, z), id_)
        for line in (5.5, 6.3):
            end = left + (right - left) * float(rng.uniform(0.5, 0.85))
            canvas.rectangle(project(left + 0.5, line, z), project(end, line + 0.35, z), light.on((236, 240, 240), z))


def _regular(center: tuple[float, float], radius: float, corners: int) -> list[tuple[float, float]]:
    """A regular polygon with a corner (3) or an edge (8) on top."""
    start = -math.pi / 2 + (math.pi / corners if corners % 2 == 0 else 0)
    return [
        (
            center[0] + radius * math.cos(start + 2 * math.pi * k / corners),
            center[1] + radius * math.sin(start + 2 * math.pi * k / corners),
        )
        for k in range(corners)
    ]
