"""Segmenters on pyramids through the whole path: an HLG classifier's run starts them, they train, they predict."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.predictor import Predictor
from densevit.training.config import ModelConfig
from densevit.training.fit import build_model, fit
from densevit.weights.info import ModelInfo
from densevit.weights.pretrained import load_pretrained, save_pretrained

HLG = {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 4), "depths": (1, 1, 2, 1)}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """What a training of the recipe `cifar10` leaves, only smaller."""
    torch.manual_seed(0)
    model = create_model("hlg_mobile", num_classes=3, **HLG, window_size=4)
    stds = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    info = ModelInfo(task="classification", model=dict(model.config), classes=("a", "b", "c"), palette=(), **stds)
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    save_pretrained(model, folder, info=info)
    return folder


@pytest.mark.parametrize(
    ("name", "decoder_args"),
    [
        ("setr_pup_hlg_mobile", {"channels": 16, "num_heads": 2, "auxiliary_channels": 8}),
        ("upernet_hlg_mobile", {"channels": 8, "auxiliary_channels": 8}),
    ],
)
def test_from_a_classifier_to_a_prediction(tiny, classifier, tmp_path, capsys, name, decoder_args):
    args = {"encoder_args": HLG, "decoder_args": decoder_args, "drop_path_rate": 0.1}
    experiment = replace(
        tiny(
            optim={"optimizer": "adamw", "lr": 6e-5, "poly_power": 1.0, "layer_decay": 0.9},
            train={"num_steps": 2, "val_every_steps": 2, "accumulate": 1, "num_sample_pictures": 0},
        ),
        model=ModelConfig(name=name, pretrained=str(classifier), args=args),
    )
    result = fit(experiment, tmp_path / "run")
    assert "(hlg_mobile, embed_dims=[8, 16, 32, 64]" in capsys.readouterr().out
    assert {"train/main", "train/aux_0"} <= set(
        (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    )
    trained, start = load_pretrained(result.run_dir)[0].state_dict(), load_pretrained(classifier)[0].state_dict()
    near = trained["encoder.body.stages.2.0.attn.q.weight"] - start["stages.2.0.attn.q.weight"]
    assert 0 < near.abs().max() < 1e-3
    picture = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    labels = Predictor.from_pretrained(result.run_dir)(picture).labels
    assert labels.shape == (45, 61)


def test_another_encoder_is_refused_before_training(classifier):
    config = ModelConfig(name="setr_pup_hlg_mobile", pretrained=str(classifier))
    with pytest.raises(UserError, match=r"hlg_mobile, embed_dims=\[8, 16, 32, 64\].*another architecture"):
        build_model(config, num_classes=3)
