"""The images of a detection experiment and how they are augmented; defaults are the paper's (HLG, section 4.4)."""

from dataclasses import dataclass, field
from typing import Any

from densevit.training.config import require


@dataclass(frozen=True, kw_only=True)
class DetectionDataConfig:
    """Which images, and how they are augmented."""

    name: str = "coco"
    """A data set with objects: coco, yolo, scenes_detection."""
    root: str | None = None
    """Its folder, where it is made of files."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the data set, such as {masks: true} for a model with masks."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to validate on."""
    batch_size: int = 16
    """Images in one forward pass, over all devices together."""
    num_workers: int = 2
    """Processes that load images, per device; 0 loads in the main process."""
    short_sides: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    """The short side of a training image becomes one of these, proportions kept ..."""
    long_side: int = 1333
    """... unless its long side would exceed this."""
    jitter: tuple[float, float] | None = None
    """Large-scale jitter instead: fit into jitter_size times a factor from this range, such as [0.1,2]; None: off."""
    jitter_size: tuple[int, int] = (1024, 1024)
    """Height and width that a jittered image fits into at factor 1, and to which it is cropped."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = False
    """Random brightness, contrast, saturation and hue."""
    keep_empty: bool = True
    """Train on images without objects too; false leaves them out, as the paper's code does."""
    max_objects: int | None = 500
    """Objects of one training image; of more so many are drawn at random, to bound memory; None: all."""
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    """Per-channel mean that is subtracted, RGB."""
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    """Per-channel standard deviation that is divided by, RGB."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"data.batch_size must be at least 1, not {self.batch_size}")
        require(self.num_workers >= 0, f"data.num_workers cannot be negative ({self.num_workers})")
        require(
            min(self.short_sides, default=0) >= 1 and max(self.short_sides) <= self.long_side,
            f"data.short_sides must be positive and at most data.long_side {self.long_side}, not {self.short_sides}",
        )
        if self.jitter is not None:
            low, high = self.jitter
            require(0 < low <= high, f"data.jitter must be 0 < low <= high or null, not {self.jitter}")
        require(min(self.jitter_size) >= 1, f"data.jitter_size must be positive, not {self.jitter_size}")
        require(0 <= self.flip <= 1, f"data.flip is a probability, not {self.flip}")
        most = self.max_objects
        require(most is None or most >= 1, f"data.max_objects must be at least 1 or null, not {most}")
        require(min(self.std, default=0) > 0, f"data.std must be above 0, not {self.std}")
        require(len(self.mean) == len(self.std), "data.mean and data.std must have one number per channel each")
