"""The detectors by name: a kind (`retinanet`, `mask_rcnn`) on a pyramid encoder."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from densevit.models.mask_rcnn import create_mask_rcnn
from densevit.models.pyramid import PYRAMIDS, is_pyramid
from densevit.models.retinanet import create_retinanet

DETECTOR_KINDS: dict[str, Callable[..., nn.Module]] = {"retinanet": create_retinanet, "mask_rcnn": create_mask_rcnn}


def detector_builder(kind: str, encoder: str) -> Callable[..., nn.Module]:
    """What `create_model` calls for `kind`_`encoder`."""
    create = DETECTOR_KINDS[kind]

    def build(**kwargs: Any) -> nn.Module:
        return create(encoder, **kwargs)

    build.__signature__ = inspect.signature(create)  # type: ignore[attr-defined]
    return build


DETECTORS: dict[str, Callable[..., nn.Module]] = {
    f"{kind}_{encoder}": detector_builder(kind, encoder) for kind in DETECTOR_KINDS for encoder in PYRAMIDS
}


def find_detector(name: str) -> Callable[..., nn.Module] | None:
    """The builder of a name such as "retinanet_pvt_v2_b2", for any pyramid of timm; None if it is no detector's."""
    for kind in DETECTOR_KINDS:
        encoder = name.removeprefix(f"{kind}_")
        if encoder != name and is_pyramid(encoder):
            return detector_builder(kind, encoder)
    return None
