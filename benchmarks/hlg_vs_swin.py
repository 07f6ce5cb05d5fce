"""HLG against timm's Swin in one run: images/s and peak memory at 224, inference and training step.

    python benchmarks/hlg_vs_swin.py --models tiny small --batch 8 --threads 1 --repeats 5 [--compile] [--device cuda]

Both models are built once and timed in turns, so that a change of the machine's load meets both. On a CPU the time is
the process's own CPU seconds (threads summed), which other programs disturb little; on a GPU it is wall time. Ratios
above 1 mean that HLG is faster or smaller. Peak memory is above the built model: on a CPU the resident set of a fresh
process per model, on a GPU the allocator's peak in a step.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import timm
import torch
from torch import nn

from densevit.models.hlg import create_hlg

PAIRS = {
    "tiny": ("hlg_tiny", "swin_tiny_patch4_window7_224"),
    "small": ("hlg_small", "swin_tiny_patch4_window7_224"),
    "medium": ("hlg_medium", "swin_small_patch4_window7_224"),
    "large": ("hlg_large", "swin_base_patch4_window7_224"),
}
PAPER = {"tiny": (734, 755), "small": (697, 755), "medium": (392, 437), "large": (221, 278)}  # Table 8, images/s
TARGET = {"tiny": 1.5, "small": 1.0, "medium": 1.0, "large": 1.0}


def build(name: str, args: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    with torch.device(args.device):  # where drawing the weights takes less time
        model = create_hlg(name) if name.startswith("hlg") else timm.create_model(name)
    if args.checkpoint_hlg and name.startswith("hlg"):
        model.set_grad_checkpointing()
    return torch.compile(model) if args.compile else model


def autocast(dtype: str, device: str) -> contextlib.AbstractContextManager:
    return torch.autocast(device, dtype=torch.bfloat16) if dtype == "bf16" else contextlib.nullcontext()


def step(model: nn.Module, images: torch.Tensor, *, train: bool, dtype: str) -> None:
    with torch.set_grad_enabled(train), autocast(dtype, images.device.type):
        logits = model(images)
    if train:
        logits.float().square().mean().backward()
        model.zero_grad(set_to_none=True)
    if images.is_cuda:
        torch.cuda.synchronize()


def time_pair(models: list[nn.Module], images: torch.Tensor, *, train: bool, dtype: str, repeats: int) -> list[list]:
    """Seconds per step of each model, the models taking turns; the first round warms up and is dropped."""
    clock = time.perf_counter if images.is_cuda else time.process_time
    seconds: list[list[float]] = [[] for _ in models]
    for model in models:
        model.train(train)
    # One autocast region around all rounds, so that inference does not cast the weights on every call.
    with autocast(dtype, images.device.type) if not train else contextlib.nullcontext():
        for _ in range(repeats + 1):
            for index, model in enumerate(models):
                start = clock()
                step(model, images, train=train, dtype=dtype)
                seconds[index].append(clock() - start)
    return [values[1:] for values in seconds]


def allocated_mb(model: nn.Module, images: torch.Tensor, *, train: bool, dtype: str) -> float:
    """Peak of a step on a GPU, above what was allocated before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(model, images, train=train, dtype=dtype)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peak_memory_mb(name: str, args: argparse.Namespace, *, train: bool, dtype: str) -> float:
    """Peak of one process that runs two steps, above what it held once the model was built."""
    command = [sys.executable, __file__, "--memory-of", name, "--batch", str(args.batch)]
    command += ["--threads", str(args.threads), "--dtypes", dtype, "--modes", "train" if train else "infer"]
    command += ["--compile"] * args.compile + ["--checkpoint-hlg"] * args.checkpoint_hlg
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def resident_mb(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def print_own_memory(args: argparse.Namespace) -> None:
    model = build(args.memory_of, args)
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    train = args.modes[0] == "train"
    model.train(train)
    before = resident_mb("VmRSS")
    for _ in range(2):
        step(model, images, train=train, dtype=args.dtypes[0])
    print(resident_mb("VmHWM") - before)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--modes", nargs="+", default=["infer", "train"], choices=["infer", "train"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoint-hlg", action="store_true", help="HLG keeps only each layer's input in training")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="append one line per row to this file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print_own_memory(args)
        return
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} thread(s)"
    clock = "wall" if args.device == "cuda" else "process CPU"
    mode = ("compiled" if args.compile else "eager") + ", HLG checkpointed" * args.checkpoint_hlg
    print(f"# torch {torch.__version__}, {device}, 224 px, batch {args.batch}, {mode}, {clock} time, interleaved")
    print("| model | step | dtype | HLG img/s | Swin img/s | ratio of minima | of medians | target | memory Swin/HLG |")
    print("|---|---|---|---|---|---|---|---|---|")
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    for name in args.models:
        models = [build(other, args) for other in PAIRS[name]]
        for kind in args.modes:
            for dtype in args.dtypes:
                train = kind == "train"
                ours, swin = time_pair(models, images, train=train, dtype=dtype, repeats=args.repeats)
                row = {
                    "model": name, "step": kind, "dtype": dtype, "mode": mode, "batch": args.batch, "device": device,
                    "hlg_images_s": args.batch / min(ours), "swin_images_s": args.batch / min(swin),
                    "ratio_min": min(swin) / min(ours),
                    "ratio_median": statistics.median(swin) / statistics.median(ours),
                }  # fmt: skip
                memory = "-"
                if not args.no_memory:
                    if images.is_cuda:
                        peaks = [allocated_mb(model, images, train=train, dtype=dtype) for model in models]
                    else:
                        peaks = [peak_memory_mb(other, args, train=train, dtype=dtype) for other in PAIRS[name]]
                    row["hlg_mb"], row["swin_mb"] = peaks
                    memory = f"{peaks[1] / peaks[0]:.2f} ({peaks[0]:.0f} MB)"
                print(
                    f"| {name} | {kind} | {dtype} | {row['hlg_images_s']:.2f} | {row['swin_images_s']:.2f} "
                    f"| {row['ratio_min']:.2f} | {row['ratio_median']:.2f} | {TARGET[name]} | {memory} |",
                    flush=True,
                )
                if args.json:
                    with args.json.open("a") as file:
                        file.write(json.dumps(row) + "\n")
        print(f"# {name}: the paper's ratio (Table 8, V100) is {PAPER[name][0] / PAPER[name][1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
