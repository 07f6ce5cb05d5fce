"""Where generated street scenes are drawn: a pinhole camera, a light, and a canvas that colours and labels at once.

World coordinates are metres: x to the right, y up, z ahead of the camera, y = 0 on the ground. Everything is drawn on a
grid `SUPERSAMPLE` times as fine as the picture: the colours are averaged over it, the labels take its centre sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 3
NEAR = 1.2
"""Nothing is drawn closer to the camera than this many metres."""

RGB = tuple[float, float, float]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Pinhole camera. Lengths in pixels of the fine grid, except `height` and `x` in metres."""

    focal: float
    center_x: float
    """Column of the vanishing point."""
    horizon_y: float
    """Row of the horizon."""
    height: float
    x: float
    """Distance from the middle of the road, to the right."""
    curve: float
    """The road bends by curve * z^2 metres to the right."""

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """A world point to (column, row) on the fine grid."""
        scale = self.focal / z
        return (
            self.center_x + (x + self.curve * z * z - self.x) * scale,
            self.horizon_y + (self.height - y) * scale,
        )

    def pixels(self, metres: float, z: float) -> float:
        return metres * self.focal / z


@dataclass(frozen=True, kw_only=True)
class Light:
    """The time of day, as colours: 0..255 for what is seen, factors for what it does to surfaces."""

    name: str
    ambient: RGB
    haze: RGB
    haze_distance: float
    """Metres after which 63 % of a surface's colour is lost to the haze."""
    sky: tuple[RGB, RGB, RGB]
    """At the zenith, half way down, and at the horizon."""
    shadow: float
    """Factor of the ground in shadow."""
    sun_side: int
    """-1: light comes from the left, 1: from the right."""
    shadow_length: float
    """Metres of shadow for each metre of height."""
    lamps: float
    """Share of windows and lamps that are lit, 0..1."""

    def on(self, color: RGB, z: float, shade: float = 1.0) -> tuple[int, int, int]:
        """The colour of a surface at distance `z`, turned from the light by `shade`."""
        keep = math.exp(-z / self.haze_distance)
        (red, green, blue), (r, g, b), haze = color, self.ambient, self.haze  # written out: called for every polygon
        lit, lost = shade * keep, 1 - keep
        return (
            min(255, int(red * r * lit + haze[0] * lost)),
            min(255, int(green * g * lit + haze[1] * lost)),
            min(255, int(blue * b * lit + haze[2] * lost)),
        )

    def lamp(self, color: RGB, z: float) -> tuple[int, int, int]:
        """The colour of something that shines by itself."""
        keep = math.exp(-z / (3 * self.haze_distance))
        red, green, blue = (min(255, int(c * keep + h * (1 - keep))) for c, h in zip(color, self.haze, strict=True))
        return red, green, blue


class Canvas:
    """Colours and object ids, painted together from far to near; a nearer object hides the farther one in both."""

    def __init__(self, *, image_size: tuple[int, int], camera: Camera, light: Light, num_classes: int) -> None:
        height, width = image_size
        self.camera, self.light = camera, light
        self.size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        self.image = Image.new("RGB", self.size)
        self.ids = Image.new("L", self.size)
        self.shadows = Image.new("L", (width, height), 255)
        self.colors = ImageDraw.Draw(self.image)
        self._ids = ImageDraw.Draw(self.ids)
        self._shadows = ImageDraw.Draw(self.shadows)
        self.class_of = list(range(num_classes))
        """Object id -> class: the first ids are the classes themselves, the others are countable objects."""
        self.glows: list[tuple[float, float, float, RGB, int]] = []
        """Lamps: column, row and radius in pixels of the picture, colour, and the object they belong to."""

    def new_object(self, class_id: int) -> int:
        """An id for one countable object; past 255 objects, the class's own id (drawn, but not counted)."""
        if len(self.class_of) > 255:
            return class_id
        self.class_of.append(class_id)
        return len(self.class_of) - 1

    def paint(self, image: Image.Image) -> None:
        """Lay a picture of the canvas's size under everything."""
        self.image.paste(image)

    def polygon(self, points: Points, color: tuple[int, int, int], id_: int | None = None) -> None:
        """Fill a polygon given in fine pixels; without `id_` only the colour changes (a detail of what is there)."""
        self.colors.polygon(points, fill=color)
        if id_ is not None:
            self._ids.polygon(points, fill=id_)

    def ellipse(
        self,
        center: tuple[float, float],
        radius: tuple[float, float],
        color: tuple[int, int, int],
        id_: int | None = None,
    ) -> None:
        (x, y), (rx, ry) = center, radius
        box = (x - rx, y - ry, x + rx, y + ry)
        self.colors.ellipse(box, fill=color)
        if id_ is not None:
            self._ids.ellipse(box, fill=id_)

    def rectangle(
        self,
        corner: tuple[float, float],
        other: tuple[float, float],
        color: tuple[int, int, int],
        id_: int | None = None,
    ) -> None:
        box = (min(corner[0], other[0]), min(corner[1], other[1]), max(corner[0], other[0]), max(corner[1], other[1]))
        self.colors.rectangle(box, fill=color)
        if id_ is not None:
            self._ids.rectangle(box, fill=id_)

    def ground(
        self, left: float, right: float, near: float, far: float, color: tuple[int, int, int], id_: int | None = None
    ) -> None:
        """A strip of ground between two x and two z."""
        self.polygon(self.ground_points(left, right, near, far), color, id_)

    def ground_points(self, left: float, right: float, near: float, far: float) -> list[tuple[float, float]]:
        project = self.camera.project
        near, far = max(near, NEAR), max(far, NEAR)
        return [project(left, 0, near), project(right, 0, near), project(right, 0, far), project(left, 0, far)]

    def shadow(self, points: Points) -> None:
        """Darken the ground (only the ground) inside a polygon given in fine pixels."""
        self._shadows.polygon([(x / SUPERSAMPLE, y / SUPERSAMPLE) for x, y in points], fill=0)

    def shadow_disc(self, x: float, z: float, radius: float) -> None:
        """A round shadow on the ground."""
        turn = np.linspace(0, 2 * math.pi, 14, endpoint=False)
        self.shadow(
            [self.camera.project(x + radius * math.cos(a), 0, max(z + radius * math.sin(a), NEAR)) for a in turn]
        )

    def glow(self, at: tuple[float, float], radius: float, color: RGB, id_: int) -> None:
        """A shining spot of object `id_`, seen where nothing hides it; `at` and `radius` in fine pixels."""
        self.glows.append((at[0] / SUPERSAMPLE, at[1] / SUPERSAMPLE, radius / SUPERSAMPLE, color, id_))

    def pixels(self) -> np.ndarray:
        """The picture, smoothed down to its true size: uint8 (H, W, 3)."""
        return np.asarray(self.image.reduce(SUPERSAMPLE))

    def object_ids(self) -> np.ndarray:
        """The object at the centre of each pixel: uint8 (H, W)."""
        start = SUPERSAMPLE // 2
        return np.asarray(self.ids)[start::SUPERSAMPLE, start::SUPERSAMPLE].copy()
