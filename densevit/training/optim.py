"""Parameter groups and learning-rate schedules, counted in steps (Sec. 4.1 and the authors' configuration)."""

import math
import re
from dataclasses import replace

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from densevit.errors import UserError
from densevit.training.config import OptimConfig

HEAD_PREFIXES = ("decoder.", "auxiliary_heads.", "fpn.", "heads.", "rpn.", "roi_heads.")
"""Parameters trained at `head_lr_mult` times the rate; the neck of MLA is no head."""

UNDECAYED = ("pos_embed", "cls_token", "dist_token", "reg_token", "bias_tables", "relative_bias", "position_bias_table")

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)

ENCODER = "encoder."
BLOCK = re.compile(r"(?:.+?\.)??(?:(?:blocks|layers|stages)\.|layer)\d+(?:\.(?:(?:blocks|layers)\.)?\d+)?(?=\.)")
"""The part of a name in an encoder, or a classifier, that tells its block: `vit.blocks.3`, `body.layer1.0`."""


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    """Parameters that share a learning rate and a weight decay.

    Without `layer_decay` at most four groups: encoder and head, each with and without weight decay (norms, positions,
    tokens and, unless `decay_biases`, biases).
    """
    depths = layer_depths(model) if config.layer_decay < 1 else {}
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    norms = {name for name, module in model.named_modules() if isinstance(module, NORMS)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner, _, kind = name.rpartition(".")
            weight = parameter.ndim > 1 and not any(part in name for part in UNDECAYED)
            decayed = weight or (config.decay_biases and kind == "bias" and owner not in norms)
            key = (name.startswith(HEAD_PREFIXES), depths.get(name, 0), decayed)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * (config.head_lr_mult if head else config.layer_decay**depth),
            "weight_decay": config.weight_decay if decayed else 0.0,
            "name": f"{'head' if head else 'encoder'}{f' -{depth}' if depth else ''}{'' if decayed else ', no decay'}",
        }
        for (head, depth, decayed), parameters in sorted(groups.items())
    ]


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Name of each parameter of the encoder -> how many blocks deep it lies: 1 in the last block, most in the stem.

    What stands between two blocks (Swin's downsampling) goes with the second, what comes after all (norms, neck, a
    classifier's head) has 0. A model without `encoder` is one. As in BEiT's fine-tuning (Bao et al., ICLR 2022).
    """
    names = [name for name, _ in model.named_parameters()]
    start = len(ENCODER) if any(name.startswith(ENCODER) for name in names) else 0
    names = [name for name in names if not start or name.startswith(ENCODER)]
    blocks = list(dict.fromkeys(found[0] for name in names if (found := BLOCK.match(name, start))))
    if not blocks:
        raise UserError("optim.layer_decay needs an encoder made of blocks; set it to 1")
    depths, next_depth = {}, 0
    for name in reversed(names):
        found = BLOCK.match(name, start)
        if found:
            depths[name] = next_depth = len(blocks) - blocks.index(found[0])
        elif next_depth:
            is_stem = next_depth == len(blocks)  # or patch embedding, tokens, positions
            depths[name] = next_depth + is_stem
    return depths


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum)
    return AdamW(groups, lr=config.lr, betas=config.betas)


def learning_rate(step: int, *, base_lr: float, num_steps: int, config: OptimConfig) -> float:
    """Learning rate of update `step` (from 0) for a group whose full rate is `base_lr`.

    poly: (base - min) * (1 - step / num_steps) ** power + min, with the same floor for every group. step: a tenth
    after each milestone. During the warm-up the scheduled rate is multiplied by a factor that rises linearly from
    `warmup_ratio` to 1. With `warmup_prefix` the schedule waits at its start until the warm-up is over.
    """
    waits = config.warmup_steps if config.warmup_prefix else 0
    progress = min(max(step - waits, 0) / max(num_steps - waits, 1), 1.0)
    if config.schedule == "poly":
        share = (1 - progress) ** config.poly_power
    elif config.schedule == "cosine":
        share = (1 + math.cos(math.pi * progress)) / 2
    elif config.schedule == "step":
        share = 0.1 ** sum(progress >= milestone for milestone in config.milestones)
    else:
        share = 1.0
    lr = (base_lr - config.min_lr) * share + config.min_lr
    if step < config.warmup_steps:
        lr *= 1 - (1 - step / config.warmup_steps) * (1 - config.warmup_ratio)
    return lr


def scaled_to_batch(config: OptimConfig, images_per_update: int) -> OptimConfig:
    """Learning rates in proportion to the batch, where `lr_batch_size` says for which one they hold."""
    if config.lr_batch_size is None:
        return config
    factor = images_per_update / config.lr_batch_size
    return replace(config, lr=config.lr * factor, min_lr=config.min_lr * factor, lr_batch_size=None)


def build_schedule(optimizer: Optimizer, config: OptimConfig, *, num_steps: int) -> LambdaLR:
    """A scheduler to step after every update."""

    def factor(base_lr: float) -> "type[object] | object":
        return lambda step: learning_rate(step, base_lr=base_lr, num_steps=num_steps, config=config) / base_lr

    return LambdaLR(optimizer, [factor(group["lr"]) for group in optimizer.param_groups])  # type: ignore[misc]
