"""The paper's whole path from the command line, on fake Cityscapes and ADE20K in their publishers' layouts.

data check -> fit (a paper recipe, shrunk, with SyncBN) -> validate, several scales and mirrored -> test-server files.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.cli.main import main
from densevit.labels import CITYSCAPES_LABEL_IDS

SIZE = (48, 96)
SHRINK = [
    "--model.pretrained=false",
    "--model.args.image_size=[32,32]",
    "--model.args.norm=sync",
    "--model.args.channels=8",
    "--model.args.encoder_args={depth: 4, embed_dim: 24, num_heads: 2}",
    "--data.crop_size=[32,32]",
    "--data.resize_base=[96,48]",
    "--data.batch_size=2",
    "--data.num_workers=0",
    "--eval.resize=[96,48]",
    "--eval.crop_size=[32,32]",
    "--eval.stride=[21,21]",
    "--train.num_steps=2",
]


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def blocks(rng: np.random.Generator, values: list[int]) -> np.ndarray:
    """A mask of 8 x 8 pixel blocks under one row of 0, which neither data set scores."""
    mask = np.kron(rng.choice(values, (SIZE[0] // 8, SIZE[1] // 8)), np.ones((8, 8))).astype(np.uint8)
    mask[0] = 0
    return mask


def fake_cityscapes(root: Path) -> Path:
    """leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY; returns the folder of test pictures."""
    rng = np.random.default_rng(0)
    for split, city, count in (("train", "aachen", 3), ("val", "ulm", 2), ("test", "berlin", 2)):
        for index in range(count):
            name = f"{city}_{index:06d}_000019"
            save(picture(rng), root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            ids = blocks(rng, [0, 3, *CITYSCAPES_LABEL_IDS])
            save(ids, root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png")
    return root / "leftImg8bit" / "test"


def fake_ade20k(root: Path) -> Path:
    """images/ and annotations/ with training/ and validation/; returns the folder of test pictures."""
    rng = np.random.default_rng(0)
    for split, short, count in (("training", "train", 3), ("validation", "val", 2)):
        for index in range(count):
            name = f"ADE_{short}_{index + 1:08d}"
            save(picture(rng), root / "images" / split / f"{name}.jpg")
            save(blocks(rng, list(range(151))), root / "annotations" / split / f"{name}.png")
    return root / "images" / "validation"


@pytest.mark.parametrize(
    ("data", "recipe", "fake", "allowed"),
    [
        ("cityscapes", "setr_mla_vit_base_cityscapes_40k", fake_cityscapes, set(CITYSCAPES_LABEL_IDS)),
        ("ade20k", "setr_pup_vit_large_ade20k_160k", fake_ade20k, set(range(1, 151))),
    ],
)
def test_from_check_to_submission(
    data: str,
    recipe: str,
    fake: Callable[[Path], Path],
    allowed: set[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures = fake(tmp_path / data)
    run = tmp_path / "run"
    assert main(["data", "check", "--data", data, "--root", str(tmp_path / data), "--split", "train"]) == 0
    assert main(["fit", "--recipe", recipe, "--data.root", str(tmp_path / data), "--out", str(run), *SHRINK]) == 0
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert any("running_mean" in key for key in state)

    capsys.readouterr()
    scales = ["--eval.scales=[0.5,0.75,1,1.25,1.5,1.75]", "--eval.flip=true"]
    assert main(["validate", "--model", str(run), "--format", "json", *scales]) == 0
    scores = json.loads(capsys.readouterr().out)
    labelled = sum(row["support"] for row in scores["classes"])
    assert 0 < labelled <= 2 * (SIZE[0] - 1) * SIZE[1]  # at the original size, without ignored pixels

    out = tmp_path / "submission"
    assert main(["predict", str(pictures), "--model", str(run), "--out", str(out), "--submission", data]) == 0
    files = sorted(out.rglob("*.png"))
    assert [path.stem for path in files] == sorted(path.stem for path in pictures.rglob("*.*"))
    for path in files:
        ids = np.asarray(Image.open(path))
        assert ids.shape == SIZE
        assert set(np.unique(ids)) <= allowed
