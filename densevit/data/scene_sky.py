"""The light of a generated scene, and its sky: gradient, clouds, sun, moon and stars."""

import numpy as np
from PIL import Image

from densevit.data.scene_canvas import RGB, SUPERSAMPLE, Camera, Light

LIGHTS = ("day", "dusk", "fog", "night")


def make_light(rng: np.random.Generator, name: str) -> Light:
    side = 1 if rng.random() < 0.5 else -1
    gain = float(rng.uniform(0.88, 1.1))
    haze: RGB
    if name == "day":
        blue = float(rng.uniform(0.0, 1.0))  # from overcast to clear
        top = (150 - 90 * blue, 170 - 40 * blue, 196 + 22 * blue)
        haze = (206 - 14 * blue, 216.0, 226 + 12 * blue)
        sky = (top, _mix(top, haze, 0.55), haze)
        return Light(
            name=name,
            ambient=(gain, gain, gain * (1.06 - 0.08 * blue)),
            haze=haze,
            haze_distance=190,
            sky=sky,
            shadow=0.86 - 0.3 * blue,
            sun_side=side,
            shadow_length=float(rng.uniform(0.4, 1.1)),
            lamps=0.0,
        )
    if name == "dusk":
        haze = (250.0, float(rng.uniform(150, 196)), float(rng.uniform(96, 130)))
        sky = ((58.0, 62.0, 128.0), (206.0, 112.0, 122.0), haze)
        return Light(
            name=name,
            ambient=(0.96 * gain, 0.7 * gain, 0.64 * gain),
            haze=haze,
            haze_distance=120,
            sky=sky,
            shadow=0.66,
            sun_side=side,
            shadow_length=2.2,
            lamps=0.22,
        )
    if name == "fog":
        grey = float(rng.uniform(176, 214))
        haze = (grey, grey + 3, grey + 6)
        sky = ((grey - 12, grey - 8, grey - 2), (grey - 5, grey - 2, grey + 3), haze)
        return Light(
            name=name,
            ambient=(0.86 * gain, 0.88 * gain, 0.9 * gain),
            haze=haze,
            haze_distance=float(rng.uniform(22, 48)),
            sky=sky,
            shadow=0.9,
            sun_side=side,
            shadow_length=0.2,
            lamps=0.12,
        )
    haze = (34.0, 38.0, float(rng.uniform(58, 84)))
    sky = ((8.0, 11.0, 28.0), (18.0, 22.0, 46.0), (52.0, 50.0, 78.0))
    return Light(
        name=name,
        ambient=(0.36 * gain, 0.4 * gain, 0.54 * gain),
        haze=haze,
        haze_distance=110,
        sky=sky,
        shadow=0.8,
        sun_side=side,
        shadow_length=0.6,
        lamps=0.45,
    )


def paint_sky(rng: np.random.Generator, light: Light, camera: Camera, *, image_size: tuple[int, int]) -> Image.Image:
    """Gradient, clouds, and a sun, moon or stars; painted at the picture's own size and enlarged."""
    height, width = image_size
    horizon = max(int(camera.horizon_y / SUPERSAMPLE) + 2, 2)
    rows = np.linspace(0, 1, horizon)
    stops = np.array(light.sky)
    sky = np.stack([np.interp(rows, (0, 0.55, 1), stops[:, c]) for c in range(3)], axis=-1).astype(np.float32)
    sky = np.repeat(sky[:, None], width, axis=1)
    covering = float(rng.uniform(-0.15, 0.55))
    puffs = fractal(rng, (horizon, width), (2, 3), octaves=4)
    alpha = np.clip((puffs + covering) * 1.4, 0, 1) * (0.0 if light.name == "fog" else 0.85)
    cloud = {"day": (250, 250, 252), "dusk": (255, 176, 150), "fog": (210, 212, 214), "night": (40, 44, 66)}[light.name]
    tone = np.array(cloud, dtype=np.float32) * (0.86 + 0.14 * np.clip(puffs, -1, 1))[..., None]
    sky += (tone - sky) * (alpha * (0.4 + 0.6 * rows[::-1])[:, None])[..., None].astype(np.float32)
    disc_x, disc_y = float(rng.uniform(0.1, 0.9)) * width, float(rng.uniform(0.12, 0.9)) * horizon
    stars = rng.integers(0, 1 << 30, (24, 2))
    if light.name == "night":
        dots = stars % np.array([max(int(horizon * 0.8), 1), width])
        sky[dots[:, 0], dots[:, 1]] += rng.uniform(20, 130, (24, 1)).astype(np.float32)
    if light.name != "fog":
        size = max(image_size) * {"day": 0.035, "dusk": 0.055, "night": 0.03}[light.name]
        disc_y = horizon * 0.9 if light.name == "dusk" else disc_y * 0.6
        _sun(
            sky,
            (disc_x, disc_y),
            size,
            (1.0, 0.97, 0.86) if light.name != "dusk" else (1.0, 0.82, 0.56),
            strength={"day": 1.0, "dusk": 1.0, "night": 0.55}[light.name],
            halo=3.0 if light.name == "dusk" else 2.0,
        )
    full = np.empty((height, width, 3), dtype=np.uint8)
    full[: min(horizon, height)] = np.clip(sky, 0, 255)[:height]
    full[horizon:] = np.clip(sky[-1:], 0, 255)
    return Image.fromarray(full).resize((width * SUPERSAMPLE, height * SUPERSAMPLE), Image.Resampling.BILINEAR)


def _sun(
    sky: np.ndarray, center: tuple[float, float], radius: float, color: RGB, *, strength: float, halo: float
) -> None:
    y, x = np.ogrid[: sky.shape[0], : sky.shape[1]]
    distance = np.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2).astype(np.float32) / radius
    shine = np.clip(1.5 - distance, 0, 1) * strength + 0.4 * strength * np.exp(-distance / halo)
    sky += (np.array(color, dtype=np.float32) * 255 - sky) * np.minimum(shine, 1)[..., None]


def fractal(rng: np.random.Generator, size: tuple[int, int], start: tuple[int, int], *, octaves: int) -> np.ndarray:
    """Smooth noise, about -1..1: float32 (H, W), a sum of ever finer random grids."""
    total = np.zeros(size, dtype=np.float32)
    for octave in range(octaves):
        grid = rng.uniform(-1, 1, (start[0] * 2**octave + 1, start[1] * 2**octave + 1)).astype(np.float32)
        layer = Image.fromarray(grid).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        total += np.asarray(layer) * 0.62**octave
    return total


def _mix(a: RGB, b: RGB, share: float) -> RGB:
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )
