"""Checkpoints of the authors' SETR code in our naming.

There, MLA's neck lives in the backbone, levels are called p2 (Z^6) to p5 (Z^24), each head carries a `conv_seg` that is
never called, and the convs of Naive and PUP have a bias before their norm (folded into its mean here).
"""

import re
from collections.abc import Mapping

from torch import Tensor

from densevit.weights.rename import Rule, fold_conv_biases, rename


def is_official_setr(tensors: Mapping[str, Tensor]) -> bool:
    return "backbone.patch_embed.proj.weight" in tensors


def from_official_setr(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors in a SETR `Segmenter`'s naming, and the names not used."""
    rules: list[Rule] = [
        (r"backbone\.(cls_token|pos_embed|patch_embed\..+|blocks\..+)", r"encoder.vit.\1"),
        (r"backbone\.norm_(\d)\.(.+)", r"neck.norms.\1.\2"),
        (r"backbone\.mla\.mla_p(\d)_1x1\.(.+)", lambda m: f"neck.reduce.{int(m[1]) - 2}.{m[2]}"),
        (r"backbone\.mla\.mla_p(\d)\.(.+)", lambda m: f"neck.refine.{int(m[1]) - 2}.{m[2]}"),
        (r"decode_head\.mlahead\.head(\d)\.(.+)", lambda m: f"decoder.streams.{int(m[1]) - 2}.{m[2]}"),
        (r"decode_head\.cls\.(.+)", r"decoder.classifier.\1"),
        (r"decode_head\.norm\.(.+)", r"decoder.norm.\1"),
        *_decoder_rules(tensors),
        (r"auxiliary_head\.(\d)\.norm\.(.+)", r"auxiliary_heads.\1.norm.\2"),
        (r"auxiliary_head\.(\d)\.conv_0\.(.+)", r"auxiliary_heads.\1.conv.0.\2"),
        (r"auxiliary_head\.(\d)\.syncbn_fc_0\.(.+)", r"auxiliary_heads.\1.conv.1.\2"),
        (r"auxiliary_head\.(\d)\.conv_1\.(.+)", r"auxiliary_heads.\1.classifier.\2"),
        (r"auxiliary_head\.(\d)\.aux\.(.+)", r"auxiliary_heads.\1.\2"),
    ]
    renamed, unused = rename(tensors, rules)
    return fold_conv_biases(renamed), unused


def _decoder_rules(tensors: Mapping[str, Tensor]) -> list[Rule]:
    """Naive has conv_0 and the classifier conv_1; PUP has conv_0 to conv_3 and the classifier conv_4."""
    found = [re.fullmatch(r"decode_head\.conv_(\d)\.weight", name) for name in tensors]
    last = max((int(match[1]) for match in found if match), default=0)
    conv = r"decoder.conv" if last == 1 else r"decoder.convs.\1"
    return [
        (rf"decode_head\.conv_{last}\.(.+)", r"decoder.classifier.\1"),
        (r"decode_head\.conv_(\d)\.(.+)", rf"{conv}.0.\2"),
        (r"decode_head\.syncbn_fc_(\d)\.(.+)", rf"{conv}.1.\2"),
    ]
