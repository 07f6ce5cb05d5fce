"""One image to class scores or labels by the settings of an experiment. Shapes: B images, K classes, H W pixels.

Knows no model: `forward` is any callable images (B, C, h, w) -> logits (B, K, h, w). Images are normalised already.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from densevit.inference.labels import labels_from_logits
from densevit.inference.resize import Size, keep_ratio_size, resize_bilinear, shrink_smoothly
from densevit.inference.settings import InferenceConfig
from densevit.inference.sliding import slide
from densevit.inference.tta import multi_scale_probabilities, multi_scale_sizes

Forward = Callable[[Tensor], Tensor]


@torch.no_grad()
def segment_labels(
    forward: Forward, images: Tensor, *, num_classes: int, config: InferenceConfig, size: Size | None = None
) -> Tensor:
    """Labels of each pixel: (B, C, h, w) -> (B, H, W) int64; `size` (H, W) is that of the images when None."""
    scores = _scores(forward, images, num_classes=num_classes, config=config)
    return labels_from_logits(scores, size=size or _size(images))


@torch.no_grad()
def segment_probabilities(
    forward: Forward, images: Tensor, *, num_classes: int, config: InferenceConfig, size: Size | None = None
) -> Tensor:
    """Class probabilities of each pixel: (B, C, h, w) -> (B, K, H, W) float32, summing to 1 over K."""
    scores = _scores(forward, images, num_classes=num_classes, config=config)
    scores = resize_bilinear(scores.float(), size=size or _size(images))
    return scores if config.averages else scores.softmax(dim=1)


def _scores(forward: Forward, images: Tensor, *, num_classes: int, config: InferenceConfig) -> Tensor:
    """Logits, or probabilities where several passes are averaged, at the size the network saw or the image's own."""

    def once(x: Tensor) -> Tensor:
        if config.mode == "whole":
            return forward(x)
        return slide(
            forward,
            x,
            num_classes=num_classes,
            crop_size=config.crop_size,
            stride=config.stride,
            window_batch=config.window_batch,
        )

    if config.resize and config.antialias:
        target = keep_ratio_size(_size(images), long=max(config.resize), short=min(config.resize))
        images = shrink_smoothly(images, size=target)
    size = _size(images)
    base = config.resize or (max(size), min(size))
    if config.averages:
        window = config.crop_size if config.mode == "slide" else None
        sizes = multi_scale_sizes(size, base=base, ratios=config.scales, crop_size=window)
        return multi_scale_probabilities(once, images, sizes=sizes, flip=config.flip)
    return once(resize_bilinear(images, size=keep_ratio_size(size, long=max(base), short=min(base))))


def _size(images: Tensor) -> Size:
    return images.shape[-2], images.shape[-1]
