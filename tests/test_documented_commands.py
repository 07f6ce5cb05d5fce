"""Every `densevit ...` line of the README and the quick start runs as written, with trainings cut to a few steps."""

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from densevit.cli.main import main
from densevit.data.scenes import ScenesSegmentation

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "--data.crop_size=[32,48] --model.args.image_size=[32,48] --data.batch_size=2 --data.num_workers=0 "
    "--train.precision=fp32 --model.args.encoder_args.depth=4 "
)
SHRINK = {
    "README.md": SMALL + "--model.pretrained=false --eval.mode=whole",
    "docs/quick-start.md": SMALL + "--data.args.num_images=4 --data.args.image_size=[32,48]",
}
"""Appended to each `densevit fit`, so that it takes seconds and downloads nothing."""


def commands(document: str) -> list[str]:
    """The densevit lines of a document's bash blocks, comments removed."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("densevit ")]


def run(line: str, *, shrink: str, num_steps: int) -> int:
    """Run one line in this process; `> FILE` is honoured."""
    words, _, target = line.partition(">")
    argv = shlex.split(words)[1:]
    if argv[0] == "fit":
        argv += [*shlex.split(shrink), f"--train.num_steps={num_steps}", "--train.val_every_steps=100"]
    with contextlib.ExitStack() as stack:
        if target:
            file = stack.enter_context(Path(target.strip()).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(file))
        return main(argv)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `photos/` as the README describes it, made of generated scenes."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        scenes = ScenesSegmentation(split=split, image_size=(32, 48), num_images=3)
        for kind in ("images", "masks"):
            (tmp_path / "photos" / kind / split).mkdir(parents=True)
        for index in range(len(scenes)):
            sample = scenes[index]
            Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).save(f"photos/images/{split}/{sample['id']}.jpg")
            Image.fromarray(sample["mask"].numpy()).save(f"photos/masks/{split}/{sample['id']}.png")
    (tmp_path / "photos" / "classes.txt").write_text("\n".join(scenes.classes), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("document", SHRINK)
def test_documented_commands_run(document: str, workplace: Path) -> None:
    lines = commands(document)
    assert len(lines) >= 5
    if document == "docs/quick-start.md":  # its commands use what `make demo` leaves
        lines.insert(0, "densevit fit --recipe demo --out runs/demo")
        shutil.copytree("photos/images/val", "runs/demo/street")
    for number, line in enumerate(lines):
        assert run(line, shrink=SHRINK[document], num_steps=2 + number) == 0, line
