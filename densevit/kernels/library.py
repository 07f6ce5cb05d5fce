"""Call a kernel by its name: on a CPU those of `source/*.cpp`, on a GPU those of `gpu/*.py`.

The former are compiled once per machine, into `$XDG_CACHE_HOME/densevit` (`~/.cache/densevit`) under a name made from
the sources, the compiler and the processor; the latter by Triton, which keeps them in `~/.triton/cache`. Where they
cannot be built, or with `DENSEVIT_KERNELS=0`, the models run on PyTorch's own operators.
"""

import ctypes
import hashlib
import importlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from densevit.kernels.operators import register, register_new_map
from densevit.kernels.pages import kept_map

SOURCE = Path(__file__).parent / "source"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
LANES = 8
"""Channels are taken this many at a time; other numbers go through PyTorch."""

GPU_TYPES = (torch.float32, torch.bfloat16)
GPU_ELEMENTS = 2**28
"""An image's part of a layer's map may be no larger on a GPU: inside, up to eight times that, 32 bits count them."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's own switch: its kernels run on a CPU, cell by cell, to be tested or debugged."""


def on_gpu(x: Tensor) -> bool:
    """Whether the kernels of `gpu` are those for this map."""
    return INTERPRETED or x.device.type == "cuda"


def usable(*maps: Tensor) -> bool:
    """Whether the kernels take these maps: run now or compiled, not exported, traced or transformed.

    On a CPU they take float32 that autocast leaves so, on a GPU also bfloat16, or float32 that autocast makes that.
    """
    if torch.compiler.is_compiling():
        if torch.compiler._is_exporting_flag:  # `is_exporting()` is always true to the compiler of torch 2.11
            return False
    elif torch.jit.is_tracing() or is_transformed():
        return False
    device, gpu = maps[0].device, on_gpu(maps[0])
    types = GPU_TYPES if gpu else (torch.float32,)
    if device.type not in ("cpu", "cuda"):
        return False
    if torch.is_autocast_enabled(device.type) and not (gpu and torch.get_autocast_dtype(device.type) in types):
        return False
    if (gpu and maps[0].numel() >= maps[0].shape[0] * GPU_ELEMENTS) or not all(like(x, device, types) for x in maps):
        return False
    return _are_there(device, gpu)


@torch.compiler.assume_constant_result
def _are_there(device: torch.device, gpu: bool) -> bool:
    return (gpu_kernels(device) if gpu else library()) is not None


def is_transformed() -> bool:
    """Whether tensors may be more than their values: recorded, mapped over or with tangents."""
    return (
        _len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def like(x: Tensor, device: torch.device, types: tuple[torch.dtype, ...]) -> bool:
    """Whether `x` is numbers in memory, of such a type and there; subclasses (quantized, distributed) are not."""
    return x.dtype in types and x.device == device and type(x) in (Tensor, torch.nn.Parameter)


def call(name: str, *arguments: Tensor | int | float | tuple[int, ...] | tuple[Tensor, ...] | None) -> None:
    """Run one kernel; on a CPU on as many threads as PyTorch uses. Tensors must lie as the kernel expects them."""
    if torch.compiler.is_compiling():
        getattr(torch.ops.densevit, name)(*arguments)
    else:
        _run(name, *arguments)


def _run(name: str, *arguments: Any) -> None:
    first = arguments[0]
    assert isinstance(first, Tensor)
    if on_gpu(first):
        kernel = getattr(gpu_kernels(first.device), name)
        if INTERPRETED or first.device.index == torch.cuda.current_device():
            kernel(*arguments)
        else:
            with torch.cuda.device_of(first):
                kernel(*arguments)
        return
    kernels = library()
    assert kernels is not None
    getattr(kernels, name)(*map(_argument, arguments), ctypes.c_long(torch.get_num_threads()))


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    if isinstance(value, tuple) and isinstance(value[0], Tensor):
        return (ctypes.c_void_p * len(value))(*(tensor.data_ptr() for tensor in value))
    if isinstance(value, tuple):
        return (ctypes.c_int64 * len(value))(*value)
    return ctypes.c_long(value) if isinstance(value, int) else value


@cache
def gpu_kernels(device: torch.device) -> ModuleType | None:
    """The kernels for this GPU; None where they are switched off or cannot run (told once, with the reason)."""
    if os.environ.get("DENSEVIT_KERNELS", "1") == "0":
        return None
    if not INTERPRETED and (torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0)):
        return None  # never tried there
    try:
        kernels = importlib.import_module("densevit.kernels.gpu.table")
        vector = torch.ones(8, device=device)
        with torch.cuda.device_of(vector):
            kernels.affine_gelu(vector, vector, vector, torch.empty_like(vector), 1, 8)  # Triton needs a C compiler
            if not INTERPRETED:
                torch.cuda.synchronize()
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        _tell(f"Triton cannot run: {reason[0]}", "GPU")
        return None
    return kernels


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they are switched off, or cannot be built (told once, with the reason)."""
    if os.environ.get("DENSEVIT_KERNELS", "1") == "0":
        return None
    compiler = _compiler()
    if compiler is None:
        _tell("there is no C++ compiler (c++, or the one that CXX names)")
        return None
    try:
        path = _directory() / f"kernels-{_fingerprint(compiler)}.so"
        if not path.exists():
            _build(compiler, path)
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        _tell(f"{' '.join(compiler)} failed: {(error.stderr.strip().splitlines() or ['no message'])[0]}")
    except (OSError, RuntimeError) as error:  # the latter where there is no home folder
        _tell(str(error))
    return None


def _compiler() -> list[str] | None:
    """The compiler that CXX names, a file or a command with arguments such as `ccache g++`; None if there is none."""
    given = os.environ.get("CXX", "c++")
    if shutil.which(given):
        return [given]
    try:
        command = shlex.split(given)
    except ValueError:
        return None
    return command if command and shutil.which(command[0]) else None


def _tell(reason: str, device: str = "CPU") -> None:
    warnings.warn(
        f"HLG runs without its {device} kernels, and is slower on a {device}: {reason}; "
        "set DENSEVIT_KERNELS=0 if that is meant",
        stacklevel=2,
    )


def _directory() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "densevit"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fingerprint(compiler: list[str]) -> str:
    """Of all that decides what the compiler makes; a home folder may be shared by unlike machines."""
    digest = hashlib.sha256(" ".join((*compiler, *FLAGS, platform.machine())).encode())
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.read_bytes())
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        digest.update(
            "".join(
                sorted({line for line in cpu.read_text().splitlines() if "flags" in line.lower() or "Features" in line})
            ).encode()
        )
    return digest.hexdigest()[:16]


def _build(compiler: list[str], path: Path) -> None:
    """Into a file of its own first: several processes may come at once."""
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        sources = map(str, sorted(SOURCE.glob("*.cpp")))
        subprocess.run([*compiler, *FLAGS, *sources, "-o", temporary], check=True, capture_output=True, text=True)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


register(_run)
register_new_map(kept_map)
