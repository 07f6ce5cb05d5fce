"""Cars for generated street scenes: a side profile drawn out to the car's width, painted far end first."""

import itertools
import math

import numpy as np

from densevit.data.scene_canvas import RGB, Canvas
from densevit.data.scene_palette import CAR, PAINTS, pick, scaled

Profile = tuple[tuple[float, float], ...]

# (along the car from its tail, height), metres, from the lower edge of the tail over the roof to that of the nose
_HATCHBACK: Profile = ((0.0, 0.32), (0.0, 0.92), (0.35, 1.42), (2.2, 1.5), (3.0, 0.98), (4.0, 0.8), (4.05, 0.32))
_SEDAN: Profile = (
    (0.0, 0.32),
    (0.02, 0.9),
    (0.75, 0.98),
    (1.4, 1.42),
    (2.6, 1.44),
    (3.4, 0.95),
    (4.5, 0.8),
    (4.55, 0.32),
)
_VAN: Profile = ((0.0, 0.34), (0.0, 1.1), (0.08, 2.05), (3.3, 2.1), (4.1, 1.2), (4.8, 1.0), (4.85, 0.34))
_PROFILES = (_HATCHBACK, _SEDAN, _SEDAN, _HATCHBACK, _VAN)
_LENGTHS = {id(profile): profile[-1][0] for profile in _PROFILES}

_HALF_WIDTH = 0.9


def car(canvas: Canvas, rng: np.random.Generator, *, x: float, z: float, oncoming: bool) -> None:
    """A car whose near end is at `z` and whose middle is at `x`; seen from behind, or from the front if `oncoming`."""
    profile = _PROFILES[int(rng.integers(len(_PROFILES)))]
    length = _LENGTHS[id(profile)]
    if oncoming:
        profile = tuple((length - along, height) for along, height in reversed(profile))
    paint, id_ = pick(rng, PAINTS, 8), canvas.new_object(CAR)
    _shadow(canvas, x=x, z=z, length=length)
    camera = canvas.camera
    # the bend of the road, taken once at the car's middle so that the body stays straight
    bend = camera.curve * ((z + length / 2) ** 2)
    x = x + bend

    def at(px: float, py: float, along: float) -> tuple[float, float]:
        depth = z + along
        return camera.project(px - camera.curve * depth * depth, py, depth)

    inner = x - _HALF_WIDTH if x > camera.x else x + _HALF_WIDTH  # the side turned to the camera
    left, right = x - _HALF_WIDTH, x + _HALF_WIDTH
    light = canvas.light
    for (a0, h0), (a1, h1) in reversed(list(itertools.pairwise(profile))):
        slope = abs(h1 - h0) / (abs(a1 - a0) + abs(h1 - h0) + 1e-6)
        quad = [at(left, h0, a0), at(right, h0, a0), at(right, h1, a1), at(left, h1, a1)]
        is_glass = 0.2 < slope < 0.97 and max(h0, h1) > 1.3
        canvas.polygon(quad, light.on(paint, z, 1.12 - 0.3 * slope), id_)
        if is_glass:
            canvas.polygon(_inset(quad, 0.12), light.on((62, 76, 92), z, 1.0))
    _side(canvas, rng, profile, paint, at=lambda along, height: at(inner, height, along), z=z, length=length, id_=id_)
    _near_end(canvas, paint, profile, at=lambda px, py: at(x + px, py, 0.0), z=z, oncoming=oncoming, id_=id_)


def _shadow(canvas: Canvas, *, x: float, z: float, length: float) -> None:
    shift = -canvas.light.sun_side * canvas.light.shadow_length * 0.7
    low, high = sorted((x, x + shift))
    canvas.shadow(canvas.ground_points(low - _HALF_WIDTH - 0.08, high + _HALF_WIDTH + 0.08, z - 0.15, z + length))


def _side(canvas: Canvas, rng: np.random.Generator, profile: Profile, paint: RGB, *, at, z, length, id_) -> None:  # type: ignore[no-untyped-def]
    """The flank with its windows and wheels; `at` maps (along, height) to the grid."""
    light = canvas.light
    canvas.polygon([at(along, height) for along, height in profile], light.on(paint, z, 0.74), id_)
    top = max(height for _, height in profile)
    belt = [p for p in profile if p[1] > 0.95]
    window = [(along, height - 0.08 if height > 1.2 else 1.0) for along, height in belt]
    if len(window) >= 3:
        canvas.polygon([at(*p) for p in _shrink(window, 0.06)], light.on((54, 66, 82), z, 0.95))
        post = sum(p[0] for p in window) / len(window)
        canvas.polygon(
            [at(post - 0.05, 0.98), at(post + 0.05, 0.98), at(post + 0.05, top - 0.1), at(post - 0.05, top - 0.1)],
            light.on(paint, z, 0.7),
        )
    turn = np.linspace(0, 2 * math.pi, 12, endpoint=False).tolist()
    for axle in (0.75, length - 0.8):
        for radius, tone in ((0.34, 30.0), (0.19, 130.0)):
            wheel = [at(axle + radius * math.cos(a), 0.34 + radius * math.sin(a)) for a in turn]
            canvas.polygon(wheel, light.on((tone, tone, tone + 4), z), id_)


def _near_end(canvas: Canvas, paint: RGB, profile: Profile, *, at, z, oncoming, id_) -> None:  # type: ignore[no-untyped-def]
    """Tail or nose: bumper, number plate, lamps, and the wheels below; `at` maps (across, height) to the grid."""
    light = canvas.light
    hood = next(height for _, height in profile[1:])
    for px in (-0.72, 0.5):
        canvas.rectangle(at(px, 0.0), at(px + 0.22, 0.36), light.on((26, 26, 28), z), id_)
    canvas.rectangle(at(-_HALF_WIDTH, 0.28), at(_HALF_WIDTH, hood), light.on(paint, z, 0.9), id_)
    canvas.rectangle(at(-_HALF_WIDTH, 0.28), at(_HALF_WIDTH, 0.48), light.on(scaled(paint, 0.45), z), id_)
    canvas.rectangle(at(-0.24, 0.5), at(0.24, 0.62), light.on((236, 232, 214), z))
    lamp: RGB = (255, 246, 214) if oncoming else (224, 36, 34)
    for px in (-0.86, 0.56):
        corner, other = at(px, 0.66), at(px + 0.3, 0.82)
        canvas.rectangle(corner, other, light.lamp(lamp, z) if light.lamps > 0.05 else light.on(lamp, z, 0.9))
        if light.lamps > 0.2:
            middle = ((corner[0] + other[0]) / 2, (corner[1] + other[1]) / 2)
            canvas.glow(middle, canvas.camera.pixels(0.8 if oncoming else 0.5, z), lamp, id_)


def _inset(quad: list[tuple[float, float]], share: float) -> list[tuple[float, float]]:
    """The quad shrunk towards its centre."""
    cx, cy = sum(p[0] for p in quad) / len(quad), sum(p[1] for p in quad) / len(quad)
    return [(x + (cx - x) * share, y + (cy - y) * share) for x, y in quad]


def _shrink(outline: list[tuple[float, float]], share: float) -> list[tuple[float, float]]:
    middle = sum(p[0] for p in outline) / len(outline)
    return [(along + (middle - along) * share * 2, height) for along, height in outline]
