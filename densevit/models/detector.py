"""Encoder + feature pyramid + heads -> boxes (and masks): the one class users of detection hold.

Shapes: B images of sizes (H_i, W_i), P Q the sides of the padded batch, N objects of an image. Boxes are XYXY.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork

from densevit.errors import UserError
from densevit.models.pyramid import PyramidEncoder

Target = Mapping[str, Tensor]
Detections = dict[str, Tensor]
Size = tuple[int, int]

SIZE_MULTIPLE = 32
"""The sides of a batch are padded to multiples of the deepest stride of the encoder."""


class Detector(nn.Module):
    """Normalised images of any sizes -> losses in training, else objects. What is common to all kinds of detectors.

    Images are only padded, with zeros on the right and below, and put into one batch; resizing and normalising are the
    data's business. Labels are 0 .. K-1; a background class, where a head has one, is its own affair.
    """

    with_masks: bool
    """Whether objects have masks."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    mask_threshold: float = 0.5

    def __init__(self, encoder: PyramidEncoder, fpn: FeaturePyramidNetwork, *, num_classes: int, in_channels: int):
        super().__init__()
        self.encoder, self.fpn = encoder, fpn
        self.num_classes, self.in_channels = num_classes, in_channels

    @abstractmethod
    def losses(self, batch: ImageList, maps: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named loss terms (scalars), whose sum is minimised."""

    @abstractmethod
    def detect(self, batch: ImageList, maps: Sequence[Tensor]) -> list[Detections]:
        """Objects of each image, best first: "boxes" in its pixels, "scores", "labels"; "masks" (n, 1, S, S) in boxes.

        The masks are probabilities, laid over the image later.
        """

    def forward(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[Target] | None = None,
        *,
        sizes: Sequence[Size] | None = None,
    ) -> Any:
        """With `targets` (training mode): named losses. Without (eval mode): a list of one dict for each image.

        `targets` have "boxes" (N, 4) in pixels of the given image, "labels" (N,) and, for masks, "masks" (N, H, W).
        The dicts have "boxes" (n, 4), "scores" (n,), "labels" (n,) int64, best first, and "masks" bool (n, H, W), all
        in pixels of the given image, or scaled to `sizes` (H, W), such as those of the stored images.
        """
        if self.training != (targets is not None):
            raise UserError(
                "a detector in training mode needs targets; call model.eval() to detect objects"
                if self.training
                else "a detector gives losses only in training mode; call model.train() first"
            )
        batch = self.batch(images)
        maps = self.features(batch.tensors)
        if targets is not None:
            return self.losses(batch, maps, self._checked(targets, batch))
        sizes = batch.image_sizes if sizes is None else sizes
        found = self.detect(batch, maps)
        return [self._placed(each, old, new) for each, old, new in zip(found, batch.image_sizes, sizes, strict=True)]

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, C, P, Q) -> the pyramid's maps, fine to coarse, all with the same channels."""
        maps = self.encoder(images)
        return list(self.fpn({str(level): x for level, x in enumerate(maps)}).values())

    def batch(self, images: Sequence[Tensor] | Tensor) -> ImageList:
        """Images (C, H_i, W_i) as one tensor (B, C, P, Q), and their own sizes."""
        for image in images:
            if image.ndim != 3 or image.shape[0] != self.in_channels:
                raise UserError(
                    f"images must be ({self.in_channels}, H, W), not {tuple(image.shape)}; "
                    "the model's in_channels (model.args.in_channels) and the data's channels must agree"
                )
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        P, Q = (-(-max(sides) // SIZE_MULTIPLE) * SIZE_MULTIPLE for sides in zip(*sizes, strict=True))
        padded = [F.pad(image, (0, Q - W, 0, P - H)) for image, (H, W) in zip(images, sizes, strict=True)]
        return ImageList(torch.stack(padded), sizes)

    def set_thresholds(
        self, *, score_threshold: float, nms_threshold: float, max_detections: int, mask_threshold: float
    ) -> None:
        """Which boxes count as found, and which pixels as part of them (`DetectionConfig.thresholds`)."""
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections, self.mask_threshold = max_detections, mask_threshold

    def _checked(self, targets: Sequence[Target], batch: ImageList) -> list[dict[str, Tensor]]:
        """Targets as plain tensors of the types that the heads need; UserError for what cannot be learned."""
        checked = []
        for target, size in zip(targets, batch.image_sizes, strict=True):
            boxes, labels = target["boxes"].as_subclass(Tensor).float().reshape(-1, 4), target["labels"]
            flat = boxes[(boxes[:, 2:] <= boxes[:, :2]).any(dim=1)]
            if len(flat):
                raise UserError(f"box {flat[0].tolist()} has no area; drop such objects from the targets")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                raise UserError(f"labels must be 0 .. {self.num_classes - 1}, not {sorted(set(labels.tolist()))}")
            new = {"boxes": boxes, "labels": labels}
            if self.with_masks:
                if "masks" not in target:
                    raise UserError("the model learns masks, but the targets have none; use a retinanet_ model")
                new["masks"] = target["masks"].as_subclass(Tensor)
                if tuple(new["masks"].shape) != (len(boxes), *size):
                    raise UserError(f"masks must be ({len(boxes)}, {size[0]}, {size[1]}), not {new['masks'].shape}")
            checked.append(new)
        return checked

    def _placed(self, found: Detections, old: Size, new: Size) -> Detections:
        """Boxes scaled from size `old` to `new`, masks laid over an image of that size."""
        boxes = found["boxes"]
        scale = boxes.new_tensor([new[1] / old[1], new[0] / old[0]] * 2)
        placed = found | {"boxes": boxes * scale}
        if self.with_masks:
            placed["masks"] = paste_masks(found["masks"], placed["boxes"], size=new, threshold=self.mask_threshold)
        return placed


def paste_masks(probs: Tensor, boxes: Tensor, *, size: Size, threshold: float) -> Tensor:
    """Masks (n, 1, S, S) in boxes (n, 4) -> bool (n, H, W) where the probability is above `threshold`.

    Read at the centre of every pixel whose centre is in the box. (torchvision's `paste_masks_in_image` first rounds the
    box to whole pixels, and holds all masks as numbers, which of a large image are gigabytes.)
    """
    masks = torch.zeros((len(boxes), *size), dtype=torch.bool, device=boxes.device)
    for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
        rows, y = _centres(top, bottom, size[0], boxes)
        columns, x = _centres(left, right, size[1], boxes)
        if len(y) and len(x):
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]  # (1, h, w, 2)
            inside = F.grid_sample(probs[i][None], grid, padding_mode="border", align_corners=False)
            masks[i, rows, columns] = inside[0, 0] > threshold
    return masks


def _centres(low: float, high: float, length: int, like: Tensor) -> tuple[slice, Tensor]:
    """The pixels 0 .. length - 1 with a centre in [low, high], and their places in it from -1 to 1."""
    first, stop = max(ceil(low - 0.5), 0), min(floor(high - 0.5) + 1, length)
    centres = torch.arange(first, max(stop, first), device=like.device, dtype=like.dtype) + 0.5
    return slice(first, stop), (centres - low) / max(high - low, 1e-6) * 2 - 1
