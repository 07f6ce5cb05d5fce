"""Any timm plain ViT (ViT, DeiT, BEiT, DINOv2, DINOv3, SigLIP ...) as an encoder of feature maps (SETR, Sec. 3.2).

Shapes: B batch, N tokens, P prefix tokens (class, distillation, registers), C channels (embed_dim), H W patch grid.
Blocks are counted from 1, as the paper writes Z^1 ... Z^Le; Z^l is the output of block l, without a final norm.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from densevit.errors import UserError, unknown_name
from densevit.models.beit import RelativeBiasTables, attentions_with_table
from densevit.models.position import PositionResize, resize_position_embedding

PlainViT = Any  # VisionTransformer | Beit | Eva: alike in what is used here, not in what their annotations say
PrefixTokens = Literal["all", "class", "none"]


def tokens_to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Lay patch tokens out as a feature map: (B, N, C) -> (B, C, H, W), a view (channels-last in memory).

    `tokens` are in row-major order with prefix tokens already removed; `size` is (H, W).
    Undoes the image-to-sequence step of SETR (Sec. 3.2). ValueError if N != H * W.
    """
    N, (H, W) = tokens.shape[1], size
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
        vit: PlainViT,
        *,
        out_blocks: Sequence[int],
        prefix_tokens: PrefixTokens = "all",
        position_resize: PositionResize = "bilinear",
    ):
        super().__init__()
        self.depth: int = len(vit.blocks)
        _check_blocks(out_blocks, self.depth)
        _check_prefix(vit, prefix_tokens)
        self.out_blocks = tuple(out_blocks)
        self.prefix_tokens = prefix_tokens
        self.position_resize = position_resize
        self.embed_dim: int = vit.embed_dim
        self.patch_size: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        self.num_prefix: int = {"all": vit.num_prefix_tokens, "class": 1, "none": 0}[prefix_tokens]
        vit.prune_intermediate_layers([b - 1 for b in out_blocks], prune_norm=True, prune_head=True)
        self.relative_bias = RelativeBiasTables(vit) if attentions_with_table(vit) else None
        self.vit = vit
        if prefix_tokens != "all":
            for name in list(prefix_parameters(vit))[self.num_prefix :]:
                getattr(vit, name).requires_grad_(False)  # distributed training wants a gradient for every parameter

    def forward(self, images: Tensor) -> list[Tensor]:
        (h, w), (a, b) = images.shape[-2:], self.patch_size
        grid = (h // a, w // b)
        if not torch.compiler.is_compiling() and grid != (h / a, w / b):
            raise UserError(f"an image of {h}x{w} is no multiple of the encoder's {a}x{b} patch; pad it first")
        x = self._embed(images, grid)
        rope = self._rotary(grid)
        maps = []
        for i in range(self.out_blocks[-1]):
            rope_i = rope[i] if rope is not None and self.vit.rope_mixed else rope
            if self.vit.grad_checkpointing and self.training:
                x = checkpoint(self._run_block, i, x, grid, rope_i, use_reentrant=False)
            else:
                x = self._run_block(i, x, grid, rope_i)
            if i + 1 in self.out_blocks:
                maps.append(tokens_to_map(x[:, self.num_prefix :], grid))
        return maps

    def _run_block(self, i: int, x: Tensor, grid: tuple[int, int], rope: Tensor | None) -> Tensor:
        block = self.vit.blocks[i]
        if self.relative_bias is not None:
            return block(x, shared_rel_pos_bias=self.relative_bias(i, grid))
        if rope is not None:
            return block(x, rope=rope)
        return block(x)

    def _rotary(self, grid: tuple[int, int]) -> Tensor | None:
        """Rotary position angles of the patches; one set per block where timm says `rope_mixed`."""
        is_eva = isinstance(self.vit, Eva)
        return self.vit.rope.get_embed(shape=grid) if is_eva and self.vit.rope is not None else None

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patch tokens with positions, behind the prefix tokens that take part: (B, P + N, C)."""
        vit = self.vit
        x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)  # (B, N, C)
        x = vit.patch_embed.norm(x)
        tokens = list(prefix_parameters(vit).values())
        if vit.pos_embed is not None:
            positioned = num_positioned_prefix(vit)
            position = resize_position_embedding(
                vit.pos_embed,
                old_grid=tuple(vit.patch_embed.grid_size),
                new_grid=grid,
                num_prefix=positioned,
                mode=self.position_resize,
            )
            x = x + position[:, positioned:]
            if positioned:  # every prefix token has a row of the embedding
                tokens = [torch.cat(tokens, dim=1) + position[:, :positioned]]
        if self.num_prefix:
            prefix = torch.cat(tokens, dim=1)[:, : self.num_prefix]
            x = torch.cat([prefix.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        x = vit.pos_drop(x)
        return x if isinstance(vit, Beit) else vit.norm_pre(x)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass: slower by about a third, far less memory."""
        self.vit.set_grad_checkpointing(enable)


def prefix_parameters(vit: PlainViT) -> dict[str, Tensor]:
    """The class, distillation and register tokens a model has, in the order they are put before the patches."""
    names = ["cls_token"]
    if isinstance(vit, VisionTransformerDistilled):
        names.append("dist_token")
    if not isinstance(vit, Beit):
        names.append("reg_token")
    tokens = {name: getattr(vit, name) for name in names}
    return {name: token for name, token in tokens.items() if token is not None}


def num_positioned_prefix(vit: PlainViT) -> int:
    """How many rows at the start of `vit.pos_embed` belong to prefix tokens: all of them or none."""
    no_rows = not isinstance(vit, Beit) and vit.no_embed_class
    return 0 if no_rows else vit.num_prefix_tokens


def _check_blocks(out_blocks: Sequence[int], depth: int) -> None:
    increasing = list(out_blocks) == sorted(set(out_blocks))
    if not out_blocks or not increasing or not 1 <= out_blocks[0] <= out_blocks[-1] <= depth:
        raise UserError(f"out_blocks {tuple(out_blocks)} must be increasing and within 1..{depth}")


def _check_prefix(vit: PlainViT, prefix_tokens: str) -> None:
    if prefix_tokens not in ("all", "class", "none"):
        raise unknown_name("prefix_tokens", prefix_tokens, ("all", "class", "none"))
    if prefix_tokens != "all" and not isinstance(vit, VisionTransformer):
        raise UserError(
            f"prefix_tokens {prefix_tokens!r} is for ViT and DeiT, not {type(vit).__name__}, whose blocks count on "
            "every token; use 'all'"
        )
    if prefix_tokens == "class" and vit.cls_token is None:
        raise UserError("prefix_tokens 'class' needs an encoder with a class token; use 'all' or 'none'")
