"""The people of a generated street scene, drawn in perspective at (x, z) in metres."""

import numpy as np

from densevit.data.scene_canvas import Canvas
from densevit.data.scene_palette import CLOTHES, PEDESTRIAN, SKINS, pick


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
