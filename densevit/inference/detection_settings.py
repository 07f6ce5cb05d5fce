"""How objects are detected outside training. Nothing heavy is imported here: the command line reads these fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from densevit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """The size at which an image is looked at, and which of the boxes found there are kept (Sec. 4.4)."""

    short_side: int = 800
    """The image's short side is brought to this many pixels, proportions kept ..."""
    long_side: int = 1333
    """... unless its long side would exceed this."""
    score_threshold: float = 0.05
    """Boxes below this score are dropped."""
    nms_threshold: float = 0.5
    """Of two boxes of one class whose IoU is above this, the one with the lower score is dropped."""
    max_detections: int = 100
    """Boxes kept per image, the highest scores first."""
    mask_threshold: float = 0.5
    """Pixels whose probability is above this belong to an object's mask."""

    def __post_init__(self) -> None:
        for name in ("short_side", "long_side", "max_detections"):
            if getattr(self, name) < 1:
                raise UserError(f"eval.{name} must be at least 1, not {getattr(self, name)}")
        if self.long_side < self.short_side:
            raise UserError(f"eval.long_side {self.long_side} must not be below eval.short_side {self.short_side}")
        for name in ("score_threshold", "nms_threshold", "mask_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"eval.{name} must be in [0, 1], not {getattr(self, name)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DetectionConfig":
        """From plain JSON values."""
        return cls(**values)

    @property
    def thresholds(self) -> dict[str, Any]:
        """What the model itself applies: `detector.set_thresholds(**config.thresholds)`."""
        names = ("score_threshold", "nms_threshold", "max_detections", "mask_threshold")
        return {name: getattr(self, name) for name in names}
