"""timm's transforms on our samples: sizes, scale, order of height and width, randomness from the seed."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from densevit.data.classification_transforms import (
    _operations,
    classification_eval_transform,
    classification_train_transform,
    posterize,
)
from densevit.errors import UserError

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


def sample(height, width, value=None):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    image = pixels if value is None else torch.full_like(pixels, value)
    return {"image": tv_tensors.Image(image), "label": 4, "id": "a"}


def test_eval_at_its_own_size_only_normalises():
    given = sample(20, 30)
    result = classification_eval_transform(image_size=(20, 30), crop_pct=1.0, mean=MEAN, std=STD)(given)
    expected = (given["image"].float() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(result["image"], expected.as_subclass(torch.Tensor), atol=1e-5, rtol=1e-5)
    assert (result["label"], result["id"]) == (4, "a")
    assert given["image"].dtype == torch.uint8  # the sample given is left alone


def test_eval_crops_the_middle():
    given = sample(40, 80, 0)
    given["image"][:, :, 20:60] = 255
    result = classification_eval_transform(image_size=(32, 32), crop_pct=0.8, mean=(0,) * 3, std=(255,) * 3)(given)
    assert result["image"].shape == (3, 32, 32)
    assert result["image"].min() > 0.9  # the middle 32 of 40 columns of the white square, none of the black


@pytest.mark.parametrize(("height", "width"), [(50, 33), (3, 5), (1, 1)])
def test_train_has_the_crop_size_for_any_image(height, width):
    transform = classification_train_transform(image_size=(24, 40), mean=MEAN, std=STD)
    result = transform(sample(height, width))["image"]
    assert result.shape == (3, 24, 40)
    assert result.dtype == torch.float32
    assert result.isfinite().all()


def test_train_is_random_and_follows_the_seeds():
    transform = classification_train_transform(image_size=(24, 24), erase=1.0, mean=MEAN, std=STD)

    def draw(seed):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        return transform(sample(50, 60))["image"]

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_without_augmentation_train_keeps_the_pixels():
    transform = classification_train_transform(
        image_size=(20, 20), scale=(1, 1), ratio=(1, 1), flip=0, auto_augment=None, color_jitter=0, erase=0,
        mean=(0,) * 3, std=(255,) * 3,
    )  # fmt: skip
    given = sample(20, 20)
    torch.testing.assert_close(transform(given)["image"], given["image"].as_subclass(torch.Tensor) / 255)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "v0-mstd0.5", "original", "augmix-m9-w3"])
def test_posterize_takes_what_timm_draws(policy):
    transform = classification_train_transform(image_size=(8, 8), auto_augment=policy, mean=MEAN, std=STD)
    operations = [op for step in transform.transform.transforms for op in _operations(step)]
    drawn = [op.aug_fn for op in operations if op.name.startswith("Posterize")]
    assert drawn == [posterize] * len(drawn) != []
    image = Image.new("RGB", (2, 1), (255, 100, 3))
    colours = [posterize(image, bits).getpixel((1, 0)) for bits in (0, 1, 7, 8)]
    assert colours == [(0, 0, 0), (128, 0, 0), (254, 100, 2), (255, 100, 3)]


def test_policies_and_pictures_that_are_refused():
    for policy in ("bogus", "rand-bogus", "rand-m9-mstdx", "rand-m9-tfoo", "original-m9"):
        with pytest.raises(UserError, match=f"'{policy}' is no policy of timm"):
            classification_train_transform(image_size=(8, 8), auto_augment=policy, mean=MEAN, std=STD)
    for policy in ("rand-m9-mstd0.5-inc1", "rand-n2-tweights", "original", "v0r-mstd0.5", "3a", "augmix-m3-w3-d2"):
        transform = classification_train_transform(image_size=(8, 8), auto_augment=policy, mean=MEAN, std=STD)
        assert transform(sample(9, 9))["image"].shape == (3, 8, 8)
    with pytest.raises(UserError, match="in 8 bits"):
        classification_eval_transform(image_size=(8, 8), mean=MEAN, std=STD).apply(torch.zeros(3, 9, 9))
