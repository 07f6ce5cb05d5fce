"""Put a trained model into the package as the one that `densevit predict` uses without --model.

    python tools/pack_default_model.py runs/camvid_hlg

Weights are stored as float16. The card, densevit/assets/README.md, is text of its own: bring its scores up to date.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from densevit.weights.default_model import DEFAULT_MODEL
from densevit.weights.pretrained import MODEL_FILE, load_pretrained, save_pretrained

ASSETS = Path(__file__).parent.parent / "densevit" / "assets"
MAX_BYTES = 12_000_000


def public(training: dict) -> dict:
    """The training record without this machine's folders."""
    data, model = dict(training["data"]), dict(training["model"])
    data["root"] = None
    if isinstance(model["pretrained"], str):
        path = Path(model["pretrained"])
        model["pretrained"] = path.parent.name if path.name == MODEL_FILE else path.name
    return {**training, "data": data, "model": model}


def main(source: str) -> None:
    model, info = load_pretrained(source)
    with tempfile.TemporaryDirectory() as folder:
        path = save_pretrained(model, folder, info=replace(info, training=public(dict(info.training))), dtype="float16")
        data = path.read_bytes()
    if len(data) > MAX_BYTES:
        sys.exit(f"{len(data)} bytes are too many for a package; the limit is {MAX_BYTES}")
    (ASSETS / DEFAULT_MODEL).write_bytes(data)
    print(f"{ASSETS / DEFAULT_MODEL}: {len(data) / 1e6:.1f} MB, {dict(info.metrics)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
