"""A trial of a model on images of a size, from shapes alone where model and images are on the meta device."""

from torch import Tensor, nn

from densevit.errors import UserError


def try_images(model: nn.Module, images: Tensor, *, name: str) -> None:
    """UserError where the model takes no such images (B, C, H, W): some of timm's have a size of their own."""
    try:
        model(images)
    except (AssertionError, RuntimeError) as error:
        if isinstance(error, NotImplementedError):  # it cannot be told without numbers
            raise
        _, C, H, W = images.shape
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        own = " x ".join(map(str, getattr(model, "default_cfg", {}).get("input_size", (C, H, W))))
        raise UserError(
            f"{name} takes no images of {C} x {H} x {W}: {reason}; its published weights are for {own}"
        ) from error
