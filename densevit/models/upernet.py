"""UperNet (Xiao et al., 2018): pyramid pooling on the coarsest map, a top-down pyramid, all levels fused at stride 4.

In mmsegmentation's form, which the rows with Swin of the paper's Table 5 have. Shapes: B batch, C_i h_i w_i channels
and sides of the encoder's map i (fine to coarse), D decoder channels (512), K classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densevit.errors import UserError, check_whole_numbers
from densevit.models.layers import NormName, conv_norm_relu, resize


class PyramidPooling(nn.Module):
    """(B, C, h, w) -> (B, D, h, w): the map beside its means over 1, 2 x 2, 3 x 3 and 6 x 6 regions, fused by a 3x3.

    From PSPNet (Zhao et al., 2017).
    """

    def __init__(self, in_channels: int, channels: int, *, bins: Sequence[int], norm: NormName):
        super().__init__()
        self.bins = tuple(bins)
        self.reduce = nn.ModuleList(conv_norm_relu(in_channels, channels, kernel_size=1, norm=norm) for _ in self.bins)
        self.fuse = conv_norm_relu(in_channels + len(self.bins) * channels, channels, kernel_size=3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1 and 1 in self.bins and any(type(m) is nn.BatchNorm2d for m in self.modules()):
            raise UserError(
                "UperNet pools each image to a single value, and batch norm cannot train on one: "
                "use data.batch_size of at least 2 on each device, or model.args.norm=group"
            )
        size = (x.shape[2], x.shape[3])
        pooled = [
            resize(reduce(F.adaptive_avg_pool2d(x, bins)), size)
            for bins, reduce in zip(self.bins, self.reduce, strict=True)
        ]
        return self.fuse(torch.cat([x, *pooled], dim=1))


class UperNetDecoder(nn.Module):
    """Maps (B, C_i, h_i, w_i) at strides 4, 8, 16, 32 -> logits (B, K, h_0, w_0)."""

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        norm: NormName = "batch",
        dropout: float = 0.1,
    ):
        """`bins` are the sides of the pooled maps."""
        super().__init__()
        if isinstance(bins, str) or not isinstance(bins, Sequence) or not bins:
            raise UserError(f"bins must be the sides of the pooled maps, such as [1, 2, 3, 6], not {bins!r}")
        check_whole_numbers(**{f"bins[{i}]": side for i, side in enumerate(bins)})
        *finer, coarsest = in_channels
        self.pooling = PyramidPooling(coarsest, channels, bins=bins, norm=norm)
        self.laterals = nn.ModuleList(conv_norm_relu(width, channels, kernel_size=1, norm=norm) for width in finer)
        self.smooth = nn.ModuleList(conv_norm_relu(channels, channels, kernel_size=3, norm=norm) for _ in finer)
        self.fuse = conv_norm_relu(len(in_channels) * channels, channels, kernel_size=3, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, coarsest = maps
        levels = [lateral(x) for lateral, x in zip(self.laterals, finer, strict=True)] + [self.pooling(coarsest)]
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + resize(levels[i + 1], (levels[i].shape[2], levels[i].shape[3]))
        smooth = [conv(x) for conv, x in zip(self.smooth, levels[:-1], strict=True)] + levels[-1:]
        size = (smooth[0].shape[2], smooth[0].shape[3])
        fused = self.fuse(torch.cat([resize(x, size) for x in smooth], dim=1))
        return self.classifier(self.dropout(fused))
