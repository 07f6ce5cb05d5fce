"""Latency and peak memory of a forward pass, in this process or in a fresh one of its own.

A fresh process gives the honest peak (nothing is kept from earlier work) and survives a model that does not fit:

    python -m densevit.benchmark.measure '{"model": "setr_pup_vit_base", "num_classes": 19, "image_size": [512, 512]}'
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from densevit.errors import UserError
from densevit.inference.device import autocast, choose_device, choose_dtype

MEGABYTE = 2**20
BUDGET_S = 20.0
"""No further forward is begun after so many seconds of them."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A forward pass as it ran."""

    latency_ms: float
    """Median time of one forward of the whole batch, in milliseconds."""
    images_per_s: float
    """Images per second at that latency."""
    peak_memory_mb: float
    """Peak memory during the forwards, weights included, in MiB: of the process (CPU), of the allocator (CUDA)."""
    forward_memory_mb: float
    """The part of it above what was in use before: activations and workspaces."""
    batch_size: int
    """Images per forward."""
    device: str
    """Name of the device."""
    dtype: str
    """Number type of matrix products."""
    num_threads: int
    """CPU threads in use."""


def measure_forward(
    model: nn.Module,
    *,
    input_shape: tuple[int, int, int, int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    repeats: int = 5,
) -> Measurement:
    """Run `model` on random images of `input_shape` (B, C, H, W): one warm-up, then the median of `repeats`.

    Slow models get fewer forwards, as many as begin within `BUDGET_S`; if the first alone takes longer, it is the
    measurement. Moves the model to `device` and sets it to eval.
    """
    if repeats < 1:
        raise UserError(f"repeats is {repeats}; a measurement needs at least 1")
    model.to(device).eval()
    images = torch.rand(input_shape, device=device)
    in_use_mb, peak_mb = _memory_probe(device)
    with torch.inference_mode(), autocast(device, dtype):
        seconds = [_timed(model, images)]  # memory is set up and kernels are chosen here
        while len(seconds) <= repeats and sum(seconds) < BUDGET_S:
            seconds.append(_timed(model, images))
    latency_s, peak = statistics.median(seconds[1:] or seconds), peak_mb()
    return Measurement(
        latency_ms=1000 * latency_s,
        images_per_s=input_shape[0] / latency_s,
        peak_memory_mb=peak,
        forward_memory_mb=max(peak - in_use_mb, 0.0),
        batch_size=input_shape[0],
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dtype=str(dtype).removeprefix("torch."),
        num_threads=torch.get_num_threads(),
    )


def measure_in_fresh_process(
    name: str,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    batch_size: int = 1,
    device: str | None = None,
    dtype: str = "float32",
    repeats: int = 5,
) -> Measurement:
    """Build the model called `name` in a new process and measure it there. UserError if that process fails.

    Where memory runs out it is that process that the system ends, not this one.
    """
    request = {
        "model": name,
        "num_classes": num_classes,
        "image_size": image_size,
        "batch_size": batch_size,
        "device": device,
        "dtype": dtype,
        "repeats": repeats,
    }
    command = [sys.executable, "-m", "densevit.benchmark.measure", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [
            f"it was ended by signal {-done.returncode}, as for lack of memory"
        ]
        raise UserError(f"{name} could not be run at {image_size[0]} x {image_size[1]}: {lines[-1]}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _timed(model: nn.Module, images: torch.Tensor) -> float:
    """Seconds of one forward, waiting for the device."""
    start = time.perf_counter()
    model(images)
    if images.device.type != "cpu":
        torch.accelerator.synchronize(images.device)
    return time.perf_counter() - start


def _memory_probe(device: torch.device) -> tuple[float, Callable[[], float]]:
    """Memory in use now, in MiB, and a function for its peak from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(
            device
        ) / MEGABYTE, lambda: torch.cuda.max_memory_allocated(device) / MEGABYTE
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: sets the peak back to the present
        return _status_mb(status, "VmRSS"), lambda: _status_mb(status, "VmHWM")
    except OSError:
        return _largest_rss_mb(), _largest_rss_mb


def _status_mb(status: Path, field: str) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024  # the kernel says kB and means KiB


def _largest_rss_mb() -> float:
    """Largest memory this process ever had; macOS counts bytes, others KiB."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (MEGABYTE if sys.platform == "darwin" else 1024)


def _main(request: dict[str, Any]) -> None:
    from densevit.models.catalog import create_model

    model = create_model(request["model"], num_classes=request["num_classes"])
    measurement = measure_forward(
        model,
        input_shape=(request.get("batch_size", 1), 3, *request["image_size"]),
        device=choose_device(request.get("device")),
        dtype=choose_dtype(request.get("dtype", "float32")),
        repeats=request.get("repeats", 5),
    )
    print(json.dumps(asdict(measurement)))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
