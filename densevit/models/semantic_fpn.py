"""Semantic FPN (Kirillov et al., 2019): a top-down pyramid, every level brought to stride 4, summed, classified.

Shapes: B batch, C_i h_i w_i channels and sides of the encoder's map i (fine to coarse), K classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from densevit.models.layers import NormName, conv_norm_relu, resize, scale_up


class SemanticFPNDecoder(nn.Module):
    """Maps (B, C_i, h_i, w_i) at strides 4, 8, 16, 32 -> logits (B, K, h_0, w_0)."""

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        branch_channels: int = 128,
        norm: NormName = "batch",
        dropout: float = 0.1,
    ):
        """`channels` of the pyramid, `branch_channels` of the branches that are summed."""
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(in_channels), channels)
        self.branches = nn.ModuleList(
            nn.ModuleList(
                conv_norm_relu(channels if step == 0 else branch_channels, branch_channels, kernel_size=3, norm=norm)
                for step in range(max(1, level))
            )
            for level in range(len(in_channels))
        )
        """Level i: one 3x3 convolution per doubling of its side, at least one."""
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(branch_channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = list(self.fpn({str(i): x for i, x in enumerate(maps)}).values())
        total = self.branches[0][0](levels[0])  # type: ignore[index]
        for x, branch in zip(levels[1:], list(self.branches)[1:], strict=True):
            for conv in branch:  # type: ignore[attr-defined]
                x = scale_up(conv(x), 2)
            total = total + resize(x, (total.shape[2], total.shape[3]))
        return self.classifier(self.dropout(total))
