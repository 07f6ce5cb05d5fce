"""Our own trained models on disk: tensors in safetensors, everything else as JSON in the same file's header.

A model file stands alone (`model.safetensors`); a folder with that name in it (a run folder, a Hugging Face
repository) works as well, and so does a Lightning checkpoint written by `densevit fit`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from densevit.errors import UserError
from densevit.models.catalog import create_model

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
HEADER_KEY = "densevit"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a trained model needs beside its weights to be used: stored as JSON with them."""

    task: str
    """"segmentation", "detection" or "classification"."""
    model: Mapping[str, Any]
    """Arguments of `create_model`: `name`, `num_classes` and the rest."""
    classes: tuple[str, ...]
    """Class names, in index order."""
    palette: tuple[tuple[int, int, int], ...]
    """One RGB colour (0-255) per class."""
    mean: tuple[float, ...]
    """Per-channel mean of the input, on the 0-255 scale."""
    std: tuple[float, ...]
    """Per-channel standard deviation of the input, on the 0-255 scale."""
    inference: Mapping[str, Any] = field(default_factory=dict)
    """How the model was evaluated (`InferenceConfig` as a dict): whole image or sliding window, resizing, scales."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Scores on the validation split at the time of saving."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The resolved experiment, for the record."""

    def to_json(self) -> str:
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> "ModelInfo":
        """Parse a header; UserError for one of a newer format."""
        values = json.loads(text)
        version = values.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise UserError(f"{source} has model format {version}, this densevit reads {FORMAT_VERSION}; upgrade densevit")
        values["classes"] = tuple(values["classes"])
        values["palette"] = tuple((r, g, b) for r, g, b in values["palette"])
        values["mean"], values["std"] = tuple(values["mean"]), tuple(values["std"])
        return cls(**values)


def save_pretrained(model: nn.Module, folder: str | Path, *, info: ModelInfo) -> Path:
    """Write `model.safetensors` (weights and info) and a readable `config.json` into `folder`; returns the former."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MODEL_FILE
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    partial = path.with_suffix(".part")  # a stop in the middle must not leave half a model under the final name
    save_file(tensors, partial, metadata={HEADER_KEY: info.to_json(), "format": "pt"})
    partial.replace(path)
    readable = json.dumps(json.loads(info.to_json()), indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(readable + "\n", encoding="utf-8")
    return path


def load_pretrained(source: str | Path) -> tuple[nn.Module, ModelInfo]:
    """Load a model in eval mode from a file, a run folder, a Lightning checkpoint or a Hugging Face repository name.

    UserError where there is no model, the file is damaged, or the weights do not fit the stored configuration.
    """
    path = find_model(source)
    info, tensors = _read_checkpoint(path) if path.suffix == ".ckpt" else _read_safetensors(path)
    model = create_model(**info.model)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise UserError(f"the weights in {path} do not fit their own configuration: {error}") from error
    return model.eval(), info


def find_model(source: str | Path) -> Path:
    """The model file that `source` means; a Hugging Face repository (`user/name`) is downloaded."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in (".safetensors", ".ckpt"):
            raise UserError(f"{path} is no model of densevit; give a .safetensors or .ckpt file, or a run folder")
        return path
    if path.is_dir():
        for candidate in (path / MODEL_FILE, path / "checkpoints" / "last.ckpt"):
            if candidate.is_file():
                return candidate
        raise UserError(f"no {MODEL_FILE} in {path}; give a folder that `densevit fit` has written")
    if str(source).count("/") == 1 and not str(source).startswith((".", "/", "~", "runs/")):
        return _download(str(source))
    raise UserError(f"no model at {source}; give a model file, a run folder or a Hugging Face name (user/model)")


def read_info(source: str | Path) -> ModelInfo:
    """The info stored with a model, without reading its weights where the format allows."""
    path = find_model(source)
    if path.suffix == ".ckpt":
        return _read_checkpoint(path)[0]
    with _open(path) as file:
        return _info_of(file.metadata(), path)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); the file may be cut short") from error


def _info_of(metadata: Mapping[str, str] | None, path: Path) -> ModelInfo:
    if not metadata or HEADER_KEY not in metadata:
        raise UserError(f"{path} holds tensors but no densevit header; was it written by `densevit fit`?")
    return ModelInfo.from_json(metadata[HEADER_KEY], source=str(path))


def _read_safetensors(path: Path) -> tuple[ModelInfo, dict[str, Tensor]]:
    with _open(path) as file:
        info = _info_of(file.metadata(), path)
        return info, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)


def _read_checkpoint(path: Path) -> tuple[ModelInfo, dict[str, Tensor]]:
    """A Lightning checkpoint: the weights under "model." and our header beside them."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path} cannot be read as a checkpoint ({type(error).__name__})") from error
    if HEADER_KEY not in checkpoint:
        raise UserError(f"{path} is a checkpoint of something else; give one that `densevit fit` has written")
    info = ModelInfo.from_json(checkpoint[HEADER_KEY], source=str(path))
    tensors = {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if k.startswith("model.")}
    return info, tensors


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, MODEL_FILE))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{name} is neither a local path nor a model to be had from Hugging Face ({error})") from error
