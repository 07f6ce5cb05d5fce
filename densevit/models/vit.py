"""Any timm plain ViT (ViT, DeiT, BEiT, DINOv2, DINOv3, SigLIP ...) as an encoder of feature maps (SETR, Sec. 3.2).

Shapes: B batch, N tokens, P prefix tokens (class, distillation, registers), C channels (embed_dim), H W patch grid.
Blocks are counted from 1, as the paper writes Z^1 ... Z^Le; Z^l is the output of block l, without a final norm.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import timm
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from densevit.errors import UserError, unknown_name
from densevit.models.beit import RelativeBiasTables
from densevit.models.position import PositionResize, resize_position_embedding

PrefixTokens = Literal["all", "class", "none"]


def tokens_to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Lay patch tokens out as a feature map: (B, N, C) -> (B, C, H, W), a view (channels-last in memory).

    `tokens` are in row-major order with prefix tokens already removed; `size` is (H, W).
    Undoes the image-to-sequence step of SETR (Sec. 3.2). ValueError if N != H * W.
    """
    B, N, C = tokens.shape
    H, W = size
    if N != H * W:
        raise ValueError(f"{N} tokens do not fill a {H}x{W} grid; were the prefix tokens removed?")
    return tokens.unflatten(1, (H, W)).permute(0, 3, 1, 2)


class ViTEncoder(nn.Module):
    """Images (B, in_channels, h, w) -> one map (B, C, H, W) per entry of `out_blocks`, at stride `patch_size`.

    `vit` is a timm model from `create_vit`; blocks after the last of `out_blocks` and everything past the blocks are
    dropped. `prefix_tokens` says which of the class / distillation / register tokens take part in the blocks: the
    paper's Naive and PUP keep the class token only, its MLA keeps none (official code), "all" is timm's own forward.
    Whatever took part is removed from the maps. Image sides must be multiples of the patch (`Segmenter` pads).
    """

    def __init__(
        self,
        vit: nn.Module,
        *,
        out_blocks: Sequence[int],
        prefix_tokens: PrefixTokens = "all",
        position_resize: PositionResize = "bilinear",
    ):
        super().__init__()
        depth = len(vit.blocks)
        if (
            not out_blocks
            or sorted(set(out_blocks)) != list(out_blocks)
            or not 1 <= out_blocks[0] <= out_blocks[-1] <= depth
        ):
            raise UserError(f"out_blocks {tuple(out_blocks)} must be increasing and within 1..{depth}")
        if prefix_tokens not in ("all", "class", "none"):
            raise unknown_name("prefix_tokens", prefix_tokens, ("all", "class", "none"))
        if prefix_tokens != "all" and not isinstance(vit, VisionTransformer):
            raise UserError(f"prefix_tokens={prefix_tokens!r} needs a timm VisionTransformer, not {type(vit).__name__}")
        self.out_blocks = tuple(out_blocks)
        self.prefix_tokens = prefix_tokens
        self.position_resize = position_resize
        self.embed_dim: int = vit.embed_dim
        self.depth = depth
        self.patch_size: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        vit.prune_intermediate_layers([b - 1 for b in out_blocks], prune_norm=True, prune_head=True)
        self.relative_bias = RelativeBiasTables(vit) if isinstance(vit, Beit) and _has_bias_tables(vit) else None
        self.vit = vit
        self.num_prefix: int = {"all": vit.num_prefix_tokens, "class": 1, "none": 0}[prefix_tokens]
        for name in list(_prefix_parameters(vit))[self.num_prefix :] if prefix_tokens != "all" else ():
            getattr(vit, name).requires_grad_(False)  # distributed training wants a gradient for every parameter

    def forward(self, images: Tensor) -> list[Tensor]:
        grid = (images.shape[-2] // self.patch_size[0], images.shape[-1] // self.patch_size[1])
        if not isinstance(self.vit, (VisionTransformer, Beit)):  # rotary positions follow the grid inside timm
            indices = [b - 1 for b in self.out_blocks]
            return self.vit.forward_intermediates(images, indices=indices, intermediates_only=True)
        x = self._embed(images, grid)
        biases = self.relative_bias(grid) if self.relative_bias is not None else None
        maps = []
        for i, block in enumerate(self.vit.blocks):
            args = (x,) if biases is None else (x, biases[i])
            if self.vit.grad_checkpointing and self.training:
                x = checkpoint(block, *args, use_reentrant=False)
            else:
                x = block(*args)
            if i + 1 in self.out_blocks:
                maps.append(tokens_to_map(x[:, self.num_prefix :], grid))
        return maps

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens with positions, behind the prefix tokens that take part: (B, P + N, C)."""
        vit = self.vit
        x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)  # (B, N, C)
        x = vit.patch_embed.norm(x)
        tokens = list(_prefix_parameters(vit).values())
        position = vit.pos_embed
        if position is not None:
            positioned = 0 if isinstance(vit, VisionTransformer) and vit.no_embed_class else vit.num_prefix_tokens
            position = resize_position_embedding(
                position,
                old_grid=vit.patch_embed.grid_size,
                new_grid=grid,
                num_prefix=positioned,
                mode=self.position_resize,
            )
            x = x + position[:, positioned:]
            if positioned:  # every prefix token has a row of the embedding
                tokens = [torch.cat(tokens, dim=1) + position[:, :positioned]]
        if tokens:
            tokens = [torch.cat(tokens, dim=1)[:, : self.num_prefix].expand(x.shape[0], -1, -1).to(x.dtype)]
        x = vit.pos_drop(torch.cat([*tokens, x], dim=1))
        if isinstance(vit, VisionTransformer):
            x = vit.norm_pre(vit.patch_drop(x))
        return x

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass: slower by about a third, far less memory."""
        self.vit.set_grad_checkpointing(enable)


def create_vit(
    name: str,
    *,
    image_size: tuple[int, int] | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    encoder_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the timm model `name`, without classifier, for `ViTEncoder`.

    `image_size` (H, W) sets the grid at which positions are learned (default: the model's own); `pretrained` fetches
    timm's weights, resampled to that grid, and adapts the first convolution to `in_channels`. `encoder_args` go to
    timm as they are (`depth`, `embed_dim`, `patch_size` ...). UserError for an unknown name or one that is no plain ViT.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")
        raise unknown_name("encoder", name, near or timm.list_models("vit_*"))
    args: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels, "drop_path_rate": drop_path_rate}
    if drop_rate:
        args |= {"proj_drop_rate": drop_rate, "pos_drop_rate": drop_rate}
    if image_size is not None:
        args["img_size"] = image_size
    if timm.models.model_entrypoint(name).__module__.endswith(("vision_transformer", "deit", "eva")):
        args["dynamic_img_size"] = True
    try:
        vit = timm.create_model(name, pretrained=pretrained, **args | dict(encoder_args or {}))
    except TypeError as error:
        raise UserError(f"encoder {name!r} does not take these arguments ({error}); see encoder_args") from error
    if not isinstance(vit, (VisionTransformer, Beit, Eva)):
        raise UserError(
            f"{name!r} is not a plain ViT (one stride, class or register tokens), which SETR needs; "
            "use a name such as vit_base_patch16_384 or a pyramid decoder"
        )
    return vit


def _has_bias_tables(vit: Beit) -> bool:
    return vit.blocks[0].attn.relative_position_bias_table is not None


def _prefix_parameters(vit: nn.Module) -> dict[str, Tensor]:
    """The class, distillation and register tokens a model has, in the order they are put before the patches."""
    names = ["cls_token"]
    if isinstance(vit, VisionTransformerDistilled):
        names.append("dist_token")
    if isinstance(vit, VisionTransformer):
        names.append("reg_token")
    tokens = {name: getattr(vit, name) for name in names}
    return {name: token for name, token in tokens.items() if token is not None}
