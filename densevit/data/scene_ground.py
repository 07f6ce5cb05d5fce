"""What lies flat or far away in a generated scene: the ground with its road, and the horizon."""

import itertools

import numpy as np

from densevit.data.scene_canvas import NEAR, Canvas
from densevit.data.scene_layout import Street
from densevit.data.scene_palette import BUILDING, GRASS, ROAD, SIDEWALK, TREE, pick
from densevit.data.scene_sky import fractal


def draw_horizon(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Hills, a line of trees or a skyline, where the street ends."""
    width, camera = canvas.size[0], canvas.camera
    count = 26
    columns = np.linspace(-0.02 * width, 1.02 * width, count).tolist()
    if street.place in ("park", "highway", "suburb"):
        waves = np.abs(fractal(rng, (1, count), (1, 4), octaves=2))[0]
        hills = [(x, camera.horizon_y - float(w) * 0.07 * width) for x, w in zip(columns, waves, strict=True)]
        _silhouette(canvas, hills, canvas.light.on((110, 140, 96), 110), GRASS)
    if street.place in ("city", "suburb"):
        heights = rng.uniform(0.02, 0.15 if street.place == "city" else 0.06, count)
        for x, h in zip(columns, heights.tolist(), strict=True):
            wall = canvas.light.on(pick(rng, ((150, 150, 160), (170, 150, 140))), 130 + 60 * float(rng.random()))
            canvas.rectangle(
                (x, camera.horizon_y), (x + width / count * 1.3, camera.horizon_y - h * width), wall, BUILDING
            )
    if street.place != "city":
        bumps = rng.uniform(0.012, 0.05, 60).tolist()
        for x, h in zip(np.linspace(0, width, 60).tolist(), bumps, strict=True):
            leaf = canvas.light.on(pick(rng, ((70, 110, 60), (60, 100, 66))), 95)
            canvas.ellipse((x, camera.horizon_y), (width * 0.02, h * width * 0.8), leaf, TREE)


def _silhouette(canvas: Canvas, top: list[tuple[float, float]], color: tuple[int, int, int], id_: int) -> None:
    bottom = canvas.camera.horizon_y + 2
    canvas.polygon([*top, (top[-1][0], bottom), (top[0][0], bottom)], color, id_)


def draw_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Ground, pavement, kerb, road and markings, in bands of distance so that the haze deepens smoothly."""
    light, camera = canvas.light, canvas.camera
    near = max(NEAR, 0.85 * camera.focal * camera.height / max(canvas.size[1] - camera.horizon_y, 1))
    edges = np.geomspace(near, 420, 22).tolist()
    asphalt = pick(rng, ((92, 94, 100), (112, 110, 108), (78, 80, 86)), 5)
    if street.place == "park":
        asphalt = pick(rng, ((186, 164, 128), (150, 140, 126), (120, 118, 116)), 6)
    stone = pick(rng, ((168, 164, 158), (150, 146, 144), (182, 168, 150)), 6)
    lawn = pick(rng, ((96, 140, 62), (112, 146, 74), (84, 124, 60), (134, 142, 80)), 6)
    base, base_id = (stone, SIDEWALK) if street.place == "city" else (lawn, GRASS)
    walk = street.road + street.sidewalk
    for z0, z1 in reversed(list(itertools.pairwise(edges))):
        z = (z0 + z1) / 2
        reach = 3000.0 if z1 > 60 else 400.0
        canvas.ground(-reach, reach, z0, z1, light.on(base, z), base_id)
        if street.sidewalk:
            canvas.ground(-walk, walk, z0, z1, light.on(stone, z), SIDEWALK)
            canvas.ground(-street.road - 0.25, street.road + 0.25, z0, z1, light.on(stone, z, 0.74))
        canvas.ground(-street.road, street.road, z0, z1, light.on(asphalt, z), ROAD)
    _markings(canvas, rng, street, near=near)


def _markings(canvas: Canvas, rng: np.random.Generator, street: Street, *, near: float) -> None:
    light, paint = canvas.light, (232.0, 230.0, 222.0)
    crossing = float(rng.uniform(7, 16))
    has_crossing = bool(rng.random() < 0.4)
    if street.place == "park":
        return
    lanes = (-street.road / 2, 0.0, street.road / 2) if street.place == "highway" else (0.0,)
    start = near + float(rng.uniform(0, 3))
    for z in np.arange(start, 70, 6.5).tolist():
        for x in lanes:
            canvas.ground(x - 0.09, x + 0.09, z, z + 3, light.on(paint, z))
    if street.place == "highway":
        for z0, z1 in ((near, 8.0), (8.0, 25.0), (25.0, 100.0)):
            for x in (-street.road + 0.5, street.road - 0.5):
                canvas.ground(x - 0.1, x + 0.1, z0, z1, light.on(paint, z0))
    elif has_crossing:
        for x in np.arange(-street.road + 0.3, street.road - 0.4, 1.0).tolist():
            canvas.ground(x, x + 0.5, crossing, crossing + 2.6, light.on(paint, crossing))
