"""Image to labels by the settings: shrinking with and without smoothing."""

import pytest
import torch

from densevit.inference.segment import segment_labels, segment_probabilities
from densevit.inference.settings import InferenceConfig


def brightness(images):
    """Two classes: above and below a brightness of 0.5."""
    return torch.cat([images.mean(1, keepdim=True) - 0.5, 0.5 - images.mean(1, keepdim=True)], dim=1) * 100


@pytest.mark.parametrize("flip", [False, True])
def test_smoothing_sees_fine_patterns_as_their_mean(flip):
    stripes = torch.ones(1, 3, 64, 96)
    stripes[..., ::4] = 0.2  # mean 0.8; the two columns between which a sample falls have 0.6
    settings = {"resize": (12, 8), "flip": flip}
    seen = []

    def forward(images):
        seen.append(images)
        return brightness(images)

    smooth = segment_labels(forward, stripes, num_classes=2, config=InferenceConfig(**settings, antialias=True))
    assert smooth.shape == (1, 64, 96)
    assert seen[0].shape == (1, 3, 8, 12)
    assert torch.allclose(seen[0][..., 1:-1], torch.tensor(0.8), atol=1e-5)
    assert (smooth == 0).all()
    segment_labels(forward, stripes, num_classes=2, config=InferenceConfig(**settings))
    assert not torch.allclose(seen[-1], torch.tensor(0.8), atol=0.05)


def test_an_image_that_is_not_shrunk_is_left_alone():
    images = torch.rand(1, 3, 20, 30)
    plain, smooth = (
        segment_probabilities(
            brightness, images, num_classes=2, config=InferenceConfig(resize=(60, 40), antialias=antialias)
        )
        for antialias in (False, True)
    )
    assert torch.equal(plain, smooth)
