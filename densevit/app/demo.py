"""The package from end to end in minutes: two small trainings on generated scenes, the model in the box, a page.

RUN/                       the segmenter, as `densevit fit` leaves it, with strip.png, street/ and predictions/
RUN/detection/             the detector, likewise
RUN/streets.png            the packaged model on street pictures
RUN/contact_sheet.png      all of it in one picture
RUN/index.html             all of it on one page
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from PIL import Image

from densevit.app.demo_pictures import contact_sheet, detection_strip, find_streets, segmentation_strip, street_strip
from densevit.app.page import Section, write_page
from densevit.errors import UserError
from densevit.evaluation.coco_scores import DetectionScores
from densevit.evaluation.scores import SegmentationScores
from densevit.training.fit import FitResult, fit
from densevit.training.recipes import get_recipe
from densevit.weights.default_model import default_model, describe
from densevit.weights.pretrained import read_info

PAGE, SHEET, STRIP, STREETS = "index.html", "contact_sheet.png", "strip.png", "streets.png"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo leaves."""

    segmentation: FitResult
    detection: FitResult
    page: Path


def run_demo(
    run_dir: Path, *, num_steps: int | None = None, pictures: Sequence[str] = (), say: Say = lambda text: None
) -> DemoResult:
    """Train the recipes `demo` and `scenes_detection` into `run_dir`, run the packaged model, lay everything out.

    `num_steps` replaces the length of both trainings. `pictures` are street pictures (files, folders, wildcards) for
    the packaged model. `say` is told what happens next. Held-out scenes come from the split `test`, which neither
    training nor the choice of the best step has seen. UserError where `run_dir` is not empty.
    """
    if run_dir.exists() and any(run_dir.iterdir()):
        raise UserError(f"{run_dir} is not empty; remove it or give another --out")
    streets, kind = find_streets(pictures, out=run_dir)  # a mistake in the pictures shows before any training
    say("1 of 3: training a small SETR to segment generated street scenes ...")
    segmentation, size = _train("demo", run_dir, num_steps)
    strip = segmentation_strip(run_dir, image_size=size)
    say("2 of 3: training a small Mask R-CNN on HLG to find cars, pedestrians and signs in them ...")
    detection, size = _train("scenes_detection", run_dir / "detection", num_steps)
    found = detection_strip(detection.run_dir, image_size=size)
    say(f"3 of 3: segmenting {len(streets)} street pictures with the packaged model ...")
    street = street_strip(streets)
    for picture, path in ((strip, STRIP), (street, STREETS), (found, f"detection/{STRIP}")):
        Image.fromarray(picture).save(run_dir / path)
    Image.fromarray(contact_sheet([strip, street, found])).save(run_dir / SHEET)
    result = DemoResult(segmentation=segmentation, detection=detection, page=run_dir / PAGE)
    write_page(
        result.page,
        title="densevit: the demo",
        lead="Two models trained from random numbers on this machine, and one that came with the package.",
        sections=[_segmentation(result), _streets(result, kind), _detection(result)],
    )
    return result


def _train(name: str, run_dir: Path, num_steps: int | None) -> tuple[FitResult, tuple[int, int]]:
    """The trained recipe and the size (H, W) of its scenes."""
    experiment: Any = get_recipe(name)
    if num_steps is not None:
        experiment = replace(experiment, train=replace(experiment.train, num_steps=num_steps))
    height, width = experiment.data.args["image_size"]
    return fit(experiment, run_dir), (height, width)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _segmentation(result: DemoResult) -> Section:
    scores, run = cast(SegmentationScores, result.segmentation.scores), result.segmentation.run_dir
    return Section(
        title="Semantic segmentation: every pixel gets a class",
        text="A SETR with four transformer blocks, trained on generated street scenes. The scenes below were seen "
        "neither in training nor in choosing the best step.",
        numbers=[
            (_percent(scores.mean_iou), "mean IoU on 200 validation scenes"),
            (_percent(scores.pixel_accuracy), "pixels that are right"),
        ],
        figures=[
            (run / STRIP, "Held-out scenes: picture, truth, prediction."),
            (run / "curves.png", "The training: loss, validation score, learning rate."),
        ],
        commands=[
            f"densevit predict {run / 'street'} --model {run} --out predictions",
            f"densevit validate --model {run}",
        ],
    )


def _streets(result: DemoResult, kind: str) -> Section:
    info = read_info(default_model())
    return Section(
        title="The model in the box: real streets, nothing to train",
        text=f"densevit predict without --model uses {describe(info)}, a narrow HLG. Here it segments {kind}.",
        numbers=[
            (_percent(info.metrics["mIoU"]), "mean IoU on CamVid's validation images"),
            (f"{default_model().stat().st_size / 1e6:.1f} MB", "in the package"),
        ],
        figures=[(result.segmentation.run_dir / STREETS, "Street pictures and their classes.")],
        commands=["densevit predict street.jpg"],
    )


def _detection(result: DemoResult) -> Section:
    scores, run = cast(DetectionScores, result.detection.scores), result.detection.run_dir
    assert scores.mask is not None
    return Section(
        title="Detection and instance masks: every object by itself",
        text="A Mask R-CNN on a small HLG, trained on the objects of the same scenes.",
        numbers=[
            (_percent(scores.box.summary()["ap50"]), "box AP at IoU 0.5"),
            (_percent(scores.mask.summary()["ap50"]), "mask AP at IoU 0.5"),
        ],
        figures=[
            (run / STRIP, "Held-out scenes: picture, truth, what was found."),
            (run / "curves.png", "The training: losses, validation score, learning rate."),
        ],
        commands=[f"densevit predict {result.segmentation.run_dir / 'street'} --model {run} --out detections"],
    )
