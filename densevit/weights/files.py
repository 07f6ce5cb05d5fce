"""Reading tensors from a path or URL: .npz, .safetensors or a PyTorch checkpoint, without running code in the file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from densevit.errors import UserError

WRAPPERS = ("state_dict", "model", "module")
"""Keys under which training programs put the tensors; DeiT uses "model", mmsegmentation and Lightning "state_dict"."""


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a local path or http(s) URL; wrappers such as "state_dict" and "module." are taken off.

    UserError where the file is missing, damaged or no checkpoint.
    """
    path = download(str(source)) if is_url(source) else Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"no weights file at {path}; give a .pth, .safetensors or .npz file, a URL or a timm name")
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _unwrap(_read_pickle(path), path)


def is_url(source: str | Path) -> bool:
    return str(source).startswith(("https://", "http://"))


def download(url: str) -> Path:
    """The local copy of `url` in torch.hub's cache, fetched on first use.

    A hash in the name ("...-b3be5167.pth") is checked, as torch.hub does.
    """
    name = os.path.basename(urlparse(url).path)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        hashed = re.search(r"-([0-9a-f]{8,})\.", name)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=hashed[1] if hashed else None)
        except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the hash does not fit
            raise UserError(f"cannot download {url} ({error}); fetch it by other means and give its path") from error
    return path


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise UserError(f"{path} cannot be read as .npz ({error}); the file may be cut short") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}); the file may be cut short") from error
    return _without_prefixes(tensors)


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds for files that are no checkpoints
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path} is no checkpoint of tensors that can be read safely ({reason})") from error


def _unwrap(checkpoint: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(checkpoint, Mapping):
        inner = next((checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None)
        if inner is None:
            break
        checkpoint = inner
    tensors = {}
    if isinstance(checkpoint, Mapping):
        tensors = {str(name): value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors by name; give a checkpoint or a state dict")
    return _without_prefixes(tensors)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off "module." (data parallel) and "model." (Lightning), where every name has it."""
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
