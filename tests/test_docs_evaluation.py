"""docs/evaluation.md and docs/numbers-that-disagree.md: the code runs, the settings exist."""

import inspect
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import densevit
from densevit.cli.fit import overrides
from densevit.cli.main import build_parser
from densevit.models.catalog import create_setr
from densevit.models.hlg import HLG
from densevit.training import recipes
from densevit.training.config import SegmentationExperiment
from densevit.training.settings import override, setting_keys
from densevit.weights.pretrained import load_pretrained

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "evaluation.md").read_text(encoding="utf-8")
DISAGREE = (DOCS / "numbers-that-disagree.md").read_text(encoding="utf-8")


def blocks(language):
    return [part.split("```")[0] for part in PAGE.split(f"```{language}\n")[1:]]


def test_the_authors_checkpoint_becomes_a_model(tmp_path, monkeypatch):
    real = recipes.get_recipe

    def small(name):
        experiment = real(name)
        args = {**experiment.model.args, "image_size": 32, "channels": 8, "encoder_args": {"depth": 1}}
        return replace(experiment, model=replace(experiment.model, name="setr_pup_vit_tiny", args=args))

    monkeypatch.setattr(recipes, "get_recipe", small)
    monkeypatch.chdir(tmp_path)
    experiment = small("setr_pup_vit_large_cityscapes_80k")
    trained = densevit.create_model("setr_pup_vit_tiny", num_classes=19, **experiment.model.args)
    torch.save(trained.state_dict(), "SETR_PUP_cityscapes.pth")
    exec(compile(blocks("python")[0], "evaluation.md", "exec"), {})
    model, info = load_pretrained("weights/setr_pup")
    assert info.inference["crop_size"] == [768, 768]
    assert info.training["data"]["name"] == "cityscapes"
    weight = "decoder.classifier.weight"
    assert torch.equal(model.state_dict()[weight], trained.state_dict()[weight])


@pytest.mark.parametrize("line", [line for block in blocks("bash") for line in block.splitlines()])
def test_commands_are_understood(line):
    args, settings = build_parser().parse_known_args(shlex.split(line)[1:])
    args.settings = settings
    override({"task": "segmentation"}, overrides(args))


def test_the_settings_named_exist():
    keys = setting_keys(SegmentationExperiment)
    for page in (PAGE, DISAGREE):
        for key in re.findall(r"(?:--|`)((?:eval|data|optim|loss|train)\.[a-z_]+)", page):
            assert key in keys
    model_args = set(re.findall(r"model\.args\.([a-z_]+)", DISAGREE))
    assert len(model_args) >= 4
    assert model_args <= set(inspect.signature(create_setr).parameters)
    hlg_args = set(re.findall(r"`([a-z_]+)=(?!\w+\.)", DISAGREE.split("## HLG")[1].split("\n## ")[0]))
    assert "local_key" in hlg_args
    assert hlg_args <= set(inspect.signature(HLG).parameters)
