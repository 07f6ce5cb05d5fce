"""Named experiments: data set x model x schedule, derived from each other so that no number is written twice."""

from collections.abc import Callable

from densevit.errors import unknown_name
from densevit.training.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    SegmentationExperiment,
    TrainConfig,
)

Recipe = Callable[[], SegmentationExperiment]

FROM_SCRATCH = OptimConfig(
    optimizer="adamw", lr=5e-4, head_lr_mult=1.0, weight_decay=0.05, poly_power=1.0, warmup_steps=50, clip_grad_norm=1.0
)
"""AdamW for models that start from random numbers."""


def demo() -> SegmentationExperiment:
    """A small SETR on the generated street scenes: minutes on two CPU cores."""
    size = (96, 128)
    return SegmentationExperiment(
        model=ModelConfig(
            name="setr_pup_vit_tiny",
            args={"image_size": size, "channels": 64, "encoder_args": {"patch_size": 8, "depth": 6}},
        ),
        data=DataConfig(name="scenes", batch_size=8, crop_size=size, ratio_range=(0.75, 1.5)),
        optim=FROM_SCRATCH,
        train=TrainConfig(num_steps=1000, val_every_steps=250, log_every_steps=10),
    )


RECIPES: dict[str, Recipe] = {"demo": demo}


def get_recipe(name: str) -> SegmentationExperiment:
    """The experiment called `name`; UserError with near matches for an unknown one."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
