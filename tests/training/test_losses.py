"""Losses against values worked out by hand."""

from math import exp, log

import pytest
import torch

from densevit.errors import UserError
from densevit.training.config import LossConfig
from densevit.training.losses import focal_loss, ohem_cross_entropy, pixel_cross_entropy, segmentation_loss
from densevit.training.region_losses import dice_loss, lovasz_softmax


def picture(*probabilities):
    """Logits (1, 2, 1, W) whose softmax gives class 1 the given probability at each pixel."""
    p = torch.tensor(probabilities)
    return torch.stack([torch.log(1 - p), torch.log(p)])[None, :, None]


def labels(*values):
    return torch.tensor([[values]])


LOGITS, TARGET = picture(0.9, 0.5, 0.2, 0.6), labels(1, 0, 1, 255)
LOSSES = [-log(0.9), -log(0.5), -log(0.2)]


def test_mean_over_labelled_and_over_all_pixels():
    assert pixel_cross_entropy(LOGITS, TARGET).item() == pytest.approx(sum(LOSSES) / 3)
    assert pixel_cross_entropy(LOGITS, TARGET, mean_over="all").item() == pytest.approx(sum(LOSSES) / 4)


def test_class_weights_weigh_the_sum_and_its_divisor():
    weights = torch.tensor([1.0, 3.0])
    total = 3 * LOSSES[0] + LOSSES[1] + 3 * LOSSES[2]
    assert pixel_cross_entropy(LOGITS, TARGET, class_weights=weights).item() == pytest.approx(total / 7)
    assert pixel_cross_entropy(LOGITS, TARGET, class_weights=weights, mean_over="all").item() == pytest.approx(
        total / 4
    )
    assert focal_loss(LOGITS, TARGET, class_weights=weights, gamma=0).item() == pytest.approx(total / 7)


def test_agrees_with_torch():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 5, 7, 9), torch.randint(0, 5, (2, 7, 9))
    target[0, :3] = 255
    weights = torch.rand(5)
    for arguments in ({}, {"label_smoothing": 0.1}, {"weight": weights}):
        expected = torch.nn.functional.cross_entropy(logits, target, ignore_index=255, **arguments)
        renamed = {"class_weights" if key == "weight" else key: value for key, value in arguments.items()}
        torch.testing.assert_close(pixel_cross_entropy(logits, target, **renamed), expected)


def test_label_smoothing():
    smoothed = [0.8 * -log(p) + 0.2 * (-log(p) - log(1 - p)) / 2 for p in (0.9, 0.5, 0.2)]
    assert pixel_cross_entropy(LOGITS, TARGET, label_smoothing=0.2).item() == pytest.approx(sum(smoothed) / 3)


def test_focal_discounts_easy_pixels():
    expected = sum((1 - exp(-loss)) ** 2 * loss for loss in LOSSES) / 3
    assert focal_loss(LOGITS, TARGET, gamma=2).item() == pytest.approx(expected)
    assert focal_loss(LOGITS, TARGET, gamma=0).item() == pytest.approx(sum(LOSSES) / 3)


def test_ohem_keeps_the_hard_pixels_and_at_least_some():
    hard = LOSSES[1:]  # probabilities 0.5 and 0.2 are below 0.7, 0.9 is not
    assert ohem_cross_entropy(LOGITS, TARGET, threshold=0.7, min_kept=1).item() == pytest.approx(sum(hard) / 2)
    assert ohem_cross_entropy(LOGITS, TARGET, threshold=0.1, min_kept=1).item() == pytest.approx(LOSSES[2])
    assert ohem_cross_entropy(LOGITS, TARGET, threshold=0.1, min_kept=2).item() == pytest.approx(sum(hard) / 2)
    assert ohem_cross_entropy(LOGITS, TARGET, threshold=0.7, min_kept=99).item() == pytest.approx(sum(LOSSES) / 3)


def test_dice_of_two_classes():
    # class 1: p = .9 .5 .2 (sum 1.6), t = 1 0 1; class 0: p = .1 .5 .8 (sum 1.4), t = 0 1 0
    expected = ((1 - 2 * 1.1 / (1.6 + 2)) + (1 - 2 * 0.5 / (1.4 + 1))) / 2
    assert dice_loss(LOGITS, TARGET).item() == pytest.approx(expected)


def test_dice_averages_over_the_classes_present():
    assert dice_loss(LOGITS, labels(1, 1, 1, 255)).item() == pytest.approx(1 - 2 * 1.6 / (1.6 + 3))


def test_lovasz_of_two_classes():
    # Class 1: errors .1 (true), .5 (false), .8 (true), sorted .8 .5 .1 with truths 1 0 1. Jaccard loss after each:
    # 1 - 1/2, 1 - 1/3, 1 - 0/3 -> steps 1/2, 1/6, 1/3. Class 0 has the same errors and truths 0 1 0:
    # 1 - 1/2, 1 - 0/2, 1 -> steps 1/2, 1/2, 0.
    one = 0.8 / 2 + 0.5 / 6 + 0.1 / 3
    zero = 0.8 / 2 + 0.5 / 2
    assert lovasz_softmax(LOGITS, TARGET).item() == pytest.approx((one + zero) / 2)


def test_lovasz_is_the_jaccard_loss_where_predictions_are_certain():
    torch.manual_seed(0)
    predicted, target = torch.randint(0, 3, (2, 4, 5)), torch.randint(0, 3, (2, 4, 5))
    logits = 100.0 * torch.nn.functional.one_hot(predicted, 3).permute(0, 3, 1, 2)
    jaccard = [((predicted == k) & (target == k)).sum() / ((predicted == k) | (target == k)).sum() for k in range(3)]
    torch.testing.assert_close(lovasz_softmax(logits, target), 1 - sum(jaccard) / 3)


@pytest.mark.parametrize("name", ["cross_entropy", "ohem", "focal", "dice", "lovasz"])
@pytest.mark.parametrize("mean_over", ["labelled", "all"])
def test_a_batch_without_labels_gives_zero_and_zero_gradient(name, mean_over):
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    config = LossConfig(terms={name: 1.0}, mean_over=mean_over)
    loss = segmentation_loss(logits, torch.full((2, 4, 5), 255), config=config, class_weights=torch.rand(3))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("name", ["cross_entropy", "ohem", "focal", "dice", "lovasz"])
def test_every_loss_ignores_and_improves(name):
    """Ignored pixels get no gradient, and a step down the gradient lowers the loss; half precision goes in."""
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 5, 7), torch.randint(0, 4, (2, 5, 7))
    target[:, 2] = 255
    logits.requires_grad_()
    config = LossConfig(terms={name: 1.0})
    loss = segmentation_loss(logits, target, config=config)
    loss.backward()
    assert logits.grad[:, :, 2].eq(0).all()
    assert segmentation_loss(logits - logits.grad, target, config=config) < loss
    assert segmentation_loss(logits.bfloat16(), target, config=config).dtype == torch.float32


def test_terms_are_summed_with_their_weights():
    config = LossConfig(terms={"cross_entropy": 0.5, "dice": 2.0})
    expected = 0.5 * pixel_cross_entropy(LOGITS, TARGET) + 2 * dice_loss(LOGITS, TARGET)
    assert segmentation_loss(LOGITS, TARGET, config=config).item() == pytest.approx(expected.item())


def test_every_setting_of_a_loss_changes_it():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 6, 8), torch.randint(0, 3, (1, 6, 8))
    target[0, 0] = 255
    changes = {
        "cross_entropy": [{"label_smoothing": 0.1}, {"mean_over": "all"}],
        "ohem": [{"ohem_threshold": 0.1, "ohem_min_kept": 1}, {"ohem_min_kept": 1}],
        "focal": [{"focal_gamma": 1.0}, {"mean_over": "all"}],
    }
    for name, variants in changes.items():
        values = {
            segmentation_loss(logits, target, config=LossConfig(terms={name: 1.0}, **change)).item()
            for change in [{}, *variants]
        }
        assert len(values) == len(variants) + 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"terms": {"crossentropy": 1.0}}, "unknown loss 'crossentropy'; did you mean 'cross_entropy'"),
        ({"terms": {}}, "loss.terms is empty"),
        ({"terms": {"dice": 0.0}}, "loss.terms.dice must be above 0"),
        ({"terms": {"dice": 1.0}, "label_smoothing": 0.1}, "needs cross_entropy"),
        ({"class_weights": (0.0, 0.0)}, "weigh nothing"),
        ({"ohem_threshold": 1.5}, "is a probability"),
    ],
)
def test_refusals(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        LossConfig(**wrong)
