"""The arguments of HLG, checked before anything is built: one sentence with the value and what fits."""

from collections.abc import Sequence

from torch import Tensor

from densevit.errors import UserError, check_positive_numbers, check_whole_numbers

STAGES = 4


def check_widths(embed_dims: Sequence[int], num_heads: Sequence[int], depths: Sequence[int]) -> None:
    """UserError unless there is one number for each stage, and heads and the stage before divide each width."""
    for name, values in {"embed_dims": embed_dims, "num_heads": num_heads, "depths": depths}.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != STAGES:
            raise UserError(f"HLG has 4 stages: {name} needs a number for each, such as [2, 2, 6, 2], not {values!r}")
        check_whole_numbers(**{f"{name}[{stage}]": value for stage, value in enumerate(values)})
    for stage, (width, heads) in enumerate(zip(embed_dims, num_heads, strict=True)):
        if width < 4 or width % heads:
            raise UserError(
                f"embed_dims[{stage}] {width} must be at least 4 and a multiple of num_heads[{stage}] {heads}"
            )
        if width % embed_dims[max(stage - 1, 0)]:
            raise UserError(
                f"embed_dims[{stage}] {width} must be a multiple of the width before it, {embed_dims[stage - 1]}"
            )


def check_numbers(
    *,
    in_chans: int,
    num_classes: int,
    window_size: int,
    mlp_ratio: float,
    drop_rate: float,
    drop_path_rate: float,
) -> None:
    """UserError for a number out of its range."""
    check_whole_numbers(in_chans=in_chans, window_size=window_size)
    check_num_classes(num_classes)
    check_positive_numbers(mlp_ratio=mlp_ratio)
    for name, rate in {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise UserError(f"{name} must lie in 0 .. 1, below 1, not {rate!r}")


def check_flags(**flags: object) -> None:
    """UserError for what is neither true nor false: a word such as "off" would count as true."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise UserError(f"{name} must be true or false, not {value!r}")


def check_images(images: Tensor, in_chans: int) -> None:
    """UserError unless these are (B, C, H, W) floats, at least one image of one pixel, with so many channels."""
    if images.dim() != 4:
        raise UserError(f"images must be (batch, {in_chans}, height, width), not {tuple(images.shape)}")
    if images.shape[0] == 0:
        raise UserError("the batch has no image in it; give at least one")
    if images.shape[1] != in_chans:
        raise UserError(f"the images have {images.shape[1]} channels, the model in_chans={in_chans}")
    if images.shape[2] == 0 or images.shape[3] == 0:
        raise UserError(f"the images have no pixel: height {images.shape[2]}, width {images.shape[3]}")
    if not images.is_floating_point():
        raise UserError(f"the images are {images.dtype}; give floating point, normalised as in training")


def check_num_classes(num_classes: int) -> None:
    """UserError unless this is a whole number of at least 0, which stands for no classifier."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
        raise UserError(f"num_classes must be a whole number, or 0 for no classifier, not {num_classes!r}")


def check_pool(global_pool: str, num_classes: int) -> None:
    """UserError unless the pool is the mean, or "": none, for the map, which no classifier takes."""
    if global_pool not in ("avg", ""):
        raise UserError(f"HLG pools by the mean only, got global_pool={global_pool!r}; leave it out or use 'avg'")
    if num_classes and not global_pool:
        raise UserError(
            f"global_pool='' leaves a map, no logits of {num_classes} classes; leave it out, "
            "or for maps use features_only=True (or num_classes=0 where timm makes the model)"
        )


def stage_dilations(dilation: int | str | Sequence[int | str]) -> list[int | str]:
    """Rate of the odd layers per stage: "span" (side / R), one integer, or one for each of the three with windows."""
    one = isinstance(dilation, int | str)
    values: list[int | str] = [dilation] * STAGES if isinstance(dilation, int | str) else []
    if not one and isinstance(dilation, Sequence) and len(dilation) in (STAGES - 1, STAGES):
        values = [*dilation, 1][:STAGES]
    good = [value == "span" or (type(value) is int and value >= 1) for value in values]
    if not values or not all(good):
        raise UserError(
            "dilation must be 'span' (windows that span the map), a whole number of at least 1 (1: plain windows only) "
            f"or three of these, one for each stage with windows, not {dilation!r}"
        )
    return values


def stage_indices(out_indices: int | Sequence[int]) -> tuple[int, ...]:
    """Stages 0 to 3 of `out_indices`, ascending; negative ones count from the end, and one number n is the last n."""
    given = range(-out_indices, 0) if type(out_indices) is int else out_indices
    if not isinstance(given, Sequence) or not all(type(index) is int for index in given):
        raise UserError(f"out_indices must be stages 0 to 3, such as [1, 2, 3], not {out_indices!r}")
    indices = tuple(sorted({index + STAGES if index < 0 else index for index in given}))
    if not indices or indices[0] < 0 or indices[-1] >= STAGES:
        raise UserError(f"out_indices {out_indices} must name stages 0 to 3 (strides 4, 8, 16, 32)")
    return indices
