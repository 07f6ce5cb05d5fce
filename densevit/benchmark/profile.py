"""What a model costs: parameters, multiply-accumulates, and optionally latency and peak memory.

Counting runs on shapes alone (PyTorch's meta device), so it needs the memory of neither the weights nor a forward.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from densevit.benchmark.measure import Measurement, measure_forward
from densevit.inference.resize import Size
from densevit.models.detector import Detector
from densevit.models.mask_rcnn import MaskRCNN
from densevit.models.retinanet import RetinaNet
from densevit.models.roi_heads import BOX_SIZE, MASK_SIZE
from densevit.models.trial import try_images


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The cost of one model at one image size. Counts are plain numbers, not millions."""

    image_size: Size
    """(H, W) of the images, in pixels."""
    params: int
    """Parameters used at inference: auxiliary heads left out."""
    params_with_auxiliary: int
    """All parameters, as trained."""
    macs: int
    """Multiply-accumulates of one image at inference: matrix products and convolutions, attention's included."""
    measurement: Measurement | None = None
    """Latency and memory of a real forward; None if it was only counted."""

    def to_dict(self) -> dict[str, Any]:
        """Flat and ready for JSON; without a measurement its keys are there with None."""
        counts = {key: value for key, value in asdict(self).items() if key != "measurement"}
        measured: Mapping[str, Any] = asdict(self.measurement) if self.measurement else {}
        return counts | {name: measured.get(name) for name in Measurement.__dataclass_fields__}


def profile_model(
    model: nn.Module,
    *,
    image_size: Size,
    in_channels: int = 3,
    batch_size: int = 1,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    repeats: int = 5,
    measure: bool = True,
) -> Profile:
    """Count, and with `measure` also run, a model on images (B, in_channels, H, W).

    Works on copies in eval mode; the model itself is left as it is, but for being moved to `device` and set to eval
    when it is measured. `batch_size`, `dtype` (by autocast) and `repeats` concern the measurement only.
    """
    params, params_with_auxiliary = count_parameters(model)
    macs = count_macs(model, image_size=image_size, in_channels=in_channels)
    measurement = None
    if measure:
        measurement = measure_forward(
            model,
            input_shape=(batch_size, in_channels, *image_size),
            device=device or torch.device("cpu"),
            dtype=dtype,
            repeats=repeats,
        )
    return Profile(
        image_size=image_size,
        params=params,
        params_with_auxiliary=params_with_auxiliary,
        macs=macs,
        measurement=measurement,
    )


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(parameters without those under `auxiliary_heads`, all parameters)."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    auxiliary = sum(size for name, size in sizes.items() if "auxiliary_heads" in name.split("."))
    return sum(sizes.values()) - auxiliary, sum(sizes.values())


def count_macs(model: nn.Module, *, image_size: Size, in_channels: int = 3) -> int:
    """Multiply-accumulates of `model` on one image (H, W) in eval mode, half of PyTorch's count of operations.

    Attention is counted as plain matrix products; interpolation, softmax, norms and activations are not counted. Of a
    Mask R-CNN the heads count for all its proposals (1000) and detections (100), as is usual; fewer may be found.
    """
    shadow = meta_copy(model).eval()
    counter = FlopCounterMode(display=False)
    images = torch.empty(1, in_channels, *image_size, device="meta")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        if isinstance(shadow, Detector):
            _run_layers(shadow, images)
        else:
            try_images(shadow, images, name="the model")
    return int(counter.get_total_flops()) // 2


def _run_layers(detector: Detector, images: Tensor) -> None:
    """Every layer of a detector once, without the choices between them, which depend on values."""
    maps = detector.features(detector.batch(images).tensors)
    if isinstance(detector, RetinaNet):
        detector.heads(maps)
    elif isinstance(detector, MaskRCNN):
        detector.rpn.head(maps)
        heads, channels = detector.roi_heads, maps[0].shape[1]
        proposals = maps[0].new_empty(detector.rpn.post_nms_top_n(), channels, BOX_SIZE, BOX_SIZE)
        heads.box_predictor(heads.box_head(proposals))
        found = maps[0].new_empty(detector.max_detections, channels, MASK_SIZE, MASK_SIZE)
        heads.mask_predictor(heads.mask_head(found))
    else:
        raise ValueError(f"the layers of a {type(detector).__name__} cannot be counted; add it here")


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` that knows the shapes of its tensors but holds no data."""
    known: dict[int, Any] = {}
    for parameter in model.parameters():
        known[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        known[id(buffer)] = torch.empty_like(buffer, device="meta")
    # deepcopy takes what it finds in the memo for already copied: the tensors' data are never touched.
    return copy.deepcopy(model, known)
