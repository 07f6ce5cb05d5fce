"""What stands in a generated street scene: buildings, houses, trees, cars, people and signs, each drawn in perspective.

Every function draws one object at (x, z) in metres on a `Canvas` and takes its random choices from `rng`.
"""

import itertools
import math

import numpy as np

from densevit.data.scene_canvas import NEAR, RGB, Canvas

CLASSES = ("sky", "building", "road", "sidewalk", "grass", "tree", "car", "pedestrian", "sign")
SKY, BUILDING, ROAD, SIDEWALK, GRASS, TREE, CAR, PEDESTRIAN, SIGN = range(len(CLASSES))

WALLS: tuple[RGB, ...] = (
    (176, 96, 74),
    (205, 178, 140),
    (150, 152, 158),
    (190, 120, 90),
    (222, 210, 190),
    (128, 140, 156),
    (168, 150, 130),
    (112, 86, 78),
    (196, 196, 200),
    (214, 160, 110),
    (140, 164, 168),
)
ROOFS: tuple[RGB, ...] = ((150, 70, 55), (96, 72, 66), (84, 88, 98), (170, 96, 66))
PAINTS: tuple[RGB, ...] = (
    (226, 228, 232),
    (40, 42, 48),
    (186, 34, 38),
    (36, 78, 160),
    (150, 156, 164),
    (232, 186, 40),
    (44, 118, 84),
    (212, 104, 40),
    (96, 140, 190),
    (110, 40, 60),
)
CLOTHES: tuple[RGB, ...] = (
    (200, 50, 60),
    (50, 90, 180),
    (240, 200, 60),
    (60, 150, 90),
    (230, 230, 235),
    (40, 40, 50),
    (150, 80, 160),
    (240, 140, 60),
    (90, 170, 200),
)
SKINS: tuple[RGB, ...] = ((240, 200, 170), (214, 160, 120), (160, 110, 80), (100, 68, 50))
GREENS: tuple[RGB, ...] = ((64, 120, 48), (84, 138, 52), (48, 104, 62), (108, 142, 54))
AUTUMN: tuple[RGB, ...] = ((196, 122, 40), (180, 84, 40), (204, 160, 60))


def pick(rng: np.random.Generator, colors: tuple[RGB, ...], jitter: float = 12.0) -> RGB:
    """One of `colors`, moved a little so that no two objects look quite alike."""
    red, green, blue = colors[int(rng.integers(len(colors)))]
    shift = rng.normal(0, jitter, 3)
    return (
        min(max(red + shift[0], 8), 250),
        min(max(green + shift[1], 8), 250),
        min(max(blue + shift[2], 8), 250),
    )


def scaled(color: RGB, factor: float) -> RGB:
    return min(color[0] * factor, 255), min(color[1] * factor, 255), min(color[2] * factor, 255)


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


def person(canvas: Canvas, rng: np.random.Generator, *, x: float, z: float) -> None:
    """Somebody walking, with a shadow."""
    light, id_ = canvas.light, canvas.new_object(PEDESTRIAN)
    foot = canvas.camera.project(x, 0, z)
    unit = canvas.camera.pixels(float(rng.uniform(1.5, 1.9)), z)
    coat, trousers = pick(rng, CLOTHES), pick(rng, ((50, 56, 80), (70, 64, 60), (36, 36, 42), (120, 108, 90)))
    skin, hair = pick(rng, SKINS, 4), pick(rng, ((40, 30, 26), (90, 60, 40), (190, 150, 90), (120, 120, 124)), 6)
    stride = float(rng.uniform(0.02, 0.13)) * (1 if rng.random() < 0.5 else -1)

    def at(dx: float, dy: float) -> tuple[float, float]:
        return foot[0] + dx * unit, foot[1] - dy * unit

    canvas.shadow_disc(x - light.sun_side * light.shadow_length * 0.4, z, 0.42)
    for direction, tone in ((-1, 0.75), (1, 1.0)):
        end = direction * stride
        leg = [at(-0.065, 0.5), at(0.075, 0.5), at(end + 0.06, 0.0), at(end - 0.06, 0.0)]
        canvas.polygon(leg, light.on(trousers, z, tone), id_)
    swing = stride * 1.1
    arm = [at(-0.15, 0.8), at(0.15, 0.8), at(0.17 + swing * 0.4, 0.45), at(-0.17 - swing * 0.4, 0.45)]
    canvas.polygon(arm, light.on(coat, z, 0.78), id_)
    torso = [at(-0.1, 0.84), at(0.1, 0.84), at(0.135, 0.76), at(0.12, 0.43), at(-0.12, 0.43), at(-0.135, 0.76)]
    canvas.polygon(torso, light.on(coat, z), id_)
    canvas.ellipse(at(0, 0.92), (0.072 * unit, 0.085 * unit), light.on(skin, z), id_)
    canvas.ellipse(at(0, 0.955), (0.075 * unit, 0.052 * unit), light.on(hair, z), id_)


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
