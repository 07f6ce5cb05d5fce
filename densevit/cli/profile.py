"""`densevit profile MODEL --size H W --num-classes K`: parameters, MACs, latency and memory of a model."""

import argparse
import json
import sys
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "profile",
        help="parameters, multiply-accumulates, latency and memory of a model",
        description="Count a model's parameters and multiply-accumulates, from shapes alone, then run it on random "
        "images in a process of its own. With --count-only nothing is run.",
    )
    parser.add_argument("model", help="name of a model; see `densevit models`")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=(512, 512), help="pixels (512 512)")
    parser.add_argument("--num-classes", type=int, default=150, metavar="K", help="number of classes (150)")
    parser.add_argument("--count-only", action="store_true", help="count, but measure neither latency nor memory")
    parser.add_argument("--batch-size", type=int, default=1, metavar="B", help="images per measured forward (1)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; the default is a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float16")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="measured forwards, median taken (5)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="output (table)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import dataclasses

    import torch

    from densevit.benchmark.measure import measure_in_fresh_process
    from densevit.benchmark.profile import profile_model
    from densevit.errors import UserError
    from densevit.inference.device import choose_device, choose_dtype
    from densevit.models.catalog import create_model, takes_argument

    image_size = (args.size[0], args.size[1])
    if min(*image_size, args.batch_size, args.repeats) < 1:
        raise UserError(
            f"--size {args.size[0]} {args.size[1]}, --batch-size {args.batch_size} and --repeats {args.repeats} "
            "must all be at least 1"
        )
    choose_device(args.device), choose_dtype(args.dtype)  # wrong names are told before the work
    # learned positions count as they would be trained: on the grid of this size
    at_size = {"image_size": image_size} if takes_argument(args.model, "image_size") else {}
    with torch.device("meta"):
        model = create_model(args.model, num_classes=args.num_classes, **at_size)
    profile = profile_model(model, image_size=image_size, measure=False)
    if not args.count_only:
        try:
            measurement = measure_in_fresh_process(
                args.model,
                num_classes=args.num_classes,
                image_size=image_size,
                batch_size=args.batch_size,
                device=args.device,
                dtype=args.dtype,
                repeats=args.repeats,
            )
            profile = dataclasses.replace(profile, measurement=measurement)
        except UserError as error:  # the counts hold all the same
            print(f"not measured: {error}", file=sys.stderr)
    values = {"model": args.model, "num_classes": args.num_classes, **profile.to_dict()}
    print(json.dumps(values) if args.format == "json" else _table(values))
    return 0


def _table(values: dict[str, Any]) -> str:
    height, width = values["image_size"]
    lines = [
        f"{values['model']}, {values['num_classes']} classes, {height} x {width}",
        f"  parameters          {values['params'] / 1e6:10.2f} M",
        f"  with auxiliary      {values['params_with_auxiliary'] / 1e6:10.2f} M",
        f"  multiply-accumulates{values['macs'] / 1e9:10.2f} G",
    ]
    if values["latency_ms"] is not None:
        lines += [
            f"  latency             {values['latency_ms']:10.1f} ms    ({values['images_per_s']:.2f} images/s, batch "
            f"{values['batch_size']}, {values['dtype']}, {values['device']}, {values['num_threads']} threads)",
            f"  peak memory         {values['peak_memory_mb']:10.0f} MiB   ({values['forward_memory_mb']:.0f} MiB "
            "above the model)",
        ]
    return "\n".join(lines)
