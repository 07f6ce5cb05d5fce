"""The paper's segmentation rows on pyramid encoders: SETR-PUP-HLG, and FCN, Semantic FPN and UperNet to compare with.

The numbers of the latter are mmsegmentation's and Swin's, and so are their settings here. FCN's on Cityscapes come from
crops of 769 x 769; the paper counts 768, and so does the recipe.
"""

from dataclasses import replace

from densevit.inference.settings import InferenceConfig
from densevit.training.config import ModelConfig, OptimConfig, SegmentationExperiment
from densevit.training.paper_benchmarks import (
    ADE20K,
    CITYSCAPES,
    LOSS,
    PRETRAINED,
    Benchmark,
    PaperRow,
    schedule,
)

SETR_HLG = OptimConfig(
    optimizer="adamw", lr=6e-5, weight_decay=0.0, head_lr_mult=10.0, poly_power=1.0, warmup_steps=1_500
)
DROP_PATH = {"hlg_small": 0.1, "hlg_medium": 0.1, "hlg_large": 0.3}
"""As the paper trains the classifiers; for segmentation nothing is given."""


def setr_hlg(benchmark: Benchmark, encoder: str, *, num_steps: int) -> SegmentationExperiment:
    """SETR-PUP-HLG as the authors' code trains it: AdamW, warm-up, batch 16 on both data sets.

    HLG has no published weights: give an ImageNet classifier of your own, `--model.pretrained=RUN`.
    """
    return SegmentationExperiment(
        model=ModelConfig(name=f"setr_pup_{encoder}", args={"drop_path_rate": DROP_PATH[encoder]}),
        data=replace(benchmark.data, batch_size=16),
        optim=SETR_HLG,
        loss=LOSS,
        train=schedule(num_steps),
        eval=benchmark.eval,
    )


CNN = OptimConfig(
    optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, head_lr_mult=1.0, poly_power=0.9, min_lr=1e-4
)
"""mmsegmentation's default, for FCN and Semantic FPN."""
SWIN = OptimConfig(optimizer="adamw", lr=6e-5, weight_decay=0.01, head_lr_mult=1.0, poly_power=1.0, warmup_steps=1_500)
WHOLE_CITYSCAPES = replace(
    CITYSCAPES,
    data=replace(CITYSCAPES.data, crop_size=(512, 1024), resize_base=(2048, 1024)),
    eval=InferenceConfig(mode="whole", resize=(2048, 1024)),
)
WHOLE_ADE20K = replace(ADE20K, eval=InferenceConfig(mode="whole", resize=ADE20K.eval.resize))


def baseline(
    benchmark: Benchmark,
    decoder: str,
    encoder: str,
    *,
    num_steps: int,
    optim: OptimConfig = CNN,
    drop_path_rate: float = 0.0,
) -> SegmentationExperiment:
    """A row the paper compares with, as its own authors or mmsegmentation trained it."""
    return SegmentationExperiment(
        model=ModelConfig(
            name=f"{decoder}_{encoder}",
            pretrained=PRETRAINED.get(encoder, True),
            args={"drop_path_rate": drop_path_rate} if drop_path_rate else {},
        ),
        data=benchmark.data,
        optim=optim,
        loss=LOSS,
        train=schedule(num_steps),
        eval=benchmark.eval,
    )


HLG_ROWS: dict[str, tuple[float, float]] = {
    "hlg_small": (47.3, 81.8),
    "hlg_medium": (49.3, 82.5),
    "hlg_large": (49.8, 82.9),
}
"""SETR-PUP-HLG: multi-scale mIoU on ADE20K at 160k steps (Table 5) and on Cityscapes at 80k (Table 6)."""

SWIN_ROWS: dict[str, float] = {"swin_tiny": 45.8, "swin_small": 49.5, "swin_base": 49.7}
"""UperNet: multi-scale mIoU on ADE20K at 160k steps (Table 5)."""

FCN_ROWS: dict[int, tuple[float, float]] = {40_000: (73.93, 75.1), 80_000: (75.52, 76.6)}
"""FCN on ResNet-101: steps on Cityscapes -> mIoU at one scale (Table 3) and at several (Table 6)."""


def _hlg_rows() -> dict[str, PaperRow]:
    rows = {}
    for encoder, (ade20k, cityscapes) in HLG_ROWS.items():
        rows[f"setr_pup_{encoder}_ade20k_160k"] = PaperRow(
            experiment=setr_hlg(ADE20K, encoder, num_steps=160_000), source="Table 5", miou_ms=ade20k
        )
        rows[f"setr_pup_{encoder}_cityscapes_80k"] = PaperRow(
            experiment=setr_hlg(CITYSCAPES, encoder, num_steps=80_000), source="Table 6", miou_ms=cityscapes
        )
    return rows


def _baseline_rows() -> dict[str, PaperRow]:
    rows = {
        "fcn_resnet101_ade20k_160k": PaperRow(
            experiment=baseline(WHOLE_ADE20K, "fcn", "resnet101", num_steps=160_000),
            source="Tables 4, 5",
            miou=39.91,
            miou_ms=41.4,
        ),
        "semantic_fpn_resnet101_cityscapes_80k": PaperRow(
            experiment=baseline(WHOLE_CITYSCAPES, "semantic_fpn", "resnet101", num_steps=80_000),
            source="Table 3",
            miou=75.8,
        ),
    }
    for num_steps, (miou, miou_ms) in FCN_ROWS.items():
        rows[f"fcn_resnet101_cityscapes_{num_steps // 1000}k"] = PaperRow(
            experiment=baseline(CITYSCAPES, "fcn", "resnet101", num_steps=num_steps),
            source="Tables 3, 6",
            miou=miou,
            miou_ms=miou_ms,
        )
    for encoder, miou_ms in SWIN_ROWS.items():
        rows[f"upernet_{encoder}_ade20k_160k"] = PaperRow(
            experiment=baseline(WHOLE_ADE20K, "upernet", encoder, num_steps=160_000, optim=SWIN, drop_path_rate=0.3),
            source="Table 5",
            miou_ms=miou_ms,
        )
    return rows


PYRAMID_ROWS = _hlg_rows() | _baseline_rows()
"""Recipe name -> its row."""
