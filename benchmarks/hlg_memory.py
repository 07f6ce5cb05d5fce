"""Peak memory and time of the HLG backbone in inference as the image grows: 512^2, 1024^2, 1024x2048, one image.

    python benchmarks/hlg_memory.py --model hlg_small --threads 1 [--dtype bf16] [--sizes 512x512 1024x1024]

Every size runs in a process of its own; the peak is its resident set above the built model (a GPU: the allocator's).
The last column is the peak per pixel relative to the first size: 1.0 is linear growth.
"""

import argparse
import contextlib
import subprocess
import sys
import time

import torch
from common import peak_memory_mb

from densevit.models.hlg import create_hlg

SIZES = ["512x512", "1024x1024", "1024x2048"]


def run_one(args: argparse.Namespace) -> None:
    """Print the seconds and the peak MB of one forward pass at the first size."""
    height, width = map(int, args.sizes[0].split("x"))
    model = create_hlg(args.model, features_only=True).eval().to(args.device)
    images = torch.randn(1, 3, height, width, device=args.device)
    autocast = torch.autocast(args.device, torch.bfloat16) if args.dtype == "bf16" else contextlib.nullcontext()
    start = time.process_time()
    with torch.inference_mode(), autocast:
        peak = peak_memory_mb(lambda: model(images))
    if args.device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(time.process_time() - start, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hlg_small")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        run_one(args)
        return
    print(f"# {args.model}, {args.dtype}, {args.device}, {args.threads} thread(s), torch {torch.__version__}")
    print("| image | CPU s, first call | peak MB above the model | MB per megapixel | relative |")
    print("|---|---|---|---|---|")
    first = None
    for size in args.sizes:
        command = [sys.executable, __file__, "--one", "--model", args.model, "--dtype", args.dtype, "--sizes", size]
        command += ["--threads", str(args.threads), "--device", args.device]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        seconds, peak = float(out[-2]), float(out[-1])
        height, width = map(int, size.split("x"))
        density = peak / (height * width / 1e6)
        first = first or density
        print(f"| {size} | {seconds:.2f} | {peak:.0f} | {density:.0f} | {density / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
