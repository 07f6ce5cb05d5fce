"""The model that comes with the package, for those who give none."""

from importlib import resources
from pathlib import Path

from densevit.errors import UserError
from densevit.weights.info import ModelInfo

DEFAULT_MODEL = "camvid_hlg.safetensors"
"""Its file in `densevit/assets`."""


def default_model() -> Path:
    """The packaged model file. UserError in an installation that has none."""
    path = Path(str(resources.files("densevit") / "assets" / DEFAULT_MODEL))
    if not path.is_file():
        raise UserError(
            "no model was given, and this installation brings none along; "
            "give a run folder, a model file or a Hugging Face name (--model RUN_OR_FILE)"
        )
    return path


def describe(info: ModelInfo) -> str:
    """A model in a few words: its name, what it was trained on, how it scores.

    >>> describe(info)
    'semantic_fpn_hlg_tiny, trained on camvid (mIoU 63.2 %)'
    """
    data = info.training.get("data", {}).get("name")
    trained = f", trained on {data}" if data else ""
    score = next((f" ({name} {100 * value:.1f} %)" for name, value in info.metrics.items()), "")
    return f"{info.model.get('name', 'a model')}{trained}{score}"
