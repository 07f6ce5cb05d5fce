"""The streaming metric: hand-worked values, torchmetrics, exactness, and the mistakes it must name."""

import pytest
import torch
import torchmetrics.functional.segmentation as tmf
from torch import nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from densevit.errors import UserError
from densevit.evaluation.mean_iou import MeanIoU, confusion_matrix


def test_hand_worked_values():
    target = torch.tensor([[[0, 0, 1, 1], [0, 2, 2, 255]]])
    labels = torch.tensor([[[0, 1, 1, 1], [0, 2, 0, 3]]])  # class 3 predicted where the mask is ignored
    metric = MeanIoU(["a", "b", "c", "d"])
    metric.update(labels, target)
    scores = metric.compute()
    assert scores.confusion.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert scores.iou[:3] == pytest.approx((2 / 4, 2 / 3, 1 / 2))
    assert scores.accuracy[:3] == pytest.approx((2 / 3, 1, 1 / 2))
    assert scores.iou[3] != scores.iou[3]  # nan: in neither
    assert scores.support == (3, 2, 2, 0)
    assert scores.mean_iou == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 3)
    assert scores.mean_accuracy == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert scores.pixel_accuracy == pytest.approx(5 / 7)


def test_predicted_but_absent_class_counts_as_zero():
    metric = MeanIoU(3)
    metric.update(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]))
    scores = metric.compute()
    assert scores.iou[:2] == pytest.approx((2 / 3, 0))
    assert scores.mean_iou == pytest.approx(1 / 3)
    assert scores.mean_accuracy == pytest.approx(2 / 3)  # only class 0 is labelled


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_equals_torchmetrics(dtype):
    generator = torch.Generator().manual_seed(0)
    metric, everything = MeanIoU(7), []
    for size in [(2, 33, 47), (1, 20, 31), (300, 500)]:  # the last one is longer than a strip
        labels = torch.randint(0, 7, size, generator=generator)
        target = torch.randint(0, 7, size, generator=generator)
        target[torch.rand(size, generator=generator) < 0.2] = 255
        metric.update(labels.to(dtype), target.to(dtype))
        everything.append((labels.flatten(), target.flatten()))
    labels, target = (torch.cat(parts) for parts in zip(*everything, strict=True))
    scores = metric.compute()
    expected = multiclass_confusion_matrix(labels, target, num_classes=7, ignore_index=255)
    assert scores.confusion.tolist() == expected.tolist()
    kept = target != 255
    iou = tmf.mean_iou(labels[kept][None], target[kept][None], num_classes=7, input_format="index", per_class=True)[0]
    assert scores.iou == pytest.approx(iou.tolist())
    assert scores.mean_iou == pytest.approx(iou.mean().item())


def test_is_exact_beyond_the_integers_of_float32():
    metric = MeanIoU(2)
    metric.update(torch.zeros(3, dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8))
    metric.confusion += 2**24 * torch.ones(2, 2, dtype=torch.int64)
    metric.update(torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8))
    assert metric.compute().confusion[0, 0] == 2**24 + 4
    pixels = torch.zeros(2**24 + 3, dtype=torch.uint8)
    assert confusion_matrix(pixels, pixels, num_classes=2)[0, 0] == 2**24 + 3


def test_the_sum_of_two_shards_is_the_whole():
    generator = torch.Generator().manual_seed(3)
    labels, target = torch.randint(0, 4, (2, 6, 9, 11), generator=generator)
    whole, first, second = MeanIoU(4), MeanIoU(4), MeanIoU(4)
    whole.update(labels, target)
    first.update(labels[:2], target[:2])
    second.update(labels[2:], target[2:])
    first.merge_state(second)
    assert first.compute().mean_iou == whole.compute().mean_iou


def test_lives_inside_a_module_and_keeps_integers():
    module = nn.Module()
    module.metric = MeanIoU(2)
    module.bfloat16()
    module.metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert module.metric.confusion.dtype == torch.int64
    assert not module.state_dict()  # never in a checkpoint
    assert module.metric.compute().mean_iou == 1.0
    module.metric.reset()
    assert module.metric.confusion.sum() == 0


def test_forward_scores_one_batch_and_accumulates():
    metric = MeanIoU(2)
    assert metric(torch.tensor([0, 1]), torch.tensor([0, 1])).mean_iou == 1.0
    assert metric(torch.tensor([1, 0]), torch.tensor([0, 1])).mean_iou == 0.0
    assert metric.compute().mean_iou == pytest.approx(1 / 3)


def test_one_class():
    metric = MeanIoU(["all"])
    metric.update(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long))
    assert metric.compute().confusion.tolist() == [[6]]


@pytest.mark.parametrize("ignore_index", [-100, 65535, 0, None])
def test_other_ignore_indices(ignore_index):
    target = torch.tensor([1, 2, 1, 0 if ignore_index is None else ignore_index])
    counts = confusion_matrix(torch.tensor([1, 1, 1, 2]), target, num_classes=3, ignore_index=ignore_index)
    expected = torch.tensor([[0, 0, 1], [0, 2, 0], [0, 1, 0]])
    if ignore_index is not None:
        expected[0] = 0
    assert torch.equal(counts, expected)


def test_more_classes_than_a_byte_holds():
    labels, target = torch.tensor([299, 255, 3]), torch.tensor([299, 256, 65535])
    counts = confusion_matrix(labels, target, num_classes=300, ignore_index=65535)
    assert counts[299, 299] == 1
    assert counts[256, 255] == 1
    assert counts.sum() == 2


@pytest.mark.parametrize(
    ("value", "dtype"), [(200, torch.uint8), (200, torch.int64), (-1, torch.int64), (1000, torch.int32)]
)
def test_a_label_outside_the_classes_is_named(value, dtype):
    target = torch.tensor([0, 3, value, 255], dtype=dtype)
    with pytest.raises(UserError, match=rf"label {value}, but with 150 classes a label is 0 .. 149 or 255 \(ignored\)"):
        MeanIoU(150).update(torch.zeros(4, dtype=torch.long), target)


def test_a_prediction_outside_the_classes_is_named():
    with pytest.raises(UserError, match=r"predicted label 4 is outside 0 \.\. 2"):
        MeanIoU(3).update(torch.tensor([0, 4]), torch.tensor([0, 1]))


def test_mismatched_input_is_refused():
    with pytest.raises(ValueError, match=r"\(2,\) but the target is \(3,\)"):
        MeanIoU(2).update(torch.zeros(2, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="not logits"):
        MeanIoU(2).update(torch.zeros(2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(UserError, match="at least one class"):
        MeanIoU([])
