"""mmsegmentation's SETR checkpoints (and its ViT backbones) in our naming.

Its MLA neck puts the levels out deepest first, so everything behind the sums is in reverse order there: the 3x3 convs,
the decoder's streams, the input channels of the classifier and the auxiliary heads.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from densevit.weights.rename import Rule, fold_conv_biases, rename

BLOCK_NAMES = {
    "ln1": "norm1",
    "ln2": "norm2",
    "attn.attn.in_proj_": "attn.qkv.",
    "attn.attn.out_proj.": "attn.proj.",
    "ffn.layers.0.0.": "mlp.fc1.",
    "ffn.layers.1.": "mlp.fc2.",
}


def is_mmsegmentation(tensors: Mapping[str, Tensor]) -> bool:
    return "backbone.patch_embed.projection.weight" in tensors


def from_mmsegmentation(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors in a SETR `Segmenter`'s naming, and the names not used."""
    is_mla = any(name.startswith("neck.") for name in tensors)
    renamed, unused = rename(tensors, [*_encoder_rules(), *(_mla_rules(tensors) if is_mla else _up_rules(tensors))])
    kernel = renamed["encoder.vit.patch_embed.proj.weight"]
    renamed.setdefault("encoder.vit.patch_embed.proj.bias", kernel.new_zeros(kernel.shape[0]))  # its own default: none
    classifier = renamed.get("decoder.classifier.weight")
    if is_mla and classifier is not None:
        num_streams = _count(tensors, r"neck\.norm\.(\d)\.weight")
        by_level = classifier.unflatten(1, (num_streams, -1))
        renamed["decoder.classifier.weight"] = by_level.flip(1).flatten(1, 2)
    return fold_conv_biases(renamed), unused


def _encoder_rules() -> list[Rule]:
    inner = [
        (rf"backbone\.layers\.(\d+)\.{re.escape(old)}(.+)", rf"encoder.vit.blocks.\1.{new}\2")
        for old, new in BLOCK_NAMES.items()
    ]
    return [
        (r"backbone\.(cls_token|pos_embed)", r"encoder.vit.\1"),
        (r"backbone\.patch_embed\.projection\.(.+)", r"encoder.vit.patch_embed.proj.\1"),
        *inner,
    ]


def _mla_rules(tensors: Mapping[str, Tensor]) -> list[Rule]:
    last = _count(tensors, r"neck\.norm\.(\d)\.weight") - 1
    return [
        (r"neck\.norm\.(\d)\.(.+)", r"neck.norms.\1.\2"),
        (r"neck\.mla\.channel_proj\.(\d)\.conv\.(.+)", r"neck.reduce.\1.0.\2"),
        (r"neck\.mla\.channel_proj\.(\d)\.bn\.(.+)", r"neck.reduce.\1.1.\2"),
        (r"neck\.mla\.feat_extract\.(\d)\.conv\.(.+)", lambda m: f"neck.refine.{last - int(m[1])}.0.{m[2]}"),
        (r"neck\.mla\.feat_extract\.(\d)\.bn\.(.+)", lambda m: f"neck.refine.{last - int(m[1])}.1.{m[2]}"),
        (r"decode_head\.up_convs\.(\d)\.0\.conv\.(.+)", lambda m: f"decoder.streams.{last - int(m[1])}.0.{m[2]}"),
        (r"decode_head\.up_convs\.(\d)\.0\.bn\.(.+)", lambda m: f"decoder.streams.{last - int(m[1])}.1.{m[2]}"),
        (r"decode_head\.up_convs\.(\d)\.1\.conv\.(.+)", lambda m: f"decoder.streams.{last - int(m[1])}.3.{m[2]}"),
        (r"decode_head\.up_convs\.(\d)\.1\.bn\.(.+)", lambda m: f"decoder.streams.{last - int(m[1])}.4.{m[2]}"),
        (r"decode_head\.conv_seg\.(.+)", r"decoder.classifier.\1"),
        (r"auxiliary_head\.(\d)\.conv_seg\.weight", lambda m: f"auxiliary_heads.{last - int(m[1])}.weight"),
    ]


def _up_rules(tensors: Mapping[str, Tensor]) -> list[Rule]:
    """Naive has one up_conv, PUP four. Auxiliary heads with more than one (ADE20K Naive) have no counterpart here."""
    is_naive = _count(tensors, r"decode_head\.up_convs\.(\d)\.0\.conv\.weight") == 1
    conv = r"decoder.conv" if is_naive else r"decoder.convs.\1"
    rules: list[Rule] = [
        (r"decode_head\.norm\.(.+)", r"decoder.norm.\1"),
        (r"decode_head\.up_convs\.(\d)\.0\.conv\.(.+)", rf"{conv}.0.\2"),
        (r"decode_head\.up_convs\.(\d)\.0\.bn\.(.+)", rf"{conv}.1.\2"),
        (r"decode_head\.conv_seg\.(.+)", r"decoder.classifier.\1"),
    ]
    for i in range(_count(tensors, r"auxiliary_head\.(\d)\.norm\.weight")):
        if f"auxiliary_head.{i}.up_convs.1.0.conv.weight" not in tensors:
            rules += [
                (rf"auxiliary_head\.{i}\.norm\.(.+)", rf"auxiliary_heads.{i}.norm.\1"),
                (rf"auxiliary_head\.{i}\.up_convs\.0\.0\.conv\.(.+)", rf"auxiliary_heads.{i}.conv.0.\1"),
                (rf"auxiliary_head\.{i}\.up_convs\.0\.0\.bn\.(.+)", rf"auxiliary_heads.{i}.conv.1.\1"),
                (rf"auxiliary_head\.{i}\.conv_seg\.(.+)", rf"auxiliary_heads.{i}.classifier.\1"),
            ]
    return rules


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in tensors)
