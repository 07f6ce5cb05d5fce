"""`densevit push RUN user/model`: a trained model to the Hugging Face hub."""

import argparse
from typing import Any

DESCRIPTION = """\
Upload a trained model to the Hugging Face hub, with a model card made from its record:

  densevit push runs/demo me/street-scenes --private
  densevit push runs/demo me/street-scenes --license mit --dtype float16

model.safetensors, config.json and README.md go there, nothing else of the run; paths of this machine are taken out.
A README.md of your own in RUN goes along as it is. Log in first: `hf auth login`.
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "push",
        help="upload a trained model to the Hugging Face hub",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="RUN_OR_FILE", help="run folder or model file")
    parser.add_argument("repo", metavar="USER/MODEL", help="repository; it is created if need be")
    parser.add_argument("--private", action="store_true", help="create it as private")
    parser.add_argument("--license", metavar="ID", help="licence in the card, such as mit or cc-by-4.0 (unknown)")
    parser.add_argument("--dtype", default="float32", help="store weights as float32 (default), float16 or bfloat16")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from densevit.weights.pretrained import push_to_hub

    address = push_to_hub(args.model, args.repo, private=args.private, license=args.license, dtype=args.dtype)
    print(f"uploaded: {address}")
    return 0
