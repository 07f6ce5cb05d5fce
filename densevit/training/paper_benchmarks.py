"""What the paper's segmentation rows share: data sets with their augmentation and evaluation, the loss, weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from densevit.inference.settings import InferenceConfig
from densevit.training.config import DataConfig, LossConfig, SegmentationExperiment, TrainConfig


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A recipe and what the paper reports for it: mIoU in percent on the validation set, None where it gives none."""

    experiment: SegmentationExperiment
    source: str
    miou: float | None = None
    """At a single scale."""
    miou_ms: float | None = None
    """At the paper's six scales, mirrored as well: `--eval.scales=[0.5,0.75,1,1.25,1.5,1.75] --eval.flip=true`."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set with its augmentation, its evaluation and the learning rate of each decoder."""

    data: DataConfig
    eval: InferenceConfig
    lr: Mapping[str, float]


def _benchmark(
    name: str, *, crop: int, base: tuple[int, int], stride: int, batch_size: int, lr: Mapping[str, float]
) -> Benchmark:
    size = (crop, crop)
    return Benchmark(
        data=DataConfig(name=name, batch_size=batch_size, crop_size=size, resize_base=base),
        eval=InferenceConfig(mode="slide", resize=base, crop_size=size, stride=(stride, stride)),
        lr=lr,
    )


CITYSCAPES = _benchmark(
    "cityscapes",
    crop=768,
    base=(2049, 1025),
    stride=512,
    batch_size=8,
    lr={"naive": 0.01, "pup": 0.01, "mla": 0.002},
)
ADE20K = _benchmark(
    "ade20k", crop=512, base=(2048, 512), stride=341, batch_size=16, lr={"naive": 0.01, "pup": 0.001, "mla": 0.001}
)
_CONTEXT = _benchmark("pascal_context", crop=480, base=(520, 520), stride=320, batch_size=16, lr=ADE20K.lr)
NO_LIMIT = 10_000
PASCAL_CONTEXT = replace(_CONTEXT, eval=replace(_CONTEXT.eval, resize=(NO_LIMIT, min(_CONTEXT.eval.resize or ()))))
"""60 classes. Tested with the short side at 520 and no limit on the long one, so that a window of 480 always fits."""

LOSS = LossConfig(mean_over="all", auxiliary_weight=0.4)

JX_VIT_LARGE = (
    "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/jx_vit_large_p16_384-b3be5167.pth"
)
"""The authors' weights of T-Large, which timm's own name no longer means."""
PRETRAINED: dict[str, bool | str] = {
    "vit_large": JX_VIT_LARGE,
    "swin_base": "timm:swin_base_patch4_window7_224.ms_in1k",
}
"""Encoder -> weights, where they are not those of timm under our name."""


def schedule(num_steps: int) -> TrainConfig:
    """Validated ten times."""
    return TrainConfig(num_steps=num_steps, val_every_steps=num_steps // 10, log_every_steps=50)
