"""The classes of a generated street scene and the colours that its objects are painted in."""

import numpy as np

from densevit.data.scene_canvas import RGB

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
