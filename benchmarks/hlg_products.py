"""HLG's matrix products by its own kernel against PyTorch's, in turns in one run: GFLOP/s by CPU time, the ratio.

python benchmarks/hlg_products.py --model hlg_small --batch 8 --threads 1 --repeats 20
"""

import argparse
import time
from unittest import mock

import torch
from torch import Tensor, nn

from densevit.kernels import library, products
from densevit.kernels.library import LANES
from densevit.models.hlg import HLG, create_hlg


def sizes(model: HLG, batch: int) -> list[tuple[int, int, int]]:
    """(rows, depth, width) of the linear layers in a forward pass at 224 x 224, the most work first."""
    seen: dict[tuple[int, int, int], int] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            size = (batch * args[0][0, ..., 0].numel(), module.in_features, module.out_features)
            seen[size] = seen.get(size, 0) + size[0] * size[1] * size[2]

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    with torch.no_grad(), mock.patch.object(library, "library", return_value=None):
        model(torch.randn(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    return sorted(seen, key=lambda size: -seen[size])


def seconds(x: Tensor, matrix: Tensor, bias: Tensor | None, *, repeats: int) -> list[float]:
    """CPU seconds of the fastest product by the kernel and by PyTorch."""
    out, best = torch.empty(len(x), matrix.shape[1]), [float("inf")] * 2
    for turn in range(2 * repeats):
        side = turn % 2
        with mock.patch.object(products, "IS_FASTER", side == 0):
            start = time.process_time()
            products.multiply(x, matrix, out, bias=bias)
            best[side] = min(best[side], time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hlg_small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if library.library() is None:
        parser.exit(2, "the kernels cannot be built here\n")
    print(
        f"# torch {torch.__version__}, {args.threads} CPU thread(s), fp32, {args.model} at 224 px, batch {args.batch}"
    )
    print("| rows | depth | width | step | kernel, GFLOP/s | PyTorch, GFLOP/s | ratio |\n|--:|--:|--:|---|--:|--:|--:|")
    for rows, depth, width in sizes(create_hlg(args.model).eval(), args.batch):
        if depth * width > products.LARGEST or rows < products.FEWEST or depth % LANES or width % LANES:
            continue
        weight, bias, amount = torch.randn(width, depth), torch.randn(width), rows * depth * width * 2e-9
        for step, operands in (
            ("layer", (torch.randn(rows, depth), weight.t(), bias)),
            ("gradient", (torch.randn(rows, width), weight, None)),
        ):
            ours, theirs = (amount / duration for duration in seconds(*operands, repeats=args.repeats))
            print(
                f"| {rows} | {depth} | {width} | {step} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
