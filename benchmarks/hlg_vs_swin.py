"""HLG against timm's Swin in one run: images/s and peak memory at 224, inference and training step.

    python benchmarks/hlg_vs_swin.py --models tiny small --batch 32 --threads 1 [--compile [MODE]] [--device cuda]

The models take turns, so that a change of the machine's load meets both. On a CPU a turn is a fresh process (beside
another model's maps, memory would come from the system more slowly) and the time its CPU seconds (threads summed),
which other programs disturb little; on a GPU a turn is one step, in wall time. Ratios above 1 mean that HLG is faster
or smaller. Memory is a step's peak above what was in use before it, once the model is warm and compiled: on a CPU of
the resident set, on a GPU of the allocator's.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import timm
import torch
from common import peak_memory_mb
from torch import nn

from densevit.kernels.pages import give_back
from densevit.models.hlg import create_hlg

PAIRS = {
    "tiny": ("hlg_tiny", "swin_tiny_patch4_window7_224"),
    "small": ("hlg_small", "swin_tiny_patch4_window7_224"),
    "medium": ("hlg_medium", "swin_small_patch4_window7_224"),
    "large": ("hlg_large", "swin_base_patch4_window7_224"),
}
PAPER = {"tiny": (734, 755), "small": (697, 755), "medium": (392, 437), "large": (221, 278)}  # Table 8, images/s
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
TARGET = {"tiny": 1.5, "small": 1.0, "medium": 1.0, "large": 1.0}


def build(name: str, args: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    with torch.device(args.device):  # where drawing the weights takes less time
        model = create_hlg(name) if name.startswith("hlg") else timm.create_model(name)
    if args.checkpoint_hlg and name.startswith("hlg"):
        model.set_grad_checkpointing()
    return torch.compile(model, mode=args.compile) if args.compile else model


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


def time_steps(
    models: list[nn.Module], images: torch.Tensor, *, train: bool, dtype: str, repeats: int
) -> list[list[float]]:
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


def print_turn(args: argparse.Namespace) -> None:
    """What a process of its own does: the seconds of each step and the peak, as JSON."""
    model, images = build(args.turn_of, args), torch.randn(args.batch, 3, 224, 224)
    how = {"train": args.modes[0] == "train", "dtype": args.dtypes[0]}
    (seconds,) = time_steps([model], images, repeats=args.repeats, **how)
    gc.collect()
    give_back()
    ctypes.CDLL(None).malloc_trim(0)  # nothing that is free hides what the step below takes
    print(json.dumps([seconds, None if args.no_memory else peak_memory_mb(lambda: step(model, images, **how))]))


def take_turns(names: tuple[str, str], args: argparse.Namespace, mode: str, dtype: str) -> tuple[list, list]:
    """Seconds per step and peaks of both models on a CPU, `args.rounds` processes of each."""
    seconds: list[list[float]] = [[], []]
    peaks: list[list[float]] = [[], []]
    shared = ["--batch", args.batch, "--threads", args.threads, "--repeats", args.repeats]
    flags = ["--compile", args.compile] if args.compile else []
    flags += ["--checkpoint-hlg"] * args.checkpoint_hlg + ["--no-memory"] * args.no_memory
    for _ in range(args.rounds):
        for index, name in enumerate(names):
            command = [sys.executable, __file__, "--turn-of", name, "--modes", mode, "--dtypes", dtype, *shared, *flags]
            done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
            of_turn, peak = json.loads(done.stdout.splitlines()[-1])
            seconds[index] += of_turn
            peaks[index].append(peak)
    return seconds, [None if args.no_memory else statistics.median(values) for values in peaks]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--modes", nargs="+", default=["infer", "train"], choices=["infer", "train"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of a turn (GPU: of a row)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each model, on a CPU")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", nargs="?", const="default", choices=COMPILE_MODES, help="by torch.compile")
    parser.add_argument("--checkpoint-hlg", action="store_true", help="HLG keeps only each layer's input in training")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="append one line per row to this file")
    parser.add_argument("--turn-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.turn_of:
        print_turn(args)
        return
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} thread(s)"
    clock = "wall" if args.device == "cuda" else "process CPU"
    compiled = "compiled" if args.compile == "default" else f"compiled ({args.compile})"
    mode = (compiled if args.compile else "eager") + ", HLG checkpointed" * args.checkpoint_hlg
    print(f"# torch {torch.__version__}, {device}, 224 px, batch {args.batch}, {mode}, {clock} time, in turns")
    print("| model | step | dtype | HLG img/s | Swin img/s | ratio of minima | of medians | target | memory Swin/HLG |")
    print("|---|---|---|---|---|---|---|---|---|")
    on_gpu = args.device == "cuda"
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    for name in args.models:
        models = [build(other, args) for other in PAIRS[name]] if on_gpu else []
        for kind in args.modes:
            for dtype in args.dtypes:
                how = {"train": kind == "train", "dtype": dtype}
                if on_gpu:
                    ours, swin = time_steps(models, images, repeats=args.repeats, **how)
                    peaks = [None if args.no_memory else allocated_mb(model, images, **how) for model in models]
                else:
                    (ours, swin), peaks = take_turns(PAIRS[name], args, kind, dtype)
                row = {
                    "model": name, "step": kind, "dtype": dtype, "mode": mode, "batch": args.batch, "device": device,
                    "hlg_images_s": args.batch / min(ours), "swin_images_s": args.batch / min(swin),
                    "ratio_min": min(swin) / min(ours),
                    "ratio_median": statistics.median(swin) / statistics.median(ours),
                }  # fmt: skip
                row["hlg_mb"], row["swin_mb"] = peaks
                memory = "-" if None in peaks else f"{peaks[1] / peaks[0]:.2f} ({peaks[0]:.0f} MB)"
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
