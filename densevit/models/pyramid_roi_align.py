"""Features of regions: each box is read from the pyramid level that suits its size.

Shapes: R boxes over all images, C channels, S output side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper


class PyramidRoIAlign(nn.Module):
    """Maps at `strides` and boxes of each image (XYXY, pixels of the batch) -> (R, C, S, S) float32.

    The level is that of the FPN paper (Lin et al., 2017, Eq. 1: a box of 224 pixels at stride 16). Unlike torchvision's
    `MultiScaleRoIAlign`, strides are given rather than guessed from the first batch, as many samples are taken
    as a box has pixels (`sampling_ratio` 0), and pixel centres are aligned, as in the authors' framework.
    """

    def __init__(self, size: int, *, strides: Sequence[int]):
        super().__init__()
        self.size, self.strides = size, tuple(strides)
        self.level_of = LevelMapper(strides[0].bit_length() - 1, strides[-1].bit_length() - 1)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """`maps` may go on beyond `strides`; those levels are not used."""
        all_boxes = torch.cat(list(boxes))
        image = torch.cat([box.new_full((len(box), 1), i) for i, box in enumerate(boxes)])
        rois, levels = torch.cat([image, all_boxes], dim=1), self.level_of([all_boxes])
        places, found = [], []
        for level, stride in enumerate(self.strides):
            places.append(torch.where(levels == level)[0])
            x = maps[level].float()
            found.append(
                roi_align(x, rois[places[-1]], self.size, spatial_scale=1 / stride, sampling_ratio=0, aligned=True)
            )
        return torch.cat(found)[torch.cat(places).argsort()]
