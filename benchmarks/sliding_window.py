"""Sliding-window inference, everything but the network: ours against the obvious way, in one run.

    python benchmarks/sliding_window.py | tee benchmarks/results/sliding_window.txt

The network is replaced by a constant, so that only the work around it counts.
obvious: every window's logits padded to the whole image and added, a count map built the same way, the division as a
copy, one resize to the size it already has, argmax.
"""

import argparse

import torch
import torch.nn.functional as F
from common import compare, machine, peak_memory_mb
from torch import Tensor

from densevit.inference.labels import labels_from_logits
from densevit.inference.sliding import slide, window_starts


def obvious(image: Tensor, window_logits: Tensor, *, crop: int, stride: int) -> Tensor:
    H, W = image.shape[-2:]
    total = image.new_zeros(1, window_logits.shape[1], H, W)
    count = image.new_zeros(1, 1, H, W)
    for top in window_starts(H, window=crop, stride=stride):
        for left in window_starts(W, window=crop, stride=stride):
            padding = (left, W - left - crop, top, H - top - crop)
            total += F.pad(window_logits, padding)
            count[:, :, top : top + crop, left : left + crop] += 1
    logits = F.interpolate(total / count, size=(H, W), mode="bilinear", align_corners=False)
    return logits.argmax(dim=1)


def ours(image: Tensor, window_logits: Tensor, *, crop: int, stride: int) -> Tensor:
    logits = slide(
        lambda windows: window_logits.expand(len(windows), -1, -1, -1),
        image,
        num_classes=window_logits.shape[1],
        crop_size=(crop, crop),
        stride=(stride, stride),
    )
    return labels_from_logits(logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    print(f"float32, image 1024x2048, window 512, stride 341, 18 windows; median of {args.repeats} turns")
    print(
        f"{'classes':>8} {'obvious s':>10} {'ours s':>8} {'ratio':>6} {'obvious MiB':>12} {'ours MiB':>9}  equal labels"
    )
    for classes in (19, 150):
        image, window_logits = torch.zeros(1, 3, 1024, 2048), torch.randn(1, classes, 512, 512)
        case = {"crop": 512, "stride": 341}
        ours_mb = peak_memory_mb(lambda: ours(image, window_logits, **case))  # noqa: B023 (called at once)
        obvious_mb = peak_memory_mb(lambda: obvious(image, window_logits, **case))  # noqa: B023
        seconds = compare(
            {
                "obvious": lambda: obvious(image, window_logits, **case),  # noqa: B023
                "ours": lambda: ours(image, window_logits, **case),  # noqa: B023
            },
            repeats=args.repeats,
        )
        same = (obvious(image, window_logits, **case) == ours(image, window_logits, **case)).float().mean().item()
        print(
            f"{classes:8d} {seconds['obvious']:10.2f} {seconds['ours']:8.2f}"
            f" {seconds['obvious'] / seconds['ours']:6.2f} {obvious_mb:12.0f} {ours_mb:9.0f}  {100 * same:.4f} %"
        )


if __name__ == "__main__":
    main()
