"""How an image is segmented outside training. Nothing heavy is imported here: the command line reads these fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from densevit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Whole image, or overlapping windows whose logits are averaged; at one scale or several (Sec. 4.1)."""

    mode: Literal["whole", "slide"] = "whole"
    """Whole image at once, or sliding window."""
    resize: tuple[int, int] | None = None
    """Long and short side that the image is brought to first, proportions kept; None: its own size."""
    antialias: bool = False
    """Smooth when `resize` shrinks an image, for photographs of many megapixels; the paper's code does not."""
    crop_size: tuple[int, int] = (512, 512)
    """Height and width of a window."""
    stride: tuple[int, int] = (341, 341)
    """Steps between windows, down and across; the paper uses two thirds of the window."""
    window_batch: int = 4
    """Windows that go through the model together."""
    scales: tuple[float, ...] = (1.0,)
    """Scales whose probabilities are averaged; the paper's are 0.5, 0.75, 1, 1.25, 1.5, 1.75."""
    flip: bool = False
    """Average with the mirrored image."""

    def __post_init__(self) -> None:
        if self.mode not in ("whole", "slide"):
            raise UserError(f"eval.mode must be 'whole' or 'slide', not {self.mode!r}")
        if self.resize is not None and min(self.resize) < 1:
            raise UserError(f"eval.resize must have sides of at least 1 pixel, not {self.resize}")
        if min(self.crop_size) < 1:
            raise UserError(f"eval.crop_size must have sides of at least 1 pixel, not {self.crop_size}")
        if not all(1 <= step <= side for step, side in zip(self.stride, self.crop_size, strict=True)):
            raise UserError(f"eval.stride {self.stride} leaves gaps between windows of {self.crop_size}")
        if self.window_batch < 1:
            raise UserError(f"eval.window_batch must be at least 1, not {self.window_batch}")
        if not self.scales or not all(0.05 <= scale <= 10 for scale in self.scales):
            raise UserError(f"eval.scales must be numbers in [0.05, 10], not {self.scales}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InferenceConfig":
        """From plain JSON values, whose lists become tuples."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    @property
    def averages(self) -> bool:
        """Whether several forward passes are averaged as probabilities."""
        return self.flip or self.scales != (1.0,)
