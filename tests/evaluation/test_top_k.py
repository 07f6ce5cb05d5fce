"""Top-k by hand, ties, exact counts in any batching, what cannot be counted."""

import math

import numpy as np
import pytest
import torch

from densevit.errors import UserError
from densevit.evaluation.top_k import ClassificationScores, TopK, ranks

LOGITS = torch.tensor(
    [
        [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # class 0 first
        [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # class 3 is fifth
        [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # class 2 is sixth
        [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0],  # class 1 first of three equals
        [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0],  # class 3 third of three equals
    ]
)
TARGET = torch.tensor([0, 3, 2, 1, 3])


def test_by_hand():
    assert ranks(LOGITS, TARGET).tolist() == [0, 4, 5, 0, 2]
    scores = TopK(7)
    scores.update(LOGITS, TARGET)
    result = scores.compute()
    assert result.top1 == 2 / 5
    assert result.top5 == 4 / 5
    assert result.support == (1, 1, 1, 2, 0, 0, 0)
    assert result.accuracy[:4] == (1.0, 1.0, 0.0, 0.0)
    assert result.mean_accuracy == 0.5  # over the four classes that occur
    assert result.majority_top1 == 2 / 5
    confusion = np.zeros((7, 7), dtype=np.int64)
    for true, predicted in [(0, 0), (3, 0), (2, 0), (1, 1), (3, 1)]:
        confusion[true, predicted] += 1
    assert (result.confusion == confusion).all()


def test_same_counts_in_any_batching_and_as_torch_sorts():
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(101, 12, generator=generator), torch.randint(0, 12, (101,), generator=generator)
    whole, parts = TopK(12), TopK(12)
    whole.update(logits, target)
    for some_logits, some_targets in zip(logits.split(7), target.split(7), strict=True):
        parts.update(some_logits, some_targets)
    parts.update(torch.empty(0, 12), torch.empty(0, dtype=torch.int64))
    one, other = whole.compute(), parts.compute()
    assert (one.confusion == other.confusion).all()
    assert one.top5_hits == other.top5_hits == int((logits.topk(5).indices == target[:, None]).any(dim=1).sum())
    assert one.top1 == (logits.argmax(dim=1) == target).double().mean().item()


def test_what_cannot_be_counted():
    scores = TopK(["cat", "dog"])
    with pytest.raises(UserError, match=r"class 2, but with 2 classes a class is 0 \.\. 1"):
        scores.update(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(UserError, match="not numbers"):
        scores.update(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="logits are"):
        scores.update(torch.zeros(1, 3), torch.tensor([0]))
    assert math.isnan(scores.compute().top1)  # nothing counted, and nothing counted by the failed calls
    assert scores.compute().to_dict()["top1"] is None


def test_table_names_what_is_confused():
    confusion = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    text = ClassificationScores.from_counts(confusion=confusion, top5_hits=20, classes=("cat", "dog", "owl")).table()
    assert "80.00" in text
    assert "dog (20 %)" in text
    assert "top-1 85.00 %" in text
    assert "20 images" in text
    many = ClassificationScores.from_counts(
        confusion=np.diag(np.arange(40)), top5_hits=780, classes=tuple(f"class{i}" for i in range(40))
    )
    assert "class39" not in many.table()  # the worst ten only, and only classes that occur
