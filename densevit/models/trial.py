"""A trial of a model on images of a size, from shapes alone where model and images are on the meta device."""

from typing import Any

from torch import Tensor, nn

from densevit.errors import UserError


def try_images(model: nn.Module, images: Tensor, *, name: str) -> Any:
    """What the model makes of images (B, C, H, W).

    UserError where it takes no such ones: some of timm's have a size of their own.
    """
    try:
        return model(images)
    except (AssertionError, RuntimeError) as error:
        if isinstance(error, NotImplementedError):  # it cannot be told without numbers
            raise
        _, C, H, W = images.shape
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        own = " x ".join(map(str, getattr(model, "default_cfg", {}).get("input_size", (C, H, W))))
        raise UserError(
            f"{name} takes no images of {C} x {H} x {W}: {reason}; its published weights are for {own}"
        ) from error
