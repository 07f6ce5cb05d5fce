"""Encoder + neck + decoder (+ auxiliary heads) -> logits: the one class users of segmentation hold.

Shapes: B batch, K classes, H W image height and width in pixels (any), P Q the padded sides.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from densevit.errors import UserError
from densevit.models.layers import resize


class Segmenter(nn.Module):
    """Images (B, in_channels, H, W) -> logits (B, K, H, W), for any H x W.

    Images whose sides are no multiples of `size_multiple` (the patch, or the deepest stride) are padded with zeros on
    the right and below; logits are upsampled to the padded size and cropped, so labels stay registered to the pixel.
    The neck maps the encoder's list of maps to the list that `decoder` and `auxiliary_heads` read.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        num_classes: int,
        in_channels: int = 3,
        size_multiple: tuple[int, int],
        neck: nn.Module | None = None,
        auxiliary_heads: Sequence[nn.Module] = (),
    ):
        super().__init__()
        self.encoder = encoder
        self.neck = neck or nn.Identity()
        self.decoder = decoder
        self.auxiliary_heads = nn.ModuleList(auxiliary_heads)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.size_multiple = size_multiple

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) of the main decoder."""
        logits = self.decoder(self.features(images))
        return self.to_image(logits, images)

    def forward_all(self, images: Tensor) -> list[Tensor]:
        """Logits (B, K, H, W) of the main decoder and of each auxiliary head after it, for training."""
        maps = self.features(images)
        return [self.to_image(head(maps), images) for head in (self.decoder, *self.auxiliary_heads)]

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """The maps (strides depend on the encoder) that the decoder reads."""
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise UserError(
                f"images must be (B, {self.in_channels}, H, W), not {tuple(images.shape)}; "
                "the model's in_channels (model.args.in_channels) and the data's channels must agree"
            )
        (H, W), (P, Q) = images.shape[-2:], self.padded_size(images)
        if (P, Q) != (H, W):
            images = F.pad(images, (0, Q - W, 0, P - H))
        return self.neck(self.encoder(images))

    def padded_size(self, images: Tensor) -> tuple[int, int]:
        """Sides (P, Q) of the images rounded up to `size_multiple`."""
        (H, W), (a, b) = images.shape[-2:], self.size_multiple
        return -(-H // a) * a, -(-W // b) * b

    def to_image(self, logits: Tensor, images: Tensor) -> Tensor:
        """Low-resolution logits (B, K, h, w) of the padded images -> (B, K, H, W)."""
        H, W = images.shape[-2:]
        return resize(logits, self.padded_size(images))[..., :H, :W]
