"""Classifying single pictures: the evaluation's own preparation, kinds of pictures, names, refusals."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import densevit
from densevit.classifier import Classifier
from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.weights.pretrained import ModelInfo, save_pretrained

CLASSES = ("n01440764", "n02123045", "horse")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("resnet10t", num_classes=3, stem_width=8, channels=(8, 8, 8, 8)).eval()
    info = ModelInfo(
        task="classification",
        model=dict(model.config),
        classes=CLASSES,
        palette=(),
        mean=(100.0, 110.0, 120.0),
        std=(50.0, 60.0, 70.0),
        inference={"image_size": (32, 40), "crop_pct": 1.0, "interpolation": "bicubic"},
    )
    return save_pretrained(model, tmp_path_factory.mktemp("run"), info=info)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8)


def test_probabilities_are_those_of_the_model_on_the_normalised_picture(model_file, pixels):
    classifier = Classifier.from_pretrained(model_file, device="cpu")
    result = classifier(pixels)
    normalised = (torch.tensor(pixels).float() - torch.tensor([100, 110, 120])) / torch.tensor([50, 60, 70])
    with torch.no_grad():
        expected = classifier.model(normalised.permute(2, 0, 1)[None]).softmax(dim=1)[0].numpy()
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
    assert result.index == expected.argmax()
    assert result.confidence == pytest.approx(expected.max(), abs=1e-5)
    names = [name for name, _ in result.top(2)]
    assert names == [classifier.classes[k] for k in np.argsort(-expected)[:2]]
    assert result.label == names[0]
    assert len(result.top(5)) == 3
    assert classifier.classes == ("tench (n01440764)", "tabby (n02123045)", "horse")


def test_one_picture_in_every_form_gives_one_answer(model_file, pixels, tmp_path):
    classifier = Classifier.from_pretrained(model_file, device="cpu")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", Image.fromarray(pixels), torch.tensor(pixels).permute(2, 0, 1), pixels / 255]
    expected = classifier(pixels).probabilities
    for form in forms:
        np.testing.assert_allclose(classifier(form).probabilities, expected, atol=1e-6)


def test_the_predictor_hands_a_classifier_over(model_file, pixels):
    classifier = densevit.Predictor.from_pretrained(model_file, device="cpu")
    assert isinstance(classifier, densevit.Classifier)
    assert classifier(pixels[:3, :9]).probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_other_models_are_refused(model_file, tmp_path):
    info = ModelInfo(task="segmentation", model={}, classes=("a",), palette=((0, 0, 0),), mean=(0.0,), std=(1.0,))
    with pytest.raises(UserError, match=r"a model for segmentation; use densevit\.Predictor"):
        Classifier(nn.Identity(), info)
