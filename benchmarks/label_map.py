"""Logits to a label map: ours against the usual two steps, in one run.

    python benchmarks/label_map.py | tee benchmarks/results/label_map.txt

usual: bilinear upsampling of all classes in float32, then argmax over the class axis.
"""

import argparse

import torch
import torch.nn.functional as F
from common import compare, machine, peak_memory_mb

from densevit.inference.labels import labels_from_logits


def usual(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False).argmax(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine())
    print(f"median of {args.repeats} turns; peak memory above the input, first call")
    print(f"{'classes':>8} {'from':>11} {'to':>11} {'dtype':>9} {'usual ms':>9} {'ours ms':>9} {'ratio':>6}"
          f" {'usual MiB':>10} {'ours MiB':>9}  equal labels")  # fmt: skip
    for classes, small, size, dtype in [
        (150, (128, 128), (512, 512), torch.float32),
        (150, (128, 128), (512, 512), torch.bfloat16),
        (150, (512, 512), (512, 512), torch.float32),
        (19, (256, 512), (1024, 2048), torch.float32),
        (19, (256, 512), (1024, 2048), torch.bfloat16),
    ]:
        logits = torch.randn(1, classes, *small).to(dtype)
        ours_mb = peak_memory_mb(lambda: labels_from_logits(logits, size=size))  # noqa: B023 (called at once)
        usual_mb = peak_memory_mb(lambda: usual(logits, size))  # noqa: B023
        seconds = compare(
            {"usual": lambda: usual(logits, size), "ours": lambda: labels_from_logits(logits, size=size)},  # noqa: B023
            repeats=args.repeats,
        )
        same = (usual(logits, size) == labels_from_logits(logits, size=size)).float().mean().item()
        print(
            f"{classes:8d} {small[0]:5d}x{small[1]:<5d} {size[0]:5d}x{size[1]:<5d} {str(dtype)[6:]:>9}"
            f" {1000 * seconds['usual']:9.1f} {1000 * seconds['ours']:9.1f} {seconds['usual'] / seconds['ours']:6.2f}"
            f" {usual_mb:10.0f} {ours_mb:9.0f}  {100 * same:.4f} %"
        )


if __name__ == "__main__":
    main()
