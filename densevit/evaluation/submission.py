"""Label maps as the test servers of ADE20K and Cityscapes want them: one index PNG for each image, in one folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densevit.errors import UserError, unknown_name
from densevit.labels import CITYSCAPES_LABEL_IDS

ADE20K_CLASSES = 150


def write_ade20k(labels: NDArray[np.integer], *, stem: str, folder: Path) -> Path:
    """Write (H, W) classes 0 .. 149 as `<stem>.png` with values 1 .. 150; 0, "other", never occurs."""
    return _write(_checked(labels, ADE20K_CLASSES, stem) + 1, folder / f"{stem}.png")


def write_cityscapes(labels: NDArray[np.integer], *, stem: str, folder: Path) -> Path:
    """Write (H, W) training classes 0 .. 18 as `<stem>.png` with the published ids.

    The server matches files by `<city>_<sequence>_<frame>`, so the image's own stem
    (`berlin_000000_000019_leftImg8bit`) is a valid name.
    """
    ids = np.asarray(CITYSCAPES_LABEL_IDS)
    return _write(ids[_checked(labels, len(ids), stem)], folder / f"{stem}.png")


WRITERS: dict[str, Callable[..., Path]] = {"ade20k": write_ade20k, "cityscapes": write_cityscapes}

NUM_CLASSES = {"ade20k": ADE20K_CLASSES, "cityscapes": len(CITYSCAPES_LABEL_IDS)}


def submission_writer(name: str) -> Callable[..., Path]:
    """The writer of a test server by name; call it as `writer(labels, stem=..., folder=...)` for every image."""
    if name not in WRITERS:
        raise unknown_name("submission format", name, WRITERS)
    return WRITERS[name]


def check_classes(name: str, classes: Sequence[str], *, expected: Sequence[str] | None = None) -> None:
    """UserError unless a model with these class names, in index order, can be submitted to the test server `name`.

    `expected` are the server's names in its order: a name of the model that stands elsewhere there is refused, upper
    and lower case being alike; names that the server does not have (numbers, translations) are not judged.
    """
    count = NUM_CLASSES[name]
    if len(classes) != count:
        raise UserError(
            f"--submission {name} needs a model of {count} classes, not {len(classes)}; use one trained on {name}"
        )
    place = {wanted.lower(): index for index, wanted in enumerate(expected or ())}
    for index, own in enumerate(classes):
        if place.get(own.lower(), index) != index:
            raise UserError(
                f"--submission {name} has {own!r} as class {place[own.lower()]}, the model as class {index}; "
                f"use a model trained on {name}"
            )


def _checked(labels: NDArray[np.integer], num_classes: int, stem: str) -> NDArray[np.int64]:
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise UserError(
            f"{stem}: predicted class {wrong[0]} is not among the {num_classes} of this test server; "
            "use a model trained on its classes"
        )
    return labels.astype(np.int64)


def _write(ids: NDArray[np.int64], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)
    return path
