"""Counting for mean IoU: ours against the usual histograms in floating point, in one run.

    python benchmarks/mean_iou.py | tee benchmarks/results/mean_iou.txt

histc: labelled pixels gathered, then three float32 histograms (intersection, predictions, masks) an image.
bincount: labelled pixels gathered, one exact int64 histogram of their joint index.
"""

import argparse

import torch
from common import compare, machine
from torch import Tensor

from densevit.evaluation.mean_iou import MeanIoU


def histc(labels: Tensor, target: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    known = target != 255
    labels, target = labels[known], target[known]
    options = {"bins": num_classes, "min": 0, "max": num_classes - 1}
    intersection = torch.histc(labels[labels == target].float(), **options)
    union = torch.histc(labels.float(), **options) + torch.histc(target.float(), **options) - intersection
    return intersection, union


def bincount(labels: Tensor, target: Tensor, *, num_classes: int) -> Tensor:
    known = target != 255
    joint = num_classes * target[known] + labels[known]
    return torch.bincount(joint, minlength=num_classes**2).view(num_classes, num_classes)


def ours(labels: Tensor, target: Tensor, *, num_classes: int) -> MeanIoU:
    metric = MeanIoU(num_classes)
    metric.update(labels, target)
    return metric


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    print(machine())
    print(f"one image of 1024x2048, int64; median of {args.repeats} turns")
    print(f"{'classes':>8} {'histc ms':>9} {'bincount ms':>12} {'ours ms':>8} {'histc/ours':>11} {'bincount/ours':>14}")
    for num_classes in (19, 150):
        target = blocks(num_classes, cell=16, generator=generator)
        labels = torch.where(
            torch.rand(target.shape, generator=generator) < 0.1,
            blocks(num_classes, cell=32, generator=generator),
            target,
        )
        target[:100] = 255
        case = {"num_classes": num_classes}
        seconds = compare(
            {
                "histc": lambda: histc(labels, target, **case),  # noqa: B023 (called at once)
                "bincount": lambda: bincount(labels, target, **case),  # noqa: B023
                "ours": lambda: ours(labels, target, **case),  # noqa: B023
            },
            repeats=args.repeats,
        )
        intersection, union = histc(labels, target, **case)
        torch.testing.assert_close(
            torch.tensor(ours(labels, target, **case).compute().iou), intersection / union, atol=1e-6, rtol=0
        )
        print(
            f"{num_classes:8d} {1000 * seconds['histc']:9.1f} {1000 * seconds['bincount']:12.1f}"
            f" {1000 * seconds['ours']:8.1f} {seconds['histc'] / seconds['ours']:11.1f}"
            f" {seconds['bincount'] / seconds['ours']:14.1f}"
        )
    pixels = torch.zeros(2**26, dtype=torch.uint8)
    counted = histc(pixels, pixels, num_classes=2)[0][0].item()
    exact = int(ours(pixels, pixels, num_classes=2).confusion[0, 0])
    print(f"{2**26} equal pixels are counted as {counted:.0f} by histc and as {exact} by ours")


def blocks(num_classes: int, *, cell: int, generator: torch.Generator) -> Tensor:
    """A map of 1024x2048 in one-class squares, as masks have regions."""
    small = torch.randint(0, num_classes, (1024 // cell, 2048 // cell), generator=generator)
    return small.repeat_interleave(cell, 0).repeat_interleave(cell, 1).contiguous()


if __name__ == "__main__":
    main()
