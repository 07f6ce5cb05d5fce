"""FCN heads (Long et al., 2015) in mmsegmentation's form: 3x3 convolutions on one map, then the classifier.

On the last map of a dilated ResNet (output stride 8) it is the baseline of the paper's Tables 4, 5 and 6; with one
narrower convolution on stage 3 it is the auxiliary head of every decoder on a pyramid.
Shapes: B batch, C_i h_i w_i channels and sides of the encoder's map i, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from densevit.errors import UserError
from densevit.models.layers import NormName, conv_norm_relu


class FCNHead(nn.Module):
    """Map `in_index` of (B, C_i, h_i, w_i) -> logits (B, K, h, w) at that map's size.

    With `concat_input` a further 3x3 convolution reads the map beside what the convolutions made of it.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        in_index: int = -1,
        channels: int = 512,
        num_convs: int = 2,
        concat_input: bool = True,
        norm: NormName = "batch",
        dropout: float = 0.1,
    ):
        super().__init__()
        if num_convs < 1:
            raise UserError(f"num_convs must be at least 1, not {num_convs}")
        self.in_index = in_index
        width = in_channels[in_index]
        widths = [width] + [channels] * num_convs
        self.convs = nn.Sequential(*(conv_norm_relu(a, b, kernel_size=3, norm=norm) for a, b in pairwise(widths)))
        self.merge = conv_norm_relu(width + channels, channels, kernel_size=3, norm=norm) if concat_input else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = maps[self.in_index]
        out = self.convs(x)
        if self.merge is not None:
            out = self.merge(torch.cat([x, out], dim=1))
        return self.classifier(self.dropout(out))
