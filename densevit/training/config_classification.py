"""The numbers of a classification experiment, as `config` has them for segmentation."""

from dataclasses import dataclass, field
from typing import Any, Literal

from densevit.training.config import ModelConfig, OptimConfig, TrainConfig, require


@dataclass(frozen=True, kw_only=True)
class ClassificationDataConfig:
    """Which images, and how they are augmented."""

    name: str = "image_folder"
    """A data set: image_folder, imagenet, imagenet_v2, cifar10, shards ..."""
    root: str | None = None
    """Its folder, where it is made of files."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the data set."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to validate on."""
    batch_size: int = 128
    """Images in one forward pass, over all devices together."""
    num_workers: int = 2
    """Processes that load images, per device; 0 loads in the main process."""
    shuffle_buffer: int = 1000
    """Samples of tar shards that wait in each worker, still encoded, to be drawn at random."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width in training and evaluation."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a training crop covers."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of a training crop before it is resized."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's name of a RandAugment, AutoAugment, AugMix ... policy; None: none."""
    color_jitter: float = 0.4
    """Strength of colour jitter where there is no auto_augment."""
    erase: float = 0.25
    """Probability that a rectangle is replaced by noise."""
    mixup: float = 0.8
    """Alpha of mixup (Zhang et al., 2018): a batch is blended with its reverse; 0 turns it off."""
    cutmix: float = 1.0
    """Alpha of CutMix (Yun et al., 2019): a rectangle comes from the reversed batch; 0 turns it off."""
    mix_prob: float = 1.0
    """Probability that a batch is mixed at all."""
    cutmix_share: float = 0.5
    """Share of mixed batches with CutMix rather than mixup, where both are on."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How images are resized, in training and evaluation."""
    crop_pct: float = 0.875
    """Evaluation: the short side becomes image_size / crop_pct, then the middle is cropped."""
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    """Per-channel mean that is subtracted, RGB."""
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    """Per-channel standard deviation that is divided by, RGB."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"data.batch_size must be at least 1, not {self.batch_size}")
        require(self.num_workers >= 0, f"data.num_workers cannot be negative ({self.num_workers})")
        require(self.shuffle_buffer >= 1, f"data.shuffle_buffer must be at least 1, not {self.shuffle_buffer}")
        require(min(self.image_size) >= 1, f"data.image_size must be positive, not {self.image_size}")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            require(0 < low <= high, f"data.{name} must be 0 < low <= high, not {(low, high)}")
        require(self.scale[1] <= 1, f"data.scale cannot be above the whole image, 1, not {self.scale}")
        for name in ("flip", "erase", "mix_prob", "cutmix_share"):
            require(0 <= getattr(self, name) <= 1, f"data.{name} is a probability, not {getattr(self, name)}")
        for name in ("color_jitter", "mixup", "cutmix"):
            require(getattr(self, name) >= 0, f"data.{name} cannot be negative ({getattr(self, name)})")
        require(0 < self.crop_pct <= 1, f"data.crop_pct must be in (0, 1], not {self.crop_pct}")
        require(min(self.std, default=0) > 0, f"data.std must be above 0, not {self.std}")
        require(
            len(self.mean) == len(self.std) == 3,
            f"data.mean {self.mean} and data.std {self.std} must have three numbers each",
        )

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0)


@dataclass(frozen=True, kw_only=True)
class ClassificationLossConfig:
    """Cross entropy."""

    label_smoothing: float = 0.1
    """Share of the target spread over all classes."""

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, f"loss.label_smoothing must be in [0, 1), not {self.label_smoothing}")


@dataclass(frozen=True, kw_only=True)
class ClassificationExperiment:
    """An image classification experiment: everything that `densevit fit` needs."""

    task: Literal["classification"] = "classification"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="hlg_tiny"))
    data: ClassificationDataConfig = field(default_factory=ClassificationDataConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(optimizer="adamw", lr=1e-3, weight_decay=0.05))
    loss: ClassificationLossConfig = field(default_factory=ClassificationLossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
