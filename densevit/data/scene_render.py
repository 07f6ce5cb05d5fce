"""One function, `render_scene`: a generated street picture with its labels, objects and kind of place.

The world is laid out in metres (road, pavements, buildings, trees, traffic), seen through a pinhole camera under one of
four lights, and painted from far to near, so that what hides what is right in the picture and in the labels alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageFilter

from densevit.data.scene_canvas import SUPERSAMPLE, Canvas
from densevit.data.scene_ground import draw_ground, draw_horizon
from densevit.data.scene_layout import PLACES, make_camera, make_street, place_objects
from densevit.data.scene_palette import CLASSES, GRASS, ROAD, SIDEWALK
from densevit.data.scene_sky import LIGHTS, fractal, make_light, paint_sky

_PLACE_SHARES = (0.33, 0.27, 0.2, 0.2)
_LIGHT_SHARES = (0.46, 0.2, 0.17, 0.17)

# Roughness of each class's surface, in grey levels: (fine, coarse)
_TEXTURE = np.array(
    [(0, 0), (2.5, 2), (4.5, 3.5), (3.5, 3), (8, 8), (9, 7), (1, 0.5), (1.5, 1), (1, 0.5)], dtype=np.float32
)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One countable thing that can be seen."""

    class_id: int
    box_xyxy: tuple[int, int, int, int]
    """Pixels; the right and bottom edges lie just outside, so that width = x2 - x1."""
    mask: np.ndarray
    """bool (H, W): the visible part."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and everything that is known about it."""

    image: np.ndarray
    """uint8 (H, W, 3)."""
    labels: np.ndarray
    """uint8 (H, W), ids of `CLASSES`."""
    instances: tuple[Instance, ...]
    """Cars, pedestrians and signs."""
    scene_class: int
    """Index into `PLACES`."""
    light: str
    """One of `LIGHTS`."""


def render_scene(seed: int | Sequence[int], image_size: tuple[int, int] = (128, 128)) -> Scene:
    """Draw the scene of `seed` at `image_size` (H, W); the same seed shows the same scene at any size."""
    rng = np.random.default_rng(seed)
    place = int(rng.choice(len(PLACES), p=_PLACE_SHARES))
    light = make_light(rng, LIGHTS[int(rng.choice(len(LIGHTS), p=_LIGHT_SHARES))])
    street = make_street(rng, PLACES[place])
    camera = make_camera(rng, street, image_size=image_size)
    canvas = Canvas(image_size=image_size, camera=camera, light=light, num_classes=len(CLASSES))
    canvas.paint(paint_sky(rng, light, camera, image_size=image_size))
    draw_horizon(canvas, rng, street)
    draw_ground(canvas, rng, street)
    for _, draw in sorted(place_objects(canvas, rng, street), key=lambda item: -item[0]):
        draw()
    ids = canvas.object_ids()
    labels = np.array(canvas.class_of, dtype=np.uint8)[ids]
    image = _develop(canvas, rng, ids, labels)
    instances = _instances(ids, canvas.class_of)
    return Scene(image=image, labels=labels, instances=instances, scene_class=place, light=light.name)


def _develop(canvas: Canvas, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """From painted surfaces to a photograph: shadows on the ground, texture, lamps, grain, vignette."""
    light, (height, width) = canvas.light, labels.shape
    image = canvas.pixels().astype(np.float32)
    blurred = canvas.shadows.filter(ImageFilter.GaussianBlur(max(height, width) / 160))
    shade = np.asarray(blurred).astype(np.float32) * ((1 - light.shadow) / 255) + light.shadow
    on_ground = (labels == ROAD) | (labels == SIDEWALK) | (labels == GRASS)
    image *= np.where(on_ground, shade, 1.0)[..., None]
    fine = rng.standard_normal((height, width), dtype=np.float32)
    coarse = fractal(rng, (height, width), (max(height // 12, 2), max(width // 12, 2)), octaves=2)
    amount = _TEXTURE[labels] * (sum(light.ambient) / 3)
    image += (amount[..., 0] * fine + amount[..., 1] * coarse)[..., None]
    if light.lamps > 0.2:
        _shine(image, canvas, ids)
    grain = 2.0 if light.name == "day" else 3.5
    image += rng.standard_normal((height, width, 3), dtype=np.float32) * grain
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image *= (1.02 - 0.09 * (x * x + y * y))[..., None].astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _shine(image: np.ndarray, canvas: Canvas, ids: np.ndarray) -> None:
    """Add the lamps' halos, and at night the cone of our own headlights on the road."""
    height, width = image.shape[:2]
    for x, y, radius, color, id_ in canvas.glows:
        if not (0 <= x < width and 0 <= y < height and ids[int(y), int(x)] == id_):
            continue  # out of the picture, or behind something
        reach = int(radius * 2.5) + 1
        top, bottom = max(int(y) - reach, 0), min(int(y) + reach + 1, height)
        left, right = max(int(x) - reach, 0), min(int(x) + reach + 1, width)
        rows, columns = np.ogrid[top:bottom, left:right]
        falloff = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (0.5 * radius * radius + 0.3)).astype(np.float32)
        image[top:bottom, left:right] += falloff[..., None] * (np.array(color, dtype=np.float32) * 0.34)
    if canvas.light.name == "night":
        center_x, horizon = canvas.camera.center_x / SUPERSAMPLE, canvas.camera.horizon_y / SUPERSAMPLE
        rows, columns = np.ogrid[:height, :width]
        depth = np.clip((rows - horizon) / max(height - horizon, 1), 0, 1)
        cone = (
            np.exp(-(((columns - center_x) / (0.42 * width)) ** 2)) * np.clip(depth * 3.2, 0, 1) * (1.15 - 0.6 * depth)
        )
        image *= 1 + (1.15 * cone[..., None] * np.array((1.0, 0.95, 0.8))).astype(np.float32)


def _instances(ids: np.ndarray, class_of: list[int]) -> tuple[Instance, ...]:
    """Countable objects with at least 0.06 % of the picture visible."""
    smallest = max(4, round(ids.size * 0.0006))
    counts = np.bincount(ids.reshape(-1), minlength=len(class_of))
    found = []
    for id_ in range(len(CLASSES), len(class_of)):
        if counts[id_] >= smallest:
            mask = ids == id_
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            found.append(Instance(class_id=class_of[id_], box_xyxy=box, mask=mask))
    return tuple(found)
