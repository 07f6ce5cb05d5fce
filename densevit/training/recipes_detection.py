"""Detection: the rows of the paper's Tables 10 and 11 on COCO, and small trainings of ours.

The paper's recipe (Sec. 4.4; what it leaves open is taken from the authors' configuration): 12 epochs at batch 16,
AdamW, learning rate and weight decay 1e-4, a tenth after 8 and after 11 epochs, 500 steps of warm-up; the short side of
a training image is drawn from 640 .. 800, the long one at most 1333. `_3x` is the longer schedule usual with it: 36
epochs, a tenth after 27 and 33, short sides from 480 on.

HLG has no published weights: give an ImageNet classifier of your own, `--model.pretrained=RUN`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from densevit.inference.detection_settings import DetectionConfig
from densevit.training.config import ModelConfig, OptimConfig, TrainConfig
from densevit.training.config_detection import DetectionExperiment
from densevit.training.config_detection_data import DetectionDataConfig

BATCH = 16
STEPS_PER_EPOCH = -(-117_266 // BATCH)
"""Of the images of train2017 with objects."""
DROP_PATH = {"hlg_mobile": 0.1, "hlg_tiny": 0.1, "hlg_small": 0.1, "hlg_medium": 0.3, "hlg_large": 0.3}


@dataclass(frozen=True, kw_only=True)
class CocoRow:
    """A recipe and what the paper reports for it on val2017: AP in percent, None where it gives none."""

    experiment: DetectionExperiment
    source: str | None = None
    box_ap: float | None = None
    mask_ap: float | None = None


def coco(detector: str, encoder: str, *, long: bool = False) -> DetectionExperiment:
    """`detector` on `encoder` on COCO as the paper trains it; `long` is three times as long."""
    epochs, milestones = (36, (27 / 36, 33 / 36)) if long else (12, (8 / 12, 11 / 12))
    base, masks = DetectionExperiment(), detector == "mask_rcnn"
    data = DetectionDataConfig(name="coco", args={"masks": masks}, batch_size=BATCH, num_workers=8, keep_empty=False)
    if long:
        data = replace(data, short_sides=tuple(range(480, 801, 32)))
    return replace(
        base,
        model=ModelConfig(
            name=f"{detector}_{encoder}",
            pretrained=encoder not in DROP_PATH,
            args={"drop_path_rate": DROP_PATH[encoder]} if encoder in DROP_PATH else {},
        ),
        data=data,
        optim=replace(base.optim, milestones=milestones),
        train=TrainConfig(
            num_steps=epochs * STEPS_PER_EPOCH,
            val_every_steps=STEPS_PER_EPOCH,
            log_every_steps=50,
            num_sample_pictures=0,
        ),
    )


TABLE_10: dict[str, float] = {
    "hlg_tiny": 43.3,
    "hlg_small": 44.4,
    "hlg_medium": 46.6,
    "hlg_large": 47.7,
    "resnet50": 36.3,
}
"""RetinaNet: AP of the boxes. ResNet-50's is another paper's, with its own schedule."""

TABLE_11: dict[str, tuple[float, float]] = {
    "hlg_tiny": (44.7, 40.9),
    "hlg_small": (46.0, 42.0),
    "hlg_medium": (48.2, 43.4),
    "hlg_large": (49.1, 44.2),
    "resnet50": (38.0, 34.4),
}
"""Mask R-CNN: AP of the boxes and of the masks."""


def _rows() -> dict[str, CocoRow]:
    rows = {}
    for encoder, box_ap in TABLE_10.items():
        rows[f"retinanet_{encoder}_coco"] = CocoRow(
            experiment=coco("retinanet", encoder), source="Table 10", box_ap=box_ap
        )
    for encoder, (box_ap, mask_ap) in TABLE_11.items():
        rows[f"mask_rcnn_{encoder}_coco"] = CocoRow(
            experiment=coco("mask_rcnn", encoder), source="Table 11", box_ap=box_ap, mask_ap=mask_ap
        )
    for detector, encoders in (("retinanet", TABLE_10), ("mask_rcnn", TABLE_11)):
        for encoder in encoders:
            rows[f"{detector}_{encoder}_coco_3x"] = CocoRow(experiment=coco(detector, encoder, long=True))
    return rows


COCO_ROWS = _rows()
"""Recipe name -> its row."""

TINY_HLG: dict[str, Any] = {
    "embed_dims": (16, 32, 64, 128),
    "num_heads": (1, 2, 4, 8),
    "depths": (1, 1, 1, 1),
    "window_size": 4,
}
"""An HLG for a minute on a CPU."""
NARROW_HLG: dict[str, Any] = {"embed_dims": (32, 64, 128, 256), "num_heads": (1, 2, 4, 8), "depths": (1, 1, 3, 1)}
"""That of the recipe `cifar10`, whose run may be the start: `--model.pretrained=runs/cifar10`."""

FROM_SCRATCH = OptimConfig(
    optimizer="adamw",
    lr=1e-3,
    head_lr_mult=1.0,
    weight_decay=0.05,
    schedule="cosine",
    warmup_steps=30,
    warmup_ratio=1e-2,
    clip_grad_norm=1.0,
)
"""AdamW for detectors that start from random numbers."""


def scenes_detection() -> DetectionExperiment:
    """A tiny Mask R-CNN on generated street scenes: four minutes on two CPU cores, one of them busy."""
    size = (192, 288)
    return DetectionExperiment(
        model=ModelConfig(
            name="mask_rcnn_hlg_mobile",
            args={
                "channels": 32,
                "fc_channels": 128,
                "num_proposals": 100,
                "num_samples": 32,
                "anchor_scale": 3.0,
                "anchor_ratios": (0.8, 1.6, 3.2),
                "encoder_args": TINY_HLG,
            },
        ),
        data=DetectionDataConfig(
            name="scenes_detection",
            args={"image_size": size, "num_images": 100, "cache": True},
            batch_size=4,
            num_workers=0,
            short_sides=(192,),
            long_side=288,
        ),
        optim=replace(FROM_SCRATCH, lr=2.5e-3, clip_grad_norm=5.0),
        train=TrainConfig(num_steps=300, val_every_steps=300, log_every_steps=10),
        eval=DetectionConfig(short_side=192, long_side=288, max_detections=50),
    )


def pennfudan() -> DetectionExperiment:
    """A narrow Mask R-CNN on Penn-Fudan's 120 pedestrian pictures, from random numbers: half an hour on a CPU core."""
    return DetectionExperiment(
        model=ModelConfig(
            name="mask_rcnn_hlg_mobile",
            args={
                "drop_path_rate": 0.1,
                "channels": 64,
                "fc_channels": 256,
                "num_proposals": 300,
                "num_samples": 64,
                "encoder_args": NARROW_HLG,
            },
        ),
        data=DetectionDataConfig(
            name="coco",
            args={"masks": True},
            batch_size=4,
            short_sides=(224, 256, 288),
            long_side=480,
            photometric=True,
        ),
        optim=FROM_SCRATCH,
        train=TrainConfig(num_steps=1200, val_every_steps=300, log_every_steps=10),
        eval=DetectionConfig(short_side=256, long_side=480),
    )


def coco_overfit() -> DetectionExperiment:
    """Ten pictures of COCO learned by heart, a check of the whole path: AP50 of the boxes above 90 % on them."""
    return DetectionExperiment(
        model=ModelConfig(
            name="retinanet_hlg_mobile", args={"channels": 64, "anchor_scale": 2.0, "encoder_args": NARROW_HLG}
        ),
        data=DetectionDataConfig(
            name="coco",
            args={"num_images": 10},
            val_split="train",
            batch_size=5,
            short_sides=(256,),
            long_side=416,
            flip=0.0,
        ),
        optim=replace(FROM_SCRATCH, weight_decay=0.0),
        train=TrainConfig(num_steps=600, val_every_steps=150, log_every_steps=10),
        eval=DetectionConfig(short_side=256, long_side=416),
    )


DETECTION_RECIPES: dict[str, Callable[[], DetectionExperiment]] = {
    "scenes_detection": scenes_detection,
    "pennfudan": pennfudan,
    "coco_overfit": coco_overfit,
}
