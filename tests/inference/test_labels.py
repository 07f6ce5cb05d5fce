"""The label map by running maximum equals bilinear upsampling followed by argmax."""

import pytest
import torch
import torch.nn.functional as F

from densevit.inference.labels import _labels_by_chunk, labels_from_logits


def reference(logits, size):
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False).argmax(dim=1)


@pytest.mark.parametrize("num_classes", [1, 2, 19, 150, 300])
@pytest.mark.parametrize("size", [(40, 56), (10, 14), (23, 9)])
def test_equals_interpolate_and_argmax(num_classes, size):
    torch.manual_seed(0)
    logits = torch.randn(2, num_classes, 10, 14)
    labels = labels_from_logits(logits, size=size)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, reference(logits, size))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_interpolated_in_float32(dtype):
    logits = torch.randn(1, 21, 9, 12).to(dtype)
    assert torch.equal(labels_from_logits(logits, size=(36, 48)), reference(logits, (36, 48)))


def test_without_a_size_it_is_argmax():
    logits = torch.randn(3, 7, 11, 5)
    assert torch.equal(labels_from_logits(logits), logits.argmax(dim=1))


def test_channels_last_logits():
    logits = torch.randn(2, 7, 6, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels_from_logits(logits, size=(13, 17)), reference(logits.contiguous(), (13, 17)))


def test_the_first_of_equal_classes_wins():
    logits = torch.zeros(1, 5, 3, 4)
    assert labels_from_logits(logits).eq(0).all()
    logits[:, 2:4] = 1.0
    assert labels_from_logits(logits, size=(6, 8)).eq(2).all()


def test_large_negative_logits():
    logits = torch.full((1, 3, 2, 2), -1e30)
    logits[:, 1] = -1e29
    assert labels_from_logits(logits).eq(1).all()


def test_does_not_change_the_logits():
    logits = torch.randn(1, 4, 5, 6)
    before = logits.clone()
    labels_from_logits(logits)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("num_classes", [2, 8, 21])
def test_classes_in_several_chunks(num_classes, monkeypatch):
    monkeypatch.setattr("densevit.inference.labels.VALUES_AT_ONCE", 5 * 40 * 56)
    logits = torch.randn(2, num_classes, 10, 14)
    assert torch.equal(labels_from_logits(logits, size=(40, 56)), reference(logits, (40, 56)))


@pytest.mark.parametrize("num_classes", [2, 8, 21])
def test_the_accelerator_path_agrees(num_classes, monkeypatch):
    monkeypatch.setattr("densevit.inference.labels.VALUES_AT_ONCE", 5 * 40 * 56)
    logits = torch.randn(1, num_classes, 10, 14).bfloat16()
    assert torch.equal(_labels_by_chunk(logits[0], (40, 56)), reference(logits, (40, 56))[0])


def test_wrong_rank_is_refused():
    with pytest.raises(ValueError, match="expected"):
        labels_from_logits(torch.zeros(3, 4, 5))
