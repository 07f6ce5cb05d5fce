"""Compile `source/*.cpp` once per machine, load it, and call its functions with tensors.

The result lies in `$XDG_CACHE_HOME/densevit` (`~/.cache/densevit`) under a name made from the sources, the compiler and
the processor. Where it cannot be built, or with `DENSEVIT_KERNELS=0`, the models run on PyTorch's own operators.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _len_torch_dispatch_stack

SOURCE = Path(__file__).parent / "source"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
LANES = 8
"""Channels are taken this many at a time; other numbers go through PyTorch."""


def usable(*maps: Tensor) -> bool:
    """Whether the kernels take these maps: float32 on a CPU, run now, not recorded, and not to be cast on the way."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _len_torch_dispatch_stack():
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    plain = all(
        x.device.type == "cpu" and x.dtype == torch.float32 and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        for x in maps
    )
    return plain and library() is not None


def call(name: str, *arguments: Tensor | int | float | ctypes.Array[Any] | None) -> None:
    """Run one kernel on as many threads as PyTorch uses. Tensors must lie as the kernel expects them."""
    kernels = library()
    assert kernels is not None
    getattr(kernels, name)(*map(_argument, arguments), ctypes.c_long(torch.get_num_threads()))


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_long(value) if isinstance(value, int) else value


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they are switched off, or cannot be built (told once, with the reason)."""
    if os.environ.get("DENSEVIT_KERNELS", "1") == "0":
        return None
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        _tell("there is no C++ compiler (c++, or the one that CXX names)")
        return None
    try:
        path = _directory() / f"kernels-{_fingerprint(compiler)}.so"
        if not path.exists():
            _build(compiler, path)
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        _tell(f"{compiler} failed: {(error.stderr.strip().splitlines() or ['no message'])[0]}")
    except OSError as error:
        _tell(str(error))
    return None


def _tell(reason: str) -> None:
    warnings.warn(
        f"HLG runs without its CPU kernels, and is slower on a CPU: {reason}; set DENSEVIT_KERNELS=0 if that is meant",
        stacklevel=2,
    )


def _directory() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "densevit"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fingerprint(compiler: str) -> str:
    """Of all that decides what the compiler makes; a home folder may be shared by unlike machines."""
    digest = hashlib.sha256(" ".join((compiler, *FLAGS, platform.machine())).encode())
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


def _build(compiler: str, path: Path) -> None:
    """Into a file of its own first: several processes may come at once."""
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        sources = map(str, sorted(SOURCE.glob("*.cpp")))
        subprocess.run([compiler, *FLAGS, *sources, "-o", temporary], check=True, capture_output=True, text=True)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
