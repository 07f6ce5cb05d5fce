"""Every `densevit ...` line of docs/classification.md runs as written, with trainings cut to two steps."""

import re
import shlex
from pathlib import Path

import pytest

from densevit.cli.main import main
from densevit.data.imagenet import imagenet_1k_ids

PAGE = Path(__file__).parents[1] / "docs" / "classification.md"
SHORT = (
    "--train.num_steps=2 --train.val_every_steps=2 --train.accelerator=cpu --train.precision=fp32 "
    "--data.batch_size=2 --data.num_workers=0 --data.image_size=[64,64]"
)
TINY = "--model.args.depths=[1,1,1,1]"


@pytest.fixture
def workplace(tmp_path, monkeypatch, write_class_folders, write_shards):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        write_class_folders(tmp_path / "photos" / split, ["cat", "dog"], 2)
    write_class_folders(tmp_path / "imagenet" / "val", imagenet_1k_ids()[:2], 1, size=(8, 8), suffix=".JPEG")
    picture = next((tmp_path / "imagenet" / "val").rglob("*.JPEG")).read_bytes()
    for name in imagenet_1k_ids():  # the classes of ImageNet-V2 are all thousand
        (tmp_path / "imagenet" / "train" / name).mkdir(parents=True)
        (tmp_path / "imagenet" / "train" / name / "0.JPEG").write_bytes(picture)
    write_class_folders(tmp_path / "imagenet_v2", ["0", "10", "999"], 1, suffix=".jpeg")
    for split in ("train", "test"):
        write_shards(tmp_path / "cifar10", num_shards=2, samples_each=3, split=split)


def test_documented_commands_run(workplace, capsys):
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) == 12
    for line in lines:
        argv = shlex.split(line)[1:]
        if argv[0] == "fit":
            argv += shlex.split(SHORT)
            argv += shlex.split(TINY) if "hlg" in line and "resnet50" not in line else []
        elif argv[0] in ("validate", "predict"):
            argv += ["--device", "cpu"]
        assert main(argv) == 0, line
    assert "top-1" in capsys.readouterr().out
