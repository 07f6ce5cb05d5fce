"""Matching against torchvision's, in pieces as in one, and where there is nothing to match."""

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from densevit.models.box_matching import BACKGROUND, BETWEEN, match_boxes


def boxes(number, generator):
    corner, side = torch.rand(number, 2, generator=generator) * 60, torch.rand(number, 2, generator=generator) * 30 + 2
    return torch.cat([corner, corner + side], dim=1)


@pytest.mark.parametrize("keep_best", [False, True])
@pytest.mark.parametrize("max_pairs", [1 << 24, 50, 1])
def test_agrees_with_torchvision(keep_best, max_pairs):
    generator = torch.Generator().manual_seed(3)
    truth, candidates = boxes(7, generator), boxes(200, generator)
    theirs = Matcher(0.5, 0.3, allow_low_quality_matches=keep_best)(box_iou(truth, candidates))
    limits = {"foreground": 0.5, "background": 0.3, "keep_best": keep_best, "max_pairs": max_pairs}
    ours = match_boxes(truth, candidates, **limits)
    assert torch.equal(ours, theirs)
    assert {BACKGROUND, BETWEEN} < set(ours.tolist())


def test_an_object_that_overlaps_nothing_claims_nothing():
    candidates = torch.tensor([[0.0, 0, 4, 4], [8, 8, 12, 12]])
    truth = torch.tensor([[100.0, 100, 104, 104]])
    matched = match_boxes(truth, candidates, foreground=0.5, background=0.4, keep_best=True)
    assert matched.tolist() == [BACKGROUND, BACKGROUND]


@pytest.mark.parametrize(("num_truth", "num_candidates"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_match(num_truth, num_candidates):
    limits = {"foreground": 0.5, "background": 0.4, "keep_best": True}
    matched = match_boxes(torch.zeros(num_truth, 4), torch.ones(num_candidates, 4), **limits)
    assert matched.tolist() == [BACKGROUND] * num_candidates
    assert matched.dtype == torch.int64
