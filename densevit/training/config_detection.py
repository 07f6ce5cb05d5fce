"""The numbers of a detection experiment, as `config` has them for segmentation."""

from dataclasses import dataclass, field
from typing import Literal

from densevit.inference.detection_settings import DetectionConfig
from densevit.training.config import ModelConfig, OptimConfig, TrainConfig
from densevit.training.config_detection_data import DetectionDataConfig

TWELVE_EPOCHS = (8 / 12, 11 / 12)
"""Milestones of the usual short schedule: after 8 and after 11 of 12 epochs."""


@dataclass(frozen=True, kw_only=True)
class DetectionExperiment:
    """A detection experiment, of boxes or of boxes and masks: everything that `densevit fit` needs."""

    task: Literal["detection"] = "detection"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="mask_rcnn_hlg_tiny"))
    data: DetectionDataConfig = field(default_factory=DetectionDataConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            optimizer="adamw",
            lr=1e-4,
            head_lr_mult=1.0,
            weight_decay=1e-4,
            decay_biases=True,
            schedule="step",
            milestones=TWELVE_EPOCHS,
            warmup_steps=500,
            warmup_ratio=1e-3,
        )
    )
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: DetectionConfig = field(default_factory=DetectionConfig)
