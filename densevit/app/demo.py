"""The main job from end to end on generated street scenes: train, score, predict held-out pictures, show them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from densevit.data.scenes import ScenesSegmentation
from densevit.errors import UserError
from densevit.predictor import Predictor
from densevit.training.fit import FitResult, fit
from densevit.training.recipes import get_recipe
from densevit.visualize.strip import prediction_strip

NUM_PICTURES = 6


def run_demo(run_dir: Path, *, num_steps: int | None = None) -> FitResult:
    """Train the recipe `demo` into `run_dir` and write `strip.png`, `street/*.jpg` and `predictions/` beside it.

    The pictures come from the split `test`, which neither training nor the choice of the best step has seen.
    """
    if run_dir.exists() and any(run_dir.iterdir()):
        raise UserError(f"{run_dir} is not empty; remove it or give another --out")
    experiment = get_recipe("demo")
    if num_steps is not None:
        experiment = replace(experiment, train=replace(experiment.train, num_steps=num_steps))
    result = fit(experiment, run_dir)
    show_held_out(run_dir, image_size=tuple(experiment.data.args["image_size"]))
    return result


def show_held_out(run_dir: Path, *, image_size: tuple[int, int]) -> None:
    """Write held-out scenes as photographs, segment the files, and lay image, truth and prediction side by side."""
    scenes = ScenesSegmentation(split="test", image_size=image_size, num_images=NUM_PICTURES)
    predictor = Predictor.from_pretrained(run_dir)
    street = run_dir / "street"
    street.mkdir()
    images, truths, predictions = [], [], []
    for index in range(len(scenes)):
        sample = scenes[index]
        path = street / f"{sample['id']}.jpg"
        Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).save(path, quality=92)
        prediction = predictor(path)
        prediction.save(run_dir / "predictions", path.stem)
        images.append(prediction.image)
        truths.append(np.asarray(sample["mask"]))
        predictions.append(prediction.labels)
    strip = prediction_strip(images, truths, predictions, classes=scenes.classes, palette=scenes.palette)
    Image.fromarray(strip).save(run_dir / "strip.png")
