"""What a trained model is, beside its weights: the JSON in the header of our model files and in `config.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from densevit.errors import UserError

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a trained model needs beside its weights to be used: stored as JSON with them."""

    task: str
    """"segmentation", "detection" or "classification"."""
    model: Mapping[str, Any]
    """Arguments of `create_model`: `name`, `num_classes` and the rest (`dict(model.config)`)."""
    classes: tuple[str, ...]
    """Class names, in index order."""
    palette: tuple[tuple[int, int, int], ...]
    """One RGB colour (0-255) per class; none for classification."""
    category_ids: tuple[int, ...] = ()
    """Ids of the classes in the data set's json, for COCO's result files (detection); none where it has no such ids."""
    mean: tuple[float, ...]
    """Per-channel mean of the input, on the 0-255 scale."""
    std: tuple[float, ...]
    """Per-channel standard deviation of the input, on the 0-255 scale."""
    inference: Mapping[str, Any] = field(default_factory=dict)
    """How the model was evaluated, as a dict: `InferenceConfig` (whole image or sliding window, resizing, scales),
    `DetectionConfig` or the resizing of a classifier."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Scores on the validation split at the time of saving."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The resolved experiment, for the record."""

    def to_json(self) -> str:
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> "ModelInfo":
        """Parse a header; UserError for one of another format version, or that is damaged."""
        try:
            values = json.loads(text)
            version = values.pop("format_version", None)
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{source} has a damaged densevit header ({error}); save the model again") from error
        if version != FORMAT_VERSION:
            raise UserError(
                f"{source} has model format {version}, this densevit reads {FORMAT_VERSION}; "
                "use the version of densevit that saved it"
            )
        try:
            values["classes"] = tuple(values["classes"])
            values["palette"] = tuple((r, g, b) for r, g, b in values["palette"])
            values["mean"], values["std"] = tuple(values["mean"]), tuple(values["std"])
            values["category_ids"] = tuple(values.get("category_ids", ()))
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{source} has an incomplete densevit header ({error}); save the model again") from error
