"""The buildings and houses of a generated street scene, drawn in perspective at (x, z) in metres."""

import itertools
import math

import numpy as np

from densevit.data.scene_canvas import NEAR, RGB, Canvas
from densevit.data.scene_palette import BUILDING, ROOFS, WALLS, pick, scaled


def building(
    canvas: Canvas, rng: np.random.Generator, *, x: float, near: float, far: float, height: float, depth: float
) -> None:
    """A block of flats along the road: facade in the plane `x`, from `near` to `far`, reaching `depth` away from it."""
    side = 1 if x > 0 else -1
    wall = pick(rng, WALLS)
    glass: RGB = (70, 92, 118) if rng.random() < 0.6 else (116, 140, 160)
    pitch = float(rng.uniform(2.6, 3.8))
    lit = side != canvas.light.sun_side
    back = x + side * depth
    if near > NEAR:
        _front(canvas, wall, x=x, back=back, z=near, height=height)
        _windows_front(canvas, rng, glass, x=x, back=back, z=near, height=height, pitch=pitch)
    near = max(near, NEAR)
    _facade(canvas, wall, x=x, near=near, far=far, height=height, shade=1.0 if lit else 0.7)
    _windows_side(canvas, rng, glass, x=x, near=near, far=far, height=height, pitch=pitch, shade=1.0 if lit else 0.7)


def _front(canvas: Canvas, wall: RGB, *, x: float, back: float, z: float, height: float) -> None:
    project, light = canvas.camera.project, canvas.light
    canvas.rectangle(project(x, 0, z), project(back, height, z), light.on(wall, z, 0.84), BUILDING)
    canvas.rectangle(project(x, height, z), project(back, height - 0.7, z), light.on(wall, z, 0.6))


def _facade(canvas: Canvas, wall: RGB, *, x: float, near: float, far: float, height: float, shade: float) -> None:
    """The wall along the road, in pieces so that the haze deepens with the distance."""
    project, light = canvas.camera.project, canvas.light
    edges = np.geomspace(near, far, 2 + int(math.log2(far / near) * 2)).tolist()
    for z0, z1 in itertools.pairwise(edges):
        middle = (z0 + z1) / 2
        for bottom, top, tone, id_ in (
            (0.0, height, shade, BUILDING),
            (height - 0.7, height, shade * 0.72, None),
            (0.0, 0.9, shade * 0.66, None),
        ):
            quad = [project(x, bottom, z0), project(x, top, z0), project(x, top, z1), project(x, bottom, z1)]
            canvas.polygon(quad, light.on(wall, middle, tone), id_)


def _window_color(canvas: Canvas, rng: np.random.Generator, glass: RGB, z: float, shade: float) -> tuple[int, int, int]:
    if rng.random() < canvas.light.lamps:
        return canvas.light.lamp((255, 206, 120) if rng.random() < 0.7 else (240, 226, 190), z)
    return canvas.light.on(scaled(glass, float(rng.uniform(0.75, 1.25))), z, shade)


def _windows_side(
    canvas: Canvas,
    rng: np.random.Generator,
    glass: RGB,
    *,
    x: float,
    near: float,
    far: float,
    height: float,
    pitch: float,
    shade: float,
) -> None:
    project, width = canvas.camera.project, canvas.size[0]
    z = near + 0.4 + float(rng.uniform(0, 0.5))
    while z + 1.5 < far:
        columns = (project(x, 0, z)[0], project(x, 0, z + 1.5)[0])
        if abs(columns[0] - columns[1]) < 1.5:
            return  # finer than the grid from here on
        if min(columns) < width and max(columns) > 0:
            y = 1.1
            while y + 1.8 < height - 0.7:
                quad = [project(x, y, z), project(x, y + 1.8, z), project(x, y + 1.8, z + 1.5), project(x, y, z + 1.5)]
                if min(quad[0][1], quad[3][1]) < 0:
                    break  # above the picture
                canvas.polygon(quad, _window_color(canvas, rng, glass, z, shade))
                y += 3.1
        z += pitch


def _windows_front(
    canvas: Canvas,
    rng: np.random.Generator,
    glass: RGB,
    *,
    x: float,
    back: float,
    z: float,
    height: float,
    pitch: float,
) -> None:
    project, side = canvas.camera.project, 1 if back > x else -1
    if canvas.camera.pixels(1.4, z) < 1.5:
        return
    for column in np.arange(0.7, abs(back - x) - 1.5, pitch).tolist():
        left = x + side * column
        if not -20 < project(left, 0, z)[0] < canvas.size[0] + 20:
            continue
        for y in np.arange(1.1, height - 2.5, 3.1).tolist():
            color = _window_color(canvas, rng, glass, z, 0.85)
            canvas.rectangle(project(left, y, z), project(left + side * 1.4, y + 1.8, z), color)


def house(
    canvas: Canvas, rng: np.random.Generator, *, x: float, near: float, far: float, height: float, depth: float
) -> None:
    """A house with a gable roof whose ridge runs along the road; arguments as for `building`."""
    building(canvas, rng, x=x, near=near, far=far, height=height, depth=depth)
    side = 1 if x > 0 else -1
    near = max(near, NEAR)
    project, light = canvas.camera.project, canvas.light
    roof, rise = pick(rng, ROOFS), float(rng.uniform(1.8, 3.2))
    eave, ridge, back = x, x + side * depth / 2, x + side * (depth + 0.4)
    lit = side != light.sun_side
    gable = [project(eave, height, near), project(ridge, height + rise, near), project(back, height, near)]
    canvas.polygon(gable, light.on(roof, near, 0.62), BUILDING)
    slope = [
        project(eave, height, near),
        project(ridge, height + rise, near),
        project(ridge, height + rise, far),
        project(eave, height, far),
    ]
    canvas.polygon(slope, light.on(roof, (near + far) / 2, 1.05 if lit else 0.75), BUILDING)
