"""HLG by its CPU kernels against HLG by PyTorch's operators, in turns in one run: seconds a batch at 224, the ratio.

python benchmarks/hlg_kernels.py --models hlg_tiny hlg_small --threads 1 --repeats 4
"""

import argparse
import time
from unittest import mock

import torch

from densevit.kernels import library
from densevit.models.hlg import HLG, create_hlg


def seconds(model: HLG, images: torch.Tensor, *, train: bool) -> float:
    """CPU seconds of one batch."""
    start = time.process_time()
    with torch.set_grad_enabled(train):
        logits = model(images)
    if train:
        logits.square().mean().backward()
        model.zero_grad(set_to_none=True)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["hlg_tiny", "hlg_small"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if library.library() is None:
        parser.exit(2, "the kernels cannot be built here\n")
    print(
        f"# torch {torch.__version__}, {args.threads} CPU thread(s), fp32, 224 px, batch {args.batch}, process CPU time"
    )
    print("| model | step | kernels, s | PyTorch, s | ratio of minima |\n|---|---|---|---|---|")
    images = torch.randn(args.batch, 3, 224, 224)
    for name in args.models:
        for train in (False, True):
            model, ours, theirs = create_hlg(name).train(train), [], []
            for _ in range(args.repeats + 1):
                ours.append(seconds(model, images, train=train))
                with mock.patch.object(library, "library", return_value=None):
                    theirs.append(seconds(model, images, train=train))
            a, b = min(ours[1:]), min(theirs[1:])
            print(f"| {name} | {'train' if train else 'infer'} | {a:.2f} | {b:.2f} | {b / a:.2f} |", flush=True)


if __name__ == "__main__":
    main()
