"""densevit: dense prediction with vision transformers (SETR and HLG).

    import densevit
    model = densevit.create_model("setr_pup_vit_small", num_classes=11)
    logits = model(images)                                      # (B, 3, H, W) -> (B, 11, H, W)
    result = densevit.Predictor.from_pretrained("runs/demo")("street.jpg")

Names are imported on first use, so that `import densevit` and `densevit --help` stay fast.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densevit.classifier import Classifier as Classifier
    from densevit.errors import UserError as UserError
    from densevit.models.catalog import create_model as create_model
    from densevit.models.catalog import list_models as list_models
    from densevit.object_detector import ObjectDetector as ObjectDetector
    from densevit.predictor import Predictor as Predictor
    from densevit.weights.info import ModelInfo as ModelInfo
    from densevit.weights.pretrained import load_pretrained as load_pretrained
    from densevit.weights.pretrained import push_to_hub as push_to_hub
    from densevit.weights.pretrained import save_pretrained as save_pretrained

__version__ = "0.1.0"

_HOME = {
    "create_model": "densevit.models.catalog",
    "list_models": "densevit.models.catalog",
    "Predictor": "densevit.predictor",
    "Classifier": "densevit.classifier",
    "ObjectDetector": "densevit.object_detector",
    "ModelInfo": "densevit.weights.info",
    "save_pretrained": "densevit.weights.pretrained",
    "load_pretrained": "densevit.weights.pretrained",
    "push_to_hub": "densevit.weights.pretrained",
    "UserError": "densevit.errors",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'densevit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _join_timm() -> None:
    """Have HLG in timm's registry, without importing timm here: at once if it is loaded, else as soon as it is."""
    if "timm" in sys.modules:
        import_module("densevit.models.hlg_timm")
    else:
        from densevit.after_import import call_after_import

        call_after_import("timm", lambda: import_module("densevit.models.hlg_timm"))


_join_timm()
