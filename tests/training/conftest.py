"""A training small enough for a test: two-block encoder, 32 x 48 pixels, ten generated scenes."""

from dataclasses import replace

import pytest

from densevit.training.config import DataConfig, ModelConfig, OptimConfig, SegmentationExperiment, TrainConfig

SIZE = (32, 48)


def make_experiment(**changes):
    """The tiny experiment; changes such as train={"num_steps": 2}."""
    parts = {
        "model": ModelConfig(
            name="setr_pup_vit_tiny",
            args={
                "image_size": SIZE,
                "channels": 16,
                "drop_rate": 0.1,
                "decoder_dropout": 0.1,
                "encoder_args": {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2},
            },
        ),
        "data": DataConfig(
            name="scenes", args={"image_size": SIZE, "num_images": 5}, batch_size=2, num_workers=0, crop_size=SIZE
        ),
        "optim": OptimConfig(optimizer="sgd", lr=0.01, warmup_steps=2),
        "train": TrainConfig(
            num_steps=5,
            val_every_steps=2,
            log_every_steps=1,
            accumulate=2,
            accelerator="cpu",
            num_sample_pictures=1,
        ),
    }
    experiment = SegmentationExperiment(**parts)
    return replace(experiment, **{name: replace(getattr(experiment, name), **new) for name, new in changes.items()})


@pytest.fixture(scope="session")
def tiny():
    return make_experiment
