"""Our own trained models on disk and on the Hugging Face hub: `save_pretrained`, `load_pretrained`, `push_to_hub`.

A model file stands alone (`model.safetensors`: tensors, and everything else as JSON in the file's header); a folder
with that name in it (a run folder, a Hugging Face repository) works as well, and so does a Lightning checkpoint
written by `densevit fit`.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from densevit.errors import UserError, unknown_name
from densevit.models.catalog import create_model
from densevit.weights.hub import download_file, upload_folder
from densevit.weights.info import FORMAT_VERSION, ModelInfo
from densevit.weights.model_card import MARKER, model_card

__all__ = [
    "CARD_FILE", "CONFIG_FILE", "FORMAT_VERSION", "HEADER_KEY", "MODEL_FILE", "ModelInfo",
    "find_model", "load_pretrained", "push_to_hub", "read_info", "save_pretrained",
]  # fmt: skip

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
HEADER_KEY = "densevit"
STORAGE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Number types that weights are stored in."""
_IN_RUN = (MODEL_FILE, "checkpoints/best.ckpt", "checkpoints/last.ckpt")


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    info: ModelInfo,
    dtype: str = "float32",
    license: str | None = None,
    name: str | None = None,
) -> Path:
    """Write `model.safetensors`, a readable `config.json` and a model card, `README.md`; returns the first.

    `dtype` "float16" or "bfloat16" halves the file: matrices and kernels are rounded, vectors (norms, biases) are not,
    and loading gives float32 again. `license` (a Hugging Face identifier such as "mit") and `name` ("user/model") go
    into the card; a README.md that is not generated is left as it is. UserError for an `info` that does not fit the
    model, and for weights that float16 cannot hold.
    """
    _check_info(info)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MODEL_FILE
    partial = path.with_suffix(".part")  # a stop in the middle must not leave half a model under the final name
    save_file(_stored(model, dtype), partial, metadata={HEADER_KEY: info.to_json(), "format": "pt"})
    partial.replace(path)
    readable = json.dumps(json.loads(info.to_json()), indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(readable + "\n", encoding="utf-8")
    _write_card(folder / CARD_FILE, info, license=license, name=name)
    return path


def load_pretrained(source: str | Path) -> tuple[nn.Module, ModelInfo]:
    """Load a model in eval mode, float32 on the CPU, with what it knows about itself.

    `source` is a model file, a run folder, a Lightning checkpoint or a Hugging Face name ("user/model",
    "user/model@revision"). UserError where there is no model, the file is damaged, or the weights do not fit the
    stored configuration.
    """
    path = find_model(source)
    info, tensors = _read_checkpoint(path) if path.suffix == ".ckpt" else _read_safetensors(path)
    # The weights are in the file: a model saved as "pretrained" must not fetch others first.
    model = create_model(**{key: value for key, value in info.model.items() if key != "pretrained"})
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        details = [line.strip().rstrip(".") for line in str(error).splitlines()[1:]] or [str(error)]
        raise UserError(
            f"the weights in {path} do not fit the model {info.model.get('name')!r} stored with them: {details[0]}"
            + (f" (and {len(details) - 1} more)" if len(details) > 1 else "")
        ) from error
    return model.eval(), info


def read_info(source: str | Path) -> ModelInfo:
    """The info stored with a model, without reading its weights where the format allows."""
    path = find_model(source)
    if path.suffix == ".ckpt":
        return _read_checkpoint(path)[0]
    with _open(path) as file:
        return _info_of(file.metadata(), path)


def push_to_hub(
    model: nn.Module | str | Path,
    repo_id: str,
    *,
    info: ModelInfo | None = None,
    private: bool = False,
    license: str | None = None,
    dtype: str = "float32",
    message: str = "Model",
    token: str | None = None,
) -> str:
    """Upload a model, or the one at a path, to the Hugging Face repository "user/model"; returns its address.

    Only the model file, `config.json` and the card go there, not the rest of a run folder; a README.md of the user's
    own in that folder goes along. Paths of this machine are taken out of the training record. A model itself needs
    `info`. `dtype` and `license` are those of `save_pretrained`; `token` is that of `hf auth login` when None.
    """
    own_card = None
    if isinstance(model, nn.Module):
        if info is None:
            raise UserError("give info=ModelInfo(...) with the model: its classes, palette, mean and deviation")
    else:
        card = Path(model).expanduser() / CARD_FILE
        own_card = card if _is_users_own(card) else None
        model, stored = load_pretrained(model)
        info = info or stored
    if own_card and license:
        raise UserError(f"{own_card} is your own text; write `license: {license}` into its first lines yourself")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if own_card:
            (folder / CARD_FILE).write_bytes(own_card.read_bytes())
        public = replace(info, training=_without_local_paths(info.training))
        save_pretrained(model, folder, info=public, dtype=dtype, license=license, name=repo_id)
        return upload_folder(folder, repo_id, private=private, message=message, token=token)


def find_model(source: str | Path) -> Path:
    """The model file that `source` means; a Hugging Face repository (`user/model`) is downloaded."""
    path = Path(source).expanduser()
    if not str(source).strip():
        raise UserError(
            "the model's name is empty; give a model file, a run folder or a Hugging Face name (user/model)"
        )
    if path.is_file():
        if path.suffix not in (".safetensors", ".ckpt"):
            raise UserError(f"{path} is no model of densevit; give a .safetensors or .ckpt file, or a run folder")
        return path
    if path.is_dir():
        for candidate in _IN_RUN:
            if (path / candidate).is_file():
                return path / candidate
        raise UserError(f"no {MODEL_FILE} in {path}; give a folder that `densevit fit` has written")
    if _may_be_on_hub(str(source)):
        return download_file(str(source), MODEL_FILE)
    raise UserError(f"no model at {source}; give a model file, a run folder or a Hugging Face name (user/model)")


def _may_be_on_hub(source: str) -> bool:
    """user/model, unless it begins with a folder that is here or ends as a file does: then it is a mistyped path."""
    first = source.partition("/")[0]
    is_path = first in ("", ".", "..", "~", "runs") or Path(first).exists()
    return source.count("/") == 1 and not is_path and not source.endswith((".safetensors", ".ckpt", ".pth", ".pt", "/"))


def _check_info(info: ModelInfo) -> None:
    if len(info.palette) != len(info.classes) and (info.palette or info.task != "classification"):
        raise UserError(f"info has {len(info.classes)} classes but {len(info.palette)} colours; give one for each")
    if len(info.mean) != len(info.std):
        raise UserError(f"info has {len(info.mean)} means but {len(info.std)} deviations; give one for each channel")
    if info.task in ("segmentation", "classification") and info.model.get("num_classes") != len(info.classes):
        raise UserError(
            f"info names {len(info.classes)} classes but its model has num_classes={info.model.get('num_classes')}"
        )


def _stored(model: nn.Module, dtype: str) -> dict[str, Tensor]:
    """The state dict as it goes into a file: on the CPU, no two names for one memory, matrices in `dtype`."""
    if dtype not in STORAGE:
        raise unknown_name("dtype of stored weights", dtype, STORAGE)
    tensors: dict[str, Tensor] = {}
    taken: set[int] = set()
    for key, value in model.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        if tensor.is_floating_point() and tensor.ndim > 1:
            rounded = tensor.to(STORAGE[dtype])
            if dtype == "float16" and rounded.isinf().any():
                raise UserError(f"{key} has values above 65504, which float16 cannot hold; use dtype='bfloat16'")
            tensor = rounded
        if tensor.untyped_storage().data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        tensors[key] = tensor
    return tensors


def _write_card(path: Path, info: ModelInfo, *, license: str | None, name: str | None) -> None:
    if not _is_users_own(path):
        given = {key: value for key, value in {"license": license, "name": name}.items() if value is not None}
        path.write_text(model_card(info, **given), encoding="utf-8")


def _is_users_own(card: Path) -> bool:
    return card.is_file() and MARKER not in card.read_text(encoding="utf-8", errors="replace")


def _without_local_paths(value: Any) -> Any:
    """Absolute paths, which tell strangers about this machine, shortened to their last part."""
    if isinstance(value, Mapping):
        return {key: None if key == "root" else _without_local_paths(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_local_paths(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).expanduser().is_absolute() else value


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
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path} cannot be read as a checkpoint ({type(error).__name__})") from error
    if not isinstance(checkpoint, Mapping) or HEADER_KEY not in checkpoint:
        raise UserError(f"{path} is a checkpoint of something else; give one that `densevit fit` has written")
    info = ModelInfo.from_json(checkpoint[HEADER_KEY], source=str(path))
    tensors = {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if k.startswith("model.")}
    return info, tensors
