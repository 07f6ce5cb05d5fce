"""Named experiments: data set x model x schedule, derived from each other so that no number is written twice."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from densevit.errors import unknown_name
from densevit.inference.settings import InferenceConfig
from densevit.training.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SegmentationExperiment,
    TrainConfig,
)
from densevit.training.config_classification import ClassificationExperiment
from densevit.training.config_detection import DetectionExperiment
from densevit.training.paper_recipes import PAPER_ROWS
from densevit.training.recipes_classification import CIFAR10_MODELS, CLASSIFICATION_RECIPES
from densevit.training.recipes_detection import COCO_ROWS, DETECTION_RECIPES

Experiment = SegmentationExperiment | DetectionExperiment | ClassificationExperiment

Recipe = Callable[[], Experiment]

FROM_SCRATCH = OptimConfig(
    optimizer="adamw", lr=1e-3, head_lr_mult=1.0, weight_decay=0.05, poly_power=1.0, warmup_steps=50, clip_grad_norm=1.0
)
"""AdamW for models that start from random numbers."""

FINE_TUNING = OptimConfig(
    optimizer="adamw", lr=6e-5, weight_decay=0.01, poly_power=1.0, warmup_steps=200, clip_grad_norm=1.0
)
"""AdamW for a pretrained encoder under a new decoder."""

CAMVID_WEIGHTS = (0.88, 0.74, 3.7, 0.64, 1.68, 1.17, 3.42, 3.31, 1.5, 4.53, 6.6)
"""Square root of median share / share of each class, over a quarter of CamVid's training masks; mean 1 over pixels."""


def demo() -> SegmentationExperiment:
    """A small SETR on the generated street scenes: six minutes on two CPU cores, one of them busy."""
    size = (96, 144)
    return SegmentationExperiment(
        model=ModelConfig(
            name="setr_pup_vit_tiny",
            args={
                "image_size": size,
                "channels": 64,
                "auxiliary": False,
                "decoder_args": {"num_upsamplings": 2},
                "encoder_args": {"patch_size": 8, "depth": 4},
            },
        ),
        data=DataConfig(
            name="scenes",
            args={"image_size": size, "cache": True},
            batch_size=4,
            crop_size=size,
            ratio_range=(0.75, 1.5),
            photometric=False,
        ),
        optim=FROM_SCRATCH,
        train=TrainConfig(num_steps=800, val_every_steps=400, log_every_steps=10),
    )


def setr_small() -> SegmentationExperiment:
    """SETR-PUP on a pretrained ViT-S, for your own images; 512 x 512 crops."""
    return SegmentationExperiment(
        model=ModelConfig(name="setr_pup_vit_small", pretrained=True, args={"image_size": 512}),
        data=DataConfig(name="folder", mean=(127.5,) * 3, std=(127.5,) * 3),  # those of the encoder's weights
        optim=FINE_TUNING,
        train=TrainConfig(num_steps=8_000, val_every_steps=500, precision="bf16"),
        eval=InferenceConfig(mode="slide", crop_size=(512, 512), stride=(341, 341)),
    )


def camvid(decoder: str = "pup") -> SegmentationExperiment:
    """A small SETR on CamVid from random numbers: about a quarter of an hour on two CPU cores."""
    crop = (240, 320)
    return SegmentationExperiment(
        model=ModelConfig(
            name=f"setr_{decoder}_vit_tiny", args={"image_size": crop, "channels": 64, "encoder_args": {"depth": 8}}
        ),
        data=DataConfig(name="camvid", crop_size=crop, ratio_range=(0.6, 1.4)),
        optim=FROM_SCRATCH,
        train=TrainConfig(num_steps=1_000, val_every_steps=250),
    )


def camvid_hlg() -> SegmentationExperiment:
    """The model in the package: a narrow HLG under Semantic FPN on CamVid, an hour and a half on one CPU core.

    Meant to start from the recipe `cifar10`, whose encoder is the same: `--model.pretrained=runs/cifar10`.
    """
    hlg = CIFAR10_MODELS["hlg"][1]
    return SegmentationExperiment(
        model=ModelConfig(
            name="semantic_fpn_hlg_mobile",
            args={
                "encoder_args": {**hlg, "window_size": 7},
                "decoder_args": {"channels": 64, "branch_channels": 64},
                "drop_path_rate": 0.05,
            },
        ),
        data=DataConfig(name="camvid", crop_size=(192, 256), ratio_range=(0.5, 1.4)),
        optim=replace(FROM_SCRATCH, lr=1.5e-3, warmup_steps=100, warmup_ratio=0.01),
        loss=LossConfig(class_weights=CAMVID_WEIGHTS),
        train=TrainConfig(num_steps=7_000, val_every_steps=500, ema=0.998),
        eval=InferenceConfig(resize=(640, 360), antialias=True),  # CamVid's own size; larger photographs are shrunk
    )


def _paper_row(name: str) -> SegmentationExperiment:
    return PAPER_ROWS[name].experiment


def _coco_row(name: str) -> DetectionExperiment:
    return COCO_ROWS[name].experiment


RECIPES: dict[str, Recipe] = {
    "demo": demo,
    "setr_small": setr_small,
    "camvid": camvid,
    "camvid_hlg": camvid_hlg,
    "camvid_naive": lambda: camvid("naive"),
    "camvid_mla": lambda: camvid("mla"),
    **{name: partial(_paper_row, name) for name in PAPER_ROWS},
    **DETECTION_RECIPES,
    **{name: partial(_coco_row, name) for name in COCO_ROWS},
    **CLASSIFICATION_RECIPES,
}


def get_recipe(name: str) -> Experiment:
    """The experiment called `name`; UserError with near matches for an unknown one."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
