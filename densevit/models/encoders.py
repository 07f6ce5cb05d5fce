"""Building the timm model behind an encoder: by name, at the grid asked for, with or without timm's weights."""

import math
from collections.abc import Mapping
from typing import Any

import timm
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from densevit.errors import UserError, unknown_name
from densevit.models.beit import attentions_with_table, resize_bias_table
from densevit.models.position import PositionResize, resize_position_embedding
from densevit.models.vit import PlainViT, num_positioned_prefix

PLAIN_VIT_FILES = ("vision_transformer", "deit", "beit", "eva")
"""timm's files whose models are plain ViTs: one stride, prefix tokens, the blocks in a row."""


def create_vit(
    name: str,
    *,
    image_size: tuple[int, int] | None = None,
    in_channels: int = 3,
    pretrained: bool = False,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    position_resize: PositionResize = "bilinear",
    encoder_args: Mapping[str, Any] | None = None,
) -> PlainViT:
    """Build the timm model `name`, without classifier, for `ViTEncoder`.

    `image_size` (H, W), rounded up to whole patches, sets the grid at which positions are learned (default: the
    model's own). `pretrained` fetches timm's weights, adapts the first convolution to `in_channels` and resizes the
    positions to that grid by `position_resize`. `encoder_args` go to timm as they are (`depth`, `embed_dim`,
    `patch_size`, `pretrained_cfg_overlay` ...). UserError for an unknown name or one that is no plain ViT.
    """
    _check_name(name)
    args: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels, "drop_path_rate": drop_path_rate}
    if drop_rate:
        args |= {"proj_drop_rate": drop_rate, "pos_drop_rate": drop_rate}
    if timm.models.is_model_in_modules(name, ("eva",)):
        args["dynamic_img_size"] = True  # else its rotary angles are fixed to one grid
    args |= encoder_args or {}
    if args.get("patch_drop_rate") or args.get("use_shared_rel_pos_bias"):
        raise UserError("encoder_args patch_drop_rate and use_shared_rel_pos_bias do not work for dense prediction")
    vit = build_timm(name, pretrained=pretrained, **args)
    if not isinstance(vit, (VisionTransformer, Beit, Eva)):
        raise UserError(f"{name!r} builds a {type(vit).__name__}, which is not a plain ViT")
    if image_size is not None:
        set_grid(vit, image_size, keep=pretrained, mode=position_resize)
    return vit


def build_timm(name: str, *, pretrained: bool, **args: Any) -> Any:
    """`timm.create_model`, with UserError for what a user can get wrong and for weights that cannot be had.

    `pretrained` fills every parameter but the classifier's, which is drawn afresh for another number of classes;
    UserError if `args` make a model with parameters that timm's weights do not hold.
    """
    try:
        model = timm.create_model(name, pretrained=False, **args)
    except TypeError as error:
        raise UserError(f"{name!r} does not take these arguments: {error}") from error
    except Exception as error:  # whatever the constructors raise: AssertionError, ZeroDivisionError ...
        if "Invalid pretrained tag" in str(error):
            arch, _, tag = name.partition(".")
            tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{arch}.*")]
            raise unknown_name(f"weights of {arch}", tag, tags) from error
        if isinstance(error, OSError) or ":" in name:  # of a hub's models even the description is fetched
            raise _no_weights(name, error) from error
        given = ", ".join(f"{key}={value!r}" for key, value in args.items())
        raise UserError(f"timm cannot build {name!r} with {given} ({_reason(error)}); change these") from error
    if pretrained:
        _copy_weights(_load_all(name, args), model)
    return model


def _load_all(name: str, args: Mapping[str, Any]) -> nn.Module:
    """The model with timm's weights and the classifier they hold: for another one timm loads without checking."""
    own_classes = {key: value for key, value in args.items() if key != "num_classes"}
    try:
        try:
            return timm.create_model(name, pretrained=True, **own_classes)
        except RuntimeError as error:
            if "Error(s) in loading state_dict" not in str(error):
                raise
            if "Missing key" in str(error) or "size mismatch" in str(error):
                given = ", ".join(f"{key}={value!r}" for key, value in own_classes.items())
                raise UserError(
                    f"timm's weights for {name!r} do not fill the model that {given} makes ({_unfilled(error)}); "
                    "leave these arguments at their defaults or train without pretrained weights"
                ) from error
            # What the weights hold beyond the model, such as the last blocks of a shallower one, is left out
            return timm.create_model(name, pretrained=True, **args)
    except UserError:
        raise
    except Exception as error:  # whatever the network and the hub's client raise
        raise _no_weights(name, error) from error


def _no_weights(name: str, error: Exception) -> UserError:
    return UserError(f"timm could not provide weights for {name!r} ({_reason(error)}); give a local file")


def _copy_weights(source: nn.Module, model: nn.Module) -> None:
    """Copy every tensor that both models have at one shape; they differ in the classifier alone."""
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    same = {key: tensor for key, tensor in source.state_dict().items() if shapes.get(key) == tensor.shape}
    model.load_state_dict(same, strict=False)


def _reason(error: Exception) -> str:
    """The first line of an error, or its kind where it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def _unfilled(error: RuntimeError) -> str:
    """The first complaint of `load_state_dict` in one line."""
    line = next(line for line in str(error).split("\n") if "Missing key" in line or "size mismatch" in line)
    line = line.strip().rstrip(". ")
    return line if len(line) <= 160 else f"{line[:160]} ..."


def set_grid(vit: PlainViT, image_size: tuple[int, int], *, keep: bool, mode: PositionResize = "bilinear") -> None:
    """Give a timm ViT the positions of `image_size` (H, W), in place: resized ones (`keep`) or freshly drawn ones.

    Sides are rounded up to whole patches. BEiT's relative tables are resized by bicubic interpolation.
    """
    old_grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
    sides = zip(image_size, vit.patch_embed.patch_size, strict=True)
    vit.patch_embed.set_input_size(img_size=tuple(-(-side // patch) * patch for side, patch in sides))
    new_grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
    if vit.pos_embed is not None:
        old, num_prefix = vit.pos_embed.detach(), num_positioned_prefix(vit)
        if keep:
            new = resize_position_embedding(old, old_grid=old_grid, new_grid=new_grid, num_prefix=num_prefix, mode=mode)
        else:
            new = nn.init.trunc_normal_(old.new_empty(1, num_prefix + math.prod(new_grid), old.shape[2]), std=0.02)
        vit.pos_embed = nn.Parameter(new.clone())
    for attention in attentions_with_table(vit):
        table = attention.relative_position_bias_table.detach()
        if keep:
            table = resize_bias_table(table, old_grid=old_grid, new_grid=new_grid)
        else:
            table = table.new_zeros((2 * new_grid[0] - 1) * (2 * new_grid[1] - 1) + 3, table.shape[1])
        attention.relative_position_bias_table = nn.Parameter(table.clone())


def _check_name(name: str) -> None:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")
        raise unknown_name("encoder", name, near or timm.list_models("vit_*"))
    if not timm.models.is_model_in_modules(name, PLAIN_VIT_FILES):
        raise UserError(
            f"{name!r} is not a plain ViT (one stride, class or register tokens), which SETR needs; "
            "use a name such as vit_base_patch16_384 or a pyramid decoder"
        )
