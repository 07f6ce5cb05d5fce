"""Which encoders a decoder takes, by name, and the sentences for names that do not fit."""

import difflib
from collections.abc import Iterable

import timm
import torch

from densevit.errors import UserError, unknown_name
from densevit.models.encoders import PLAIN_VIT_FILES
from densevit.models.hlg import HLG_VARIANTS
from densevit.models.pyramid import PYRAMIDS, create_pyramid, is_pyramid

ENCODERS: dict[str, str] = {
    "vit_tiny": "vit_tiny_patch16_384.augreg_in21k_ft_in1k",
    "vit_small": "vit_small_patch16_384.augreg_in21k_ft_in1k",
    "vit_base": "vit_base_patch16_384.orig_in21k_ft_in1k",
    "vit_large": "vit_large_patch16_384.augreg_in21k_ft_in1k",
    "deit_tiny": "deit_tiny_distilled_patch16_224.fb_in1k",
    "deit_small": "deit_small_distilled_patch16_224.fb_in1k",
    "deit_base": "deit_base_distilled_patch16_384.fb_in1k",
    "beit_base": "beit_base_patch16_384.in22k_ft_in22k_in1k",
    "beit_large": "beit_large_patch16_512.in22k_ft_in22k_in1k",
}
"""Short encoder names (Table 2: vit_base is T-Base, vit_large is T-Large) -> timm names with their weights' tag."""


def is_plain_vit(encoder: str) -> bool:
    """Whether `encoder` is a short name of ours or timm's name of a plain ViT."""
    return encoder in ENCODERS or (timm.is_model(encoder) and timm.models.is_model_in_modules(encoder, PLAIN_VIT_FILES))


def check_plain_vit(name: str, encoder: str) -> None:
    """UserError unless the encoder of the SETR called `name` is a plain ViT."""
    if is_plain_vit(encoder):
        return
    if not is_pyramid(encoder):
        plain = (known for known in timm.list_models() if is_plain_vit(known))
        hlg = HLG_VARIANTS if name.startswith("setr_pup_") else ()
        raise _unknown_encoder(name, encoder, [*ENCODERS, *hlg, *plain])
    if encoder in HLG_VARIANTS:
        instead = f"setr_pup_{encoder}, upernet_{encoder} or semantic_fpn_{encoder}"
    elif _gives_pyramid(encoder):
        instead = f"upernet_{encoder} or semantic_fpn_{encoder}"
    else:
        instead = "a name such as setr_pup_vit_base"
    raise UserError(f"no model {name!r}: SETR needs a plain ViT, and {encoder} is not a plain ViT; use {instead}")


def check_pyramid(name: str, encoder: str) -> None:
    """UserError unless the encoder of the model called `name` may give maps of several strides."""
    if is_plain_vit(encoder):
        raise UserError(
            f"no model {name!r}: its decoder needs maps at several strides, and {encoder} is a plain ViT with one; "
            f"use setr_pup_{encoder}, or a pyramid such as {name.removesuffix(encoder)}swin_tiny"
        )
    if not is_pyramid(encoder):
        known = (known for known in timm.list_models() if not is_plain_vit(known))
        raise _unknown_encoder(name, encoder, [*PYRAMIDS, *known])


def _unknown_encoder(name: str, encoder: str, known: Iterable[str]) -> UserError:
    """The names of models with encoders that look like `encoder`, or else with our short ones."""
    options = list(dict.fromkeys(known))
    short = [option for option in options if option in ENCODERS or option in PYRAMIDS]
    near = difflib.get_close_matches(encoder, options, n=3, cutoff=0.6) or short
    prefix = name.removesuffix(encoder)
    return unknown_name("model", name, [prefix + each for each in near])


def _gives_pyramid(encoder: str) -> bool:
    try:
        with torch.device("meta"):
            create_pyramid(encoder)
    except UserError:
        return False
    return True
