"""Anchors of a pyramid: boxes of fixed sizes and shapes around every cell of every level.

Shapes: B images, N anchors (all levels, level by level, row by row), boxes XYXY in pixels of the padded batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from densevit.errors import UserError, check_positive_numbers

RATIOS = (0.5, 1.0, 2.0)
"""Height / width of the anchors of one size."""


class PyramidAnchors(AnchorGenerator):
    """torchvision's anchors, with sizes in multiples of each level's stride.

    Unlike there, sides are not rounded to whole pixels, cells lie `stride` apart even where the padded image is no
    multiple of it (P6 and P7), and anchors are float32 whatever the precision of the maps.
    """

    def __init__(self, *, strides: Sequence[int], scales: Sequence[float], ratios: Sequence[float] = RATIOS):
        if not isinstance(ratios, Sequence) or not ratios:
            raise UserError(f"anchor_ratios must be a list of numbers, height / width, not {ratios!r}")
        for ratio in ratios:
            check_positive_numbers(anchor_ratios=ratio)
        sizes = tuple(tuple(stride * scale for scale in scales) for stride in strides)
        super().__init__(sizes, (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (torchvision's signature)
    ) -> Tensor:
        """(R * S, 4) boxes around the origin, every ratio (height / width) at every scale (root of the area)."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths, heights = (sides / roots[:, None]).flatten(), (sides * roots[:, None]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """One (N, 4) for each image."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        sizes = [list(x.shape[-2:]) for x in feature_maps]
        steps = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors(sizes, steps))
        return [anchors] * len(image_list.image_sizes)
