"""Shared by the benchmark scripts: interleaved timing, peak memory, and the line that says on what it ran."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def machine() -> str:
    """Device, threads, other load on the machine and version, in one line."""
    name = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({name or platform.processor()})"
    load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "?"
    return f"device {device}, {torch.get_num_threads()} threads, load {load} at the start, torch {torch.__version__}"


def compare(cases: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Median seconds of each case. The cases take turns, so that a busy machine slows all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for run in range(repeats + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if run:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory_mb(case: Callable[[], object]) -> float:
    """Peak resident memory of one call above what was in use before, in MiB (Linux); nan elsewhere."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    before = _status_kib("VmRSS")
    case()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    return int(next(line.split()[1] for line in _lines("/proc/self/status") if line.startswith(field + ":")))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
