"""Where things stand in a generated scene: four kinds of place, laid out in metres around a road."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from densevit.data.scene_buildings import building, house
from densevit.data.scene_canvas import SUPERSAMPLE, Camera, Canvas
from densevit.data.scene_cars import car
from densevit.data.scene_people import person
from densevit.data.scene_signs import gantry, sign
from densevit.data.scene_trees import tree

PLACES = ("city", "suburb", "park", "highway")


@dataclass(frozen=True, kw_only=True)
class Street:
    """The ground plan, in metres from the middle of the road."""

    place: str
    road: float
    """Half the road's width."""
    sidewalk: float
    """Width of the pavement on each side; 0 for none."""
    setback: float
    """Where buildings begin."""


def make_street(rng: np.random.Generator, place: str) -> Street:
    u = rng.uniform(0, 1, 3)
    if place == "city":
        road, sidewalk = 4.2 + 1.4 * u[0], 3.0 + 1.6 * u[1]
        return Street(place=place, road=road, sidewalk=sidewalk, setback=road + sidewalk + 0.1)
    if place == "suburb":
        road, sidewalk = 3.4 + 0.9 * u[0], 2.0 + 0.8 * u[1]
        return Street(place=place, road=road, sidewalk=sidewalk, setback=road + sidewalk + 2.2 + 2.5 * u[2])
    if place == "park":
        road = 2.0 + 1.0 * u[0]
        return Street(place=place, road=road, sidewalk=1.8 if u[1] < 0.4 else 0.0, setback=road + 26)
    return Street(place=place, road=7.0 + 2.0 * u[0], sidewalk=0.0, setback=40.0)


def make_camera(rng: np.random.Generator, street: Street, *, image_size: tuple[int, int]) -> Camera:
    height, width = image_size[0] * SUPERSAMPLE, image_size[1] * SUPERSAMPLE
    u = rng.uniform(0, 1, 6)
    return Camera(
        focal=max(width, height) * (0.78 + 0.22 * u[0]),
        center_x=width * (0.38 + 0.24 * u[1]),
        horizon_y=height * (0.42 + 0.13 * u[2]),
        height=1.9 + 1.3 * u[3],
        x=street.road * (-0.35 + 0.85 * u[4]),
        curve=(u[5] - 0.5) * 0.0022,
    )


def place_objects(canvas: Canvas, rng: np.random.Generator, street: Street) -> list[tuple[float, Callable[[], None]]]:
    """(distance, drawing function) of everything that stands on the ground, in no order."""
    items: list[tuple[float, Callable[[], None]]] = []

    def add(distance: float, draw: Callable[..., None], /, **args: object) -> None:
        own = np.random.default_rng(rng.integers(1 << 62))  # so that no object's choices depend on the drawing order
        items.append((distance, lambda: draw(canvas, own, **args)))

    _place_buildings(rng, street, canvas, add)
    _place_trees(rng, street, add)
    _place_cars(rng, street, add)
    _place_people(rng, street, add)
    if street.place == "highway" and rng.random() < 0.5:
        z = float(rng.uniform(18, 34))
        add(z, gantry, half_width=street.road + 0.8, z=z)
    for _ in range(int(rng.integers(1, 5 if street.place == "city" else 4))):
        if street.place != "park" or rng.random() < 0.35:
            side, z = (1 if rng.random() < 0.65 else -1), 6 + 14 * float(rng.random()) ** 1.3
            add(z, sign, x=side * (street.road + float(rng.uniform(0.5, 0.9))), z=z)
    return items


def _place_buildings(rng: np.random.Generator, street: Street, canvas: Canvas, add: Callable[..., None]) -> None:
    if street.place not in ("city", "suburb"):
        return
    for side in (-1, 1):
        z = float(rng.uniform(-6, 2))
        while z < 95:
            if street.place == "city":
                length, height, depth, draw = rng.uniform(9, 20), rng.uniform(8, 30), rng.uniform(9, 14), building
                gap = 0.0 if rng.random() < 0.7 else rng.uniform(2, 7)
            else:
                length, height, depth, draw = rng.uniform(8, 12), rng.uniform(3.4, 6.4), rng.uniform(7, 9), house
                gap = rng.uniform(3, 9)
            far = z + float(length)
            if far > 6:
                x = side * (street.setback + float(rng.uniform(0, 0.6)))
                add(far, draw, x=x, near=z, far=far, height=float(height), depth=float(depth))
                if side == canvas.light.sun_side and canvas.light.shadow < 0.84:
                    reach = x - side * canvas.light.shadow_length * float(height) * 0.5
                    canvas.shadow(canvas.ground_points(x, reach, z, far))
            z = far + float(gap)


def _place_trees(rng: np.random.Generator, street: Street, add: Callable[..., None]) -> None:
    count = {"city": 3, "suburb": 9, "park": 16, "highway": 9}[street.place] + int(rng.integers(0, 4))
    inner = {
        "city": street.road + 1.0,
        "suburb": street.road + street.sidewalk + 1.2,
        "park": street.road + 2.2,
        "highway": street.road + 4.0,
    }[street.place]
    width = {"city": 0.6, "suburb": 4.0, "park": 20.0, "highway": 30.0}[street.place]
    for _ in range(count):
        side, z = (1 if rng.random() < 0.5 else -1), 7.0 + 58 * float(rng.random()) ** 1.4
        bush = street.place != "city" and rng.random() < 0.25
        height = float(rng.uniform(0.8, 1.7)) if bush else float(rng.uniform(4.0, 9.0))
        add(z, tree, x=side * (inner + width * float(rng.random()) * (0.4 + z / 60)), z=z, height=height)


def _place_cars(rng: np.random.Generator, street: Street, add: Callable[..., None]) -> None:
    if street.place == "park":
        lanes = [(0.6, False)] if rng.random() < 0.3 else []
    elif street.place == "highway":
        lanes = [(-0.75, True), (-0.27, True), (0.27, False), (0.75, False)]
    else:
        lanes = [(-0.36, True), (0.36, False)]
    for share, oncoming in lanes:
        z = float(rng.uniform(6.5, 26))
        while z < 70:
            add(z, car, x=share * street.road + float(rng.uniform(-0.25, 0.25)), z=z, oncoming=oncoming)
            z += 7 + 26 * float(rng.random())
    if street.place in ("city", "suburb"):
        for side in (-1, 1):
            z = float(rng.uniform(6, 15))
            while z < 45 and rng.random() < 0.75:
                add(z, car, x=side * (street.road - 1.0), z=z, oncoming=side < 0)
                z += 5.6 + 9 * float(rng.random())


def _place_people(rng: np.random.Generator, street: Street, add: Callable[..., None]) -> None:
    count = {"city": 6, "suburb": 3, "park": 5, "highway": 0}[street.place]
    for _ in range(count and int(rng.integers(1, count + 2))):
        z = 4.6 + 13 * float(rng.random()) ** 1.4
        if street.sidewalk and rng.random() < 0.85:
            side = 1 if rng.random() < 0.5 else -1
            x = side * (street.road + 0.4 + (street.sidewalk - 0.6) * float(rng.random()))
        else:
            x = float(rng.uniform(-1, 1)) * street.road * 0.9
        add(z, person, x=x, z=z)
