"""Classification: the paper's five HLG models on ImageNet-1k, and a small comparison of ours on CIFAR-10.

The paper's recipe (Sec. 4.1; what it leaves open is taken from the authors' configuration): 300 epochs at batch 1024,
AdamW, learning rate 1e-3 in proportion to the batch, cosine after 20 warm-up epochs, weight decay 0.05, gradients
clipped at 5, mixup 0.8 or CutMix 1.0 for every batch, RandAugment, erasing 0.25, label smoothing 0.1, drop path 0.1
(0.3 for Large), moving average 0.99996.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from densevit.training.config import ModelConfig, OptimConfig, TrainConfig
from densevit.training.config_classification import ClassificationDataConfig, ClassificationExperiment

BATCH = 1024
STEPS_PER_EPOCH = 1_281_167 // BATCH
"""Of ImageNet-1k's training images, the last incomplete batch left out."""
DROP_PATH = {"hlg_mobile": 0.1, "hlg_tiny": 0.1, "hlg_small": 0.1, "hlg_medium": 0.1, "hlg_large": 0.3}


def hlg_imagenet(name: str) -> ClassificationExperiment:
    """An HLG of Table 1 on ImageNet-1k, as the paper trains it (Table 8)."""
    return ClassificationExperiment(
        model=ModelConfig(name=name, args={"drop_path_rate": DROP_PATH[name]}),
        data=ClassificationDataConfig(name="imagenet", batch_size=BATCH, num_workers=12),
        optim=OptimConfig(
            optimizer="adamw",
            lr=1e-3,
            head_lr_mult=1.0,
            weight_decay=0.05,
            schedule="cosine",
            min_lr=1e-5,
            warmup_steps=20 * STEPS_PER_EPOCH,
            warmup_ratio=1e-3,
            warmup_prefix=True,
            lr_batch_size=BATCH,
            clip_grad_norm=5.0,
        ),
        train=TrainConfig(
            num_steps=300 * STEPS_PER_EPOCH,
            val_every_steps=5 * STEPS_PER_EPOCH,
            log_every_steps=50,
            precision="bf16",
            ema=0.99996,
            num_sample_pictures=0,
        ),
    )


CIFAR10_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "hlg": (
        "hlg_tiny",
        {"embed_dims": (32, 64, 128, 256), "num_heads": (1, 2, 4, 8), "depths": (1, 1, 3, 1), "window_size": 4},
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 32, "num_heads": (1, 2, 4, 8), "depths": (1, 1, 3, 1), "img_size": 64, "window_size": 4},
    ),
    "vit": (
        "vit_tiny_patch16_224",
        {"embed_dim": 96, "num_heads": 3, "depth": 3, "img_size": 64, "patch_size": 8},
    ),
}
"""HLG beside Swin and a plain ViT of about the same cost, 24, 21 and 25 million MACs at 64 x 64: timm's arguments."""


def cifar10(model: str = "hlg") -> ClassificationExperiment:
    """CIFAR-10 from tar shards, enlarged to 64 x 64 so that four stages have something to look at; minutes on a CPU.

    The last train shard is the validation set, so that the test shards stay unseen.
    """
    name, args = CIFAR10_MODELS[model]
    paper = hlg_imagenet("hlg_tiny")
    return replace(
        paper,
        model=ModelConfig(name=name, args={**args, "drop_path_rate": 0.05}),
        data=ClassificationDataConfig(
            name="shards",
            args={"val_shards": 1},
            batch_size=64,
            shuffle_buffer=5000,
            image_size=(64, 64),
            scale=(0.5, 1.0),
            auto_augment=None,
            color_jitter=0.0,
            erase=0.0,
            mix_prob=0.0,
            crop_pct=1.0,
            mean=(125.3, 123.0, 113.9),
            std=(63.0, 62.1, 66.7),
        ),
        optim=replace(
            paper.optim, warmup_steps=200, warmup_ratio=1e-2, lr_batch_size=None, min_lr=1e-5, clip_grad_norm=1.0
        ),
        train=TrainConfig(num_steps=2_000, val_every_steps=500, ema=0.999, num_sample_pictures=0),
    )


CLASSIFICATION_RECIPES: dict[str, Callable[[], ClassificationExperiment]] = {
    **{f"{name}_imagenet": partial(hlg_imagenet, name) for name in DROP_PATH},
    "cifar10": cifar10,
    "cifar10_swin": partial(cifar10, "swin"),
    "cifar10_vit": partial(cifar10, "vit"),
}
